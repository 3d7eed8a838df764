//! How many lanes are at work: each has a task, an open batch and its contents, whatever it waits for.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;
use tracing::warn;

use crate::telemetry::log::Throttle;

/// The most lanes at work before no more is taken from the agenda: what is due then waits there, in a few bytes,
/// in the order in which it became due. Many times more than attempts that can be under way, for a lane also waits for
/// sizes, for its endpoint's pace and for its host; up to here nobody else waits for that. From here on everybody does,
/// and it is told. Those that wait for one host never fill it: see [`Turns::join`](super::turn::Turns::join).
pub(super) const LANES_MAX: usize = 16_384;

/// Counts them.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    at_work: AtomicUsize,
    room: Notify,
    full: Throttle,
}

/// A lane at work, until it is dropped.
#[derive(Debug)]
pub(super) struct AtWork(Arc<Lanes>);

impl Lanes {
    /// One more.
    pub(super) fn begin(self: &Arc<Self>) -> AtWork {
        self.at_work.fetch_add(1, Ordering::AcqRel);
        AtWork(Arc::clone(self))
    }

    /// For how many more there is room.
    pub(super) fn free(&self) -> usize {
        LANES_MAX.saturating_sub(self.at_work.load(Ordering::Acquire))
    }

    /// Waits until there is room for one more. For one caller at a time. Cancel-safe.
    pub(super) async fn room(&self) {
        while self.at_work.load(Ordering::Acquire) >= LANES_MAX {
            if let Some(times) = self.full.due() {
                warn!(
                    lanes = LANES_MAX,
                    times,
                    "as many repositories wait for endpoints as may at once: all others wait until one is through; see delivery.per_host"
                );
            }
            self.room.notified().await;
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if self.0.at_work.fetch_sub(1, Ordering::AcqRel) == LANES_MAX {
            self.0.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn at_the_bound_the_next_waits_until_one_has_ended() {
        let lanes = Arc::new(Lanes::default());
        let mut at_work: Vec<AtWork> = (1..LANES_MAX).map(|_| lanes.begin()).collect();
        lanes.room().await;
        // One repository may have several.
        at_work.extend([lanes.begin(), lanes.begin()]);
        let mut room = Box::pin(lanes.room());
        assert!(poll!(&mut room).is_pending());
        at_work.pop();
        assert!(poll!(&mut room).is_pending());
        at_work.pop();
        room.await;
    }
}
