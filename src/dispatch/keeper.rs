//! How what changes in memory comes into `settings.db`: by one task, all that waits in one transaction, on a thread
//! that may block.

use std::{io, mem, time::Duration};

use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::settings::AccessError;

/// The wait before what could not be written is again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long the last write may take, at the end.
const LAST_TIMEOUT: Duration = Duration::from_secs(5);

/// What is kept so.
pub(super) trait Kept: Sync {
    /// How long after a write the next comes, at the earliest.
    const EVERY: Duration;
    /// What is said when it can't be written.
    const UNSAVED: &str;
    /// What is said when it was not written at the end.
    const LOST: &str;

    /// Tells that something is to be written.
    fn unsaved(&self) -> &Notify;

    /// Writes what changed until now, and returns once it is durable.
    fn save(&self) -> impl Future<Output = io::Result<()>> + Send;
}

/// Has written what changes, until the token is cancelled. Of failures in a row only the first is told.
pub(super) async fn keep<T: Kept>(kept: &T, soft: &CancellationToken) {
    let (mut was_saved, mut rest) = (true, Duration::ZERO);
    let due = async |rest| {
        sleep(rest).await;
        kept.unsaved().notified().await;
    };
    while soft.run_until_cancelled(due(rest)).await.is_some() {
        let saved = kept.save().await;
        rest = if saved.is_ok() { T::EVERY } else { AGAIN_AFTER };
        let had_saved = mem::replace(&mut was_saved, saved.is_ok());
        if let Err(error) = saved {
            kept.unsaved().notify_one();
            if had_saved {
                warn!(%error, "{}", T::UNSAVED);
            }
        }
    }
}

/// Has written what is left, once nothing changes any more; that is not waited for for ever.
pub(super) async fn close<T: Kept>(kept: &T) {
    let saved = timeout(LAST_TIMEOUT, kept.save()).await;
    if let Err(error) = saved.map_err(io::Error::other).flatten() {
        warn!(%error, "{}", T::LOST);
    }
}

/// Writes on a thread that may block.
pub(super) async fn write(
    write: impl FnOnce() -> Result<(), AccessError> + Send + 'static,
) -> io::Result<()> {
    let written = spawn_blocking(write).await;
    written.map_err(io::Error::other)?.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::*;

    /// What can't be written so often.
    #[derive(Default)]
    struct Stubborn {
        unsaved: Notify,
        failures: u32,
        tried: AtomicU32,
    }

    impl Kept for Stubborn {
        const EVERY: Duration = Duration::from_millis(100);
        const UNSAVED: &str = "not now";
        const LOST: &str = "not at all";

        fn unsaved(&self) -> &Notify {
            &self.unsaved
        }

        async fn save(&self) -> io::Result<()> {
            if self.tried.fetch_add(1, Ordering::AcqRel) < self.failures {
                return Err(io::Error::other("no"));
            }
            Ok(())
        }
    }

    impl Stubborn {
        fn tried(&self) -> u32 {
            self.tried.load(Ordering::Acquire)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_is_until_it_was_and_then_no_more() {
        let kept = Stubborn {
            failures: 2,
            ..Stubborn::default()
        };
        let soft = CancellationToken::new();
        kept.unsaved.notify_one();
        let looked = async {
            sleep(AGAIN_AFTER / 2).await;
            assert_eq!(kept.tried(), 1);
            sleep(AGAIN_AFTER).await;
            assert_eq!(kept.tried(), 2);
            sleep(Duration::from_hours(1)).await;
            assert_eq!(kept.tried(), 3);
            soft.cancel();
        };
        tokio::join!(keep(&kept, &soft), looked);
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_all_the_time_is_written_from_time_to_time() {
        let kept = Stubborn::default();
        let (soft, began) = (CancellationToken::new(), Instant::now());
        let changes = async {
            while began.elapsed() < Duration::from_secs(1) {
                kept.unsaved.notify_one();
                sleep(Duration::from_millis(1)).await;
            }
            soft.cancel();
        };
        tokio::join!(keep(&kept, &soft), changes);
        assert!((8..=11).contains(&kept.tried()), "{}", kept.tried());
    }
}
