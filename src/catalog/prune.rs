//! Keeps the history within its time and its bytes, in steps small enough to go between two batches.

use std::ops::RangeInclusive;

use rusqlite::{Connection, TransactionBehavior, params};

use super::{
    spans,
    store::{Store, StoreError},
    transitions,
};
use crate::clock::Timestamp;

/// Rows that are looked at in one step.
const STEP_LOOKS: i64 = 500;

/// Rows that go in one step: of a small file fewer, for each touches some ten pages of it.
const STEP_REMOVES: RangeInclusive<u64> = 10..=100;
const BYTES_FOR_EACH: u64 = 256 * 1024;

/// Pages that a file which is too large gives back in one step.
const STEP_PAGES: i64 = 256;

/// What dropped pushes may take of the file, as a part of it, and what one takes, bytes. A registry has many times
/// more of them than others (children of multi-arch images, signatures), and they say little.
const DROPPED_SHARE: u64 = 8;
const DROPPED_BYTES: u64 = 400;

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Nothing that ended before this.
    pub(super) since: Timestamp,
    /// The file's bytes.
    pub(super) bytes_max: u64,
}

impl Bounds {
    fn step_removes(self) -> usize {
        let most = (self.bytes_max / BYTES_FOR_EACH).clamp(*STEP_REMOVES.start(), *STEP_REMOVES.end());
        usize::try_from(most).unwrap_or(usize::MAX)
    }
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    /// Perhaps.
    Perhaps,
    /// Not now.
    NotNow,
}

/// Goes through the pushes, oldest first, pass after pass. What is pending is passed over.
#[derive(Debug, Default)]
pub(super) struct Pruner {
    /// The last push that was looked at in this pass.
    after: i64,
    /// Whether anything went in this pass.
    has_removed: bool,
    /// Whether a whole pass found nothing that had ended.
    is_all_pending: bool,
}

/// A push as pruning looks at it.
struct Look {
    id: i64,
    taken_at: Option<i64>,
    is_pending: bool,
    ended_at: Option<i64>,
}

impl Pruner {
    /// One step.
    pub(super) fn step(&mut self, store: &mut Store, bounds: Bounds) -> Result<More, StoreError> {
        let (used, file) = store.page_bytes()?;
        let is_over = used > bounds.bytes_max;
        let begun = store
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        // They go first: while there are too many of them, it is not the pushes that take too much.
        let more = match dropped(&begun, bounds)? + transitions::prune(&begun, bounds)? {
            0 => self.pass(&begun, (!is_over).then_some(bounds.since), bounds.step_removes())?,
            _ => More::Perhaps,
        };
        spans::prune(&begun)?;
        begun.commit()?;
        if file > bounds.bytes_max {
            let mut statement = store
                .connection
                .prepare(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
            // It gives back a page for each row that is asked for.
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
        }
        Ok(more)
    }

    /// Begins again with the oldest push: what was passed over may have ended.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Removes what ended, of the next pushes, at most so many; with `since`, only what ended before that. When a whole pass
    /// without it found nothing, all that is left is pending, and the oldest go all the same.
    fn pass(
        &mut self,
        connection: &Connection,
        since: Option<Timestamp>,
        most: usize,
    ) -> Result<More, StoreError> {
        if since.is_none() && self.is_all_pending {
            self.after = 0;
            let oldest = self.look(connection)?;
            for look in oldest.iter().take(most) {
                remove(connection, look.id)?;
            }
            return Ok(if oldest.is_empty() {
                More::NotNow
            } else {
                More::Perhaps
            });
        }
        let looks = self.look(connection)?;
        let is_end = looks.len() < usize::try_from(STEP_LOOKS).unwrap_or(usize::MAX);
        let mut removed = 0;
        for look in &looks {
            let is_old = |at: i64| since.is_none_or(|since| at < since.unix_millis());
            if look.taken_at.is_some_and(|at| !is_old(at)) {
                // So are all after it.
                return Ok(More::NotNow);
            }
            if removed == most {
                return Ok(More::Perhaps);
            }
            self.after = look.id;
            if !look.is_pending && look.ended_at.is_none_or(is_old) {
                remove(connection, look.id)?;
                removed += 1;
                self.has_removed = true;
            }
        }
        if !is_end || since.is_some() {
            return Ok(if is_end { More::NotNow } else { More::Perhaps });
        }
        let has_removed = self.has_removed;
        self.restart();
        self.is_all_pending = !has_removed;
        Ok(More::Perhaps)
    }

    fn look(&self, connection: &Connection) -> rusqlite::Result<Vec<Look>> {
        let sql = "SELECT p.id, p.taken_at, \
                   EXISTS (SELECT 1 FROM deliveries d WHERE d.push = p.id AND d.state = 'pending'), \
                   (SELECT max(d.ended_at) FROM deliveries d WHERE d.push = p.id) \
                   FROM pushes p WHERE p.id > ?1 ORDER BY p.id LIMIT ?2";
        let mut statement = connection.prepare_cached(sql)?;
        let looks = statement.query_map(params![self.after, STEP_LOOKS], |row| {
            Ok(Look {
                id: row.get(0)?,
                taken_at: row.get(1)?,
                is_pending: row.get(2)?,
                ended_at: row.get(3)?,
            })
        })?;
        looks.collect()
    }
}

fn remove(connection: &Connection, push: i64) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM attempts WHERE push = ?1",
        "DELETE FROM deliveries WHERE push = ?1",
        "DELETE FROM pushes WHERE id = ?1",
    ] {
        connection.prepare_cached(sql)?.execute([push])?;
    }
    Ok(())
}

/// Removes dropped pushes that are too old, or too many.
fn dropped(connection: &Connection, bounds: Bounds) -> rusqlite::Result<usize> {
    let most = i64::try_from(bounds.bytes_max / DROPPED_SHARE / DROPPED_BYTES).unwrap_or(i64::MAX);
    let sql = "DELETE FROM dropped WHERE id IN (SELECT id FROM dropped ORDER BY id LIMIT ?3) AND \
               (at < ?1 OR id <= (SELECT max(id) FROM dropped) - ?2)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute(params![bounds.since.unix_millis(), most, STEP_LOOKS])
}
