//! Which processes of the registry were heard from.
//!
//! A registry keeps in memory what it has not told yet, and loses it when it ends. So when another one speaks than before,
//! something may have happened that nobody told.

use std::{
    collections::VecDeque,
    sync::{PoisonError, RwLock},
};

/// So many are remembered: far more than one registry has replicas.
const KNOWN_MAX: usize = 64;

/// An id that is longer is told apart by its beginning: the registry's are UUIDs.
const ID_BYTES_MAX: usize = 64;

/// Those that were heard from, the newest last.
#[derive(Debug, Default)]
pub(super) struct Instances(RwLock<VecDeque<Box<str>>>);

impl Instances {
    /// Whether this one speaks for the first time, and another did before.
    pub(super) fn is_another(&self, id: &str) -> bool {
        let id = id.get(..id.floor_char_boundary(ID_BYTES_MAX)).unwrap_or_default();
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|known| **known == *id) {
            return false;
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_another = !known.is_empty() && !known.iter().any(|known| **known == *id);
        if known.len() == KNOWN_MAX {
            known.pop_front();
        }
        known.push_back(id.into());
        is_another
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_one_is_told_once_and_the_first_one_not() {
        let instances = Instances::default();
        assert!(!instances.is_another("one"));
        assert!(!instances.is_another("one"));
        assert!(instances.is_another("two"));
        assert!(!instances.is_another("two") && !instances.is_another("one"));
        for number in 0..2 * KNOWN_MAX {
            assert!(instances.is_another(&format!("number {number}")));
        }
        assert!(instances.is_another("one"), "it is forgotten");
        let long = "é".repeat(ID_BYTES_MAX);
        assert!(instances.is_another(&long) && !instances.is_another(&long));
    }
}
