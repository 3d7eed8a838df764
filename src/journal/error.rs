//! Why the journal says no.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use super::{DIRECTORY, Damage};

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
    /// It is full because segments can't be deleted: an older one is damaged.
    #[error("the journal can take no more: {0}")]
    Damaged(Damage),
    /// More waits for the disk than may wait.
    #[error("the journal's disk is behind: {appends} appends of {bytes} bytes wait for it")]
    Busy {
        /// Appends that wait.
        appends: usize,
        /// Bytes of them.
        bytes: usize,
    },
    /// Only pushes that were taken before were to be taken, and there is another one.
    #[error("there is a push that was not taken before")]
    New,
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
        "{} is damaged at offset {offset}: {reason}; `{}` saves what can be saved",
        file.display(), repair_command(file)
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

/// Why a tool could not look at a journal, or not repair it.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is none.
    #[error("there is no journal in {}", directory.display())]
    Absent {
        /// Where one would be.
        directory: PathBuf,
    },
    /// It can't be read, is another process's, or a newer version's.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Who it is can't be told any more, and what it is to become was not said.
    #[error(
        "no segment in {} has an intact header, so the journal's identity is lost, and with it the ids of its webhooks; `{} --new-identity` gives it a new one: what is sent again then looks new to receivers",
        directory.display(), repair_command(directory)
    )]
    NoIdentity {
        /// The journal's directory.
        directory: PathBuf,
    },
    /// What the repair wrote is not what it read. The damaged journal is as it was.
    #[error("the journal was not repaired: {reason}; nothing was moved")]
    NotRepaired {
        /// What differs.
        reason: &'static str,
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

/// The command that repairs the journal which `file` is a part of.
#[must_use]
pub fn repair_command(file: &Path) -> String {
    let journal = file
        .ancestors()
        .find(|path| path.file_name() == Some(OsStr::new(DIRECTORY)));
    match journal.and_then(Path::parent) {
        Some(data_dir) if data_dir != Path::new("") => {
            format!(
                "shipbell journal repair --data-dir {}",
                quoted(&data_dir.display().to_string())
            )
        }
        Some(_) => "shipbell journal repair --data-dir .".to_owned(),
        None => "shipbell journal repair".to_owned(),
    }
}

/// For a shell, if it needs that.
fn quoted(text: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+@%:,=".contains(character);
    if text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_repairs_names_the_data_directory() {
        for (file, arguments) in [
            (
                "/var/lib/shipbell/journal/0000000000000042.segment",
                " --data-dir /var/lib/shipbell",
            ),
            ("./data/journal/lock", " --data-dir ./data"),
            ("journal/lock", " --data-dir ."),
            ("/srv/it's here/journal/lock", r" --data-dir '/srv/it'\''s here'"),
            ("0000000000000042.segment", ""),
        ] {
            assert_eq!(
                repair_command(Path::new(file)),
                format!("shipbell journal repair{arguments}")
            );
        }
    }
}
