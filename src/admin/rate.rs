//! How often something may be done by hand.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use super::problem::Problem;
use crate::push::EndpointId;

/// So many tests an endpoint may be sent, within this time.
const TESTS_MAX: u32 = 10;
const TESTS_WITHIN: Duration = Duration::from_mins(1);

/// Endpoints that are remembered; past that, everybody waits until the oldest is forgotten.
const ENDPOINTS_MAX: usize = 10_000;

/// How often each endpoint was sent a test lately. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tests(Arc<Mutex<HashMap<EndpointId, (Instant, u32)>>>);

impl Tests {
    /// One more test of this endpoint.
    ///
    /// # Errors
    /// There were too many.
    pub fn allow(&self, endpoint: &EndpointId) -> Result<(), Problem> {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.retain(|_, (since, _)| since.elapsed() < TESTS_WITHIN);
        let is_full = sent.len() >= ENDPOINTS_MAX && !sent.contains_key(endpoint);
        let (since, tests) = sent.entry(endpoint.clone()).or_insert((Instant::now(), 0));
        if *tests >= TESTS_MAX || is_full {
            let left = TESTS_WITHIN.saturating_sub(since.elapsed()).as_secs() + 1;
            let detail = format!("an endpoint is sent at most {TESTS_MAX} tests a minute");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(left));
        }
        *tests += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_tests_a_minute_and_each_endpoint_has_its_own() {
        let tests = Tests::default();
        let (ci, other) = (EndpointId::Named("ci".into()), EndpointId::Named("other".into()));
        for _ in 0..TESTS_MAX {
            assert!(tests.allow(&ci).is_ok());
        }
        let refused = tests.allow(&ci).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(tests.allow(&other).is_ok());
        tokio::time::advance(TESTS_WITHIN).await;
        assert!(tests.allow(&ci).is_ok());
    }
}
