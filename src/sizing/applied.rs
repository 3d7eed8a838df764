//! Which events were applied lately, so that one that comes again moves nothing.
//!
//! In memory only: after a start nothing is known of tags either. An event gets here once its envelope is taken, so that
//! one that could not be is applied when it comes again.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::Mutex,
};

use crate::locked::Locked as _;

/// So many are remembered: as many as the journal remembers whatever their age. Some 3 MiB.
const KEPT_MAX: usize = 100_000;

/// By 64 bits of their ids: of 10^9 events one is taken for another once in 100,000 times, and then moves no tag.
#[derive(Debug, Default)]
pub(super) struct Applied {
    hasher: RandomState,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    known: HashSet<u64>,
    /// The oldest first.
    order: VecDeque<u64>,
}

impl Applied {
    /// Whether the event comes for the first time, as far as is remembered, and remembers it. One without an id always
    /// does.
    pub(super) fn is_news(&self, event_id: &str) -> bool {
        if event_id.is_empty() {
            return true;
        }
        let key = self.hasher.hash_one(event_id);
        let mut kept = self.kept.locked();
        if !kept.known.insert(key) {
            return false;
        }
        kept.order.push_back(key);
        if kept.order.len() > KEPT_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_and_no_more() {
        let applied = Applied::default();
        assert!(applied.is_news("") && applied.is_news(""));
        for number in 0..=KEPT_MAX {
            assert!(applied.is_news(&number.to_string()), "{number}");
        }
        assert!(!applied.is_news(&KEPT_MAX.to_string()) && !applied.is_news("1"));
        assert!(applied.is_news("0"), "it was the oldest");
        let kept = applied.kept.lock().unwrap();
        assert_eq!((kept.known.len(), kept.order.len()), (KEPT_MAX, KEPT_MAX));
    }
}
