//! Sends dead letters again, those that are marked in the file: in the order of their pushes, one at a time for each
//! endpoint, in turns with what its lanes send.
//!
//! A letter goes once it was answered with 2xx. When its endpoint fails it stays first, and waits for it, unless the
//! endpoint is well but for that letter; refused, it is dead again. Either way it has the new reason. What was in flight
//! when the process ended is sent again after the start, under the same `webhook-id`.
//!
//! While an endpoint is not healthy its letters wait. But the first one after somebody asked who decides over the endpoint
//! is sent all the same; and if the queue has nothing for the endpoint, so that nobody else would find out, one is sent whenever an attempt is
//! due.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    Dispatcher,
    delivery::{Attempted, Counts, Shipment},
    health::State,
    lately::Lately,
    letters::LettersError,
    newer::Newer,
    of_letter,
    turn::Turn,
};
use crate::{
    catalog::Which,
    image::Tag,
    locked::Locked as _,
    push::{EndpointId, Sequence},
    settings::{KeptLetter, Letter, Order, Settings},
    sizing::ImageToSize,
    telemetry::{labels::ReplayResult, log::Throttle},
    webhook::{Endpoint, Fault, Outcome, Sizes},
};

/// Those who read or write the file for replays at once. More would only wait for each other.
const ACCESS_AT_ONCE: usize = 4;

/// How long until it is looked again, should nobody have told.
const LOOK_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// So often an endpoint that is well may fail at a letter: then it is that letter it fails at.
const FAILURES_MAX: u32 = 3;

/// The wait after the file could not be read or written.
const ACCESS_WAIT: Duration = Duration::from_secs(1);

/// Who is being sent dead letters again.
#[derive(Debug)]
pub(super) struct Replays {
    /// Those that have a task.
    working: Mutex<HashSet<EndpointId>>,
    /// Those of which somebody asked, so that the first letter goes whatever their state.
    asked: Mutex<HashSet<EndpointId>>,
    /// The letter that goes next, and how often an endpoint that was well failed at it.
    failed: Mutex<HashMap<EndpointId, (i64, u32)>>,
    lately: Lately,
    changed: watch::Sender<()>,
    access: Arc<Semaphore>,
    complaint: Throttle,
}

impl Default for Replays {
    fn default() -> Self {
        Self {
            working: Mutex::default(),
            asked: Mutex::default(),
            failed: Mutex::default(),
            lately: Lately::default(),
            changed: watch::Sender::new(()),
            access: Arc::new(Semaphore::new(ACCESS_AT_ONCE)),
            complaint: Throttle::new(),
        }
    }
}

impl Replays {
    /// Notes that an endpoint failed at its first letter; whether it is that letter it fails at.
    fn is_in_vain(&self, endpoint: &EndpointId, letter: i64, was_well: bool) -> bool {
        let mut failed = self.failed.locked();
        let (of, failures) = failed.entry(endpoint.clone()).or_default();
        if *of != letter {
            (*of, *failures) = (letter, 0);
        }
        *failures += u32::from(was_well);
        *failures >= FAILURES_MAX
    }

    pub(super) fn access(&self) -> Arc<Semaphore> {
        Arc::clone(&self.access)
    }

    /// A push of this journal's was delivered.
    pub(super) fn delivered(&self, which: &Which) {
        self.lately.add(which);
    }

    /// Whether a push of the letter's tag that is newer than `than` was delivered lately.
    pub(super) fn delivered_newer(&self, letter: &Letter, tag: &Tag, than: Option<Sequence>) -> bool {
        self.lately.has_newer(letter, tag, than)
    }

    /// Somebody asked for letters of these.
    pub(super) fn asked(&self, endpoints: Vec<EndpointId>) {
        let mut asked = self.asked.locked();
        asked.extend(endpoints);
        drop(asked);
        self.changed.send_replace(());
    }

    /// Whether somebody asked for letters of this one, and none was sent since.
    fn take_asked(&self, endpoint: &EndpointId) -> bool {
        let mut asked = self.asked.locked();
        asked.remove(endpoint)
    }

    #[cfg(test)]
    pub(super) fn is_asked(&self, endpoint: &EndpointId) -> bool {
        let asked = self.asked.locked();
        asked.contains(endpoint)
    }

    fn begin(&self, endpoint: &EndpointId) -> bool {
        let mut working = self.working.locked();
        working.insert(endpoint.clone())
    }

    fn end(&self, endpoint: &EndpointId) {
        let mut working = self.working.locked();
        working.remove(endpoint);
        drop(working);
        let mut failed = self.failed.locked();
        failed.remove(endpoint);
        drop(failed);
        // Something may have been marked since it looked last.
        self.changed.send_replace(());
    }
}

/// What may be done for an endpoint's letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// One may be sent, by this leave.
    Open(Leave),
    /// None ever: it is gone, or disabled.
    Closed,
    /// The process is about to end.
    Stopping,
}

/// By what a letter may be sent to an endpoint. There is a turn to be waited for in between, for long perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// The endpoint is healthy: as long as it is.
    Healthy,
    /// Somebody asked, or an attempt is due: whatever its state.
    Once,
}

impl Leave {
    /// Whether it still holds in that state.
    pub(super) fn holds(self, state: State) -> bool {
        !state.is_by_hand() && (self == Self::Once || state == State::Healthy)
    }
}

impl Dispatcher {
    /// Sends again what is marked, until the soft token is cancelled.
    pub async fn run_replays(self) {
        let (tasks, replays) = (&self.0.parts.tasks, &self.0.replays);
        let mut changes = replays.changed.subscribe();
        loop {
            changes.mark_unchanged();
            match self.with_settings(Settings::replaying_endpoints).await {
                Ok(endpoints) => {
                    for endpoint in endpoints {
                        if replays.begin(&endpoint) {
                            tasks.spawn("replay", self.clone().replay_endpoint(endpoint));
                        }
                    }
                }
                Err(error) => self.complain(&error),
            }
            tokio::select! {
                biased;
                () = tasks.soft().cancelled() => return,
                _ = changes.changed() => {}
                () = sleep(LOOK_AGAIN_AFTER) => {}
            }
        }
    }

    /// Sends an endpoint's marked letters, until there are none.
    async fn replay_endpoint(self, id: EndpointId) {
        let tasks = &self.0.parts.tasks;
        loop {
            let step = tokio::select! {
                biased;
                () = tasks.hard().cancelled() => return,
                step = self.replay_next(&id) => step,
            };
            match step {
                Ok(true) if !tasks.soft().is_cancelled() => {}
                Ok(_) => break,
                Err(error) => {
                    self.complain(&error);
                    tokio::select! {
                        () = tasks.soft().cancelled() => break,
                        () = sleep(ACCESS_WAIT) => {}
                    }
                }
            }
        }
        self.0.replays.end(&id);
    }

    /// Sends the next letter; whether there may be another.
    async fn replay_next(&self, id: &EndpointId) -> Result<bool, LettersError> {
        if self.next_letter(id).await?.is_none() {
            return Ok(false);
        }
        let gate = self.wait_for_endpoint(id, || true).await;
        let endpoint = self.0.parts.endpoints.get(id);
        if gate == Gate::Stopping {
            return Ok(false);
        }
        // That took days, perhaps: letters were discarded meanwhile, and others marked.
        let Some((kept, order)) = self.next_letter(id).await? else {
            return Ok(false);
        };
        match (gate, endpoint) {
            (Gate::Stopping, _) => return Ok(false),
            (Gate::Open(leave), Some(endpoint)) => {
                return self.replay_one(&endpoint, kept, order, leave).await;
            }
            (Gate::Closed, _) | (_, None) => {}
        }
        info!(endpoint = %id, letter = kept.id, "a dead letter is not sent again: its endpoint is gone, or disabled");
        self.let_be(&kept, ReplayResult::Refused).await?;
        Ok(true)
    }

    /// The letter of the endpoint that goes next.
    async fn next_letter(&self, id: &EndpointId) -> Result<Option<(KeptLetter, Order)>, LettersError> {
        let id = id.clone();
        self.with_settings(move |settings| settings.next_replay(&id))
            .await
    }

    async fn replay_one(
        &self,
        endpoint: &Arc<Endpoint>,
        kept: KeptLetter,
        order: Order,
        leave: Leave,
    ) -> Result<bool, LettersError> {
        let soft = self.0.parts.tasks.soft();
        let is_wanted = || leave.holds(self.0.parts.states.state(&endpoint.id));
        let sizes = tokio::select! {
            () = soft.cancelled() => return Ok(false),
            sizes = self.sizes_of(&kept.letter) => sizes,
        };
        let turn = match self.0.parts.client.target(endpoint) {
            // The attempt says why.
            Err(_) => None,
            Ok(target) => {
                let turn = tokio::select! {
                    () = soft.cancelled() => return Ok(false),
                    turn = self.turn(endpoint, &target, is_wanted) => turn,
                };
                if turn.is_none() {
                    // It failed, or was stopped or set otherwise meanwhile: what becomes of it is seen from the beginning.
                    return Ok(true);
                }
                turn
            }
        };
        let resending = self.0.resent.begin(&of_letter(&kept.letter));
        // It may have been discarded while it waited, or another goes first now.
        let next = self.next_letter(&endpoint.id).await?;
        if next.is_none_or(|(next, as_now)| (next.id, as_now) != (kept.id, order)) {
            return Ok(true);
        }
        let checked = self.newer(vec![kept], order).await?.pop();
        let Some((kept, newer)) = checked else {
            return Ok(true);
        };
        if newer == Newer::Known {
            self.let_be(&kept, ReplayResult::PassedOver).await?;
            return Ok(true);
        }
        if !self.stands(endpoint) || !is_wanted() {
            return Ok(true);
        }
        let Some(aside) = self.0.parts.queue.send_aside(&endpoint.id) else {
            // What it is owed is tried just now, and tells as much.
            return Ok(true);
        };
        let was_well = !self.0.parts.states.is_failing(&endpoint.id);
        let attempted = self
            .send_letter(endpoint, &kept.letter, (&sizes, Counts::Always), turn)
            .await;
        drop((resending, aside));
        if attempted.is_of_the_past && matches!(attempted.outcome, Outcome::Failed { .. }) {
            return Ok(true);
        }
        if attempted.outcome.is_ours() {
            // It stays as it is, and first.
            let wait = self.0.shortage.wait(Instant::now());
            let _ = soft.run_until_cancelled(sleep(wait)).await;
            return Ok(true);
        }
        let result = match attempted.outcome {
            Outcome::Delivered { .. } => ReplayResult::Delivered,
            // That says nothing of the letter, as a rule: it stays marked, and first, and waits until its endpoint
            // answers.
            Outcome::Failed {
                fault: Fault::Endpoint,
                ..
            } => {
                self.keep_outcome(&kept, &attempted).await;
                if self.0.replays.is_in_vain(&endpoint.id, kept.id, was_well) {
                    self.let_be(&kept, ReplayResult::Failed).await?;
                }
                return Ok(true);
            }
            Outcome::Failed { .. } => ReplayResult::Failed,
        };
        self.0.parts.metrics.letters().replayed(result);
        self.keep_outcome(&kept, &attempted).await;
        Ok(true)
    }

    /// One attempt for a letter, in its turn if it has one.
    pub(super) async fn send_letter(
        &self,
        endpoint: &Endpoint,
        letter: &Letter,
        (sizes, counts): (&Sizes, Counts),
        turn: Option<Turn>,
    ) -> Attempted {
        let shipment = Shipment {
            which: of_letter(letter),
            journal: letter.journal,
            digest: &letter.digest,
            sizes,
            counts,
        };
        let attempt = self.attempt(endpoint, &shipment);
        match turn {
            Some(turn) => turn.spend(attempt).await,
            None => attempt.await,
        }
    }

    /// Writes down what came of an attempt for a letter. Tries until it is written: it must not be sent again by this
    /// process. What says nothing of the letter is not written.
    pub(super) async fn keep_outcome(&self, kept: &KeptLetter, attempted: &Attempted) {
        let is_failed = matches!(attempted.outcome, Outcome::Failed { .. });
        if attempted.outcome.is_ours() || (attempted.is_of_the_past && is_failed) {
            return;
        }
        let (id, now) = (kept.id, self.0.parts.clock.now());
        let failure = match &attempted.outcome {
            Outcome::Delivered { .. } => None,
            Outcome::Failed { reason, fault, .. } => Some((reason.clone(), *fault)),
        };
        let letter = &kept.letter;
        if letter.journal == self.0.parts.journal.id() {
            let which = of_letter(letter);
            match &failure {
                None => self.write_delivered(&which),
                Some((reason, _)) => self.0.parts.history.given_up(&which, reason, now),
            }
        }
        loop {
            let failure = failure.clone();
            let written = self.with_settings(move |settings| match failure {
                None => settings.letter_delivered(id),
                Some((reason, Fault::Endpoint)) => settings.letter_tried(id, &reason, now),
                Some((reason, _)) => settings.letter_failed(id, &reason, now),
            });
            match written.await {
                Ok(()) | Err(LettersError::Stopping) => return,
                Err(error) => self.complain(&error),
            }
            tokio::select! {
                () = self.0.parts.tasks.soft().cancelled() => return,
                () = sleep(ACCESS_WAIT) => {}
            }
        }
    }

    async fn let_be(&self, kept: &KeptLetter, result: ReplayResult) -> Result<(), LettersError> {
        let id = kept.id;
        self.with_settings(move |settings| settings.unmark_letter(id))
            .await?;
        self.0.parts.metrics.letters().replayed(result);
        Ok(())
    }

    /// Waits until something may be sent to the endpoint that it isn't owed. Only for those who `decide` over it is one tried
    /// that fails.
    pub(super) async fn wait_for_endpoint(&self, id: &EndpointId, decide: impl Fn() -> bool + Sync) -> Gate {
        let parts = &self.0.parts;
        let (mut states, mut asked) = (parts.states.changes(), self.0.replays.changed.subscribe());
        loop {
            states.mark_unchanged();
            asked.mark_unchanged();
            if parts.tasks.soft().is_cancelled() {
                return Gate::Stopping;
            }
            let state = parts.states.state(id);
            let due_in = match state {
                _ if parts.endpoints.get(id).is_none() => return Gate::Closed,
                State::Disabled => return Gate::Closed,
                State::Healthy => {
                    self.0.replays.take_asked(id);
                    return Gate::Open(Leave::Healthy);
                }
                State::Held => None,
                _ if !decide() => None,
                State::Failing | State::Paused | State::Ignored => {
                    if self.0.replays.take_asked(id) {
                        return Gate::Open(Leave::Once);
                    }
                    parts.states.wait(id).filter(|_| !parts.queue.is_in_line(id))
                }
            };
            if due_in.is_some_and(|wait| wait.is_zero()) {
                return Gate::Open(Leave::Once);
            }
            tokio::select! {
                () = parts.tasks.soft().cancelled() => return Gate::Stopping,
                _ = states.changed() => {}
                _ = asked.changed() => {}
                () = sleep(due_in.unwrap_or(LOOK_AGAIN_AFTER).min(LOOK_AGAIN_AFTER)) => {}
            }
        }
    }

    /// A letter's sizes, as they are now.
    pub(super) async fn sizes_of(&self, letter: &Letter) -> Sizes {
        let image = ImageToSize {
            digest: letter.digest.clone(),
            media_type: letter.media_type,
            manifest_size: letter.manifest_size,
            references: letter.references.clone(),
        };
        let deadline = Instant::now() + self.0.options.size_deadline;
        let sizing = &self.0.parts.sizing;
        let mut sizes = sizing.size(&letter.repository, vec![image], deadline).await;
        sizes.pop().unwrap_or_default()
    }

    pub(super) fn complain(&self, error: &dyn std::error::Error) {
        if self.0.replays.complaint.due().is_some() {
            warn!(%error, "deliveries can't be sent again now; it is tried again");
        }
    }
}
