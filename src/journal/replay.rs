//! What the records of all segments amount to: who still owes what, and which event ids are remembered.

use super::{
    Notes,
    live::Live,
    recent::{EventKey, Found},
    record::{PushHead, RawRecord, Record, RecordError},
    scan::Commit,
};
use crate::push::Sequence;

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

    /// Takes up the next segment.
    pub(super) fn begin(&mut self, segment: u64) {
        self.segment = segment;
        self.live.begin(segment, self.next_sequence);
        self.notes.begin(self.next_sequence);
    }

    /// Takes in one commit of that segment. An error tells the offset of the record it is about.
    pub(super) fn take(&mut self, commit: &Commit<'_>) -> Result<(), (u64, RecordError)> {
        let segment = self.segment;
        for_each_record(commit, |offset, raw| match raw.decode()? {
            Record::Push(push) => self.take_push(segment, offset, raw.bytes(), push),
            Record::Settled(pair, _) => {
                // A settlement outlives its push: then there is nothing to settle.
                self.live.settle(pair);
                Ok(())
            }
            Record::EventIds(ids) => {
                for id in ids {
                    let (key, taken_at) = id?;
                    self.found.add(key, taken_at, segment);
                }
                Ok(())
            }
        })
    }

    fn take_push(
        &mut self,
        segment: u64,
        offset: u64,
        bytes: usize,
        push: PushHead<'_>,
    ) -> Result<(), RecordError> {
        let too_large = |_| RecordError::Malformed("a segment is larger than 4 GiB");
        let (offset, bytes) = (
            u32::try_from(offset).map_err(too_large)?,
            u32::try_from(bytes).map_err(too_large)?,
        );
        let is_new = push.carried.is_none();
        match push.carried {
            None if push.sequence == self.next_sequence => {
                self.live.push(push.sequence, offset, bytes, push.owed);
                self.notes.add(&push);
                self.next_sequence = push.sequence.next();
            }
            None => {
                return Err(RecordError::Malformed(
                    "this push's sequence number is not the next one",
                ));
            }
            Some(unsettled) if push.sequence < self.next_sequence => {
                self.live.carry(push.sequence, offset, bytes, unsettled);
            }
            Some(_) => {
                return Err(RecordError::Malformed(
                    "this push was carried forward before it was taken",
                ));
            }
        }
        if let Some(key) = EventKey::of(push.event_id) {
            if is_new {
                self.found.add_new(key, push.taken_at, segment);
            } else {
                self.found.add(key, push.taken_at, segment);
            }
        }
        Ok(())
    }
}

/// Hands over each record of a commit, with its offset in the segment.
pub(super) fn for_each_record(
    commit: &Commit<'_>,
    mut take: impl FnMut(u64, RawRecord<'_>) -> Result<(), RecordError>,
) -> Result<(), (u64, RecordError)> {
    let mut rest = commit.payload;
    while !rest.is_empty() {
        let offset = commit.end() - rest.len() as u64;
        let here = |error| (offset, error);
        let (raw, behind) = RawRecord::split(rest).map_err(here)?;
        take(offset, raw).map_err(here)?;
        rest = behind;
    }
    Ok(())
}
