//! From entries to rows, within the transaction of a batch.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    entry::{Attempted, Entry, Which},
    spans, transitions,
};
use crate::{
    clock::Timestamp,
    image::{Digest, RepositoryName, Tag},
    journal::{Durable, JournalId},
    push::{Dropped, EndpointId, NOBODY_OWES, Sequence, Settlement},
    webhook::sign::webhook_id,
};

/// Of a delivery that fails for ever, so many attempts are kept: the first, and the newest.
const ATTEMPTS_FIRST: i64 = 10;
const ATTEMPTS_NEWEST: i64 = 90;

/// Above a sequence number stands the number of its journal.
const SEQUENCE_BITS: u32 = 44;

/// Which journal's pushes are written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) journal: JournalId,
    pub(super) number: i64,
}

impl Origin {
    /// Before the journal's first push.
    pub(super) fn first(self) -> i64 {
        self.number << SEQUENCE_BITS
    }

    /// The sequence number of a push by its row.
    pub(super) fn sequence(push: i64) -> u64 {
        u64::try_from(push & ((1 << SEQUENCE_BITS) - 1)).unwrap_or(0)
    }

    /// The number of the journal that took a push, by its row.
    pub(super) fn journal_of(push: i64) -> i64 {
        push >> SEQUENCE_BITS
    }

    /// The row of the push; `None` beyond what ids have room for, which no journal reaches.
    pub(super) fn push(self, sequence: Sequence) -> Option<i64> {
        let sequence = i64::try_from(sequence.get()).ok()?;
        let number = (0..1 << (62 - SEQUENCE_BITS))
            .contains(&self.number)
            .then_some(self.number)?;
        (sequence < 1 << SEQUENCE_BITS).then_some(number << SEQUENCE_BITS | sequence)
    }
}

/// As the column `state` and people say it.
pub(super) fn word(how: Settlement) -> &'static str {
    match how {
        Settlement::Delivered => "delivered",
        Settlement::Superseded => "superseded",
        Settlement::DeadLetter => "dead_letter",
    }
}

/// Writes an entry down; how many rows it took.
pub(super) fn write(connection: &Connection, origin: Origin, entry: &Entry) -> rusqlite::Result<u64> {
    let sink = Sink { connection, origin };
    match entry {
        Entry::Taken(durable) => sink.taken(durable),
        Entry::Dropped(dropped) => dropped
            .iter()
            .try_fold(0, |rows, one| Ok(rows + sink.dropped(one)?)),
        Entry::Attempted(attempted) => sink.attempted(&attempted.0, &attempted.1),
        Entry::Waits(which, at) => sink.waits(which, *at),
        Entry::Ended(which, how, at) => sink.ended(which, *how, None, *at),
        Entry::GivenUp(given_up, at) => {
            let (which, reason) = &**given_up;
            sink.ended(which, Settlement::DeadLetter, Some(reason), *at)
        }
        Entry::Buried(pairs, reason, at) => pairs.iter().try_fold(0, |rows, (sequence, endpoint)| {
            let Some(push) = origin.push(*sequence) else {
                return Ok(rows);
            };
            Ok(rows
                + sink.end(
                    push,
                    &endpoint.to_string(),
                    Settlement::DeadLetter,
                    Some(reason),
                    *at,
                )?)
        }),
        Entry::Known(name) => sink.known(name),
        Entry::Changed(transition) => transitions::write(connection, transition),
        Entry::Close(_) => Ok(0),
    }
}

struct Sink<'a> {
    connection: &'a Connection,
    origin: Origin,
}

impl Sink<'_> {
    /// The repository is there from now on, if it was not before.
    fn known(&self, name: &RepositoryName) -> rusqlite::Result<u64> {
        let sql = "INSERT OR IGNORE INTO repositories (name, last_tag, pushes) VALUES (?1, '', 0)";
        Ok(self.connection.prepare_cached(sql)?.execute([name.as_str()])? as u64)
    }

    fn taken(&self, durable: &Durable) -> rusqlite::Result<u64> {
        let Some(id) = self.origin.push(durable.sequence) else {
            return Ok(0);
        };
        let push = &durable.push;
        // What an attempt had to make up for it gives way.
        let sql = "INSERT OR REPLACE INTO pushes (id, sequence, repository, tag, digest, media_type, manifest_size, \
                   listed, taken_at, event_id, actor) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.connection.prepare_cached(sql)?.execute(params![
            id,
            number(durable.sequence.get()),
            push.repository.as_str(),
            push.tag.as_ref().map_or("", Tag::as_str),
            push.digest.to_string(),
            push.media_type.to_string(),
            (push.manifest_size > 0).then(|| number(push.manifest_size)),
            number(push.references.len() as u64),
            push.taken_at.unix_millis(),
            push.event_id,
            push.actor,
        ])?;
        let tag = push.tag.as_ref().map_or("", Tag::as_str);
        self.pushed(push.repository.as_str(), tag, push.taken_at)?;
        spans::note(self.connection, id, push.taken_at)?;
        for endpoint in &push.owed {
            self.owe(id, durable.sequence, endpoint, &push.repository)?;
        }
        Ok(1 + push.owed.len() as u64)
    }

    /// The repository was pushed to.
    fn pushed(&self, repository: &str, tag: &str, at: Timestamp) -> rusqlite::Result<()> {
        let sql = "INSERT INTO repositories (name, last_push_at, last_tag, pushes) VALUES (?1, ?2, ?3, 1) \
                   ON CONFLICT (name) DO UPDATE SET last_push_at = max(ifnull(last_push_at, ?2), ?2), last_tag = ?3, \
                   pushes = pushes + 1";
        let params = params![repository, at.unix_millis(), tag];
        self.connection.prepare_cached(sql)?.execute(params)?;
        Ok(())
    }

    /// The delivery is there from now on, if it was not before.
    fn owe(
        &self,
        push: i64,
        sequence: Sequence,
        endpoint: &EndpointId,
        repository: &RepositoryName,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO deliveries (push, endpoint, repository, webhook_id, state) \
                   VALUES (?1, ?2, ?3, ?4, 'pending')";
        self.connection.prepare_cached(sql)?.execute(params![
            push,
            endpoint.to_string(),
            repository.as_str(),
            webhook_id(self.origin.journal, sequence, endpoint)
        ])?;
        Ok(())
    }

    /// Makes up for a push that was not written down when it was taken.
    fn make_up(&self, push: i64, which: &Which, digest: Option<&Digest>) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO pushes (id, sequence, repository, tag, digest, event_id, actor) \
                   VALUES (?1, ?2, ?3, ?4, ?5, '', '')";
        self.connection.prepare_cached(sql)?.execute(params![
            push,
            number(which.sequence.get()),
            which.repository.as_str(),
            which.tag.as_ref().map_or("", Tag::as_str),
            digest.map(ToString::to_string)
        ])?;
        self.owe(push, which.sequence, &which.endpoint, &which.repository)
    }

    fn dropped(&self, dropped: &Dropped) -> rusqlite::Result<u64> {
        let sql = "INSERT INTO dropped (at, rule, repository, tag, digest, event_id, actor) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        self.connection.prepare_cached(sql)?.execute(params![
            dropped.at.unix_millis(),
            dropped.rule,
            dropped.repository,
            dropped.tag,
            dropped.digest,
            dropped.event_id,
            dropped.actor
        ])?;
        // Somebody may want to give it a webhook now.
        if dropped.rule == NOBODY_OWES {
            self.pushed(&dropped.repository, &dropped.tag, dropped.at)?;
        }
        Ok(1)
    }

    fn attempted(&self, which: &Which, attempt: &Attempted) -> rusqlite::Result<u64> {
        let Some(push) = self.origin.push(which.sequence) else {
            return Ok(0);
        };
        let endpoint = which.endpoint.to_string();
        let count = || self.count(push, &endpoint, attempt);
        let attempts = if let Some(attempts) = count()? {
            attempts
        } else {
            self.make_up(push, which, Some(&attempt.digest))?;
            count()?.unwrap_or(1)
        };
        let sql = "INSERT INTO attempts (push, endpoint, number, at, elapsed_us, status, fault, reason, url, headers, \
                   body, body_bytes, answer, answer_bytes) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
        let (sent, answer) = (attempt.sent.as_ref(), attempt.answer.as_ref());
        self.connection.prepare_cached(sql)?.execute(params![
            push,
            endpoint,
            attempts,
            attempt.at.unix_millis(),
            i64::try_from(attempt.elapsed.as_micros()).unwrap_or(i64::MAX),
            attempt.status,
            attempt.fault.map(|fault| fault.to_string()),
            attempt.reason,
            sent.map(|sent| &sent.url),
            sent.map(|sent| &sent.headers),
            sent.map(|sent| sent.body.as_ref()),
            sent.map(|sent| number(sent.body_bytes as u64)),
            answer.map(|(answer, _)| answer.as_ref()),
            answer.map(|(_, bytes)| number(*bytes as u64)),
        ])?;
        if let Some(size) = attempt.repository_size {
            let sql = "UPDATE repositories SET size = ?2, sized_at = ?3 WHERE name = ?1 AND \
                       (size IS NOT ?2 OR sized_at IS NULL) AND ifnull(sized_at, 0) <= ?3";
            let values = params![which.repository.as_str(), number(size), attempt.at.unix_millis()];
            self.connection.prepare_cached(sql)?.execute(values)?;
        }
        let outdated = attempts - ATTEMPTS_NEWEST;
        if outdated > ATTEMPTS_FIRST {
            let sql = "DELETE FROM attempts WHERE push = ?1 AND endpoint = ?2 AND number = ?3";
            self.connection
                .prepare_cached(sql)?
                .execute(params![push, endpoint, outdated])?;
        }
        Ok(1)
    }

    /// One more attempt of the delivery; which one, or `None` when there is no such delivery.
    fn count(&self, push: i64, endpoint: &str, attempt: &Attempted) -> rusqlite::Result<Option<i64>> {
        let sql = "UPDATE deliveries SET attempts = attempts + 1, next_at = NULL, image_size = ?3, layers = ?4, \
                   repository_size = ?5 WHERE push = ?1 AND endpoint = ?2 RETURNING attempts";
        let values = params![
            push,
            endpoint,
            attempt.image_size.map(number),
            attempt.image_size.map(|_| number(attempt.layers as u64)),
            attempt.repository_size.map(number)
        ];
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_row(values, |row| row.get(0)).optional()
    }

    fn waits(&self, which: &Which, at: Timestamp) -> rusqlite::Result<u64> {
        let Some(push) = self.origin.push(which.sequence) else {
            return Ok(0);
        };
        let endpoint = which.endpoint.to_string();
        let sql = "UPDATE deliveries SET next_at = ?3 WHERE push = ?1 AND endpoint = ?2 RETURNING attempts";
        let mut statement = self.connection.prepare_cached(sql)?;
        let values = params![push, endpoint, at.unix_millis()];
        let attempts: Option<i64> = statement.query_row(values, |row| row.get(0)).optional()?;
        let sql = "UPDATE attempts SET retry_at = ?4 WHERE push = ?1 AND endpoint = ?2 AND number = ?3";
        let values = params![push, endpoint, attempts, at.unix_millis()];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(0)
    }

    fn ended(
        &self,
        which: &Which,
        how: Settlement,
        reason: Option<&str>,
        at: Timestamp,
    ) -> rusqlite::Result<u64> {
        let Some(push) = self.origin.push(which.sequence) else {
            return Ok(0);
        };
        let endpoint = which.endpoint.to_string();
        match self.end(push, &endpoint, how, reason, at)? {
            0 => {
                self.make_up(push, which, None)?;
                self.end(push, &endpoint, how, reason, at)
            }
            ended => Ok(ended),
        }
    }

    fn end(
        &self,
        push: i64,
        endpoint: &str,
        how: Settlement,
        reason: Option<&str>,
        at: Timestamp,
    ) -> rusqlite::Result<u64> {
        let sql = "UPDATE deliveries SET state = ?3, ended_at = ?4, next_at = NULL, reason = ?5 \
                   WHERE push = ?1 AND endpoint = ?2";
        let values = params![push, endpoint, word(how), at.unix_millis(), reason];
        Ok(self.connection.prepare_cached(sql)?.execute(values)? as u64)
    }
}

/// As SQLite has numbers.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
