//! A lane: what one repository owes one endpoint, lent out one push at a time, oldest first.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    backlog::{Backlog, Ended, Sealed},
    batch::{Batch, Completion, Lease},
    record::Record,
};
use crate::{
    push::{EndpointId, Sequence, Settlement},
    webhook::{Coalesce, Fault},
};

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
    /// Until when it waits. For whose sake says `fault`.
    not_before: Option<Instant>,
    fault: Fault,
    is_lent: bool,
    endpoint_failures: u32,
    /// How often the first push failed by its own fault.
    push_failures: u32,
}

impl Lane {
    pub(super) fn new(endpoint: Arc<EndpointId>) -> Self {
        Self {
            endpoint,
            backlog: Backlog::default(),
            window: 0,
            batch: None,
            not_before: None,
            fault: Fault::Endpoint,
            is_lent: false,
            endpoint_failures: 0,
            push_failures: 0,
        }
    }

    /// Whether there is nothing left to do in it.
    pub(super) fn is_spent(&self) -> bool {
        self.window == 0 && self.backlog.is_empty()
    }

    /// When its next push may be lent; `None` if there is none, or one is lent.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.backlog.first().filter(|_| !self.is_lent)?;
        Some(self.not_before.unwrap_or(now))
    }

    /// The oldest push, if none is lent and no retry is being waited for.
    pub(super) fn next(&self, now: Instant) -> Option<Record<'_>> {
        self.next_due(now).filter(|at| *at <= now)?;
        self.backlog.first()
    }

    /// Lends the oldest push, which belongs to this batch.
    pub(super) fn lend(&mut self, batch: Arc<Batch>) -> Option<Lease> {
        let first = self.backlog.first()?;
        let lease = Lease {
            endpoint: Arc::clone(&self.endpoint),
            sequence: first.sequence,
            tag: first.to_tag(),
            member: batch.member(first.sequence)?,
            batch: Arc::clone(&batch),
            endpoint_failures: self.endpoint_failures,
            push_failures: self.push_failures,
        };
        self.batch = Some(batch);
        self.is_lent = true;
        self.not_before = None;
        Some(lease)
    }

    /// Holds no batch while there is nothing to lend.
    pub(super) fn rest(&mut self) {
        if !self.is_lent {
            self.batch = None;
        }
    }

    /// Takes back what was lent, and says how it ended, if it did.
    pub(super) fn take_back(
        &mut self,
        sequence: Sequence,
        completion: Completion,
    ) -> Option<(Ended, Settlement)> {
        debug_assert!(self.is_lent, "a lease comes back once");
        self.is_lent = false;
        match completion {
            Completion::Settled(how) => {
                self.endpoint_failures = 0;
                self.push_failures = 0;
                return Some((self.backlog.remove(sequence)?, how));
            }
            Completion::Retry { at, fault } => {
                self.wait(at, fault);
                self.count_failure(fault);
            }
            Completion::Later { at } => self.wait(at, Fault::Endpoint),
            Completion::Returned => {}
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
        let sealed = self.backlog.seal(coalesce, self.is_lent);
        self.follow_first(first);
        sealed
    }

    /// Whether a push is in flight.
    pub(super) fn has_lent(&self, sequence: Sequence) -> bool {
        self.is_lent && self.first_sequence() == Some(sequence)
    }

    /// Takes out a push, which is not in flight.
    pub(super) fn remove(&mut self, sequence: Sequence) -> Option<Ended> {
        debug_assert!(!self.has_lent(sequence));
        let first = self.first_sequence();
        let ended = self.backlog.remove(sequence);
        self.follow_first(first);
        ended
    }

    fn first_sequence(&self) -> Option<Sequence> {
        self.backlog.first().map(|first| first.sequence)
    }

    /// Once the first push is another one: what the lane waits for because the endpoint failed stays; a wait
    /// for the sake of the push that was first has no reason left.
    fn follow_first(&mut self, before: Option<Sequence>) {
        if before.is_none() || self.first_sequence() == before {
            return;
        }
        self.push_failures = 0;
        if self.fault == Fault::Push {
            self.not_before = None;
        }
    }

    /// Waits, and holds no contents meanwhile but those that may be held ahead.
    fn wait(&mut self, at: Instant, fault: Fault) {
        self.not_before = Some(at);
        self.fault = fault;
        self.batch = None;
    }

    fn count_failure(&mut self, fault: Fault) {
        match fault {
            Fault::Endpoint => self.endpoint_failures = self.endpoint_failures.saturating_add(1),
            Fault::Push => {
                self.push_failures = self.push_failures.saturating_add(1);
                self.endpoint_failures = 0;
            }
        }
    }
}
