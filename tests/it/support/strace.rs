//! Disks that fail at a chosen call: strace answers it in the kernel's place. The process under test is the
//! real one and knows nothing of it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use super::{
    SOON, eventually, privilege,
    process::{self, Process},
};

/// Which calls fail, and how.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// Names of system calls with commas between, or `/` and a pattern.
    pub(crate) calls: &'static str,
    pub(crate) error: &'static str,
    /// Which of the calls that one thread makes, in strace's words: `3`, or `3+` for that and all after it.
    pub(crate) when: String,
}

impl Fault {
    /// No connection can be opened for want of files.
    pub(crate) fn no_connections() -> Self {
        Self {
            calls: "connect",
            error: "EMFILE",
            when: "1+".to_owned(),
        }
    }

    fn arguments(&self) -> [String; 4] {
        let Self { calls, error, when } = self;
        arguments(calls, &format!("error={error}:when={when}"))
    }

    /// The same for the calls that concern `path`, and no others.
    pub(crate) fn command_at(&self, path: &Path) -> Vec<String> {
        let mut command = self.command();
        command.extend(["-P".to_owned(), path.display().to_string()]);
        command
    }

    /// The command that runs a program with this fault. It becomes that program, with strace beside it until
    /// the program ends.
    pub(crate) fn command(&self) -> Vec<String> {
        ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"]
            .map(str::to_owned)
            .into_iter()
            .chain(self.arguments())
            .collect()
    }

    /// Strikes the running process `id` with this fault, for the rest of its life. What is returned ends
    /// with it.
    pub(crate) fn strike(&self, id: u32) -> Process {
        attach(id, &self.arguments())
    }
}

/// Has these calls of the running process `id` take so much longer, for the rest of its life, where they concern
/// `path`. What is returned ends with it.
pub(crate) fn slow_down(id: u32, calls: &str, path: &Path, by: Duration) -> Process {
    let slower = arguments(calls, &format!("delay_enter={}", by.as_micros()));
    let at = ["-P".to_owned(), path.display().to_string()];
    attach(id, &[slower.as_slice(), &at].concat())
}

/// Writes down these calls of the running process `id`, with the paths of the files, in `output`. What is returned ends
/// with it.
pub(crate) fn watch(id: u32, calls: &str, output: &Path) -> Process {
    let arguments = ["-y", "-s", "0", "-e", &format!("trace={calls}")].map(str::to_owned);
    attach_to(id, &arguments, output)
}

fn arguments(calls: &str, injected: &str) -> [String; 4] {
    [
        "-e".to_owned(),
        format!("trace={calls}"),
        "-e".to_owned(),
        format!("inject={calls}:{injected}"),
    ]
}

fn attach(id: u32, arguments: &[String]) -> Process {
    attach_to(id, arguments, Path::new("/dev/null"))
}

fn attach_to(id: u32, arguments: &[String], output: &Path) -> Process {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-p", &id.to_string(), "-o"])
        .arg(output);
    command.args(arguments);
    let strace = Process::spawn("strace", command, Path::new("/dev/null")).unwrap();
    eventually("every thread is traced", SOON, || {
        let mut threads = fs::read_dir(format!("/proc/{id}/task")).ok()?;
        let is_traced = threads.all(|thread| {
            let status = fs::read_to_string(thread.unwrap().path().join("status"));
            status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
        });
        is_traced.then_some(())
    });
    strace
}

/// Whether `test` may trace what it starts. If not, says that it is skipped.
pub(crate) fn is_allowed<T: Copy>(test: T) -> bool {
    let traced = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .output();
    let Output { status, stderr, .. } = traced.map_err(|error| process::missing("strace", error)).unwrap();
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        privilege::skipped(test, &format!("it takes ptrace: {}", said.trim()));
    }
    status.success()
}
