//! What one lane owes, in 20 bytes a push.
//!
//! # Invariants
//! - Entries stand in the order of their sequence numbers. What ended in the middle stays, dead, until it is
//!   at the front or half of all is dead; so the first entry is never dead.
//! - The last `unsealed` entries are in the lane's open window. All others are sealed.
//! - A batch is a run of entries: the first of each is marked, and the mark moves on when that one goes.
//! - Of each tag that coalesces, at most one live sealed entry, the newest, is the *newest*. An older one is
//!   there only while it is in flight.

use std::collections::VecDeque;

use super::{
    newest::Newest,
    tags::{TagAt, Tags},
};
use crate::{push::Sequence, webhook::Coalesce};

/// A backlog of at most so many entries is looked through for a tag; a longer one has an index.
const LOOKED_THROUGH_MAX: usize = 32;

/// The smallest step in which a backlog grows, entries.
const GROWTH_MIN: usize = 2;

/// So many dead entries are let be.
const DEAD_MIN: usize = 8;

const DEAD: u8 = 1;
const FIRST: u8 = 2;
const COALESCES: u8 = 4;

/// A push that is owed: as little of it as waiting takes. The rest stays on disk.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(4))]
pub(super) struct Entry {
    sequence: Sequence,
    /// What it takes on disk, bytes.
    pub(super) bytes: u32,
    tag_at: u32,
    /// The endpoint's place among those that owed it at first.
    pub(super) place: u16,
    tag_bytes: u8,
    marks: u8,
}

impl Entry {
    pub(super) fn new(sequence: Sequence, bytes: u32, place: u16, tag: TagAt) -> Self {
        Self {
            sequence,
            bytes,
            tag_at: tag.at,
            place,
            tag_bytes: tag.bytes,
            marks: 0,
        }
    }

    /// Its place in the order.
    pub(super) fn sequence(self) -> Sequence {
        self.sequence
    }

    /// Where its tag stands.
    pub(super) fn tag(self) -> TagAt {
        TagAt {
            at: self.tag_at,
            bytes: self.tag_bytes,
        }
    }

    /// Says that its tag has moved.
    pub(super) fn move_tag(&mut self, tag: TagAt) {
        self.tag_at = tag.at;
    }

    fn is_live(self) -> bool {
        self.marks & DEAD == 0
    }
}

/// One lane's pushes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    entries: VecDeque<Entry>,
    /// Only where the backlog is long.
    newest: Option<Box<Newest>>,
    dead: u32,
    unsealed: u32,
}

/// What a seal made of a lane's part in a window.
pub(super) struct Sealed {
    /// Its pushes that are still owed.
    pub(super) members: Vec<Sequence>,
    /// Pushes of the window, and older ones, that are superseded.
    pub(super) superseded: Vec<Entry>,
}

impl Backlog {
    /// Adds a push to the open window.
    pub(super) fn push(&mut self, mut entry: Entry) {
        debug_assert!(
            self.entries
                .back()
                .is_none_or(|last| last.sequence() < entry.sequence())
        );
        if self.unsealed == 0 {
            entry.marks |= FIRST;
        }
        if self.entries.len() == self.entries.capacity() {
            self.entries
                .reserve_exact((self.entries.len() / 4).max(GROWTH_MIN));
        }
        self.entries.push_back(entry);
        self.unsealed += 1;
    }

    /// The oldest push that is sealed.
    pub(super) fn first(&self) -> Option<Entry> {
        self.entries.front().filter(|_| self.sealed() > 0).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The pushes of the batch to which the oldest belongs.
    pub(super) fn first_batch(&self) -> Vec<Sequence> {
        let mut others = self.entries.range(..self.sealed()).skip(1);
        let rest = others.by_ref().take_while(|entry| entry.marks & FIRST == 0);
        let rest = rest.filter(|entry| entry.is_live()).map(|entry| entry.sequence());
        self.first()
            .map(Entry::sequence)
            .into_iter()
            .chain(rest)
            .collect()
    }

    /// Whether these, which are in order, are the batch to which the oldest push belongs: of what is owed here,
    /// all of that batch is among them, and nothing else.
    pub(super) fn is_first_batch(&self, members: &[Sequence]) -> bool {
        let (mut is_of_first, mut is_one) = (true, false);
        for (index, entry) in self.entries.range(..self.sealed()).enumerate() {
            is_of_first &= index == 0 || entry.marks & FIRST == 0;
            if !is_of_first && members.last().is_none_or(|last| entry.sequence() > *last) {
                break;
            }
            let is_member = members.binary_search(&entry.sequence()).is_ok();
            if entry.is_live() && is_member != is_of_first {
                return false;
            }
            is_one |= is_member;
        }
        is_one
    }

    /// Where a push that is owed stands.
    pub(super) fn find(&self, sequence: Sequence) -> Option<usize> {
        let found = self
            .entries
            .binary_search_by_key(&sequence, |entry| entry.sequence());
        found.ok().filter(|index| self.get(*index).is_some())
    }

    /// Whether any of these, which are in order, is owed.
    pub(super) fn owes_any(&self, members: &[Sequence]) -> bool {
        let (Some(first), Some(last)) = (members.first(), members.last()) else {
            return false;
        };
        let from = self.entries.partition_point(|entry| entry.sequence() < *first);
        let mut within = self
            .entries
            .range(from..)
            .take_while(|entry| entry.sequence() <= *last);
        within.any(|entry| entry.is_live() && members.binary_search(&entry.sequence()).is_ok())
    }

    /// Takes a push out.
    pub(super) fn remove(&mut self, index: usize, tags: &Tags) -> Option<Entry> {
        let entry = self.kill(index, tags)?;
        self.bury();
        Some(entry)
    }

    /// Closes the window, in which a newer push of a tag supersedes the older ones, here and in all that was
    /// sealed before; but for the oldest push of all, if that is in flight.
    pub(super) fn seal(&mut self, coalesce: Coalesce, is_first_in_flight: bool, tags: &Tags) -> Sealed {
        let (from, mut superseded) = (self.sealed(), Vec::new());
        for index in from..self.entries.len() {
            let Some(entry) = self.get(index).filter(|_| coalesce == Coalesce::Tag) else {
                continue;
            };
            let Some(tag) = tags.get(entry.tag()) else {
                continue;
            };
            let older = self.newest_of(tag, index, tags);
            let older = older.filter(|older| *older > 0 || !is_first_in_flight);
            superseded.extend(older.and_then(|older| self.kill(older, tags)));
            if let Some(entry) = self.entries.get_mut(index) {
                entry.marks |= COALESCES;
            }
            self.set_newest(tag, index, tags);
        }
        let members = self.entries.range(from..).filter(|entry| entry.is_live());
        let members = members.map(|entry| entry.sequence()).collect();
        self.unsealed = 0;
        self.bury();
        Sealed { members, superseded }
    }

    /// Whether a newer push of the same tag is sealed.
    pub(super) fn is_outdated(&self, index: usize, tags: &Tags) -> bool {
        let tag = self.get(index).and_then(|entry| tags.get(entry.tag()));
        let newest = tag.and_then(|tag| self.newest_of(tag, self.sealed(), tags));
        newest.is_some_and(|newest| newest > index)
    }

    /// The live entries, so that their tags can be moved.
    pub(super) fn live_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().filter(|entry| entry.is_live())
    }

    /// The number of entries that are sealed, dead ones included.
    fn sealed(&self) -> usize {
        self.entries.len() - to_usize(self.unsealed)
    }

    fn get(&self, index: usize) -> Option<Entry> {
        self.entries.get(index).copied().filter(|entry| entry.is_live())
    }

    /// The newest push of `tag` among the first `within` entries, which must be all that are sealed.
    fn newest_of(&self, tag: &str, within: usize, tags: &Tags) -> Option<usize> {
        if let Some(newest) = &self.newest {
            return self.find(newest.get(tag, |known| self.tag_of(known, tags))?);
        }
        let is_it = |entry: &Entry| {
            entry.marks & (COALESCES | DEAD) == COALESCES
                && usize::from(entry.tag_bytes) == tag.len()
                && tags.get(entry.tag()) == Some(tag)
        };
        self.entries.range(..within).rposition(is_it)
    }

    fn set_newest(&mut self, tag: &str, index: usize, tags: &Tags) {
        let Some(entry) = self.get(index) else { return };
        let found = self.newest.take();
        let newest =
            found.or_else(|| (index >= LOOKED_THROUGH_MAX).then(|| Box::new(self.index(index, tags))));
        if let Some(mut newest) = newest {
            newest.set(tag, entry.sequence(), |known| self.tag_of(known, tags));
            self.newest = Some(newest);
        }
    }

    /// The index of the first `within` entries.
    fn index(&self, within: usize, tags: &Tags) -> Newest {
        let mut newest = Newest::new();
        let known = self.entries.range(..within);
        for entry in known.filter(|entry| entry.marks & (COALESCES | DEAD) == COALESCES) {
            if let Some(tag) = tags.get(entry.tag()) {
                newest.set(tag, entry.sequence(), |known| self.tag_of(known, tags));
            }
        }
        newest
    }

    fn tag_of<'a>(&self, sequence: Sequence, tags: &'a Tags) -> Option<&'a str> {
        let index = self.find(sequence)?;
        tags.get(self.get(index)?.tag())
    }

    /// Marks an entry as dead. What follows from that is for [`Backlog::bury`].
    fn kill(&mut self, index: usize, tags: &Tags) -> Option<Entry> {
        let entry = self.get(index)?;
        if let Some((newest, tag)) = self.newest.as_mut().zip(tags.get(entry.tag())) {
            newest.forget(tag, entry.sequence());
        }
        self.entries.get_mut(index)?.marks |= DEAD;
        self.dead += 1;
        Some(entry)
    }

    /// Takes out dead entries: at the front always, elsewhere once they are half of all. What is first of
    /// its batch hands that on.
    fn bury(&mut self) {
        while let Some(front) = self.entries.front().filter(|entry| !entry.is_live()) {
            let mark = front.marks & FIRST;
            self.unsealed -= u32::from(self.sealed() == 0);
            self.entries.pop_front();
            self.dead -= 1;
            if let Some(next) = self.entries.front_mut() {
                next.marks |= mark;
            }
        }
        let dead = to_usize(self.dead);
        if dead > DEAD_MIN && dead > self.entries.len() / 2 {
            self.bury_all();
        }
        let (len, capacity) = (self.entries.len(), self.entries.capacity());
        if len <= LOOKED_THROUGH_MAX / 2 {
            self.newest = None;
        }
        if capacity > LOOKED_THROUGH_MAX && len < capacity / 4 {
            self.entries.shrink_to(len * 2);
        }
    }

    fn bury_all(&mut self) {
        let (mut index, mut mark, sealed, unsealed) = (0, 0, self.sealed(), &mut self.unsealed);
        self.entries.retain_mut(|entry| {
            let is_unsealed = index >= sealed;
            index += 1;
            if entry.is_live() {
                entry.marks |= std::mem::take(&mut mark);
                return true;
            }
            mark |= entry.marks & FIRST;
            *unsealed -= u32::from(is_unsealed);
            false
        });
        self.dead = 0;
    }
}

/// No backlog has more than 2^32 entries: sequences and memory end before that.
fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
