//! Which dead letters are to be sent again, in the file, so that a restart goes on with them.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    AccessError, KeptLetter, Letter, Settings,
    kept::{FORCED, SELECT, endpoint_of, read},
    letter::brief,
    letters::{count, number, remove},
};
use crate::{clock::Timestamp, journal::JournalId, push::EndpointId};

/// Whether a letter goes past newer pushes of its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Not if there is a newer push of the same tag for the same endpoint.
    KeepNewest,
    /// All the same.
    Force,
}

/// A letter that is to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its number.
    pub id: i64,
    /// For whom it is.
    pub endpoint: EndpointId,
    /// In which order it goes: a letter with a smaller one goes first.
    pub place: i64,
}

impl Mark {
    /// The mark of a letter. What another journal than `current` took goes first.
    #[must_use]
    pub fn of(id: i64, letter: &Letter, current: JournalId) -> Self {
        let place = number(letter.sequence.get());
        Self {
            id,
            endpoint: letter.endpoint.clone(),
            place: if letter.journal == current {
                place
            } else {
                place.saturating_sub(i64::MAX)
            },
        }
    }
}

impl Settings {
    /// Marks letters to be sent again, all of them or none; for how many it was. Those that are gone, or marked
    /// already, are left out.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn mark_letters(&self, marks: &[Mark], order: Order) -> Result<u64, AccessError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let sql = "INSERT OR IGNORE INTO replays (letter, endpoint, place, forced) \
                   SELECT id, ?2, ?3, ?4 FROM dead_letters WHERE id = ?1";
        let mut marked = 0;
        for mark in marks {
            let values = params![
                mark.id,
                mark.endpoint.to_string(),
                mark.place,
                order == Order::Force
            ];
            marked += transaction.prepare_cached(sql)?.execute(values)?;
        }
        transaction.commit()?;
        self.0.tally.add(0, count(marked));
        Ok(marked as u64)
    }

    /// The endpoints that have letters to be sent again.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn replaying_endpoints(&self) -> Result<Vec<EndpointId>, AccessError> {
        let connection = self.connection();
        let sql = "SELECT endpoint, min(letter) FROM replays GROUP BY endpoint";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(())?;
        let mut endpoints = Vec::new();
        while let Some(row) = rows.next()? {
            endpoints.extend(self.0.odd.pass_over(row.get(1)?, endpoint_of(row, 0))?);
        }
        Ok(endpoints)
    }

    /// The letter that goes next to this endpoint, and how it goes. One that can't be read does not go, and is not
    /// marked any more: those behind it are not held up.
    ///
    /// # Errors
    /// The file can't be read, or written.
    pub fn next_replay(&self, endpoint: &EndpointId) -> Result<Option<(KeptLetter, Order)>, AccessError> {
        loop {
            let id = {
                let connection = self.connection();
                let first = "SELECT letter FROM replays WHERE endpoint = ?1 ORDER BY place LIMIT 1";
                let first = connection
                    .prepare_cached(first)?
                    .query_row([endpoint.to_string()], |row| row.get(0))
                    .optional()?;
                let Some(id) = first else { return Ok(None) };
                let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE l.id = ?1"))?;
                let next = statement.query_row([id], |row| {
                    let order = if row.get(FORCED)? {
                        Order::Force
                    } else {
                        Order::KeepNewest
                    };
                    Ok((read(row)?, order))
                });
                if let Some(next) = self.0.odd.pass_over(id, next.optional())?.flatten() {
                    return Ok(Some(next));
                }
                id
            };
            self.unmark_letter(id)?;
        }
    }

    /// A letter was delivered: it goes.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn letter_delivered(&self, id: i64) -> Result<(), AccessError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let (letters, replays) = remove(&transaction, id)?;
        transaction.commit()?;
        self.0.tally.add(-letters, -replays);
        Ok(())
    }

    /// A letter was sent once more in vain: it is dead again.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn letter_failed(&self, id: i64, reason: &str, at: Timestamp) -> Result<(), AccessError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        failed(&transaction, id, reason, at)?;
        let replays = transaction.execute("DELETE FROM replays WHERE letter = ?1", [id])?;
        transaction.commit()?;
        self.0.tally.add(0, -count(replays));
        Ok(())
    }

    /// A letter was sent once more, and it was its endpoint that failed: if it is to be sent again, it still is.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn letter_tried(&self, id: i64, reason: &str, at: Timestamp) -> Result<(), AccessError> {
        Ok(failed(&self.connection(), id, reason, at)?)
    }

    /// A letter is not to be sent again after all; it stays as it was.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn unmark_letter(&self, id: i64) -> Result<(), AccessError> {
        let connection = self.connection();
        let replays = connection.execute("DELETE FROM replays WHERE letter = ?1", [id])?;
        self.0.tally.add(0, -count(replays));
        Ok(())
    }
}

/// Puts down one more attempt for a letter, and why it was in vain.
fn failed(connection: &Connection, id: i64, reason: &str, at: Timestamp) -> rusqlite::Result<()> {
    let sql = "UPDATE dead_letters SET reason = ?2, died_ms = ?3, attempts = attempts + 1 WHERE id = ?1";
    let values = params![id, brief(reason), at.unix_millis()];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}
