//! How a start fills the queues with what the journal still owes.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Orphans, Queue,
    accounts::Load,
    repository::{Arrival, Owing},
};
use crate::{
    image::RepositoryName,
    journal::{OwedBy, OwedRun},
    push::{EndpointId, Pair, Sequence},
    webhook::Endpoints,
};

/// The queues while a start fills them; there may be several, each for some of the repositories. What is taken stands
/// in them at once, and in the accounts once it [ends](Restoring::finish).
#[derive(Debug)]
#[must_use = "the accounts are not right before it ends"]
pub struct Restoring<'a> {
    queue: &'a Queue,
    endpoints: &'a Endpoints,
    now: Instant,
    /// The list that was met last: most runs have the same one.
    last: Option<Known>,
}

/// Those on a list of who owes some pushes.
#[derive(Debug)]
struct Known {
    list: OwedBy,
    owing: Vec<Owing>,
    /// Those that no longer exist.
    gone: Vec<(u16, EndpointId)>,
    /// What they owe that is not put down to their accounts yet.
    load: Load,
}

impl Queue {
    /// Begins to insert what the journal found to be owed at the start. Before anything is applied.
    pub fn restoring<'a>(&'a self, endpoints: &'a Endpoints, now: Instant) -> Restoring<'a> {
        Restoring {
            queue: self,
            endpoints,
            now,
            last: None,
        }
    }

    /// Has a lane go on as it was before the restart: its first push, if that is this one, was refused so often, and is
    /// sent again then, not earlier. Whether it is. Before anything is lent.
    #[must_use]
    pub fn resume(
        &self,
        repository: &RepositoryName,
        endpoint: &EndpointId,
        sequence: Sequence,
        failures: u32,
        until: Instant,
    ) -> bool {
        let gets_none = self.lines.gives_up(endpoint);
        let until = if gets_none { Instant::now() } else { until };
        let queue = self.repositories.get_mut(repository);
        queue.is_some_and(|mut queue| queue.resume(endpoint, sequence, failures, until))
    }
}

impl Restoring<'_> {
    /// Inserts pushes, each repository's in order. With the last of them its windows close, for nobody waits for one
    /// that was open when the process ended, and they are due.
    ///
    /// Returns what is owed by endpoints that no longer exist.
    pub fn take(&mut self, run: &OwedRun<'_>) -> Orphans {
        let load = Load {
            pushes: run.pushes.len(),
            bytes: run.pushes.iter().map(|push| u64::from(push.bytes)).sum(),
        };
        let known = match self.last.take() {
            Some(mut known) if Arc::ptr_eq(&known.list, run.owed) => {
                known.load.pushes += load.pushes;
                known.load.bytes += load.bytes;
                known
            }
            before => {
                self.put_down(before);
                self.look_up(run.owed, load)
            }
        };
        let arrivals = run.pushes.iter().map(|push| Arrival {
            sequence: push.sequence,
            bytes: push.bytes,
            tag: push.tag,
            is_restored: true,
        });
        let inserted = self
            .queue
            .insert(run.repository, arrivals, &known.owing, self.now);
        // It holds the queue that is asked for next.
        drop(inserted);
        self.end(run);
        let orphans = pairs(run, &known.gone);
        self.last = Some(known);
        orphans
    }

    /// The same of pushes that were given up before the start: they are not inserted, but returned.
    pub fn pass_over(&mut self, run: &OwedRun<'_>) -> Orphans {
        self.end(run);
        pairs(run, run.owed)
    }

    /// Closes a repository's windows behind its last pushes.
    fn end(&self, run: &OwedRun<'_>) {
        let queue = self.queue.repositories.get_mut(run.repository);
        if let Some(mut queue) = queue.filter(|_| run.is_last) {
            queue.close_windows(&self.queue.ahead, self.now);
            self.queue.schedule(run.repository, &mut queue, self.now);
        }
    }

    /// Puts down what is not put down yet.
    pub fn finish(mut self) {
        let last = self.last.take();
        self.put_down(last);
    }

    fn look_up(&self, list: &OwedBy, load: Load) -> Known {
        let mut gone = Vec::new();
        let owed = list.iter().map(|(place, endpoint)| (*place, endpoint));
        let owing = self.queue.take_on(load, self.endpoints, owed, |place, endpoint| {
            gone.push((place, endpoint.clone()));
        });
        Known {
            list: Arc::clone(list),
            owing,
            gone,
            load: Load::default(),
        }
    }

    fn put_down(&self, known: Option<Known>) {
        let Some(known) = known.filter(|known| known.load.pushes > 0) else {
            return;
        };
        let owing = known.owing.iter().map(|owing| &*owing.endpoint);
        self.queue.accounts.add(known.load, owing);
    }
}

/// What those endpoints owe of a run.
fn pairs(run: &OwedRun<'_>, endpoints: &[(u16, EndpointId)]) -> Orphans {
    let of = |sequence| {
        let pair = move |(place, endpoint): &(u16, EndpointId)| {
            let place = *place;
            (Pair { sequence, place }, endpoint.clone())
        };
        endpoints.iter().map(pair)
    };
    run.pushes.iter().flat_map(|push| of(push.sequence)).collect()
}
