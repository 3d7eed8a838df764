//! Endpoints that come, go, or are set otherwise.

use std::collections::HashSet;

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
    time::Instant,
};

use super::States;
use crate::{dispatch::health::Event, push::EndpointId, queue::Passage};

impl States {
    /// Endpoints came to be, or were saved with another URL: they are healthy, unless a hand stopped them, and what was
    /// refused there is tried now. Looks at all repositories that have something owed, unless each of the endpoints is
    /// a repository's own. `reason` says what happened, in words.
    pub fn came(&self, endpoints: &HashSet<EndpointId>, reason: &str) {
        for endpoint in endpoints {
            self.happen(endpoint, Event::Healed, reason);
            let (now, at) = (self.0.parts.clock.now(), Instant::now());
            let mut inner = self.inner();
            // The file may have a state of one of that name that was gone meanwhile.
            inner.unsaved.entry(endpoint.clone()).or_default();
            let known = inner.known.get(endpoint);
            let health = known.map(|known| known.health).unwrap_or_default();
            let passage = health.passage(now, at);
            // Below they are hurried in any case.
            let _ = self.0.parts.queue.set_passage(endpoint, passage, at);
        }
        self.0.unsaved.notify_one();
        self.hurry(endpoints);
    }

    /// These endpoints are set otherwise: what was refused there is tried now, see [`States::came`].
    pub fn hurry(&self, endpoints: &HashSet<EndpointId>) {
        if !endpoints.is_empty() {
            self.0.parts.queue.hurry_all(endpoints, Instant::now());
            self.0.changed.send_replace(());
        }
    }

    /// An endpoint is gone: what it is still owed becomes dead letters.
    pub fn went(&self, endpoint: &EndpointId) {
        let mut inner = self.inner();
        inner.known.remove(endpoint);
        inner.unsaved.insert(endpoint.clone(), Vec::new());
        let passage = Passage::Gone;
        let gives_up = self.0.parts.queue.set_passage(endpoint, passage, Instant::now());
        drop(inner);
        if gives_up {
            self.give_up(endpoint);
        }
        if let Some(alerts) = &self.0.parts.alerts {
            alerts.forget(endpoint);
        }
        self.0.unsaved.notify_one();
        self.0.changed.send_replace(());
    }

    /// What an endpoint was refused and waits for its next attempt gets none.
    pub(super) fn give_up(&self, endpoint: &EndpointId) {
        let endpoints = HashSet::from([endpoint.clone()]);
        let hurry = || self.0.parts.queue.hurry_all(&endpoints, Instant::now());
        // Looking at all repositories takes a while: whoever else has work on this thread does it elsewhere, if there
        // is another.
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => block_in_place(hurry),
            _ => hurry(),
        }
    }
}
