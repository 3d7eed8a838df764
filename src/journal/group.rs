//! The commit in the making: the records it will hold, and who waits for it.

use std::ops::Range;

use tokio::sync::oneshot;

use super::{
    AppendError, Applied, Applier, Durable,
    frame::{FRAME_HEADER_BYTES, Seed},
    inbox::Answer,
    live::Live,
    progress::Ticket,
    recent::Place,
    record,
};
use crate::push::Sequence;

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Answer>,
    /// Dropped with the answer.
    pub(super) ticket: Option<Ticket>,
    /// Whether the answer hangs on this group's commit.
    pub(super) depends: bool,
    /// What is to be applied for it.
    pub(super) applied: Vec<Applied>,
}

/// Where a new push's record stands.
#[derive(Debug)]
struct Placed {
    /// Within the frame.
    offset: u32,
    bytes: u32,
    owed: u16,
}

/// The group. Its buffers are used again by the next one.
#[derive(Debug)]
pub(super) struct Group {
    /// Room for the frame's header, then the records.
    pub(super) frame: Vec<u8>,
    /// While an append is taken in: up to where the frame's records are kept, and where the next one to be looked at
    /// stands.
    kept: usize,
    next: usize,
    waiters: Vec<Waiter>,
    /// Bytes of the records that its appends came with, those that were left out included.
    pub(super) offered: usize,
    /// Pushes among the records.
    pub(super) pushes: u64,
    /// Where those pushes stand, in order.
    placed: Vec<Placed>,
    /// The places of this group's ids.
    pub(super) ids: Range<Place>,
    /// Where its sequence numbers begin.
    pub(super) sequence_from: Sequence,
}

impl Group {
    pub(super) fn new() -> Self {
        Self {
            frame: vec![0; FRAME_HEADER_BYTES],
            kept: 0,
            next: 0,
            waiters: Vec::new(),
            offered: 0,
            pushes: 0,
            placed: Vec::new(),
            ids: 0..0,
            sequence_from: Sequence::FIRST,
        }
    }

    pub(super) fn begin(&mut self, ids_from: Place, sequence_from: Sequence) {
        self.ids = ids_from..ids_from;
        self.sequence_from = sequence_from;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// How many wait for it.
    pub(super) fn appends(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn record_bytes(&self) -> usize {
        self.frame.len().saturating_sub(FRAME_HEADER_BYTES)
    }

    /// Takes in the records of an append; for each push among them, [`Group::keep_push`] or [`Group::leave_out`] is to
    /// follow, in their order, then [`Group::end_append`].
    pub(super) fn take_in(&mut self, frame: Vec<u8>) {
        self.offered += frame.len().saturating_sub(FRAME_HEADER_BYTES);
        if self.record_bytes() == 0 && frame.len() >= TAKEN_WHOLE_BYTES {
            self.frame = frame;
            self.next = FRAME_HEADER_BYTES;
        } else {
            self.next = self.frame.len();
            self.frame
                .extend_from_slice(frame.get(FRAME_HEADER_BYTES..).unwrap_or_default());
        }
        self.kept = self.next;
    }

    /// Leaves out the next record, which has so many bytes.
    pub(super) fn leave_out(&mut self, bytes: u32) {
        self.next += bytes as usize;
    }

    /// Keeps the next record, which is this new push's.
    pub(super) fn keep_push(&mut self, durable: &Durable, seed: Seed) {
        let bytes = durable.bytes as usize;
        let (at, from) = (self.kept, self.next);
        if at != from {
            self.frame.copy_within(from..from + bytes, at);
        }
        self.kept += bytes;
        self.next += bytes;
        let record = self.frame.get_mut(at..self.kept);
        record::number_push(record.unwrap_or_default(), seed, durable.sequence);
        self.placed.push(Placed {
            // An append is refused long before it is as large.
            offset: u32::try_from(at).unwrap_or(u32::MAX),
            bytes: durable.bytes,
            owed: u16::try_from(durable.push.owed.len()).unwrap_or(u16::MAX),
        });
        self.pushes += 1;
    }

    /// All of the append is looked at, and its ids end there; its caller waits.
    pub(super) fn end_append(&mut self, waiter: Waiter, ids_to: Place) {
        self.ids.end = ids_to;
        self.frame.truncate(self.kept);
        self.waiters.push(waiter);
    }

    /// Enters the group's pushes, which are durable now, into the index; its frame stands at `base`.
    pub(super) fn enter(&self, live: &mut Live, base: u64) {
        // Segments are smaller than 4 GiB.
        let base = u32::try_from(base).unwrap_or(u32::MAX);
        let mut sequence = self.sequence_from;
        for placed in &self.placed {
            let offset = base.saturating_add(placed.offset);
            live.push(sequence, offset, placed.bytes, placed.owed);
            sequence = sequence.next();
        }
    }

    /// Shows `applier` what to apply: all of it, or, when the commit failed, the changes of those who did not hang on
    /// it.
    pub(super) fn apply(&self, is_durable: bool, applier: &mut Applier) {
        for waiter in &self.waiters {
            if (is_durable || !waiter.depends) && !waiter.applied.is_empty() {
                applier(&waiter.applied);
            }
        }
    }

    /// Answers everybody, and is empty again.
    pub(super) fn answer(&mut self, result: &Result<(), AppendError>) {
        for waiter in self.waiters.drain(..) {
            let answer = Answer {
                result: if waiter.depends { result.clone() } else { Ok(()) },
                done_with: waiter.applied,
            };
            // Nobody may wait for it any more: then it is durable all the same.
            let _ = waiter.reply.send(answer);
            drop(waiter.ticket);
        }
        self.clear();
    }

    /// Drops the records; there must be nobody who waits for them.
    pub(super) fn clear(&mut self) {
        debug_assert!(self.waiters.is_empty(), "somebody waits for these records");
        self.frame.truncate(FRAME_HEADER_BYTES);
        self.frame.shrink_to(FRAME_BYTES_KEPT);
        self.offered = 0;
        self.pushes = 0;
        self.placed.clear();
    }
}

/// The buffer of an append of so many bytes is taken over rather than copied.
const TAKEN_WHOLE_BYTES: usize = 64 * 1024;

/// How much of the buffer is kept after a large group.
const FRAME_BYTES_KEPT: usize = 4 * 1024 * 1024;
