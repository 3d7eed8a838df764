//! The one thread that writes.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    Options,
    chunk::Chunk,
    gathered::{origin, write_batch},
    history::Gauges,
    line::{Line, Next},
    prune::{Bounds, More, Pruner},
    reconcile::Ledger,
    store::{Store, StoreError},
};
use crate::{clock::Clock, image::RepositoryName, journal::JournalId};

/// How long entries gather before they are written, and how many at most.
const GATHER: Duration = Duration::from_millis(200);
const BATCH_ENTRIES: usize = 2_000;

/// The longest rest after a batch, but for a flood; and how often is looked whether it is still to last, which is longer
/// than pushes stop for a disk that is slow for a moment.
const REST_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// So many pushes a second are a rush, and so many a flood: several times what can be written down without any rest, with
/// what is told of each later.
const RUSH: f64 = 700.0;
const FLOOD: f64 = 7_000.0;

/// How long what waits at the end is still written down; the rest waits for the next start.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// After so long a file of news that can't be read or deleted is tried again, and how often it is read at most.
const HELD_UP_FOR: Duration = Duration::from_secs(5);
const READS_MAX: u32 = 12;

/// How often pruning is looked after, and how long it may take between two batches.
const PRUNE_EVERY: Duration = Duration::from_secs(1);
const PRUNE_FOR: Duration = Duration::from_millis(100);

/// How often what was passed over is looked at again.
const PRUNE_ROUND: Duration = Duration::from_mins(10);

mod opening;

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
    /// By what entries are too old.
    pub(super) ages: Clock,
    line: Arc<Line>,
    gauges: Arc<Gauges>,
    /// What was taken out of the line and is not all written down.
    chunk: Option<Chunk>,
    /// The number of that chunk and the place in it where something could not be written for what it is, or the file is.
    refused: Option<(u64, usize)>,
    /// How often the next file of news could not be read.
    unread: u32,
    /// A file of news can't be read or deleted for now.
    is_held_up: bool,
    store: Option<Store>,
    retry_at: Option<Instant>,
    is_checked: bool,
    /// Since when what is pending is to be compared with what is owed: once nothing waits that tells how it ended.
    to_compare: Option<Instant>,
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
    /// How many pushes had been told when that was last looked at, and when that was.
    pushes: (u64, Instant),
    pub(super) rest_max: Duration,
    pub(super) close_within: Duration,
    pub(super) held_up_for: Duration,
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
            ages: clock.for_ages(options.age_max),
            clock,
            gauges: Arc::clone(&line.gauges),
            line,
            chunk: None,
            refused: None,
            unread: 0,
            is_held_up: false,
            store: None,
            retry_at: None,
            is_checked: false,
            to_compare: Some(Instant::now()),
            aside_at: None,
            pruner: Pruner::default(),
            more: More::NotNow,
            pruned_at: Instant::now(),
            round_at: Instant::now(),
            is_failing: false,
            failures: 0,
            lost: 0,
            pushes: (0, Instant::now()),
            rest_max: REST_MAX,
            close_within: CLOSE_WITHIN,
            held_up_for: HELD_UP_FOR,
        }
    }

    /// Writes until the line is closed.
    pub(super) fn run(mut self) {
        self.open();
        let mut until = None;
        loop {
            if self.line.is_closed() {
                let until = *until.get_or_insert_with(|| Instant::now() + self.close_within);
                if self.store.is_none() || self.is_held_up || Instant::now() >= until {
                    break;
                }
            }
            // While the file can't be used, news stay in the line, where they are put aside.
            if self.chunk.is_none() && self.store.is_some() {
                let idle = match self.more {
                    More::Perhaps => Duration::ZERO,
                    More::NotNow => PRUNE_EVERY,
                };
                match self.line.next(idle, GATHER) {
                    Next::Chunk(chunk) => {
                        (self.chunk, self.unread, self.is_held_up) = (Some(chunk), 0, false);
                    }
                    Next::Nothing => self.is_held_up = false,
                    Next::Unreadable(error) => self.cannot_read(&error),
                    Next::Closed => break,
                }
            }
            self.write();
            self.upkeep();
        }
        self.finish();
    }

    /// Leaves what was not written down to the next start, and ends.
    fn finish(mut self) {
        if self.store.is_some()
            && let Err(error) = self.compare_if_due()
        {
            self.fail(&error);
        }
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

    /// Writes some of the chunk, if there is any. While the file can't be used it waits, and tries it again.
    fn write(&mut self) {
        let Some(store) = &mut self.store else {
            match self
                .retry_at
                .map(|at| at.saturating_duration_since(Instant::now()))
            {
                Some(wait) if !wait.is_zero() => return self.line.pause(wait.min(PRUNE_EVERY)),
                _ => return self.open(),
            }
        };
        let Some(chunk) = &mut self.chunk else { return };
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
                if is_full || !self.line.is_in_memory() {
                    self.rest(began.elapsed());
                } else {
                    // How fast pushes come is asked of the time from here on.
                    self.pace();
                }
            }
            Err(error @ StoreError::Unusable(_)) => {
                self.fail(&error);
                self.chunk = self.chunk.take().and_then(|chunk| self.line.give_back(chunk));
            }
            Err(error) => {
                // A new file takes it, if it was the file. If that takes it neither, it is what was to be written.
                let here = Some((chunk.number, chunk.at));
                if self.refused == here {
                    let entries = batch.entries.len() as u64;
                    chunk.at = batch.end;
                    self.gauges.lose(entries, "no file takes it");
                }
                self.refused = here;
                self.fail(&error);
            }
        }
        let read = self.chunk.as_ref().filter(|chunk| chunk.is_read());
        match read.map(|chunk| self.line.done(chunk)) {
            Some(Ok(())) => (self.chunk, self.is_held_up) = (None, false),
            Some(Err(error)) => {
                self.hold_up(&format!("news that are written down can't be deleted: {error}"));
            }
            None => {}
        }
    }

    /// Lets some time pass before the oldest file of news is tried again; in the end it stays for the next start.
    fn cannot_read(&mut self, error: &io::Error) {
        self.unread += 1;
        if self.unread < READS_MAX {
            self.hold_up(&format!("news that wait can't be read: {error}"));
        } else {
            self.unread = 0;
            self.line.pass_over();
        }
    }

    /// Says what is in the way, once until it is over, and lets some time pass.
    fn hold_up(&mut self, why: &str) {
        self.gauges.trouble(Some(why.to_owned()));
        if !std::mem::replace(&mut self.is_held_up, true) {
            error!(
                why,
                "the history can't go on, and tries again; deliveries are not affected"
            );
        }
        self.line.pause(self.held_up_for);
    }

    /// Rests after a batch that took so long and behind which more waits, while pushes come as fast as they do.
    fn rest(&mut self, took: Duration) {
        let began = Instant::now();
        loop {
            let (times, most) = self.pace().rests(self.line.is_filling());
            let rest = (took * times).min(self.rest_max * most);
            let left = rest.saturating_sub(began.elapsed());
            if left.is_zero() || self.line.is_closed() {
                return;
            }
            self.line.pause(left.min(LOOK_EVERY));
        }
    }

    /// How fast pushes came since this was asked last.
    fn pace(&mut self) -> Pace {
        let pushes = self.gauges.pushes.load(Ordering::Relaxed);
        let (before, at) = std::mem::replace(&mut self.pushes, (pushes, Instant::now()));
        Pace::of(pushes - before, at.elapsed())
    }

    /// Pruning, and the figures.
    fn upkeep(&mut self) {
        let now = Instant::now();
        if self.more == More::NotNow && self.pruned_at + PRUNE_EVERY > now && !self.is_over() {
            return;
        }
        if self.store.as_ref().is_some_and(|store| !store.is_in_place()) {
            error!(
                file = %self.path.display(),
                "the history was deleted or replaced while it was open, and is opened again; deliveries are not affected"
            );
            // In this order: SQLite deletes the log of the old one.
            (self.store, self.retry_at, self.is_checked) = (None, None, false);
            self.pruner.restart();
        }
        if let Err(error) = self.compare_if_due() {
            self.fail(&error);
        }
        if self.round_at + PRUNE_ROUND <= now {
            self.round_at = now;
            self.pruner.restart();
            if self.lost != self.gauges.lost.load(Ordering::Relaxed) {
                self.to_compare.get_or_insert_with(Instant::now);
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
        let used = self.store.as_ref().and_then(|store| store.page_bytes().ok());
        used.is_some_and(|(used, _)| used > self.file_bytes_max())
    }

    /// Bytes that the file may have beside what waits.
    fn file_bytes_max(&self) -> u64 {
        let waiting = self.gauges.overflow.load(Ordering::Relaxed);
        let most = self.options.file_bytes_max();
        most.saturating_sub(waiting).max(most / 2)
    }

    fn prune(&mut self, until: Instant) -> Result<More, StoreError> {
        let bounds = Bounds {
            since: self.options.since(self.ages.now()),
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

/// How fast pushes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    None,
    Usual,
    Rush,
    Flood,
}

impl Pace {
    /// Of when so many came within that time.
    fn of(pushes: u64, within: Duration) -> Self {
        let pushes = f64::from(u32::try_from(pushes).unwrap_or(u32::MAX));
        match pushes / within.as_secs_f64() {
            fast if fast > FLOOD => Self::Flood,
            fast if fast > RUSH => Self::Rush,
            slow if slow > 0.0 => Self::Usual,
            _ => Self::None,
        }
    }

    /// How many times as long as a batch took is rested behind it when more waits, and for how many of the longest rests
    /// at most. A registry waits for the answer to each push: while SQLite syncs what a batch changed, some 16 KiB
    /// for each entry, the disk syncs nothing else, and the journal does not answer. Is there not much room left where
    /// news wait, it is written faster; but in a flood that would slow down pushes and save next to nothing. Webhooks
    /// alone are held up by nothing but the processor's time, which the history takes sooner or later.
    fn rests(self, is_filling: bool) -> (u32, u32) {
        match self {
            Self::None => (0, 1),
            Self::Usual => (1, 1),
            Self::Rush if is_filling => (1, 1),
            Self::Rush => (16, 1),
            Self::Flood => (32, 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_pushes_come_the_longer_is_rested_unless_room_is_short_and_when_none_come_it_is_not() {
        let pushes = [0, 1, 700, 701, 7_000, 7_001, u64::MAX];
        let rests = |pushes, is_filling| {
            let pace = Pace::of(pushes, Duration::from_secs(1));
            pace.rests(is_filling).0
        };
        assert_eq!(
            pushes.map(|pushes| rests(pushes, false)),
            [0, 1, 1, 16, 16, 32, 32]
        );
        assert_eq!(pushes.map(|pushes| rests(pushes, true)), [0, 1, 1, 1, 1, 32, 32]);
        assert_eq!(Pace::of(0, Duration::ZERO), Pace::None);
    }
}
