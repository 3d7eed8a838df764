//! The index: which pushes are still owed, by whom, and where their records stand.
//!
//! New pushes of one segment have sequence numbers without gaps, so a table of 12 bytes a push, found by
//! the segment's first sequence number, says it all: where the record stands, and a bit for each pair
//! (push, endpoint) that is unsettled. A push that was carried forward stands in a map instead, and so do
//! the bits of one that more than 32 endpoints owe; both are few in an ordinary journal.
//!
//! Everything here follows the disk: an entry changes only once the commit that says so is durable.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
};

use super::unsettled::{BITS, Unsettled};
use crate::push::{Pair, Sequence};

mod in_order;

use in_order::InOrder;

/// Where a push's record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// The segment's number.
    pub(super) segment: u64,
    /// Byte offset of the record in the segment's file.
    pub(super) offset: u32,
    /// Its length in bytes, with its header.
    pub(super) bytes: u32,
}

/// A push that is still owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LivePush {
    pub(super) sequence: Sequence,
    pub(super) standing: Standing,
    pub(super) unsettled: Unsettled,
}

/// One push's entry: in a segment's table, or in the map of those that were carried forward.
#[derive(Clone, Copy, Debug)]
struct Slot {
    offset: u32,
    bytes: u32,
    /// Bits, or, for a push in `many`, how many of its bits are set. 0 for a push that is settled, or that
    /// stands elsewhere by now.
    unsettled: u32,
}

/// One segment's part of the index.
#[derive(Debug)]
struct SegmentIndex {
    number: u64,
    /// The sequence number of the first new push in it; it may have none.
    first: Sequence,
    /// Its new pushes, by sequence number.
    slots: Vec<Slot>,
    /// Pushes that were carried into it, in the order of the records; some may be settled or gone on.
    carried: Vec<Sequence>,
    /// Bytes of the records in it that are still owed.
    live_bytes: u64,
    /// How far somebody has looked in `carried` and `slots`: everything before that is settled or gone, for good.
    passed: (usize, usize),
}

impl SegmentIndex {
    /// Where in the table a push has its entry, unless it was written before; behind the end if after.
    fn index(&self, sequence: Sequence) -> Option<usize> {
        let index = sequence.get().checked_sub(self.first.get())?;
        usize::try_from(index).ok()
    }

    /// Passes new pushes that owe nothing here any more.
    fn pass_slots(&mut self) {
        let rest = self.slots.get(self.passed.1..).unwrap_or_default();
        self.passed.1 += rest.iter().take_while(|slot| slot.unsettled == 0).count();
    }
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Oldest first, without gaps; the last one is the active segment.
    segments: VecDeque<SegmentIndex>,
    carried: BTreeMap<Sequence, (u64, Slot)>,
    many: HashMap<Sequence, Unsettled>,
    pairs: u64,
    pushes: u64,
    bytes: u64,
}

impl Live {
    /// Takes up the next segment: what comes from here on stands in it.
    pub(super) fn begin(&mut self, number: u64, first: Sequence) {
        let mut pushes = 0;
        if let Some(sealed) = self.segments.back_mut() {
            debug_assert!(sealed.number + 1 == number, "segment numbers have no gaps");
            sealed.slots.shrink_to_fit();
            sealed.carried.shrink_to_fit();
            pushes = sealed.slots.len();
        }
        self.segments.push_back(SegmentIndex {
            number,
            first,
            // As many will be in this one, as a rule.
            slots: Vec::with_capacity(pushes),
            carried: Vec::new(),
            live_bytes: 0,
            passed: (0, 0),
        });
    }

    /// Forgets the newest segment, which must be without pushes: another takes its place.
    pub(super) fn retract(&mut self) {
        let retracted = self.segments.pop_back();
        debug_assert!(retracted.is_none_or(|segment| segment.slots.is_empty() && segment.carried.is_empty()));
    }

    /// Adds a new push to the newest segment; `owed` endpoints owe it. Its sequence number is the next one.
    pub(super) fn push(&mut self, sequence: Sequence, offset: u32, bytes: u32, owed: u16) {
        let Some(segment) = self.segments.back_mut() else {
            return;
        };
        debug_assert_eq!(
            sequence.get(),
            segment.first.get() + segment.slots.len() as u64,
            "sequence numbers have no gaps"
        );
        let unsettled = if owed <= BITS {
            u32::MAX.checked_shr(u32::from(BITS - owed)).unwrap_or(0)
        } else {
            self.many.insert(sequence, Unsettled::all(owed));
            u32::from(owed)
        };
        segment.slots.push(Slot {
            offset,
            bytes,
            unsettled,
        });
        if owed > 0 {
            segment.live_bytes += u64::from(bytes);
            self.bytes += u64::from(bytes);
            self.pairs += u64::from(owed);
            self.pushes += 1;
        }
    }

    /// Says that a push stands in the newest segment from here on, and which of its pairs are unsettled.
    pub(super) fn carry(&mut self, sequence: Sequence, offset: u32, bytes: u32, unsettled: Unsettled) {
        self.forget(sequence);
        let count = unsettled.count();
        let Some(segment) = self.segments.back_mut().filter(|_| count > 0) else {
            return;
        };
        segment.carried.push(sequence);
        segment.live_bytes += u64::from(bytes);
        self.bytes += u64::from(bytes);
        self.pairs += u64::from(count);
        self.pushes += 1;
        let unsettled = match unsettled {
            Unsettled::Few(word) => word,
            many @ Unsettled::Many(_) => {
                self.many.insert(sequence, many);
                count
            }
        };
        let slot = Slot {
            offset,
            bytes,
            unsettled,
        };
        self.carried.insert(sequence, (segment.number, slot));
    }

    /// Settles a pair; `false` if it was not unsettled, or its push is not known.
    pub(super) fn settle(&mut self, pair: Pair) -> bool {
        let Pair { sequence, place } = pair;
        let many = if self.many.is_empty() {
            None
        } else {
            self.many.get_mut(&sequence)
        };
        let found = entry(&mut self.segments, &mut self.carried, sequence);
        let Some((segment, slot)) = found else {
            return false;
        };
        let was_unsettled = if let Some(many) = many {
            let was_unsettled = many.settle(place);
            slot.unsettled -= u32::from(was_unsettled);
            was_unsettled
        } else {
            let mut few = Unsettled::Few(slot.unsettled);
            let was_unsettled = few.settle(place);
            if let Unsettled::Few(word) = few {
                slot.unsettled = word;
            }
            was_unsettled
        };
        if !was_unsettled {
            return false;
        }
        self.pairs -= 1;
        if slot.unsettled == 0 {
            let bytes = slot.bytes;
            self.end(sequence, segment, bytes);
        }
        true
    }

    /// Takes a push out whatever it still owes.
    fn forget(&mut self, sequence: Sequence) {
        let found = entry(&mut self.segments, &mut self.carried, sequence);
        let Some((segment, slot)) = found else { return };
        let (bytes, word) = (slot.bytes, std::mem::take(&mut slot.unsettled));
        let pairs = match self.many.get(&sequence) {
            Some(_) => word,
            None => word.count_ones(),
        };
        self.pairs -= u64::from(pairs);
        self.end(sequence, segment, bytes);
    }

    /// A push owes nothing any more where it stands.
    fn end(&mut self, sequence: Sequence, segment: u64, bytes: u32) {
        self.carried.remove(&sequence);
        if !self.many.is_empty() {
            self.many.remove(&sequence);
        }
        self.pushes -= 1;
        self.bytes -= u64::from(bytes);
        let oldest = self.segments.front().map_or(0, |segment| segment.number);
        let segment = segment
            .checked_sub(oldest)
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| self.segments.get_mut(index));
        if let Some(segment) = segment {
            segment.live_bytes -= u64::from(bytes);
        }
    }

    /// The push, if any endpoint owes it.
    pub(super) fn find(&self, sequence: Sequence) -> Option<LivePush> {
        let segment = segment_of(&self.segments, sequence);
        self.found(sequence, segment.and_then(|segment| self.slot(segment, sequence)))
    }

    /// For whoever asks for many, in order.
    pub(super) fn in_order(&self) -> InOrder<'_> {
        InOrder::new(self)
    }

    /// What stands of a push in the table of a segment, and that segment's number.
    fn slot(&self, segment: usize, sequence: Sequence) -> Option<(u64, Slot)> {
        let segment = self.segments.get(segment)?;
        Some((segment.number, *segment.slots.get(segment.index(sequence)?)?))
    }

    /// The push, by what stands of it in a segment's table.
    fn found(&self, sequence: Sequence, dense: Option<(u64, Slot)>) -> Option<LivePush> {
        let (segment, slot) = dense
            .filter(|(_, slot)| slot.unsettled != 0)
            .or_else(|| self.carried.get(&sequence).copied())?;
        Some(self.live_push(sequence, segment, slot))
    }

    fn live_push(&self, sequence: Sequence, segment: u64, slot: Slot) -> LivePush {
        let many = if self.many.is_empty() {
            None
        } else {
            self.many.get(&sequence).cloned()
        };
        LivePush {
            sequence,
            standing: Standing {
                segment,
                offset: slot.offset,
                bytes: slot.bytes,
            },
            unsettled: many.unwrap_or(Unsettled::Few(slot.unsettled)),
        }
    }

    /// The pushes behind `after` that are still owed, in order.
    pub(super) fn owed_after(&self, after: Option<Sequence>) -> impl Iterator<Item = LivePush> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let carried = self.carried.range((start, Bound::Unbounded));
        let mut carried = carried
            .map(|(sequence, (segment, slot))| (*sequence, *segment, *slot))
            .peekable();
        let mut dense = self.dense_after(after).peekable();
        std::iter::from_fn(move || {
            let is_dense = match (dense.peek(), carried.peek()) {
                (Some((dense, ..)), Some((carried, ..))) => dense < carried,
                (dense, _) => dense.is_some(),
            };
            let next = if is_dense { dense.next() } else { carried.next() };
            next.map(|(sequence, segment, slot)| self.live_push(sequence, segment, slot))
        })
    }

    /// The oldest push that is still owed. What is found to be settled is not looked at again.
    pub(super) fn oldest(&mut self) -> Option<Sequence> {
        let carried = self.carried.keys().next().copied();
        let dense = self.segments.iter_mut().find_map(|segment| {
            segment.pass_slots();
            let passed = segment.passed.1;
            segment.slots.get(passed)?;
            Sequence::new(segment.first.get() + passed as u64)
        });
        carried.into_iter().chain(dense).min()
    }

    fn dense_after(&self, after: Option<Sequence>) -> impl Iterator<Item = (Sequence, u64, Slot)> {
        let from = after.map_or(0, |after| {
            let behind = self.segments.partition_point(|segment| segment.first <= after);
            behind.saturating_sub(1)
        });
        self.segments.range(from..).flat_map(move |segment| {
            let skipped = after.map_or(0, |after| (after.get() + 1).saturating_sub(segment.first.get()));
            let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
            let slots = segment.slots.get(skipped..).unwrap_or_default();
            let first = segment.first.get() + skipped as u64;
            slots
                .iter()
                .zip(first..)
                .filter(|(slot, _)| slot.unsettled != 0)
                .filter_map(|(slot, sequence)| Some((Sequence::new(sequence)?, segment.number, *slot)))
        })
    }

    /// Pushes that the oldest segment still owes, in the order in which they are to be carried forward:
    /// as many as have `bytes_max` bytes together, one at least if there is one. Without those in `skipped`.
    pub(super) fn oldest_owed(&mut self, bytes_max: u64, skipped: &BTreeSet<Sequence>) -> Vec<LivePush> {
        let Some(oldest) = self.segments.front_mut() else {
            return Vec::new();
        };
        let number = oldest.number;
        let is_here = |sequence: &Sequence| {
            self.carried
                .get(sequence)
                .is_some_and(|(segment, _)| *segment == number)
        };
        let (carried, _) = &mut oldest.passed;
        while oldest
            .carried
            .get(*carried)
            .is_some_and(|sequence| !is_here(sequence))
        {
            *carried += 1;
        }
        let carried = *carried;
        oldest.pass_slots();
        let (slots, first) = (oldest.passed.1, oldest.first.get());
        let Some(oldest) = self.segments.front() else {
            return Vec::new();
        };
        let carried = oldest
            .carried
            .get(carried..)
            .unwrap_or_default()
            .iter()
            .filter_map(|sequence| {
                let (segment, slot) = self.carried.get(sequence)?;
                (*segment == number).then_some((*sequence, *slot))
            });
        let dense = oldest
            .slots
            .get(slots..)
            .unwrap_or_default()
            .iter()
            .zip(first + slots as u64..)
            .filter(|(slot, _)| slot.unsettled != 0)
            .filter_map(|(slot, sequence)| Some((Sequence::new(sequence)?, *slot)));
        let (mut found, mut bytes) = (Vec::new(), 0);
        let is_wanted = |(sequence, _): &(Sequence, Slot)| !skipped.contains(sequence);
        for (sequence, slot) in carried.chain(dense).filter(is_wanted) {
            bytes += u64::from(slot.bytes);
            if !found.is_empty() && bytes > bytes_max {
                break;
            }
            found.push(self.live_push(sequence, number, slot));
        }
        found
    }

    /// Forgets the oldest segment, in which nothing is owed.
    pub(super) fn drop_oldest(&mut self) {
        let dropped = self.segments.pop_front();
        debug_assert!(
            dropped.is_none_or(|segment| segment.live_bytes == 0),
            "a segment goes once nothing in it is owed"
        );
    }

    /// Bytes of the records in the oldest segment that are still owed.
    pub(super) fn oldest_bytes(&self) -> u64 {
        self.segments.front().map_or(0, |segment| segment.live_bytes)
    }

    /// Bytes of the records in the newest segment that are still owed.
    pub(super) fn newest_bytes(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.live_bytes)
    }

    /// Bytes of all records that are still owed.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pairs that are unsettled.
    pub(super) fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Pushes of which at least one pair is unsettled.
    pub(super) fn pushes(&self) -> u64 {
        self.pushes
    }
}

/// In which segment's table a push has its entry.
fn segment_of(segments: &VecDeque<SegmentIndex>, sequence: Sequence) -> Option<usize> {
    segments
        .partition_point(|segment| segment.first <= sequence)
        .checked_sub(1)
}

/// The entry of a push that is owed, and the segment in which it stands.
fn entry<'a>(
    segments: &'a mut VecDeque<SegmentIndex>,
    carried: &'a mut BTreeMap<Sequence, (u64, Slot)>,
    sequence: Sequence,
) -> Option<(u64, &'a mut Slot)> {
    let dense = segment_of(segments, sequence).and_then(|segment| {
        let segment = segments.get_mut(segment)?;
        let index = segment.index(sequence)?;
        Some((segment.number, segment.slots.get_mut(index)?))
    });
    dense.filter(|(_, slot)| slot.unsettled != 0).or_else(|| {
        let (segment, slot) = carried.get_mut(&sequence)?;
        Some((*segment, slot))
    })
}
