//! The handle that the stages write by.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};
use tracing::warn;

use super::{
    entry::{Attempt, Attempted, Entry, Which},
    transitions::Transition,
};
use crate::{
    clock::Timestamp,
    image::RepositoryName,
    journal::Durable,
    push::{Dropped, EndpointId, Sequence, Settlement},
    telemetry::log::Throttle,
};

/// Entries that wait at most, and the bytes that each may have on average.
pub(super) const WAITING_MAX: usize = 4 * 1024;
const WAITING_BYTES_EACH: usize = 1024;

/// How long to wait for room for the last entry of all.
const CLOSE_WAIT: Duration = Duration::from_millis(10);

/// Figures of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows written since the start.
    pub rows: u64,
    /// What was not written down, because more came than could be written, or nothing could be.
    pub dropped: u64,
    /// Bytes of the file, and of what SQLite has beside it.
    pub bytes: u64,
}

/// What the handles and the writer share.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    pub(super) rows: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) bytes: AtomicU64,
    waiting_bytes: AtomicUsize,
    trouble: Mutex<Option<String>>,
    complaint: Throttle,
    written: watch::Sender<()>,
}

impl Gauges {
    /// Counts what was not written down, and tells why now and then.
    pub(super) fn lose(&self, entries: u64, reason: &str) {
        if entries == 0 {
            return;
        }
        let lost = self.lost.fetch_add(entries, Ordering::Relaxed) + entries;
        if self.complaint.due().is_some() {
            warn!(reason, lost, "the history has gaps; deliveries are not affected");
        }
    }

    /// So many rows were written.
    pub(super) fn wrote(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.trouble(None);
        self.written.send_replace(());
    }

    /// Why nothing can be written, as long as that is so.
    pub(super) fn trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// An entry was taken out of the line.
    pub(super) fn taken_out(&self, entry: &Entry) {
        self.waiting_bytes.fetch_sub(entry.bytes(), Ordering::Relaxed);
    }
}

/// Writes down what happens. Cheap to clone.
///
/// Nothing here waits: what doesn't fit into the line of the one thread that writes is left out and counted.
#[derive(Clone, Default)]
pub struct History(Option<Arc<Line>>);

struct Line {
    entries: SyncSender<Entry>,
    bytes_max: usize,
    gauges: Arc<Gauges>,
}

impl History {
    /// A history that forgets everything.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// A handle, and what it hands its entries to, of which so many may wait.
    pub(super) fn line(waiting_max: usize) -> (Self, mpsc::Receiver<Entry>, Arc<Gauges>) {
        let (entries, receiver) = mpsc::sync_channel(waiting_max);
        let gauges = Arc::<Gauges>::default();
        let line = Line {
            entries,
            bytes_max: waiting_max.saturating_mul(WAITING_BYTES_EACH),
            gauges: Arc::clone(&gauges),
        };
        (Self(Some(Arc::new(line))), receiver, gauges)
    }

    /// A push became durable.
    pub fn taken(&self, durable: &Durable) {
        if self.0.is_some() {
            self.send(Entry::Taken(Box::new(durable.clone())));
        }
    }

    /// Pushes came that no webhook is owed for.
    pub fn dropped(&self, dropped: Vec<Dropped>) {
        if !dropped.is_empty() {
            self.send(Entry::Dropped(dropped));
        }
    }

    /// A repository has a webhook of its own, pushed to or not.
    pub fn known(&self, repository: RepositoryName) {
        self.send(Entry::Known(repository));
    }

    /// An attempt ended. Secrets are masked before this returns.
    pub fn attempted(&self, which: Which, attempt: Attempt<'_>) {
        if self.0.is_some() {
            self.send(Entry::Attempted(Box::new((which, Attempted::new(attempt)))));
        }
    }

    /// The delivery waits until `next_at` for its next attempt.
    pub fn waits(&self, which: Which, next_at: Timestamp) {
        self.send(Entry::Waits(Box::new(which), next_at));
    }

    /// The delivery ended.
    pub fn ended(&self, which: Which, how: Settlement, at: Timestamp) {
        self.send(Entry::Ended(Box::new(which), how, at));
    }

    /// The delivery ended as a dead letter. `reason` says why, without any secret.
    pub fn given_up(&self, which: Which, reason: &str, at: Timestamp) {
        if self.0.is_some() {
            self.send(Entry::GivenUp(Box::new((which, reason.to_owned())), at));
        }
    }

    /// These ended as dead letters that could not be written. `reason` says why they ended, without any secret.
    pub fn buried(&self, pairs: Vec<(Sequence, EndpointId)>, reason: &str, at: Timestamp) {
        if !pairs.is_empty() {
            self.send(Entry::Buried(pairs, reason.to_owned(), at));
        }
    }

    /// An endpoint's state changed.
    pub fn changed(&self, transition: Transition) {
        self.send(Entry::Changed(Box::new(transition)));
    }

    /// Whether anything is written down.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Tells that something was written down; `None` when nothing ever is.
    #[must_use]
    pub fn changes(&self) -> Option<watch::Receiver<()>> {
        let line = self.0.as_ref()?;
        Some(line.gauges.written.subscribe())
    }

    /// Why nothing can be written just now; what happens meanwhile is left out.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let line = self.0.as_ref()?;
        let trouble = line.gauges.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Some(line) = &self.0 else {
            return Stats::default();
        };
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Stats {
            rows: read(&line.gauges.rows),
            dropped: read(&line.gauges.lost),
            bytes: read(&line.gauges.bytes),
        }
    }

    /// Writes what waits and ends the thread. Resolves when that is done, at once if it has ended before. What is
    /// told afterwards is forgotten.
    pub async fn close(&self) {
        let Some(line) = &self.0 else { return };
        let (done, is_done) = oneshot::channel();
        let mut entry = Entry::Close(done);
        line.gauges
            .waiting_bytes
            .fetch_add(entry.bytes(), Ordering::Relaxed);
        loop {
            match line.entries.try_send(entry) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) => entry = back,
            }
            sleep(CLOSE_WAIT).await;
        }
        // Without an answer the thread has ended.
        let _ = is_done.await;
    }

    fn send(&self, entry: Entry) {
        let Some(line) = &self.0 else { return };
        let (bytes, count) = (entry.bytes(), entry.count());
        let waiting = &line.gauges.waiting_bytes;
        if waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= line.bytes_max
            && line.entries.try_send(entry).is_ok()
        {
            return;
        }
        waiting.fetch_sub(bytes, Ordering::Relaxed);
        line.gauges
            .lose(count, "more happened than could be written down");
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("is_kept", &self.is_kept())
            .finish_non_exhaustive()
    }
}
