//! `settings.db`: what is precious, and can't be built again from anything else: how endpoints are, the repositories'
//! own webhooks, dead letters, and until when refused pushes wait. And the key of cursors, which would be made anew.
//!
//! # Specification
//! A SQLite database in `data_dir`, readable by its owner alone. `PRAGMA user_version` is the version of its
//! schema ([`schema`]); an older one is brought up to date at the start, in one transaction, and a newer one is
//! refused.
//!
//! # What a write survives
//! Each method that writes is one transaction, or says how many, with `synchronous = FULL` and a rollback journal that
//! is truncated and synced: when it returns, it survives `kill -9` and power loss; when it fails, nothing of it is there.
//!
//! # Damage
//! Is looked for at the start, in all of the file, and refuses it: nothing here is made up.
//!
//! Every method blocks on the disk: call them where that is allowed.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::{fs::Access, io::Errno};

use crate::{clock::Timestamp, folder, image::RepositoryName, locked::Locked as _, push::EndpointId, sqlite};

mod counted;
mod cursor_key;
mod export;
mod kept;
mod letter;
mod letters;
mod listed;
mod refusals;
mod replays;
mod schema;
mod sought;
mod states;
mod webhooks;
mod weighed;

pub use counted::LetterCount;
pub use cursor_key::CursorKey;
pub use export::Exported;
pub(crate) use letter::brief;
pub use letter::{KeptLetter, Letter, LetterBounds, LetterFilter, LetterPage, LetterState, LetterStats};
pub use refusals::{RefusalKey, SavedRefusal};
pub use replays::{Mark, Order};
pub use states::{SavedState, SavedStreak};
pub use webhooks::{Expected, SavedWebhook, WebhookStats};

/// The file's name in `data_dir`.
pub const FILE: &str = "settings.db";

/// How long a reader may hold the file before a write fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What SQLite may hold of the file in memory.
const CACHE_KIB: i64 = 16 * 1024;

/// How long the state of an endpoint is kept that the configuration doesn't have.
const UNKNOWN_KEPT: Duration = Duration::from_hours(24 * 90);

/// Of how many such endpoints it is kept.
const UNKNOWN_MAX: usize = 10_000;

/// The settings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Settings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Mutex<Connection>,
    tally: weighed::Tally,
    odd: kept::Odd,
    cursor_key: CursorKey,
}

/// Why the settings can't be used. Nothing in the file was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not what was written.
    #[error(
        "{} is damaged: {reason}; put back a copy of it, or move it away, and {}-journal with it: shipbell then starts without the repositories' webhooks and dead letters, and with every endpoint healthy",
        file.display(), file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer version has written it.
    #[error(
        "{} was written by a newer version of shipbell (schema {version}); run that version or a later one",
        file.display()
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its schema's version.
        version: i64,
    },
    /// Another process holds it.
    #[error("{} is in use by another process", file.display())]
    Locked {
        /// The file.
        file: PathBuf,
    },
    /// It is not ours to use.
    #[error("no permission to use {}: {error}", file.display())]
    Permission {
        /// The file.
        file: PathBuf,
        /// What the system says.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk refused.
    #[error("{} can't be used: {error}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why settings were not saved, or not read.
#[derive(Debug, thiserror::Error)]
#[error("settings.db: {0}")]
pub struct AccessError(#[from] rusqlite::Error);

impl AccessError {
    /// Whether what is there is not what was written.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self.0.sqlite_error_code(),
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) | None
        )
    }
}

/// Looks at the file at `path` in a data directory that has been used before, and warns if there is none.
///
/// # Errors
/// It is empty, which SQLite would take for a database that is yet to be made.
pub fn check_used(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(found) if found.len() == 0 => Err(OpenError::Damaged {
            file: path.to_owned(),
            reason: "it is empty, although pushes have been taken beside it".to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(
                file = %path.display(),
                "there is none, although pushes have been taken beside it: it is made, without repositories' webhooks and dead letters, and with every endpoint healthy"
            );
            Ok(())
        }
        Err(error) => Err(OpenError::from_io(path, error)),
    }
}

impl Settings {
    /// Opens the settings in the file at `path`, or makes them.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        make(path)?;
        let connection = connect(path).map_err(|error| OpenError::from_sqlite(path, error))?;
        check(&connection, path)?;
        let version = schema::version(&connection).map_err(|error| OpenError::from_sqlite(path, error))?;
        if version > schema::VERSION {
            let file = path.to_owned();
            return Err(OpenError::Newer { file, version });
        }
        let is_foreign = schema::is_foreign(&connection, version);
        if is_foreign.map_err(|error| OpenError::from_sqlite(path, error))? {
            return Err(OpenError::Damaged {
                file: path.to_owned(),
                reason: "it is another program's database".to_owned(),
            });
        }
        schema::migrate(&connection, version).map_err(|error| OpenError::from_sqlite(path, error))?;
        let cursor_key =
            cursor_key::read_or_make(&connection).map_err(|error| OpenError::from_sqlite(path, error))?;
        let tally = weighed::Tally::of(&connection).map_err(|error| OpenError::from_sqlite(path, error))?;
        Ok(Self(Arc::new(Inner {
            connection: Mutex::new(connection),
            tally,
            odd: kept::Odd::default(),
            cursor_key,
        })))
    }

    /// The states that are in the file at `path`, in no order, beside a running server too; none if there is no file.
    /// Changes nothing but that what a server which was killed left half done is rolled back, and does not look for damage
    /// where it doesn't read.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn states_in(path: &Path) -> Result<Vec<SavedState>, OpenError> {
        match fs::metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(OpenError::from_io(path, error)),
        }
        let fail = |error| OpenError::from_sqlite(path, error);
        // Whoever may not write only reads: SQLite sees to that.
        let connection = sqlite::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, BUSY_TIMEOUT).map_err(fail)?;
        match schema::version(&connection).map_err(fail)? {
            // It is just being made.
            0 => Ok(Vec::new()),
            1..=schema::VERSION => states::all(&connection).map_err(fail),
            version => Err(OpenError::Newer {
                file: path.to_owned(),
                version,
            }),
        }
    }

    /// What cursors of lists are sealed with: the same after a restart.
    #[must_use]
    pub fn cursor_key(&self) -> &CursorKey {
        &self.0.cursor_key
    }

    /// The states that were saved, in no order.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn states(&self) -> Result<Vec<SavedState>, AccessError> {
        Ok(states::all(&self.connection())?)
    }

    /// Saves states, or that an endpoint has none any more: all of it, or nothing.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, states: &[(EndpointId, Option<SavedState>)]) -> Result<(), AccessError> {
        self.write(|connection| {
            for (endpoint, state) in states {
                states::put(connection, endpoint, state.as_ref())?;
            }
            Ok(())
        })
    }

    /// Takes note of the endpoints that there are, and lets go of the states of those that are long gone.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn prune(&self, known: &HashSet<EndpointId>, now: Timestamp) -> Result<(), AccessError> {
        self.write(|connection| Ok(states::prune(connection, known, now, UNKNOWN_KEPT, UNKNOWN_MAX)?))
    }

    /// The repositories' webhooks, in the order of their names.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn webhooks(&self) -> Result<Vec<SavedWebhook>, AccessError> {
        Ok(webhooks::all(&self.connection())?)
    }

    /// Webhooks that have a previous secret whose time was over by `now`; it is forgotten.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub fn rotated(&self, now: Timestamp) -> Result<Vec<SavedWebhook>, AccessError> {
        let rotated =
            |connection: &Connection| -> Result<_, AccessError> { Ok(webhooks::rotated(connection, now)?) };
        let (rotated, bytes) = self.write(rotated)?;
        let (before, after) = (WebhookStats { webhooks: 0, bytes }, WebhookStats::default());
        self.0.tally.webhooks_changed(before, after);
        Ok(rotated)
    }

    /// One repository's webhook, if it has one.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn webhook(&self, repository: &RepositoryName) -> Result<Option<SavedWebhook>, AccessError> {
        Ok(webhooks::one(&self.connection(), repository)?)
    }

    /// Changes one repository's webhook: `change` is told what is there, and says what is to be there; `None` takes
    /// it away. All in one transaction, so that of two who change it at once the later one sees what the first one
    /// did. What is there afterwards is returned, durable.
    ///
    /// # Errors
    /// Those of `change`; or the file can't be written.
    pub fn change_webhook<E: From<AccessError>>(
        &self,
        repository: &RepositoryName,
        change: impl FnOnce(Option<SavedWebhook>) -> Result<Option<SavedWebhook>, E>,
    ) -> Result<Option<SavedWebhook>, E> {
        let failed = |error| E::from(AccessError(error));
        let write = |connection: &Connection| -> Result<_, E> {
            let stats = || webhooks::stats(connection, Some(repository)).map_err(failed);
            let before = stats()?;
            let there = webhooks::one(connection, repository).map_err(failed)?;
            let mut after = change(there)?;
            if let Some(webhook) = &mut after {
                webhook.version = webhooks::put(connection, webhook).map_err(failed)?;
            } else {
                webhooks::remove(connection, repository).map_err(failed)?;
            }
            Ok((after, before, stats()?))
        };
        let (changed, before, after) = self.write(write)?;
        self.0.tally.webhooks_changed(before, after);
        Ok(changed)
    }

    /// How many webhooks there are, and what they take. Waits for nobody.
    #[must_use]
    pub fn webhook_stats(&self) -> WebhookStats {
        self.0.tally.webhooks()
    }

    /// A transaction that was not committed is rolled back when it is dropped, by a panic too.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.0.connection.locked()
    }
}

/// Makes the file, which only its owner may read, unless there is one. It gets its name only once it is a database, so that
/// an empty one is damage.
fn make(path: &Path) -> Result<(), OpenError> {
    let io_fails = |error| OpenError::from_io(path, error);
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    set_leftovers_aside(path).map_err(io_fails)?;
    let being_made = path.with_extension("db.new");
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&being_made);
    made.map_err(io_fails)?;
    let filled = connect(&being_made).and_then(|connection| schema::migrate(&connection, 0));
    let named = filled
        .map_err(|error| OpenError::from_sqlite(path, error))
        .and_then(|()| {
            fs::rename(&being_made, path)
                .and_then(|()| folder::sync(folder::above(path)))
                .map_err(io_fails)
        });
    // Of a file that came to nothing nothing is left behind, nor of its journal.
    for leftover in [being_made.clone(), being_made.with_extension("new-journal")] {
        let _ = fs::remove_file(leftover);
    }
    named
}

/// Moves away what belongs to a file that is gone: SQLite would lay it over the one that gets its name. Whoever moved that
/// file needs it still.
fn set_leftovers_aside(path: &Path) -> io::Result<()> {
    let mut is_clear = true;
    for kind in ["journal", "wal", "shm"] {
        let leftover = path.with_extension(format!("db-{kind}"));
        let aside = path.with_extension(format!("db-{kind}.old"));
        if fs::metadata(&leftover).is_ok_and(|left| left.len() == 0) {
            // It says nothing.
            continue;
        }
        match fs::rename(&leftover, &aside) {
            Ok(()) => {
                tracing::warn!(
                    file = %leftover.display(), moved_to = %aside.display(),
                    "it belongs to a file that is gone, and is moved away"
                );
                is_clear = false;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if is_clear {
        return Ok(());
    }
    folder::sync(folder::above(path))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = sqlite::open_to_fill(path, BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "journal_mode", "truncate", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Looks for damage in all of the file. Dead letters may be a gigabyte: of them each page is read and looked at, which
/// takes a second or so, but not whether each index says the same as its table, which takes four times as long.
fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    check_by(connection, path, "PRAGMA quick_check(1)")?;
    let version = schema::version(connection).map_err(|error| OpenError::from_sqlite(path, error))?;
    match version {
        1..=schema::VERSION => check_by(connection, path, "PRAGMA integrity_check(endpoint_states)"),
        _ => Ok(()),
    }
}

fn check_by(connection: &Connection, path: &Path, check: &str) -> Result<(), OpenError> {
    let found = connection.query_row(check, (), |row| row.get::<_, String>(0));
    match found.map_err(|error| OpenError::from_sqlite(path, error))? {
        sound if sound == "ok" => Ok(()),
        reason => Err(OpenError::Damaged {
            file: path.to_owned(),
            reason,
        }),
    }
}

impl OpenError {
    fn from_io(path: &Path, error: io::Error) -> Self {
        let (file, is_permission) = (path.to_owned(), error.kind() == io::ErrorKind::PermissionDenied);
        let error = error.into();
        if is_permission {
            Self::Permission { file, error }
        } else {
            Self::Io { file, error }
        }
    }

    fn from_sqlite(path: &Path, error: rusqlite::Error) -> Self {
        let file = path.to_owned();
        match error.sqlite_error_code() {
            // What we wrote, we can read: values of another type are damage too.
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) | None => Self::Damaged {
                file,
                reason: error.to_string(),
            },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { file },
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => Self::Permission {
                file,
                error: error.into(),
            },
            // SQLite has one word for all that keeps it from opening a file.
            Some(ErrorCode::CannotOpen) if is_denied(path) || is_denied(folder::above(path)) => {
                Self::Permission {
                    file,
                    error: error.into(),
                }
            }
            Some(_) => Self::Io {
                file,
                error: error.into(),
            },
        }
    }
}

/// Whether this user may not read and write there. To open it would take away the locks that this process has.
fn is_denied(path: &Path) -> bool {
    let wanted = Access::READ_OK | Access::WRITE_OK;
    matches!(
        rustix::fs::access(path, wanted),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS)
    )
}

#[cfg(test)]
mod tests;
