//! Why the journal says no.

use std::{io, path::PathBuf};

/// Why an append was not acknowledged. None of its pushes counts as taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The journal is at `journal.max_size`.
    #[error("the journal is full: {bytes} of at most {bytes_max} bytes")]
    Full {
        /// Bytes in use.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// More waits for the disk than may wait.
    #[error("the journal's disk is behind: {appends} appends of {bytes} bytes wait for it")]
    Busy {
        /// Appends that wait.
        appends: usize,
        /// Bytes of them.
        bytes: usize,
    },
    /// The disk refused.
    #[error("the journal can't be written: {0}")]
    Io(String),
    /// The journal is closing.
    #[error("the journal is closing")]
    Closed,
}

/// Why the journal was not opened. Nothing in it was changed, but for the saving of a cut.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A commit or a header is not what was written, and it is not just the last commit.
    #[error(
        "{} is damaged at offset {offset}: {reason}; `shipbell journal repair` saves what can be saved",
        file.display()
    )]
    Damaged {
        /// The segment's file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A newer version has written here.
    #[error("{} was written by a newer version of shipbell ({what}); run that version or a later one", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// What this version doesn't know.
        what: String,
    },
    /// Another process has it open.
    #[error("the journal in {} is in use by another process", directory.display())]
    Locked {
        /// The journal's directory.
        directory: PathBuf,
    },
    /// Directory or file are not ours to use.
    #[error("no permission to use {}: {error}", path.display())]
    Permission {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The disk refused.
    #[error("{} can't be used: {error}", path.display())]
    Io {
        /// Directory or file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

impl OpenError {
    pub(super) fn from_io(path: PathBuf, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied {
            Self::Permission { path, error }
        } else {
            Self::Io { path, error }
        }
    }
}
