//! Each endpoint's line: how many of its lanes are lent from at once, from when on, and which come next.
//!
//! A lane that is lent from has a task, an open batch and its contents; one that waits in line has only its
//! place in it, by the sequence number of its oldest push. So the oldest push of an endpoint comes first, and
//! each lane has its turn for a batch at most.
//!
//! What an endpoint in trouble is waited for is the line's affair and not its lanes': its [`Passage`] says
//! whether it is open, narrow, shut, or leads nowhere. Of the lines that are not open only so many are lent from at
//! once; the others stand among the openings, until one of those is through: the endpoint waits there, and not a task
//! for it.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::time::Instant;

use super::line::{Limits, Line, Turn};
use crate::{
    image::RepositoryName,
    locked::Locked as _,
    push::{EndpointId, Sequence},
};

/// How an endpoint's lanes may be lent from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    /// As many at once as the bounds allow.
    #[default]
    Open,
    /// One at a time, the one with the oldest push, but those that were refused behind all others; none before `from`.
    Narrow {
        /// When the next attempt may be made.
        from: Instant,
    },
    /// None, until told otherwise.
    Shut,
    /// None: what would be lent ends as a dead letter. But for one push at a time from `probe_from` on, if there
    /// is such a moment.
    GivingUp {
        /// When a push may be sent all the same.
        probe_from: Option<Instant>,
    },
    /// None, for the endpoint is gone: what would be lent ends as a dead letter.
    Gone,
}

/// What becomes of a lane that has something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It may be lent from.
    Lend,
    /// It waits in line from now on.
    Wait,
    /// What it has is to be given up.
    GiveUp,
}

/// How far a lane has come that leaves a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It was called, and is not lent from.
    Called,
    /// It is lent from.
    Lent,
}

/// The lines of all endpoints that have one.
#[derive(Debug)]
pub(super) struct Lines {
    at_once_max: usize,
    narrow_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: HashMap<Arc<EndpointId>, Line>,
    /// When lines open that are narrow from a moment on, and those that have and are to be called from. A narrow line
    /// in which somebody waits, and that nobody is lent from or called, is always one of them.
    openings: BTreeSet<(Instant, Arc<EndpointId>)>,
    /// Whether there is an opening, or room for one, that was not there when this was last asked.
    is_stirred: bool,
    /// How many lines are lent from that are not open.
    narrow: usize,
    /// Whether nothing is to be given up for now.
    keeps_all: bool,
}

impl Inner {
    /// Changes a line, if there is one: `change` is told what holds for all. Whether the line is one of those that
    /// are lent from and not open is counted anew.
    fn change<R>(
        &mut self,
        endpoint: &EndpointId,
        bounds: &Lines,
        change: impl FnOnce(&mut Line, Limits) -> R,
    ) -> Option<R> {
        let line = self.lines.get_mut(endpoint)?;
        let others = self.narrow - usize::from(line.is_narrow_at_work());
        let limits = Limits {
            at_once_max: bounds.at_once_max,
            keeps_all: self.keeps_all,
            has_room: others < bounds.narrow_max,
        };
        let changed = change(line, limits);
        let narrow = others + usize::from(line.is_narrow_at_work());
        let before = std::mem::replace(&mut self.narrow, narrow);
        self.is_stirred |= before >= bounds.narrow_max && narrow < bounds.narrow_max;
        Some(changed)
    }

    /// Has a line stand among the openings if it lacks nothing but time, or room among those that are not open.
    fn opens_later(&mut self, endpoint: &EndpointId, bounds: &Lines, now: Instant) {
        let has_room = self.narrow < bounds.narrow_max;
        if let Some((id, line)) = self.lines.get_key_value(endpoint)
            && let Some(from) = line.opening(has_room, now)
        {
            self.is_stirred |= self.openings.insert((from, Arc::clone(id)));
        }
    }

    fn tidy(&mut self, endpoint: &EndpointId) {
        if self.lines.get(endpoint).is_some_and(Line::is_spent) {
            self.lines.remove(endpoint);
        }
    }
}

impl Lines {
    /// Lines of which each is lent from so many times at once, and so many that are not open.
    pub(super) fn new(at_once_max: usize, narrow_max: usize) -> Self {
        Self {
            at_once_max: at_once_max.max(1),
            narrow_max: narrow_max.max(1),
            inner: Mutex::default(),
        }
    }

    /// The way of a repository's lanes into them.
    pub(super) fn gate<'a>(&'a self, repository: &'a RepositoryName) -> Gate<'a> {
        Gate {
            lines: self,
            repository,
            left: RefCell::default(),
        }
    }

    /// Sets how an endpoint's lanes may be lent from. Who may be called now is for the caller to call.
    pub(super) fn set(&self, endpoint: &EndpointId, passage: Passage) {
        let mut inner = self.inner();
        let id = match inner.lines.get_key_value(endpoint) {
            Some((id, _)) => Arc::clone(id),
            None => Arc::new(endpoint.clone()),
        };
        inner.lines.entry(Arc::clone(&id)).or_default();
        let before = inner.change(&id, self, |line, _| line.set(passage));
        if let Some(Passage::Narrow { from }) = before {
            inner.openings.remove(&(from, Arc::clone(&id)));
        }
        if let Passage::Narrow { from } = passage {
            inner.openings.insert((from, id));
        }
        inner.tidy(endpoint);
    }

    /// Whether nothing is to be given up from now on: what would be waits in line.
    pub(super) fn keep_all(&self, keeps_all: bool) {
        self.inner().keeps_all = keeps_all;
    }

    /// The endpoints whose lanes are to be given up, and wait.
    pub(super) fn giving_up(&self) -> Vec<Arc<EndpointId>> {
        let inner = self.inner();
        let lines = inner.lines.iter();
        let is_due = |line: &Line| line.gives_up() && !line.waiting.is_empty();
        lines
            .filter(|(_, line)| is_due(line))
            .map(|(endpoint, _)| Arc::clone(endpoint))
            .collect()
    }

    /// Whether a lane stands in its line, or is lent from or called out of it.
    pub(super) fn has_lanes(&self, endpoint: &EndpointId) -> bool {
        let inner = self.inner();
        let line = inner.lines.get(endpoint);
        line.is_some_and(|line| line.at_once > 0 || !line.waiting.is_empty())
    }

    /// Whether what would be lent to it is given up.
    pub(super) fn gives_up(&self, endpoint: &EndpointId) -> bool {
        self.inner().lines.get(endpoint).is_some_and(Line::gives_up)
    }

    /// An endpoint whose line has opened by now, if there is room for one more that is not open; each is told once.
    pub(super) fn opened(&self, now: Instant) -> Option<Arc<EndpointId>> {
        let mut inner = self.inner();
        if inner.narrow >= self.narrow_max {
            return None;
        }
        inner.openings.first().filter(|(at, _)| *at <= now)?;
        inner.openings.pop_first().map(|(_, endpoint)| endpoint)
    }

    /// Whether [`next_opening`](Self::next_opening) may be another one than when this was last asked.
    pub(super) fn take_stirred(&self) -> bool {
        std::mem::take(&mut self.inner().is_stirred)
    }

    /// When the next line opens; `None` too while there is no room for it.
    pub(super) fn next_opening(&self) -> Option<Instant> {
        let inner = self.inner();
        let next = inner.openings.first().map(|(at, _)| *at);
        next.filter(|_| inner.narrow < self.narrow_max)
    }

    /// Takes a place in a line of which one at a time is sent, for what is sent and does not stand in it, until
    /// [`leave`](Self::leave). Whether there was one to be had; `None` if it is no such line.
    pub(super) fn take_place(&self, endpoint: &EndpointId) -> Option<bool> {
        let take = |line: &mut Line, _| {
            // Those that are called to be given up are not sent.
            let is_free = line.lent == 0 && (line.at_once == 0 || line.gives_up());
            line.at_once += usize::from(is_free);
            line.lent += usize::from(is_free);
            is_free
        };
        let mut inner = self.inner();
        inner.lines.get(endpoint).filter(|line| line.is_single())?;
        inner.change(endpoint, self, take)
    }

    /// Calls the repository whose lane comes next, if one more may be lent from; with its place in line.
    pub(super) fn call(&self, endpoint: &EndpointId, now: Instant) -> Option<(Sequence, RepositoryName)> {
        let mut inner = self.inner();
        let call = |line: &mut Line, limits| {
            if line.at_once >= line.width(limits, now) {
                return None;
            }
            let called = line.waiting.remove_entry(&line.next()?)?;
            line.at_once += 1;
            Some(called)
        };
        let called = inner.change(endpoint, self, call)?;
        if called.is_none() {
            inner.opens_later(endpoint, self, now);
        }
        called
    }

    /// Puts a lane that was called back in line, by the push that has become its oldest.
    pub(super) fn put_back(&self, endpoint: &EndpointId, place: Sequence, repository: RepositoryName) {
        let put_back = self.inner().change(endpoint, self, |line, _| {
            line.at_once -= 1;
            line.waiting.insert(place, repository);
        });
        debug_assert!(put_back.is_some(), "who was called has entered");
    }

    /// Takes note that a lane is not lent from any more, or was called in vain.
    pub(super) fn leave(&self, endpoint: &EndpointId, progress: Progress) {
        let mut inner = self.inner();
        let left = inner.change(endpoint, self, |line, _| {
            line.at_once -= 1;
            line.lent -= usize::from(progress == Progress::Lent);
        });
        debug_assert!(left.is_some(), "who leaves has entered");
        inner.tidy(endpoint);
    }

    /// Whose lanes are called next, if nobody has been called before, with their turns: at most `count`.
    pub(super) fn first(&self, endpoint: &EndpointId, count: usize) -> Vec<(Turn, RepositoryName)> {
        let inner = self.inner();
        let line = inner.lines.get(endpoint).filter(|line| line.at_once == 0);
        let Some(line) = line else { return Vec::new() };
        if line.is_by_age() {
            let waiting = line.waiting.iter().take(count);
            return waiting
                .map(|(place, repository)| ((0, *place), repository.clone()))
                .collect();
        }
        let mut turns: Vec<_> = line.waiting.keys().map(|place| line.turn(*place)).collect();
        turns.sort_unstable();
        let first = turns.into_iter().take(count);
        first
            .filter_map(|turn| Some((turn, line.waiting.get(&turn.1)?.clone())))
            .collect()
    }

    /// The turn of a push, if it were in line.
    pub(super) fn turn(&self, endpoint: &EndpointId, push: Sequence) -> Turn {
        let inner = self.inner();
        let line = inner.lines.get(endpoint);
        line.map_or((0, push), |line| line.turn(push))
    }

    /// Takes note that a push was refused, now.
    pub(super) fn note_refused(&self, endpoint: &EndpointId, push: Sequence, now: Instant) {
        let mut inner = self.inner();
        if let Some(line) = inner.lines.get_mut(endpoint) {
            line.note_refused(push, now);
        }
    }

    /// Takes note that a push has ended undelivered.
    pub(super) fn forget_refused(&self, endpoint: &EndpointId, push: Sequence) {
        let mut inner = self.inner();
        if let Some(line) = inner.lines.get_mut(endpoint) {
            line.forget_refused(push);
        }
    }

    /// Whether a push may be sent whose lane is lent from.
    pub(super) fn may_send(&self, endpoint: &EndpointId, push: Sequence, now: Instant) -> bool {
        let inner = self.inner();
        let line = inner.lines.get(endpoint);
        line.is_none_or(|line| line.may_send(push, now))
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.inner().lines.len()
    }

    /// Each change of a line is whole before anything can panic.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.locked()
    }
}

/// The way of one repository's lanes into the lines and out of them.
#[derive(Debug)]
pub(super) struct Gate<'a> {
    lines: &'a Lines,
    repository: &'a RepositoryName,
    left: RefCell<Vec<Arc<EndpointId>>>,
}

impl Gate<'_> {
    /// What becomes of the lane of this endpoint, whose oldest push is `push`. `progress` is how far it has come
    /// in the line, if it has: it is counted anew.
    pub(super) fn enter(
        &self,
        endpoint: &Arc<EndpointId>,
        push: Sequence,
        progress: Option<Progress>,
        now: Instant,
    ) -> Entry {
        let mut inner = self.lines.inner();
        inner.lines.entry(Arc::clone(endpoint)).or_default();
        let enter = |line: &mut Line, limits| {
            line.at_once -= usize::from(progress.is_some());
            line.lent -= usize::from(progress == Some(Progress::Lent));
            let entry = line.entry(push, progress, limits, now);
            match entry {
                Entry::Lend => {
                    line.at_once += 1;
                    line.lent += 1;
                }
                Entry::Wait => {
                    line.waiting.insert(push, self.repository.clone());
                }
                Entry::GiveUp => {}
            }
            entry
        };
        // There is one, now.
        let entry = inner.change(endpoint, self.lines, enter).unwrap_or(Entry::Wait);
        if entry == Entry::Wait {
            inner.opens_later(endpoint, self.lines, now);
        }
        if entry == Entry::GiveUp {
            inner.tidy(endpoint);
        }
        if progress.is_some() && entry != Entry::Lend {
            self.left.borrow_mut().push(Arc::clone(endpoint));
        }
        entry
    }

    /// Whether a lane that is lent from may go on with this push.
    pub(super) fn may_send(&self, endpoint: &EndpointId, push: Sequence, now: Instant) -> bool {
        self.lines.may_send(endpoint, push, now)
    }

    /// Takes note that a lane is not lent from any more, or was called in vain.
    pub(super) fn leave(&self, endpoint: &Arc<EndpointId>, progress: Progress) {
        self.lines.leave(endpoint, progress);
        self.left.borrow_mut().push(Arc::clone(endpoint));
    }

    /// Whether what would be lent to it is given up.
    pub(super) fn gives_up(&self, endpoint: &EndpointId) -> bool {
        self.lines.gives_up(endpoint)
    }

    /// Takes a lane out of the line, for it has nothing any more.
    pub(super) fn withdraw(&self, endpoint: &EndpointId, place: Sequence) {
        let mut inner = self.lines.inner();
        if let Some(line) = inner.lines.get_mut(endpoint) {
            line.waiting.remove(&place);
        }
        inner.tidy(endpoint);
    }

    /// The endpoints whose lines were left: somebody else may be called.
    pub(super) fn left(self) -> Vec<Arc<EndpointId>> {
        self.left.into_inner()
    }
}
