//! Whether appends are answered: what tells a disk that hangs from one that has nothing to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::time::now;

/// The appends that wait for an answer.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    waiting: AtomicUsize,
    /// When one was last answered, or none waited: milliseconds since it began.
    at: AtomicU64,
}

/// An append that waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Progress>);

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: now(),
            waiting: AtomicUsize::new(0),
            at: AtomicU64::new(0),
        })
    }

    /// One more waits.
    pub(super) fn begin(self: &Arc<Self>) -> Ticket {
        // In this order: whoever asks in between is not told of a wait that is none.
        if self.waiting.load(Ordering::Acquire) == 0 {
            self.note();
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Ticket(Arc::clone(self))
    }

    /// For how long appends have been waiting without any being answered; `None` when none waits.
    pub(super) fn stands_still(&self) -> Option<Duration> {
        let is_waited = self.waiting.load(Ordering::Acquire) > 0;
        let since = Duration::from_millis(self.at.load(Ordering::Acquire));
        is_waited.then(|| self.passed().saturating_sub(since))
    }

    fn passed(&self) -> Duration {
        now().saturating_duration_since(self.began)
    }

    fn note(&self) {
        let passed = u64::try_from(self.passed().as_millis()).unwrap_or(u64::MAX);
        self.at.store(passed, Ordering::Release);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.note();
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
