//! How much happens: in the last minute, in the last hour, since the start.
//!
//! The counters are looked at now and then and remembered for an hour: a rate is what they have grown by.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::{journal::Journal, locked::Locked as _, telemetry::Metrics};

/// How often the counters are looked at.
const EVERY: Duration = Duration::from_secs(10);

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// So many looks are remembered: an hour's, and one before.
const LOOKS_MAX: usize = 361;

/// How much happened. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    journal: Journal,
    metrics: Metrics,
    started: Instant,
    looks: Mutex<VecDeque<Look>>,
}

/// The counters at a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    taken: u64,
    delivered: u64,
    failed_attempts: u64,
    dead_letters: u64,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    counts: Counts,
}

/// How often something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Often {
    /// In the last minute, within ten seconds.
    pub last_minute: u64,
    /// In the last hour, within ten seconds.
    pub last_hour: u64,
    /// Since the process began.
    pub since_start: u64,
}

/// What happened how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rates {
    /// Pushes that were taken.
    pub taken: Often,
    /// Pushes that were delivered, each for each endpoint.
    pub delivered: Often,
    /// Attempts that failed.
    pub failed_attempts: Often,
    /// Pushes that were given up on, each for each endpoint.
    pub dead_letters: Often,
}

impl Pulse {
    /// Of a process that starts now.
    #[must_use]
    pub fn new(journal: Journal, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            journal,
            metrics,
            started: Instant::now(),
            looks: Mutex::default(),
        }))
    }

    /// How long the process runs.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Looks at the counters until the token is cancelled.
    pub async fn keep(self, soft: CancellationToken) {
        loop {
            let look = self.look();
            remember(&mut self.looks(), look);
            tokio::select! {
                biased;
                () = soft.cancelled() => return,
                () = sleep(EVERY) => {}
            }
        }
    }

    /// What happened until now.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let now = self.look();
        let looks = self.looks();
        let (minute, hour) = (before(&looks, now.at, MINUTE), before(&looks, now.at, HOUR));
        let often = |of: fn(&Counts) -> u64| Often {
            last_minute: of(&now.counts) - of(&minute).min(of(&now.counts)),
            last_hour: of(&now.counts) - of(&hour).min(of(&now.counts)),
            since_start: of(&now.counts),
        };
        Rates {
            taken: often(|counts| counts.taken),
            delivered: often(|counts| counts.delivered),
            failed_attempts: often(|counts| counts.failed_attempts),
            dead_letters: often(|counts| counts.dead_letters),
        }
    }

    fn look(&self) -> Look {
        let outcomes = self.0.metrics.outcomes();
        Look {
            at: Instant::now(),
            counts: Counts {
                taken: self.0.journal.stats().pushes,
                delivered: outcomes.delivered,
                failed_attempts: outcomes.failed_attempts,
                dead_letters: outcomes.dead_letters,
            },
        }
    }

    fn looks(&self) -> MutexGuard<'_, VecDeque<Look>> {
        self.0.looks.locked()
    }
}

fn remember(looks: &mut VecDeque<Look>, look: Look) {
    if looks.len() >= LOOKS_MAX {
        looks.pop_front();
    }
    looks.push_back(look);
}

/// The counters so long ago: as they were seen last before. Nothing, when the process is younger.
fn before(looks: &VecDeque<Look>, now: Instant, span: Duration) -> Counts {
    let newer = looks.partition_point(|look| now.duration_since(look.at) >= span);
    let look = newer.checked_sub(1).and_then(|index| looks.get(index));
    look.map(|look| look.counts).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_span_begins_at_the_last_look_before_it_and_an_hour_is_remembered() {
        let mut looks = VecDeque::new();
        let begin = Instant::now();
        assert_eq!(before(&looks, begin, MINUTE).taken, 0);
        for number in 0..1000_u64 {
            let counts = Counts {
                taken: number,
                ..Counts::default()
            };
            let at = Instant::now();
            remember(&mut looks, Look { at, counts });
            assert!(looks.len() <= LOOKS_MAX);
            let ago = |span| before(&looks, at, span).taken;
            assert_eq!(ago(MINUTE), number.saturating_sub(6));
            assert_eq!(ago(HOUR), number.saturating_sub(360));
            tokio::time::advance(EVERY).await;
        }
    }
}
