//! One repository's queue, as a pure state machine: time comes in as an argument, what follows from
//! a step comes out as [`Effects`], and nothing here waits or does I/O.
//!
//! A push stands in one *lane* for each endpoint that owes it. One that arrives opens, or joins, the
//! *window* of each batching its endpoints ask for (mostly one for all); a lane is in one window at a
//! time. When the window closes, what it gathered in its lanes is sealed, and is a batch from then on.
//! A lane lends out its oldest sealed push, one at a time: so images reach an endpoint in the order of
//! their sequence numbers, and what waits for a retry holds back only what is behind it in the same lane.
//!
//! Where the batching coalesces by tag, a push that is sealed supersedes the older push of the same tag
//! in its lane, unless that one is in flight; once that one comes back undelivered, it is superseded
//! too. Survivors keep their own place.
//!
//! # Memory
//! A backlog may be all that is left of a long outage, so a push that waits takes 7 bytes or so and its tag
//! in each lane, and a lane knows of batches only where each begins. A [`Batch`] exists while it is lent
//! from, or where it may be sized ahead of its turn.

use std::{collections::HashSet, sync::Arc};

use tokio::time::Instant;

use super::{
    backlog::Ended,
    batch::{Ahead, Batch, Completion, Effects, GivenUp, Lease, Settled, Waiting},
    lane::Lane,
    lines::{Entry, Gate},
    record::{RESTORED, Record},
};
use crate::{
    image::Tag,
    push::{EndpointId, Sequence, Settlement},
    webhook::{Batching, Coalesce},
};

/// The most pushes of a lane that are given up in one step, because its endpoint is given nothing.
const GIVEN_UP_AT_ONCE: usize = 1_000;

/// A push as it arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    /// Its place in the order.
    pub(super) sequence: Sequence,
    /// What it takes on disk, bytes.
    pub(super) bytes: u32,
    /// The tag it was pushed by; empty for none.
    pub(super) tag: &'a str,
    /// Whether it was owed at the start already.
    pub(super) is_restored: bool,
}

/// An endpoint that owes a push.
#[derive(Clone, Debug)]
pub(super) struct Owing {
    /// Its place among those that owed it at first.
    pub(super) place: u16,
    /// Who it is.
    pub(super) endpoint: Arc<EndpointId>,
    /// When it wants it.
    pub(super) batching: Arc<Batching>,
}

#[derive(Debug)]
struct Window {
    /// By which lanes know it: not 0.
    number: u32,
    batching: Arc<Batching>,
    closes_at: Instant,
    /// How many pushes it gathered, and the newest of them.
    pushes: u32,
    newest: Sequence,
}

/// What a repository has only for moments.
#[derive(Debug, Default)]
struct Passing {
    /// What followed from pushes, until somebody takes it.
    outbox: Effects,
    /// Batches that may be sized ahead of their turn, until they are done.
    ahead: Vec<Arc<Batch>>,
}

/// One repository's windows and lanes.
#[derive(Debug, Default)]
pub(super) struct RepositoryQueue {
    windows: Vec<Window>,
    windows_opened: u32,
    lanes: Vec<Lane>,
    passing: Option<Box<Passing>>,
    /// The moment the agenda knows for this repository.
    pub(super) scheduled: Option<Instant>,
}

impl<'a> Arrival<'a> {
    /// As it stands in the lane of somebody whose place among those that owe it is this.
    fn record(self, place: u16) -> Record<'a> {
        Record {
            sequence: self.sequence,
            bytes: self.bytes,
            place,
            tag: self.tag.as_bytes(),
            marks: if self.is_restored { RESTORED } else { 0 },
        }
    }
}

impl RepositoryQueue {
    /// Sets aside the room of pushes that are about to be taken, each by all of these endpoints.
    pub(super) fn expect<'a>(
        &mut self,
        arrivals: &(impl Iterator<Item = Arrival<'a>> + Clone),
        owed: &[Owing],
    ) {
        for owing in owed {
            let records = arrivals.clone().map(|arrival| arrival.record(owing.place));
            self.lane(&owing.endpoint).backlog.expect(records);
        }
    }

    /// Takes a push that these endpoints owe, each named once. It joins windows; nothing is sent before
    /// [`RepositoryQueue::advance`].
    ///
    /// Pushes must come in the order of their sequence numbers.
    pub(super) fn push(&mut self, arrival: Arrival<'_>, owed: &[Owing], ahead: &Ahead, now: Instant) {
        if owed.is_empty() {
            return;
        }
        for owing in owed {
            let window = self.lane(&owing.endpoint).window;
            let window = self.join_window(window, &owing.batching, arrival.sequence, now);
            let lane = self.lane(&owing.endpoint);
            lane.window = window;
            lane.backlog.push(arrival.record(owing.place));
        }
        let is_full = |window: &Window| {
            usize::try_from(window.pushes).is_ok_and(|pushes| pushes >= window.batching.pushes_max)
        };
        while let Some(index) = self.windows.iter().position(is_full) {
            self.seal(index, ahead, now);
        }
    }

    /// What is owed, by whom.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Waiting> {
        self.lanes.iter().filter_map(|lane| {
            Some(Waiting {
                endpoint: Arc::clone(&lane.endpoint),
                pushes: lane.backlog.len(),
                oldest: lane.backlog.oldest()?,
            })
        })
    }

    /// Closes every window, due or not: what was gathered before a restart waits for nobody.
    pub(super) fn close_windows(&mut self, ahead: &Ahead, now: Instant) {
        while !self.windows.is_empty() {
            self.seal(0, ahead, now);
        }
    }

    /// Does what is due: closes windows, lends out what may be sent.
    pub(super) fn advance(&mut self, ahead: &Ahead, gate: &Gate<'_>, now: Instant) -> Effects {
        while let Some(index) = self.windows.iter().position(|window| window.closes_at <= now) {
            self.seal(index, ahead, now);
        }
        let mut effects = self.take_outbox();
        for index in 0..self.lanes.len() {
            self.lend(index, false, gate, now, &mut effects);
        }
        self.tidy(gate);
        effects
    }

    /// Takes back a lease, and lends the lane's next push if it may be sent now.
    pub(super) fn complete(
        &mut self,
        lease: &Lease,
        completion: Completion,
        gate: &Gate<'_>,
        now: Instant,
    ) -> Effects {
        let mut effects = self.take_outbox();
        let Some(index) = self.lane_of(&lease.endpoint) else {
            debug_assert!(false, "a lease of a lane that is gone");
            return effects;
        };
        let lane = self.lanes.get_mut(index);
        let ended = lane.and_then(|lane| lane.take_back(lease.sequence, completion));
        effects
            .settled
            .extend(ended.and_then(|(ended, how)| self.settle(index, ended, how)));
        self.lend(index, true, gate, now, &mut effects);
        self.tidy(gate);
        effects
    }

    /// Takes a push away from an endpoint, unless it is in flight there.
    pub(super) fn give_up(&mut self, sequence: Sequence, endpoint: &EndpointId, gate: &Gate<'_>) -> GivenUp {
        let index = self.lane_of(endpoint);
        let Some((index, lane)) = index.and_then(|index| Some((index, self.lanes.get_mut(index)?))) else {
            return GivenUp::NotOwed;
        };
        if lane.has_lent(sequence) {
            return GivenUp::InFlight;
        }
        let ended = lane.remove(sequence);
        let settled = ended.and_then(|ended| self.settle(index, ended, Settlement::DeadLetter));
        self.tidy(gate);
        settled.map_or(GivenUp::NotOwed, GivenUp::Settled)
    }

    /// Calls the lane of this endpoint out of the line, see [`Lane::call`].
    pub(super) fn call(&mut self, endpoint: &EndpointId, place: Sequence) -> Option<Sequence> {
        let index = self.lane_of(endpoint)?;
        self.lanes.get_mut(index)?.call(place)
    }

    /// The oldest push that is owed there.
    pub(super) fn first(&self, endpoint: &EndpointId) -> Option<Sequence> {
        let lane = self.lane_of(endpoint).and_then(|index| self.lanes.get(index))?;
        lane.backlog.oldest()
    }

    /// Has an endpoint's lane wait no longer for the sake of this push, its first. Whether it did.
    pub(super) fn hurry(&mut self, endpoint: &EndpointId, sequence: Sequence) -> bool {
        let lane = self.lane_of(endpoint).and_then(|index| self.lanes.get_mut(index));
        lane.is_some_and(|lane| lane.hurry(Some(sequence)))
    }

    /// Has a lane go on as before a restart, if this is its first push: see [`Lane::resume`].
    pub(super) fn resume(
        &mut self,
        endpoint: &EndpointId,
        sequence: Sequence,
        failures: u32,
        until: Instant,
    ) -> bool {
        let lane = self.lane_of(endpoint).and_then(|index| self.lanes.get_mut(index));
        lane.is_some_and(|lane| lane.resume(sequence, failures, until))
    }

    /// Has the lanes of these endpoints wait no longer for the sake of their first pushes. Whether any did.
    pub(super) fn hurry_all(&mut self, endpoints: &HashSet<EndpointId>) -> bool {
        let lanes = self.lanes.iter_mut();
        let lanes = lanes.filter(|lane| endpoints.contains(&*lane.endpoint));
        lanes.filter_map(|lane| lane.hurry(None).then_some(())).count() > 0
    }

    /// Whether a newer push of the lease's tag is in its lane, so that it need not be sent.
    pub(super) fn is_outdated(&self, lease: &Lease) -> bool {
        let lane = self
            .lane_of(&lease.endpoint)
            .and_then(|index| self.lanes.get(index));
        lane.is_some_and(|lane| lane.backlog.is_outdated(lease.sequence))
    }

    /// Whether a push of this tag is owed there that is newer than `than`.
    pub(super) fn owes_newer(&self, endpoint: &EndpointId, tag: &Tag, than: Option<Sequence>) -> bool {
        let lane = self.lane_of(endpoint).and_then(|index| self.lanes.get(index));
        lane.is_some_and(|lane| lane.backlog.owes_newer(tag, than))
    }

    /// Whether this push is owed there.
    pub(super) fn owes(&self, endpoint: &EndpointId, sequence: Sequence) -> bool {
        let lane = self.lane_of(endpoint).and_then(|index| self.lanes.get(index));
        lane.is_some_and(|lane| lane.backlog.owes(sequence))
    }

    /// The next moment at which [`RepositoryQueue::advance`] has something to do.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let outbox = self.passing.as_ref().map(|passing| &passing.outbox);
        if outbox.is_some_and(|outbox| !outbox.sealed.is_empty() || !outbox.settled.is_empty()) {
            return Some(now);
        }
        let windows = self.windows.iter().map(|window| window.closes_at);
        let lanes = self.lanes.iter().filter_map(|lane| lane.next_due(now));
        windows.chain(lanes).min()
    }

    /// Whether nothing is owed here.
    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.lanes.is_empty() && self.passing.is_none()
    }

    /// The window that a lane is in, or the one of this batching, or a new one; and counts the push in it.
    fn join_window(&mut self, number: u32, batching: &Arc<Batching>, push: Sequence, now: Instant) -> u32 {
        let windows = &mut self.windows;
        let found = windows.iter_mut().find(|window| match number {
            0 => window.batching == *batching,
            number => window.number == number,
        });
        if let Some(window) = found {
            window.pushes += u32::from(window.newest < push);
            window.newest = push;
            return window.number;
        }
        self.windows_opened = self.windows_opened.wrapping_add(1).max(1);
        self.windows.reserve_exact(1);
        self.windows.push(Window {
            number: self.windows_opened,
            batching: Arc::clone(batching),
            closes_at: now + batching.window,
            pushes: 1,
            newest: push,
        });
        self.windows_opened
    }

    fn seal(&mut self, index: usize, ahead: &Ahead, now: Instant) {
        let window = self.windows.swap_remove(index);
        if self.windows.is_empty() {
            self.windows = Vec::new();
        }
        let members = self.seal_lanes(window.number, window.batching.coalesce);
        if members.is_empty() {
            return;
        }
        if let Some(permit) = ahead.take(members.len()) {
            let batch = Batch::new(members, now, Some(permit));
            let passing = self.passing.get_or_insert_default();
            passing.outbox.sealed.push(Arc::clone(&batch));
            passing.ahead.push(batch);
        }
    }

    /// Seals every lane's part of a window; all that survived, in order.
    fn seal_lanes(&mut self, window: u32, coalesce: Coalesce) -> Vec<Sequence> {
        let mut members = Vec::new();
        for index in 0..self.lanes.len() {
            let lane = self.lanes.get_mut(index).filter(|lane| lane.window == window);
            let Some(sealed) = lane.map(|lane| lane.seal(coalesce)) else {
                continue;
            };
            for ended in sealed.superseded {
                let settled = self.settle(index, ended, Settlement::Superseded);
                let passing = self.passing.get_or_insert_default();
                passing.outbox.settled.extend(settled);
            }
            if members.is_empty() {
                members = sealed.members;
            } else {
                members.extend(sealed.members);
                members.sort_unstable();
                members.dedup();
            }
        }
        members
    }

    /// Lends a lane's next push, if it may be sent now and its turn has come, see [`Lane::takes_turn`]; or gives
    /// up what it has.
    fn lend(&mut self, index: usize, has_turn: bool, gate: &Gate<'_>, now: Instant, effects: &mut Effects) {
        let lane = self.lanes.get_mut(index);
        match lane.map(|lane| lane.takes_turn(has_turn, gate, now)) {
            Some(Entry::Lend) => effects.leases.extend(self.lend_first(index, now)),
            Some(Entry::GiveUp) => self.give_up_lane(index, effects),
            Some(Entry::Wait) | None => {}
        }
    }

    fn lend_first(&mut self, index: usize, now: Instant) -> Option<Lease> {
        let lane = self.lanes.get(index)?;
        let next = lane.backlog.first()?.sequence;
        let batch = self.batch_of(lane, next, now);
        self.lanes.get_mut(index)?.lend(batch)
    }

    /// Gives up the lane's pushes, but for those in its window, and for so many that it takes another step.
    fn give_up_lane(&mut self, index: usize, effects: &mut Effects) {
        for _ in 0..GIVEN_UP_AT_ONCE {
            let Some(lane) = self.lanes.get_mut(index) else {
                return;
            };
            let first = lane.backlog.first().map(|first| first.sequence);
            let Some(ended) = first.and_then(|first| lane.remove(first)) else {
                return;
            };
            let settled = self.settle(index, ended, Settlement::DeadLetter);
            effects.given_up.extend(settled);
        }
    }

    /// The batch that a lane's next push belongs to: one that somebody has, contents and all, or a new one of
    /// what is left of it.
    fn batch_of(&self, lane: &Lane, push: Sequence, now: Instant) -> Arc<Batch> {
        let own = lane.batch.iter().filter(|batch| batch.member(push).is_some());
        let ahead = self.passing.iter().flat_map(|passing| &passing.ahead);
        let others = self.lanes.iter().filter_map(|lane| lane.batch.as_ref());
        let others = ahead.chain(others);
        let others = others.filter(|batch| lane.backlog.is_first_batch(&batch.members));
        let found = own.chain(others).next();
        found.map_or_else(|| Batch::new(lane.backlog.first_batch(), now, None), Arc::clone)
    }

    fn settle(&self, lane: usize, ended: Ended, how: Settlement) -> Option<Settled> {
        let endpoint = Arc::clone(&self.lanes.get(lane)?.endpoint);
        let Ended {
            sequence,
            bytes,
            place,
            tag,
            attempts,
        } = ended;
        let is_owed = self.lanes.iter().any(|lane| lane.backlog.owes(sequence));
        Some(Settled {
            sequence,
            tag,
            bytes,
            place,
            endpoint,
            how,
            attempts,
            last: !is_owed,
        })
    }

    fn take_outbox(&mut self) -> Effects {
        let passing = self.passing.as_mut();
        passing
            .map(|passing| std::mem::take(&mut passing.outbox))
            .unwrap_or_default()
    }

    fn lane_of(&self, endpoint: &EndpointId) -> Option<usize> {
        self.lanes.iter().position(|lane| *lane.endpoint == *endpoint)
    }

    fn lane(&mut self, endpoint: &Arc<EndpointId>) -> &mut Lane {
        let same = |lane: &Lane| Arc::ptr_eq(&lane.endpoint, endpoint);
        let index = self.lanes.iter().position(same);
        let index = index.or_else(|| self.lane_of(endpoint)).unwrap_or_else(|| {
            self.lanes.reserve_exact(1);
            self.lanes.push(Lane::new(Arc::clone(endpoint)));
            self.lanes.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found, or pushed, a line above")]
        &mut self.lanes[index]
    }

    /// Lets go of what has ended.
    fn tidy(&mut self, gate: &Gate<'_>) {
        self.lanes.retain(|lane| {
            let is_spent = lane.is_spent();
            if let Some(place) = lane.place().filter(|_| is_spent) {
                gate.withdraw(&lane.endpoint, place);
            }
            !is_spent
        });
        let lanes = &self.lanes;
        if let Some(passing) = &mut self.passing {
            let is_owed = |batch: &Arc<Batch>| lanes.iter().any(|lane| lane.backlog.owes_any(&batch.members));
            passing.ahead.retain(is_owed);
            let Effects {
                sealed,
                leases,
                settled,
                given_up,
            } = &passing.outbox;
            debug_assert!(
                leases.is_empty() && given_up.is_empty(),
                "these follow from steps alone"
            );
            if passing.ahead.is_empty() && sealed.is_empty() && settled.is_empty() {
                self.passing = None;
            }
        }
    }
}
