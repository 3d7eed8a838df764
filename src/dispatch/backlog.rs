//! Keeps what is owed within its bounds: past one, the oldest pushes become dead letters, so that an endpoint
//! that takes nothing closes ingest for nobody.
//!
//! The oldest are found in the journal's index, in order, and read back from the disk: the queue keeps no such
//! order itself. What is in flight is passed over, and met again after a while: it may come back undelivered.
//! What can't be read is passed over, too.
//!
//! There are four bounds: on what one endpoint owes, on what is owed in all, on how many pushes are, and, should the
//! journal be full in spite of these, because what is owed lies too scattered or there are very few segments, the disk's
//! own.
//!
//! For the sake of how many they are, only pushes are given up that no healthy endpoint owes: the others would be no
//! fewer for it. So ingest may close for a healthy endpoint that falls behind, and for no other.

use std::{collections::HashMap, future::pending, sync::PoisonError, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, error};

use super::{
    Dispatcher,
    dying::{Reason, Waiting},
    health::State,
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

/// How long letters may take to be written that don't fail: twice what is waited for somebody who looks at them.
const LETTERS_WAIT: Duration = Duration::from_secs(10);

/// So many pushes that can't be read are told, each once.
const UNREADABLE_MAX: usize = 1_000;

/// So many pushes are looked at one after the other none of which helps, before it is waited.
const IN_VAIN_MAX: usize = 16_384;

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
            // One that gave up nothing for so long begins at the oldest push again, unless it is on its way still.
            let queue = &self.0.parts.queue;
            walks.retain(|excess, walk| walk.spell_ends_at().is_some() || queue.is_over(excess));
        }
        walks.values_mut().for_each(Walk::end_spell);
    }

    /// Waits for bounds to be passed, and gives up pushes until they are not.
    async fn relieve(&self, walks: &mut HashMap<Excess, Walk>) {
        let queue = &self.0.parts.queue;
        let mut is_stuck = false;
        for excess in queue.excesses().await {
            if excess == Excess::Pushes && !self.can_be_fewer() {
                is_stuck = true;
                continue;
            }
            let walk = walks
                .entry(excess.clone())
                .or_insert_with(|| Walk::new(excess.clone()));
            walk.meet_again();
            let (mut settled, mut in_vain) = (0, 0);
            while queue.is_over(&excess) && in_vain < IN_VAIN_MAX {
                self.room_for_letters().await;
                let Some(push) = self.next(walk).await else { break };
                let count = match &excess {
                    // Until it is delivered.
                    Excess::Pushes if self.is_wanted(&push) => 0,
                    Excess::Pushes => self.give_up(&push, |owing| !self.takes_pushes(owing), walk),
                    Excess::Overall => self.give_up(&push, |_| true, walk),
                    Excess::Endpoint(endpoint) => self.give_up(&push, |owing| *owing == **endpoint, walk),
                };
                settled += count;
                // An endpoint's own may lie anywhere.
                in_vain = match (&excess, count) {
                    (Excess::Pushes, 0) => in_vain + 1,
                    _ => 0,
                };
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
        let mut walk = Walk::new(Excess::Overall);
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
            if self.give_up(&push, |_| true, walk) > 0 {
                bytes += u64::from(push.bytes);
            }
        }
        let began = Instant::now();
        // Otherwise it is full still, and comes here again.
        while timeout(DELETE_WAIT, health.wait_for(|health| !is_full(health)))
            .await
            .is_err()
        {
            // Its room comes once what was given up is settled, and that waits for letters.
            let dying = &self.0.dying;
            if dying.len() == 0 || dying.written() != written {
                return;
            }
            // Somebody who looks at them may hold them up for a while.
            if dying.is_failing() || began.elapsed() >= LETTERS_WAIT {
                return self.shed();
            }
        }
    }

    /// Whether anything is owed by an endpoint that takes nothing.
    fn can_be_fewer(&self) -> bool {
        let troubled = self.0.parts.states.troubled();
        let mut dead = troubled.iter().filter(|(_, state)| !takes_pushes(*state));
        dead.any(|(endpoint, _)| self.0.parts.queue.owes_anything(endpoint))
    }

    /// Whether a push is owed by an endpoint that takes what it is owed.
    fn is_wanted(&self, push: &Owed) -> bool {
        let queue = &self.0.parts.queue;
        let mut owing = push.owed.iter().map(|(_, owing)| owing);
        // The journal may not know yet that it was delivered.
        owing.any(|owing| self.takes_pushes(owing) && queue.owes(&push.repository, owing, push.sequence))
    }

    /// Whether an endpoint keeps what it is owed, however many pushes there are: it takes them, or stands still because
    /// somebody wants it to.
    fn takes_pushes(&self, endpoint: &EndpointId) -> bool {
        takes_pushes(self.0.parts.states.state(endpoint))
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

    /// Gives up a push for those who owe it and are meant; for how many it was.
    fn give_up(&self, push: &Owed, is_meant: impl Fn(&EndpointId) -> bool, walk: &mut Walk) -> usize {
        let parts = &self.0.parts;
        let owed = push.owed.iter().map(|(_, owing)| owing);
        let reason = Reason::Fixed(walk.reason());
        let mut given_up = Vec::new();
        for owing in owed.filter(|owing| is_meant(owing)) {
            let now = Instant::now();
            match parts.queue.give_up(&push.repository, push.sequence, owing, now) {
                GivenUp::Settled(one) => {
                    walk.count(now);
                    parts.refusals.ended(one.sequence, &one.endpoint);
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

/// The same of any endpoint in this state.
fn takes_pushes(state: State) -> bool {
    match state {
        State::Healthy | State::Held | State::Disabled => true,
        State::Failing | State::Paused | State::Ignored => false,
    }
}
