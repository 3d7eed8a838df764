//! The real shipbell.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use toml::{Table, Value};

use super::{SOON, envelope, eventually, folder, http, ports, process::Process};

/// The token that the registry's notifications carry.
pub(crate) const TOKEN: &str = "an-ingest-token";

/// How to run shipbell: what its configuration file says.
#[derive(Clone)]
pub(crate) struct Config {
    table: Table,
    ingest: u16,
    ops: u16,
    admin: u16,
    /// Where its data lies; beside its configuration when nothing is said.
    data: Option<PathBuf>,
    /// The command that it is run by, such as `strace`; empty: by nobody.
    under: Vec<String>,
}

impl Config {
    /// Ports and data of its own, a token, the registry at `registry_url`, and no endpoint; a short window,
    /// no pace, no pause for who fails, time for a disk that others keep busy, and a log that tells all.
    pub(crate) fn new(registry_url: &str) -> Self {
        Self::with_defaults(registry_url).with(
            "ingest.ack_deadline = '20s'\nbatch.window = '100ms'\nlog.level = 'debug'\n\
             delivery.rate = '0'\ndelivery.pause_after = 1000",
        )
    }

    /// Ports and data of its own, a token, the registry at `registry_url`, and no endpoint; everything else
    /// as it is built in.
    pub(crate) fn with_defaults(registry_url: &str) -> Self {
        let (ingest, ops, admin) = (ports::free(), ports::free(), ports::free());
        let text = format!(
            r#"
            [ingest]
            listen = "127.0.0.1:{ingest}"
            tokens = ["{TOKEN}"]
            [ops]
            listen = "127.0.0.1:{ops}"
            [admin]
            listen = "127.0.0.1:{admin}"
            [registry]
            url = "{registry_url}"
            "#
        );
        Self {
            table: text.parse().unwrap(),
            ingest,
            ops,
            admin,
            data: None,
            under: Vec::new(),
        }
    }

    /// Where nobody listens: for tests that have no registry.
    pub(crate) fn without_registry() -> Self {
        Self::new(&format!("http://127.0.0.1:{}", ports::free())).with("size.deadline = '200ms'")
    }

    /// These settings, in TOML, over those there are; `[[endpoints]]` are added.
    pub(crate) fn with(mut self, text: &str) -> Self {
        merge(&mut self.table, text.parse().unwrap());
        self
    }

    /// The endpoint `name` at `url` for every repository.
    pub(crate) fn endpoint(self, name: &str, url: &str) -> Self {
        self.with(&format!(
            "[[endpoints]]\nname = '{name}'\nrepositories = ['**']\nurl = '{url}'"
        ))
    }

    /// With its data in `folder`, which the test sees to.
    pub(crate) fn data_in(mut self, folder: &Path) -> Self {
        self.data = Some(folder.to_owned());
        self
    }

    /// Run by `command`, which must become shipbell itself: a signal to it is one to shipbell.
    pub(crate) fn under<T: ToString>(mut self, command: &[T]) -> Self {
        self.under = command.iter().map(ToString::to_string).collect();
        self
    }

    /// Its ingest port.
    pub(crate) fn ingest(&self) -> u16 {
        self.ingest
    }
}

/// How a start ended that came to nothing.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) said: String,
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(new)) if key == "endpoints" => old.extend(new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A shipbell that is up, with data of its own.
pub(crate) struct Shipbell {
    config: Config,
    // Ends before its folder goes.
    process: Process,
    folder: TempDir,
}

impl Shipbell {
    /// Starts `shipbell serve` and waits until it is ready.
    pub(crate) fn start(config: Config) -> Self {
        let shipbell = Self::launch(config);
        shipbell.wait_until_ready();
        shipbell
    }

    /// Starts `shipbell serve`, whatever comes of it.
    pub(crate) fn launch(config: Config) -> Self {
        let folder = folder();
        let process = serve(folder.path(), &config);
        Self {
            config,
            process,
            folder,
        }
    }

    /// Starts it again on the same data, after it has ended.
    pub(crate) fn start_again(&mut self) {
        self.launch_again();
        self.wait_until_ready();
    }

    /// Starts it again on the same data with these settings over the old ones.
    pub(crate) fn start_again_with(&mut self, text: &str) {
        self.set(text);
        self.start_again();
    }

    /// Starts it again on the same data, whatever comes of it.
    pub(crate) fn launch_again(&mut self) {
        assert!(self.process.ended().unwrap().is_some(), "it still runs");
        self.process = serve(self.folder.path(), &self.config);
    }

    /// Starts it again on the same data, and asserts that it ends by itself.
    pub(crate) fn start_in_vain(&mut self) -> Refusal {
        let before = self.log().len();
        self.launch_again();
        let code = self.wait(Duration::from_secs(10)).code();
        Refusal {
            code,
            said: self.log().split_off(before),
        }
    }

    /// Starts again, and tells how that was refused, if it was. Otherwise it is killed.
    pub(crate) fn try_to_start(&mut self) -> Option<Refusal> {
        let before = self.log().len();
        self.launch_again();
        let is_ready = eventually("it is ready, or ends", SOON, || {
            if !self.is_running() {
                return Some(false);
            }
            let answer = http::get(self.ops_port(), "/readyz").ok()?;
            (answer.status == 200).then_some(true)
        });
        if is_ready {
            self.kill();
            return None;
        }
        let code = self.wait(SOON).code();
        let said = self.log().split_off(before);
        Some(Refusal { code, said })
    }

    /// These settings over the old ones from the next start on.
    pub(crate) fn set(&mut self, text: &str) {
        merge(&mut self.config.table, text.parse().unwrap());
    }

    /// The endpoint `name` is at `url` from the next start on.
    pub(crate) fn set_url(&mut self, name: &str, url: &str) {
        let endpoints = self.config.table["endpoints"].as_array_mut().unwrap();
        let is_named = |endpoint: &&mut Value| endpoint["name"].as_str() == Some(name);
        let endpoint = endpoints.iter_mut().find(is_named).unwrap();
        let table = endpoint.as_table_mut().unwrap();
        table.insert("url".to_owned(), Value::String(url.to_owned()));
    }

    /// Run by `command` from the next start on, see [`Config::under`].
    pub(crate) fn set_under(&mut self, command: &[String]) {
        command.clone_into(&mut self.config.under);
    }

    /// Runs a second process on the same data and ports of its own, to its end.
    pub(crate) fn second_on_same_data(&self) -> Output {
        let folder = folder();
        let mut other = Config::without_registry();
        let data = self.data().display().to_string();
        other.table.insert("data_dir".to_owned(), Value::String(data));
        let file = write(folder.path(), &other);
        command(&["serve"], &file).output().unwrap()
    }

    /// Writes the settings into its file while it runs.
    pub(crate) fn write_settings(&self) {
        write_with_data(self.folder.path(), &self.config);
    }

    /// Takes the endpoint `name` out of the settings.
    pub(crate) fn unset_endpoint(&mut self, name: &str) {
        let endpoints = self.config.table["endpoints"].as_array_mut().unwrap();
        endpoints.retain(|endpoint| endpoint["name"].as_str() != Some(name));
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.process.signal(Signal::HUP).unwrap();
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL, as a power cut does to a process.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    /// Does something while it stands still in the middle of whatever it does.
    pub(crate) fn while_still<T>(&self, work: impl FnOnce() -> T) -> T {
        self.process.signal(Signal::STOP).unwrap();
        eventually("every thread stands still", Duration::from_secs(10), || {
            let mut threads = fs::read_dir(format!("/proc/{}/task", self.id())).ok()?;
            let is_still = threads.all(|thread| {
                let stat = fs::read_to_string(thread.unwrap().path().join("stat"));
                // Behind the name, which may hold anything.
                stat.is_ok_and(|stat| {
                    stat.rsplit_once(") ")
                        .is_some_and(|(_, state)| state.starts_with('T'))
                })
            });
            is_still.then_some(())
        });
        let done = work();
        self.process.signal(Signal::CONT).unwrap();
        done
    }

    /// SIGTERM, without waiting for what follows.
    pub(crate) fn terminate(&self) {
        self.process.signal(Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, deadline: Duration) -> ExitStatus {
        self.process.wait(deadline).unwrap()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.ended().unwrap().is_none()
    }

    /// SIGTERM and a clean end.
    pub(crate) fn stop(&mut self) {
        self.terminate();
        let status = self.wait(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "SIGTERM ends in exit code 0");
    }

    /// Posts this body to `/events` with the right token.
    pub(crate) fn post(&self, body: impl AsRef<[u8]>) -> http::Response {
        post(self.config.ingest, body).unwrap()
    }

    /// Posts this body and panics unless it was taken.
    pub(crate) fn take(&self, body: impl AsRef<[u8]>) {
        let response = self.post(body);
        assert_eq!(response.status, 202, "{}", response.text());
        assert!(response.body.is_empty(), "202 has no body");
    }

    /// The registry tells of a push under that tag, of an image that follows from it, which is taken.
    pub(crate) fn push(&self, repository: &str, tag: &str) {
        self.take(envelope::one(repository, tag));
    }

    /// The sample of that name, and with those labels, as `/metrics` has it now; 0 without one.
    pub(crate) fn metric(&self, sample: &str) -> u64 {
        let metrics = self.ops("/metrics").text();
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// `GET path` on the ops listener.
    pub(crate) fn ops(&self, path: &str) -> http::Response {
        http::get(self.config.ops, path).unwrap()
    }

    /// The port of the ingest listener.
    pub(crate) fn ingest(&self) -> u16 {
        self.config.ingest
    }

    /// The port of the ops listener.
    pub(crate) fn ops_port(&self) -> u16 {
        self.config.ops
    }

    /// The port of the admin listener.
    pub(crate) fn admin_port(&self) -> u16 {
        self.config.admin
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        data(self.folder.path(), &self.config)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Bytes of memory that it holds.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Waits until it answers on its ops listener, ready or not, or has ended.
    pub(crate) fn wait_until_it_listens(&mut self) {
        eventually("shipbell listens", Duration::from_secs(10), || {
            let answers = http::get(self.config.ops, "/livez").is_ok();
            (answers || !self.is_running()).then_some(())
        });
    }

    /// Waits until it says that it is ready.
    pub(crate) fn wait_until_ready(&self) {
        eventually("shipbell is ready", Duration::from_secs(10), || {
            let response = http::get(self.config.ops, "/readyz").ok()?;
            (response.status == 200).then_some(())
        });
    }
}

/// Posts this body to `/events` at `port` with the right token.
pub(crate) fn post(port: u16, body: impl AsRef<[u8]>) -> std::io::Result<http::Response> {
    let authorization = format!("Bearer {TOKEN}");
    let headers = [
        ("Authorization", authorization.as_str()),
        (
            "Content-Type",
            "application/vnd.docker.distribution.events.v1+json",
        ),
    ];
    http::request(port, "POST", "/events", &headers, body.as_ref())
}

/// The program with these arguments and this configuration file, away from any other configuration.
pub(crate) fn command(arguments: &[&str], config: &Path) -> Command {
    command_under(&[], arguments, config)
}

/// The same, run by the command `under`.
fn command_under(under: &[String], arguments: &[&str], config: &Path) -> Command {
    let program = env!("CARGO_BIN_EXE_shipbell");
    let mut command = match under.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(arguments).arg("--config").arg(config);
    command.current_dir(config.parent().unwrap());
    command.env_clear();
    command
}

fn serve(folder: &Path, config: &Config) -> Process {
    let command = command_under(&config.under, &["serve"], &write_with_data(folder, config));
    Process::spawn("shipbell", command, &folder.join("log")).unwrap()
}

fn data(folder: &Path, config: &Config) -> PathBuf {
    config.data.clone().unwrap_or_else(|| folder.join("data"))
}

fn write_with_data(folder: &Path, config: &Config) -> PathBuf {
    let mut config = config.clone();
    let data = data(folder, &config).display().to_string();
    config.table.insert("data_dir".to_owned(), Value::String(data));
    write(folder, &config)
}

fn write(folder: &Path, config: &Config) -> PathBuf {
    let file = folder.join("shipbell.toml");
    fs::write(&file, config.table.to_string()).unwrap();
    // It holds tokens.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}
