//! Who may ask the registry, so that a repository for which it hangs holds up no other.
//!
//! # Rules
//! 1. No more requests are under way than there are places. Repositories that wait for one take turns: one with thousands
//!    of questions is no longer in the way than one with a few.
//! 2. A request drags once it has lasted longer than [`DRAGS_AFTER`], and its repository from then on until one of its
//!    requests is answered sooner. One that drags gets no place more while what drags, and what it has, takes all but a
//!    reserve, which is a quarter.
//! 3. A repository has at most a quarter of the places while it drags, or as long as nothing is known of it; and all but
//!    the reserve once it is answered.
//!
//! So the reserve is lost only to those of which it was not known that they drag: to several at once that are new, until
//! their requests end. A single place has none.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::oneshot, time::sleep};

use crate::{image::RepositoryName, locked::Locked as _};

/// How long a request may last before it drags: a slow registry answers sooner, even from a cold store far away, and one
/// that does keeps most of its places for whoever asks.
const DRAGS_AFTER: Duration = Duration::from_secs(3);

/// The most repositories of which it is remembered, while they ask for nothing, that they drag.
const DRAGGED_MAX: usize = 1_000;

/// All places. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    all: usize,
    drags_after: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Places that are taken, and those of them whose requests drag, or whose repositories did when they got them.
    taken: usize,
    dragging: usize,
    /// Those that have places or wait for some.
    repositories: HashMap<RepositoryName, Repository>,
    /// Some of those that dragged when they last had one.
    dragged: HashSet<RepositoryName>,
    /// Whose turn it is among those that don't drag, and among those that do. A turn whose number its repository doesn't
    /// have is over.
    turns: [VecDeque<(u64, RepositoryName)>; 2],
    /// The number of the newest turn.
    newest: u64,
}

#[derive(Debug, Default)]
struct Repository {
    temper: Temper,
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Share>>,
    /// Its turn: it has one while it waits and may have a place more.
    turn: Option<u64>,
}

/// How a repository's requests went of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Temper {
    #[default]
    Unknown,
    Prompt,
    Dragging,
}

/// A place, until it is dropped.
#[derive(Debug)]
struct Share {
    shares: Shares,
    name: RepositoryName,
    /// Whether it is counted among those that drag.
    drags: bool,
}

impl Shares {
    /// So many places, at least one, for requests that end within `timeout`.
    pub(super) fn new(all: usize, timeout: Duration) -> Self {
        Self {
            all: all.max(1),
            drags_after: DRAGS_AFTER.min(timeout / 2),
            state: Arc::default(),
        }
    }

    /// Has a request for that repository wait for its place, and makes it.
    pub(super) async fn have<T>(&self, name: &RepositoryName, request: impl Future<Output = T>) -> T {
        let mut share = self.take(name).await;
        let mut request = pin!(request);
        tokio::select! {
            biased;
            answer = &mut request => {
                share.turns_out(Temper::Prompt);
                return answer;
            }
            () = sleep(self.drags_after) => share.turns_out(Temper::Dragging),
        }
        request.await
    }

    async fn take(&self, name: &RepositoryName) -> Share {
        loop {
            let place = self.state().wait(name, self.all);
            self.give();
            // Nobody forgets who waits; if it were so, to wait anew would be right.
            if let Ok(share) = place.await {
                return share;
            }
        }
    }

    /// Gives the places that are free to those whose turn it is.
    fn give(&self) {
        loop {
            let next = self.state().next(self.all);
            let Some((name, drags, sender)) = next else {
                return;
            };
            let share = Share {
                shares: self.clone(),
                name,
                drags,
            };
            // Without the lock: who stopped waiting just now gives it back.
            drop(sender.send(share));
        }
    }

    /// Nothing panics halfway through a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}

impl Share {
    /// Its repository's requests go like this now.
    fn turns_out(&mut self, temper: Temper) {
        let mut state = self.shares.state();
        if temper == Temper::Dragging && !std::mem::replace(&mut self.drags, true) {
            state.dragging += 1;
        }
        state.turns_out(&self.name, temper, self.shares.all);
        drop(state);
        self.shares.give();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares
            .state()
            .give_back(&self.name, self.drags, self.shares.all);
        self.shares.give();
    }
}

impl State {
    fn wait(&mut self, name: &RepositoryName, all: usize) -> oneshot::Receiver<Share> {
        let (sender, place) = oneshot::channel();
        let repository = self
            .repositories
            .entry(name.clone())
            .or_insert_with(|| Repository {
                temper: if self.dragged.remove(name) {
                    Temper::Dragging
                } else {
                    Temper::Unknown
                },
                ..Repository::default()
            });
        // Those who stopped waiting, for as long as their repository may not have a place more.
        while repository.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            repository.waiting.pop_front();
        }
        repository.waiting.push_back(sender);
        self.queue(name, all);
        place
    }

    /// Whose turn is next, if there is a place for it, which is taken then; and whether it is one of those that drag.
    fn next(&mut self, all: usize) -> Option<(RepositoryName, bool, oneshot::Sender<Share>)> {
        while self.taken < all {
            let [prompt, dragging] = self
                .turns
                .each_ref()
                .map(|turns| turns.front().map(|turn| turn.0));
            let dragging = dragging.filter(|_| self.dragging < beside_reserve(all));
            let is_dragging = match (prompt, dragging) {
                (Some(prompt), Some(dragging)) => dragging < prompt,
                (_, dragging) => dragging.is_some(),
            };
            let [of_prompt, of_dragging] = &mut self.turns;
            let turns = if is_dragging { of_dragging } else { of_prompt };
            let (turn, name) = turns.pop_front()?;
            let known = self.repositories.get_mut(&name);
            let Some(repository) = known.filter(|repository| repository.turn == Some(turn)) else {
                continue;
            };
            repository.turn = None;
            let drags = repository.temper == Temper::Dragging;
            // Those who stopped waiting are passed over.
            let waiting = std::iter::from_fn(|| repository.waiting.pop_front());
            let first = { waiting }.find(|sender| !sender.is_closed());
            if first.is_some() {
                repository.taken += 1;
                self.taken += 1;
                self.dragging += usize::from(drags);
            }
            self.queue(&name, all);
            self.forget(&name);
            if let Some(sender) = first {
                return Some((name, drags, sender));
            }
        }
        None
    }

    /// Gives it a turn, if it waits, may have one more place, and has no turn yet.
    fn queue(&mut self, name: &RepositoryName, all: usize) {
        let Some(repository) = self.repositories.get_mut(name) else {
            return;
        };
        let may = repository.taken < repository.temper.most(all);
        if may && !repository.waiting.is_empty() && repository.turn.is_none() {
            self.newest += 1;
            repository.turn = Some(self.newest);
            let [prompt, dragging] = &mut self.turns;
            let turns = match repository.temper {
                Temper::Unknown | Temper::Prompt => prompt,
                Temper::Dragging => dragging,
            };
            turns.push_back((self.newest, name.clone()));
        }
    }

    /// Forgets it if it has nothing and waits for nothing, but for whether it drags.
    fn forget(&mut self, name: &RepositoryName) {
        let is_over = |repository: &Repository| repository.taken == 0 && repository.waiting.is_empty();
        if !self.repositories.get(name).is_some_and(is_over) {
            return;
        }
        let known = self.repositories.remove(name);
        let dragged = known.is_some_and(|known| known.temper == Temper::Dragging);
        if dragged {
            if self.dragged.len() >= DRAGGED_MAX
                && let Some(any) = self.dragged.iter().next().cloned()
            {
                self.dragged.remove(&any);
            }
            self.dragged.insert(name.clone());
        }
    }

    fn turns_out(&mut self, name: &RepositoryName, temper: Temper, all: usize) {
        let Some(repository) = self.repositories.get_mut(name) else {
            return;
        };
        if repository.temper != temper {
            repository.temper = temper;
            repository.turn = None;
            self.queue(name, all);
        }
    }

    fn give_back(&mut self, name: &RepositoryName, drags: bool, all: usize) {
        self.taken -= 1;
        self.dragging -= usize::from(drags);
        if let Some(repository) = self.repositories.get_mut(name) {
            repository.taken -= 1;
        }
        self.queue(name, all);
        self.forget(name);
    }
}

impl Temper {
    /// The most places of one repository.
    fn most(self, all: usize) -> usize {
        match self {
            Self::Unknown | Self::Dragging => quarter(all),
            Self::Prompt => beside_reserve(all),
        }
    }
}

fn quarter(all: usize) -> usize {
    (all / 4).max(1)
}

/// All places but the reserve, for which a single one has no room.
fn beside_reserve(all: usize) -> usize {
    all.saturating_sub(quarter(all)).max(1)
}

#[cfg(test)]
mod tests;
