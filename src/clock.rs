//! Wall time, injected.
//!
//! Only what is persisted, signed or shown to people is wall time. Everything that waits uses
//! [`tokio::time::Instant`], which never jumps and can be paused in tests.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, TimeZone, Utc};
use tokio::time::Instant;

mod cautious;

use cautious::Cautious;

use crate::locked::Locked as _;

/// How long a clock that was set forward must have stood until what seems old by it is let go of: long enough for a
/// machine to be told the time after it was booted, or for somebody to see the slip.
const BELIEVED_AFTER: Duration = Duration::from_hours(1);

/// A moment of wall time, in milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Before all others.
    pub const MIN: Self = Self(i64::MIN);

    /// The moment `millis` milliseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, as the `webhook-timestamp` header carries them.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// How long `earlier` lies before this moment; zero when it doesn't, because the clock was set back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The moment `wait` after this one; part of a millisecond is left out.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis(wait)))
    }

    /// The moment `span` before this one; part of a millisecond is left out.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339, UTC, with milliseconds: `2026-11-23T09:08:38.473Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Utc.timestamp_millis_opt(self.0).single() {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true)),
            None => write!(f, "{} ms since the epoch", self.0),
        }
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time.timestamp_millis())
    }
}

/// Tells the wall time. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's own clock.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    pub fn system() -> Self {
        Self(Arc::new(|| Utc::now().into()))
    }

    /// A clock that tells what `read` returns.
    #[must_use]
    pub fn from_fn(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// A clock that tells the same time now and does not jump from now on, whatever this one does: for what is
    /// persisted and compared with what comes later.
    #[must_use]
    pub fn steady(&self) -> Self {
        let (start, began) = (self.now(), Instant::now());
        Self::from_fn(move || start.after(began.elapsed()))
    }

    /// A clock by which what is older than `age` is let go of: where this one is set forward, and after a start, it is
    /// believed once it has stood for an hour, or for `age` if that is less. Until then no more time has passed than
    /// really has; after a start, none at all ([`Timestamp::MIN`]).
    #[must_use]
    pub fn for_ages(&self, age: Duration) -> Self {
        let (wall, began) = (self.clone(), Instant::now());
        let cautious = Mutex::new(Cautious::new(age.min(BELIEVED_AFTER)));
        Self::from_fn(move || {
            let mut cautious = cautious.locked();
            cautious.look(wall.now(), began.elapsed())
        })
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_as_rfc_3339_with_milliseconds() {
        assert_eq!(
            Timestamp::from_unix_millis(1_795_424_918_473).to_string(),
            "2026-11-23T09:08:38.473Z"
        );
        assert_eq!(
            Timestamp::from_unix_millis(0).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn a_clock_set_back_gives_no_negative_age() {
        let (early, late) = (
            Timestamp::from_unix_millis(1_000),
            Timestamp::from_unix_millis(3_500),
        );
        assert_eq!(late.since(early), Duration::from_millis(2_500));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_clock_does_not_jump_along() {
        let wall = Arc::new(std::sync::atomic::AtomicI64::new(10_000));
        let read = Arc::clone(&wall);
        let clock = Clock::from_fn(move || Timestamp(read.load(std::sync::atomic::Ordering::Relaxed)));
        let steady = clock.steady();
        wall.store(-5_000, std::sync::atomic::Ordering::Relaxed);
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!(steady.now(), Timestamp(11_500));
        assert_eq!(steady.now().after(Duration::MAX), Timestamp(i64::MAX));
        assert_eq!(steady.now().before(Duration::from_secs(1)), Timestamp(10_500));
    }
}
