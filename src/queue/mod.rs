//! The queue: every push that is owed, per repository, in memory.
//!
//! The journal's thread inserts what became durable, in order ([`Queue::apply`]); the dispatcher takes
//! what is due ([`Queue::due`], [`Queue::advance`]) and gives back how it went ([`Queue::complete`]).
//! Memory follows the journal, never the other way round: after a restart [`Queue::restore`] builds the
//! same queues from what the journal still holds.
//!
//! # Invariants
//! - Due work comes from one ordered agenda; the map is never scanned for it. A repository stands in it at
//!   most once, with the moment its state machine asked for (`scheduled`). The map's shard is locked before
//!   the agenda, never after it.
//! - No map guard lives across an `.await`: every method that touches the map is synchronous.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use dashmap::{DashMap, mapref::entry::Entry};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    image::{RepositoryName, Tag},
    journal::{Durable, Owed},
    push::{EndpointId, Pair, Sequence},
    webhook::{Batching, Endpoints},
};

mod repository;

pub use repository::{Batch, Completion, Content, Effects, Lease, Owing, Pending, RepositoryQueue, Settled};

/// What is due, earliest first; each repository stands in it once.
type Agenda = BTreeSet<(Instant, RepositoryName)>;

/// All repositories' queues.
#[derive(Debug, Default)]
pub struct Queue {
    repositories: DashMap<RepositoryName, RepositoryQueue>,
    agenda: Mutex<Agenda>,
    earlier: Notify,
    pending: AtomicUsize,
}

/// Pairs whose endpoint is gone: the caller settles them.
pub type Orphans = Vec<(Pair, EndpointId)>;

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many pushes are owed by at least one endpoint.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// How many repositories have something owed.
    #[must_use]
    pub fn repositories(&self) -> usize {
        self.repositories.len()
    }

    /// Inserts a push that just became durable. Must be called in the order of the sequence numbers.
    ///
    /// An endpoint that is unknown to `endpoints` can't owe: the caller fixed `owed` from the same set.
    pub fn apply(&self, durable: &Durable, endpoints: &Endpoints, now: Instant) {
        let push = &durable.push;
        let owed = (0..).zip(push.owed.iter().cloned()).collect();
        let owed = with_batching(owed, endpoints, |_| {});
        self.insert(durable.sequence, &push.repository, push.tag.clone(), owed, now);
    }

    /// Inserts pushes that the journal found to be owed at the start, in order. May be called several times,
    /// in order, and before anything is applied.
    ///
    /// Returns what is owed by endpoints that no longer exist.
    pub fn restore(&self, pushes: Vec<Owed>, endpoints: &Endpoints, now: Instant) -> Orphans {
        let mut orphans = Orphans::default();
        for push in pushes {
            let sequence = push.sequence;
            let owed = with_batching(push.owed, endpoints, |(place, endpoint)| {
                orphans.push((Pair { sequence, place }, endpoint));
            });
            self.insert(sequence, &push.repository, push.tag, owed, now);
        }
        orphans
    }

    /// Closes every window once all is restored: nobody waits for a window that was open when the process
    /// ended.
    pub fn close_windows(&self, now: Instant) {
        let names: Vec<RepositoryName> = self
            .repositories
            .iter()
            .map(|queue| queue.key().clone())
            .collect();
        for name in names {
            if let Some(mut queue) = self.repositories.get_mut(&name) {
                queue.close_windows(now);
                self.schedule(&name, &mut queue, now);
            }
        }
    }

    /// Waits until some repository has work due, and returns its name.
    ///
    /// Cancel-safe: a name is taken from the agenda only as it is returned.
    pub async fn due(&self) -> RepositoryName {
        loop {
            // Registered before the look at the agenda, so that no wake-up falls between the two.
            let earlier = self.earlier.notified();
            let next = {
                let mut agenda = self.agenda.lock().unwrap_or_else(PoisonError::into_inner);
                let next = agenda.first().map(|(at, _)| *at);
                if next.is_some_and(|at| at <= Instant::now())
                    && let Some((at, name)) = agenda.pop_first()
                {
                    drop(agenda);
                    if self.claim(&name, at) {
                        return name;
                    }
                    continue;
                }
                next
            };
            match next {
                Some(at) => tokio::select! { () = sleep_until(at) => {} () = earlier => {} },
                None => earlier.await,
            }
        }
    }

    /// Does what is due in one repository.
    pub fn advance(&self, repository: &RepositoryName, now: Instant) -> Effects {
        self.step(repository, now, |queue| queue.advance(now))
    }

    /// Gives back a lease.
    pub fn complete(
        &self,
        repository: &RepositoryName,
        lease: &Lease,
        completion: Completion,
        now: Instant,
    ) -> Effects {
        self.step(repository, now, |queue| queue.complete(lease, completion, now))
    }

    /// Whether a newer push of the lease's tag waits behind it, so that it need not be sent.
    #[must_use]
    pub fn is_outdated(&self, repository: &RepositoryName, lease: &Lease) -> bool {
        self.repositories
            .get(repository)
            .is_some_and(|queue| queue.is_outdated(lease))
    }

    fn step(
        &self,
        repository: &RepositoryName,
        now: Instant,
        step: impl FnOnce(&mut RepositoryQueue) -> Effects,
    ) -> Effects {
        let Entry::Occupied(mut entry) = self.repositories.entry(repository.clone()) else {
            return Effects::default();
        };
        let effects = step(entry.get_mut());
        if entry.get().is_empty() {
            if let Some(at) = entry.remove().scheduled {
                let mut agenda = self.agenda.lock().unwrap_or_else(PoisonError::into_inner);
                agenda.remove(&(at, repository.clone()));
            }
        } else {
            self.schedule(repository, entry.get_mut(), now);
        }
        let done = effects.settled.iter().filter(|settled| settled.last).count();
        self.pending.fetch_sub(done, Ordering::Relaxed);
        effects
    }

    fn insert(
        &self,
        sequence: Sequence,
        repository: &RepositoryName,
        tag: Option<Tag>,
        owed: Vec<(Owing, Batching)>,
        now: Instant,
    ) {
        if owed.is_empty() {
            return;
        }
        let pending = Pending::new(sequence, tag, owed.len());
        self.pending.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.repositories.entry(repository.clone()).or_default();
        queue.push(&pending, owed, now);
        self.schedule(repository, &mut queue, now);
    }

    /// Puts down when this repository next wants attention, if that is earlier than what stands there.
    fn schedule(&self, name: &RepositoryName, queue: &mut RepositoryQueue, now: Instant) {
        let Some(at) = queue.next_due(now) else { return };
        if queue.scheduled.is_some_and(|known| known <= at) {
            return;
        }
        let known = queue.scheduled.replace(at);
        let mut agenda = self.agenda.lock().unwrap_or_else(PoisonError::into_inner);
        let first = agenda.first().is_none_or(|(first, _)| at < *first);
        if let Some(known) = known {
            agenda.remove(&(known, name.clone()));
        }
        agenda.insert((at, name.clone()));
        drop(agenda);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Whether what was taken from the agenda is still what the repository stands by.
    fn claim(&self, name: &RepositoryName, at: Instant) -> bool {
        let Some(mut queue) = self.repositories.get_mut(name) else {
            return false;
        };
        let current = queue.scheduled == Some(at);
        if current {
            queue.scheduled = None;
        }
        current
    }
}

fn with_batching(
    owed: Vec<Owing>,
    endpoints: &Endpoints,
    mut gone: impl FnMut(Owing),
) -> Vec<(Owing, Batching)> {
    let mut known = Vec::with_capacity(owed.len());
    for owing in owed {
        if let Some(endpoint) = endpoints.get(&owing.1) {
            known.push((owing, endpoint.batching));
        } else {
            gone(owing);
        }
    }
    known
}

#[cfg(test)]
mod tests;
