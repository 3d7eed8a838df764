//! How a letter is read from its row, and what becomes of one that can't be: it is nobody's who asks for others. It is
//! passed over and told, once, and goes when it is too old or there is no room.

use std::{collections::HashSet, sync::Mutex};

use rusqlite::{Error, Row, types::Type};
use tracing::error;

use super::{
    letter::{KeptLetter, Letter, LetterState},
    listed::references,
    states::endpoint,
};
use crate::{
    clock::Timestamp,
    image::MediaType,
    journal::JournalId,
    locked::Locked as _,
    push::{EndpointId, Sequence},
};

/// What [`read`] reads. A column by its number is found sooner than by its name.
pub(super) const SELECT: &str = "SELECT l.id, l.repository, l.tag, l.journal, l.sequence, l.endpoint, l.digest, l.media_type, \
    l.manifest_size, l.listed, l.event_id, l.actor, l.taken_ms, l.died_ms, l.reason, l.attempts, \
    r.letter IS NOT NULL, r.forced FROM dead_letters l LEFT JOIN replays r ON r.letter = l.id";

/// The number of a column of [`SELECT`].
pub(super) const ID: usize = 0;
pub(super) const REPOSITORY: usize = 1;
pub(super) const FORCED: usize = 17;

/// So many letters that can't be read are told, each once.
const TOLD_MAX: usize = 1_000;

/// The letters of which was said that they can't be read.
#[derive(Debug, Default)]
pub(super) struct Odd(Mutex<HashSet<i64>>);

impl Odd {
    /// What was read of the letter of this number; `None` if that is nothing that was written here, which is told.
    ///
    /// # Errors
    /// The file can't be read: that is no single letter's affair.
    pub(super) fn pass_over<T>(&self, id: i64, read: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
        let error = match read {
            Ok(read) => return Ok(Some(read)),
            Err(
                error @ (Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::Utf8Error(..)
                | Error::InvalidColumnType(..)),
            ) => error,
            Err(error) => return Err(error),
        };
        let mut told = self.0.locked();
        if told.len() < TOLD_MAX && told.insert(id) {
            error!(letter = id, %error, "a dead letter in settings.db can't be read: it is passed over until it is too old");
        }
        Ok(None)
    }
}

/// A row of [`SELECT`].
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<KeptLetter> {
    let moment = |column: usize| row.get(column).map(Timestamp::from_unix_millis);
    let text = |column: usize| Ok::<_, Error>(row.get_ref(column)?.as_str()?);
    let tag = text(2)?;
    let media_type = text(7)?;
    let letter = Letter {
        repository: text(REPOSITORY)?.parse().map_err(odd)?,
        tag: (!tag.is_empty()).then(|| tag.parse()).transpose().map_err(odd)?,
        journal: journal(text(3)?)?,
        sequence: sequence(row, 4)?,
        endpoint: endpoint_of(row, 5)?,
        digest: text(6)?.parse().map_err(odd)?,
        media_type: MediaType::parse(media_type).ok_or_else(|| odd(Unknown(media_type.to_owned())))?,
        manifest_size: u64::try_from(row.get::<_, i64>(8)?).unwrap_or_default(),
        references: references(text(9)?)?,
        event_id: text(10)?.to_owned(),
        actor: text(11)?.to_owned(),
        taken_at: moment(12)?,
        died_at: moment(13)?,
        reason: text(14)?.to_owned(),
        attempts: row.get(15)?,
    };
    let state = if row.get(16)? {
        LetterState::Replaying
    } else {
        LetterState::Dead
    };
    let id = row.get(ID)?;
    Ok(KeptLetter { id, state, letter })
}

/// A value that no version has written.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is nothing that was written here")]
struct Unknown(String);

pub(super) fn odd(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}

pub(super) fn sequence(row: &Row<'_>, column: impl rusqlite::RowIndex) -> rusqlite::Result<Sequence> {
    let number: i64 = row.get(column)?;
    let sequence = u64::try_from(number).ok().and_then(Sequence::new);
    sequence.ok_or_else(|| odd(Unknown(number.to_string())))
}

pub(super) fn endpoint_of(row: &Row<'_>, column: impl rusqlite::RowIndex) -> rusqlite::Result<EndpointId> {
    endpoint(&row.get::<_, String>(column)?)
}

/// A journal's identity as its `Display` writes it.
fn journal(text: &str) -> rusqlite::Result<JournalId> {
    JournalId::parse(text).ok_or_else(|| odd(Unknown(text.to_owned())))
}
