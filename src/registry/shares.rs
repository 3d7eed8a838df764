//! Who may ask the registry, so that a repository for which it hangs holds up no other.
//!
//! # Rules
//! 1. No more requests are under way than there are places. Repositories that wait for one take turns: one with thousands
//!    of questions is no longer in the way than one with a few.
//! 2. A request drags once it has lasted longer than [`DRAGS_AFTER`], and its repository from then on until one of its
//!    requests is answered sooner. What drags, and what its repositories have, gets no place more where that would leave
//!    less than the reserve, which is a quarter.
//! 3. A repository of which nothing is known asks one question, until that is answered or drags. It gets no place where
//!    it and its like, and those that drag, would leave less than half the reserve.
//! 4. A repository has at most a quarter of the places while it drags, and when it has asked for nothing for a while; all
//!    but a quarter once it is answered.
//!
//! So whoever was answered before waits neither for those that drag nor for those that are new and may, however many; and
//! who is new waits only while so many others that were new drag that they take all but half the reserve. To leave half of
//! it takes two places of three; of two the reserve is one, and a single one has none.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    ops::{Index, IndexMut},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use quick_cache::unsync::Cache;
use tokio::{sync::oneshot, time::sleep};

use crate::{image::RepositoryName, locked::Locked as _};

/// How long a request may last before it drags: a slow registry answers sooner, even from a cold store far away, and one
/// that does keeps most of its places for whoever asks.
const DRAGS_AFTER: Duration = Duration::from_secs(3);

/// The most repositories of which it is remembered, while they ask for nothing, whether they drag.
const REMEMBERED_MAX: usize = 10_000;

/// All places. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    all: usize,
    drags_after: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Places that are taken, by what was known of whoever got them, and is now of their requests.
    taken: ByStanding<usize>,
    /// Those that have places or wait for some.
    repositories: HashMap<RepositoryName, Repository>,
    /// How those that have none were, when they last had one: never unknown.
    remembered: Cache<RepositoryName, Standing>,
    /// Whose turn it is among each. A turn whose number its repository doesn't have is over.
    turns: ByStanding<VecDeque<(u64, RepositoryName)>>,
    /// The number of the newest turn.
    newest: u64,
}

/// Something of each standing.
#[derive(Debug, Default)]
struct ByStanding<T> {
    answered: T,
    unknown: T,
    dragging: T,
}

#[derive(Debug)]
struct Repository {
    temper: Temper,
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Share>>,
    /// Its turn: it has one while it waits and may have a place more.
    turn: Option<u64>,
}

/// How a repository's requests went of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    Unknown,
    /// They were answered, before it asked for nothing for a while.
    Familiar,
    Prompt,
    Dragging,
}

/// What a repository's temper comes to, where it is about the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Answered,
    Unknown,
    Dragging,
}

/// A place, until it is dropped.
#[derive(Debug)]
struct Share {
    shares: Shares,
    name: RepositoryName,
    /// Where it is counted.
    standing: Standing,
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
            let Some((name, standing, sender)) = next else {
                return;
            };
            let share = Share {
                shares: self.clone(),
                name,
                standing,
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
        // One that drags does so to its end, even if it is answered then.
        if self.standing != Standing::Dragging {
            state.taken[self.standing] -= 1;
            self.standing = temper.standing();
            state.taken[self.standing] += 1;
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
            .give_back(&self.name, self.standing, self.shares.all);
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
                temper: match self.remembered.remove(name).map(|(_, standing)| standing) {
                    None | Some(Standing::Unknown) => Temper::Unknown,
                    Some(Standing::Answered) => Temper::Familiar,
                    Some(Standing::Dragging) => Temper::Dragging,
                },
                taken: 0,
                waiting: VecDeque::new(),
                turn: None,
            });
        // Those who stopped waiting, for as long as their repository may not have a place more.
        while repository.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            repository.waiting.pop_front();
        }
        repository.waiting.push_back(sender);
        self.queue(name, all);
        place
    }

    /// Whose turn is next, if there is a place for it, which is taken then; and where that is counted.
    fn next(&mut self, all: usize) -> Option<(RepositoryName, Standing, oneshot::Sender<Share>)> {
        loop {
            let places = Standing::ALL.into_iter().filter(|of| self.has_place(*of, all));
            let firsts = places.filter_map(|of| Some((self.turns[of].front()?.0, of)));
            let (_, standing) = firsts.min_by_key(|(turn, _)| *turn)?;
            let (turn, name) = self.turns[standing].pop_front()?;
            let known = self.repositories.get_mut(&name);
            let Some(repository) = known.filter(|repository| repository.turn == Some(turn)) else {
                continue;
            };
            repository.turn = None;
            // Those who stopped waiting are passed over.
            let waiting = std::iter::from_fn(|| repository.waiting.pop_front());
            let first = { waiting }.find(|sender| !sender.is_closed());
            if first.is_some() {
                repository.taken += 1;
                self.taken[standing] += 1;
            }
            self.queue(&name, all);
            self.forget(&name);
            if let Some(sender) = first {
                return Some((name, standing, sender));
            }
        }
    }

    /// Whether one more of that standing may have a place.
    fn has_place(&self, standing: Standing, all: usize) -> bool {
        let ByStanding {
            answered,
            unknown,
            dragging,
        } = self.taken;
        let is_free = answered + unknown + dragging < all;
        let leaves_half = unknown + dragging < beside(half_reserve(all), all);
        match standing {
            Standing::Answered => is_free,
            Standing::Unknown => is_free && leaves_half,
            Standing::Dragging => is_free && leaves_half && dragging < beside(reserve(all), all),
        }
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
            let standing = repository.temper.standing();
            self.turns[standing].push_back((self.newest, name.clone()));
        }
    }

    /// Forgets it if it has nothing and waits for nothing, but for whether it drags, if that is known.
    fn forget(&mut self, name: &RepositoryName) {
        let is_over = |repository: &Repository| repository.taken == 0 && repository.waiting.is_empty();
        if !self.repositories.get(name).is_some_and(is_over) {
            return;
        }
        let known = self.repositories.remove(name);
        let standing = known.map(|known| known.temper.standing());
        if let Some(standing) = standing.filter(|standing| *standing != Standing::Unknown) {
            self.remembered.insert(name.clone(), standing);
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

    fn give_back(&mut self, name: &RepositoryName, standing: Standing, all: usize) {
        self.taken[standing] -= 1;
        if let Some(repository) = self.repositories.get_mut(name) {
            repository.taken -= 1;
        }
        self.queue(name, all);
        self.forget(name);
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            taken: ByStanding::default(),
            repositories: HashMap::new(),
            remembered: Cache::new(REMEMBERED_MAX),
            turns: ByStanding::default(),
            newest: 0,
        }
    }
}

impl Temper {
    /// The most places of one repository.
    fn most(self, all: usize) -> usize {
        match self {
            Self::Unknown => 1,
            Self::Familiar | Self::Dragging => quarter(all),
            Self::Prompt => beside(quarter(all), all),
        }
    }

    fn standing(self) -> Standing {
        match self {
            Self::Unknown => Standing::Unknown,
            Self::Familiar | Self::Prompt => Standing::Answered,
            Self::Dragging => Standing::Dragging,
        }
    }
}

impl Standing {
    const ALL: [Self; 3] = [Self::Answered, Self::Unknown, Self::Dragging];
}

impl<T> Index<Standing> for ByStanding<T> {
    type Output = T;

    fn index(&self, standing: Standing) -> &T {
        match standing {
            Standing::Answered => &self.answered,
            Standing::Unknown => &self.unknown,
            Standing::Dragging => &self.dragging,
        }
    }
}

impl<T> IndexMut<Standing> for ByStanding<T> {
    fn index_mut(&mut self, standing: Standing) -> &mut T {
        match standing {
            Standing::Answered => &mut self.answered,
            Standing::Unknown => &mut self.unknown,
            Standing::Dragging => &mut self.dragging,
        }
    }
}

fn quarter(all: usize) -> usize {
    (all / 4).max(1)
}

/// What those that drag leave.
fn reserve(all: usize) -> usize {
    if all < 3 {
        quarter(all)
    } else {
        quarter(all).max(2)
    }
}

/// What those that drag and those that are unknown leave together.
fn half_reserve(all: usize) -> usize {
    reserve(all) / 2
}

/// All places but so many, and at least one.
fn beside(kept: usize, all: usize) -> usize {
    all.saturating_sub(kept).max(1)
}

#[cfg(test)]
mod tests;
