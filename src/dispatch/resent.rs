//! What is being sent again at this moment, dead letters and past deliveries. It may be older than what its endpoint is
//! owed of the same tag, which waits for it, whichever is older: else the older image could be the last that the endpoint
//! hears of.
//!
//! # Order
//! Whoever sends again begins here before it looks whether a newer push is owed; and who is lent a push looks here after
//! it is owed. So of two that meet one sees the other: either nothing is sent again, or the push waits. Who is forced to
//! send does not look, and may pass one that waits for its turn already.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use crate::{
    catalog::Which,
    image::{RepositoryName, Tag},
    push::EndpointId,
    settings::Letter,
};

/// An attempt is over by then, unless the disk stood still before it; and a lane doesn't wait for that one.
const WAIT_MAX: Duration = Duration::from_mins(1);

type Key = (RepositoryName, Tag, EndpointId);

/// How many of each are being sent.
#[derive(Debug)]
pub(super) struct Resent {
    counts: Mutex<HashMap<Key, usize>>,
    changed: watch::Sender<()>,
}

impl Default for Resent {
    fn default() -> Self {
        Self {
            counts: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

/// One that is being sent, until this is dropped.
#[derive(Debug)]
pub(super) struct Resending<'a>(&'a Resent, Key);

impl Resent {
    /// The letter is sent from now on; `None` if it has no tag, for then none is newer.
    pub(super) fn begin(&self, letter: &Letter) -> Option<Resending<'_>> {
        let tag = letter.tag.clone()?;
        let key = (letter.repository.clone(), tag, letter.endpoint.clone());
        self.change(|counts| *counts.entry(key.clone()).or_default() += 1);
        Some(Resending(self, key))
    }

    /// Whether something of the push's tag is being sent again to its endpoint.
    pub(super) fn has(&self, which: &Which) -> bool {
        let mut has = false;
        self.change(|counts| {
            // As a rule there is nothing at all.
            if let (false, Some(tag)) = (counts.is_empty(), &which.tag) {
                let key = (which.repository.clone(), tag.clone(), which.endpoint.clone());
                has = counts.contains_key(&key);
            }
        });
        has
    }

    /// Waits until nothing is, or for [`WAIT_MAX`].
    pub(super) async fn wait(&self, which: &Which) {
        let mut changed = self.changed.subscribe();
        let none = async {
            while self.has(which) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        _ = timeout(WAIT_MAX, none).await;
    }

    /// Every change is whole before anything can panic.
    fn change(&self, change: impl FnOnce(&mut HashMap<Key, usize>)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
    }
}

impl Drop for Resending<'_> {
    fn drop(&mut self) {
        self.0.change(|counts| {
            let left = counts.get_mut(&self.1).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                counts.remove(&self.1);
            }
        });
        self.0.changed.send_replace(());
    }
}
