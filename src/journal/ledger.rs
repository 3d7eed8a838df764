//! What the records of a journal amount to, also when some of them are missing: [`super::replay`] for the
//! tools.
//!
//! A start builds an index that rests on sequence numbers that have gaps only where a segment says so. This one takes
//! what there is, in the order in which it was written, and says where it doesn't fit together.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{
    frame::Seed,
    live::Standing,
    recent::{EventKey, Found},
    record::{PushHead, RawRecord, Record, RecordError},
    unsettled::Unsettled,
};
use crate::push::{Pair, Sequence};

/// A push that is still owed.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where its newest copy stands; the segment is the one that the file's name tells.
    pub(super) standing: Standing,
    pub(super) unsettled: Unsettled,
    /// How many endpoints owed it at first.
    places: u16,
}

/// What a record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Push(Sequence),
    Carried(Sequence),
    Settled(Pair),
    EventIds(u64),
}

/// The ledger.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) owed: BTreeMap<Sequence, Entry>,
    pub(super) ids: Found,
    /// The sequence numbers of all pushes seen.
    pub(super) seen: Ranges,
    /// Sequence numbers from `floor` on of which a settlement was seen, but no push.
    pub(super) settled_unseen: BTreeSet<Sequence>,
    /// Pushes before this one may be gone with the segments they stood in.
    pub(super) floor: Option<Sequence>,
    /// What the next new push must have, once that is known.
    pub(super) next: Option<Sequence>,
    /// The highest sequence number that was seen anywhere.
    pub(super) highest: u64,
}

impl Ledger {
    /// Takes in a record, and tells what it was and what is wrong with it. A record that doesn't fit is taken in
    /// all the same.
    ///
    /// # Errors
    /// It can't be read: nothing was taken in.
    pub(super) fn take(
        &mut self,
        seed: Seed,
        segment: u64,
        offset: u64,
        raw: &RawRecord<'_>,
    ) -> Result<(Kind, Option<&'static str>), RecordError> {
        let record = raw.decode()?;
        if !raw.is_intact(seed) {
            return Err(RecordError::Malformed("the record's checksum is wrong"));
        }
        match record {
            Record::Push(head) => {
                head.to_push()?;
                let too_large = |_| RecordError::Malformed("a segment is larger than 4 GiB");
                let standing = Standing {
                    segment,
                    offset: u32::try_from(offset).map_err(too_large)?,
                    bytes: u32::try_from(raw.bytes()).map_err(too_large)?,
                };
                Ok(self.take_push(standing, head))
            }
            Record::Settled(pair, _) => Ok((Kind::Settled(pair), self.settle(pair))),
            Record::EventIds(ids) => {
                let ids = ids.collect::<Result<Vec<_>, _>>()?;
                let count = ids.len() as u64;
                for (key, taken_at) in ids {
                    self.ids.add(key, taken_at, segment);
                }
                Ok((Kind::EventIds(count), None))
            }
        }
    }

    /// Nobody has these numbers: no push of them is missing.
    pub(super) fn pass_over(&mut self, numbers: Range<u64>) {
        self.seen.insert_all(numbers);
    }

    fn take_push(&mut self, standing: Standing, head: PushHead<'_>) -> (Kind, Option<&'static str>) {
        let sequence = head.sequence;
        let (kind, fault) = match &head.carried {
            None => {
                let is_next = self.next.is_none_or(|next| next == sequence);
                self.next = Some(sequence.next());
                let fault = (!is_next).then_some("this push's sequence number is not the next one");
                (Kind::Push(sequence), fault)
            }
            Some(unsettled) => (Kind::Carried(sequence), self.carried_fault(sequence, unsettled)),
        };
        self.note(sequence);
        self.seen.insert(sequence.get());
        self.settled_unseen.remove(&sequence);
        let unsettled = head.carried.unwrap_or_else(|| Unsettled::all(head.owed));
        if unsettled.count() > 0 {
            let entry = Entry {
                standing,
                unsettled,
                places: head.owed,
            };
            self.owed.insert(sequence, entry);
        } else {
            self.owed.remove(&sequence);
        }
        if let Some(key) = EventKey::of(head.event_id) {
            self.ids.add(key, head.taken_at, standing.segment);
        }
        (kind, fault)
    }

    /// A copy owes what its push owed when it was made: no more, no less.
    fn carried_fault(&self, sequence: Sequence, unsettled: &Unsettled) -> Option<&'static str> {
        if self.next.is_some_and(|next| sequence >= next) {
            return Some("this push was carried forward before it was taken");
        }
        match self.owed.get(&sequence) {
            Some(entry) if entry.unsettled != *unsettled => {
                Some("this copy of a push does not owe what the push owed")
            }
            None if self.seen.contains(sequence.get()) => {
                Some("this push was settled before it was carried forward")
            }
            _ => None,
        }
    }

    /// Settles a pair; a settlement outlives its push, so there may be nothing to settle.
    pub(super) fn settle(&mut self, pair: Pair) -> Option<&'static str> {
        let sequence = pair.sequence;
        self.note(sequence);
        let Some(entry) = self.owed.get_mut(&sequence) else {
            if self.floor.is_none_or(|floor| sequence >= floor) && !self.seen.contains(sequence.get()) {
                self.settled_unseen.insert(sequence);
            }
            return None;
        };
        if pair.place >= entry.places {
            return Some("this settles a pair that the push never had");
        }
        entry.unsettled.settle(pair.place);
        if entry.unsettled.count() == 0 {
            self.owed.remove(&sequence);
        }
        None
    }

    fn note(&mut self, sequence: Sequence) {
        self.highest = self.highest.max(sequence.get());
    }

    /// Pairs that are unsettled.
    pub(super) fn pairs(&self) -> u64 {
        self.owed
            .values()
            .map(|entry| u64::from(entry.unsettled.count()))
            .sum()
    }
}

/// A set of numbers that mostly follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn insert(&mut self, number: u64) {
        if !self.contains(number) {
            self.insert_all(number..number.saturating_add(1));
        }
    }

    /// All of these numbers.
    fn insert_all(&mut self, numbers: Range<u64>) {
        if numbers.is_empty() {
            return;
        }
        let (mut first, mut last) = (numbers.start, numbers.end - 1);
        // What they meet, or touch, becomes one with them.
        while let Some((&from, &to)) = self.0.range(..=last.saturating_add(1)).next_back()
            && to.saturating_add(1) >= first
        {
            self.0.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        self.0.insert(first, last);
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let range = self.0.range(..=number).next_back();
        range.is_some_and(|(_, last)| *last >= number)
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    /// The numbers from `from` up to but without `end` that are not in the set, as ranges, both ends included.
    pub(super) fn missing(&self, from: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut missing, mut at) = (Vec::new(), from);
        for (first, last) in &self.0 {
            if *first >= end {
                break;
            }
            if *first > at {
                missing.push((at, first - 1));
            }
            at = at.max(last.saturating_add(1));
        }
        if at < end {
            missing.push((at, end - 1));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_at_both_ends_and_merge() {
        let mut ranges = Ranges::default();
        for number in [5, 7, 6, 1, 2, 9, 5] {
            ranges.insert(number);
        }
        assert_eq!(ranges.0.into_iter().collect::<Vec<_>>(), [(1, 2), (5, 7), (9, 9)]);
    }

    #[test]
    fn a_range_of_numbers_is_as_good_as_each_of_them() {
        for (numbers, wanted) in [
            (3..3, vec![(1, 2), (5, 7), (20, 20)]),
            (3..4, vec![(1, 3), (5, 7), (20, 20)]),
            (6..7, vec![(1, 2), (5, 7), (20, 20)]),
            (9..10, vec![(1, 2), (5, 7), (9, 9), (20, 20)]),
            (3..5, vec![(1, 7), (20, 20)]),
            (9..12, vec![(1, 2), (5, 7), (9, 11), (20, 20)]),
            (2..30, vec![(1, 29)]),
            (6..20, vec![(1, 2), (5, 20)]),
            (0..6, vec![(0, 7), (20, 20)]),
        ] {
            let mut ranges = Ranges::default();
            for number in [1, 2, 5, 6, 7, 20] {
                ranges.insert(number);
            }
            ranges.insert_all(numbers.clone());
            assert_eq!(ranges.0.into_iter().collect::<Vec<_>>(), wanted, "{numbers:?}");
        }
    }

    #[test]
    fn what_is_missing_is_told_within_bounds() {
        let mut ranges = Ranges::default();
        for number in [3, 4, 8] {
            ranges.insert(number);
        }
        assert_eq!(ranges.missing(1, 11), [(1, 2), (5, 7), (9, 10)]);
        assert_eq!(ranges.missing(4, 9), [(5, 7)]);
        assert_eq!(ranges.missing(4, 5), []);
        assert_eq!(Ranges::default().missing(2, 4), [(2, 3)]);
    }
}
