//! Single questions to the history, by those who send again.

use rusqlite::{OptionalExtension, params};

use super::{
    reader::{ReadError, Reader, explain, moment, natural},
    rows::Origin,
};
use crate::{
    clock::Timestamp,
    image::{RepositoryName, Tag},
    journal::JournalId,
    push::{EndpointId, Sequence},
};

/// A delivery as far as it takes to send it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastDelivery {
    /// Where it was pushed.
    pub repository: String,
    /// By which tag; empty when by digest.
    pub tag: String,
    /// What was pushed, if that was written down.
    pub digest: Option<String>,
    /// What kind it is, if that was written down.
    pub media_type: Option<String>,
    /// Its own bytes; `None` when the registry did not say.
    pub manifest_size: Option<u64>,
    /// When it was taken, if that was written down.
    pub taken_at: Option<Timestamp>,
    /// The registry's event id, or empty.
    pub event_id: String,
    /// Who pushed it, or empty.
    pub actor: String,
    /// `pending`, `delivered`, `superseded`, `dead_letter`, or `unknown`.
    pub state: String,
}

impl Reader {
    /// The delivery of a push that `journal` took under this number.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn delivery(
        &self,
        journal: JournalId,
        sequence: Sequence,
        endpoint: &EndpointId,
    ) -> Result<Option<PastDelivery>, ReadError> {
        let read = || {
            let Some(push) = self.push(journal, sequence)? else {
                return Ok(None);
            };
            let sql = "SELECT pushes.repository, tag, digest, media_type, manifest_size, taken_at, event_id, actor, state \
                       FROM pushes JOIN deliveries ON deliveries.push = pushes.id WHERE pushes.id = ?1 AND endpoint = ?2";
            let mut statement = self.connection.prepare_cached(sql)?;
            let delivery = statement.query_row(params![push, endpoint.to_string()], |row| {
                Ok(PastDelivery {
                    repository: row.get(0)?,
                    tag: row.get(1)?,
                    digest: row.get(2)?,
                    media_type: row.get(3)?,
                    manifest_size: natural(row, 4)?,
                    taken_at: moment(row, 5)?,
                    event_id: row.get(6)?,
                    actor: row.get(7)?,
                    state: row.get(8)?,
                })
            });
            delivery.optional()
        };
        read().map_err(|error| explain(&self.path, &error))
    }

    /// Whether a push of the same tag that is owed, or was owed, to the endpoint was taken after the one that
    /// `journal` took under this number, at `taken_at`. What was not written down is not known.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn has_newer(
        &self,
        (journal, sequence, taken_at): (JournalId, Sequence, Timestamp),
        (repository, tag): (&RepositoryName, &Tag),
        endpoint: &EndpointId,
    ) -> Result<bool, ReadError> {
        let read = || {
            let push = self.push(journal, sequence)?;
            // By the number it is a search of those behind it: whole sets are asked about, of one tag with many pushes.
            let newer = match push {
                Some(_) => "id > ?4 AND ?5 IS NOT NULL",
                None => "taken_at > ?5 AND ?4 IS NULL",
            };
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM pushes CROSS JOIN deliveries ON deliveries.push = pushes.id \
                 WHERE pushes.repository = ?1 AND tag = ?2 AND endpoint = ?3 AND {newer})"
            );
            let values = params![
                repository.as_str(),
                tag.as_str(),
                endpoint.to_string(),
                push,
                taken_at.unix_millis()
            ];
            self.connection
                .prepare_cached(&sql)?
                .query_row(values, |row| row.get(0))
        };
        read().map_err(|error| explain(&self.path, &error))
    }

    /// The newest push of a journal of which all is known.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn newest(&self, journal: JournalId) -> Result<Option<Sequence>, ReadError> {
        let read = || {
            let Some(number) = self.number(journal)? else {
                return Ok(None);
            };
            let of = |number| Origin { journal, number }.first();
            let sql = "SELECT id FROM pushes WHERE id > ?1 AND id < ?2 AND taken_at IS NOT NULL ORDER BY id DESC LIMIT 1";
            let push = self
                .connection
                .query_row(sql, [of(number), of(number + 1)], |row| row.get(0));
            Ok(push.optional()?.map(Origin::sequence).and_then(Sequence::new))
        };
        read().map_err(|error| explain(&self.path, &error))
    }

    /// Whether it is not known of a push how it ended, for anybody who owed it.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub(super) fn has_open(&self, journal: JournalId, sequence: Sequence) -> Result<bool, ReadError> {
        let read = || {
            let Some(push) = self.push(journal, sequence)? else {
                return Ok(false);
            };
            let sql = "SELECT EXISTS (SELECT 1 FROM deliveries WHERE push = ?1 AND state IN ('pending', 'unknown'))";
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_row([push], |row| row.get(0))
        };
        read().map_err(|error| explain(&self.path, &error))
    }

    /// The row of a push; `None` if nothing of its journal was written down here.
    fn push(&self, journal: JournalId, sequence: Sequence) -> rusqlite::Result<Option<i64>> {
        let number = self.number(journal)?;
        Ok(number.and_then(|number| Origin { journal, number }.push(sequence)))
    }

    /// The number of a journal here, if anything of it was written down.
    fn number(&self, journal: JournalId) -> rusqlite::Result<Option<i64>> {
        let sql = "SELECT number FROM journals WHERE identity = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement
            .query_row([journal.to_string()], |row| row.get(0))
            .optional()
    }
}
