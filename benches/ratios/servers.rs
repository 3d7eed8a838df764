//! The two servers that take envelopes, each a process of its own on a disk of its own.

use std::{
    env, fs, io, net::TcpStream, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration,
};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use super::support::{folder, http, ports, process::Process, shipbell::TOKEN, wait};

/// Long enough for a start with a million pushes pending, on a busy machine.
const START_MAX: Duration = Duration::from_mins(1);

/// How Linux counts in /proc, whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The bare one.
    Floor,
    /// The release binary, as `shipbell serve`.
    Shipbell,
}

/// How it runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions {
    /// Each fsync and fdatasync takes longer by this.
    pub(crate) slower_by: Option<Duration>,
}

/// A server that is up.
pub(crate) struct Server {
    // Ends before its folder goes.
    process: Process,
    kind: Kind,
    /// Where it takes envelopes.
    pub(crate) port: u16,
    ops: u16,
    folder: TempDir,
}

/// Memory that a process holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) resident: f64,
    /// At most, so far.
    pub(crate) peak: f64,
}

impl Server {
    /// Starts it and waits until it takes envelopes.
    pub(crate) fn start(kind: Kind, conditions: Conditions) -> anyhow::Result<Self> {
        let (folder, port, ops) = (folder(), ports::free(), ports::free());
        if kind == Kind::Shipbell {
            configure(folder.path(), port, ops)?;
        }
        let process = spawn(kind, conditions, folder.path(), port)?;
        let mut server = Self {
            process,
            kind,
            port,
            ops,
            folder,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// SIGTERM, its end, and a start on the same data.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(START_MAX)?;
        ensure!(status.success(), "it ended with {status}: {}", self.process.log());
        self.process = spawn(self.kind, Conditions::default(), self.folder.path(), self.port)?;
        self.wait_until_ready()
    }

    /// What it holds.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        memory_of(self.process.id())
    }

    /// Seconds of processor time that it has used.
    pub(crate) fn processor_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name, in parentheses, may hold anything; behind it, these are the 12th and the 13th.
        let (_, fields) = stat.rsplit_once(')').context("no name in /proc")?;
        let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u32>);
        let (Some(user), Some(system)) = (ticks.next(), ticks.next()) else {
            bail!("no times in /proc");
        };
        Ok((f64::from(user?) + f64::from(system?)) / TICKS_PER_SECOND)
    }

    /// Pushes in its queue, by its own count.
    pub(crate) fn pending(&self) -> anyhow::Result<f64> {
        let metrics = http::get(self.ops, "/metrics")?.text();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("shipbell_queue_pushes "));
        Ok(line
            .context("no shipbell_queue_pushes in /metrics")?
            .trim()
            .parse()?)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let (kind, port, ops) = (self.kind, self.port, self.ops);
        let ready = wait::poll(START_MAX, || match (kind, self.process.ended()) {
            (_, Ok(Some(_))) => Some(false),
            (Kind::Floor, _) => TcpStream::connect(("127.0.0.1", port)).ok().map(|_| true),
            (Kind::Shipbell, _) => {
                let status = http::get(ops, "/readyz").ok()?.status;
                (status == 200).then_some(true)
            }
        });
        ensure!(ready == Some(true), "it is not ready: {}", self.process.log());
        Ok(())
    }
}

/// What a process holds.
pub(crate) fn memory_of(process: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let bytes = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok());
        kib.map(|kib| f64::from(kib) * 1024.0)
            .with_context(|| format!("no {name} in /proc"))
    };
    Ok(Memory {
        resident: bytes("VmRSS:")?,
        peak: bytes("VmHWM:")?,
    })
}

/// An endpoint that owes every push and is sent none: its windows stay open for as long as a run takes. After a
/// restart, which closes them, it turns out that nobody is there.
fn configure(folder: &Path, port: u16, ops: u16) -> io::Result<()> {
    let (admin, registry, endpoint) = (ports::free(), ports::free(), ports::free());
    let text = format!(
        r#"
        data_dir = "data"
        [ingest]
        listen = "127.0.0.1:{port}"
        tokens = ["{TOKEN}"]
        max_pending = 100000000
        [ops]
        listen = "127.0.0.1:{ops}"
        [admin]
        listen = "127.0.0.1:{admin}"
        [registry]
        url = "http://127.0.0.1:{registry}"
        [batch]
        window = "1h"
        max_pushes = 10000
        [journal]
        max_size = "16GiB"
        [delivery]
        max_backlog = "8GiB"
        [[endpoints]]
        name = "hook"
        repositories = ["**"]
        url = "http://127.0.0.1:{endpoint}/hook"
        "#
    );
    let file = folder.join("shipbell.toml");
    fs::write(&file, text)?;
    // It holds a token.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
}

fn spawn(kind: Kind, conditions: Conditions, folder: &Path, port: u16) -> anyhow::Result<Process> {
    let (name, program, arguments) = match kind {
        Kind::Floor => (
            "the floor server",
            env::current_exe()?,
            vec![
                "floor-server".into(),
                port.to_string(),
                folder.display().to_string(),
            ],
        ),
        Kind::Shipbell => (
            "shipbell",
            env!("CARGO_BIN_EXE_shipbell").into(),
            vec!["serve".to_owned()],
        ),
    };
    let mut command = match conditions.slower_by {
        None => Command::new(program),
        Some(delay) => {
            // Stops a thread at these calls and at no others. As a daemon it leaves the process ours.
            let mut strace = Command::new("strace");
            strace.args(["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"]);
            strace.args(["-e", "trace=fdatasync,fsync", "-e"]);
            strace.arg(format!("inject=fdatasync,fsync:delay_exit={}", delay.as_micros()));
            strace.arg(program);
            strace
        }
    };
    command.args(arguments).current_dir(folder).env_clear();
    Ok(Process::spawn(name, command, &folder.join("log"))?)
}
