//! What was delivered lately: the history is written a second later, or so, and knows of it only then. After a kill it
//! may never: what a start finds in the journal is known here as well.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use crate::{
    catalog::Which,
    image::{RepositoryName, Tag},
    push::{EndpointId, Sequence},
    settings::Letter,
};

/// So many images are known that were delivered lately.
pub(super) const LATELY_MAX: usize = 10_000;

/// What is newer or older than another: pushes of one tag for one endpoint.
pub(super) type Key = (RepositoryName, Tag, EndpointId);

/// The newest push of each tag that was delivered lately.
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    newest: HashMap<Key, Sequence>,
    in_order: VecDeque<Key>,
}

impl Lately {
    /// A push of this journal's was delivered.
    pub(super) fn add(&self, which: &Which) {
        let Some(tag) = which.tag.clone() else { return };
        let key = (which.repository.clone(), tag, which.endpoint.clone());
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = lately.newest.get_mut(&key) {
            *newest = which.sequence.max(*newest);
            return;
        }
        lately.newest.insert(key.clone(), which.sequence);
        lately.in_order.push_back(key);
        if lately.in_order.len() > LATELY_MAX
            && let Some(oldest) = lately.in_order.pop_front()
        {
            lately.newest.remove(&oldest);
        }
    }

    /// Whether a push of the letter's tag that is newer than `than` was.
    pub(super) fn has_newer(&self, letter: &Letter, tag: &Tag, than: Option<Sequence>) -> bool {
        let key = (letter.repository.clone(), tag.clone(), letter.endpoint.clone());
        let lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = lately.newest.get(&key);
        newest.is_some_and(|newest| than.is_none_or(|than| *newest > than))
    }
}
