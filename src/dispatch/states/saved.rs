//! States as `settings.db` has them.

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;

use super::{Known, States};
use crate::{
    clock::Timestamp,
    dispatch::health::{Event, Health, State, Streak},
    push::EndpointId,
    settings::{SavedState, SavedStreak},
    webhook::Endpoint,
};

impl States {
    pub(super) fn restore_one(&self, endpoint: &Endpoint, saved: &SavedState, now: Timestamp) {
        let Some(health) = from_saved(saved) else {
            warn!(endpoint = %endpoint.id, state = saved.state, "a state this version doesn't know: taken for healthy");
            return;
        };
        let known = Known {
            health: health.restored(now, &self.0.parts.policy),
            reason: saved.reason.clone(),
        };
        let (url, at) = (url_sha256(endpoint), Instant::now());
        let passage = known.health.passage(now, at);
        self.inner().known.insert(endpoint.id.clone(), known);
        if self.0.parts.queue.set_passage(&endpoint.id, passage, at) {
            self.give_up(&endpoint.id);
        }
        if !url.is_empty() && !saved.url_sha256.is_empty() && url != saved.url_sha256 {
            self.happen(&endpoint.id, Event::Healed, "it has another URL");
        }
    }

    pub(super) fn row(&self, id: &EndpointId, known: Known) -> SavedState {
        let Known { health, reason } = known;
        let endpoint = self.0.parts.endpoints.get(id);
        SavedState {
            endpoint: id.clone(),
            state: health.state.as_str().to_owned(),
            since: health.since,
            reason,
            url_sha256: endpoint.map(|endpoint| url_sha256(&endpoint)).unwrap_or_default(),
            streak: health.streak.map(|streak| SavedStreak {
                failures: streak.failures,
                began: streak.began,
                last: streak.last,
                waits_since: streak.waits_since,
                wait: streak.wait,
            }),
            known_at: self.0.parts.clock.now(),
        }
    }
}

/// `None` for what no version before this one has written.
fn from_saved(saved: &SavedState) -> Option<Health> {
    let state = State::parse(&saved.state)?;
    let streak = saved.streak.map(|streak| Streak {
        began: streak.began,
        failures: streak.failures,
        last: streak.last,
        waits_since: streak.waits_since,
        wait: streak.wait,
        asked_until: None,
        hurried_from: None,
    });
    let has_streak = matches!(state, State::Failing | State::Paused | State::Ignored);
    let since = saved.since;
    (streak.is_some() == has_streak).then_some(Health { state, since, streak })
}

/// Of the endpoint's URL as it stands now; empty when it can't be read.
fn url_sha256(endpoint: &Endpoint) -> Vec<u8> {
    let url = endpoint.url.get();
    url.map_or_else(|_| Vec::new(), |url| Sha256::digest(url.expose_secret()).to_vec())
}
