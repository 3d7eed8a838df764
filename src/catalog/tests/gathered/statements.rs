//! How each entry changes the tables when it is written alone, statement by statement: what batches are compared with.

use rusqlite::{Connection, OptionalExtension, params};

use super::super::super::{
    entry::{Attempted, DroppedPush, End, Entry, Place, Taken},
    rows::{Origin, number},
    spans::Spans,
    transitions,
};
use crate::{
    push::{EndpointId, NOBODY_OWES, Sequence},
    webhook::sign::webhook_id,
};

const ATTEMPTS_FIRST: i64 = 10;
const ATTEMPTS_NEWEST: i64 = 90;

/// Writes an entry down; how many rows it took.
pub(super) fn write(connection: &Connection, origin: Origin, entry: &Entry<'_>) -> rusqlite::Result<u64> {
    let sink = Sink { connection, origin };
    match entry {
        Entry::Taken(taken) => sink.taken(taken),
        Entry::Dropped(dropped) => sink.dropped(dropped),
        Entry::Attempted(place, attempted) => sink.attempted(place, attempted),
        Entry::Waits(place, at) => sink.waits(place, *at),
        Entry::Ended(place, end) => sink.ended(place, end),
        Entry::Buried(sequence, endpoint, end) => match origin.row(*sequence) {
            Some(push) => sink.end(push, endpoint, end),
            None => Ok(0),
        },
        Entry::Known(name) => sink.known(name),
        Entry::Changed(changed) => transitions::write(connection, changed),
        Entry::Restored(taken) => sink.restored(taken),
        Entry::Settled(place, how) => sink.settled(place, how),
        Entry::Sized(name, size, at) => sink.sized(name, *size, *at),
    }
}

struct Sink<'a> {
    connection: &'a Connection,
    origin: Origin,
}

impl Sink<'_> {
    /// The repository is there from now on, if it was not before.
    fn known(&self, name: &str) -> rusqlite::Result<u64> {
        let sql = "INSERT OR IGNORE INTO repositories (name, last_tag, pushes) VALUES (?1, '', 0)";
        Ok(self.connection.prepare_cached(sql)?.execute([name])? as u64)
    }

    fn sized(&self, name: &str, size: u64, at: i64) -> rusqlite::Result<u64> {
        let sql = "UPDATE repositories SET size = ?2, sized_at = ?3 WHERE name = ?1 AND \
                   (size IS NOT ?2 OR sized_at IS NULL) AND ifnull(sized_at, 0) <= ?3";
        let values = params![name, number(size), at];
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(0)
    }

    fn restored(&self, taken: &Taken<'_>) -> rusqlite::Result<u64> {
        let sql = "SELECT count(*) FROM pushes WHERE id = ?1 AND taken_at IS NOT NULL";
        let known: i64 = self
            .connection
            .query_row(sql, [self.origin.row(taken.sequence)], |row| row.get(0))?;
        if known > 0 { Ok(0) } else { self.taken(taken) }
    }

    fn taken(&self, taken: &Taken<'_>) -> rusqlite::Result<u64> {
        let Some(id) = self.origin.row(taken.sequence) else {
            return Ok(0);
        };
        // What an attempt had to make up for it gives way.
        let sql = "INSERT OR REPLACE INTO pushes (id, sequence, repository, tag, digest, media_type, manifest_size, \
                   listed, taken_at, event_id, actor) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.connection.prepare_cached(sql)?.execute(params![
            id,
            number(taken.sequence),
            taken.repository,
            taken.tag,
            taken.digest,
            taken.media_type,
            (taken.manifest_size > 0).then(|| number(taken.manifest_size)),
            number(taken.listed),
            taken.at,
            taken.event_id,
            taken.actor,
        ])?;
        self.pushed(taken.repository, taken.tag, taken.at)?;
        let mut spans = Spans::default();
        spans.note(id, taken.at);
        spans.write(self.connection)?;
        for endpoint in &taken.owed {
            self.owe(id, taken.sequence, endpoint, taken.repository)?;
        }
        Ok(1 + taken.owed.len() as u64)
    }

    /// The repository was pushed to.
    fn pushed(&self, repository: &str, tag: &str, at: i64) -> rusqlite::Result<()> {
        let sql = "INSERT INTO repositories (name, last_push_at, last_tag, pushes) VALUES (?1, ?2, ?3, 1) \
                   ON CONFLICT (name) DO UPDATE SET last_push_at = max(ifnull(last_push_at, ?2), ?2), last_tag = ?3, \
                   pushes = pushes + 1";
        let params = params![repository, at, tag];
        self.connection.prepare_cached(sql)?.execute(params)?;
        Ok(())
    }

    /// The delivery is there from now on, if it was not before.
    fn owe(&self, push: i64, sequence: u64, endpoint: &str, repository: &str) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO deliveries (push, endpoint, repository, webhook_id, state) \
                   VALUES (?1, ?2, ?3, ?4, 'pending')";
        let id = Sequence::new(sequence)
            .map(|sequence| webhook_id(self.origin.journal, sequence, &EndpointId::named(endpoint)));
        self.connection.prepare_cached(sql)?.execute(params![
            push,
            endpoint,
            repository,
            id.unwrap_or_default()
        ])?;
        Ok(())
    }

    /// Makes up for a push that was not written down when it was taken.
    fn make_up(&self, push: i64, place: &Place<'_>, digest: Option<&str>) -> rusqlite::Result<()> {
        let sql = "INSERT OR IGNORE INTO pushes (id, sequence, repository, tag, digest, event_id, actor) \
                   VALUES (?1, ?2, ?3, ?4, ?5, '', '')";
        self.connection.prepare_cached(sql)?.execute(params![
            push,
            number(place.sequence),
            place.repository,
            place.tag,
            digest
        ])?;
        self.known(place.repository)?;
        self.owe(push, place.sequence, place.endpoint, place.repository)
    }

    fn dropped(&self, dropped: &DroppedPush<'_>) -> rusqlite::Result<u64> {
        let sql = "INSERT INTO dropped (at, rule, repository, tag, digest, event_id, actor) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        self.connection.prepare_cached(sql)?.execute(params![
            dropped.at,
            dropped.rule,
            dropped.repository,
            dropped.tag,
            dropped.digest,
            dropped.event_id,
            dropped.actor
        ])?;
        // Somebody may want to give it a webhook now.
        if dropped.rule == NOBODY_OWES {
            self.pushed(dropped.repository, dropped.tag, dropped.at)?;
        }
        Ok(1)
    }

    fn attempted(&self, place: &Place<'_>, attempt: &Attempted<'_>) -> rusqlite::Result<u64> {
        let Some(push) = self.origin.row(place.sequence) else {
            return Ok(0);
        };
        let endpoint = place.endpoint;
        let sql = "SELECT repository_size FROM deliveries WHERE push = ?1 AND endpoint = ?2";
        let mut before = self.connection.prepare_cached(sql)?;
        let told_before: Option<Option<i64>> = before
            .query_row(params![push, endpoint], |row| row.get(0))
            .optional()?;
        let count = || self.count(push, endpoint, attempt);
        let attempts = if let Some(attempts) = count()? {
            attempts
        } else {
            self.make_up(push, place, Some(attempt.digest))?;
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
            attempt.at,
            number(attempt.elapsed_us),
            attempt.status,
            attempt.fault,
            attempt.reason,
            sent.map(|sent| sent.url),
            sent.map(|sent| sent.headers),
            sent.map(|sent| sent.body.first),
            sent.map(|sent| number(sent.body.bytes)),
            answer.map(|answer| answer.first),
            answer.map(|answer| number(answer.bytes)),
        ])?;
        if let Some(size) = attempt.repository_size
            && told_before.flatten() != Some(number(size))
        {
            self.sized(place.repository, size, attempt.at)?;
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
    fn count(&self, push: i64, endpoint: &str, attempt: &Attempted<'_>) -> rusqlite::Result<Option<i64>> {
        let sql = "UPDATE deliveries SET attempts = attempts + 1, next_at = NULL, image_size = ?3, layers = ?4, \
                   repository_size = ?5 WHERE push = ?1 AND endpoint = ?2 RETURNING attempts";
        let values = params![
            push,
            endpoint,
            attempt.image_size.map(number),
            attempt.image_size.map(|_| number(attempt.layers)),
            attempt.repository_size.map(number)
        ];
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_row(values, |row| row.get(0)).optional()
    }

    fn waits(&self, place: &Place<'_>, at: i64) -> rusqlite::Result<u64> {
        let Some(push) = self.origin.row(place.sequence) else {
            return Ok(0);
        };
        let sql = "UPDATE deliveries SET next_at = ?3 WHERE push = ?1 AND endpoint = ?2 RETURNING attempts";
        let mut statement = self.connection.prepare_cached(sql)?;
        let attempts: Option<i64> = statement
            .query_row(params![push, place.endpoint, at], |row| row.get(0))
            .optional()?;
        let sql = "UPDATE attempts SET retry_at = ?4 WHERE push = ?1 AND endpoint = ?2 AND number = ?3";
        self.connection
            .prepare_cached(sql)?
            .execute(params![push, place.endpoint, attempts, at])?;
        Ok(0)
    }

    fn ended(&self, place: &Place<'_>, end: &End<'_>) -> rusqlite::Result<u64> {
        let Some(push) = self.origin.row(place.sequence) else {
            return Ok(0);
        };
        match self.end(push, place.endpoint, end)? {
            0 => {
                self.make_up(push, place, None)?;
                self.end(push, place.endpoint, end)
            }
            ended => Ok(ended),
        }
    }

    fn settled(&self, place: &Place<'_>, how: &str) -> rusqlite::Result<u64> {
        let sql = "UPDATE deliveries SET state = ?3, next_at = NULL \
                   WHERE push = ?1 AND endpoint = ?2 AND state IN ('pending', 'unknown')";
        let values = params![self.origin.row(place.sequence), place.endpoint, how];
        Ok(self.connection.prepare_cached(sql)?.execute(values)? as u64)
    }

    fn end(&self, push: i64, endpoint: &str, end: &End<'_>) -> rusqlite::Result<u64> {
        let sql = "UPDATE deliveries SET state = ?3, ended_at = ?4, next_at = NULL, reason = ?5 \
                   WHERE push = ?1 AND endpoint = ?2";
        let values = params![push, endpoint, end.how, end.at, end.reason];
        Ok(self.connection.prepare_cached(sql)?.execute(values)? as u64)
    }
}
