//! Keeps what is owed within its bounds: past one, the oldest pushes become dead letters, so that an endpoint
//! that takes nothing closes ingest for nobody.
//!
//! The oldest are found in the journal's index, in order, and read back from the disk: the queue keeps no such
//! order itself. What is in flight is passed over, and met again after a while: it may come back undelivered.
//! What can't be read is passed over, too.
//!
//! There are four bounds: on what one endpoint owes, on what is owed in all, on how many pushes are, and, should the
//! journal be full in spite of these, because what is owed lies too scattered or there are very few segments, the disk's
//! own. A full journal that makes room by itself, for it clears a segment or settles what was given up before, is waited
//! for.
//!
//! For the sake of how many they are, only pushes are given up that no healthy endpoint owes: the others would be no
//! fewer for it. So ingest may close for a healthy endpoint that falls behind, and for no other.

use std::{collections::HashMap, time::Duration};

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
    locked::Locked as _,
    push::EndpointId,
    queue::{Excess, GivenUp},
};

mod walk;

use walk::Walk;

/// The wait when a bound is passed and nothing can be given up: all is in flight, or the disk can't be read.
const STUCK_WAIT: Duration = Duration::from_secs(1);

/// How long the journal may be full before pushes are given up for it: it may be about to delete a segment.
const FULL_GRACE: Duration = Duration::from_millis(200);

/// How often it is looked whether what was given up makes room.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long nothing of that may be seen, before more is given up.
const STILL_WAIT: Duration = Duration::from_secs(3);

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
        let health = self.0.parts.journal.health_changes();
        self.keep_open(health).await;
    }

    /// The same by what is told of the journal.
    pub(super) async fn keep_open(self, mut health: watch::Receiver<Health>) {
        let (mut walk, soft) = (Walk::new(Excess::Overall), self.0.parts.tasks.soft());
        loop {
            let ends_at = walk.spell_ends_at();
            let is_gone = async { health.wait_for(wants_space).await.is_err() };
            tokio::select! {
                biased;
                () = soft.cancelled() => break,
                is_gone = is_gone => {
                    if is_gone {
                        // The journal is, and the process with it.
                        soft.cancelled().await;
                        break;
                    }
                    soft.run_until_cancelled(self.make_space(&mut walk, &mut health)).await;
                }
                () = sleep_until(ends_at.unwrap_or_else(|| Instant::now() + IDLE_MAX)) => {}
            }
            walk.end_spell_if_due();
        }
        walk.end_spell();
    }

    /// Gives up a segment's worth of pushes for a journal that is full and makes no room by itself, and waits for that to make
    /// some.
    async fn make_space(&self, walk: &mut Walk, health: &mut watch::Receiver<Health>) {
        sleep(FULL_GRACE).await;
        if !wants_space(&health.borrow_and_update()) {
            return;
        }
        walk.restart();
        let mut bytes = 0;
        // The first of these may have a segment cleared before the others are found: that alone would be too little.
        while bytes < self.0.options.segment_bytes && is_full(&health.borrow_and_update()) {
            self.room_for_letters().await;
            let Some(push) = self.next(walk).await else { break };
            if self.give_up(&push, |_| true, walk) > 0 {
                bytes += u64::from(push.bytes);
            }
        }
        self.await_space(health).await;
    }

    /// Waits until the journal is full no longer, or nothing is seen any more of what makes room: first letters are
    /// written, then their pushes settled, then segments cleared and deleted.
    async fn await_space(&self, health: &mut watch::Receiver<Health>) {
        let dying = &self.0.dying;
        let (mut written, mut least) = (dying.written(), (u64::MAX, u64::MAX));
        let now = Instant::now();
        let (mut wrote_at, mut waited_at, mut seen_at, mut still_wait) = (now, now, now, STILL_WAIT);
        while timeout(LOOK_EVERY, health.wait_for(|health| !is_full(health)))
            .await
            .is_err()
        {
            let (waits_for_letters, now) = (dying.len() > 0, Instant::now());
            if waits_for_letters && dying.is_failing() {
                return self.shed();
            }
            let Health::Full {
                bytes, makes_room, ..
            } = *health.borrow_and_update()
            else {
                return;
            };
            let unsettled = self.0.parts.journal.stats().unsettled;
            if dying.written() != written {
                (wrote_at, seen_at) = (now, now);
            }
            if waits_for_letters {
                waited_at = now;
            }
            // A while after the last letter, it is by what is delivered that less is owed.
            let is_settling = now - waited_at < STILL_WAIT && unsettled < least.0;
            if makes_room || is_settling || bytes < least.1 {
                seen_at = now;
            }
            if makes_room {
                // What it clears now is the last of it.
                still_wait = LOOK_EVERY;
            }
            written = dying.written();
            least = (least.0.min(unsettled), least.1.min(bytes));
            // Somebody who looks at letters may hold them up for a while.
            if waits_for_letters && now - wrote_at >= LETTERS_WAIT {
                return self.shed();
            }
            if !waits_for_letters && now - seen_at >= still_wait {
                return;
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
        let mut told = self.0.unreadable.locked();
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

fn is_full(health: &Health) -> bool {
    matches!(health, Health::Full { .. })
}

/// Whether the journal is full, and nothing but giving up pushes is known to make room.
fn wants_space(health: &Health) -> bool {
    matches!(
        health,
        Health::Full {
            makes_room: false,
            ..
        }
    )
}

/// Whether an endpoint in this state takes what it is owed, or stands still because somebody wants it to.
fn takes_pushes(state: State) -> bool {
    match state {
        State::Healthy | State::Held | State::Disabled => true,
        State::Failing | State::Paused | State::Ignored => false,
    }
}
