//! Why the process ends with a failure.

use std::{io, path::PathBuf};

use crate::{
    dispatch,
    journal::{OpenError, Unreadable},
    listener::BindError,
    registry, settings,
    webhook::tls::InvalidTls,
};

/// Why the process did not start, or did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The journal can't be opened.
    #[error("the journal can't be opened: {0}")]
    Journal(#[from] OpenError),
    /// The settings can't be opened.
    #[error(transparent)]
    Settings(#[from] settings::OpenError),
    /// What the settings hold can't be read.
    #[error(transparent)]
    Access(#[from] settings::AccessError),
    /// What is owed can't be read back.
    #[error("the journal can't be read: {0}")]
    Restore(#[from] Unreadable),
    /// The data directory can't be used.
    #[error("data_dir {}: {error}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A listener can't be had.
    #[error(transparent)]
    Listener(#[from] BindError),
    /// The registry can't be spoken to.
    #[error(transparent)]
    Registry(#[from] registry::BuildError),
    /// Authorities can't be read.
    #[error("delivery.ca_file: {0}")]
    Authorities(#[from] InvalidTls),
    /// A file that the configuration names can't be read.
    #[error("{key} {}: {error}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Numbers that the configuration let through make no schedule.
    #[error("delivery.retry_schedule: {0}")]
    Schedule(#[from] dispatch::retry::InvalidSchedule),
    /// The system denies threads or signals.
    #[error("the system denies what a process needs: {0}")]
    System(io::Error),
    /// The disk failed for good.
    #[error("the journal failed: {0}")]
    JournalFailed(String),
    /// A part of the process ended that should not have; the log says which.
    #[error("a part of the process was lost")]
    LostPart,
}
