//! The places that attempts are made in: those of the fast pool, and three kinds of the slow one.
//!
//! An attempt that drags does nothing but wait, and so do a thousand of them. In one pool they would hold every
//! place until their time limit, and who could be served in a millisecond would wait for that. So a fast place is
//! for attempts that end soon, or of which nobody knows yet that they don't.
//!
//! # Rules
//! 1. An endpoint starts in the fast pool unless it is failing or its last attempt dragged.
//! 2. A fast attempt that has lasted longer than [`DRAGS_AFTER`] moves to a place of the slow pool and gives its own
//!    back. It is the same attempt: nothing of it is cut, and nothing is sent twice. While there is no place to move to
//!    it keeps the one it has, which is the bound.
//! 3. Places of one kind are for that kind alone: endpoints that fail never take the room of those that answer
//!    slowly, and neither takes the room that fast attempts move to.
//! 4. All places together are [`PLACES_MAX`] times the fast ones.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long an attempt may last before it drags: longer than a webhook's answer usually takes, through TLS and over
/// an ocean, and so short that a thousand endpoints which die at once hold up the others for moments.
pub(super) const DRAGS_AFTER: Duration = Duration::from_millis(250);

/// How many attempts may be under way for each place of the fast pool.
#[cfg(test)]
pub(super) const PLACES_MAX: usize = 4;

/// How an endpoint's attempts went lately, and so where the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temper {
    /// Nothing is known against it.
    Prompt,
    /// Its last attempt dragged.
    Dragging,
    /// It is failing, paused, or ignored.
    Failing,
}

/// Attempts under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// In the fast pool.
    pub fast: usize,
    /// In the slow pool.
    pub slow: usize,
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    fast: Kind,
    /// For those that drag and began in a fast place.
    moved: Kind,
    dragging: Kind,
    failing: Kind,
}

#[derive(Debug)]
struct Kind {
    free: Arc<Semaphore>,
    all: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    permit: OwnedSemaphorePermit,
    /// Where it moves to if it drags.
    moves_to: Option<Arc<Semaphore>>,
}

impl Kind {
    fn of(places: usize) -> Self {
        let all = places.max(1);
        Self {
            free: Arc::new(Semaphore::new(all)),
            all,
        }
    }

    fn taken(&self) -> usize {
        self.all.saturating_sub(self.free.available_permits())
    }
}

impl Places {
    /// So many fast places, and the slow ones that belong to them.
    pub(super) fn new(fast: usize) -> Self {
        let fast = fast.max(1);
        Self {
            fast: Kind::of(fast),
            moved: Kind::of(fast.saturating_mul(3) / 2),
            dragging: Kind::of(fast),
            failing: Kind::of(fast / 2),
        }
    }

    /// Waits for a place of the kind that an endpoint of this temper starts in. Those who wait for the same kind get
    /// theirs in the order in which they asked.
    ///
    /// `None` when the semaphores were closed, which nobody does.
    pub(super) async fn take(&self, temper: Temper) -> Option<Place> {
        let (kind, moves_to) = match temper {
            Temper::Prompt => (&self.fast, Some(Arc::clone(&self.moved.free))),
            Temper::Dragging => (&self.dragging, None),
            Temper::Failing => (&self.failing, None),
        };
        let permit = Arc::clone(&kind.free).acquire_owned().await.ok()?;
        Some(Place { permit, moves_to })
    }

    /// Attempts under way, in each pool.
    pub(super) fn under_way(&self) -> UnderWay {
        let slow = [&self.moved, &self.dragging, &self.failing];
        UnderWay {
            fast: self.fast.taken(),
            slow: slow.into_iter().map(Kind::taken).sum(),
        }
    }
}

impl Place {
    /// Waits for a place that an attempt which drags may move to, and moves there; never, from a place of the slow
    /// pool. Cancel-safe: until it has moved it keeps the place that it has.
    pub(super) async fn moved(&mut self) {
        let Some(free) = &self.moves_to else {
            return std::future::pending().await;
        };
        if let Ok(permit) = Arc::clone(free).acquire_owned().await {
            self.permit = permit;
            self.moves_to = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, poll};

    use super::*;

    fn under_way(fast: usize, slow: usize) -> UnderWay {
        UnderWay { fast, slow }
    }

    /// Takes places until there is none.
    fn take_all(places: &Places, temper: Temper) -> Vec<Place> {
        let next = || places.take(temper).now_or_never().flatten();
        std::iter::from_fn(next).collect()
    }

    #[tokio::test]
    async fn one_that_moves_gives_its_place_to_the_next() {
        let places = Places::new(1);
        let mut first = places.take(Temper::Prompt).await.unwrap();
        let mut waiting = Box::pin(places.take(Temper::Prompt));
        assert!(poll!(&mut waiting).is_pending());
        first.moved().await;
        let _second = waiting.await.unwrap();
        assert_eq!(places.under_way(), under_way(1, 1));
        drop(first);
        assert_eq!(places.under_way(), under_way(1, 0));
    }

    #[tokio::test]
    async fn without_room_it_keeps_the_place_it_has_and_moves_once_there_is() {
        let places = Places::new(2);
        let mut all = Vec::new();
        for _ in 0..3 {
            let mut place = places.take(Temper::Prompt).await.unwrap();
            place.moved().await;
            all.push(place);
        }
        let mut stuck = places.take(Temper::Prompt).await.unwrap();
        {
            let mut moving = Box::pin(stuck.moved());
            assert!(poll!(&mut moving).is_pending());
        }
        assert_eq!(places.under_way(), under_way(1, 3));
        all.pop();
        stuck.moved().await;
        assert_eq!(places.under_way(), under_way(0, 3));
    }

    #[tokio::test]
    async fn each_kind_has_room_of_its_own_and_all_together_are_bounded() {
        for fast in [1, 2, 5, 16] {
            // Else the runtime has them wait after so many that did not.
            tokio::task::yield_now().await;
            let places = Places::new(fast);
            let mut moved = Vec::new();
            while let Some(mut place) = places.take(Temper::Prompt).now_or_never().flatten() {
                let _moved = place.moved().now_or_never();
                moved.push(place);
            }
            assert_eq!(places.under_way().fast, fast, "those that can't move stay");
            let (dragging, failing) = (
                take_all(&places, Temper::Dragging),
                take_all(&places, Temper::Failing),
            );
            assert_eq!(dragging.len(), fast);
            assert!(!failing.is_empty());
            let all = moved.len() + dragging.len() + failing.len();
            assert!(all <= fast * PLACES_MAX, "{all} of {fast}");
            assert_eq!(places.under_way(), under_way(fast, all - fast));
        }
    }

    #[tokio::test]
    async fn who_started_in_the_slow_pool_stays_there() {
        let places = Places::new(4);
        for temper in [Temper::Dragging, Temper::Failing] {
            let mut place = places.take(temper).await.unwrap();
            assert!(poll!(Box::pin(place.moved())).is_pending());
            assert_eq!(places.under_way(), under_way(0, 1));
        }
    }
}
