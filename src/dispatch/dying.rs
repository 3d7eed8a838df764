//! What was given up on, until its dead letter is written.
//!
//! The queue has let go of such a push already, and the journal still owes it. One task reads it back from there,
//! writes its letter into `settings.db`, many in one transaction, and only then settles it. So a crash at any moment
//! leaves it owed, or a letter, or both; and a start takes back letters of what is owed.
//!
//! # Bounds
//! Of what waits, only the pair and the reason are in memory. Past [`KEEP_ALL_FROM`] nothing more is given up for
//! its endpoint's sake: it stays in the queue, owed. Past [`ROOM_UNTIL`] nothing more is given up for the sake of a
//! bound, unless letters can't be written; past [`WAITING_MAX`], and for all that waits while the journal is full and
//! no letter can be written, pushes are settled without one. That is counted and told at the level of an error: a
//! dead-letter store that is full or broken closes ingest for nobody.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use super::{Dispatcher, Parts, letter_write::write, of_letter};
use crate::{
    locked::Locked as _,
    push::{EndpointId, Sequence, Settlement},
    queue::Orphans,
    telemetry::log::Throttle,
};

mod waiting;

use waiting::found;
pub(super) use waiting::{Reason, Waiting};

/// So many may wait, but for those that are found at a start: they are in memory anyway.
const WAITING_MAX: usize = 100_000;

/// From so many on, what can wait in the queue is left there, until they are fewer than half as many.
const KEEP_ALL_FROM: usize = 50_000;

/// So many may wait for the sake of a bound.
const ROOM_UNTIL: usize = 75_000;

/// So many letters are written in one transaction.
const AT_ONCE: usize = 1_000;

/// The wait before it is tried again, once letters could not be written.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long until pushes are read again that could not be.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// So many of those wait for that. More wait in line, where they are read again in turns: it may be all that there is.
const UNREADABLE_MAX: usize = 1_000;

/// How long letters may be written, at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The wait before letters are written again that could not be, meanwhile.
const LAST_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The longest transactions before it is looked whether there is something else to do.
const PRUNE_ROUNDS_MAX: usize = 200;

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Dying {
    line: Mutex<Line>,
    /// That somebody waits.
    news: Notify,
    /// That there are fewer.
    room: Notify,
    /// How many wait, those that are just being written included.
    waiting: AtomicUsize,
    /// Those of them that were found.
    found: AtomicUsize,
    lost: Throttle,
    /// How often it was tried to write some.
    #[cfg(test)]
    pub(super) rounds: AtomicUsize,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// Those that are just being written.
    writing: Vec<(Sequence, Arc<EndpointId>)>,
    /// Those that can't be read back now.
    unreadable: Vec<Waiting>,
    keeps_all: bool,
    is_failing: bool,
    /// How often letters were written.
    written: u64,
}

/// What came of writing some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There are more.
    More,
    /// There are none.
    Done,
    /// They could not be written.
    Failed,
}

impl Dying {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many wait that there is a bound on.
    pub(super) fn bounded(&self) -> usize {
        self.len().saturating_sub(self.found.load(Ordering::Relaxed))
    }

    /// Changes with each time that letters were written.
    pub(super) fn written(&self) -> u64 {
        self.line().written
    }

    /// Whether letters could not be written when it was tried last.
    pub(super) fn is_failing(&self) -> bool {
        self.line().is_failing
    }

    /// Those that wait of the pushes in `wanted`. Looks at all that wait, which is nothing as a rule.
    pub(super) fn of(&self, wanted: &HashSet<Sequence>) -> HashSet<(Sequence, EndpointId)> {
        if self.len() == 0 {
            return HashSet::new();
        }
        let line = self.line();
        let in_line = line.waiting.iter().chain(&line.unreadable);
        let in_line = in_line.map(|waiting| (waiting.pair.sequence, &waiting.endpoint));
        let writing = line.writing.iter();
        let writing = writing.map(|(sequence, endpoint)| (*sequence, endpoint));
        in_line
            .chain(writing)
            .filter(|(sequence, _)| wanted.contains(sequence))
            .map(|(sequence, endpoint)| (sequence, EndpointId::clone(endpoint)))
            .collect()
    }

    /// Each change of the line is whole before anything can panic.
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.locked()
    }

    fn take(&self, count: usize) -> Vec<Waiting> {
        let mut line = self.line();
        let count = count.min(line.waiting.len());
        line.waiting.drain(..count).collect()
    }

    /// The same for their letters to be written: they are known as such meanwhile.
    fn take_to_write(&self) -> Vec<Waiting> {
        let mut line = self.line();
        let count = AT_ONCE.min(line.waiting.len());
        let batch: Vec<_> = line.waiting.drain(..count).collect();
        let pairs = batch
            .iter()
            .map(|one| (one.pair.sequence, Arc::clone(&one.endpoint)));
        line.writing = pairs.collect();
        batch
    }

    /// Puts those back that were not written.
    fn put_back(&self, rest: Vec<Waiting>) {
        let mut line = self.line();
        rest.into_iter()
            .rev()
            .for_each(|waiting| line.waiting.push_front(waiting));
    }

    /// Those that could not be read are read again.
    fn meet_again(&self) {
        let mut line = self.line();
        let again = std::mem::take(&mut line.unreadable);
        line.waiting.extend(again);
    }
}

impl Dispatcher {
    /// Takes pushes that were given up: they are settled once their letters are written.
    pub(super) fn lay_out(&self, given_up: Vec<Waiting>) {
        if given_up.is_empty() {
            return;
        }
        let dying = &self.0.dying;
        let mut lost = Vec::new();
        {
            let mut line = dying.line();
            for waiting in given_up {
                if dying.bounded() >= WAITING_MAX {
                    lost.push(waiting);
                } else {
                    dying.waiting.fetch_add(1, Ordering::Relaxed);
                    line.waiting.push_back(waiting);
                }
            }
            self.keep_all_if_many(&mut line);
        }
        dying.news.notify_one();
        self.lose(lost, "too many wait for their dead letters");
    }

    /// Takes what is owed by endpoints that the configuration no longer has, however much it is.
    pub(super) fn lay_out_orphans(
        &self,
        orphans: Orphans,
        attempts: Option<u32>,
        reason: impl Fn(&EndpointId) -> Reason,
    ) {
        // With every commit this is called, and mostly there are none: nobody is to be woken for that.
        if orphans.is_empty() {
            return;
        }
        let at = self.0.parts.clock.now();
        let dying = &self.0.dying;
        let count = orphans.len();
        let waiting = orphans.into_iter().map(|(pair, endpoint)| Waiting {
            pair,
            reason: reason(&endpoint),
            attempts,
            endpoint: Arc::new(endpoint),
            at,
            is_found: true,
        });
        {
            let mut line = dying.line();
            dying.waiting.fetch_add(count, Ordering::Relaxed);
            dying.found.fetch_add(count, Ordering::Relaxed);
            line.waiting.extend(waiting);
            self.keep_all_if_many(&mut line);
        }
        dying.news.notify_one();
    }

    /// Leaves in the queue what can wait there, once many wait here.
    fn keep_all_if_many(&self, line: &mut Line) {
        if !line.keeps_all && self.0.dying.len() >= KEEP_ALL_FROM {
            line.keeps_all = true;
            self.0.parts.queue.keep_all(true);
        }
    }

    /// Why what an endpoint is owed is given up, now that it is given nothing.
    pub(super) fn why_given_up(&self, endpoint: &EndpointId) -> Reason {
        let Parts {
            states, endpoints, ..
        } = &self.0.parts;
        if endpoints.get(endpoint).is_none() {
            return Reason::gone(endpoint);
        }
        if states.is_disabled(endpoint) {
            return Reason::Fixed("its endpoint is disabled");
        }
        match states.reason(endpoint) {
            reason if reason.is_empty() => Reason::Fixed("its endpoint is ignored"),
            reason => Reason::Said(format!("its endpoint is ignored: {reason}").into()),
        }
    }

    /// Waits until more may be given up for the sake of a bound.
    pub(super) async fn room_for_letters(&self) {
        let dying = &self.0.dying;
        loop {
            let room = dying.room.notified();
            if dying.len() < ROOM_UNTIL || dying.is_failing() {
                return;
            }
            room.await;
        }
    }

    /// Settles all that waits, without letters: the journal is full, and none can be written.
    pub(super) fn shed(&self) {
        let waiting = self.0.dying.take(usize::MAX);
        self.forget(waiting.len(), found(&waiting));
        self.lose(waiting, "the journal is full, and no dead letter can be written");
    }

    /// Settles pushes without letters.
    fn lose(&self, lost: Vec<Waiting>, why: &str) {
        if lost.is_empty() {
            return;
        }
        let parts = &self.0.parts;
        drop(
            parts
                .journal
                .settle(lost.iter().map(|one| (one.pair, Settlement::DeadLetter))),
        );
        let count = lost.len() as u64;
        parts.metrics.letters().lost(count);
        for _ in 0..count {
            parts.metrics.settled(Settlement::DeadLetter);
        }
        if self.0.dying.lost.due().is_some() {
            error!(
                pushes = count,
                why, "given up without a dead letter; see settings.db and its disk"
            );
        }
        let mut buried: HashMap<String, Vec<_>> = HashMap::new();
        for one in lost {
            let pair = (one.pair.sequence, EndpointId::clone(&one.endpoint));
            let reason = one.reason.as_str().to_owned();
            buried.entry(reason).or_default().push(pair);
        }
        for (reason, pairs) in buried {
            let reason = format!("{reason}; without a dead letter: {why}");
            parts.history.buried(&pairs, &reason, parts.clock.now());
        }
    }

    /// Writes letters as they come, and lets go of old ones, until the soft token is cancelled.
    pub async fn keep_letters(self) {
        let (tasks, dying) = (&self.0.parts.tasks, &self.0.dying);
        let mut meet_at = Instant::now() + READ_AGAIN_AFTER;
        loop {
            // Also while there is always something new.
            if meet_at <= Instant::now() {
                dying.meet_again();
                meet_at = Instant::now() + READ_AGAIN_AFTER;
            }
            let step = tokio::select! {
                biased;
                // The disk may stand still; what is being written stays owed.
                () = tasks.hard().cancelled() => return,
                step = self.write_letters() => step,
            };
            let Some(step) = step else { return };
            match step {
                Step::More if !tasks.soft().is_cancelled() => {}
                Step::More => return,
                Step::Done => tokio::select! {
                    biased;
                    () = tasks.soft().cancelled() => return,
                    () = dying.news.notified() => {}
                    () = sleep_until(meet_at) => {}
                },
                Step::Failed => tokio::select! {
                    biased;
                    () = tasks.soft().cancelled() => return,
                    () = sleep(AGAIN_AFTER) => {}
                },
            }
        }
    }

    /// Writes what waits once nothing is given up any more. What can't be written in time stays owed.
    pub async fn close_letters(&self) {
        let write = async {
            loop {
                match self.write_letters().await {
                    Some(Step::More) => {}
                    Some(Step::Failed) => sleep(LAST_AGAIN_AFTER).await,
                    Some(Step::Done) | None => break,
                }
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, write).await;
        let left = self.0.dying.len();
        if left > 0 {
            warn!(
                pushes = left,
                "dead letters were not written in time: these stay owed"
            );
        }
    }

    /// Writes some letters, and settles their pushes; `None` if it was cut off.
    async fn write_letters(&self) -> Option<Step> {
        let (parts, dying) = (&self.0.parts, &self.0.dying);
        let (journal, settings) = (parts.journal.clone(), parts.settings.clone());
        let (bounds, now) = (self.0.options.letters, self.0.ages.now());
        let batch = dying.take_to_write();
        let found_before = found(&batch);
        #[cfg(test)]
        dying.rounds.fetch_add(1, Ordering::AcqRel);
        let writing = tokio::task::spawn_blocking(move || {
            let mut removed = 0;
            let written = write(&journal, &settings, batch, |coming| {
                for _ in 0..PRUNE_ROUNDS_MAX {
                    match settings.prune_letters(&bounds, coming, now)? {
                        0 => break,
                        count => removed += count,
                    }
                }
                Ok(())
            });
            (written, removed)
        });
        let (written, removed) = writing.await.ok()?;
        if removed > 0 {
            parts.metrics.letters().removed(removed);
            if self.0.removed.due().is_some() {
                warn!(
                    removed,
                    "dead letters were let go of: too old (delivery.dead_letters), or no room (delivery.dead_letters_max)"
                );
            }
        }
        let found_no_more = found_before.saturating_sub(found(&written.rest) + found(&written.unreadable));
        dying.put_back(written.rest);
        let is_too_much = self.set_aside(written.unreadable);
        let count = written.letters.len();
        let settled = written
            .letters
            .iter()
            .map(|(pair, _)| (*pair, Settlement::DeadLetter));
        drop(parts.journal.settle(settled));
        parts.metrics.letters().written(count as u64);
        for (_, letter) in &written.letters {
            parts.metrics.settled(Settlement::DeadLetter);
            let which = of_letter(letter);
            parts.history.given_up(&which, &letter.reason, parts.clock.now());
        }
        self.forget(written.ended + count, found_no_more);
        let mut line = dying.line();
        line.writing = Vec::new();
        line.written += u64::from(count > 0);
        let fails_now = written.error.is_some();
        let was_failing = std::mem::replace(&mut line.is_failing, fails_now);
        let is_empty = line.waiting.is_empty();
        drop(line);
        if let Some(error) = written.error {
            // Whoever waits for room need not.
            dying.room.notify_waiters();
            if !was_failing {
                warn!(
                    %error, waiting = dying.len(),
                    "dead letters can't be written; it is tried again every second, and their pushes stay owed meanwhile"
                );
            }
            return Some(Step::Failed);
        }
        if was_failing {
            info!("dead letters are written again");
        }
        Some(match (is_too_much, is_empty) {
            (true, _) => Step::Failed,
            (false, true) => Step::Done,
            (false, false) => Step::More,
        })
    }

    /// Takes note that so many wait no longer, some of which were found.
    fn forget(&self, count: usize, found: usize) {
        if count == 0 {
            return;
        }
        let dying = &self.0.dying;
        let goes_on = {
            let mut line = dying.line();
            dying.waiting.fetch_sub(count, Ordering::Relaxed);
            dying.found.fetch_sub(found, Ordering::Relaxed);
            let goes_on = line.keeps_all && dying.len() < KEEP_ALL_FROM / 2;
            if goes_on {
                line.keeps_all = false;
                self.0.parts.queue.keep_all(false);
            }
            goes_on
        };
        dying.room.notify_waiters();
        if goes_on {
            self.0.parts.queue.go_on_giving_up(Instant::now());
        }
    }

    /// Keeps pushes that can't be read back now. They stay owed, and are read again. Whether they are too many for that to
    /// go on at once.
    fn set_aside(&self, unreadable: Vec<Waiting>) -> bool {
        let mut line = self.0.dying.line();
        line.unreadable.extend(unreadable);
        let kept = line.unreadable.len().min(UNREADABLE_MAX);
        let too_many = line.unreadable.split_off(kept);
        let is_too_much = !too_many.is_empty();
        line.waiting.extend(too_many);
        is_too_much
    }
}
