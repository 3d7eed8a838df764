//! The file: opened, made, moved aside.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, ffi};

use crate::{clock::Timestamp, journal::JournalId, sqlite};

/// The format that this version writes, and the newest that it reads.
pub const VERSION: i32 = 5;

/// `shbc`, in SQLite's header: whose file it is.
const APPLICATION_ID: i32 = 0x7368_6263;

/// From each version to the next. What is here is never changed, only added to.
const STEPS: [&str; 5] = [
    include_str!("schema.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
];

/// How long to wait for a lock. There is one writer: only a tool could hold one, and not for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Pages of memory that the writer caches, in KiB.
const CACHE_KIB: i32 = 2 * 1024;

/// A page: an attempt has some 1,700 bytes, of which half as large a page would hold two and leave a sixth empty.
const PAGE_BYTES: i32 = 8192;

/// Files moved aside that are kept; older ones go.
const ASIDE_MAX: usize = 2;

/// What SQLite keeps beside a file.
pub(super) const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// What is in it is not what should be.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A newer shipbell wrote it.
    #[error("a newer version wrote it: its format is {0}, and this version knows {VERSION}")]
    Newer(i32),
    /// Something that may pass: a full disk, missing rights, a lock.
    #[error("{0}")]
    Unusable(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let is_passing = match error.sqlite_error_code() {
            // Tables or columns are not what they should be, or hold something else.
            Some(
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::Unknown
                | ErrorCode::TypeMismatch
                | ErrorCode::ConstraintViolation,
            )
            | None => false,
            // A page that can't be read won't be read the next time.
            Some(ErrorCode::SystemIoFailure) => !matches!(
                error.sqlite_extended_error_code(),
                Some(ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ)
            ),
            Some(_) => true,
        };
        if is_passing {
            Self::Unusable(error.to_string())
        } else {
            Self::Damaged(error.to_string())
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) connection: Connection,
    path: PathBuf,
    /// By which the system knows the file, and its device.
    identity: Option<(u64, u64)>,
    page_bytes: u64,
}

impl Store {
    /// Opens the file at `path`, or makes it. Its log may have `log_bytes_max`.
    pub(super) fn open(path: &Path, log_bytes_max: u64) -> Result<Self, StoreError> {
        make_private(path)?;
        let mut connection = sqlite::open_to_fill(path, BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(64);
        // Both take effect in a file that has no table yet.
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        migrate(&mut connection)?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::Unusable(format!("its journal mode stays {mode}")));
        }
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let page_bytes = u64::try_from(page_bytes).unwrap_or(4096).max(512);
        let checkpoint = (log_bytes_max / 8 / page_bytes).clamp(16, 1000);
        connection.pragma_update(
            None,
            "wal_autocheckpoint",
            i64::try_from(checkpoint).unwrap_or(1000),
        )?;
        let limit = i64::try_from(checkpoint * page_bytes).unwrap_or(i64::MAX);
        let _: i64 =
            connection.pragma_update_and_check(None, "journal_size_limit", limit, |row| row.get(0))?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            identity: identity(path).ok(),
            page_bytes,
        })
    }

    /// Whether the file is still the one that was opened: SQLite goes on with one that was deleted or replaced, which
    /// nobody else sees.
    pub(super) fn is_in_place(&self) -> bool {
        match identity(&self.path) {
            Ok(identity) => self.identity.is_none_or(|opened| opened == identity),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Reads every page, and says what is wrong with the first that is.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let found: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        match found.as_str() {
            "ok" => Ok(()),
            _ => Err(StoreError::Damaged(found)),
        }
    }

    /// The number of the journal in this file.
    pub(super) fn journal(&self, id: JournalId) -> Result<i64, StoreError> {
        let identity = id.to_string();
        let sql = "SELECT number FROM journals WHERE identity = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        if let Some(number) = statement.query_row([&identity], |row| row.get(0)).optional()? {
            return Ok(number);
        }
        self.connection
            .execute("INSERT INTO journals (identity) VALUES (?1)", [&identity])?;
        Ok(self.connection.last_insert_rowid())
    }

    /// Of which file in which news waited something was read last, by its random number, and how far.
    pub(super) fn read_until(&self) -> Result<Option<(i64, i64)>, StoreError> {
        let sql = "SELECT file, position FROM overflow";
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)));
        Ok(found.optional()?)
    }

    /// Bytes of the pages that hold something, and of all pages.
    pub(super) fn page_bytes(&self) -> Result<(u64, u64), StoreError> {
        let pragma = |name: &str| -> Result<u64, StoreError> {
            let value: i64 = self.connection.pragma_query_value(None, name, |row| row.get(0))?;
            Ok(u64::try_from(value).unwrap_or(0))
        };
        let (pages, free) = (pragma("page_count")?, pragma("freelist_count")?);
        Ok((
            pages.saturating_sub(free) * self.page_bytes,
            pages * self.page_bytes,
        ))
    }

    /// Bytes of what is written ahead of the file.
    pub(super) fn wal_bytes(&self) -> u64 {
        fs::metadata(beside(&self.path, "-wal")).map_or(0, |meta| meta.len())
    }

    /// Moves all that is written ahead into the file; whether a reader was in the way.
    pub(super) fn checkpoint(&self) -> Result<bool, StoreError> {
        let busy: i64 = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        Ok(busy != 0)
    }
}

/// The number of a file and of its device.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Makes the file if there is none: for its owner only. SQLite gives its companions the same rights.
fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let version = version(connection)?;
    if version == VERSION {
        return Ok(());
    }
    let done = usize::try_from(version).ok();
    let Some(steps) = done.and_then(|done| STEPS.get(done..)) else {
        return Err(StoreError::Newer(version));
    };
    let begun = connection.transaction()?;
    if version == 0 {
        let tables: i64 = begun.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 {
            return Err(StoreError::Damaged("it has tables and no version".to_owned()));
        }
    }
    for step in steps {
        begun.execute_batch(step)?;
    }
    begun.pragma_update(None, "application_id", APPLICATION_ID)?;
    begun.pragma_update(None, "user_version", VERSION)?;
    Ok(begun.commit()?)
}

/// The version of an open file; 0 when it is empty.
///
/// # Errors
/// It is somebody else's, or can't be read.
pub(super) fn version(connection: &Connection) -> Result<i32, StoreError> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    // In this order: one that is made meanwhile has both at once, and is empty or ours, never another program's.
    let version = pragma("user_version")?;
    let application = pragma("application_id")?;
    if application == APPLICATION_ID || (application == 0 && version == 0) {
        Ok(version)
    } else {
        Err(StoreError::Damaged("another program's database".to_owned()))
    }
}

/// Moves the file and its companions aside, as `catalog.db.<why>-<time>`, so that SQLite can still open them
/// together. Of those that were moved before, all but the newest go.
pub(super) fn set_aside(path: &Path, why: &str, now: Timestamp) -> io::Result<PathBuf> {
    let time: String = now
        .to_string()
        .chars()
        .filter(|c| !matches!(c, '-' | ':' | '.'))
        .collect();
    let aside = beside(path, &format!(".{why}-{time}"));
    // The companions first: without them a file that is left behind would be an older state of itself.
    for suffix in ["-wal", "-shm", ""] {
        match fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    forget_old(path);
    Ok(aside)
}

/// Deletes what was moved aside long ago: a failing disk must not be filled with copies.
fn forget_old(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    let Ok(entries) = fs::read_dir(folder) else { return };
    let is_aside = |file: &str| {
        file.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(".damaged-") || rest.starts_with(".version-"))
            && !COMPANIONS.iter().any(|companion| file.ends_with(companion))
    };
    let mut aside: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_aside))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    aside.sort();
    for (_, old) in aside.iter().rev().skip(ASIDE_MAX) {
        for file in [old.clone(), beside(old, "-wal"), beside(old, "-shm")] {
            if let Err(error) = fs::remove_file(&file)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = %file.display(), %error, "a history that was set aside can't be deleted");
            }
        }
    }
}

/// The path with `suffix` at its end.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
