//! The oldest push that is still owed, for whoever asks at every scrape.

use std::{
    io,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::{Journal, owed::READ_BYTES, time::now};
use crate::{clock::Timestamp, locked::Locked as _, push::Sequence};

/// What was found last.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Found>);

#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// The oldest push that was owed, and when it was taken.
    oldest: Option<(Sequence, Timestamp)>,
    /// When it was looked for last, and found or not there.
    at: Option<Instant>,
}

/// For so long nothing is made of it that another push is the oldest by now: it is looked up every second.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(5);

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

    /// When the oldest push that is owed was taken, by what [`oldest_taken_at`](Self::oldest_taken_at) found last; `None` if
    /// nothing is owed, or another one than that just now. Waits for nothing. While the disk can't say when that was, it is
    /// the one that was the oldest before.
    #[must_use]
    pub fn oldest_known(&self) -> Option<Timestamp> {
        let oldest = self.oldest()?;
        let Found { oldest: found, at } = *self.found();
        let is_fresh = at.is_none_or(|at| now() < at + FRESH_FOR);
        found
            .filter(|(sequence, _)| *sequence == oldest || !is_fresh)
            .map(|(_, taken_at)| taken_at)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        let found = &self.shared.oldest.0;
        found.locked()
    }

    /// When the oldest push that is still owed was taken. Blocks on the disk if it is another one than the last
    /// time.
    ///
    /// # Errors
    /// It can't be read, or is not intact; or it was settled meanwhile.
    pub fn oldest_taken_at(&self) -> io::Result<Option<Timestamp>> {
        let oldest = self.oldest();
        let known = self.found().oldest;
        let found = match (oldest, known) {
            (None, _) => None,
            (Some(oldest), Some((sequence, taken_at))) if sequence == oldest => Some((oldest, taken_at)),
            (Some(oldest), _) => {
                let mut push = self.shared.live().find(oldest).ok_or(io::ErrorKind::NotFound)?;
                let mut reader = self.reader(READ_BYTES);
                let taken_at = self.read_one(&mut reader, &mut push, |head| Ok(head.taken_at))?;
                Some((oldest, taken_at))
            }
        };
        *self.found() = Found {
            // What is owed no more says nothing of what is to come.
            oldest: found,
            at: Some(now()),
        };
        Ok(found.map(|(_, taken_at)| taken_at))
    }
}
