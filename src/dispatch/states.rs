//! How all endpoints are: in memory, in `settings.db`, and told.
//!
//! What happens to an endpoint changes its [`Health`] and its line in the queue at once. What changed is then
//! written by one task, all that waits in one transaction, on a thread that may block; and only what is durable
//! is told, in the log, in the history and as an alert. While the disk takes nothing, deliveries go on by what is in memory.
//!
//! Healthy endpoints stand in neither memory nor file.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

mod comings;
mod saved;

use super::{
    alerts::Alerts,
    health::{Event, Health, Policy, State, Verdict},
    keeper::{self, Kept},
};
use crate::{
    catalog::{EndpointHealth, History, Transition},
    clock::{Clock, Timestamp},
    locked::Locked as _,
    push::EndpointId,
    queue::Queue,
    settings::{AccessError, Settings, brief},
    telemetry::Metrics,
    webhook::{Endpoints, Outcome},
};

/// Changes of one endpoint that wait to be told; past that the oldest are left out.
const CHANGES_MAX: usize = 16;

/// What the states of endpoints work with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// When endpoints are paused and ignored.
    pub policy: Policy,
    /// A clock that doesn't jump.
    pub clock: Clock,
    /// Whose lines follow the states.
    pub queue: Arc<Queue>,
    /// The endpoints there are.
    pub endpoints: Endpoints,
    /// Where states are kept.
    pub settings: Settings,
    /// What is counted.
    pub metrics: Metrics,
    /// Who is told, if anybody is.
    pub alerts: Option<Alerts>,
    /// Where changes are written down.
    pub history: History,
}

/// How all endpoints are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct States(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: Parts,
    inner: Mutex<Inner>,
    unsaved: Notify,
    /// One write at a time, so that the later one has the later states.
    saving: tokio::sync::Mutex<()>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Those that aren't healthy.
    known: HashMap<EndpointId, Known>,
    /// Those whose state is to be written, and the changes to be told after that, oldest first.
    unsaved: HashMap<EndpointId, Vec<Change>>,
}

/// How an endpoint is, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its state.
    pub state: State,
    /// Since when; `None` for a healthy one, of which that is not kept.
    pub since: Option<Timestamp>,
    /// Why, in words, without any secret; empty for a healthy one.
    pub reason: String,
    /// Failures in a row that count.
    pub failures: u32,
    /// When the next attempt may be made, if it is waited for.
    pub next_attempt: Option<Timestamp>,
}

impl View {
    /// How the endpoint is, for the story of what it is owed; `None` for a healthy one.
    #[must_use]
    pub fn told(&self) -> Option<EndpointHealth> {
        (self.state != State::Healthy).then(|| EndpointHealth {
            state: self.state.as_str().to_owned(),
            since: self.since,
            next_attempt: self.next_attempt,
        })
    }
}

#[derive(Clone, Debug)]
struct Known {
    health: Health,
    reason: String,
}

/// A change of an endpoint's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was.
    pub at: Timestamp,
    /// What it was before.
    pub from: State,
    /// How it is.
    pub health: Health,
    /// Failures in a row until then.
    pub failures: u32,
    /// Why, in words, without any secret.
    pub reason: String,
}

impl States {
    /// The states that were saved, and the lines set by them. Blocks on the disk.
    ///
    /// An endpoint whose URL is another one than the state is about is healthy.
    ///
    /// # Errors
    /// They can't be read.
    pub fn restore(parts: Parts) -> Result<Self, AccessError> {
        let now = parts.clock.now();
        let configured: HashSet<EndpointId> = parts.endpoints.ids().into_iter().collect();
        if let Err(error) = parts.settings.prune(&configured, now) {
            warn!(%error, "states of endpoints that are gone are kept for now");
        }
        let saved = parts.settings.states()?;
        for state in State::ALL {
            parts.metrics.may_change_to(state.as_str());
        }
        let states = Self(Arc::new(Shared {
            parts,
            inner: Mutex::default(),
            unsaved: Notify::new(),
            saving: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(()),
        }));
        for saved in saved {
            if let Some(endpoint) = states.0.parts.endpoints.get(&saved.endpoint) {
                states.restore_one(&endpoint, &saved, now);
            }
        }
        Ok(states)
    }

    /// An attempt that began then has ended.
    pub fn attempted(&self, endpoint: &EndpointId, began: Timestamp, outcome: &Outcome) {
        let Some(verdict) = Verdict::of(outcome) else {
            return;
        };
        let event = Event::Attempt { began, verdict };
        match outcome {
            Outcome::Delivered { status } => self.happen(endpoint, event, &format!("answered {status}")),
            Outcome::Failed { reason, .. } => self.happen(endpoint, event, reason),
        }
    }

    /// Something happened to an endpoint. `reason` says what, in words.
    pub fn happen(&self, endpoint: &EndpointId, event: Event, reason: &str) {
        let Parts {
            policy, clock, queue, ..
        } = &self.0.parts;
        let mut inner = self.inner();
        if self.0.parts.endpoints.get(endpoint).is_none() {
            return;
        }
        let before = inner
            .known
            .get(endpoint)
            .map(|known| known.health)
            .unwrap_or_default();
        let mut health = before;
        let (now, at) = (clock.now(), Instant::now());
        health.apply(event, now, policy, &mut rand::rng());
        if health == before {
            return;
        }
        let reason = brief(reason);
        if health.state == State::Healthy {
            inner.known.remove(endpoint);
        } else {
            let reason = reason.to_owned();
            inner.known.insert(endpoint.clone(), Known { health, reason });
        }
        let changes = inner.unsaved.entry(endpoint.clone()).or_default();
        if health.state != before.state {
            changes.push(Change {
                at: now,
                from: before.state,
                health,
                failures: health.failures().max(before.failures()),
                reason: reason.to_owned(),
            });
            keep_newest(changes);
        }
        // Under the lock, so that the line follows the states in their order.
        let gives_up = queue.set_passage(endpoint, health.passage(now, at), at);
        drop(inner);
        if gives_up {
            self.give_up(endpoint);
        }
        self.0.unsaved.notify_one();
        self.0.changed.send_replace(());
    }

    /// Has the next attempt of an endpoint that is failing or paused made now, of its oldest push.
    pub fn hurry_one(&self, endpoint: &EndpointId) {
        // It is as it is for the same reason as before.
        self.happen(endpoint, Event::Hurried, &self.reason(endpoint));
    }

    /// How an endpoint is.
    #[must_use]
    pub fn state(&self, endpoint: &EndpointId) -> State {
        let inner = self.inner();
        let known = inner.known.get(endpoint);
        known.map(|known| known.health.state).unwrap_or_default()
    }

    /// Whether an endpoint's last attempts failed.
    #[must_use]
    pub fn is_failing(&self, endpoint: &EndpointId) -> bool {
        let inner = self.inner();
        let known = inner.known.get(endpoint);
        known.is_some_and(|known| known.health.streak.is_some())
    }

    /// Why an endpoint is as it is, in words; empty when it is healthy.
    #[must_use]
    pub fn reason(&self, endpoint: &EndpointId) -> String {
        let inner = self.inner();
        let known = inner.known.get(endpoint);
        known.map(|known| known.reason.clone()).unwrap_or_default()
    }

    /// Tells that some endpoint has changed, also in what it is waited for.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Whether an endpoint is owed nothing, because it is disabled.
    #[must_use]
    pub fn is_disabled(&self, endpoint: &EndpointId) -> bool {
        let inner = self.inner();
        let known = inner.known.get(endpoint);
        known.is_some_and(|known| known.health.state == State::Disabled)
    }

    /// How an endpoint is.
    #[must_use]
    pub fn view(&self, endpoint: &EndpointId) -> View {
        let inner = self.inner();
        let known = inner.known.get(endpoint);
        let health = known.map(|known| known.health).unwrap_or_default();
        View {
            state: health.state,
            since: known.map(|known| known.health.since),
            reason: known.map(|known| known.reason.clone()).unwrap_or_default(),
            failures: health.failures(),
            next_attempt: health.next_attempt(),
        }
    }

    /// How long an endpoint is waited for, if it is.
    #[must_use]
    pub fn wait(&self, endpoint: &EndpointId) -> Option<Duration> {
        let next = self.inner().known.get(endpoint)?.health.next_attempt()?;
        Some(next.since(self.0.parts.clock.now()))
    }

    /// The endpoints that are not healthy, in no order.
    #[must_use]
    pub fn troubled(&self) -> Vec<(EndpointId, State)> {
        let inner = self.inner();
        let known = inner.known.iter();
        known
            .map(|(endpoint, known)| (endpoint.clone(), known.health.state))
            .collect()
    }

    /// How many endpoints are in each state.
    #[must_use]
    pub fn counts(&self) -> [(State, u64); 6] {
        let inner = self.inner();
        let all = self.0.parts.endpoints.count();
        State::ALL.map(|state| {
            let is_so = |known: &&Known| known.health.state == state;
            let count = match state {
                State::Healthy => all.saturating_sub(inner.known.len()),
                _ => inner.known.values().filter(is_so).count(),
            };
            (state, count as u64)
        })
    }

    /// Writes and tells what changes, until the token is cancelled.
    pub async fn keep(self, soft: CancellationToken) {
        keeper::keep(&self, &soft).await;
    }

    /// Writes and tells what is left, once nothing changes any more.
    pub async fn close(&self) {
        keeper::close(self).await;
    }

    /// Writes and tells what changed until now, and returns once it is durable.
    ///
    /// # Errors
    /// It could not be written, and will be tried again.
    pub async fn save(&self) -> io::Result<()> {
        let _one_at_a_time = self.0.saving.lock().await;
        let (changed, unsaved) = {
            let mut inner = self.inner();
            let unsaved = std::mem::take(&mut inner.unsaved);
            let known = |endpoint: &EndpointId| (endpoint.clone(), inner.known.get(endpoint).cloned());
            (unsaved.keys().map(known).collect::<Vec<_>>(), unsaved)
        };
        if changed.is_empty() {
            return Ok(());
        }
        let states = self.clone();
        let write = move || {
            let rows: Vec<_> = (changed.into_iter())
                .map(|(endpoint, known)| {
                    let row = known.map(|known| states.row(&endpoint, known));
                    (endpoint, row)
                })
                .collect();
            states.0.parts.settings.save(&rows)
        };
        let saved = keeper::write(write).await;
        match saved {
            Ok(()) => {
                let told = unsaved
                    .iter()
                    .flat_map(|(endpoint, changes)| changes.iter().map(move |change| (endpoint, change)));
                told.for_each(|(endpoint, change)| self.tell(endpoint, change));
            }
            Err(_) => self.put_back(unsaved),
        }
        saved
    }

    /// What could not be written is written, and told, with what comes next.
    fn put_back(&self, unsaved: HashMap<EndpointId, Vec<Change>>) {
        let mut inner = self.inner();
        for (endpoint, mut changes) in unsaved {
            let newer = inner.unsaved.entry(endpoint).or_default();
            changes.append(newer);
            keep_newest(&mut changes);
            *newer = changes;
        }
    }

    fn tell(&self, endpoint: &EndpointId, change: &Change) {
        let Parts {
            metrics,
            alerts,
            endpoints,
            history,
            ..
        } = &self.0.parts;
        let Change {
            at,
            from,
            health,
            failures,
            reason,
        } = change;
        let state = health.state;
        history.changed(&Transition {
            endpoint: endpoint.clone(),
            at: *at,
            before: from.as_str(),
            after: state.as_str(),
            failures: *failures,
            reason: reason.clone(),
        });
        let next_attempt = health.next_attempt().map(tracing::field::display);
        metrics.endpoint_changed(state.as_str());
        match state {
            State::Paused | State::Ignored => {
                warn!(%endpoint, %state, %from, reason, failures, next_attempt, "endpoint changed its state");
            }
            _ => {
                info!(%endpoint, %state, %from, reason, failures, next_attempt, "endpoint changed its state");
            }
        }
        if let (Some(alerts), Some(endpoint)) = (alerts, endpoints.get(endpoint)) {
            alerts.tell(&endpoint, change);
        }
    }

    /// Each change of the states is whole before anything can panic.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.locked()
    }
}

impl Kept for States {
    const EVERY: Duration = Duration::ZERO;
    const UNSAVED: &str = "states of endpoints can't be saved, and aren't told; deliveries go on";
    const LOST: &str = "the last changes of endpoints' states were not saved";

    fn unsaved(&self) -> &Notify {
        &self.0.unsaved
    }

    fn save(&self) -> impl Future<Output = io::Result<()>> + Send {
        self.save()
    }
}

fn keep_newest(changes: &mut Vec<Change>) {
    changes.drain(..changes.len().saturating_sub(CHANGES_MAX));
}

#[cfg(test)]
mod tests;
