//! Keeps what is owed within its bounds: past one, the oldest pushes become dead letters, so that an endpoint
//! that takes nothing closes ingest for nobody.
//!
//! The oldest are found in the journal's index, in order, and read back from the disk: the queue keeps no such
//! order itself. Each bound has a cursor that moves forward only. What is in flight is passed over, and met
//! again after a while: it may come back undelivered.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::Dispatcher;
use crate::{
    journal::{Journal, Owed},
    push::{EndpointId, Pair, Sequence, Settlement},
    queue::{Excess, GivenUp},
};

/// Pushes that are read back at once.
const READ_AT_ONCE: usize = 256;

/// How long until what was in flight is met again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The wait when a bound is passed and nothing can be given up: all is in flight, or the disk can't be read.
const STUCK_WAIT: Duration = Duration::from_secs(1);

/// A spell ends when nothing was given up for so long, or when it lasted so long: then its count is told.
const SPELL_QUIET: Duration = Duration::from_mins(1);
const SPELL_MAX: Duration = Duration::from_mins(10);

/// One bound's way through the journal.
#[derive(Debug)]
struct Walk {
    /// The last push that was read.
    cursor: Option<Sequence>,
    /// What was read and is not looked at yet.
    read: VecDeque<Owed>,
    /// The oldest push that was passed over.
    passed_over: Option<Sequence>,
    began: Instant,
    spell: Option<Spell>,
}

/// A time in which pushes are given up, told once at its beginning and once at its end.
#[derive(Clone, Copy, Debug)]
struct Spell {
    began: Instant,
    last: Instant,
    pushes: u64,
}

impl Dispatcher {
    /// Gives up the oldest pushes whenever more is owed than may be, until the soft token is cancelled.
    pub async fn bound_backlogs(self) {
        let parts = &self.0.parts;
        let mut walks: HashMap<Excess, Walk> = HashMap::new();
        loop {
            let spells = walks.values().filter_map(|walk| Some(walk.spell?.ends_at()));
            let spell_ends = spells.min().unwrap_or_else(|| Instant::now() + SPELL_MAX);
            tokio::select! {
                biased;
                () = parts.tasks.soft().cancelled() => break,
                () = self.relieve(&mut walks) => {}
                () = sleep_until(spell_ends) => {}
            }
            for (excess, walk) in &mut walks {
                walk.end_spell(excess, Some(Instant::now()));
            }
            // One that met nothing for so long begins at the oldest push again.
            walks.retain(|_, walk| walk.spell.is_some());
        }
        for (excess, walk) in &mut walks {
            walk.end_spell(excess, None);
        }
    }

    /// Waits for bounds to be passed, and gives up pushes until they are not.
    async fn relieve(&self, walks: &mut HashMap<Excess, Walk>) {
        let queue = &self.0.parts.queue;
        let mut is_stuck = false;
        for excess in queue.excesses().await {
            let walk = walks.entry(excess.clone()).or_insert_with(Walk::new);
            walk.meet_again();
            let mut settled_any = false;
            while queue.is_over(&excess) {
                match walk.next(&self.0.parts.journal).await {
                    Ok(Some(push)) => settled_any |= self.give_up(&push, &excess, walk),
                    Ok(None) => break,
                    Err(error) => {
                        warn!(%error, "a backlog is over its bound, and the oldest pushes can't be read back");
                        break;
                    }
                }
            }
            is_stuck |= !settled_any && queue.is_over(&excess);
        }
        if is_stuck {
            sleep(STUCK_WAIT).await;
        }
    }

    /// Gives up a push for whom the bound is about; whether that was anybody.
    fn give_up(&self, push: &Owed, excess: &Excess, walk: &mut Walk) -> bool {
        let mut settled_any = false;
        for (_, endpoint) in &push.owed {
            if matches!(excess, Excess::Endpoint(id) if **id != *endpoint) {
                continue;
            }
            let now = Instant::now();
            let given_up = (self.0.parts.queue).give_up(&push.repository, push.sequence, endpoint, now);
            match given_up {
                GivenUp::Settled(settled) => {
                    walk.count(excess, now);
                    self.bury_one(push, endpoint, settled.pair());
                    settled_any = true;
                }
                GivenUp::InFlight => {
                    walk.passed_over.get_or_insert(push.sequence);
                }
                GivenUp::NotOwed => {}
            }
        }
        settled_any
    }

    fn bury_one(&self, push: &Owed, endpoint: &EndpointId, pair: Pair) {
        let parts = &self.0.parts;
        parts.journal.settle([(pair, Settlement::DeadLetter)]);
        parts.metrics.settled(Settlement::DeadLetter);
        let tag = push.tag.as_ref().map(tracing::field::display);
        debug!(
            repository = %push.repository, tag, %endpoint, sequence = %push.sequence,
            "given up for the backlog's bound: a dead letter"
        );
    }
}

impl Walk {
    fn new() -> Self {
        Self {
            cursor: None,
            read: VecDeque::new(),
            passed_over: None,
            began: Instant::now(),
            spell: None,
        }
    }

    /// The next oldest push; `None` at the end, after which it begins again.
    async fn next(&mut self, journal: &Journal) -> io::Result<Option<Owed>> {
        if self.read.is_empty() {
            let (journal, cursor) = (journal.clone(), self.cursor);
            let read = move || journal.owed(cursor, READ_AT_ONCE);
            let read = tokio::task::spawn_blocking(read)
                .await
                .map_err(io::Error::other)??;
            self.read = read.into();
            self.cursor = self.read.back().map(|last| last.sequence);
        }
        Ok(self.read.pop_front())
    }

    /// Goes back to what was passed over, if that was long enough ago.
    fn meet_again(&mut self) {
        if self.began.elapsed() < AGAIN_AFTER {
            return;
        }
        self.began = Instant::now();
        if let Some(oldest) = self.passed_over.take() {
            self.read.clear();
            self.cursor = Sequence::new(oldest.get() - 1);
        }
    }

    /// Counts a push, and tells when it is the first for long.
    fn count(&mut self, excess: &Excess, now: Instant) {
        let spell = self.spell.get_or_insert_with(|| {
            let (bound, endpoint) = named(excess);
            warn!(
                bound,
                endpoint, "a backlog is over its bound: the oldest pushes become dead letters"
            );
            Spell {
                began: now,
                last: now,
                pushes: 0,
            }
        });
        spell.pushes += 1;
        spell.last = now;
    }

    /// Ends the spell, and tells its count, if it is over by `now`, or in any case.
    fn end_spell(&mut self, excess: &Excess, now: Option<Instant>) {
        let is_over = |spell: &mut Spell| now.is_none_or(|now| spell.ends_at() <= now);
        if let Some(spell) = self.spell.take_if(is_over) {
            let (bound, endpoint) = named(excess);
            let elapsed_s = spell.began.elapsed().as_secs();
            warn!(
                bound,
                endpoint,
                pushes = spell.pushes,
                elapsed_s,
                "dead letters: pushes were given up for a backlog's bound"
            );
        }
    }
}

impl Spell {
    fn ends_at(&self) -> Instant {
        (self.last + SPELL_QUIET).min(self.began + SPELL_MAX)
    }
}

/// The key that sets the bound, and the endpoint it is about, if it is about one.
fn named(
    excess: &Excess,
) -> (
    &'static str,
    Option<tracing::field::DisplayValue<&Arc<EndpointId>>>,
) {
    match excess {
        Excess::Endpoint(id) => ("delivery.max_backlog", Some(tracing::field::display(id))),
        Excess::Overall => ("journal.max_size", None),
    }
}
