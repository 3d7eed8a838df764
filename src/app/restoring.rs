//! Fills the queues at a start.

use std::sync::Arc;

use tokio::time::Instant;

use super::{RunError, letters, starter::Starter};
use crate::{
    dispatch::Dispatcher,
    journal::{DeliveredPush, Journal, Notes},
    push::Pair,
    queue::{self, Queue},
    settings::Settings,
    webhook::Endpoints,
};

/// Threads that fill the queues at a start, if much is owed. The rest of a start has as many that are busy.
const RESTORING: usize = 2;

/// What the journal owes and the queues don't take.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// Whose endpoints are gone.
    pub(super) orphans: queue::Orphans,
    /// What had been given up before the start, and has no letter.
    pub(super) overtaken: queue::Orphans,
    /// And what has one.
    pub(super) lettered: Vec<Pair>,
    /// What was delivered last before the start.
    pub(super) delivered: Vec<DeliveredPush>,
}

/// Fills the queues with what the journal still owes, and closes their windows.
pub(super) async fn restore(
    starter: &Starter,
    journal: &Journal,
    notes: Notes,
    queue: &Arc<Queue>,
    endpoints: &Endpoints,
    settings: &Settings,
) -> Result<Restored, RunError> {
    let (journal, queue, endpoints) = (journal.clone(), Arc::clone(queue), endpoints.clone());
    let settings = settings.clone();
    let restore = move || -> Result<Restored, RunError> {
        let (early, now) = (letters::Early::find(&settings, journal.id())?, Instant::now());
        let taker = || {
            let nothing = (queue::Orphans::new(), queue::Orphans::new(), Vec::new());
            (queue.restoring(&endpoints, now), nothing)
        };
        let delivered = notes.delivered_lately(Dispatcher::LATELY_MAX);
        let mut takers: [_; RESTORING] = std::array::from_fn(|_| taker());
        notes.hand_over(&journal, &mut takers, |(restoring, found), run| {
            let (orphans, overtaken, owed) = found;
            if run.is_overtaken {
                overtaken.extend(restoring.pass_over(&run));
            } else {
                owed.extend(early.of(&run));
                orphans.extend(restoring.take(&run));
            }
        })?;
        let (mut all_orphans, mut all_overtaken) = (queue::Orphans::new(), queue::Orphans::new());
        let mut all_owed = Vec::new();
        for (restoring, (orphans, overtaken, owed)) in takers {
            restoring.finish();
            all_orphans.extend(orphans);
            all_overtaken.extend(overtaken);
            all_owed.extend(owed);
        }
        // As they came.
        for all in [&mut all_orphans, &mut all_overtaken] {
            all.sort_by_key(|(pair, _)| (pair.sequence, pair.place));
        }
        letters::take_back(&settings, &all_owed);
        let (overtaken, lettered) = early.part(all_overtaken);
        Ok(Restored {
            orphans: all_orphans,
            overtaken,
            lettered,
            delivered,
        })
    };
    starter.take(restore).await?
}
