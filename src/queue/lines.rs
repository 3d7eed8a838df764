//! Each endpoint's line: how many of its lanes are lent from at once, from when on, and which come next.
//!
//! A lane that is lent from has a task, an open batch and its contents; one that waits in line has only its
//! place in it, by the sequence number of its oldest push. So the oldest push of an endpoint comes first, and
//! each lane has its turn for a batch at most.
//!
//! What an endpoint in trouble is waited for is the line's affair and not its lanes': its [`Passage`] says
//! whether it is open, narrow, shut, or leads nowhere.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use crate::{
    image::RepositoryName,
    push::{EndpointId, Sequence},
};

/// How an endpoint's lanes may be lent from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    /// As many at once as the bounds allow.
    #[default]
    Open,
    /// One at a time, the one with the oldest push; none before `from`.
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
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: HashMap<Arc<EndpointId>, Line>,
    /// When lines open that are narrow from a moment on.
    openings: BTreeSet<(Instant, Arc<EndpointId>)>,
    /// Whether nothing is to be given up for now.
    keeps_all: bool,
}

#[derive(Debug, Default)]
struct Line {
    passage: Passage,
    /// Lanes that are lent from, or were called to be.
    at_once: usize,
    /// Those of them that are lent from.
    lent: usize,
    /// By the oldest push that each had when it came, the repositories that they are of. A lane that is gone by
    /// the time it is called is passed over.
    waiting: BTreeMap<Sequence, RepositoryName>,
}

impl Line {
    /// How many lanes may be called, or lent from, at once.
    fn width(&self, at_once_max: usize, keeps_all: bool, now: Instant) -> usize {
        match self.passage {
            Passage::GivingUp { .. } if keeps_all => 0,
            // Those that are to be given up are called as well, some at a time.
            Passage::Open | Passage::GivingUp { .. } => at_once_max,
            Passage::Narrow { from } => usize::from(from <= now),
            Passage::Shut => 0,
        }
    }

    /// Whether all that waits is newer.
    fn is_oldest(&self, push: Sequence) -> bool {
        self.waiting
            .first_key_value()
            .is_none_or(|(first, _)| push <= *first)
    }

    fn probes(&self, now: Instant) -> bool {
        matches!(self.passage, Passage::GivingUp { probe_from: Some(from) } if from <= now)
    }

    /// Whether a push may be sent whose lane is lent from.
    fn may_send(&self, push: Sequence, now: Instant) -> bool {
        match self.passage {
            Passage::Open => true,
            Passage::Narrow { from } => from <= now && self.lent <= 1 && self.is_oldest(push),
            Passage::Shut => false,
            Passage::GivingUp { .. } => self.lent <= 1 && self.probes(now),
        }
    }

    /// What becomes of a lane with this push, which is not counted here.
    fn entry(
        &self,
        push: Sequence,
        progress: Option<Progress>,
        (at_once_max, keeps_all): (usize, bool),
        now: Instant,
    ) -> Entry {
        if matches!(self.passage, Passage::GivingUp { .. }) {
            let is_probe = self.lent == 0 && self.probes(now);
            return match (is_probe, keeps_all) {
                (true, _) => Entry::Lend,
                (false, true) => Entry::Wait,
                (false, false) => Entry::GiveUp,
            };
        }
        // While there is room for many it doesn't matter who was called a moment earlier.
        let was_called = progress.is_some() && self.passage == Passage::Open;
        let is_next = was_called || self.is_oldest(push);
        if is_next && self.at_once < self.width(at_once_max, keeps_all, now) {
            Entry::Lend
        } else {
            Entry::Wait
        }
    }

    fn is_spent(&self) -> bool {
        self.at_once == 0 && self.waiting.is_empty() && self.passage == Passage::Open
    }
}

impl Inner {
    fn tidy(&mut self, endpoint: &EndpointId) {
        if self.lines.get(endpoint).is_some_and(Line::is_spent) {
            self.lines.remove(endpoint);
        }
    }
}

impl Lines {
    pub(super) fn new(at_once_max: usize) -> Self {
        Self {
            at_once_max: at_once_max.max(1),
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
        let Inner { lines, openings, .. } = &mut *inner;
        let id = match lines.get_key_value(endpoint) {
            Some((id, _)) => Arc::clone(id),
            None => Arc::new(endpoint.clone()),
        };
        let line = lines.entry(Arc::clone(&id)).or_default();
        if let Passage::Narrow { from } = std::mem::replace(&mut line.passage, passage) {
            openings.remove(&(from, Arc::clone(&id)));
        }
        if let Passage::Narrow { from } = passage {
            openings.insert((from, id));
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
        let is_due =
            |line: &Line| matches!(line.passage, Passage::GivingUp { .. }) && !line.waiting.is_empty();
        lines
            .filter(|(_, line)| is_due(line))
            .map(|(endpoint, _)| Arc::clone(endpoint))
            .collect()
    }

    /// An endpoint whose line has opened by now; each is told once.
    pub(super) fn opened(&self, now: Instant) -> Option<Arc<EndpointId>> {
        let mut inner = self.inner();
        inner.openings.first().filter(|(at, _)| *at <= now)?;
        inner.openings.pop_first().map(|(_, endpoint)| endpoint)
    }

    /// When the next line opens.
    pub(super) fn next_opening(&self) -> Option<Instant> {
        self.inner().openings.first().map(|(at, _)| *at)
    }

    /// Calls the repository whose lane comes next, if one more may be lent from; with its place in line.
    pub(super) fn call(&self, endpoint: &EndpointId, now: Instant) -> Option<(Sequence, RepositoryName)> {
        let mut inner = self.inner();
        let keeps_all = inner.keeps_all;
        let line = inner.lines.get_mut(endpoint)?;
        if line.at_once >= line.width(self.at_once_max, keeps_all, now) {
            return None;
        }
        let called = line.waiting.pop_first()?;
        line.at_once += 1;
        Some(called)
    }

    /// Puts a lane that was called back in line, by the push that has become its oldest.
    pub(super) fn put_back(&self, endpoint: &EndpointId, place: Sequence, repository: RepositoryName) {
        let mut inner = self.inner();
        let Some(line) = inner.lines.get_mut(endpoint) else {
            debug_assert!(false, "who was called has entered");
            return;
        };
        line.at_once -= 1;
        line.waiting.insert(place, repository);
    }

    /// Takes note that a lane is not lent from any more, or was called in vain.
    pub(super) fn leave(&self, endpoint: &EndpointId, progress: Progress) {
        let mut inner = self.inner();
        let Some(line) = inner.lines.get_mut(endpoint) else {
            debug_assert!(false, "who leaves has entered");
            return;
        };
        line.at_once -= 1;
        line.lent -= usize::from(progress == Progress::Lent);
        inner.tidy(endpoint);
    }

    /// Whether a push may be sent whose lane is lent from.
    pub(super) fn may_send(&self, endpoint: &EndpointId, push: Sequence, now: Instant) -> bool {
        let inner = self.inner();
        let line = inner.lines.get(endpoint);
        line.is_none_or(|line| line.may_send(push, now))
    }

    /// Each change of a line is whole before anything can panic.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
        let bounds = (self.lines.at_once_max, inner.keeps_all);
        let line = inner.lines.entry(Arc::clone(endpoint)).or_default();
        line.at_once -= usize::from(progress.is_some());
        line.lent -= usize::from(progress == Some(Progress::Lent));
        let entry = line.entry(push, progress, bounds, now);
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
