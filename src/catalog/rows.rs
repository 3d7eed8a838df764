//! Rows of the tables, as they are read and written within the transaction of a batch.

use rusqlite::{Connection, OptionalExtension, ToSql, params, params_from_iter};

use super::entry::{Attempted, End, Place, Taken};
use crate::{
    journal::JournalId,
    push::{EndpointId, Sequence},
    webhook::sign::webhook_id,
};

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

    /// Behind all its pushes.
    pub(super) fn end(self) -> i64 {
        (self.number + 1) << SEQUENCE_BITS
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
        self.row(sequence.get())
    }

    /// The same, by the number.
    pub(super) fn row(self, sequence: u64) -> Option<i64> {
        let sequence = i64::try_from(sequence).ok()?;
        let number = (0..1 << (62 - SEQUENCE_BITS))
            .contains(&self.number)
            .then_some(self.number)?;
        (sequence < 1 << SEQUENCE_BITS).then_some(number << SEQUENCE_BITS | sequence)
    }
}

/// Which delivery: a push and an endpoint.
pub(super) type Key<'a> = (i64, &'a str);

/// What is known of a push.
pub(super) enum Push<'a> {
    /// All: what an attempt had to make up for it gives way.
    Taken(&'a Taken<'a>),
    /// What an attempt or an end tells, which gives way to whatever there is.
    MadeUp(&'a Place<'a>, Option<&'a str>),
}

/// What became of a push for an endpoint.
pub(super) struct Delivery<'a> {
    /// Its repository, unless it stands in the file.
    pub(super) new: Option<&'a str>,
    pub(super) attempts: i64,
    pub(super) next_at: Option<i64>,
    pub(super) image_size: Option<i64>,
    pub(super) layers: Option<i64>,
    pub(super) repository_size: Option<i64>,
    /// Whether it is pending, or it is not known how it ended.
    pub(super) is_open: bool,
    /// How it ended, as the column `state` says it, if the batch tells; then when and why as well, as far as it does.
    how: Option<&'a str>,
    ended_at: Option<i64>,
    reason: Option<&'a str>,
    /// The place of its newest attempt, if that is of the batch.
    pub(super) newest: Option<usize>,
}

/// An attempt, which is new.
pub(super) struct Attempt<'a> {
    pub(super) key: Key<'a>,
    pub(super) number: i64,
    pub(super) retry_at: Option<i64>,
    pub(super) told: &'a Attempted<'a>,
}

/// A repository that was pushed to, or has a webhook of its own.
#[derive(Default)]
pub(super) struct Repository<'a> {
    /// Whether it is not in the file yet.
    is_new: bool,
    pub(super) last_push_at: Option<i64>,
    pub(super) pushes: i64,
    size: Option<i64>,
    sized_at: Option<i64>,
    /// The tag of the last push of the batch, if there was one.
    pub(super) pushed: Option<&'a str>,
    is_sized: bool,
}

impl Push<'_> {
    /// `is_new` is whether no row has that id.
    pub(super) fn write(&self, connection: &Connection, id: i64, is_new: bool) -> rusqlite::Result<()> {
        match self {
            Self::Taken(taken) => {
                // Before it replaces a row, SQLite copies each page it is going to change, into a file if they are many.
                let verb = if is_new { "INSERT" } else { "INSERT OR REPLACE" };
                let sql = format!(
                    "{verb} INTO pushes (id, sequence, repository, tag, digest, media_type, manifest_size, listed, \
                     taken_at, event_id, actor) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
                );
                connection.prepare_cached(&sql)?.execute(params![
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
            }
            Self::MadeUp(place, digest) => {
                let sql = "INSERT OR IGNORE INTO pushes (id, sequence, repository, tag, digest, event_id, actor) \
                           VALUES (?1, ?2, ?3, ?4, ?5, '', '')";
                let values = params![id, number(place.sequence), place.repository, place.tag, digest];
                connection.prepare_cached(sql)?.execute(values)?;
            }
        }
        Ok(())
    }
}

impl<'a> Delivery<'a> {
    /// One that is new.
    pub(super) fn pending(repository: &'a str) -> Self {
        Self {
            new: Some(repository),
            attempts: 0,
            next_at: None,
            image_size: None,
            layers: None,
            repository_size: None,
            is_open: true,
            how: None,
            ended_at: None,
            reason: None,
            newest: None,
        }
    }

    /// The one in the file.
    pub(super) fn read(connection: &Connection, key: Key<'_>) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT attempts, next_at, image_size, layers, repository_size, state IN ('pending', 'unknown') \
                   FROM deliveries WHERE push = ?1 AND endpoint = ?2";
        let read = connection
            .prepare_cached(sql)?
            .query_row(params![key.0, key.1], |row| {
                Ok(Self {
                    new: None,
                    attempts: row.get(0)?,
                    next_at: row.get(1)?,
                    image_size: row.get(2)?,
                    layers: row.get(3)?,
                    repository_size: row.get(4)?,
                    is_open: row.get(5)?,
                    how: None,
                    ended_at: None,
                    reason: None,
                    newest: None,
                })
            });
        read.optional()
    }

    pub(super) fn ends(&mut self, end: &'a End<'a>) {
        self.is_settled(end.how);
        (self.ended_at, self.reason) = (Some(end.at), end.reason);
    }

    /// It ended; of when and why nothing is known.
    pub(super) fn is_settled(&mut self, how: &'a str) {
        (self.is_open, self.next_at, self.how) = (false, None, Some(how));
    }

    pub(super) fn write(
        &self,
        connection: &Connection,
        origin: Origin,
        key: Key<'_>,
    ) -> rusqlite::Result<()> {
        let (push, endpoint) = key;
        let counted: [&dyn ToSql; 7] = [
            &push,
            &endpoint,
            &self.attempts,
            &self.next_at,
            &self.image_size,
            &self.layers,
            &self.repository_size,
        ];
        let ended: [&dyn ToSql; 3] = [&self.how.unwrap_or("pending"), &self.ended_at, &self.reason];
        let run = |sql, values: &mut dyn Iterator<Item = &dyn ToSql>| -> rusqlite::Result<()> {
            connection
                .prepare_cached(sql)?
                .execute(params_from_iter(values))?;
            Ok(())
        };
        if let Some(repository) = self.new {
            let sql = "INSERT INTO deliveries (push, endpoint, attempts, next_at, image_size, layers, \
                       repository_size, state, ended_at, reason, repository, webhook_id) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
            let id = Sequence::new(Origin::sequence(push))
                .map(|sequence| webhook_id(origin.journal, sequence, &EndpointId::named(endpoint)));
            let whose: [&dyn ToSql; 2] = [&repository, &id.unwrap_or_default()];
            run(sql, &mut counted.into_iter().chain(ended).chain(whose))
        } else if self.how.is_some() {
            let sql = "UPDATE deliveries SET attempts = ?3, next_at = ?4, image_size = ?5, layers = ?6, \
                       repository_size = ?7, state = ?8, ended_at = ?9, reason = ?10 \
                       WHERE push = ?1 AND endpoint = ?2";
            run(sql, &mut counted.into_iter().chain(ended))
        } else {
            // A column that is named is taken out of its indexes and put into them again, whether it changes or not.
            let sql = "UPDATE deliveries SET attempts = ?3, next_at = ?4, image_size = ?5, layers = ?6, \
                       repository_size = ?7 WHERE push = ?1 AND endpoint = ?2";
            run(sql, &mut counted.into_iter())
        }
    }
}

impl Attempt<'_> {
    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "INSERT INTO attempts (push, endpoint, number, at, elapsed_us, status, fault, reason, url, headers, \
                   body, body_bytes, answer, answer_bytes, retry_at) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
        let (told, (push, endpoint)) = (self.told, self.key);
        let (sent, answer) = (told.sent.as_ref(), told.answer.as_ref());
        connection.prepare_cached(sql)?.execute(params![
            push,
            endpoint,
            self.number,
            told.at,
            number(told.elapsed_us),
            told.status,
            told.fault,
            told.reason,
            sent.map(|sent| sent.url),
            sent.map(|sent| sent.headers),
            sent.map(|sent| sent.body.first),
            sent.map(|sent| number(sent.body.bytes)),
            answer.map(|answer| answer.first),
            answer.map(|answer| number(answer.bytes)),
            self.retry_at,
        ])?;
        Ok(())
    }
}

impl Repository<'_> {
    /// One that is new.
    pub(super) fn never_pushed_to() -> Self {
        Self {
            is_new: true,
            ..Self::default()
        }
    }

    /// The one in the file.
    pub(super) fn read(connection: &Connection, name: &str) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT last_push_at, pushes, size, sized_at FROM repositories WHERE name = ?1";
        let read = connection.prepare_cached(sql)?.query_row([name], |row| {
            Ok(Self {
                last_push_at: row.get(0)?,
                pushes: row.get(1)?,
                size: row.get(2)?,
                sized_at: row.get(3)?,
                ..Self::default()
            })
        });
        read.optional()
    }

    /// Its size was found, unless another one was later.
    pub(super) fn sized(&mut self, size: i64, at: i64) {
        let is_other = self.size != Some(size) || self.sized_at.is_none();
        if is_other && self.sized_at.unwrap_or(0) <= at {
            (self.size, self.sized_at) = (Some(size), Some(at));
            self.is_sized = true;
        }
    }

    pub(super) fn write(&self, connection: &Connection, name: &str) -> rusqlite::Result<()> {
        if self.is_new {
            let sql = "INSERT INTO repositories (name, last_push_at, last_tag, pushes, size, sized_at) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let tag = self.pushed.unwrap_or_default();
            let values = params![
                name,
                self.last_push_at,
                tag,
                self.pushes,
                self.size,
                self.sized_at
            ];
            connection.prepare_cached(sql)?.execute(values)?;
            return Ok(());
        }
        // Each has an index of its own, and most pushes leave a size as it is.
        if let Some(tag) = self.pushed {
            let sql = "UPDATE repositories SET last_push_at = ?2, last_tag = ?3, pushes = ?4 WHERE name = ?1";
            let values = params![name, self.last_push_at, tag, self.pushes];
            connection.prepare_cached(sql)?.execute(values)?;
        }
        if self.is_sized {
            let sql = "UPDATE repositories SET size = ?2, sized_at = ?3 WHERE name = ?1";
            let values = params![name, self.size, self.sized_at];
            connection.prepare_cached(sql)?.execute(values)?;
        }
        Ok(())
    }
}

/// As SQLite has numbers.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
