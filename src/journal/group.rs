//! The commit in the making: the records it will hold, and who waits for it.

use tokio::sync::oneshot;

use super::{
    AppendError, Applied,
    frame::{FRAME_HEADER_BYTES, Seed},
    inbox::Append,
    live::Live,
    recent::Place,
    record,
};
use crate::push::Sequence;

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(super) struct Waiter {
    reply: oneshot::Sender<Result<(), AppendError>>,
    /// Whether the answer hangs on this group's commit.
    pub(super) depends: bool,
    /// How many of the group's [`Applied`] are this append's.
    applied: usize,
}

impl Waiter {
    pub(super) fn new(reply: oneshot::Sender<Result<(), AppendError>>) -> Self {
        Self {
            reply,
            depends: false,
            applied: 0,
        }
    }
}

/// Where a new push's record stands once the group is committed.
#[derive(Debug)]
struct Placed {
    offset: u32,
    bytes: u32,
    owed: u16,
}

/// The group. Its buffers are used again by the next one.
#[derive(Debug)]
pub(super) struct Group {
    /// Room for the frame's header, then the records.
    pub(super) frame: Vec<u8>,
    pub(super) waiters: Vec<Waiter>,
    applied: Vec<Applied>,
    /// Pushes among the records.
    pub(super) pushes: u64,
    /// Where those pushes stand, in order.
    placed: Vec<Placed>,
    /// Where the ids of this group begin.
    pub(super) ids_from: Place,
    /// Where its sequence numbers begin.
    pub(super) sequence_from: Sequence,
}

impl Group {
    pub(super) fn new() -> Self {
        Self {
            frame: vec![0; FRAME_HEADER_BYTES],
            waiters: Vec::new(),
            applied: Vec::new(),
            pushes: 0,
            placed: Vec::new(),
            ids_from: 0,
            sequence_from: Sequence::FIRST,
        }
    }

    pub(super) fn begin(&mut self, ids_from: Place, sequence_from: Sequence) {
        self.ids_from = ids_from;
        self.sequence_from = sequence_from;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn record_bytes(&self) -> usize {
        self.frame.len().saturating_sub(FRAME_HEADER_BYTES)
    }

    /// Adds a new push's record; the frame is to stand at `base`.
    pub(super) fn add_push(&mut self, record: &[u8], seed: Seed, sequence: Sequence, base: u64, owed: usize) {
        let at = self.frame.len();
        self.frame.extend_from_slice(record);
        record::number_push(self.frame.get_mut(at..).unwrap_or_default(), seed, sequence);
        self.placed.push(Placed {
            // Segments are smaller than 4 GiB, and an append is refused long before it is as large.
            offset: u32::try_from(base + at as u64).unwrap_or(u32::MAX),
            bytes: u32::try_from(record.len()).unwrap_or(u32::MAX),
            owed: u16::try_from(owed).unwrap_or(u16::MAX),
        });
        self.pushes += 1;
    }

    /// Enters the group's pushes, which are durable now, into the index.
    pub(super) fn enter(&self, live: &mut Live) {
        let mut sequence = self.sequence_from;
        for placed in &self.placed {
            live.push(sequence, placed.offset, placed.bytes, placed.owed);
            sequence = sequence.next();
        }
    }

    pub(super) fn apply(&mut self, waiter: &mut Waiter, applied: Applied) {
        self.applied.push(applied);
        waiter.applied += 1;
    }

    /// What to apply: all of it, or, when the commit failed, the changes of those who did not hang on it.
    pub(super) fn take_applied(&mut self, is_durable: bool) -> Vec<Applied> {
        let mut applied = std::mem::take(&mut self.applied);
        if !is_durable {
            let mut fates = self
                .waiters
                .iter()
                .flat_map(|waiter| std::iter::repeat_n(!waiter.depends, waiter.applied));
            applied.retain(|_| fates.next().unwrap_or(false));
        }
        applied
    }

    /// Lets go of what was applied, and keeps the room for the next group's.
    pub(super) fn let_go(&mut self, mut applied: Vec<Applied>) {
        applied.clear();
        applied.shrink_to(APPLIED_KEPT);
        self.applied = applied;
    }

    /// Answers everybody, and is empty again.
    pub(super) fn answer(&mut self, result: &Result<(), AppendError>) {
        for waiter in self.waiters.drain(..) {
            let answer = if waiter.depends { result.clone() } else { Ok(()) };
            // Nobody may wait for it any more: then it is durable all the same.
            let _ = waiter.reply.send(answer);
        }
        self.clear();
    }

    /// Tells one append that it is not taken.
    pub(super) fn refuse(append: Append, error: AppendError) {
        let _ = append.reply.send(Err(error));
    }

    /// Drops the records; there must be nobody who waits for them.
    pub(super) fn clear(&mut self) {
        debug_assert!(self.waiters.is_empty(), "somebody waits for these records");
        self.frame.truncate(FRAME_HEADER_BYTES);
        self.frame.shrink_to(FRAME_BYTES_KEPT);
        self.pushes = 0;
        self.placed.clear();
    }
}

/// For how many pushes and changes room is kept after a large group.
const APPLIED_KEPT: usize = 4 * 1024;

/// How much of the buffer is kept after a large group.
const FRAME_BYTES_KEPT: usize = 4 * 1024 * 1024;
