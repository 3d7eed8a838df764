//! How a letter is read from its row, and what becomes of one that can't be: it is nobody's who asks for others. It is
//! passed over and told, once, and goes when it is too old or there is no room.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

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
    push::{EndpointId, Sequence},
};

/// What [`read`] reads.
pub(super) const SELECT: &str = "SELECT l.*, r.letter IS NOT NULL AS replaying, r.forced FROM dead_letters l LEFT JOIN replays r ON r.letter = l.id";

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
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD_MAX && told.insert(id) {
            error!(letter = id, %error, "a dead letter in settings.db can't be read: it is passed over until it is too old");
        }
        Ok(None)
    }
}

/// A row of [`SELECT`].
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<KeptLetter> {
    let moment = |name: &str| row.get(name).map(Timestamp::from_unix_millis);
    let text = |name: &str| row.get::<_, String>(name);
    let tag = text("tag")?;
    let media_type = text("media_type")?;
    let letter = Letter {
        journal: journal(&text("journal")?)?,
        sequence: sequence(row, "sequence")?,
        endpoint: endpoint_of(row, "endpoint")?,
        repository: text("repository")?.parse().map_err(odd)?,
        tag: (!tag.is_empty()).then(|| tag.parse()).transpose().map_err(odd)?,
        digest: text("digest")?.parse().map_err(odd)?,
        media_type: MediaType::parse(&media_type).ok_or_else(|| odd(Unknown(media_type)))?,
        manifest_size: u64::try_from(row.get::<_, i64>("manifest_size")?).unwrap_or_default(),
        references: references(&text("listed")?)?,
        event_id: text("event_id")?,
        actor: text("actor")?,
        taken_at: moment("taken_ms")?,
        died_at: moment("died_ms")?,
        reason: text("reason")?,
        attempts: row.get("attempts")?,
    };
    let state = if row.get("replaying")? {
        LetterState::Replaying
    } else {
        LetterState::Dead
    };
    let id = row.get("id")?;
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
    let number = u128::from_str_radix(text, 16).map_err(odd)?;
    Ok(JournalId(number.to_be_bytes()))
}
