//! The one thread that writes.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    Options,
    chunk::Chunk,
    entry::Entry,
    history::Gauges,
    line::{Line, Next},
    prune::{Bounds, More, Pruner},
    reconcile::{Failure, Ledger, reconcile},
    rows::{origin, write_batch},
    store::{Store, StoreError, set_aside},
};
use crate::{clock::Clock, image::RepositoryName, journal::JournalId};

/// How long entries gather before they are written, and how many at most.
const GATHER: Duration = Duration::from_millis(200);
const BATCH_ENTRIES: usize = 2_000;

/// After a batch behind which more waits, this many times as long as it took is rested while news come as fast as at a
/// rush, for pushes and webhooks need disk and processors more; and as long as it took when they don't.
const RESTS_AT_RUSH: u32 = 16;
const RESTS: u32 = 1;
const REST_MAX: Duration = Duration::from_secs(1);

/// So many news a second are a rush.
const RUSH: f64 = 2_000.0;

/// How long what waits at the end is still written down; the rest waits for the next start.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

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
    line: Arc<Line>,
    gauges: Arc<Gauges>,
    /// What was taken out of the line and is not all written down.
    chunk: Option<Chunk>,
    store: Option<Store>,
    retry_at: Option<Instant>,
    is_checked: bool,
    /// Whether what is pending is still to be compared with what is owed: once nothing of an earlier process waits.
    is_to_compare: bool,
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
    /// How much had been told when the last batch was written, and when that was.
    told: (u64, Instant),
    pub(super) rest_max: Duration,
    pub(super) close_within: Duration,
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        options: Options,
        (journal, ledger): (JournalId, Ledger),
        names: Names,
        clock: Clock,
        line: Arc<Line>,
    ) -> Self {
        Self {
            path,
            options,
            journal,
            ledger,
            names,
            clock,
            gauges: Arc::clone(&line.gauges),
            line,
            chunk: None,
            store: None,
            retry_at: None,
            is_checked: false,
            is_to_compare: true,
            aside_at: None,
            pruner: Pruner::default(),
            more: More::NotNow,
            pruned_at: Instant::now(),
            round_at: Instant::now(),
            is_failing: false,
            failures: 0,
            lost: 0,
            told: (0, Instant::now()),
            rest_max: REST_MAX,
            close_within: CLOSE_WITHIN,
        }
    }

    /// Writes until the line is closed.
    pub(super) fn run(mut self) {
        self.open();
        let mut until = None;
        loop {
            if self.line.is_closed() {
                let until = *until.get_or_insert_with(|| Instant::now() + self.close_within);
                if self.store.is_none() || Instant::now() >= until {
                    break;
                }
            }
            if self.chunk.is_none() {
                let idle = match self.more {
                    More::Perhaps => Duration::ZERO,
                    More::NotNow => PRUNE_EVERY,
                };
                match self.line.next(idle, GATHER) {
                    Next::Chunk(chunk) => self.chunk = Some(chunk),
                    Next::Nothing => {}
                    Next::Closed => break,
                }
            }
            self.write();
            self.upkeep();
        }
        self.finish();
    }

    /// Leaves what was not written down to the next start, and ends.
    fn finish(self) {
        match self.line.leave(self.chunk.as_ref()) {
            0 => {}
            bytes => info!(bytes, "the history is written on after the next start"),
        }
        if let Some(store) = &self.store
            && let Err(error) = store.checkpoint()
        {
            warn!(%error, "the history could not be tidied up; the next start does it");
        }
    }

    /// Writes some of the chunk, if there is any. While the file can't be used it waits.
    fn write(&mut self) {
        let Some(chunk) = &mut self.chunk else { return };
        if self.store.is_none() {
            match self
                .retry_at
                .map(|at| at.saturating_duration_since(Instant::now()))
            {
                Some(wait) if !wait.is_zero() => return self.line.pause(wait.min(PRUNE_EVERY)),
                _ => return self.open(),
            }
        }
        let Some(store) = &mut self.store else { return };
        let began = Instant::now();
        // Asked each time: the store may have been opened after the chunk was taken.
        let known = store.read_until().and_then(|read| {
            chunk.skip(read);
            origin(store, chunk.journal)
        });
        let batch = chunk.batch(BATCH_ENTRIES, self.options.batch_bytes());
        let read = chunk.file.map(|(file, _)| (file, batch.end));
        let result = known.and_then(|origin| {
            write_batch(store, origin, &batch.entries, read, self.options.log_bytes_max())
        });
        match result {
            Ok(rows) => {
                let (end, is_full) = (batch.end, batch.is_full);
                if batch.is_cut {
                    self.gauges.lose(1, "what waited in a file can't be read");
                }
                self.gauges.wrote(rows);
                chunk.at = end;
                self.recovered();
                let is_more = is_full || !self.line.is_in_memory();
                self.rest(began, is_more);
            }
            Err(error @ StoreError::Unusable(_)) => self.fail(&error),
            Err(error) => {
                // It may be what was to be written that the file can't take.
                let entries = batch.entries.len() as u64;
                chunk.at = batch.end;
                self.gauges.lose(entries, "its file can't be written");
                self.fail(&error);
            }
        }
        if let Some(chunk) = self.chunk.take_if(|chunk| chunk.is_read()) {
            self.line.done(&chunk);
        }
    }

    /// Rests after a batch that took since `began`.
    fn rest(&mut self, began: Instant, is_more: bool) {
        let told = self.gauges.told.load(Ordering::Relaxed);
        let (before, at) = std::mem::replace(&mut self.told, (told, Instant::now()));
        if is_more {
            let rests = if is_rush(told - before, at.elapsed()) {
                RESTS_AT_RUSH
            } else {
                RESTS
            };
            self.line.pause((began.elapsed() * rests).min(self.rest_max));
        }
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
                    self.wait(began.elapsed());
                }
            }
        }
    }

    /// Lets some time pass before the file is tried again, after what took so long.
    fn wait(&mut self, took: Duration) {
        self.retry_at = Some(Instant::now() + pause(self.failures, took));
        self.failures = self.failures.saturating_add(1);
    }

    fn try_open(&mut self) -> Result<(), StoreError> {
        let mut store = Store::open(&self.path, self.options.log_bytes_max())?;
        if !self.is_checked {
            store.check()?;
            self.is_checked = true;
        }
        let origin = origin(&store, self.journal)?;
        let names = (self.names)();
        let known: Vec<Entry<'_>> = names.iter().map(|name| Entry::Known(name.as_str())).collect();
        for some in known.chunks(BATCH_ENTRIES) {
            write_batch(&mut store, origin, some, None, self.options.log_bytes_max())?;
        }
        self.store = Some(store);
        self.is_to_compare = true;
        self.compare_if_due()
    }

    /// Compares what is pending with what is owed, unless how it ended may wait in a file.
    fn compare_if_due(&mut self) -> Result<(), StoreError> {
        if self.is_to_compare && self.line.is_in_memory() {
            self.is_to_compare = false;
            self.compare()?;
        }
        Ok(())
    }

    /// Compares what is pending with what is owed.
    fn compare(&mut self) -> Result<(), StoreError> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        self.lost = self.gauges.lost.load(Ordering::Relaxed);
        let origin = origin(store, self.journal)?;
        match reconcile(store, origin, &self.ledger) {
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
                self.wait(took);
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
                self.wait(took);
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
        if let Err(error) = self.compare_if_due() {
            self.fail(&error);
        }
        if self.store.is_none() && self.retry_at.is_some_and(|at| at <= now) {
            self.open();
        }
        if self.round_at + PRUNE_ROUND <= now {
            self.round_at = now;
            self.pruner.restart();
            self.is_to_compare |= self.lost != self.gauges.lost.load(Ordering::Relaxed);
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
        let used = self.store.as_ref().and_then(|store| store.page_bytes().ok());
        used.is_some_and(|(used, _)| used > self.file_bytes_max())
    }

    /// Bytes that the file may have beside what waits.
    fn file_bytes_max(&self) -> u64 {
        let waiting = self.gauges.overflow.load(Ordering::Relaxed);
        self.options.file_bytes_max().saturating_sub(waiting)
    }

    fn prune(&mut self, until: Instant) -> Result<More, StoreError> {
        let bounds = Bounds {
            since: self.options.since(self.clock.now()),
            bytes_max: self.file_bytes_max(),
        };
        let Some(store) = &mut self.store else {
            return Ok(More::NotNow);
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

/// Whether so many news within that time are a rush.
fn is_rush(told: u64, within: Duration) -> bool {
    f64::from(u32::try_from(told).unwrap_or(u32::MAX)) > RUSH * within.as_secs_f64()
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
