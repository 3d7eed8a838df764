//! Keeps what is owed within its bounds: past one, the oldest pushes become dead letters, so that an endpoint
//! that takes nothing closes ingest for nobody.
//!
//! The oldest are found in the journal's index, in order, and read back from the disk: the queue keeps no such
//! order itself. What is in flight is passed over, and met again after a while: it may come back undelivered.
//! What can't be read is passed over, too.
//!
//! There are three bounds: on what one endpoint owes, on what is owed in all, and, should the journal be full
//! in spite of these, because what is owed lies too scattered or there are very few segments, the disk's own.

use std::{collections::HashMap, future::pending, sync::PoisonError, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, error};

use super::{
    Dispatcher,
    dying::{Reason, Waiting},
};
use crate::{
    journal::{Health, Owed, Unreadable},
    push::EndpointId,
    queue::{Excess, GivenUp},
};

mod walk;

use walk::Walk;

/// The wait when a bound is passed and nothing can be given up: all is in flight, or the disk can't be read.
const STUCK_WAIT: Duration = Duration::from_secs(1);

/// How long the journal may be full before pushes are given up for it: it may be about to delete a segment.
const FULL_GRACE: Duration = Duration::from_millis(200);

/// How long the journal has to delete what was given up, before more is.
const DELETE_WAIT: Duration = Duration::from_secs(1);

/// So many pushes that can't be read are told, each once.
const UNREADABLE_MAX: usize = 1_000;

/// How long nothing happens at most.
const IDLE_MAX: Duration = Duration::from_mins(1);

impl Dispatcher {
    /// Gives up the oldest pushes whenever more is owed than may be, until the soft token is cancelled.
    pub async fn bound_backlogs(self) {
        let mut walks: HashMap<Excess, Walk> = HashMap::new();
        loop {
            let ends_at = walks.values().filter_map(Walk::spell_ends_at).min();
            tokio::select! {
                biased;
                () = self.0.parts.tasks.soft().cancelled() => break,
                () = self.relieve(&mut walks) => {}
                () = sleep_until(ends_at.unwrap_or_else(|| Instant::now() + IDLE_MAX)) => {}
            }
            walks.values_mut().for_each(Walk::end_spell_if_due);
            // One that gave up nothing for so long begins at the oldest push again.
            walks.retain(|_, walk| walk.spell_ends_at().is_some());
        }
        walks.values_mut().for_each(Walk::end_spell);
    }

    /// Waits for bounds to be passed, and gives up pushes until they are not.
    async fn relieve(&self, walks: &mut HashMap<Excess, Walk>) {
        let queue = &self.0.parts.queue;
        let mut is_stuck = false;
        for excess in queue.excesses().await {
            let endpoint = match &excess {
                Excess::Endpoint(endpoint) => Some(endpoint),
                Excess::Overall => None,
            };
            let walk = walks.entry(excess.clone()).or_insert_with(|| match endpoint {
                Some(endpoint) => Walk::new("delivery.max_backlog", Some(endpoint.clone())),
                None => Walk::new("journal.max_size", None),
            });
            walk.meet_again();
            let mut settled = 0;
            while queue.is_over(&excess) {
                self.room_for_letters().await;
                let Some(push) = self.next(walk).await else { break };
                settled += self.give_up(&push, endpoint.map(|id| &**id), walk);
            }
            is_stuck |= settled == 0 && queue.is_over(&excess);
        }
        if is_stuck {
            sleep(STUCK_WAIT).await;
        }
    }

    /// Gives up the oldest pushes while the journal is full, until the soft token is cancelled.
    pub async fn keep_journal_open(self) {
        let mut health = self.0.parts.journal.health_changes();
        let mut walk = Walk::new("journal.max_size", None);
        loop {
            let ends_at = walk.spell_ends_at();
            tokio::select! {
                biased;
                () = self.0.parts.tasks.soft().cancelled() => break,
                () = self.make_space(&mut walk, &mut health) => {}
                () = sleep_until(ends_at.unwrap_or_else(|| Instant::now() + IDLE_MAX)) => {}
            }
            walk.end_spell_if_due();
        }
        walk.end_spell();
    }

    /// Waits for the journal to be full, and gives up a segment's worth of pushes.
    async fn make_space(&self, walk: &mut Walk, health: &mut watch::Receiver<Health>) {
        let is_full = |health: &Health| matches!(health, Health::Full { .. });
        if health.wait_for(is_full).await.is_err() {
            // The journal is gone, and the process with it.
            return pending().await;
        }
        sleep(FULL_GRACE).await;
        walk.restart();
        let (mut bytes, written) = (0, self.0.dying.written());
        while bytes < self.0.options.segment_bytes && is_full(&health.borrow_and_update()) {
            self.room_for_letters().await;
            let Some(push) = self.next(walk).await else { break };
            if self.give_up(&push, None, walk) > 0 {
                bytes += u64::from(push.bytes);
            }
        }
        // Otherwise it is full still, and comes here again.
        let is_over = timeout(DELETE_WAIT, health.wait_for(|health| !is_full(health))).await;
        // Its room comes once what was given up is settled, and that waits for letters.
        if is_over.is_err() && self.0.dying.len() > 0 && self.0.dying.written() == written {
            self.shed();
        }
    }

    /// The walk's next push that can be read.
    async fn next(&self, walk: &mut Walk) -> Option<Owed> {
        loop {
            match walk.next(&self.0.parts.journal).await? {
                Ok(push) => return Some(push),
                Err(unreadable) => self.pass_over(&unreadable),
            }
        }
    }

    /// Says of a push that it can't be read, unless that was said.
    fn pass_over(&self, unreadable: &Unreadable) {
        let mut told = self.0.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < UNREADABLE_MAX && told.insert(unreadable.sequence) {
            error!(
                error = %unreadable.error, file = %unreadable.file.display(), sequence = %unreadable.sequence,
                "too much is owed, and this push can't be read back: it is passed over"
            );
        }
    }

    /// Gives up a push, for one endpoint or for all that owe it; for how many it was.
    fn give_up(&self, push: &Owed, endpoint: Option<&EndpointId>, walk: &mut Walk) -> usize {
        let parts = &self.0.parts;
        let owed = push.owed.iter().map(|(_, owing)| owing);
        let reason = Reason::Fixed(walk.reason());
        let mut given_up = Vec::new();
        for owing in owed.filter(|owing| endpoint.is_none_or(|endpoint| endpoint == *owing)) {
            let now = Instant::now();
            match parts.queue.give_up(&push.repository, push.sequence, owing, now) {
                GivenUp::Settled(one) => {
                    walk.count(now);
                    given_up.push(Waiting::new(&one, parts.clock.now(), reason.clone()));
                    let tag = push.tag.as_ref().map(tracing::field::display);
                    debug!(
                        repository = %push.repository, tag, endpoint = %owing, sequence = %push.sequence,
                        "given up because too much is owed: a dead letter"
                    );
                }
                GivenUp::InFlight => walk.pass_over(push.sequence),
                GivenUp::NotOwed => {}
            }
        }
        let count = given_up.len();
        self.lay_out(given_up);
        count
    }
}
