//! How endpoints' lanes may be lent from, and who is called when that changes.

use std::collections::HashSet;

use tokio::time::Instant;

use super::{Lease, Passage, Queue, line::Turn, lines::Progress};
use crate::{
    image::RepositoryName,
    push::{EndpointId, Sequence},
};

/// Of a line so many lanes are looked at for the push that comes next: of those whose oldest push has ended since.
const LOOKED_AT_IN_LINE_MAX: usize = 256;

/// That something is sent to an endpoint which does not stand in its line, until this is dropped.
#[derive(Debug)]
pub struct Aside<'a> {
    queue: &'a Queue,
    endpoint: &'a EndpointId,
    has_place: bool,
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        if self.has_place {
            self.queue.lines.leave(self.endpoint, Progress::Lent);
            self.queue.call(self.endpoint, Instant::now());
            self.queue.earlier.notify_one();
        }
    }
}

impl Queue {
    /// Has nobody be lent from while something is sent to an endpoint which does not stand in its line, if one at a time is sent
    /// there. `None` while another one is.
    #[must_use]
    pub fn send_aside<'a>(&'a self, endpoint: &'a EndpointId) -> Option<Aside<'a>> {
        let has_place = self.lines.take_place(endpoint);
        (has_place != Some(false)).then(|| Aside {
            queue: self,
            endpoint,
            has_place: has_place.is_some(),
        })
    }

    /// Sets how an endpoint's lanes may be lent from, from now on. What is lent already is asked for again right
    /// before it is sent: see [`Queue::may_send`].
    ///
    /// Whether what waits for the next attempt of a push that was refused gets none from now on: call
    /// [`Queue::hurry_all`] then. It looks at many repositories, which is not for a time in which others wait.
    #[must_use]
    pub fn set_passage(&self, endpoint: &EndpointId, passage: Passage, now: Instant) -> bool {
        let gave_up = self.lines.gives_up(endpoint);
        self.lines.set(endpoint, passage);
        let gives_up = matches!(passage, Passage::GivingUp { .. } | Passage::Gone);
        self.call(endpoint, now);
        self.earlier.notify_one();
        gives_up && !gave_up
    }

    /// Whether what is lent may be sent now, as far as its endpoint's line goes.
    #[must_use]
    pub fn may_send(&self, lease: &Lease, now: Instant) -> bool {
        self.lines.may_send(&lease.endpoint, lease.sequence, now)
    }

    /// Whether any push waits for the endpoint and for nothing else, or is in flight to it: not one that is still in
    /// its window, or was refused and waits for its next attempt.
    #[must_use]
    pub fn is_in_line(&self, endpoint: &EndpointId) -> bool {
        self.lines.has_lanes(endpoint)
    }

    /// Calls lanes out of the lines that have opened.
    pub(super) fn open_lines(&self, now: Instant) {
        while let Some(endpoint) = self.lines.opened(now) {
            self.call(&endpoint, now);
        }
    }

    /// Calls lanes out of an endpoint's line, as many as may come.
    pub(super) fn call(&self, endpoint: &EndpointId, now: Instant) {
        while let Some((place, name)) = self.lines.call(endpoint, now) {
            let mut queue = self.repositories.get_mut(&name);
            let called = queue.as_mut().and_then(|queue| queue.call(endpoint, place));
            match (&mut queue, called) {
                (Some(queue), Some(oldest)) if oldest == place => self.schedule(&name, queue, now),
                (_, Some(oldest)) => self.lines.put_back(endpoint, oldest, name.clone()),
                (_, None) => self.lines.leave(endpoint, Progress::Called),
            }
        }
    }

    /// Whether nothing is to be given up for its endpoint's sake from now on ([`Passage::GivingUp`]), because what was
    /// given up before is not put away yet: what would be waits in line. Once that is over, call
    /// [`Queue::go_on_giving_up`].
    pub fn keep_all(&self, keeps_all: bool) {
        self.lines.keep_all(keeps_all);
    }

    /// Calls those lanes that waited to be given up.
    pub fn go_on_giving_up(&self, now: Instant) {
        for endpoint in self.lines.giving_up() {
            self.call(&endpoint, now);
        }
        self.earlier.notify_one();
    }

    /// The push that is sent next to an endpoint of which one is sent at a time, once it may be: the one in its line that
    /// was refused least, and of those the oldest. `None` if none waits there, or one is under way.
    #[must_use]
    pub fn first_in_line(&self, endpoint: &EndpointId) -> Option<(RepositoryName, Sequence)> {
        // A lane's oldest push may have ended since it took its place: what is its oldest now is never older.
        let mut first: Option<(RepositoryName, Turn)> = None;
        for (place, repository) in self.lines.first(endpoint, LOOKED_AT_IN_LINE_MAX) {
            if first.as_ref().is_some_and(|(_, first)| *first <= place) {
                break;
            }
            let queue = self.repositories.get(&repository);
            let oldest = queue.and_then(|queue| queue.first(endpoint));
            let turn = oldest.map(|oldest| self.lines.turn(endpoint, oldest));
            if let Some(turn) = turn
                && first.as_ref().is_none_or(|(_, first)| turn < *first)
            {
                first = Some((repository, turn));
            }
        }
        first.map(|(repository, (_, push))| (repository, push))
    }

    /// Has a lane wait no longer for the next attempt of this push, which was refused and is its first. Whether it
    /// did.
    pub fn hurry(
        &self,
        repository: &RepositoryName,
        endpoint: &EndpointId,
        sequence: Sequence,
        now: Instant,
    ) -> bool {
        let Some(mut queue) = self.repositories.get_mut(repository) else {
            return false;
        };
        let did = queue.hurry(endpoint, sequence);
        if did {
            self.schedule(repository, &mut queue, now);
        }
        did
    }

    /// Has all lanes of these endpoints wait no longer for the next attempt of a push that was refused. Looks at all
    /// repositories, unless each of the endpoints is a repository's own.
    pub fn hurry_all(&self, endpoints: &HashSet<EndpointId>, now: Instant) {
        let own = endpoints.iter().map(|endpoint| match endpoint {
            EndpointId::Repository(name) => Some(name.clone()),
            EndpointId::Named(_) => None,
        });
        let own: Option<Vec<RepositoryName>> = own.collect();
        for repository in own.unwrap_or_else(|| self.names()) {
            if let Some(mut queue) = self.repositories.get_mut(&repository)
                && queue.hurry_all(endpoints)
            {
                self.schedule(&repository, &mut queue, now);
            }
        }
    }
}
