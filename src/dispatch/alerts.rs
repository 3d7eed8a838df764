//! Tells the operator's alert URL that an endpoint was paused, is ignored, or has recovered.
//!
//! A `POST` of JSON, in the form that Standard Webhooks gives events:
//!
//! ```json
//! {
//!   "type": "endpoint.paused",
//!   "timestamp": "2026-11-23T09:08:38.473Z",
//!   "data": {
//!     "endpoint": "ci",
//!     "url": "https://ci.example.com/hook?…",
//!     "state": "paused",
//!     "previous_state": "failing",
//!     "reason": "answered 503 Service Unavailable",
//!     "failures": 4,
//!     "failing_since": "2026-11-23T09:05:58.120Z",
//!     "next_attempt": "2026-11-23T09:09:38.473Z"
//!   }
//! }
//! ```
//! `type` is `endpoint.paused`, `endpoint.ignored` or `endpoint.recovered`. `failing_since` and `next_attempt` are
//! null where there is none. Alerts go out one after another and never hold up a delivery; one that can't be
//! delivered in time is given up, and so is one that comes while too many wait.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{health::State, states::Change};
use crate::{
    clock::{Clock, Timestamp},
    locked::Locked as _,
    push::EndpointId,
    secret::Secret,
    webhook::{Endpoint, Fault, Outcome, client::Client, judge::judge, request},
};

/// Alerts that may wait.
const WAITING_MAX: usize = 256;

/// The waits before further attempts.
const WAITS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_mins(1),
    Duration::from_mins(5),
];

/// What an id has no place for as it is: its header's characters, and the dot, which parts it from what is signed after it.
const NOT_IN_IDS: &AsciiSet = &CONTROLS.add(b'.').add(b'%');

/// Takes alerts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Alerts(
    Sender<Alert>,
    /// Those that were told to be paused or ignored, and not to have recovered since.
    Arc<Mutex<HashSet<EndpointId>>>,
);

/// Sends them.
#[derive(Debug)]
pub struct Messenger {
    alerts: Receiver<Alert>,
    url: Secret,
    clock: Clock,
}

#[derive(Debug)]
struct Alert {
    id: String,
    body: Bytes,
}

#[derive(Serialize)]
struct Body {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: Data,
}

#[derive(Serialize)]
struct Data {
    endpoint: String,
    url: String,
    state: &'static str,
    previous_state: &'static str,
    reason: String,
    failures: u32,
    failing_since: Option<String>,
    next_attempt: Option<String>,
}

/// Who takes alerts, and who sends them to `url`.
#[must_use]
pub fn alerts(url: Secret, clock: Clock) -> (Alerts, Messenger) {
    let (sender, alerts) = mpsc::channel(WAITING_MAX);
    let messenger = Messenger { alerts, url, clock };
    (Alerts(sender, Arc::default()), messenger)
}

impl Alerts {
    /// Tells of a change, if it is one that people want to hear of.
    pub(super) fn tell(&self, endpoint: &Endpoint, change: &Change) {
        let mut down = self.1.locked();
        // It may have been held or disabled since it was told that it is down.
        let was_down = match change.health.state {
            State::Paused | State::Ignored => {
                down.insert(endpoint.id.clone());
                false
            }
            State::Healthy => {
                down.remove(&endpoint.id) || matches!(change.from, State::Paused | State::Ignored)
            }
            _ => false,
        };
        drop(down);
        let Some(alert) = alert(endpoint, change, was_down) else {
            return;
        };
        if self.0.try_send(alert).is_err() {
            warn!(endpoint = %endpoint.id, "no alert: too many wait already, or shipbell stops");
        }
    }

    /// An endpoint is gone: one that comes by its name has not been told of.
    pub(super) fn forget(&self, endpoint: &EndpointId) {
        let mut down = self.1.locked();
        down.remove(endpoint);
    }
}

fn alert(endpoint: &Endpoint, change: &Change, was_down: bool) -> Option<Alert> {
    let kind = match change.health.state {
        State::Paused => "endpoint.paused",
        State::Ignored => "endpoint.ignored",
        State::Healthy if was_down => "endpoint.recovered",
        _ => return None,
    };
    let shown = |at: Timestamp| at.to_string();
    let url = request::target(endpoint);
    let body = Body {
        kind,
        timestamp: shown(change.at),
        data: Data {
            endpoint: endpoint.id.to_string(),
            url: url.map_or_else(|_| "unreadable".to_owned(), |url| url.to_string()),
            state: change.health.state.as_str(),
            previous_state: change.from.as_str(),
            reason: change.reason.clone(),
            failures: change.failures,
            failing_since: change.health.streak.map(|streak| shown(streak.began)),
            next_attempt: change.health.next_attempt().map(shown),
        },
    };
    let name = endpoint.id.to_string();
    let name = utf8_percent_encode(&name, NOT_IN_IDS);
    Some(Alert {
        id: format!("alert_{name}_{}", change.at.unix_millis()),
        body: serde_json::to_vec(&body).ok()?.into(),
    })
}

impl Messenger {
    /// Sends what comes by `client`, until the token is cancelled. What waits then is given up: the log says so of each.
    pub async fn run(mut self, client: Client, soft: CancellationToken) {
        let mut under_way = None;
        while let Some(Some(alert)) = soft.run_until_cancelled(self.alerts.recv()).await {
            let sent = deliver(&client, &self.url, &self.clock, &alert);
            if soft.run_until_cancelled(sent).await.is_none() {
                under_way = Some(alert);
            }
        }
        // Whoever takes alerts may be gone first; the process is about to be.
        soft.cancelled().await;
        self.alerts.close();
        let waiting = std::iter::from_fn(|| self.alerts.try_recv().ok());
        for alert in under_way.into_iter().chain(waiting) {
            warn!(
                alert = alert.id,
                "an alert is given up: shipbell stops, and the next start does not send it"
            );
        }
    }
}

async fn deliver(client: &Client, url: &Secret, clock: &Clock, alert: &Alert) {
    let mut waits = WAITS.into_iter();
    loop {
        let answer = match client.alert(url, alert.body.clone(), &alert.id, clock.now()) {
            Ok(request) => client.send(&request).await,
            Err(error) => Err(error),
        };
        let (fault, reason) = match judge(&answer, clock.now()) {
            Outcome::Delivered { status } => {
                debug!(alert = alert.id, status, "alert delivered");
                return;
            }
            Outcome::Failed { fault, reason, .. } => (fault, reason),
        };
        let wait = waits
            .next()
            .filter(|_| matches!(fault, Fault::Endpoint | Fault::Ours));
        let Some(wait) = wait else {
            warn!(alert = alert.id, reason, "an alert was given up: see alerts.url");
            return;
        };
        debug!(
            alert = alert.id,
            reason,
            wait_s = wait.as_secs(),
            "an alert will be tried again"
        );
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::health::Health;

    #[test]
    fn an_alerts_id_has_no_dot_and_is_its_endpoints_own() {
        let change = Change {
            at: Timestamp::from_unix_millis(1_795_424_918_473),
            from: State::Failing,
            health: Health {
                state: State::Paused,
                ..Health::default()
            },
            failures: 4,
            reason: String::new(),
        };
        let id = |name: &str| {
            let endpoint = Endpoint::plain(name, "http://127.0.0.1:1/");
            alert(&endpoint, &change, false).unwrap().id
        };
        assert_eq!(id("ci"), "alert_ci_1795424918473");
        let ids = ["ci.prod", "ci_prod", "ci%2Eprod", "ciprod"].map(id);
        for (index, id) in ids.iter().enumerate() {
            assert!(!id.contains('.') && !ids[..index].contains(id), "{ids:?}");
        }
    }

    #[test]
    fn an_endpoint_that_comes_by_the_name_of_one_that_was_down_has_not_recovered() {
        let (alerts, mut messenger) = alerts(Secret::inline(""), Clock::system());
        let endpoint = Endpoint::plain("ci", "http://127.0.0.1:1/");
        let tell = |from, state| {
            let health = Health {
                state,
                ..Health::default()
            };
            let change = Change {
                at: Clock::system().now(),
                from,
                health,
                failures: 1,
                reason: String::new(),
            };
            alerts.tell(&endpoint, &change);
        };
        let mut told = || -> Option<String> {
            let alert = messenger.alerts.try_recv().ok()?;
            let body: serde_json::Value = serde_json::from_slice(&alert.body).unwrap();
            Some(body["type"].as_str().unwrap().to_owned())
        };
        for goes in [false, true] {
            tell(State::Failing, State::Paused);
            assert_eq!(told().as_deref(), Some("endpoint.paused"));
            // Held by hand meanwhile, it is down all the same.
            tell(State::Paused, State::Held);
            if goes {
                alerts.forget(&endpoint.id);
            }
            tell(State::Held, State::Healthy);
            assert_eq!(told().is_some(), !goes);
        }
    }
}
