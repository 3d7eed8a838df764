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

/// What is known of a process that speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// It was heard before.
    Known,
    /// None was.
    First,
    /// Others were.
    Another,
}

/// Those that were heard from, the newest last.
#[derive(Debug, Default)]
pub(super) struct Instances(RwLock<VecDeque<Box<str>>>);

impl Instances {
    /// Takes note that this one speaks, and says what was known of it before.
    pub(super) fn hear(&self, id: &str) -> Speaker {
        let id = id.get(..id.floor_char_boundary(ID_BYTES_MAX)).unwrap_or_default();
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|known| **known == *id) {
            return Speaker::Known;
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|known| **known == *id) {
            return Speaker::Known;
        }
        let speaker = if known.is_empty() {
            Speaker::First
        } else {
            Speaker::Another
        };
        if known.len() == KNOWN_MAX {
            known.pop_front();
        }
        known.push_back(id.into());
        speaker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_one_is_new_once_and_the_first_one_is_told_from_the_others() {
        let instances = Instances::default();
        assert_eq!(instances.hear("one"), Speaker::First);
        assert_eq!(instances.hear("one"), Speaker::Known);
        assert_eq!(instances.hear("two"), Speaker::Another);
        assert_eq!(instances.hear("two"), Speaker::Known);
        assert_eq!(instances.hear("one"), Speaker::Known);
        for number in 0..2 * KNOWN_MAX {
            assert_eq!(instances.hear(&format!("number {number}")), Speaker::Another);
        }
        assert_eq!(instances.hear("one"), Speaker::Another, "it is forgotten");
        let long = "é".repeat(ID_BYTES_MAX);
        assert_eq!(instances.hear(&long), Speaker::Another);
        assert_eq!(instances.hear(&long), Speaker::Known);
    }
}
