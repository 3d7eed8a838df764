//! How many lanes of one endpoint are lent from at once, and which come next.
//!
//! A lane that is lent from has a task, an open batch and its contents; one that waits in line has only its
//! place in it. Lanes get their turn in the order in which they were due, each for a batch at most.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{image::RepositoryName, push::EndpointId};

/// The lines of all endpoints that have one.
#[derive(Debug)]
pub(super) struct Lines {
    at_once_max: usize,
    lines: Mutex<HashMap<Arc<EndpointId>, Line>>,
}

#[derive(Debug, Default)]
struct Line {
    /// Lanes that are lent from, or were called to be.
    at_once: usize,
    /// By the repositories that they are of. A lane that is gone by the time it is called is passed over.
    waiting: VecDeque<RepositoryName>,
}

impl Lines {
    pub(super) fn new(at_once_max: usize) -> Self {
        Self {
            at_once_max: at_once_max.max(1),
            lines: Mutex::default(),
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

    /// Calls the repository whose lane comes next, if one more may be lent from.
    pub(super) fn call(&self, endpoint: &EndpointId) -> Option<RepositoryName> {
        let mut lines = self.lines();
        let line = lines.get_mut(endpoint)?;
        if line.at_once >= self.at_once_max {
            return None;
        }
        let called = line.waiting.pop_front()?;
        line.at_once += 1;
        Some(called)
    }

    /// Takes note that a lane is not lent from any more, or was called in vain.
    pub(super) fn leave(&self, endpoint: &EndpointId) {
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(endpoint) else {
            debug_assert!(false, "who leaves has entered");
            return;
        };
        line.at_once -= 1;
        if line.at_once == 0 && line.waiting.is_empty() {
            lines.remove(endpoint);
        }
    }

    /// Each change of a line is whole before anything can panic.
    fn lines(&self) -> MutexGuard<'_, HashMap<Arc<EndpointId>, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Whether the lane of this endpoint may be lent from; otherwise it waits in line from now on.
    pub(super) fn enter(&self, endpoint: &Arc<EndpointId>) -> bool {
        let mut lines = self.lines.lines();
        let line = lines.entry(Arc::clone(endpoint)).or_default();
        let may_enter = line.at_once < self.lines.at_once_max && line.waiting.is_empty();
        if may_enter {
            line.at_once += 1;
        } else {
            line.waiting.push_back(self.repository.clone());
        }
        may_enter
    }

    /// Takes note that it is not lent from any more, or was called in vain.
    pub(super) fn leave(&self, endpoint: &Arc<EndpointId>) {
        self.lines.leave(endpoint);
        self.left.borrow_mut().push(Arc::clone(endpoint));
    }

    /// The endpoints whose lines were left: somebody else may be called.
    pub(super) fn left(self) -> Vec<Arc<EndpointId>> {
        self.left.into_inner()
    }
}
