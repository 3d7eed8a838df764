//! The newest push of each tag in a backlog too long to be looked through.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::push::Sequence;

/// The newest push of each tag, by sequence number. Where its tag stands is the backlog's affair: each verb
/// is told how to find it.
#[derive(Debug)]
pub(super) struct Newest {
    table: HashTable<Sequence>,
    hasher: RandomState,
}

impl Newest {
    pub(super) fn new() -> Self {
        Self {
            table: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// The newest push of `tag`.
    pub(super) fn get<'a>(
        &self,
        tag: &str,
        tag_of: impl Fn(Sequence) -> Option<&'a str>,
    ) -> Option<Sequence> {
        let found = self
            .table
            .find(self.hasher.hash_one(tag), |known| tag_of(*known) == Some(tag));
        found.copied()
    }

    /// Makes `sequence` the newest push of `tag`.
    pub(super) fn set<'a>(
        &mut self,
        tag: &str,
        sequence: Sequence,
        tag_of: impl Fn(Sequence) -> Option<&'a str>,
    ) {
        let hash = self.hasher.hash_one(tag);
        let rehash = |known: &Sequence| self.hasher.hash_one(tag_of(*known).unwrap_or_default());
        let entry = self
            .table
            .entry(hash, |known| tag_of(*known) == Some(tag), rehash);
        entry.insert(sequence);
    }

    /// Forgets a push of `tag`, if it is the newest.
    pub(super) fn forget(&mut self, tag: &str, sequence: Sequence) {
        let hash = self.hasher.hash_one(tag);
        if let Ok(entry) = self.table.find_entry(hash, |known| *known == sequence) {
            entry.remove();
        }
    }
}
