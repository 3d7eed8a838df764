//! What is looked up when metrics are asked for.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{LettersSample, PoolLabels, StateLabels, labels::Pool, letters::LetterGauges};

/// The gauges that are sampled at each scrape.
#[derive(Debug, Default)]
pub struct Gauges {
    pub(super) journal_segments: Gauge<u64, AtomicU64>,
    pub(super) journal_bytes: Gauge<u64, AtomicU64>,
    pub(super) journal_live: Gauge<u64, AtomicU64>,
    pub(super) journal_ready: Gauge<u64, AtomicU64>,
    pub(super) queue_pushes: Gauge<u64, AtomicU64>,
    pub(super) queue_repositories: Gauge<u64, AtomicU64>,
    pub(super) queue_oldest_seconds: Gauge<f64, AtomicU64>,
    pub(super) endpoints: Family<StateLabels, Gauge<u64, AtomicU64>>,
    pub(super) attempts: Family<PoolLabels, Gauge<u64, AtomicU64>>,
    pub(super) letters: LetterGauges,
    pub(super) history_bytes: Gauge<u64, AtomicU64>,
    pub(super) history_waiting: Gauge<u64, AtomicU64>,
    pub(super) history_rows: Counter,
    pub(super) history_dropped: Counter,
    pub(super) log_lines_left_out: Counter,
}

/// The journal as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalSample {
    /// Segment files.
    pub segments: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Pairs of push and endpoint that are not settled.
    pub live: u64,
    /// Whether it takes appends.
    pub ready: bool,
}

/// The queue as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSample {
    /// Pushes not settled yet.
    pub pushes: u64,
    /// Repositories that have some.
    pub repositories: u64,
    /// Age of the oldest; zero when there is none.
    pub oldest: Duration,
}

/// The history as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistorySample {
    /// Rows written since the start.
    pub rows: u64,
    /// What was not written down, since the start.
    pub dropped: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes of what waits to be written down.
    pub waiting: u64,
}

impl Gauges {
    /// Sets what is said of the journal.
    pub fn journal(&self, sample: JournalSample) {
        self.journal_segments.set(sample.segments);
        self.journal_bytes.set(sample.bytes);
        self.journal_live.set(sample.live);
        self.journal_ready.set(u64::from(sample.ready));
    }

    /// Sets what is said of the queue.
    pub fn queue(&self, sample: QueueSample) {
        self.queue_pushes.set(sample.pushes);
        self.queue_repositories.set(sample.repositories);
        self.queue_oldest_seconds.set(sample.oldest.as_secs_f64());
    }

    /// Sets how many endpoints are in a state.
    pub fn endpoints(&self, state: &'static str, count: u64) {
        self.endpoints.get_or_create(&StateLabels { state }).set(count);
    }

    /// Sets how many attempts are under way in a pool.
    pub fn attempts(&self, pool: Pool, count: u64) {
        self.attempts.get_or_create(&PoolLabels { pool }).set(count);
    }

    /// Sets what is said of the dead letters.
    pub fn letters(&self, sample: LettersSample) {
        self.letters.set(sample);
    }

    pub(super) fn register_history(&self, r: &mut Registry) {
        let help = "Rows of the history written";
        r.register("history_rows", help, self.history_rows.clone());
        let help = "What happened and was not written into the history";
        r.register("history_dropped", help, self.history_dropped.clone());
        let help = "Bytes of the history's files";
        r.register_with_unit("history", help, Unit::Bytes, self.history_bytes.clone());
        let help = "Bytes of what happened and waits to be written into the history";
        let waiting = self.history_waiting.clone();
        r.register_with_unit("history_waiting", help, Unit::Bytes, waiting);
        let help = "Log lines that could not be written, or not in time";
        r.register("log_lines_left_out", help, self.log_lines_left_out.clone());
    }

    /// Sets what is said of the history.
    pub fn history(&self, sample: HistorySample) {
        self.history_bytes.set(sample.bytes);
        self.history_waiting.set(sample.waiting);
        // Counted elsewhere, and never less than before.
        self.history_rows.inner().store(sample.rows, Ordering::Relaxed);
        self.history_dropped
            .inner()
            .store(sample.dropped, Ordering::Relaxed);
    }
}
