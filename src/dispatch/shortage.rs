//! When it is tried again for which this machine had nothing left to connect with, such as open files.
//!
//! All that waits for it tries again one after another, not all at once: each that fails takes the next moment there is,
//! but none waits longer than [`WAIT_MAX`].

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::{locked::Locked as _, telemetry::log::Throttle};

/// How long each waits at least, and at most.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How far apart they try.
const APART: Duration = Duration::from_millis(5);

/// Who waits for what this machine has not.
#[derive(Debug)]
pub(super) struct Shortage {
    /// The first moment that nobody has.
    next: Mutex<Instant>,
    told: Throttle,
}

impl Shortage {
    pub(super) fn new() -> Self {
        Self {
            next: Mutex::new(Instant::now()),
            told: Throttle::new(),
        }
    }

    /// How long one waits that has failed at `now`.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let mut next = self.next.locked();
        let at = (*next).clamp(now + WAIT_MIN, now + WAIT_MAX);
        *next = at + APART;
        at - now
    }

    /// How many have failed since that was told last, if it is to be told now.
    pub(super) fn told(&self) -> Option<u64> {
        self.told.due()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_one_after_another_and_none_waits_for_long() {
        let (shortage, now) = (Shortage::new(), Instant::now());
        assert_eq!(shortage.wait(now), WAIT_MIN);
        assert_eq!(shortage.wait(now), WAIT_MIN + APART);
        let many: Vec<_> = (0..100_000).map(|_| shortage.wait(now)).collect();
        assert!(many.is_sorted());
        assert_eq!(many.last(), Some(&WAIT_MAX));
        // Who comes when all have tried is the first again.
        let later = now + 2 * WAIT_MAX;
        assert_eq!(shortage.wait(later), WAIT_MIN);
    }
}
