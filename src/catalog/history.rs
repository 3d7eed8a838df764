//! The handle that the stages write by.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{oneshot, watch};
use tracing::warn;

use super::{
    entry::{Attempt, Attempted, Changed, DroppedPush, End, Entry, Place, Taken, Texts, Which},
    line::Line,
    transitions::Transition,
};
use crate::{
    clock::Timestamp,
    image::RepositoryName,
    journal::Durable,
    locked::Locked as _,
    push::{Dropped, EndpointId, Sequence, Settlement},
    telemetry::log::Throttle,
};

/// Figures of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows written since the start.
    pub rows: u64,
    /// What was not written down, because more came than could be written, or nothing could be.
    pub dropped: u64,
    /// Bytes of the file, of what SQLite has beside it, and of what waits in files.
    pub bytes: u64,
    /// Bytes of what was told and is not written down yet.
    pub waiting: u64,
}

/// What the handles and the writer share.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    pub(super) rows: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Bytes of the files in which news wait.
    pub(super) overflow: AtomicU64,
    /// Bytes that were taken out of memory and are not all written down.
    pub(super) taken: AtomicU64,
    /// How many pushes were told that came, written down or not.
    pub(super) pushes: AtomicU64,
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

    /// Tells now and then that news can't be put aside.
    pub(super) fn stays_in_memory(&self, error: &io::Error) {
        if self.complaint.due().is_some() {
            warn!(%error, "news for the history can't be put aside into a file, and stay in memory as far as they fit");
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
        *self.trouble.locked() = trouble;
    }
}

/// Writes down what happens. Cheap to clone.
///
/// Nothing here waits: see [`super::line`] for what becomes of news that come faster than they can be written down.
#[derive(Clone, Default)]
pub struct History(Option<Arc<Teller>>);

/// The line's end at which things are told.
struct Teller(Arc<Line>);

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.close(None);
    }
}

impl History {
    /// A history that forgets everything.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// A handle that tells what happens into this line.
    pub(super) fn telling(line: Arc<Line>) -> Self {
        Self(Some(Arc::new(Teller(line))))
    }

    /// A push became durable.
    pub fn taken(&self, durable: &Durable) {
        let Some(line) = self.line() else { return };
        let (digest, owed) = written_out(durable);
        line.tell(&Entry::Taken(Taken::of(durable, &digest, &owed)));
    }

    /// A push that became durable before the start is owed; it may be known already.
    pub(super) fn restored(&self, durable: &Durable) {
        let Some(line) = self.line() else { return };
        let (digest, owed) = written_out(durable);
        line.tell(&Entry::Restored(Taken::of(durable, &digest, &owed)));
    }

    /// A delivery ended before the start; that may be known already, and better.
    pub(super) fn settled(&self, which: &Which, how: Settlement) {
        let Some(line) = self.line() else { return };
        let endpoint = which.endpoint.to_string();
        line.tell(&Entry::Settled(Place::of(which, &endpoint), how.as_str()));
    }

    /// Bytes of what was told and is neither written down nor put aside.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.line().map_or(0, Line::memory_bytes)
    }

    /// Pushes came that no webhook is owed for.
    pub fn dropped(&self, dropped: &[Dropped]) {
        let Some(line) = self.line() else { return };
        for one in dropped {
            line.tell(&Entry::Dropped(DroppedPush {
                at: one.at.unix_millis(),
                rule: one.rule,
                repository: &one.repository,
                tag: &one.tag,
                digest: &one.digest,
                event_id: &one.event_id,
                actor: &one.actor,
            }));
        }
    }

    /// A repository has a webhook of its own, pushed to or not.
    pub fn known(&self, repository: &RepositoryName) {
        if let Some(line) = self.line() {
            line.tell(&Entry::Known(repository.as_str()));
        }
    }

    /// A repository has `size` bytes, as was found at `at` without a webhook that tells it.
    pub fn sized(&self, repository: &RepositoryName, size: u64, at: Timestamp) {
        if let Some(line) = self.line() {
            line.tell(&Entry::Sized(repository.as_str(), size, at.unix_millis()));
        }
    }

    /// An attempt ended. Secrets are masked before this returns.
    pub fn attempted(&self, which: &Which, attempt: Attempt<'_>) {
        let Some(line) = self.line() else { return };
        let (endpoint, texts) = (which.endpoint.to_string(), Texts::of(attempt));
        let attempted = Attempted::new(attempt, &texts);
        line.tell(&Entry::Attempted(Place::of(which, &endpoint), attempted));
    }

    /// The delivery waits until `next_at` for its next attempt.
    pub fn waits(&self, which: &Which, next_at: Timestamp) {
        let Some(line) = self.line() else { return };
        let endpoint = which.endpoint.to_string();
        line.tell(&Entry::Waits(Place::of(which, &endpoint), next_at.unix_millis()));
    }

    /// The delivery ended.
    pub fn ended(&self, which: &Which, how: Settlement, at: Timestamp) {
        self.end(which, how, None, at);
    }

    /// The delivery ended as a dead letter. `reason` says why, without any secret.
    pub fn given_up(&self, which: &Which, reason: &str, at: Timestamp) {
        self.end(which, Settlement::DeadLetter, Some(reason), at);
    }

    fn end(&self, which: &Which, how: Settlement, reason: Option<&str>, at: Timestamp) {
        let Some(line) = self.line() else { return };
        let endpoint = which.endpoint.to_string();
        let (how, at) = (how.as_str(), at.unix_millis());
        line.tell(&Entry::Ended(
            Place::of(which, &endpoint),
            End { how, reason, at },
        ));
    }

    /// These ended as dead letters that could not be written. `reason` says why they ended, without any secret.
    pub fn buried(&self, pairs: &[(Sequence, EndpointId)], reason: &str, at: Timestamp) {
        let Some(line) = self.line() else { return };
        let end = End {
            how: Settlement::DeadLetter.as_str(),
            reason: Some(reason),
            at: at.unix_millis(),
        };
        for (sequence, endpoint) in pairs {
            line.tell(&Entry::Buried(sequence.get(), &endpoint.to_string(), end));
        }
    }

    /// An endpoint's state changed.
    pub fn changed(&self, transition: &Transition) {
        let Some(line) = self.line() else { return };
        line.tell(&Entry::Changed(Changed {
            endpoint: &transition.endpoint.to_string(),
            at: transition.at.unix_millis(),
            before: transition.before,
            after: transition.after,
            failures: transition.failures,
            reason: &transition.reason,
        }));
    }

    fn line(&self) -> Option<&Line> {
        self.0.as_deref().map(|teller| &*teller.0)
    }

    /// Whether anything is written down.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Tells that something was written down; `None` when nothing ever is.
    #[must_use]
    pub fn changes(&self) -> Option<watch::Receiver<()>> {
        Some(self.line()?.gauges.written.subscribe())
    }

    /// Why nothing can be written just now; what happens meanwhile waits, as far as there is room.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.line()?.gauges.trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Some(line) = self.line() else {
            return Stats::default();
        };
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let overflow = read(&line.gauges.overflow);
        Stats {
            rows: read(&line.gauges.rows),
            dropped: read(&line.gauges.lost),
            bytes: read(&line.gauges.bytes) + overflow,
            waiting: line.memory_bytes() + read(&line.gauges.taken) + overflow,
        }
    }

    /// Writes down what waits, as far as there is time for it, and ends the thread. Resolves when that is done, at once if
    /// it has ended before. What is told afterwards is forgotten.
    pub async fn close(&self) {
        let Some(line) = self.line() else { return };
        let (done, is_done) = oneshot::channel();
        line.close(Some(done));
        // Without an answer the thread has ended.
        let _ = is_done.await;
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History")
            .field("is_kept", &self.is_kept())
            .finish_non_exhaustive()
    }
}

/// A push's digest, and those who owe it.
fn written_out(durable: &Durable) -> (String, Vec<String>) {
    let push = &durable.push;
    let owed = push.owed.iter().map(ToString::to_string);
    (push.digest.to_string(), owed.collect())
}
