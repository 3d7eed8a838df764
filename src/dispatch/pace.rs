//! The pace of one endpoint: at most so many requests a second. Pure: the caller sleeps.

use std::time::Duration;

use tokio::time::Instant;

use crate::webhook::Rate;

/// The longest gap between two requests, however small a rate.
const GAP_MAX: Duration = Duration::from_hours(24);

/// Spaces the requests to one endpoint evenly: a token bucket that holds one token.
///
/// No two requests start closer together than `1 / rate`, also after an idle hour. A receiver that
/// asked for 20 a second means one every 50 ms, and a bucket that saves up would greet it with a burst
/// just after each outage, when it is weakest.
#[derive(Clone, Debug)]
pub struct Pace {
    gap: Duration,
    /// When the last request was to start; `None` before the first.
    last: Option<Instant>,
}

impl Pace {
    /// The pace of `rate`. A rate that is not a positive number is no limit.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self {
            gap: gap(rate),
            last: None,
        }
    }

    /// Keeps to another rate, counted from the last request.
    pub fn follow(&mut self, rate: Rate) {
        self.gap = gap(rate);
    }

    /// When the next request may start, if that is known not to be now.
    #[must_use]
    pub fn free_at(&self) -> Option<Instant> {
        self.last.map(|last| last + self.gap)
    }

    /// Reserves a start for one request and tells when it is: now, or later. Starts are given in the
    /// order in which they are asked for; one that is not used after all is lost.
    pub fn next(&mut self, now: Instant) -> Instant {
        let start = self.free_at().map_or(now, |free| free.max(now));
        self.last = Some(start);
        start
    }
}

/// The time between two starts, rounded up, so that the rate is never exceeded.
fn gap(rate: Rate) -> Duration {
    match rate.per_second {
        Some(per_second) if per_second > 0.0 && per_second.is_finite() => {
            Duration::try_from_secs_f64(1.0 / per_second)
                .map_or(GAP_MAX, |gap| {
                    let exact = gap.as_secs_f64() * per_second >= 1.0;
                    gap + if exact {
                        Duration::ZERO
                    } else {
                        Duration::from_nanos(1)
                    }
                })
                .min(GAP_MAX)
        }
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(per_second: f64) -> Pace {
        Pace::new(Rate {
            per_second: Some(per_second),
        })
    }

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced_evenly_and_the_first_starts_at_once() {
        let now = Instant::now();
        let mut pace = pace(20.0);
        let starts: Vec<_> = (0..4).map(|_| pace.next(now) - now).collect();
        assert_eq!(starts, [Duration::ZERO, 50 * MS, 100 * MS, 150 * MS]);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_saves_up_no_burst() {
        let now = Instant::now();
        let mut pace = pace(10.0);
        assert_eq!(pace.next(now), now);
        let later = now + 3_600_000 * MS;
        assert_eq!(pace.next(later), later);
        assert_eq!(pace.next(later), later + 100 * MS);
        assert_eq!(pace.next(later + 130 * MS), later + 200 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn another_rate_holds_from_the_last_request_on() {
        let now = Instant::now();
        let mut pace = pace(10.0);
        pace.next(now);
        pace.follow(Rate {
            per_second: Some(1.0),
        });
        assert_eq!(pace.next(now), now + 1_000 * MS);
        pace.follow(Rate {
            per_second: Some(100.0),
        });
        assert_eq!(pace.next(now), now + 1_010 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_exact_and_never_exceeded_in_the_long_run() {
        let now = Instant::now();
        for per_second in [3.0, 7.0, 20.0, 999.0, 0.1] {
            let mut pace = pace(per_second);
            let last = (0..=10_000).map(|_| pace.next(now)).last().unwrap();
            let took = (last - now).as_secs_f64();
            assert!(took >= 10_000.0 / per_second, "{per_second}/s: {took} s");
            assert!(took <= 10_000.0 / per_second + 0.001, "{per_second}/s: {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits_and_a_tiny_one_waits_a_day() {
        let now = Instant::now();
        for per_second in [None, Some(0.0), Some(-1.0), Some(f64::NAN), Some(f64::INFINITY)] {
            let mut pace = Pace::new(Rate { per_second });
            assert_eq!((pace.next(now), pace.next(now)), (now, now), "{per_second:?}");
        }
        let mut pace = pace(1e-300);
        pace.next(now);
        assert_eq!(pace.next(now), now + GAP_MAX);
    }
}
