//! The queue: every push that is owed, per repository, in memory.
//!
//! The journal's thread inserts what became durable, in order ([`Queue::apply`]); the dispatcher takes
//! what is due ([`Queue::due`], [`Queue::advance`]) and gives back how it went ([`Queue::complete`]).
//! Memory follows the journal, never the other way round: after a restart [`Queue::restoring`] builds the
//! same queues from what the journal still holds.
//!
//! # Invariants
//! - Due work comes from one ordered agenda; the map is never scanned for it. A repository stands in it at
//!   most once, with the moment its state machine asked for (`scheduled`). The map's shard is locked before
//!   the agenda, never after it.
//! - What is owed is in the accounts from before it is in its queue until after it has left it; at a start, before
//!   anything is due.
//! - The locks of the accounts and of the lines are taken last, and nothing is locked under them.
//! - No map guard lives across an `.await`: every method that touches the map is synchronous.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use dashmap::{
    DashMap,
    mapref::{entry::Entry, one::RefMut},
};
use hashbrown::DefaultHashBuilder;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    image::{RepositoryName, Tag},
    journal::Durable,
    locked::Locked as _,
    push::{EndpointId, Pair, Sequence, Settlement},
    webhook::Endpoints,
};

mod accounts;
mod backlog;
mod batch;
mod index;
mod lane;
mod line;
mod lines;
mod passages;
mod record;
mod repository;
mod restoring;

pub use accounts::{Bounds, Excess};
pub use batch::{Batch, Completion, Content, Effects, GivenUp, Lease, Settled, Waiting};
pub use lines::Passage;
pub use passages::Aside;
pub use restoring::Restoring;

use accounts::{Accounts, Load};
use batch::Ahead;
use lines::{Gate, Lines};
use repository::{Arrival, Owing, RepositoryQueue};

/// The most images that are sized, and held so, before it is their turn. A lane that is further behind
/// has its batches sized when their turn comes.
pub const SIZED_AHEAD_MAX: usize = 1_000;

/// What is due, earliest first; each repository stands in it once.
type Agenda = BTreeSet<(Instant, RepositoryName)>;

/// All repositories' queues.
#[derive(Debug)]
pub struct Queue {
    /// Boxed, so that the map's empty places cost little.
    repositories: DashMap<RepositoryName, Box<RepositoryQueue>, DefaultHashBuilder>,
    agenda: Mutex<Agenda>,
    earlier: Notify,
    ahead: Ahead,
    accounts: Accounts,
    lines: Lines,
}

impl Default for Queue {
    fn default() -> Self {
        Self::bounded(Bounds::default())
    }
}

/// What an endpoint owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// How many pushes.
    pub pushes: u64,
    /// The oldest of them.
    pub oldest: Sequence,
}

impl From<&Waiting> for Owed {
    fn from(waiting: &Waiting) -> Self {
        Self {
            pushes: waiting.pushes.into(),
            oldest: waiting.oldest,
        }
    }
}

impl Owed {
    fn add(&mut self, more: Self) {
        self.pushes += more.pushes;
        self.oldest = self.oldest.min(more.oldest);
    }
}

/// Pairs whose endpoint is gone: the caller settles them.
pub type Orphans = Vec<(Pair, EndpointId)>;

impl Queue {
    /// An empty queue without bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty queue that tells when more is owed than this ([`Queue::excesses`]). It takes what comes all the
    /// same.
    #[must_use]
    pub fn bounded(bounds: Bounds) -> Self {
        Self {
            repositories: DashMap::default(),
            agenda: Mutex::default(),
            earlier: Notify::new(),
            ahead: Ahead::new(SIZED_AHEAD_MAX),
            accounts: Accounts::new(bounds),
            lines: Lines::new(bounds.lanes_at_once_max, bounds.narrow_max),
        }
    }

    /// How many pushes are owed by at least one endpoint.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.accounts.pushes()
    }

    /// How many repositories have something owed.
    #[must_use]
    pub fn repositories(&self) -> usize {
        self.repositories.len()
    }

    /// What one repository's endpoints owe, in no order.
    #[must_use]
    pub fn waiting(&self, repository: &RepositoryName) -> Vec<Waiting> {
        let queue = self.repositories.get(repository);
        queue.map(|queue| queue.waiting().collect()).unwrap_or_default()
    }

    /// The repositories that have something owed, in no order. Looks at all of them: for people, not for each push.
    #[must_use]
    pub fn names(&self) -> Vec<RepositoryName> {
        self.repositories
            .iter()
            .map(|entry| entry.key().clone())
            .collect()
    }

    /// What each of the operator's endpoints owes in all. Looks at all repositories: for people, not for each push.
    #[must_use]
    pub fn owed_by_named(&self) -> HashMap<EndpointId, Owed> {
        let mut all = HashMap::<EndpointId, Owed>::new();
        for entry in &self.repositories {
            for waiting in entry.value().waiting() {
                if let EndpointId::Repository(_) = &*waiting.endpoint {
                    continue;
                }
                let more = Owed::from(&waiting);
                match all.get_mut(&*waiting.endpoint) {
                    Some(owed) => owed.add(more),
                    None => _ = all.insert((*waiting.endpoint).clone(), more),
                }
            }
        }
        all
    }

    /// What a repository's own endpoint owes.
    #[must_use]
    pub fn owed_by_own(&self, repository: &RepositoryName) -> Option<Owed> {
        let queue = self.repositories.get(repository)?;
        let mut waiting = queue.waiting();
        let own = waiting.find(|waiting| matches!(&*waiting.endpoint, EndpointId::Repository(_)));
        own.as_ref().map(Owed::from)
    }

    /// Inserts a push that just became durable. Must be called in the order of the sequence numbers.
    ///
    /// Returns what is owed by endpoints that are gone since the push was taken.
    #[must_use]
    pub fn apply(&self, durable: &Durable, endpoints: &Endpoints, now: Instant) -> Orphans {
        let (push, sequence) = (&durable.push, durable.sequence);
        let mut orphans = Orphans::new();
        let owed = (0..).zip(&push.owed);
        let load = Load {
            pushes: 1,
            bytes: durable.bytes.into(),
        };
        let owed = self.take_on(load, endpoints, owed, |place, endpoint| {
            orphans.push((Pair { sequence, place }, endpoint.clone()));
        });
        let arrival = Arrival {
            sequence: durable.sequence,
            bytes: durable.bytes,
            tag: push.tag.as_ref().map_or("", Tag::as_str),
            is_restored: false,
        };
        if let Some(mut queue) = self.insert(&push.repository, [arrival].into_iter(), &owed, now) {
            let name = queue.key().clone();
            self.schedule(&name, &mut queue, now);
        }
        orphans
    }

    /// Waits until some repository has work due, and returns its name.
    ///
    /// Cancel-safe: a name is taken from the agenda only as it is returned.
    pub async fn due(&self) -> RepositoryName {
        loop {
            // Registered before the look at the agenda, so that no wake-up falls between the two.
            let earlier = self.earlier.notified();
            self.open_lines(Instant::now());
            let opening = self.lines.next_opening();
            let next = {
                let mut agenda = self.agenda.locked();
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
            match next.into_iter().chain(opening).min() {
                Some(at) => tokio::select! { () = sleep_until(at) => {} () = earlier => {} },
                None => earlier.await,
            }
        }
    }

    /// Does what is due in one repository.
    pub fn advance(&self, repository: &RepositoryName, now: Instant) -> Effects {
        self.step(repository, now, |queue, gate| {
            queue.advance(&self.ahead, gate, now)
        })
    }

    /// Gives back a lease.
    pub fn complete(
        &self,
        repository: &RepositoryName,
        lease: &Lease,
        completion: Completion,
        now: Instant,
    ) -> Effects {
        self.step(repository, now, |queue, gate| {
            let completion = match completion {
                Completion::Retry { .. } if gate.gives_up(&lease.endpoint) => {
                    Completion::Settled(Settlement::DeadLetter)
                }
                completion => completion,
            };
            if matches!(completion, Completion::Retry { .. }) {
                self.lines.note_refused(&lease.endpoint, lease.sequence, now);
            }
            queue.complete(lease, completion, gate, now)
        })
    }

    /// Takes a push away from an endpoint that owes it, wherever it waits, as a dead letter.
    pub fn give_up(
        &self,
        repository: &RepositoryName,
        sequence: Sequence,
        endpoint: &EndpointId,
        now: Instant,
    ) -> GivenUp {
        let mut given_up = GivenUp::NotOwed;
        self.step(repository, now, |queue, gate| {
            given_up = queue.give_up(sequence, endpoint, gate);
            let settled = match &given_up {
                GivenUp::Settled(settled) => vec![settled.clone()],
                GivenUp::InFlight | GivenUp::NotOwed => Vec::new(),
            };
            Effects {
                settled,
                ..Effects::default()
            }
        });
        given_up
    }

    /// Whether a push of this tag waits for the endpoint, or is in flight to it, that is newer than `than`; than
    /// none at all, if `None`.
    #[must_use]
    pub fn owes_newer(
        &self,
        repository: &RepositoryName,
        endpoint: &EndpointId,
        tag: &Tag,
        than: Option<Sequence>,
    ) -> bool {
        let queue = self.repositories.get(repository);
        queue.is_some_and(|queue| queue.owes_newer(endpoint, tag, than))
    }

    /// Whether this push waits for the endpoint, or is in flight to it.
    #[must_use]
    pub fn owes(&self, repository: &RepositoryName, endpoint: &EndpointId, sequence: Sequence) -> bool {
        let queue = self.repositories.get(repository);
        queue.is_some_and(|queue| queue.owes(endpoint, sequence))
    }

    /// Whether anything at all waits for the endpoint.
    #[must_use]
    pub fn owes_anything(&self, endpoint: &EndpointId) -> bool {
        self.accounts.owes(endpoint)
    }

    /// Waits until more is owed than the bounds allow, and tells by whom. Cancel-safe.
    pub async fn excesses(&self) -> Vec<Excess> {
        self.accounts.passed().await
    }

    /// Whether that is still so.
    #[must_use]
    pub fn is_over(&self, excess: &Excess) -> bool {
        self.accounts.is_over(excess)
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
        step: impl FnOnce(&mut RepositoryQueue, &Gate<'_>) -> Effects,
    ) -> Effects {
        let gate = self.lines.gate(repository);
        let effects = self.step_one(repository, now, |queue| step(queue, &gate));
        self.accounts.settle(effects.ended());
        let undelivered = effects.ended().filter(|ended| ended.how != Settlement::Delivered);
        undelivered.for_each(|ended| self.lines.forget_refused(&ended.endpoint, ended.sequence));
        // The repository is let go of: others are met now.
        for endpoint in gate.left() {
            self.call(&endpoint, now);
        }
        // One that was not open may have made room for another, or opens later itself.
        if self.lines.take_stirred() {
            self.earlier.notify_one();
        }
        effects
    }

    fn step_one(
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
            let (name, queue) = entry.remove_entry();
            if let Some(at) = queue.scheduled {
                let mut agenda = self.agenda.locked();
                agenda.remove(&(at, name));
            }
        } else {
            let name = entry.key().clone();
            self.schedule(&name, entry.get_mut(), now);
        }
        effects
    }

    /// Who owes pushes, of those that still exist; it is put down to their accounts.
    fn take_on<'a>(
        &self,
        load: Load,
        endpoints: &Endpoints,
        owed: impl Iterator<Item = (u16, &'a EndpointId)>,
        mut gone: impl FnMut(u16, &EndpointId),
    ) -> Vec<Owing> {
        let mut known = Vec::with_capacity(owed.size_hint().0);
        for (place, id) in owed {
            match endpoints.get(id) {
                Some(endpoint) => known.push((place, endpoint)),
                None => gone(place, id),
            }
        }
        let ids = self
            .accounts
            .add(load, known.iter().map(|(_, endpoint)| &endpoint.id));
        let owing = known
            .into_iter()
            .zip(ids)
            .map(|((place, known), endpoint)| Owing {
                place,
                endpoint,
                batching: Arc::clone(&known.batching),
            });
        owing.collect()
    }

    /// The repository's queue with the pushes in it; `None` when nobody owes them.
    fn insert<'a>(
        &self,
        repository: &RepositoryName,
        arrivals: impl ExactSizeIterator<Item = Arrival<'a>> + Clone,
        owed: &[Owing],
        now: Instant,
    ) -> Option<RefMut<'_, RepositoryName, Box<RepositoryQueue>>> {
        if owed.is_empty() {
            return None;
        }
        let mut queue = self.repositories.entry(repository.clone()).or_default();
        // Who brings many, a start, brings all there are.
        if arrivals.len() > 1 {
            queue.expect(&arrivals, owed);
        }
        for arrival in arrivals {
            queue.push(arrival, owed, &self.ahead, now);
        }
        Some(queue)
    }

    /// Puts down when this repository next wants attention, if that is earlier than what stands there.
    fn schedule(&self, name: &RepositoryName, queue: &mut RepositoryQueue, now: Instant) {
        let Some(at) = queue.next_due(now) else { return };
        if queue.scheduled.is_some_and(|known| known <= at) {
            return;
        }
        let known = queue.scheduled.replace(at);
        let mut agenda = self.agenda.locked();
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

#[cfg(test)]
mod tests;
