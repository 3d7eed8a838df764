//! One repository's queue, as a pure state machine: time comes in as an argument, what follows from
//! a step comes out as [`Effects`], and nothing here waits or does I/O.
//!
//! A push that arrives opens, or joins, the *window* of each batching its endpoints ask for (mostly
//! one for all). A window that closes becomes a sealed [`Batch`], whose members join the backlogs of
//! the *lanes*, one lane an endpoint. A lane lends out its oldest push, one at a time: so images reach
//! an endpoint in the order of their sequence numbers, and what waits for a retry holds back only
//! what is behind it in the same lane.
//!
//! Where the batching coalesces by tag, a push that joins a backlog supersedes the older push of the
//! same tag there, unless that one is in flight; once that one comes back undelivered, it is
//! superseded too. Survivors keep their own place.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit},
    time::Instant,
};

use crate::{
    image::{Digest, Tag},
    push::{EndpointId, Pair, Sequence, Settlement},
    webhook::{Batching, Coalesce, Fault, Sizes},
};

/// A push that is owed: as little of it as waiting takes. The rest stays on disk, at its position.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its place in the order.
    pub sequence: Sequence,
    /// The tag it was pushed by.
    pub tag: Option<Tag>,
    /// How many endpoints still owe it, where it is more than one.
    shared: Option<Arc<AtomicU32>>,
}

impl Pending {
    /// A push that `owed` endpoints owe.
    #[must_use]
    pub fn new(sequence: Sequence, tag: Option<Tag>, owed: usize) -> Self {
        let shared = (owed > 1).then(|| Arc::new(AtomicU32::new(u32::try_from(owed).unwrap_or(u32::MAX))));
        Self {
            sequence,
            tag,
            shared,
        }
    }

    /// Takes note that one endpoint owes it no longer; true if that was the last.
    fn settle_one(&self) -> bool {
        self.shared
            .as_ref()
            .is_none_or(|owed| owed.fetch_sub(1, Ordering::AcqRel) == 1)
    }
}

/// What sizing made of one member of a batch.
#[derive(Clone, Debug)]
pub struct Content {
    /// The image's digest.
    pub digest: Digest,
    /// Its sizes, and its repository's as of the sealing.
    pub sizes: Sizes,
}

/// What one window gathered, once it has closed.
#[derive(Debug)]
pub struct Batch {
    /// When the window closed.
    pub sealed_at: Instant,
    /// The pushes that survived coalescing in at least one lane, in order.
    pub members: Vec<Pending>,
    /// What is sent of each member, by its index; `None` for one that could not be read back. Filled once by
    /// whoever needs it first.
    pub contents: OnceCell<Vec<Option<Content>>>,
    /// The permit to hold contents ahead of their turn, for as long as they are held.
    pub ahead: OnceLock<OwnedSemaphorePermit>,
}

/// The loan of a lane's oldest push, for one attempt. Give it back with [`RepositoryQueue::complete`].
#[derive(Clone, Debug)]
pub struct Lease {
    /// Whose turn it is.
    pub endpoint: EndpointId,
    /// What is to be sent.
    pub pending: Pending,
    /// The batch it belongs to.
    pub batch: Arc<Batch>,
    /// Its index among the batch's members.
    pub member: usize,
    /// Attempts in a row that failed by the endpoint's fault in this lane.
    pub endpoint_failures: u32,
    /// Attempts of this push that failed by its own fault.
    pub push_failures: u32,
}

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The push is settled here.
    Settled(Settlement),
    /// It stays, and its lane waits until then.
    Retry {
        /// The earliest moment of the next attempt.
        at: Instant,
        /// Whose fault the failure was.
        fault: Fault,
    },
    /// It stays, as if it had never been lent: the attempt did not take place, for a newer push of its tag
    /// is there.
    Returned,
    /// It stays, and its lane waits until then; nobody is to blame.
    Later {
        /// The earliest moment of the next attempt.
        at: Instant,
    },
}

/// A push that ended for one endpoint.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The push.
    pub pending: Pending,
    /// The endpoint's place among those that owed it at first.
    pub place: u16,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// How it ended.
    pub how: Settlement,
    /// Whether no endpoint owes it any more.
    pub last: bool,
}

/// What follows from a step.
#[derive(Debug, Default)]
pub struct Effects {
    /// Batches that were sealed.
    pub sealed: Vec<Arc<Batch>>,
    /// Pushes that may be sent now.
    pub leases: Vec<Lease>,
    /// Pushes that ended.
    pub settled: Vec<Settled>,
}

/// An endpoint that owes a push, with its place among those that owed it at first.
pub type Owing = (u16, EndpointId);

#[derive(Debug)]
struct Window {
    batching: Batching,
    closes_at: Instant,
    members: Vec<(Pending, Vec<Owing>)>,
}

#[derive(Debug)]
struct Entry {
    pending: Pending,
    place: u16,
    batch: Arc<Batch>,
    member: usize,
}

#[derive(Debug)]
struct Lane {
    endpoint: EndpointId,
    backlog: BTreeMap<Sequence, Entry>,
    /// The newest push of each tag in the backlog, where the batching coalesces.
    newest: HashMap<Tag, Sequence>,
    in_flight: Option<Sequence>,
    /// Until when the lane waits, and for whose sake.
    not_before: Option<(Instant, Fault)>,
    endpoint_failures: u32,
    /// The push at the head that failed by its own fault, and how often.
    push_failures: Option<(Sequence, u32)>,
}

/// One repository's windows and lanes.
#[derive(Debug, Default)]
pub struct RepositoryQueue {
    windows: Vec<Window>,
    lanes: Vec<Lane>,
    outbox: Effects,
    /// The moment the timer heap knows for this repository.
    pub(super) scheduled: Option<Instant>,
}

impl RepositoryQueue {
    /// Takes a push that these endpoints owe. It joins windows; nothing is sent before
    /// [`RepositoryQueue::advance`].
    ///
    /// Pushes must come in the order of their sequence numbers.
    pub fn push(&mut self, pending: &Pending, owed: Vec<(Owing, Batching)>, now: Instant) {
        for (batching, endpoints) in by_batching(owed) {
            let index = self.window(batching, now);
            let Some(window) = self.windows.get_mut(index) else {
                continue;
            };
            debug_assert!(
                window
                    .members
                    .last()
                    .is_none_or(|(last, _)| last.sequence < pending.sequence)
            );
            window.members.push((pending.clone(), endpoints));
            if window.members.len() >= batching.pushes_max {
                window.closes_at = now;
                self.seal(index, now);
            }
        }
    }

    /// Closes every window, due or not: what was gathered before a restart waits for nobody.
    pub fn close_windows(&mut self, now: Instant) {
        while !self.windows.is_empty() {
            self.seal(0, now);
        }
    }

    /// Does what is due: closes windows, lends out what may be sent.
    pub fn advance(&mut self, now: Instant) -> Effects {
        while let Some(index) = self.windows.iter().position(|window| window.closes_at <= now) {
            self.seal(index, now);
        }
        let mut effects = std::mem::take(&mut self.outbox);
        effects
            .leases
            .extend(self.lanes.iter_mut().filter_map(|lane| lane.lend(now)));
        effects
    }

    /// Takes back a lease, and lends the lane's next push if it may be sent now.
    pub fn complete(&mut self, lease: &Lease, completion: Completion, now: Instant) -> Effects {
        let mut effects = std::mem::take(&mut self.outbox);
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.endpoint == lease.endpoint) else {
            debug_assert!(false, "a lease of a lane that is gone");
            return effects;
        };
        lane.take_back(lease.pending.sequence, completion, &mut effects.settled);
        effects.leases.extend(lane.lend(now));
        self.lanes.retain(|lane| !lane.is_spent());
        effects
    }

    /// Whether a newer push of the lease's tag is in its lane, so that it need not be sent.
    #[must_use]
    pub fn is_outdated(&self, lease: &Lease) -> bool {
        let lane = self.lanes.iter().find(|lane| lane.endpoint == lease.endpoint);
        lane.is_some_and(|lane| lane.is_outdated(lease.pending.sequence))
    }

    /// The next moment at which [`RepositoryQueue::advance`] has something to do.
    #[must_use]
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.outbox.sealed.is_empty() || !self.outbox.settled.is_empty() {
            return Some(now);
        }
        let windows = self.windows.iter().map(|window| window.closes_at);
        let lanes = self
            .lanes
            .iter()
            .filter(|lane| lane.in_flight.is_none() && !lane.backlog.is_empty());
        windows
            .chain(lanes.map(|lane| lane.not_before.map_or(now, |(at, _)| at)))
            .min()
    }

    /// Whether nothing is owed here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.lanes.is_empty() && self.outbox.settled.is_empty()
    }

    fn window(&mut self, batching: Batching, now: Instant) -> usize {
        self.windows
            .iter()
            .position(|window| window.batching == batching)
            .unwrap_or_else(|| {
                self.windows.push(Window {
                    batching,
                    closes_at: now + batching.window,
                    members: Vec::new(),
                });
                self.windows.len() - 1
            })
    }

    fn seal(&mut self, index: usize, now: Instant) {
        let window = self.windows.swap_remove(index);
        let coalesce = window.batching.coalesce;
        let mut settled = std::mem::take(&mut self.outbox.settled);
        let members = survivors(window.members, coalesce, &mut settled);
        let batch = Arc::new(Batch {
            sealed_at: now,
            members: members.iter().map(|(pending, _)| pending.clone()).collect(),
            contents: OnceCell::new(),
            ahead: OnceLock::new(),
        });
        for (member, (pending, endpoints)) in members.into_iter().enumerate() {
            for (place, endpoint) in endpoints {
                let entry = Entry {
                    pending: pending.clone(),
                    place,
                    batch: Arc::clone(&batch),
                    member,
                };
                self.lane(endpoint).join(entry, coalesce, &mut settled);
            }
        }
        self.outbox.settled = settled;
        self.outbox.sealed.push(batch);
    }

    fn lane(&mut self, endpoint: EndpointId) -> &mut Lane {
        let index = self.lanes.iter().position(|lane| lane.endpoint == endpoint);
        let index = index.unwrap_or_else(|| {
            self.lanes.push(Lane::new(endpoint));
            self.lanes.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found, or pushed, a line above")]
        &mut self.lanes[index]
    }
}

/// Groups endpoints by the batching they ask for; one group, in nearly every configuration.
fn by_batching(owed: Vec<(Owing, Batching)>) -> Vec<(Batching, Vec<Owing>)> {
    let mut groups: Vec<(Batching, Vec<Owing>)> = Vec::with_capacity(1);
    for (endpoint, batching) in owed {
        match groups.iter_mut().find(|(group, _)| *group == batching) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => groups.push((batching, vec![endpoint])),
        }
    }
    groups
}

/// Settles, within one window, the pushes that a newer one of the same tag supersedes for an endpoint.
/// Members that nobody owes after that are gone.
fn survivors(
    mut members: Vec<(Pending, Vec<Owing>)>,
    coalesce: Coalesce,
    settled: &mut Vec<Settled>,
) -> Vec<(Pending, Vec<Owing>)> {
    if coalesce == Coalesce::None {
        return members;
    }
    let mut seen: HashMap<Tag, Vec<EndpointId>> = HashMap::new();
    for (pending, endpoints) in members.iter_mut().rev() {
        let Some(tag) = &pending.tag else { continue };
        let newer = seen.entry(tag.clone()).or_default();
        endpoints.retain(|(place, endpoint)| {
            let superseded = newer.contains(endpoint);
            if superseded {
                settled.push(Settled::new(
                    pending.clone(),
                    *place,
                    endpoint.clone(),
                    Settlement::Superseded,
                ));
            }
            !superseded
        });
        newer.extend(endpoints.iter().map(|(_, endpoint)| endpoint.clone()));
    }
    members.retain(|(_, endpoints)| !endpoints.is_empty());
    members
}

impl Settled {
    /// What is to be recorded as settled.
    #[must_use]
    pub fn pair(&self) -> Pair {
        Pair {
            sequence: self.pending.sequence,
            place: self.place,
        }
    }

    fn new(pending: Pending, place: u16, endpoint: EndpointId, how: Settlement) -> Self {
        let last = pending.settle_one();
        Self {
            pending,
            place,
            endpoint,
            how,
            last,
        }
    }
}

impl Lane {
    fn new(endpoint: EndpointId) -> Self {
        Self {
            endpoint,
            backlog: BTreeMap::new(),
            newest: HashMap::new(),
            in_flight: None,
            not_before: None,
            endpoint_failures: 0,
            push_failures: None,
        }
    }

    fn is_spent(&self) -> bool {
        self.backlog.is_empty() && self.in_flight.is_none()
    }

    fn join(&mut self, entry: Entry, coalesce: Coalesce, settled: &mut Vec<Settled>) {
        let sequence = entry.pending.sequence;
        if let (Coalesce::Tag, Some(tag)) = (coalesce, &entry.pending.tag) {
            let older = self.newest.insert(tag.clone(), sequence);
            if let Some(older) = older.filter(|older| self.in_flight != Some(*older)) {
                self.supersede(older, settled);
            }
        }
        self.backlog.insert(sequence, entry);
    }

    /// Settles a push that is not in flight as superseded. What the lane waits for because the endpoint
    /// failed stays; a wait for this push's own sake has no reason left.
    fn supersede(&mut self, sequence: Sequence, settled: &mut Vec<Settled>) {
        let was_head = self
            .backlog
            .first_key_value()
            .is_some_and(|(head, _)| *head == sequence);
        let Some(entry) = self.backlog.remove(&sequence) else {
            return;
        };
        if was_head && matches!(self.not_before, Some((_, Fault::Push))) {
            self.not_before = None;
        }
        if self.push_failures.is_some_and(|(head, _)| head == sequence) {
            self.push_failures = None;
        }
        settled.push(Settled::new(
            entry.pending,
            entry.place,
            self.endpoint.clone(),
            Settlement::Superseded,
        ));
    }

    /// Lends the oldest push, if none is lent and no retry is being waited for.
    fn lend(&mut self, now: Instant) -> Option<Lease> {
        if self.in_flight.is_some() || self.not_before.is_some_and(|(at, _)| at > now) {
            return None;
        }
        let (sequence, entry) = self.backlog.first_key_value()?;
        self.in_flight = Some(*sequence);
        self.not_before = None;
        Some(Lease {
            endpoint: self.endpoint.clone(),
            pending: entry.pending.clone(),
            batch: Arc::clone(&entry.batch),
            member: entry.member,
            endpoint_failures: self.endpoint_failures,
            push_failures: self
                .push_failures
                .filter(|(head, _)| head == sequence)
                .map_or(0, |(_, count)| count),
        })
    }

    fn take_back(&mut self, sequence: Sequence, completion: Completion, settled: &mut Vec<Settled>) {
        debug_assert_eq!(self.in_flight, Some(sequence), "a lease comes back once");
        self.in_flight = None;
        match completion {
            Completion::Settled(how) => {
                self.endpoint_failures = 0;
                self.push_failures = None;
                let Some(entry) = self.backlog.remove(&sequence) else {
                    return;
                };
                if let Some(tag) = &entry.pending.tag
                    && self.newest.get(tag) == Some(&sequence)
                {
                    self.newest.remove(tag);
                }
                settled.push(Settled::new(
                    entry.pending,
                    entry.place,
                    self.endpoint.clone(),
                    how,
                ));
            }
            Completion::Retry { at, fault } => {
                self.not_before = Some((at, fault));
                self.count_failure(sequence, fault);
                self.supersede_if_outdated(sequence, settled);
            }
            Completion::Returned => self.supersede_if_outdated(sequence, settled),
            Completion::Later { at } => {
                self.not_before = Some((at, Fault::Endpoint));
                self.supersede_if_outdated(sequence, settled);
            }
        }
    }

    fn count_failure(&mut self, sequence: Sequence, fault: Fault) {
        match fault {
            Fault::Endpoint => self.endpoint_failures = self.endpoint_failures.saturating_add(1),
            Fault::Push => {
                let before = self
                    .push_failures
                    .filter(|(head, _)| *head == sequence)
                    .map_or(0, |(_, count)| count);
                self.push_failures = Some((sequence, before.saturating_add(1)));
                self.endpoint_failures = 0;
            }
        }
    }

    /// Supersedes a push that came back undelivered if a newer one of its tag arrived meanwhile.
    fn supersede_if_outdated(&mut self, sequence: Sequence, settled: &mut Vec<Settled>) {
        if self.is_outdated(sequence) {
            self.supersede(sequence, settled);
        }
    }

    fn is_outdated(&self, sequence: Sequence) -> bool {
        let tag = self
            .backlog
            .get(&sequence)
            .and_then(|entry| entry.pending.tag.as_ref());
        tag.and_then(|tag| self.newest.get(tag))
            .is_some_and(|newest| *newest > sequence)
    }
}
