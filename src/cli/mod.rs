//! The command line: one file per command group.

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    clock::Clock,
    config::{Config, Problems, environment},
    journal::OpenError,
    settings,
};

mod colour;
pub mod config;
pub mod journal;
pub mod remote;
pub mod serve;
mod table;
pub mod webhook;
pub mod why;

use colour::{Colour, Tone};

/// What the process ends with; numbers as in `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Success = 0,
    /// Something else went wrong.
    Failure = 1,
    /// The command line is not right.
    Usage = 2,
    /// Data on disk is damaged.
    Damaged = 65,
    /// Something that is needed can't be reached.
    Unreachable = 69,
    /// The disk failed, or another input or output did.
    Io = 74,
    /// Not now: trying again may help.
    TryAgain = 75,
    /// Not permitted.
    Permission = 77,
    /// The configuration is not right.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&OpenError> for Exit {
    fn from(error: &OpenError) -> Self {
        match error {
            OpenError::Damaged { .. } | OpenError::Newer { .. } => Self::Damaged,
            OpenError::Locked { .. } => Self::TryAgain,
            OpenError::Permission { .. } => Self::Permission,
            OpenError::Io { .. } => Self::Io,
        }
    }
}

impl From<&settings::OpenError> for Exit {
    fn from(error: &settings::OpenError) -> Self {
        match error {
            settings::OpenError::Damaged { .. } | settings::OpenError::Newer { .. } => Self::Damaged,
            settings::OpenError::Locked { .. } => Self::TryAgain,
            settings::OpenError::Permission { .. } => Self::Permission,
            settings::OpenError::Io { .. } => Self::Io,
        }
    }
}

/// Why a command did not succeed: what is told on stderr, and the exit code.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    /// `error`, to end with `exit`.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
        }
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.error.to_string();
        f.write_str(&told)?;
        for cause in self.error.chain().skip(1).map(ToString::to_string) {
            // Many errors tell their cause themselves.
            if !told.ends_with(&cause) {
                write!(f, ": {cause}")?;
                told = cause;
            }
        }
        Ok(())
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::new(Exit::Configuration, problems)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(exit_of_io(&error), error)
    }
}

fn exit_of_io(error: &io::Error) -> Exit {
    match error.kind() {
        // Who has the address may let go of it.
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => Exit::TryAgain,
        io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Io,
    }
}

/// An error that doesn't say what it is; an input or output error keeps its exit code.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let exit = error.downcast_ref().map_or(Exit::Failure, exit_of_io);
        Self::new(exit, error)
    }
}

#[derive(Debug, Parser)]
#[command(
    name = "shipbell",
    version,
    about = "Turns what a container registry says into webhooks people can rely on",
    arg_required_else_help = true,
    after_help = "\
Examples:
  shipbell config default > shipbell.toml    start from the commented defaults
  shipbell config check                      every mistake at once
  shipbell serve --config shipbell.toml      run
  shipbell why acme/app:1.4                  what became of a push
  shipbell webhook listen                    print the webhooks that arrive, for trying things out

Configuration: --config, else the file SHIPBELL_CONFIG names, else ./shipbell.toml, else
/etc/shipbell/shipbell.toml; variables such as SHIPBELL_INGEST__LISTEN come on top.

Exit codes: 0 success, 1 failure, 2 usage, 65 damaged data, 69 unreachable, 74 input or output,
75 try again, 77 permission, 78 configuration."
)]
struct Cli {
    /// The configuration file, which then has to be there.
    #[arg(long, value_name = "PATH", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run: take notifications, send webhooks. SIGTERM drains, a second one cuts.
    ///
    /// Endpoints are read again when the configuration file changes, and on SIGHUP: all of them, or, when anything is
    /// wrong with the file, none.
    #[command(after_help = "\
Examples:
  shipbell serve
  shipbell serve --config /etc/shipbell/shipbell.toml
  SHIPBELL_INGEST__LISTEN=127.0.0.1:9000 SHIPBELL_LOG__FORMAT=json shipbell serve")]
    Serve,
    /// Check or print the configuration.
    #[command(
        subcommand,
        after_help = "\
Examples:
  shipbell config check
  shipbell config show
  shipbell config default > shipbell.toml"
    )]
    Config(config::Command),
    /// Look at the journal, check it, repair it.
    ///
    /// The journal holds every push that some endpoint still owes.
    #[command(
        subcommand,
        after_help = "\
Examples:
  shipbell journal inspect
  shipbell journal verify --config /etc/shipbell/shipbell.toml
  shipbell journal repair --dry-run --data-dir /var/lib/shipbell"
    )]
    Journal(journal::Command),
    /// Tell what became of a push: taken or dropped, to whom it goes, each attempt, what it waits for.
    ///
    /// Reads the history, `catalog.db` in the data directory, without a server and beside one. Exit code 1 if nothing
    /// is known of it.
    #[command(after_help = "\
Examples:
  shipbell why acme/app:1.4
  shipbell why acme/app --limit 20                       the repository's newest pushes
  shipbell why acme/app@sha256:…
  shipbell why 6f1e0a9c-7d1b-4b8e-9a54-1f2f3c0d9e11      the event's id, as the registry logs it
  shipbell why msg_60a6dc2c0e06bdf0b4b15860943f3b18      the webhook-id that a receiver got
  shipbell why acme/app:1.4 --output json | jq '.pushes[0].deliveries[].attempts[].reason'")]
    Why(why::WhyArgs),
    /// See where webhooks go, and how that is; enable, disable, hold. Asks the running server.
    #[command(
        subcommand,
        after_help = "\
Examples:
  shipbell endpoints ls
  shipbell endpoints enable ci"
    )]
    Endpoints(remote::endpoints::Command),
    /// See what is owed. Asks the running server.
    #[command(
        subcommand,
        after_help = "\
Examples:
  shipbell queue ls"
    )]
    Queue(remote::queue::Command),
    /// See what was given up on, and send it again. Asks the running server.
    #[command(
        subcommand,
        after_help = "\
Examples:
  shipbell dead-letters ls
  shipbell dead-letters replay --endpoint ci --dry-run"
    )]
    DeadLetters(remote::letters::Command),
    /// See the repositories. Asks the running server.
    #[command(
        subcommand,
        after_help = "\
Examples:
  shipbell repositories ls --sort size"
    )]
    Repositories(remote::repositories::Command),
    /// Try webhooks out.
    #[command(
        subcommand,
        after_help = "\
Examples:
  shipbell webhook listen
  shipbell webhook test acme/app"
    )]
    Webhook(WebhookCommand),
}

#[derive(Debug, Subcommand)]
enum WebhookCommand {
    /// Receive webhooks and print them: headers, body, and whether the signature is right.
    #[command(after_help = "\
Examples:
  shipbell webhook listen
  shipbell webhook listen --secret-file ./secret --fail-first 2")]
    Listen(webhook::ListenArgs),
    /// Send a test to an endpoint now, and tell what came of it. Asks the running server.
    ///
    /// One that is taken heals the endpoint. Exit code 0 if it was answered with 2xx, 69 if nothing was answered, else 1.
    #[command(after_help = "\
Examples:
  shipbell webhook test ci                   an endpoint of the configuration
  shipbell webhook test acme/app             the repository's own webhook
  shipbell webhook test repository:app       the same for a repository without a slash")]
    Test(remote::test::TestArgs),
}

/// How something is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Runs the command that `arguments` name, the program's own name first. What goes wrong is told on stderr.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match execute(cli) {
        Ok(()) => Exit::Success,
        Err(failure) => {
            complain("error", &failure);
            failure.exit()
        }
    }
}

/// Prints help, the version, or what is wrong with the command line.
fn usage(error: &clap::Error) -> Exit {
    // Nobody is left to be told that stdout or stderr is closed.
    let _ = error.print();
    exit_of(error)
}

fn exit_of(error: &clap::Error) -> Exit {
    if error.use_stderr() {
        Exit::Usage
    } else {
        Exit::Success
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    let load = || Config::load(cli.config.as_deref(), environment());
    match cli.command {
        Command::Serve => serve::run(load()?, cli.config.clone()),
        Command::Config(command) => config::run(&command, load),
        Command::Journal(command) => journal::run(&command, load),
        Command::Why(arguments) => why::run(&arguments, load),
        Command::Endpoints(command) => remote::endpoints::run(&command, load),
        Command::Queue(command) => remote::queue::run(&command, load),
        Command::DeadLetters(command) => remote::letters::run(&command, load),
        Command::Repositories(command) => remote::repositories::run(&command, load),
        Command::Webhook(WebhookCommand::Test(arguments)) => remote::test::run(&arguments, load),
        Command::Webhook(WebhookCommand::Listen(arguments)) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let mut stdout = io::stdout();
            let colour = Colour::of(&stdout);
            let listening = webhook::listen(arguments, Clock::system(), colour, &mut stdout);
            match runtime.block_on(listening)? {
                webhook::Ended::Counted | webhook::Ended::Stopped => Ok(()),
                webhook::Ended::TooFew => {
                    let error = anyhow::anyhow!("fewer webhooks came than --count asked for");
                    Err(Failure::new(Exit::TryAgain, error))
                }
            }
        }
    }
}

/// Writes `text` to stdout. That nobody reads on, as in `shipbell config show | head -1`, is no failure.
fn print(text: &str) -> io::Result<()> {
    write_to(&mut io::stdout().lock(), text)
}

fn write_to(out: &mut impl Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// How long the last words may take: whoever reads stderr may have stopped, and the process is to end all the same.
const COMPLAIN_WITHIN: Duration = Duration::from_secs(1);

/// Tells something on stderr, with `word` in colour on a terminal.
fn complain(word: &str, message: &impl fmt::Display) {
    let colour = Colour::of(&io::stderr());
    let word = colour.paint(Tone::Bad, format!("{word}:"));
    let text = format!("{word} {message}\n");
    let (done, told) = mpsc::channel();
    let teller = thread::Builder::new()
        .name("last-words".to_owned())
        .spawn(move || {
            // Nobody is left to be told that stderr is closed.
            let _ = io::stderr().write_all(text.as_bytes());
            let _ = done.send(());
        });
    // Without a thread it goes untold; the exit code says that something went wrong.
    if teller.is_ok() {
        let _ = told.recv_timeout(COMPLAIN_WITHIN);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_file_may_be_named_before_or_after_the_command() {
        for line in [
            "shipbell --config a.toml serve",
            "shipbell serve --config a.toml",
            "shipbell config --config a.toml check",
            "shipbell config show --config a.toml --output json",
        ] {
            assert_eq!(
                parse(line).unwrap().config,
                Some(PathBuf::from("a.toml")),
                "{line}"
            );
        }
    }

    #[test]
    fn a_wrong_command_line_is_2_and_help_and_version_are_0() {
        let code = |line| exit_of(&parse(line).unwrap_err());
        assert_eq!(code("shipbell sail"), Exit::Usage);
        assert_eq!(code("shipbell serve --port 1"), Exit::Usage);
        assert_eq!(code("shipbell"), Exit::Usage);
        assert_eq!(code("shipbell --version"), Exit::Success);
        assert_eq!(code("shipbell serve --help"), Exit::Success);
    }

    #[test]
    fn every_command_has_examples() {
        fn check(command: &clap::Command) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn an_io_error_keeps_its_exit_code_and_its_context_through_anyhow() {
        let error = |kind| Failure::from(anyhow::Error::from(io::Error::from(kind))).exit();
        assert_eq!(error(io::ErrorKind::StorageFull), Exit::Io);
        assert_eq!(error(io::ErrorKind::PermissionDenied), Exit::Permission);
        assert_eq!(Failure::from(anyhow::anyhow!("x")).exit(), Exit::Failure);
        let error = anyhow::Error::from(io::Error::other("the cause")).context("what failed");
        let failure = Failure::from(error);
        assert_eq!(failure.exit(), Exit::Io);
        assert_eq!(failure.to_string(), "what failed: the cause");
    }

    #[test]
    fn a_cause_is_told_once() {
        for context in ["what failed", "what failed: the cause"] {
            let error = anyhow::anyhow!("the cause").context(context);
            let failure = Failure::new(Exit::Failure, error);
            assert_eq!(failure.to_string(), "what failed: the cause");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is() {
        struct Broken(io::ErrorKind);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(write_to(&mut Broken(io::ErrorKind::BrokenPipe), "text").is_ok());
        assert!(write_to(&mut Broken(io::ErrorKind::StorageFull), "text").is_err());
    }
}
