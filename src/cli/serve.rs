//! `shipbell serve`.

use std::{path::PathBuf, sync::Arc};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{error, info, warn};

use super::{Exit, Failure};
use crate::{
    app::{self, RunError},
    config::{Config, LogFormat, environment, no_color},
    listener::BindError,
    telemetry::log,
    webhook::connect::LOOKUPS_MAX,
};

/// Threads that may block: those that look names up, and as many as there usually are for all else.
const BLOCKING_THREADS_MAX: usize = LOOKUPS_MAX + 512;

/// Runs until it is told to stop.
///
/// # Errors
/// A part could not be built, or one was lost.
pub fn run(config: Config, named: Option<PathBuf>) -> Result<(), Failure> {
    // The file that was found is the one that has to be there from now on.
    let named = named.or_else(|| config.file.clone());
    let load: app::Load = Arc::new(move || Config::load(named.as_deref(), environment()));
    let format = match config.log.format {
        LogFormat::Text => log::LogFormat::Text,
        LogFormat::Json => log::LogFormat::Json,
    };
    // Dropped last: with it the last lines are written.
    let _log = log::init_logging(format, &config.log.level, no_color()).map_err(|error| match &error {
        log::LoggingError::System(_) => Failure::new(Exit::Io, error),
        log::LoggingError::Level { .. } | log::LoggingError::Twice => {
            Failure::new(Exit::Configuration, error)
        }
    })?;
    let file = config
        .file
        .as_ref()
        .map(|file| tracing::field::display(file.display()));
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = file,
        endpoints = config.endpoints.len(),
        "starting"
    );
    for warning in config.warnings() {
        warn!(key = warning.key, "{}", warning.message);
    }
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?;
    let ended = runtime.block_on(app::run(config, load));
    // All that matters is synced: what still blocks in the resolver or the disk must not hold the exit up.
    runtime.shutdown_background();
    ended.map_err(|error| {
        error!(%error, "ended with a failure");
        Failure::new(exit_of(&error), error)
    })
}

/// Lets the process open as many files as the system permits: each connection is one, of those that send, of the
/// registry and of people. The usual limit of 1,024 is there for programs of the time of `select`.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, limit.current, "the limit of open files stays as it is");
    }
}

fn exit_of(error: &RunError) -> Exit {
    match error {
        RunError::Journal(error) => error.into(),
        RunError::Settings(error) => error.into(),
        RunError::DataDir { error, .. } | RunError::File { error, .. }
            if error.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Exit::Permission
        }
        RunError::Listener(BindError::Listen { source, .. }) => match source.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::TryAgain,
        },
        RunError::Listener(BindError::Tls(_))
        | RunError::Registry(_)
        | RunError::Authorities(_)
        | RunError::Schedule(_) => Exit::Configuration,
        RunError::Access(error) if error.is_damage() => Exit::Damaged,
        RunError::DataDir { .. }
        | RunError::Access(_)
        | RunError::Restore(_)
        | RunError::File { .. }
        | RunError::System(_)
        | RunError::JournalFailed(_) => Exit::Io,
        RunError::LostPart => Exit::Failure,
    }
}
