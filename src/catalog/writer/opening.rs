//! Opening the file, what follows when it can't be used, and what is to be done once it is open.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    super::{
        entry::Entry,
        gathered::{origin, write_batch},
        reconcile::{Failure, reconcile},
        store::{Store, StoreError, set_aside},
    },
    BATCH_ENTRIES, Writer,
};

/// How long after a failure the file is tried again: after the first, and at most.
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// What took long and failed, such as to bring a large file up to date on a disk that is nearly full, is tried again after
/// so many times as long.
const RETRY_RATIO: u32 = 20;
const RETRY_LONG_MAX: Duration = Duration::from_mins(10);

/// How long it is waited, for what is pending to be compared with what is owed, that nothing waits in memory.
const COMPARE_WITHIN: Duration = Duration::from_secs(10);

/// How often a file may be set aside: a disk that fails again and again is not to be filled with them.
const ASIDE_EVERY: Duration = Duration::from_mins(1);

impl Writer {
    /// Opens the file. A damaged or a newer one is moved aside, and a new one made.
    pub(super) fn open(&mut self) {
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
        self.to_compare.get_or_insert_with(Instant::now);
        self.compare_if_due()
    }

    /// Compares what is pending with what is owed, unless how it ended may wait. Of what is told all the time it waits for
    /// no longer than a moment: that is written down soon.
    pub(super) fn compare_if_due(&mut self) -> Result<(), StoreError> {
        let Some(since) = self.to_compare else {
            return Ok(());
        };
        let is_written = self.chunk.is_none() && self.line.is_in_memory();
        if is_written && (self.line.is_empty() || since.elapsed() >= COMPARE_WITHIN) {
            self.to_compare = None;
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
    pub(super) fn fail(&mut self, error: &StoreError) {
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

    pub(super) fn recovered(&mut self) {
        self.failures = 0;
        if std::mem::replace(&mut self.is_failing, false) {
            info!(file = %self.path.display(), "the history is written again");
        }
    }
}

/// How long to wait after so many failures, the last of which took so long.
fn pause(failures: u32, took: Duration) -> Duration {
    let again = RETRY.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
    let long = took.saturating_mul(RETRY_RATIO).min(RETRY_LONG_MAX);
    again.min(RETRY_MAX).max(long)
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
