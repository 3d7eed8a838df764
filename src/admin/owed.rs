//! What each endpoint owes, looked up for people.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    push::EndpointId,
    queue::{Owed, Queue},
};

/// For so long what was found is good enough: all repositories are looked at for it.
const FRESH: Duration = Duration::from_secs(1);

type ByEndpoint = Arc<HashMap<EndpointId, Owed>>;

/// What was found last. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OwedLately(Arc<Mutex<Option<(Instant, ByEndpoint)>>>);

impl OwedLately {
    /// What each endpoint that owes something owes, as it was at most a second ago.
    pub(super) fn by_endpoint(&self, queue: &Queue) -> ByEndpoint {
        // Held while it is looked: whoever comes meanwhile gets the same.
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*found {
            Some((at, owed)) if at.elapsed() < FRESH => Arc::clone(owed),
            _ => {
                let owed = Arc::new(queue.owed());
                *found = Some((Instant::now(), Arc::clone(&owed)));
                owed
            }
        }
    }
}
