//! How endpoints came to be as they are: each change of a state, when, and why.
//!
//! # Bounds
//! Of each endpoint the newest 200 changes, so that one that fails and recovers all the time takes no other's room; of
//! all together a sixteenth of the file; and nothing older than `delivery.history`.

use rusqlite::{Connection, params};

use super::{
    entry::Changed,
    prune::Bounds,
    reader::{ReadError, Reader, moment, natural},
};
use crate::{clock::Timestamp, push::EndpointId};

/// Changes of one endpoint that are kept.
const EACH_MAX: u32 = 200;

/// What all changes may take of the file, as a part of it, and what one takes, bytes.
const SHARE: u64 = 16;
const BYTES: u64 = 400;

/// Rows that are looked at in one step.
const STEP_LOOKS: i64 = 500;

/// The format from which on they are kept.
const SINCE_FORMAT: i32 = 2;

/// A change of an endpoint's state, without any secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whose it is.
    pub endpoint: EndpointId,
    /// When it was.
    pub at: Timestamp,
    /// How the endpoint was before.
    pub before: &'static str,
    /// How it is since.
    pub after: &'static str,
    /// Failures in a row, until then.
    pub failures: u32,
    /// What happened, or who did it.
    pub reason: String,
}

/// A change as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTransition {
    /// Larger than that of every older one.
    pub id: i64,
    /// When it was.
    pub at: Timestamp,
    /// How the endpoint was before.
    pub before: String,
    /// How it was since.
    pub after: String,
    /// Failures in a row, until then.
    pub failures: u64,
    /// What happened, or who did it.
    pub reason: String,
}

impl Reader {
    /// Changes of an endpoint's state, the newest first: at most `limit`, older than `before`.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn transitions(
        &self,
        endpoint: &EndpointId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<ListedTransition>, ReadError> {
        if self.format() < SINCE_FORMAT {
            return Ok(Vec::new());
        }
        let sql = "SELECT id, at, before, after, failures, reason FROM transitions \
                   WHERE endpoint = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
        let (before, limit) = (
            before.unwrap_or(i64::MAX),
            i64::try_from(limit).unwrap_or(i64::MAX),
        );
        let read = || -> rusqlite::Result<Vec<ListedTransition>> {
            let mut statement = self.connection().prepare(sql)?;
            let rows = statement.query_map(params![endpoint.to_string(), before, limit], |row| {
                Ok(ListedTransition {
                    id: row.get(0)?,
                    at: moment(row, 1)?.unwrap_or_default(),
                    before: row.get(2)?,
                    after: row.get(3)?,
                    failures: natural(row, 4)?.unwrap_or_default(),
                    reason: row.get(5)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| self.explain(&error))
    }
}

/// Writes one down, and lets go of what its endpoint has too many of; how many rows it took.
pub(super) fn write(connection: &Connection, changed: &Changed<'_>) -> rusqlite::Result<u64> {
    let insert = "INSERT INTO transitions (endpoint, at, before, after, failures, reason) \
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    connection.prepare_cached(insert)?.execute(params![
        changed.endpoint,
        changed.at,
        changed.before,
        changed.after,
        changed.failures,
        changed.reason,
    ])?;
    let forget = "DELETE FROM transitions WHERE endpoint = ?1 AND id <= \
                  (SELECT id FROM transitions WHERE endpoint = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
    connection
        .prepare_cached(forget)?
        .execute(params![changed.endpoint, EACH_MAX])?;
    Ok(1)
}

/// Removes those that are too old, or too many; how many.
pub(super) fn prune(connection: &Connection, bounds: Bounds) -> rusqlite::Result<usize> {
    let most = i64::try_from(bounds.bytes_max / SHARE / BYTES).unwrap_or(i64::MAX);
    let sql = "DELETE FROM transitions WHERE id IN (SELECT id FROM transitions ORDER BY id LIMIT ?3) AND \
               (at < ?1 OR (SELECT count(*) FROM transitions) > ?2)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute(params![bounds.since.unix_millis(), most, STEP_LOOKS])
}
