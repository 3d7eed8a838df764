//! What one lane owes, as records end to end in one text: some 20 bytes a push.
//!
//! # Invariants
//! - Records stand in the order of their sequence numbers. One that ended in the middle stays, dead, until it
//!   is at the front or more are dead than live; so the first is never dead.
//! - The records from `unsealed` on are in the lane's open window. All others are sealed.
//! - A batch is a run of records: the first of each is marked, and the mark moves on when that one goes.
//! - Of each tag that coalesces, the newest live sealed record is what a newer push supersedes. An older one
//!   is there only while it is in flight.

use super::{
    index::Index,
    record::{COALESCES, DEAD, FIRST, Record, Records, tag_at},
};
use crate::{image::Tag, push::Sequence, webhook::Coalesce};

/// A backlog of at most so many records is looked through; a longer one has an index.
const LOOKED_THROUGH_MAX: u32 = 32;

/// The smallest step in which a backlog grows, bytes.
const GROWTH_MIN: usize = 32;

/// So many bytes that are done with, or records that are dead, are let be.
const DONE_BYTES_MIN: usize = 256;
const DEAD_MIN: u32 = 8;

/// One lane's pushes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    records: Vec<u8>,
    /// Where the first record begins, and the sequence number that it counts from.
    start: usize,
    before: u64,
    /// Where the first record of the open window begins, or would.
    unsealed: usize,
    /// The sequence number of the last record, or of one before it.
    last: u64,
    live: u32,
    dead: u32,
    index: Option<Box<Index>>,
}

/// A push that was taken out.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// Its place in the order.
    pub(super) sequence: Sequence,
    /// What it takes on disk, bytes.
    pub(super) bytes: u32,
    /// The endpoint's place among those that owed it at first.
    pub(super) place: u16,
    /// The tag it was pushed by.
    pub(super) tag: Option<Tag>,
    /// How many attempts there were, if that is known. The backlog has nothing but pushes that were never sent since
    /// the start; it is for the lane to know better of its first.
    pub(super) attempts: Option<u32>,
}

/// What a seal made of a lane's part in a window.
#[derive(Debug)]
pub(super) struct Sealed {
    /// Its pushes that are still owed.
    pub(super) members: Vec<Sequence>,
    /// Pushes of the window, and older ones, that are superseded.
    pub(super) superseded: Vec<Ended>,
}

impl Backlog {
    /// Sets aside the room of pushes that are about to be added, and no more.
    pub(super) fn expect<'a>(&mut self, records: impl Iterator<Item = Record<'a>>) {
        let lengths = records.scan(self.last, |before, record| {
            let before = std::mem::replace(before, record.sequence.get());
            Some(record.len(before))
        });
        let all = lengths.sum();
        if self.records.is_empty() {
            self.records.reserve_exact(all);
        } else {
            // They may come in many parts.
            self.records.reserve(all);
        }
    }

    /// Adds a push to the open window. Its sequence number is higher than all before.
    pub(super) fn push(&mut self, mut record: Record<'_>) {
        debug_assert!(self.last < record.sequence.get(), "pushes come in order");
        let at = self.records.len();
        if self.unsealed == at {
            record.marks |= FIRST;
        }
        let length = record.len(self.last);
        if at + length > self.records.capacity() {
            self.records.reserve_exact(length + (at / 4).max(GROWTH_MIN));
        }
        record.put(self.last, &mut self.records);
        if let Some(index) = &mut self.index {
            index.pass(at, self.last);
        }
        self.last = record.sequence.get();
        self.live += 1;
        if self.index.is_none() && self.live + self.dead > LOOKED_THROUGH_MAX {
            self.make_index();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// How many pushes are owed.
    pub(super) fn len(&self) -> u32 {
        self.live
    }

    /// The oldest push that is owed, sealed or not.
    pub(super) fn oldest(&self) -> Option<Sequence> {
        self.all().next().map(|(_, record)| record.sequence)
    }

    /// The oldest push that is sealed.
    pub(super) fn first(&self) -> Option<Record<'_>> {
        self.sealed().next()
    }

    /// The pushes of the batch to which the oldest belongs.
    pub(super) fn first_batch(&self) -> Vec<Sequence> {
        let mut sealed = self.sealed();
        let first = sealed.next();
        let rest = sealed.take_while(|record| !record.is_first());
        let batch = first.into_iter().chain(rest).filter(Record::is_live);
        batch.map(|record| record.sequence).collect()
    }

    /// Whether these, which are in order, are the batch to which the oldest push belongs: of what is owed here,
    /// all of that batch is among them, and nothing else.
    pub(super) fn is_first_batch(&self, members: &[Sequence]) -> bool {
        let (mut is_of_first, mut is_one) = (true, false);
        for (number, record) in self.sealed().enumerate() {
            is_of_first &= number == 0 || !record.is_first();
            if !is_of_first && members.last().is_none_or(|last| record.sequence > *last) {
                break;
            }
            let is_member = members.binary_search(&record.sequence).is_ok();
            if record.is_live() && is_member != is_of_first {
                return false;
            }
            is_one |= is_member;
        }
        is_one
    }

    /// Whether a push is owed here.
    pub(super) fn owes(&self, sequence: Sequence) -> bool {
        self.find(sequence).is_some()
    }

    /// Whether any of these, which are in order, is owed.
    pub(super) fn owes_any(&self, members: &[Sequence]) -> bool {
        let (Some(first), Some(last)) = (members.first(), members.last()) else {
            return false;
        };
        let mut within = self
            .near(*first)
            .take_while(|(_, record)| record.sequence <= *last);
        within.any(|(_, record)| record.is_live() && members.binary_search(&record.sequence).is_ok())
    }

    /// Whether a push of this tag that is newer than `than` is owed, in the open window or sealed.
    pub(super) fn owes_newer(&self, tag: &Tag, than: Option<Sequence>) -> bool {
        let mut newer = match than {
            Some(than) => self.near(than.next()),
            None => self.all(),
        };
        newer.any(|(_, record)| record.is_live() && record.tag == tag.as_str().as_bytes())
    }

    /// Takes a push out.
    pub(super) fn remove(&mut self, sequence: Sequence) -> Option<Ended> {
        let at = self.find(sequence)?;
        let ended = self.kill(at)?;
        self.bury();
        Some(ended)
    }

    /// Closes the window, in which a newer push of a tag supersedes the older ones, here and in all that was
    /// sealed before; but for the oldest push of all, if that is in flight.
    pub(super) fn seal(&mut self, coalesce: Coalesce, is_first_in_flight: bool) -> Sealed {
        let window = self
            .near_offset(self.unsealed)
            .filter(|(_, record)| record.is_live());
        let window: Vec<usize> = window.map(|(at, _)| at).collect();
        if let Some(index) = &mut self.index {
            index.expect(window.len(), &self.records);
        }
        let mut superseded = Vec::new();
        for at in window {
            let tag = tag_at(&self.records, at);
            if coalesce == Coalesce::None || tag.is_empty() {
                continue;
            }
            let older = match &mut self.index {
                Some(index) => index.replace_newest(at, &self.records),
                None => self.newest(tag),
            };
            let older = older.filter(|older| *older > self.start || !is_first_in_flight);
            superseded.extend(older.and_then(|older| self.kill(older)));
            self.mark(at, COALESCES);
        }
        let window = self
            .near_offset(self.unsealed)
            .filter(|(_, record)| record.is_live());
        let members = window.map(|(_, record)| record.sequence).collect();
        self.unsealed = self.records.len();
        self.bury();
        Sealed { members, superseded }
    }

    /// Whether a newer push of the same tag is sealed.
    pub(super) fn is_outdated(&self, sequence: Sequence) -> bool {
        let Some(at) = self.find(sequence) else {
            return false;
        };
        let tag = tag_at(&self.records, at);
        !tag.is_empty() && self.newest(tag).is_some_and(|newest| newest > at)
    }

    fn all(&self) -> Records<'_> {
        Records::new(&self.records, self.start, self.before)
    }

    fn sealed(&self) -> impl Iterator<Item = Record<'_>> {
        let sealed = self.all().take_while(|(at, _)| *at < self.unsealed);
        sealed.map(|(_, record)| record)
    }

    /// The records from this one on, or from the first one behind where it would be.
    fn near(&self, sequence: Sequence) -> Records<'_> {
        let milestone = self
            .index
            .as_ref()
            .and_then(|index| index.near(sequence, &self.records));
        let mut records = milestone
            .filter(|records| records.at() >= self.start)
            .unwrap_or(self.all());
        loop {
            let from = records.clone();
            match records.next() {
                Some((_, record)) if record.sequence < sequence => {}
                _ => return from,
            }
        }
    }

    /// The records from the one at `at` on.
    fn near_offset(&self, at: usize) -> Records<'_> {
        let milestone = self
            .index
            .as_ref()
            .and_then(|index| index.near_offset(at, &self.records));
        let mut records = milestone
            .filter(|records| records.at() >= self.start)
            .unwrap_or(self.all());
        while records.at() < at && records.next().is_some() {}
        records
    }

    /// Where a push that is owed stands.
    fn find(&self, sequence: Sequence) -> Option<usize> {
        if sequence.get() > self.last {
            return None;
        }
        let (at, record) = self.near(sequence).next()?;
        (record.sequence == sequence && record.is_live()).then_some(at)
    }

    /// Where the newest sealed push of a tag that coalesces stands.
    fn newest(&self, tag: &[u8]) -> Option<usize> {
        if let Some(index) = &self.index {
            return index.newest(tag, &self.records);
        }
        let known = self.all().filter(|(_, record)| record.coalesces(tag));
        known.last().map(|(at, _)| at)
    }

    fn mark(&mut self, at: usize, mark: u8) {
        if let Some(marks) = self.records.get_mut(at) {
            *marks |= mark;
        }
    }

    /// Marks a record as dead. What follows from that is for [`Backlog::bury`].
    fn kill(&mut self, at: usize) -> Option<Ended> {
        let (_, record) = self
            .near_offset(at)
            .next()
            .filter(|(_, record)| record.is_live())?;
        let ended = Ended {
            sequence: record.sequence,
            bytes: record.bytes,
            place: record.place,
            tag: record.to_tag(),
            attempts: (!record.is_restored()).then_some(0),
        };
        self.mark(at, DEAD);
        if let Some(index) = &mut self.index {
            let tag = tag_at(&self.records, at);
            index.forget(at, tag);
            // The only older one that there can be is in flight: it is the newest again.
            let mut first = Records::new(&self.records, self.start, self.before);
            if first.next().is_some_and(|(_, first)| first.coalesces(tag))
                && index.newest(tag, &self.records).is_none()
            {
                index.replace_newest(self.start, &self.records);
            }
        }
        self.live -= 1;
        self.dead += 1;
        Some(ended)
    }

    /// Takes out dead records: at the front always, elsewhere once there are many. What is first of its batch
    /// hands that on.
    fn bury(&mut self) {
        let (mut records, mut mark, mut gone) = (self.all(), 0, 0);
        let from = loop {
            let from = records.clone();
            match records.next() {
                Some((_, record)) if !record.is_live() => mark |= record.marks & FIRST,
                _ => break from,
            }
            gone += 1;
        };
        (self.start, self.before) = (from.at(), from.before());
        self.unsealed = self.unsealed.max(self.start);
        self.dead -= gone;
        self.mark(self.start, mark);
        let is_worn = self.start > DONE_BYTES_MIN && self.start > self.records.len() / 2;
        if is_worn || (self.dead > DEAD_MIN && self.dead > self.live) {
            self.rewrite();
        }
        if self.live <= LOOKED_THROUGH_MAX / 2 {
            self.index = None;
        }
    }

    /// Leaves only live records, and no room.
    fn rewrite(&mut self) {
        let mut records = Vec::with_capacity(self.records.len() - self.start);
        let (mut unsealed, mut mark, mut last) = (None, 0, self.before);
        for (at, mut record) in self.all() {
            if at >= self.unsealed {
                unsealed.get_or_insert(records.len());
            }
            if !record.is_live() {
                mark |= record.marks & FIRST;
                continue;
            }
            record.marks |= std::mem::take(&mut mark);
            record.put(last, &mut records);
            last = record.sequence.get();
        }
        self.unsealed = unsealed.unwrap_or(records.len());
        self.records = records;
        (self.start, self.last, self.dead) = (0, last, 0);
        if self.index.is_some() {
            self.make_index();
        }
    }

    fn make_index(&mut self) {
        self.index = Some(Box::new(Index::of(self.all(), &self.records)));
    }
}

#[cfg(test)]
mod tests;
