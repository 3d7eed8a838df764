//! Where things stand in a backlog that is too long to be looked through.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};

use super::record::{COALESCES, Records, tag_at};
use crate::push::Sequence;

/// A record in so many is a milestone.
const MILESTONE_EVERY: usize = 32;

/// Milestones, and the newest push of each tag that coalesces. Both are byte offsets of records: once those
/// move, the index is made anew.
#[derive(Debug)]
pub(super) struct Index {
    newest: HashTable<usize>,
    hasher: DefaultHashBuilder,
    milestones: Vec<Milestone>,
    /// Records since the last milestone, itself included.
    passed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Milestone {
    /// The sequence number of the record ahead of it.
    before: u64,
    at: usize,
}

impl Index {
    /// The index of all these.
    pub(super) fn of(records: Records<'_>, all: &[u8]) -> Self {
        let mut index = Self {
            newest: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            milestones: Vec::new(),
            passed: MILESTONE_EVERY,
        };
        let mut before = records.before();
        for (at, record) in records {
            index.pass(at, before);
            before = record.sequence.get();
            if record.is_live() && record.marks & COALESCES != 0 {
                index.replace_newest(at, all);
            }
        }
        index
    }

    /// Takes note of a record that was added at the end.
    pub(super) fn pass(&mut self, at: usize, before: u64) {
        if self.passed == MILESTONE_EVERY {
            self.milestones.push(Milestone { before, at });
            self.passed = 0;
        }
        self.passed += 1;
    }

    /// From the last milestone before a push on.
    pub(super) fn near<'a>(&self, sequence: Sequence, all: &'a [u8]) -> Option<Records<'a>> {
        let behind = |milestone: &Milestone| milestone.before < sequence.get();
        let index = self.milestones.partition_point(behind).checked_sub(1)?;
        self.from(index, all)
    }

    /// From the last milestone up to a record on.
    pub(super) fn near_offset<'a>(&self, at: usize, all: &'a [u8]) -> Option<Records<'a>> {
        let behind = |milestone: &Milestone| milestone.at <= at;
        let index = self.milestones.partition_point(behind).checked_sub(1)?;
        self.from(index, all)
    }

    fn from<'a>(&self, milestone: usize, all: &'a [u8]) -> Option<Records<'a>> {
        let Milestone { before, at } = *self.milestones.get(milestone)?;
        Some(Records::new(all, at, before))
    }

    /// Where the newest push of `tag` stands.
    pub(super) fn newest(&self, tag: &[u8], all: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(tag);
        self.newest.find(hash, |at| tag_at(all, *at) == tag).copied()
    }

    /// Makes the record at `at` the newest of its tag; tells which was before.
    pub(super) fn replace_newest(&mut self, at: usize, all: &[u8]) -> Option<usize> {
        let tag = tag_at(all, at);
        let rehash = |at: &usize| self.hasher.hash_one(tag_at(all, *at));
        let hash = self.hasher.hash_one(tag);
        match self.newest.entry(hash, |at| tag_at(all, *at) == tag, rehash) {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), at)),
            Entry::Vacant(entry) => {
                entry.insert(at);
                None
            }
        }
    }

    /// Makes room for so many more tags.
    pub(super) fn expect(&mut self, tags: usize, all: &[u8]) {
        let rehash = |at: &usize| self.hasher.hash_one(tag_at(all, *at));
        self.newest.reserve(tags, rehash);
    }

    /// Forgets the record at `at`, whose tag this is, if it is the newest.
    pub(super) fn forget(&mut self, at: usize, tag: &[u8]) {
        let hash = self.hasher.hash_one(tag);
        if let Ok(entry) = self.newest.find_entry(hash, |known| *known == at) {
            entry.remove();
        }
    }
}
