//! Child processes that end with their handle.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};

use super::wait;

/// A running program. Dropping it kills it and waits for its end; a test that fails shows what it said.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    pub(crate) fn spawn(name: &'static str, mut command: Command, log: &Path) -> io::Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| missing(name, error))?;
        Ok(Self {
            name,
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it `signal`.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(
            Pid::from_child(&self.child),
            signal,
        )?)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// How it ended, waited for until the deadline.
    pub(crate) fn wait(&mut self, deadline: Duration) -> io::Result<ExitStatus> {
        wait::poll(deadline, || self.ended().transpose()).unwrap_or_else(|| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} still runs after {deadline:?}", self.name),
            ))
        })
    }

    /// Ends it with SIGKILL and waits for the end.
    pub(crate) fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// What it has printed.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(12_000);
            let tail = log.get(log.ceil_char_boundary(from)..).unwrap_or_default();
            println!("---- {} printed:\n{tail}\n----", self.name);
        }
    }
}

/// Says what to do about a program that isn't there.
pub(crate) fn missing(program: &str, error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::NotFound {
        return io::Error::new(
            error.kind(),
            format!("{program} is not installed: `make test` installs what the tests need"),
        );
    }
    error
}
