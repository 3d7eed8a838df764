//! The one thread that writes.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rusqlite::TransactionBehavior;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    Options,
    entry::Entry,
    history::Gauges,
    prune::{Bounds, More, Pruner},
    reconcile::{Failure, Ledger, reconcile},
    rows::{self, Origin},
    store::{Store, StoreError, set_aside},
};
use crate::{clock::Clock, image::RepositoryName, journal::JournalId};

/// How long entries gather before they are written, and how many at most.
const GATHER: Duration = Duration::from_millis(200);
const BATCH_ENTRIES: usize = 2_000;

/// After a full batch, this many times as long as it took is rested: pushes and webhooks need disk and processors
/// more. So a flood of more than some 2,000 entries a second that goes on leaves gaps.
const REST_RATIO: u32 = 16;
const REST_MAX: Duration = Duration::from_secs(1);

/// How long after a failure the file is tried again: after the first, and at most.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// What took long and failed, such as to bring a large file up to date on a disk that is nearly full, is tried again after
/// so many times as long.
const RETRY_RATIO: u32 = 20;
const RETRY_LONG_MAX: Duration = Duration::from_mins(10);

/// How often a file may be set aside: a disk that fails again and again is not to be filled with them.
const ASIDE_EVERY: Duration = Duration::from_mins(1);

/// How often pruning is looked after, and how long it may take between two batches.
const PRUNE_EVERY: Duration = Duration::from_secs(1);
const PRUNE_FOR: Duration = Duration::from_millis(100);

/// How often what was passed over is looked at again.
const PRUNE_ROUND: Duration = Duration::from_mins(10);

/// Tells which repositories have a webhook of their own.
pub(super) type Names = Box<dyn Fn() -> Vec<RepositoryName> + Send>;

/// The thread's state.
pub(super) struct Writer {
    path: PathBuf,
    options: Options,
    journal: JournalId,
    ledger: Ledger,
    names: Names,
    clock: Clock,
    entries: Receiver<Entry>,
    gauges: Arc<Gauges>,
    store: Option<(Store, Origin)>,
    retry_at: Option<Instant>,
    is_checked: bool,
    /// Whether more waited than the last batch had room for.
    is_behind: bool,
    /// When a file was last set aside.
    aside_at: Option<Instant>,
    pruner: Pruner,
    more: More,
    pruned_at: Instant,
    round_at: Instant,
    is_failing: bool,
    /// Failures since something was written.
    failures: u32,
    /// What had been lost when what is pending was last compared with what is owed.
    lost: u64,
    /// How long is rested after a full batch, as a multiple of what it took.
    pub(super) rest_ratio: u32,
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        options: Options,
        (journal, ledger): (JournalId, Ledger),
        names: Names,
        clock: Clock,
        (entries, gauges): (Receiver<Entry>, Arc<Gauges>),
    ) -> Self {
        Self {
            path,
            options,
            journal,
            ledger,
            names,
            clock,
            entries,
            gauges,
            store: None,
            retry_at: None,
            is_checked: false,
            is_behind: false,
            aside_at: None,
            pruner: Pruner::default(),
            more: More::NotNow,
            pruned_at: Instant::now(),
            round_at: Instant::now(),
            is_failing: false,
            failures: 0,
            lost: 0,
            rest_ratio: REST_RATIO,
        }
    }

    /// Writes until it is told to close, or every handle is gone.
    pub(super) fn run(mut self) {
        self.open();
        loop {
            let mut batch = Vec::new();
            let mut closed = None;
            let is_open = self.gather(&mut batch, &mut closed);
            let began = Instant::now();
            self.write(&batch);
            let bytes: usize = batch.iter().map(Entry::bytes).sum();
            let is_full = batch.len() >= BATCH_ENTRIES || bytes >= self.options.batch_bytes();
            if is_full && closed.is_none() {
                thread::sleep((began.elapsed() * self.rest_ratio).min(REST_MAX));
            }
            if let Some(done) = closed {
                self.finish(done);
                return;
            }
            if !is_open {
                return;
            }
            self.upkeep();
        }
    }

    /// Waits for an entry and lets more gather; whether there are handles left.
    ///
    /// While they gather it sleeps rather than waits for the next, so that whoever tells something wakes nobody.
    fn gather(&mut self, batch: &mut Vec<Entry>, closed: &mut Option<oneshot::Sender<()>>) -> bool {
        let idle = match self.more {
            More::Perhaps => Duration::ZERO,
            More::NotNow => PRUNE_EVERY,
        };
        let mut next = match self.entries.recv_timeout(idle) {
            Ok(entry) => Some(entry),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        if !self.is_behind {
            thread::sleep(GATHER);
        }
        let mut bytes = 0;
        self.is_behind = true;
        while batch.len() < BATCH_ENTRIES && bytes < self.options.batch_bytes() {
            let Some(entry) = next.take().or_else(|| self.entries.try_recv().ok()) else {
                self.is_behind = false;
                break;
            };
            self.gauges.taken_out(&entry);
            if let Entry::Close(done) = entry {
                *closed = Some(done);
                break;
            }
            bytes += entry.bytes();
            batch.push(entry);
        }
        true
    }

    /// Writes what came before the end, and ends.
    fn finish(&mut self, done: oneshot::Sender<()>) {
        loop {
            let batch: Vec<Entry> = self.entries.try_iter().take(BATCH_ENTRIES).collect();
            if batch.is_empty() {
                break;
            }
            for entry in &batch {
                self.gauges.taken_out(entry);
            }
            self.write(&batch);
        }
        if let Some((store, _)) = &self.store
            && let Err(error) = store.checkpoint()
        {
            warn!(%error, "the history could not be tidied up; the next start does it");
        }
        self.store = None;
        // Whoever asked may have given up waiting.
        let _ = done.send(());
    }

    fn write(&mut self, batch: &[Entry]) {
        if batch.is_empty() {
            return;
        }
        if self.store.is_none() && self.retry_at.is_none_or(|at| at <= Instant::now()) {
            self.open();
        }
        let Some((store, origin)) = &mut self.store else {
            self.lose(batch, "its file can't be used");
            return;
        };
        let result = write_batch(store, *origin, batch, self.options.log_bytes_max());
        match result {
            Ok(rows) => {
                self.gauges.wrote(rows);
                self.recovered();
            }
            Err(error) => {
                self.fail(&error);
                self.lose(batch, "its file can't be written");
            }
        }
    }

    fn lose(&self, batch: &[Entry], reason: &str) {
        self.gauges.lose(batch.iter().map(Entry::count).sum(), reason);
    }

    /// Opens the file. A damaged or a newer one is moved aside, and a new one made.
    fn open(&mut self) {
        let began = Instant::now();
        match self.try_open() {
            Ok(()) => {
                self.retry_at = None;
                self.gauges.trouble(None);
            }
            Err(error) => {
                self.fail_after(&error, began.elapsed());
                if self.retry_at.is_none()
                    && let Err(error) = self.try_open()
                {
                    self.is_failing = false;
                    self.complain(&error);
                    self.rest(began.elapsed());
                }
            }
        }
    }

    /// Lets some time pass before the file is tried again, after what took so long.
    fn rest(&mut self, took: Duration) {
        self.retry_at = Some(Instant::now() + pause(self.failures, took));
        self.failures = self.failures.saturating_add(1);
    }

    fn try_open(&mut self) -> Result<(), StoreError> {
        let mut store = Store::open(&self.path, self.options.log_bytes_max())?;
        if !self.is_checked {
            store.check()?;
            self.is_checked = true;
        }
        let number = store.journal(self.journal)?;
        let origin = Origin {
            journal: self.journal,
            number,
        };
        let named = (self.names)().into_iter().map(Entry::Known).collect::<Vec<_>>();
        for some in named.chunks(BATCH_ENTRIES) {
            write_batch(&mut store, origin, some, self.options.log_bytes_max())?;
        }
        self.store = Some((store, origin));
        self.compare()
    }

    /// Compares what is pending with what is owed.
    fn compare(&mut self) -> Result<(), StoreError> {
        let Some((store, origin)) = &mut self.store else {
            return Ok(());
        };
        self.lost = self.gauges.lost.load(Ordering::Relaxed);
        match reconcile(store, *origin, &self.ledger) {
            Ok(0) => Ok(()),
            Ok(deliveries) => {
                info!(deliveries, "the history does not know how these ended");
                Ok(())
            }
            Err(Failure::Ledger(error)) => {
                warn!(%error, "the history could not be compared with the journal");
                Ok(())
            }
            Err(Failure::Store(error)) => Err(error),
        }
    }

    /// What follows from a failure. `retry_at` is empty afterwards if the next try may come at once.
    fn fail(&mut self, error: &StoreError) {
        self.fail_after(error, Duration::ZERO);
    }

    fn fail_after(&mut self, error: &StoreError, took: Duration) {
        self.store = None;
        let is_again = self.aside_at.is_some_and(|at| at.elapsed() < ASIDE_EVERY);
        let why = match error {
            StoreError::Damaged(_) if !is_again => "damaged".to_owned(),
            StoreError::Newer(version) if !is_again => format!("version-{version}"),
            _ => {
                self.complain(error);
                self.rest(took);
                return;
            }
        };
        match set_aside(&self.path, &why, self.clock.now()) {
            Ok(aside) => {
                error!(
                    file = %self.path.display(), aside = %aside.display(), %error,
                    "the history can't be used: it is set aside and begun anew; deliveries are not affected"
                );
                self.retry_at = None;
                self.gauges.trouble(None);
                self.aside_at = Some(Instant::now());
                self.pruner.restart();
            }
            Err(failure) => {
                if self.failures == 0 {
                    error!(file = %self.path.display(), %error, %failure, "the history can't be used nor set aside");
                }
                self.gauges
                    .trouble(Some(format!("{error}; it can't be set aside: {failure}")));
                self.rest(took);
            }
        }
    }

    /// Tells of a failure once, until it is over.
    fn complain(&mut self, error: &StoreError) {
        self.gauges.trouble(Some(error.to_string()));
        if !std::mem::replace(&mut self.is_failing, true) {
            error!(
                file = %self.path.display(), %error,
                "the history can't be written, and is tried again; deliveries are not affected"
            );
        }
    }

    fn recovered(&mut self) {
        self.failures = 0;
        if std::mem::replace(&mut self.is_failing, false) {
            info!(file = %self.path.display(), "the history is written again");
        }
    }

    /// Pruning, and the figures.
    fn upkeep(&mut self) {
        let now = Instant::now();
        if self.more == More::NotNow && self.pruned_at + PRUNE_EVERY > now && !self.is_over() {
            return;
        }
        if self.store.is_none() && self.retry_at.is_some_and(|at| at <= now) {
            self.open();
        }
        if self.round_at + PRUNE_ROUND <= now {
            self.round_at = now;
            self.pruner.restart();
            if self.lost != self.gauges.lost.load(Ordering::Relaxed)
                && let Err(error) = self.compare()
            {
                self.fail(&error);
            }
        }
        self.more = match self.prune(now + PRUNE_FOR) {
            Ok(more) => more,
            Err(error) => {
                self.fail(&error);
                More::NotNow
            }
        };
        self.pruned_at = Instant::now();
    }

    /// Whether the file is larger than it may be. A failure to tell shows in the next step.
    fn is_over(&self) -> bool {
        let used = self.store.as_ref().and_then(|(store, _)| store.page_bytes().ok());
        used.is_some_and(|(used, _)| used > self.options.file_bytes_max())
    }

    fn prune(&mut self, until: Instant) -> Result<More, StoreError> {
        let Some((store, _)) = &mut self.store else {
            return Ok(More::NotNow);
        };
        let bounds = Bounds {
            since: self.options.since(self.clock.now()),
            bytes_max: self.options.file_bytes_max(),
        };
        let more = loop {
            let more = self.pruner.step(store, bounds)?;
            if more == More::NotNow || Instant::now() >= until {
                break more;
            }
        };
        let (_, file) = store.page_bytes()?;
        self.gauges
            .bytes
            .store(file + store.wal_bytes(), Ordering::Relaxed);
        Ok(more)
    }
}

/// How long to wait after so many failures, the last of which took so long.
fn pause(failures: u32, took: Duration) -> Duration {
    let again = RETRY.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
    let long = took.saturating_mul(RETRY_RATIO).min(RETRY_LONG_MAX);
    again.min(RETRY_MAX).max(long)
}

/// Writes a batch in one transaction; how many rows it took.
fn write_batch(
    store: &mut Store,
    origin: Origin,
    batch: &[Entry],
    log_bytes_max: u64,
) -> Result<u64, StoreError> {
    // Somebody who reads for long keeps SQLite from beginning its log anew, which then would grow without bound.
    if store.wal_bytes() > log_bytes_max && store.checkpoint()? {
        return Err(StoreError::Unusable(
            "another program has been reading it for long".to_owned(),
        ));
    }
    let begun = store
        .connection
        .transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut rows = 0;
    for entry in batch {
        rows += rows::write(&begun, origin, entry)?;
    }
    begun.commit()?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_less_and_less_often_and_what_takes_long_seldom() {
        let pauses: Vec<u64> = (0..6)
            .map(|failures| pause(failures, Duration::ZERO).as_secs())
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        assert_eq!(pause(99, Duration::ZERO), RETRY_MAX);
        assert_eq!(pause(0, Duration::from_secs(12)), Duration::from_mins(4));
        assert_eq!(pause(0, Duration::from_hours(1)), RETRY_LONG_MAX);
    }
}
