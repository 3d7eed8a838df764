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
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::{lately::Key, redeliver::SendAgainError};
use crate::{catalog::Which, locked::Locked as _};

/// So long after the longest attempt one is over, unless the disk stood still before it; and a lane doesn't wait for that
/// one.
const MARGIN: Duration = Duration::from_secs(45);

/// How many of each are being sent.
#[derive(Debug)]
pub(super) struct Resent {
    wait_max: Duration,
    counts: Mutex<HashMap<Key, usize>>,
    changed: watch::Sender<()>,
}

/// One that is being sent, until this is dropped.
#[derive(Debug)]
pub(super) struct Resending<'a>(&'a Resent, Key);

impl Resent {
    /// Nothing is sent again. An attempt takes no longer than that.
    pub(super) fn new(attempt_max: Duration) -> Self {
        Self {
            wait_max: attempt_max + MARGIN,
            counts: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// That one is sent from now on; `None` if it has no tag, for then none is newer.
    pub(super) fn begin(&self, which: &Which) -> Option<Resending<'_>> {
        let key = key(which)?;
        *self.counts().entry(key.clone()).or_default() += 1;
        Some(Resending(self, key))
    }

    /// The same, unless another of its tag is: of two at once the older image could be the last that the endpoint hears of.
    pub(super) fn begin_alone(&self, which: &Which) -> Result<Option<Resending<'_>>, SendAgainError> {
        let Some(key) = key(which) else { return Ok(None) };
        let mut counts = self.counts();
        if counts.contains_key(&key) {
            return Err(SendAgainError::Busy);
        }
        counts.insert(key.clone(), 1);
        Ok(Some(Resending(self, key)))
    }

    /// Whether something of the push's tag is being sent again to its endpoint.
    pub(super) fn has(&self, which: &Which) -> bool {
        let counts = self.counts();
        // As a rule there is nothing at all.
        !counts.is_empty() && key(which).is_some_and(|key| counts.contains_key(&key))
    }

    /// Waits until nothing is, or for longer than an attempt takes.
    pub(super) async fn wait(&self, which: &Which) {
        let mut changed = self.changed.subscribe();
        let none = async {
            while self.has(which) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        _ = timeout(self.wait_max, none).await;
    }

    /// Every change is whole before anything can panic.
    fn counts(&self) -> MutexGuard<'_, HashMap<Key, usize>> {
        self.counts.locked()
    }
}

impl Drop for Resending<'_> {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
        drop(counts);
        self.0.changed.send_replace(());
    }
}

fn key(which: &Which) -> Option<Key> {
    let tag = which.tag.clone()?;
    Some((which.repository.clone(), tag, which.endpoint.clone()))
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::{
        dispatch::which,
        push::{EndpointId, Sequence},
    };

    const ATTEMPT_MAX: Duration = Duration::from_mins(10);

    fn push(number: u64, repository: &str, endpoint: &str, tag: Option<&str>) -> Which {
        let tag = tag.map(|tag| tag.parse().unwrap());
        let endpoint = EndpointId::Named(endpoint.into());
        let sequence = Sequence::new(number).unwrap();
        which(&repository.parse().unwrap(), sequence, &endpoint, tag.as_ref())
    }

    #[tokio::test]
    async fn a_push_waits_until_the_last_of_its_tag_and_endpoint_is_sent() {
        let resent = Resent::new(ATTEMPT_MAX);
        let push = |number, tag| push(number, "acme/app", "ci", tag);
        let first = resent.begin(&push(1, Some("1"))).unwrap();
        let second = resent.begin(&push(2, Some("1"))).unwrap();
        let newer = push(3, Some("1"));
        let mut waiting = Box::pin(resent.wait(&newer));
        assert!(poll!(&mut waiting).is_pending());
        drop(first);
        assert!(poll!(&mut waiting).is_pending());
        drop(second);
        waiting.await;
        assert!(!resent.has(&newer));
        assert!(resent.counts().is_empty());
    }

    #[test]
    fn those_of_other_tags_repositories_and_endpoints_and_without_a_tag_do_not() {
        let resent = Resent::new(ATTEMPT_MAX);
        assert!(resent.begin(&push(1, "acme/app", "ci", None)).is_none());
        let _resending = resent.begin(&push(1, "acme/app", "ci", Some("1")));
        for other in [
            push(2, "acme/app", "ci", Some("2")),
            push(2, "acme/app", "ci", None),
            push(2, "acme/app", "cd", Some("1")),
            push(2, "acme/web", "ci", Some("1")),
        ] {
            assert!(!resent.has(&other), "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let resent = Resent::new(ATTEMPT_MAX);
        let push = push(1, "acme/app", "ci", Some("1"));
        let _resending = resent.begin(&push);
        let began = tokio::time::Instant::now();
        resent.wait(&push).await;
        assert!(resent.has(&push));
        assert!(began.elapsed() > ATTEMPT_MAX, "an attempt may last that long");
    }
}
