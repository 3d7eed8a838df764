//! What each endpoint owes, looked up for people.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    locked::Locked as _,
    push::EndpointId,
    queue::{Owed, Queue},
};

/// For so long what was found is good enough: all repositories are looked at for it.
const FRESH: Duration = Duration::from_secs(1);

type ByNamed = Arc<HashMap<EndpointId, Owed>>;

/// What was found last. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OwedLately(Arc<Mutex<Option<(Instant, ByNamed)>>>);

impl OwedLately {
    /// What an endpoint owes, if it owes something, as it was at most a second ago.
    pub(super) fn by(&self, queue: &Queue, endpoint: &EndpointId) -> Option<Owed> {
        match endpoint {
            EndpointId::Named(_) => self.by_named(queue).get(endpoint).copied(),
            EndpointId::Repository(name) => queue.owed_by_own(name),
        }
    }

    fn by_named(&self, queue: &Queue) -> ByNamed {
        // Held while it is looked: whoever comes meanwhile gets the same.
        let mut found = self.0.locked();
        match &*found {
            Some((at, owed)) if at.elapsed() < FRESH => Arc::clone(owed),
            _ => {
                let owed = Arc::new(queue.owed_by_named());
                *found = Some((Instant::now(), Arc::clone(&owed)));
                owed
            }
        }
    }
}
