//! Whose turn it is: an endpoint's pace, the caps per host and overall.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};

use super::pace::Pace;
use crate::{push::EndpointId, webhook::Rate};

/// The right to make one attempt, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _host: OwnedSemaphorePermit,
    _overall: OwnedSemaphorePermit,
}

/// Hands out turns.
#[derive(Debug)]
pub(super) struct Turns {
    paces: DashMap<EndpointId, Arc<Mutex<Pace>>>,
    hosts: DashMap<String, Arc<Semaphore>>,
    overall: Arc<Semaphore>,
    per_host: usize,
}

impl Turns {
    pub(super) fn new(overall: usize, per_host: usize) -> Self {
        Self {
            paces: DashMap::new(),
            hosts: DashMap::new(),
            overall: Arc::new(Semaphore::new(overall)),
            per_host,
        }
    }

    /// Waits for a turn of `endpoint`, whose URL names `host`. Lanes of one endpoint get theirs in the
    /// order in which they asked.
    ///
    /// While it waits for the endpoint's own pace, no permit is held that another endpoint could use;
    /// and the pace counts from when an attempt may really start, so that permits which come late
    /// never let two starts through closer together than the rate allows.
    ///
    /// `None` when the semaphores were closed, which nobody does.
    pub(super) async fn take(&self, endpoint: &EndpointId, rate: Rate, host: &str) -> Option<Turn> {
        let pace = Arc::clone(
            &*self
                .paces
                .entry(endpoint.clone())
                .or_insert_with(|| Arc::new(Mutex::new(Pace::new(rate)))),
        );
        let mut pace = pace.lock().await;
        if let Some(at) = pace.free_at() {
            sleep_until(at).await;
        }
        let host = self.host(host).acquire_owned().await.ok()?;
        let overall = Arc::clone(&self.overall).acquire_owned().await.ok()?;
        pace.next(Instant::now());
        Some(Turn {
            _host: host,
            _overall: overall,
        })
    }

    fn host(&self, host: &str) -> Arc<Semaphore> {
        if let Some(semaphore) = self.hosts.get(host) {
            return Arc::clone(&semaphore);
        }
        let semaphore = self
            .hosts
            .entry(host.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(self.per_host)));
        Arc::clone(&semaphore)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const UNPACED: Rate = Rate { per_second: None };

    fn named(name: &str) -> EndpointId {
        EndpointId::Named(name.into())
    }

    #[tokio::test(start_paused = true)]
    async fn starts_of_one_endpoint_keep_its_pace() {
        let turns = Turns::new(100, 100);
        let start = Instant::now();
        for number in 0..5u32 {
            turns
                .take(
                    &named("ci"),
                    Rate {
                        per_second: Some(10.0),
                    },
                    "a:80",
                )
                .await
                .unwrap();
            assert_eq!(start.elapsed().as_millis(), u128::from(number * 100));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_that_comes_late_does_not_bring_two_starts_together() {
        let turns = Turns::new(100, 1);
        let rate = Rate {
            per_second: Some(10.0),
        };
        let held = turns.take(&named("other"), UNPACED, "a:80").await.unwrap();
        let start = Instant::now();
        let ((), second, ()) = tokio::join!(
            async { drop(turns.take(&named("ci"), rate, "a:80").await) },
            async {
                let turn = turns.take(&named("ci"), rate, "a:80").await;
                drop(turn);
                start.elapsed()
            },
            async {
                tokio::time::sleep(Duration::from_millis(350)).await;
                drop(held);
            },
        );
        assert!(second >= Duration::from_millis(450), "{second:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_waits_for_its_pace_holds_nobody_up() {
        let turns = Turns::new(1, 1);
        let slow = Rate {
            per_second: Some(0.1),
        };
        drop(turns.take(&named("slow"), slow, "a:80").await);
        let start = Instant::now();
        let endpoint = named("slow");
        let mut waiting = Box::pin(turns.take(&endpoint, slow, "a:80"));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        turns.take(&named("quick"), UNPACED, "a:80").await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_has_its_own_cap() {
        let turns = Turns::new(10, 1);
        let _held = turns.take(&named("a"), UNPACED, "a:80").await.unwrap();
        let endpoint = named("b");
        let mut same = Box::pin(turns.take(&endpoint, UNPACED, "a:80"));
        assert!(futures_util::poll!(&mut same).is_pending());
        turns.take(&named("c"), UNPACED, "c:80").await.unwrap();
    }
}
