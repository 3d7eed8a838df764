//! How often something may be done by hand.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use super::problem::Problem;
use crate::{
    dispatch::{authority::Authority, letters::Run},
    locked::Locked as _,
    push::EndpointId,
};

/// Within this time, each of the following.
const WITHIN: Duration = Duration::from_mins(1);

/// Tests that an endpoint is sent.
const TESTS_MAX: u32 = 10;

/// Deliveries that an endpoint is sent again, one by one: by all who may administer, and as many by all others.
const REDELIVERIES_MAX: u32 = 60;

/// Of the latter by one of them, so that nobody takes all of it.
const REDELIVERIES_OF_ONE_MAX: u32 = 30;

/// Sets that somebody has sent again, and as many that are counted only: either walks through all that is kept.
const SETS_MAX: u32 = 60;

/// Webhooks that somebody saves, has checked, or switches, who may not administer.
const SAVES_MAX: u32 = 120;

/// Acts that are remembered; past that, everybody waits until the oldest is forgotten.
const ACTS_MAX: usize = 10_000;

/// Something that is done by hand, to whom or by whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// An endpoint is sent a test.
    Test(EndpointId),
    /// An endpoint is sent a delivery again by somebody who decides over so much.
    Redelivery(EndpointId, Authority),
    /// An endpoint is sent a delivery again by somebody of this name, who may not administer.
    OwnRedelivery(EndpointId, Arc<str>),
    /// Somebody of this name has a set of deliveries or of dead letters sent again, or only counted.
    Set(Arc<str>, Run),
    /// Somebody of this name saves a repository's webhook, has one checked, or switches one on or off.
    Save(Arc<str>),
}

impl Act {
    fn max(&self) -> u32 {
        match self {
            Self::Test(_) => TESTS_MAX,
            Self::Redelivery(..) => REDELIVERIES_MAX,
            Self::OwnRedelivery(..) => REDELIVERIES_OF_ONE_MAX,
            Self::Set(..) => SETS_MAX,
            Self::Save(_) => SAVES_MAX,
        }
    }

    fn refusal(&self) -> String {
        let max = self.max();
        match self {
            Self::Test(_) => format!("an endpoint is sent at most {max} tests a minute"),
            Self::Redelivery(..) => format!(
                "an endpoint is sent at most {max} deliveries again a minute one by one: all that a filter finds go \
                 together"
            ),
            Self::OwnRedelivery(..) => format!(
                "one sends at most {max} deliveries again a minute to an endpoint one by one: all that a filter finds \
                 go together"
            ),
            Self::Set(_, Run::Real) => {
                format!("one has at most {max} sets sent again a minute: ask for more in each")
            }
            Self::Save(_) => format!("one saves or switches at most {max} webhooks a minute"),
            Self::Set(_, Run::Dry) => format!("one counts at most {max} sets a minute"),
        }
    }
}

/// How often each was done lately. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Rates(Arc<Mutex<HashMap<Act, (Instant, u32)>>>);

impl Rates {
    /// It is done once more.
    ///
    /// # Errors
    /// It was done too often.
    pub fn allow(&self, act: Act) -> Result<(), Problem> {
        let mut done = self.0.locked();
        if done.len() >= ACTS_MAX && !done.contains_key(&act) {
            done.retain(|_, (since, _)| since.elapsed() < WITHIN);
        }
        if done.len() >= ACTS_MAX && !done.contains_key(&act) {
            let oldest = done.values().map(|(since, _)| since.elapsed()).max();
            return Err(refused(
                "too much is done by hand just now",
                oldest.unwrap_or_default(),
            ));
        }
        let (max, refusal) = (act.max(), act.refusal());
        let (since, times) = done.entry(act).or_insert((Instant::now(), 0));
        if since.elapsed() >= WITHIN {
            (*since, *times) = (Instant::now(), 0);
        }
        if *times >= max {
            return Err(refused(&refusal, since.elapsed()));
        }
        *times += 1;
        Ok(())
    }
}

/// What is said to whoever did it too often since so long.
fn refused(words: &str, since: Duration) -> Problem {
    let left = WITHIN.saturating_sub(since).as_secs() + 1;
    Problem::new(StatusCode::TOO_MANY_REQUESTS, words).retry_after(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_a_minute_and_each_has_its_own() {
        let rates = Rates::default();
        let ci = || EndpointId::Named("ci".into());
        let set = |name: &str, run| Act::Set(name.into(), run);
        let all = [
            (Act::Test(ci()), 10, "10 tests a minute"),
            (
                Act::Redelivery(ci(), Authority::Endpoint),
                60,
                "60 deliveries again a minute",
            ),
            (
                Act::Redelivery(ci(), Authority::Repositories),
                60,
                "60 deliveries again a minute",
            ),
            (Act::OwnRedelivery(ci(), "ann".into()), 30, "one sends at most 30"),
            (set("ann", Run::Real), 60, "60 sets sent again"),
            (set("ann", Run::Dry), 60, "counts at most 60"),
            (
                Act::Save("ann".into()),
                120,
                "saves or switches at most 120 webhooks",
            ),
        ];
        for (act, max, words) in &all {
            for _ in 0..*max {
                assert!(rates.allow(act.clone()).is_ok(), "{act:?}");
            }
            let refused = rates.allow(act.clone()).unwrap_err();
            assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
            assert!(refused.detail.contains(words), "{}", refused.detail);
        }
        assert!(rates.allow(Act::Test(EndpointId::Named("other".into()))).is_ok());
        assert!(rates.allow(set("eve", Run::Real)).is_ok());
        tokio::time::advance(WITHIN).await;
        for (act, ..) in all {
            assert!(rates.allow(act).is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn past_so_many_acts_somebody_new_waits_and_leaves_nothing_behind() {
        let rates = Rates::default();
        let act = |number: usize| Act::Test(EndpointId::Named(format!("e{number}").into()));
        for number in 0..ACTS_MAX {
            rates.allow(act(number)).unwrap();
        }
        assert!(rates.allow(act(ACTS_MAX)).is_err());
        assert!(rates.allow(act(0)).is_ok(), "one that is known goes on");
        assert_eq!(rates.0.lock().unwrap().len(), ACTS_MAX);
        tokio::time::advance(WITHIN).await;
        assert!(rates.allow(act(ACTS_MAX)).is_ok(), "the others are forgotten");
        assert_eq!(rates.0.lock().unwrap().len(), 1);
    }
}
