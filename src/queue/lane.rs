//! A lane: what one repository owes one endpoint, lent out one push at a time, oldest first.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    backlog::{Backlog, Ended, Sealed},
    batch::{Batch, Completion, Lease},
    lines::{Entry, Gate, Progress},
    record::Record,
};
use crate::{
    push::{EndpointId, Sequence, Settlement},
    webhook::Coalesce,
};

/// Where a lane is on the way to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has nothing to send, or waits.
    Idle,
    /// It waits in its endpoint's line, in the place of this push.
    InLine(Sequence),
    /// It was called, and may be lent from.
    Called,
    /// It is lent from.
    Lent,
}

/// For whose sake a lane waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    /// For that of its first push, which was refused.
    Push,
    /// For no push's.
    Nobody,
}

/// One lane. What is lent is always the first of its backlog.
#[derive(Debug)]
pub(super) struct Lane {
    /// Whose it is.
    pub(super) endpoint: Arc<EndpointId>,
    /// What it owes.
    pub(super) backlog: Backlog,
    /// The window that gathers its newest pushes; 0 is none.
    pub(super) window: u32,
    /// The batch it is working on.
    pub(super) batch: Option<Arc<Batch>>,
    /// Until when it waits, and for whose sake.
    not_before: Option<Instant>,
    waits_for: WaitsFor,
    state: State,
    /// How often the first push failed by its own fault.
    push_failures: u32,
    /// How often the first push was sent. No other one was: what was sent once stays the first until it ends.
    attempts: u32,
}

impl Lane {
    pub(super) fn new(endpoint: Arc<EndpointId>) -> Self {
        Self {
            endpoint,
            backlog: Backlog::default(),
            window: 0,
            batch: None,
            not_before: None,
            waits_for: WaitsFor::Nobody,
            state: State::Idle,
            push_failures: 0,
            attempts: 0,
        }
    }

    /// Whether there is nothing left to do in it.
    pub(super) fn is_spent(&self) -> bool {
        self.window == 0 && self.backlog.is_empty() && self.state != State::Called
    }

    /// When something is to be done in it; `None` if a push is lent, or it waits in line.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Idle => self.backlog.first().map(|_| self.not_before.unwrap_or(now)),
            State::Called => Some(now),
            State::InLine(_) | State::Lent => None,
        }
    }

    /// The oldest push, if it may be lent once its turn has come.
    pub(super) fn next(&self, now: Instant) -> Option<Record<'_>> {
        self.next_due(now).filter(|at| *at <= now)?;
        self.backlog.first()
    }

    /// What becomes of the push that is next. `has_turn` is whether the lane comes from an attempt: it keeps its
    /// turn until its batch is through, if its endpoint's line lets it.
    pub(super) fn takes_turn(&mut self, has_turn: bool, gate: &Gate<'_>, now: Instant) -> Entry {
        if self.state == State::Lent {
            return Entry::Wait;
        }
        let next = self.next(now).map(|next| next.sequence);
        let progress = match self.state {
            _ if has_turn => Some(Progress::Lent),
            State::Called => Some(Progress::Called),
            _ => None,
        };
        if let Some(next) = next
            && has_turn
            && self.goes_on()
            && gate.may_send(&self.endpoint, next, now)
        {
            return Entry::Lend;
        }
        // No contents are held while it waits, but those that may be held ahead.
        self.batch = None;
        let Some(next) = next else {
            if let Some(progress) = progress {
                self.state = State::Idle;
                gate.leave(&self.endpoint, progress);
            }
            return Entry::Wait;
        };
        // Who has had a turn goes behind those that are older.
        let progress = match progress {
            Some(Progress::Lent) => {
                gate.leave(&self.endpoint, Progress::Lent);
                None
            }
            progress => progress,
        };
        let entry = gate.enter(&self.endpoint, next, progress, now);
        self.state = match entry {
            Entry::Wait => State::InLine(next),
            Entry::Lend | Entry::GiveUp => State::Idle,
        };
        entry
    }

    /// Calls it out of the line, in which it has this place: its oldest push by now. `None` if it is not there.
    pub(super) fn call(&mut self, place: Sequence) -> Option<Sequence> {
        if self.state != State::InLine(place) {
            return None;
        }
        let oldest = self.first_sequence().unwrap_or(place);
        self.state = match oldest {
            oldest if oldest == place => State::Called,
            // Others may be older now.
            oldest => State::InLine(oldest),
        };
        Some(oldest)
    }

    /// Its place in line, if it is there.
    pub(super) fn place(&self) -> Option<Sequence> {
        match self.state {
            State::InLine(place) => Some(place),
            _ => None,
        }
    }

    /// Whether the push that is next belongs to the batch it is working on.
    fn goes_on(&self) -> bool {
        let next = self.backlog.first();
        let batch = self.batch.as_ref().zip(next);
        batch.is_some_and(|(batch, next)| batch.member(next.sequence).is_some())
    }

    /// Lends the oldest push, which belongs to this batch.
    pub(super) fn lend(&mut self, batch: Arc<Batch>) -> Option<Lease> {
        let first = self.backlog.first()?;
        let lease = Lease {
            endpoint: Arc::clone(&self.endpoint),
            sequence: first.sequence,
            place: first.place,
            tag: first.to_tag(),
            member: batch.member(first.sequence)?,
            batch: Arc::clone(&batch),
            push_failures: self.push_failures,
        };
        self.batch = Some(batch);
        self.state = State::Lent;
        self.not_before = None;
        Some(lease)
    }

    /// Takes back what was lent, and says how it ended, if it did.
    pub(super) fn take_back(
        &mut self,
        sequence: Sequence,
        completion: Completion,
    ) -> Option<(Ended, Settlement)> {
        debug_assert_eq!(self.state, State::Lent, "a lease comes back once");
        self.state = State::Idle;
        self.attempts = self.attempts.saturating_add(completion.is_attempt().into());
        match completion {
            Completion::Settled(how) => return Some((self.remove(sequence)?, how)),
            Completion::GivenUp => return Some((self.remove(sequence)?, Settlement::DeadLetter)),
            Completion::Retry { at } => {
                self.wait(at, WaitsFor::Push);
                self.push_failures = self.push_failures.saturating_add(1);
            }
            Completion::Later { at } | Completion::Crowded { at } => self.wait(at, WaitsFor::Nobody),
            Completion::Failed | Completion::Returned => {}
        }
        // A newer one of its tag may have come meanwhile.
        let is_outdated = self.backlog.is_outdated(sequence);
        let ended = is_outdated.then(|| self.remove(sequence)).flatten()?;
        Some((ended, Settlement::Superseded))
    }

    /// Closes the lane's part of its window.
    pub(super) fn seal(&mut self, coalesce: Coalesce) -> Sealed {
        self.window = 0;
        let first = self.first_sequence();
        let mut sealed = self.backlog.seal(coalesce, self.state == State::Lent);
        for ended in &mut sealed.superseded {
            self.count_attempts(ended, first);
        }
        self.follow_first(first);
        sealed
    }

    /// Whether a push is in flight.
    pub(super) fn has_lent(&self, sequence: Sequence) -> bool {
        self.state == State::Lent && self.first_sequence() == Some(sequence)
    }

    /// Takes out a push, which is not in flight.
    pub(super) fn remove(&mut self, sequence: Sequence) -> Option<Ended> {
        debug_assert!(!self.has_lent(sequence));
        let first = self.first_sequence();
        let mut ended = self.backlog.remove(sequence);
        if let Some(ended) = &mut ended {
            self.count_attempts(ended, first);
        }
        self.follow_first(first);
        ended
    }

    /// Puts down how often a push was sent that ended, if it was the first.
    fn count_attempts(&self, ended: &mut Ended, first: Option<Sequence>) {
        if Some(ended.sequence) == first {
            ended.attempts = ended.attempts.map(|_| self.attempts);
        }
    }

    /// Goes on as it was before a restart: its first push, if that is this one, was refused so often, and waits until
    /// then. Whether it is.
    pub(super) fn resume(&mut self, sequence: Sequence, failures: u32, until: Instant) -> bool {
        let is_meant = self.state == State::Idle && self.first_sequence() == Some(sequence);
        if is_meant {
            self.push_failures = failures;
            self.wait(until, WaitsFor::Push);
        }
        is_meant
    }

    /// Waits no longer for the sake of its first push, if that is this one, or whichever when it is `None`. Whether it
    /// did.
    pub(super) fn hurry(&mut self, sequence: Option<Sequence>) -> bool {
        let is_meant = sequence.is_none() || self.first_sequence() == sequence;
        let waits = self.state == State::Idle && self.waits_for == WaitsFor::Push;
        is_meant && waits && self.not_before.take().is_some()
    }

    fn first_sequence(&self) -> Option<Sequence> {
        self.backlog.first().map(|first| first.sequence)
    }

    /// Once the first push is another one: a wait for the sake of the push that was first has no reason left.
    fn follow_first(&mut self, before: Option<Sequence>) {
        if before.is_none() || self.first_sequence() == before {
            return;
        }
        (self.push_failures, self.attempts) = (0, 0);
        if self.waits_for == WaitsFor::Push {
            self.not_before = None;
        }
    }

    /// Waits, and holds no contents meanwhile but those that may be held ahead.
    fn wait(&mut self, at: Instant, waits_for: WaitsFor) {
        self.not_before = Some(at);
        self.waits_for = waits_for;
        self.batch = None;
    }
}
