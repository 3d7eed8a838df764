//! What is waited for at the end, and what came of it.

use std::future::Future;

use tokio::time::error::Elapsed;

use crate::journal::Health;

/// What came of a wait at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// What was waited for is done.
    Whole,
    /// It was not done in time.
    TooLate,
    /// Somebody would not wait for it.
    Cut,
}

/// Waits for `part`, which has its own time, and no longer than until `cut`. It is begun in any case.
pub(super) async fn wait(
    part: impl Future<Output = Result<(), Elapsed>>,
    cut: impl Future<Output = ()>,
) -> Ended {
    tokio::select! {
        biased;
        ended = part => ended.map_or(Ended::TooLate, |()| Ended::Whole),
        () = cut => Ended::Cut,
    }
}

/// Why the journal failed, if it did. One that somebody would not wait for has not: what was acknowledged was durable
/// before, and what was not written is repeated after the next start, as after a kill.
pub(super) fn failure(health: Health, closed: Ended) -> Option<String> {
    match (health, closed) {
        (Health::Failed(reason), _) => Some(reason),
        (_, Ended::TooLate) => Some("it could not be synced before the end".to_owned()),
        (_, Ended::Whole | Ended::Cut) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        time::Duration,
    };

    use tokio::time::{sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_end_that_somebody_cuts_is_no_failure_and_one_that_hangs_is() {
        let hangs = || timeout(LIMIT, pending());
        let cut = wait(hangs(), sleep(LIMIT / 2)).await;
        assert_eq!((cut, failure(Health::Ready, cut)), (Ended::Cut, None));
        let late = wait(hangs(), pending()).await;
        assert_eq!(late, Ended::TooLate);
        let reason = failure(Health::Ready, late).unwrap_or_default();
        assert!(reason.contains("could not be synced"), "{reason}");
        let whole = wait(timeout(LIMIT, ready(())), ready(())).await;
        assert_eq!((whole, failure(Health::Ready, whole)), (Ended::Whole, None));
    }

    #[test]
    fn a_journal_that_failed_has_failed_though_somebody_cut_its_end() {
        let failed = Health::Failed("no sync".to_owned());
        assert_eq!(failure(failed, Ended::Cut).as_deref(), Some("no sync"));
    }
}
