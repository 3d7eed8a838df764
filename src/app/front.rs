//! The way in: what ingest hands its pushes to, and what becomes of them once they are durable.

use std::{future::Future, sync::Arc};

use futures_util::future::Either;
use tokio::time::Instant;

use crate::{
    catalog::History,
    dispatch::states::States,
    image::{Digest, MediaType, RepositoryName, Tag},
    ingest::{Intake, TakeError},
    journal::{AppendError, Applied, Journal},
    push::{Change, Dropped, EndpointId, Item, Reference},
    queue::{Orphans, Queue},
    sizing::{Following, Sizing},
    webhook::Endpoints,
};

/// What ingest hands its pushes to: the journal, and the sizes.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) endpoints: Endpoints,
    pub(super) states: States,
    pub(super) journal: Journal,
    pub(super) queue: Arc<Queue>,
    pub(super) sizing: Sizing,
    pub(super) history: History,
    pub(super) pending_max: usize,
}

impl Intake for Front {
    fn owing(&self, repository: &RepositoryName, tag: Option<&Tag>) -> Vec<EndpointId> {
        let mut owing = self.endpoints.owing(repository, tag);
        owing.retain(|endpoint| !self.states.is_disabled(endpoint));
        owing
    }

    fn learn(&self, digest: &Digest, media_type: MediaType, manifest_size: u64, references: &[Reference]) {
        self.sizing.learn(digest, media_type, manifest_size, references);
    }

    fn heard_from(&self, instance: &str) {
        self.sizing.heard_from(instance);
    }

    fn dropped(&self, dropped: Vec<Dropped>) {
        self.history.dropped(&dropped);
    }

    fn take(&self, items: Vec<Item>) -> impl Future<Output = Result<(), TakeError>> + Send + 'static {
        let pushes = items.iter().filter(|item| matches!(item, Item::Push(_))).count();
        let pending = self.queue.pending();
        // Not counting these: an envelope of more pushes than the bound would be refused for ever.
        let full = pushes > 0 && pending >= self.pending_max;
        let max = self.pending_max;
        let appended = if full {
            // What comes again is owed already.
            Either::Left(self.journal.append_repeats(items))
        } else {
            Either::Right(self.journal.append(items))
        };
        async move {
            match appended.await {
                Err(AppendError::New) => Err(TakeError::Full(format!(
                    "{pending} pushes are queued, of at most {max} (ingest.max_pending)"
                ))),
                taken => Ok(taken?),
            }
        }
    }
}

/// On the journal's thread, in order: what became durable goes into its queue and is written down, what changed
/// goes into the sizes. What is owed by endpoints that are gone by now is returned.
pub(super) fn apply(
    applied: &[Applied],
    queue: &Queue,
    sizing: &Sizing,
    endpoints: &Endpoints,
    history: &History,
    following: &Following,
) -> Orphans {
    let now = Instant::now();
    let mut orphans = Orphans::new();
    for applied in applied {
        match applied {
            Applied::Change(told) => {
                sizing.apply_once(&told.event_id, &told.change);
                following.note(&told.change);
            }
            Applied::Push(durable) => {
                // What it says of its manifest is learnt when it is read back to be sized.
                let push = &durable.push;
                let (repository, digest) = (push.repository.clone(), push.digest.clone());
                let change = Change::of_push(repository, push.tag.clone(), digest);
                sizing.apply_once(&push.event_id, &change);
                orphans.extend(queue.apply(durable, endpoints, now));
                history.taken(durable);
            }
        }
    }
    orphans
}
