//! Reads the history, beside the writer of another process too.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};

use super::{
    store::{VERSION, beside, version},
    story::{AttemptStory, DeliveryStory, DroppedStory, PushStory, Sought, Stories},
};
use crate::{clock::Timestamp, sqlite};

/// How long to wait for the writer, which holds no lock that readers meet but while it opens the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The first format that says why a push was given up.
const REASONS_SINCE: i32 = 3;

/// The first format in which deliveries are found by whatever they are filtered by.
const INDEXED_SINCE: i32 = 4;

/// Why the history can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none.
    #[error("there is no history: {} does not exist; `shipbell serve` begins it", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// A newer version wrote it.
    #[error("{} was written by a newer version: its format is {format}, and this version knows {VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: i32,
    },
    /// It is not what it should be.
    #[error("{} is damaged: {reason}; the next `shipbell serve` sets it aside", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// It can't be opened or read.
    #[error("{} can't be read: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system or SQLite said.
        error: io::Error,
    },
}

/// The history, open for reading.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    format: i32,
    pub(super) path: PathBuf,
}

impl Reader {
    /// Opens the file at `path`; writes nothing into it.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        match fs::metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::Absent {
                    path: path.to_owned(),
                });
            }
            Err(error) => {
                return Err(ReadError::Io {
                    path: path.to_owned(),
                    error,
                });
            }
        }
        let fail = |error| explain(path, &error);
        let connection = connect(path).map_err(fail)?;
        let format = match version(&connection) {
            Ok(0) => {
                return Err(ReadError::Absent {
                    path: path.to_owned(),
                });
            }
            // An older one has less in it, until it is opened for writing.
            Ok(format @ 1..=VERSION) => format,
            Ok(format) => {
                return Err(ReadError::Newer {
                    path: path.to_owned(),
                    format,
                });
            }
            Err(error) => {
                return Err(ReadError::Damaged {
                    path: path.to_owned(),
                    reason: error.to_string(),
                });
            }
        };
        Ok(Self {
            connection,
            format,
            path: path.to_owned(),
        })
    }

    /// The format of the file.
    pub(super) fn format(&self) -> i32 {
        self.format
    }

    /// What an SQL query asks of `deliveries` to learn why they were given up.
    pub(super) fn reason(&self) -> &'static str {
        if self.format < REASONS_SINCE {
            "NULL"
        } else {
            "deliveries.reason"
        }
    }

    /// Whether there are indexes for each list of deliveries.
    pub(super) fn is_indexed(&self) -> bool {
        self.format >= INDEXED_SINCE
    }

    /// What is known of `sought`, newest first: at most `limit` pushes older than `before`, and as many dropped ones.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn stories(
        &mut self,
        sought: &Sought,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Stories, ReadError> {
        let path = self.path.clone();
        let reason = self.reason();
        let mut read = || -> rusqlite::Result<Stories> {
            // One state of the file throughout.
            let begun = self.connection.transaction()?;
            let mut pushes = pushes(&begun, sought, before, limit)?;
            let mut room = TEXTS_MAX;
            for push in &mut pushes {
                push.deliveries = deliveries(&begun, push.id, reason, &mut room, |_| true)?;
            }
            let dropped = dropped(&begun, sought, limit)?;
            Ok(Stories { pushes, dropped })
        };
        read().map_err(|error| explain(&path, &error))
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn explain(&self, error: &rusqlite::Error) -> ReadError {
        explain(&self.path, error)
    }

    /// The moment of the oldest thing that is known.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn oldest(&self) -> Result<Option<Timestamp>, ReadError> {
        let sql = "SELECT min(at) FROM (SELECT min(taken_at) AS at FROM pushes UNION ALL \
                   SELECT at FROM (SELECT at FROM dropped ORDER BY id LIMIT 1))";
        let oldest = self.connection.query_row(sql, [], |row| moment(row, 0));
        oldest.map_err(|error| explain(&self.path, &error))
    }
}

/// A connection that only reads. In a directory that may not be written SQLite can't share a file; then it is read as
/// it lies there, if nothing is written ahead of it.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let open = |path: &Path, flags| -> rusqlite::Result<Connection> {
        let connection = sqlite::open(path, flags, BUSY_TIMEOUT)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })?;
        Ok(connection)
    };
    let error = match open(path, flags) {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    let is_denied = matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    );
    let is_all_there = fs::metadata(beside(path, "-wal")).map_or(true, |wal| wal.len() == 0);
    match path.to_str() {
        Some(text) if is_denied && is_all_there => {
            let quoted = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            let uri = format!("file:{quoted}?immutable=1");
            open(Path::new(&uri), flags | OpenFlags::SQLITE_OPEN_URI)
        }
        _ => Err(error),
    }
}

pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> ReadError {
    let path = path.to_owned();
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            io::ErrorKind::PermissionDenied
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => io::ErrorKind::ResourceBusy,
        Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory | ErrorCode::DiskFull) => {
            io::ErrorKind::Other
        }
        _ => {
            let reason = error.to_string();
            return ReadError::Damaged { path, reason };
        }
    };
    ReadError::Io {
        path,
        error: io::Error::new(kind, error.to_string()),
    }
}

/// Bytes of bodies and answers that are told at once, those of the newest pushes and attempts first. A delivery keeps up to
/// 100 attempts, each with up to 256 KiB.
pub(super) const TEXTS_MAX: usize = 8 << 20;

const PUSH: &str =
    "SELECT id, sequence, repository, tag, digest, media_type, listed, taken_at, event_id, actor FROM pushes";

fn pushes(
    connection: &Connection,
    sought: &Sought,
    before: Option<i64>,
    limit: u32,
) -> rusqlite::Result<Vec<PushStory>> {
    let empty = String::new();
    let (condition, one, other) = match sought {
        Sought::Repository(repository) => ("repository = ?1 AND ?2 = ''", repository, &empty),
        Sought::Tag(repository, tag) => ("repository = ?1 AND tag = ?2", repository, tag),
        Sought::Digest(repository, digest) => ("repository = ?1 AND digest = ?2", repository, digest),
        Sought::Event(id) => ("event_id = ?1 AND event_id <> '' AND ?2 = ''", id, &empty),
        Sought::Webhook(id) => (
            "id IN (SELECT push FROM deliveries WHERE webhook_id = ?1) AND ?2 = ''",
            id,
            &empty,
        ),
    };
    let sql = format!("{PUSH} WHERE {condition} AND id < ?3 ORDER BY id DESC LIMIT ?4");
    let mut statement = connection.prepare(&sql)?;
    let before = before.unwrap_or(i64::MAX);
    let rows = statement.query_map(params![one, other, before, limit], |row| {
        Ok(PushStory {
            id: row.get(0)?,
            sequence: natural(row, 1)?.unwrap_or_default(),
            repository: row.get(2)?,
            tag: row.get(3)?,
            digest: row.get(4)?,
            media_type: row.get(5)?,
            listed: natural(row, 6)?,
            taken_at: moment(row, 7)?,
            event_id: row.get(8)?,
            actor: row.get(9)?,
            deliveries: Vec::new(),
        })
    })?;
    rows.collect()
}

/// The push of the delivery that has this `webhook-id`.
pub(super) fn push_of(connection: &Connection, webhook_id: &str) -> rusqlite::Result<Option<PushStory>> {
    let found = pushes(connection, &Sought::Webhook(webhook_id.to_owned()), None, 1)?;
    Ok(found.into_iter().next())
}

/// What became of a push for each endpoint that is meant; `reason` is what [`Reader::reason`] says, `room` how many bytes of
/// bodies and answers are told still.
pub(super) fn deliveries(
    connection: &Connection,
    push: i64,
    reason: &str,
    room: &mut usize,
    is_meant: impl Fn(&DeliveryStory) -> bool,
) -> rusqlite::Result<Vec<DeliveryStory>> {
    let sql = format!(
        "SELECT endpoint, webhook_id, state, ended_at, next_at, image_size, layers, repository_size, attempts, {reason} \
         FROM deliveries WHERE push = ?1 ORDER BY endpoint"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([push], |row| {
        Ok(DeliveryStory {
            endpoint: row.get(0)?,
            webhook_id: row.get(1)?,
            state: row.get(2)?,
            ended_at: moment(row, 3)?,
            next_at: moment(row, 4)?,
            image_size: natural(row, 5)?,
            layers: natural(row, 6)?,
            repository_size: natural(row, 7)?,
            reason: row.get(9)?,
            endpoint_health: None,
            attempts_made: natural(row, 8)?.unwrap_or_default(),
            attempts: Vec::new(),
        })
    })?;
    let mut deliveries: Vec<DeliveryStory> = rows.collect::<Result<_, _>>()?;
    deliveries.retain(is_meant);
    for delivery in &mut deliveries {
        delivery.attempts = attempts(connection, push, &delivery.endpoint, room)?;
    }
    Ok(deliveries)
}

fn attempts(
    connection: &Connection,
    push: i64,
    endpoint: &str,
    room: &mut usize,
) -> rusqlite::Result<Vec<AttemptStory>> {
    let sql = "SELECT number, at, elapsed_us, status, fault, reason, retry_at, url, headers, body, body_bytes, \
               answer, answer_bytes FROM attempts WHERE push = ?1 AND endpoint = ?2 ORDER BY number DESC";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![push, endpoint], |row| {
        Ok(AttemptStory {
            number: natural(row, 0)?.unwrap_or_default(),
            at: moment(row, 1)?.unwrap_or_default(),
            elapsed: Duration::from_micros(natural(row, 2)?.unwrap_or_default()),
            status: row.get(3)?,
            fault: row.get(4)?,
            reason: row.get(5)?,
            retry_at: moment(row, 6)?,
            url: row.get(7)?,
            headers: row.get(8)?,
            body: text(row, 9, room)?,
            body_bytes: natural(row, 10)?,
            answer: text(row, 11, room)?,
            answer_bytes: natural(row, 12)?,
        })
    })?;
    let mut attempts: Vec<_> = rows.collect::<Result<_, _>>()?;
    attempts.reverse();
    Ok(attempts)
}

fn dropped(connection: &Connection, sought: &Sought, limit: u32) -> rusqlite::Result<Vec<DroppedStory>> {
    let empty = String::new();
    let (condition, one, other) = match sought {
        Sought::Repository(repository) => ("repository = ?1 AND ?2 = ''", repository, &empty),
        Sought::Tag(repository, tag) => ("repository = ?1 AND tag = ?2", repository, tag),
        Sought::Digest(repository, digest) => ("repository = ?1 AND digest = ?2", repository, digest),
        Sought::Event(id) => ("event_id = ?1 AND event_id <> '' AND ?2 = ''", id, &empty),
        Sought::Webhook(_) => return Ok(Vec::new()),
    };
    let sql = format!(
        "SELECT at, rule, repository, tag, digest, event_id, actor FROM dropped WHERE {condition} \
         ORDER BY id DESC LIMIT ?3"
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(params![one, other, limit], |row| {
        Ok(DroppedStory {
            at: moment(row, 0)?.unwrap_or_default(),
            rule: row.get(1)?,
            repository: row.get(2)?,
            tag: row.get(3)?,
            digest: row.get(4)?,
            event_id: row.get(5)?,
            actor: row.get(6)?,
        })
    })?;
    rows.collect()
}

/// A body or an answer, if there is room for it.
fn text(row: &Row<'_>, column: usize, room: &mut usize) -> rusqlite::Result<Option<Vec<u8>>> {
    let bytes = row.get_ref(column)?.as_blob_or_null()?;
    let left = bytes.and_then(|bytes| room.checked_sub(bytes.len()));
    *room = left.unwrap_or(*room);
    Ok(bytes.filter(|_| left.is_some()).map(<[u8]>::to_vec))
}

pub(super) fn moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row
        .get::<_, Option<i64>>(column)?
        .map(Timestamp::from_unix_millis))
}

pub(super) fn natural(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row
        .get::<_, Option<i64>>(column)?
        .map(|number| u64::try_from(number).unwrap_or(0)))
}
