//! What the records of all segments amount to: who still owes what, and which event ids are remembered.

use super::{
    Notes,
    extract::{Extract, Told, ToldPush},
    live::Live,
    recent::Found,
    record::{Addresses, RecordError},
    segment::SegmentHeader,
};
use crate::push::{Pair, Sequence, Settlement};

/// The state of the journal after the commits replayed so far.
#[derive(Debug)]
pub(super) struct Replay {
    /// The segment that was taken up last.
    pub(super) segment: u64,
    pub(super) live: Live,
    pub(super) found: Found,
    pub(super) notes: Notes,
    pub(super) next_sequence: Sequence,
}

impl Replay {
    pub(super) fn new(next_sequence: Sequence) -> Self {
        Self {
            segment: 0,
            live: Live::default(),
            found: Found::default(),
            notes: Notes::default(),
            next_sequence,
        }
    }

    /// Passes over so many sequence numbers, which nobody gets any more.
    pub(super) fn pass_over(&mut self, numbers: u64) {
        let next = Sequence::new(self.next_sequence.get().saturating_add(numbers));
        self.next_sequence = next.unwrap_or(self.next_sequence);
    }

    /// Whether a segment of this header, taken up next, begins where the one before it ends. What is passed over in
    /// between is, from now on.
    pub(super) fn goes_on_in(&mut self, header: &SegmentHeader) -> bool {
        // Of the oldest, it is known where it begins.
        if self.segment > 0 {
            self.pass_over(header.passed_over);
        }
        self.next_sequence == header.first_sequence
    }

    /// Takes up the next segment.
    pub(super) fn begin(&mut self, segment: u64) {
        self.segment = segment;
        self.live.begin(segment, self.next_sequence);
    }

    /// Takes in what records of that segment say. An error tells the offset of the record it is about.
    pub(super) fn take(&mut self, extract: &mut Extract) -> Result<(), (u64, RecordError)> {
        extract.tell(|told| match told {
            Told::Push(push, addresses) => {
                let offset = u64::from(push.offset);
                self.take_push(push, addresses).map_err(|error| (offset, error))
            }
            Told::Settled(pair, how) => {
                if pair.sequence < self.next_sequence {
                    self.note_end(pair, how);
                }
                // A settlement outlives its push: then there is nothing to settle.
                self.live.settle(pair);
                Ok(())
            }
            Told::EventId(key, taken_at) => {
                self.found.add(key, taken_at, self.segment);
                Ok(())
            }
        })
    }

    /// Notes how a pair ended that is owed still.
    pub(super) fn note_end(&mut self, pair: Pair, how: Settlement) {
        let owed = self.live.find(pair.sequence);
        let owed = owed.filter(|push| push.unsettled.contains(pair.place));
        self.notes.settled(pair, how, owed.map(|push| push.standing));
    }

    fn take_push(&mut self, push: ToldPush, addresses: Option<Addresses<'_>>) -> Result<(), RecordError> {
        let is_new = push.carried.is_none();
        match push.carried {
            None if push.sequence == self.next_sequence => {
                self.live.push(push.sequence, push.offset, push.bytes, push.owed);
                self.notes.add(push.sequence, addresses);
                self.next_sequence = push.sequence.next();
            }
            None => {
                return Err(RecordError::Malformed(
                    "this push's sequence number is not the next one",
                ));
            }
            Some(unsettled) if push.sequence < self.next_sequence => {
                self.live.carry(push.sequence, push.offset, push.bytes, unsettled);
            }
            Some(_) => {
                return Err(RecordError::Malformed(
                    "this push was carried forward before it was taken",
                ));
            }
        }
        if let Some(key) = push.key {
            if is_new {
                self.found.add_new(key, push.taken_at, self.segment);
            } else {
                self.found.add(key, push.taken_at, self.segment);
            }
        }
        Ok(())
    }
}
