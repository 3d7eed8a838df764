//! Dead letters in the file: written many at once, let go of oldest first, found by a filter.
//!
//! What is asked for is [searched](super::sought) by indexes. Whoever looks through all of them does so in steps of some
//! ten thousand ids, so that nobody waits for long: there is one connection, and the states of endpoints are saved by it,
//! too.
//!
//! A letter that can't be read is passed over and told, see [`kept`](super::kept): the others are found without it, and it
//! goes when it is too old.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    AccessError, Settings,
    kept::{SELECT, endpoint_of, read, sequence},
    letter::{KeptLetter, Letter, LetterBounds, LetterFilter, LetterPage, LetterStats},
    listed::listed,
    sought::{LOOKED_THROUGH_MAX, Search},
    weighed::used_bytes,
};
use crate::{
    clock::Timestamp,
    image::Tag,
    journal::JournalId,
    push::{EndpointId, Sequence},
};

/// Letters that are let go of in one transaction.
const PRUNED_AT_ONCE: i64 = 500;

/// Ids that are removed in one transaction.
const REMOVED_AT_ONCE: usize = 2_000;

impl Settings {
    /// Writes letters, all or none; a letter of the same push and endpoint gives way. Once this returns they survive
    /// power loss.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn put_letters(&self, letters: &[Letter]) -> Result<(), AccessError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let (mut gone, mut unmarked) = (0, 0);
        for letter in letters {
            let (letters, replays) =
                remove_of_push(&transaction, letter.sequence, &letter.endpoint, letter.journal)?;
            gone += letters;
            unmarked += replays;
            put(&transaction, letter)?;
        }
        transaction.commit()?;
        self.0.tally.add(count(letters.len()) - gone, -unmarked);
        self.0.tally.weigh(&connection);
        Ok(())
    }

    /// Lets go of some of the oldest letters if they are too old, or if there is no room for `coming` bytes more;
    /// for how many it was. None means that nothing is left to do.
    ///
    /// For room no more go than it takes: those that were just written only if they are over by themselves.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn prune_letters(
        &self,
        bounds: &LetterBounds,
        coming: u64,
        now: Timestamp,
    ) -> Result<u64, AccessError> {
        let mut connection = self.connection();
        let before = now.before(bounds.age_max).unix_millis();
        let room = bounds.bytes_max.saturating_sub(coming);
        let tally = &self.0.tally;
        let excess = |connection: &Connection| -> rusqlite::Result<u64> {
            Ok(tally.of_letters(used_bytes(connection)?).saturating_sub(room))
        };
        let oldest: Option<i64> = connection
            .prepare_cached("SELECT died_ms FROM dead_letters ORDER BY died_ms LIMIT 1")?
            .query_row((), |row| row.get(0))
            .optional()?;
        let is_over = excess(&connection)? > 0;
        if oldest.is_none_or(|oldest| oldest >= before && !is_over) {
            return Ok(0);
        }
        let transaction = connection.transaction()?;
        let (mut letters, mut replays) = (0, 0);
        while letters < PRUNED_AT_ONCE {
            let ids = oldest_of(
                &transaction,
                before,
                excess(&transaction)?,
                PRUNED_AT_ONCE - letters,
            )?;
            if ids.is_empty() {
                break;
            }
            for id in ids {
                let (letter, replay) = remove(&transaction, id)?;
                letters += letter;
                replays += replay;
            }
        }
        let spans = "DELETE FROM letter_spans WHERE block < (SELECT min(id) FROM dead_letters) >> 10";
        transaction.execute(spans, ())?;
        transaction.commit()?;
        tally.add(-letters, -replays);
        tally.weigh(&connection);
        Ok(letters.cast_unsigned())
    }

    /// At most `limit` letters that are meant, newest first, of those older than the one of the number `after`. They may
    /// be fewer, none even, with more behind them: see [`LetterPage`].
    ///
    /// # Errors
    /// The file can't be read.
    pub fn letters(
        &self,
        filter: &LetterFilter,
        after: Option<i64>,
        limit: usize,
    ) -> Result<LetterPage, AccessError> {
        let mut page = LetterPage::default();
        let mut before = after.unwrap_or(i64::MAX);
        let first = self.first_letter()?;
        let mut search = {
            let connection = self.connection();
            // One look at the file: else each search takes and gives back a lock, which costs more than the search.
            let looked = connection.unchecked_transaction()?;
            Search::of(&looked, filter)?
        };
        let mut looked = 0;
        while page.letters.len() < limit && before > first && looked < LOOKED_THROUGH_MAX {
            let room = limit - page.letters.len();
            let mut go = self.look_for(&mut search, before, room)?;
            page.letters.append(&mut go.found);
            before = go.reached;
            looked += go.looked;
        }
        page.next = (before > first).then_some(before);
        Ok(page)
    }

    /// The letter of that number.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn letter(&self, id: i64) -> Result<Option<KeptLetter>, AccessError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE l.id = ?1"))?;
        Ok(statement.query_row([id], read).optional()?)
    }

    /// The letter of a push and an endpoint.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn letter_of(
        &self,
        journal: JournalId,
        sequence: Sequence,
        endpoint: &EndpointId,
    ) -> Result<Option<KeptLetter>, AccessError> {
        let connection = self.connection();
        let condition = "WHERE l.sequence = ?1 AND l.endpoint = ?2 AND l.journal = ?3";
        let mut statement = connection.prepare_cached(&format!("{SELECT} {condition}"))?;
        let key = params![number(sequence.get()), endpoint.to_string(), journal.to_string()];
        Ok(statement.query_row(key, read).optional()?)
    }

    /// Whether there is a letter of a newer push of the same tag, for the same endpoint.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn has_newer_letter(&self, letter: &Letter) -> Result<bool, AccessError> {
        let Some(tag) = &letter.tag else {
            return Ok(false);
        };
        let connection = self.connection();
        // Of two journals, one was begun later: then the clock decides.
        let sql = "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE repository = ?1 AND tag = ?2 AND endpoint = ?3 AND \
                   CASE journal WHEN ?4 THEN sequence > ?5 ELSE taken_ms > ?6 END)";
        let mut statement = connection.prepare_cached(sql)?;
        let values = params![
            letter.repository.as_str(),
            tag.as_str(),
            letter.endpoint.to_string(),
            letter.journal.to_string(),
            number(letter.sequence.get()),
            letter.taken_at.unix_millis(),
        ];
        Ok(statement.query_row(values, |row| row.get(0))?)
    }

    /// Removes letters; for how many it was. Some may be gone although the rest could not be removed.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn remove_letters(&self, ids: &[i64]) -> Result<u64, AccessError> {
        let mut removed = 0;
        for ids in ids.chunks(REMOVED_AT_ONCE) {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            let (mut letters, mut replays) = (0, 0);
            for id in ids {
                let (letter, replay) = remove(&transaction, *id)?;
                letters += letter;
                replays += replay;
            }
            transaction.commit()?;
            self.0.tally.add(-letters, -replays);
            self.0.tally.weigh(&connection);
            removed += letters.cast_unsigned();
        }
        Ok(removed)
    }

    /// The newest letters of a journal, at most so many, by what they are of.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn newest_letters(
        &self,
        journal: JournalId,
        count: u32,
    ) -> Result<Vec<(Sequence, EndpointId, i64)>, AccessError> {
        let connection = self.connection();
        let sql = "SELECT sequence, endpoint, id FROM (SELECT * FROM dead_letters ORDER BY id DESC LIMIT ?2) \
                   WHERE journal = ?1";
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query(params![journal.to_string(), count])?;
        let mut newest = Vec::new();
        while let Some(row) = rows.next()? {
            let id = row.get(2)?;
            let letter = sequence(row, 0).and_then(|sequence| Ok((sequence, endpoint_of(row, 1)?, id)));
            newest.extend(self.0.odd.pass_over(id, letter)?);
        }
        Ok(newest)
    }

    /// How many letters there are. Waits for nobody.
    #[must_use]
    pub fn letter_stats(&self) -> LetterStats {
        let tally = &self.0.tally;
        let used = tally.used.load(Ordering::Relaxed);
        LetterStats {
            letters: tally.letters.load(Ordering::Relaxed),
            replaying: tally.replaying.load(Ordering::Relaxed),
            bytes: tally.of_letters(used),
            used_bytes: used,
        }
    }

    /// The number of the oldest letter.
    fn first_letter(&self) -> Result<i64, AccessError> {
        let first = "SELECT min(id) FROM dead_letters";
        let first: Option<i64> = self.connection().query_row(first, (), |row| row.get(0))?;
        Ok(first.unwrap_or(i64::MAX))
    }
}

/// The oldest letters, at most so many: those given up on `before`, and as many more as may take the `excess`.
fn oldest_of(connection: &Connection, before: i64, excess: u64, most: i64) -> rusqlite::Result<Vec<i64>> {
    // What a letter takes, rather too much than too little: what was not enough is seen, and goes on.
    let sql = "SELECT id, died_ms, 1000 + octet_length(listed) + 3 * octet_length(repository) + 3 * octet_length(tag) + \
               4 * octet_length(endpoint) + octet_length(event_id) + octet_length(actor) + octet_length(reason) \
               FROM dead_letters ORDER BY died_ms, id LIMIT ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([most])?;
    let (mut ids, mut taken) = (Vec::new(), 0_u64);
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= before && taken >= excess {
            break;
        }
        ids.push(row.get(0)?);
        taken = taken.saturating_add(u64::try_from(row.get::<_, i64>(2)?).unwrap_or_default());
    }
    Ok(ids)
}

/// Removes the letter of a push, if there is one, and its mark; how many of each it was.
fn remove_of_push(
    connection: &Connection,
    sequence: Sequence,
    endpoint: &EndpointId,
    journal: JournalId,
) -> rusqlite::Result<(i64, i64)> {
    let sql = "SELECT id FROM dead_letters WHERE sequence = ?1 AND endpoint = ?2 AND journal = ?3";
    let key = params![number(sequence.get()), endpoint.to_string(), journal.to_string()];
    let id = connection
        .prepare_cached(sql)?
        .query_row(key, |row| row.get(0))
        .optional()?;
    id.map_or(Ok((0, 0)), |id| remove(connection, id))
}

/// Removes a letter and its mark; how many of each it was.
pub(super) fn remove(connection: &Connection, id: i64) -> rusqlite::Result<(i64, i64)> {
    let replays = connection
        .prepare_cached("DELETE FROM replays WHERE letter = ?1")?
        .execute([id])?;
    let letters = connection
        .prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?
        .execute([id])?;
    Ok((count(letters), count(replays)))
}

fn put(connection: &Connection, letter: &Letter) -> rusqlite::Result<()> {
    let sql = "INSERT INTO dead_letters (journal, sequence, endpoint, repository, tag, digest, media_type, \
               manifest_size, listed, event_id, actor, taken_ms, died_ms, reason, attempts) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
    connection.prepare_cached(sql)?.execute(params![
        letter.journal.to_string(),
        number(letter.sequence.get()),
        letter.endpoint.to_string(),
        letter.repository.as_str(),
        letter.tag.as_ref().map_or("", Tag::as_str),
        letter.digest.to_string(),
        letter.media_type.as_str(),
        number(letter.manifest_size),
        listed(&letter.references),
        letter.event_id,
        letter.actor,
        letter.taken_at.unix_millis(),
        letter.died_at.unix_millis(),
        letter.reason,
        letter.attempts,
    ])?;
    Ok(())
}

/// As SQLite has numbers.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
