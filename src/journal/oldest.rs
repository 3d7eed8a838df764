//! The oldest push that is still owed, for whoever asks at every scrape.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use super::{Journal, owed::READ_BYTES};
use crate::{clock::Timestamp, push::Sequence};

/// When the push that was asked for last was taken.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<(Sequence, Timestamp)>>);

impl Journal {
    /// The oldest push that is still owed.
    #[must_use]
    pub fn oldest(&self) -> Option<Sequence> {
        self.shared.live().oldest()
    }

    /// When a push that is still owed was taken; `None` if it is not. Blocks on the disk.
    ///
    /// # Errors
    /// It can't be read, or is not intact.
    pub fn taken_at(&self, sequence: Sequence) -> io::Result<Option<Timestamp>> {
        let Some(mut push) = self.shared.live().find(sequence) else {
            return Ok(None);
        };
        let mut reader = self.reader(READ_BYTES);
        self.read_one(&mut reader, &mut push, |head| Ok(Some(head.taken_at)))
    }

    /// When the oldest push that is still owed was taken. Blocks on the disk if it is another one than the last
    /// time.
    ///
    /// # Errors
    /// It can't be read, or is not intact; or it was settled meanwhile.
    pub fn oldest_taken_at(&self) -> io::Result<Option<Timestamp>> {
        let Some(oldest) = self.oldest() else {
            return Ok(None);
        };
        let known = || {
            self.shared
                .oldest
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some((_, taken_at)) = known().filter(|(sequence, _)| *sequence == oldest) {
            return Ok(Some(taken_at));
        }
        let mut push = self.shared.live().find(oldest).ok_or(io::ErrorKind::NotFound)?;
        let mut reader = self.reader(READ_BYTES);
        let taken_at = self.read_one(&mut reader, &mut push, |head| Ok(head.taken_at))?;
        *known() = Some((oldest, taken_at));
        Ok(Some(taken_at))
    }
}
