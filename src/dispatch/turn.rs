//! Whose turn it is: an endpoint's pace, the cap of its host, and a place to make the attempt in.
//!
//! # Who holds what while he waits
//! - Nothing but the endpoint's own turn while he waits for its pace.
//! - His part of the host's cap while he waits for a place: at one host, attempts begin in the order in which they
//!   were asked for. One endpoint has at most three quarters of it, so that one that hangs leaves room for others there.
//!   But those of endpoints that are failing may be at most half of a host's, so that those which are
//!   not have the other half; and they wait for the host last of all, with their place, of which one host can so
//!   hold but a few.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until},
};

use super::{
    lanes::LANES_MAX,
    pace::Pace,
    places::{DRAGS_AFTER, Place, Places, Temper, UnderWay},
};
use crate::{push::EndpointId, webhook::Rate};

/// How often the first in an endpoint's line sees whether there is still reason to wait: its pace may be one a day, and
/// its host's cap be held by those that hang.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Endpoints and hosts that are known before it is worth a look which of them can be forgotten.
const KNOWN_MIN: usize = 1_024;

/// One host's lanes that wait for their turns may be as many as this part of those for which there is room still: with
/// however many hosts like that, some is left for others. While an eighth is free it may be twice what it may have under
/// way.
const SHARE: usize = 2;

/// The right to make one attempt, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    endpoint: Arc<Endpoint>,
    _share: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
    _failing: Option<OwnedSemaphorePermit>,
    place: Place,
}

/// Hands out turns.
#[derive(Debug)]
pub(super) struct Turns {
    endpoints: DashMap<EndpointId, Arc<Endpoint>>,
    hosts: DashMap<String, Arc<Host>>,
    /// How many of them there may be before some are forgotten.
    known_max: AtomicUsize,
    places: Places,
    per_host: usize,
    /// How many lanes of endpoints that are failing may wait, and how many do.
    failing_max: usize,
    failing: Arc<AtomicUsize>,
}

/// What is known of an endpoint.
#[derive(Debug)]
struct Endpoint {
    pace: Mutex<Pace>,
    /// Its part of what its host may have under way.
    share: Arc<Semaphore>,
    /// Whether the attempt dragged that told last: by ending, or by dragging.
    drags: AtomicBool,
}

/// A host's cap.
#[derive(Debug)]
struct Host {
    all: Arc<Semaphore>,
    /// Of those, for endpoints that are failing.
    failing: Arc<Semaphore>,
    /// How many wait for their turns, and how many of those for endpoints that are failing.
    waiting: AtomicUsize,
    waiting_failing: AtomicUsize,
}

/// A lane that is going to be sent to a host, until it has its turn: then this is dropped.
#[derive(Debug)]
pub(super) struct Waits {
    host: Arc<Host>,
    /// All that wait for the sake of endpoints that are failing, if it does.
    failing: Option<Arc<AtomicUsize>>,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.host.waiting.fetch_sub(1, Ordering::AcqRel);
        if let Some(failing) = &self.failing {
            self.host.waiting_failing.fetch_sub(1, Ordering::AcqRel);
            failing.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Endpoint {
    fn temper(&self, is_failing: bool) -> Temper {
        match (is_failing, self.drags.load(Ordering::Relaxed)) {
            (true, _) => Temper::Failing,
            (false, true) => Temper::Dragging,
            (false, false) => Temper::Prompt,
        }
    }

    /// Whether a new one would be the same; `share` is what one has.
    fn is_as_new(&self, now: Instant, share: usize) -> bool {
        let pace = self.pace.try_lock();
        let is_free = pace.is_ok_and(|pace| pace.free_at().is_none_or(|free| free <= now));
        is_free && self.share.available_permits() == share && !self.drags.load(Ordering::Relaxed)
    }
}

impl Host {
    fn new(per_host: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(per_host)),
            failing: Arc::new(Semaphore::new((per_host / 2).max(1))),
            waiting: AtomicUsize::new(0),
            waiting_failing: AtomicUsize::new(0),
        }
    }

    fn is_idle(&self, per_host: usize) -> bool {
        self.all.available_permits() == per_host
    }
}

impl Turns {
    pub(super) fn new(fast: usize, per_host: usize) -> Self {
        Self {
            endpoints: DashMap::new(),
            hosts: DashMap::new(),
            known_max: AtomicUsize::new(KNOWN_MIN),
            places: Places::new(fast),
            per_host,
            failing_max: fast,
            failing: Arc::default(),
        }
    }

    /// Joins those that are going to be sent to `host`, while there is room for `free` lanes more. `None` if these are too
    /// many: one host leaves room for others. For [`Turns::take`], which takes who comes.
    pub(super) fn join(&self, host: &str, is_failing: bool, free: usize) -> Option<Waits> {
        let host = self.host(host);
        let least = self.per_host.saturating_mul(2);
        let has_room = |waiting: &AtomicUsize, free: usize, most: usize| {
            // What a host may always have is no reason to fill all there is.
            let least = if free > most / 8 {
                least.min((most / 4).max(1))
            } else {
                0
            };
            waiting.load(Ordering::Acquire) < (free / SHARE).max(least)
        };
        let failing = self.failing.load(Ordering::Acquire);
        let free_failing = self.failing_max.saturating_sub(failing);
        let may_fail = || has_room(&host.waiting_failing, free_failing, self.failing_max);
        if !has_room(&host.waiting, free, LANES_MAX) || (is_failing && !may_fail()) {
            return None;
        }
        host.waiting.fetch_add(1, Ordering::AcqRel);
        let failing = is_failing.then(|| {
            host.waiting_failing.fetch_add(1, Ordering::AcqRel);
            self.failing.fetch_add(1, Ordering::AcqRel);
            Arc::clone(&self.failing)
        });
        Some(Waits { host, failing })
    }

    /// Waits for a turn of `endpoint`, whose URL names `host`. Lanes of one endpoint get theirs in the
    /// order in which they asked.
    ///
    /// While it waits for the endpoint's own pace, no permit is held that another endpoint could use;
    /// and the pace counts from when an attempt may really start, so that permits which come late
    /// never let two starts through closer together than the rate allows.
    ///
    /// `None` when it is not wanted any more: that is asked when it is this lane's turn to wait, every second from
    /// then on, and before the turn is given. A turn that was not wanted leaves the next one its start.
    pub(super) async fn take(
        &self,
        endpoint: &EndpointId,
        rate: Rate,
        host: &str,
        is_failing: impl Fn() -> bool + Send,
        is_wanted: impl Fn() -> bool + Send + Sync,
    ) -> Option<Turn> {
        let endpoint = self.endpoint(endpoint, rate);
        let mut pace = endpoint.pace.lock().await;
        if !is_wanted() {
            return None;
        }
        pace.follow(rate);
        let free_at = pace.free_at();
        let turn = async {
            // The timer rounds up to its next millisecond what is past, too.
            if let Some(at) = free_at.filter(|at| *at > Instant::now()) {
                sleep_until(at).await;
            }
            let temper = endpoint.temper(is_failing());
            self.admit(Arc::clone(&endpoint), &self.host(host), temper).await
        };
        let turn = while_wanted(turn, &is_wanted).await??;
        if !is_wanted() {
            return None;
        }
        pace.next(Instant::now());
        Some(turn)
    }

    /// Waits for the host's cap and for a place. `None` when the semaphores were closed, which nobody does.
    async fn admit(&self, endpoint: Arc<Endpoint>, host: &Host, temper: Temper) -> Option<Turn> {
        let share = Arc::clone(&endpoint.share).acquire_owned().await.ok()?;
        let all = Arc::clone(&host.all);
        let (host, failing, place) = match temper {
            Temper::Failing => {
                let failing = Arc::clone(&host.failing).acquire_owned().await.ok()?;
                let place = self.places.take(temper).await?;
                (all.acquire_owned().await.ok()?, Some(failing), place)
            }
            Temper::Prompt | Temper::Dragging => {
                let host = all.acquire_owned().await.ok()?;
                (host, None, self.places.take(temper).await?)
            }
        };
        Some(Turn {
            endpoint,
            _share: share,
            _host: host,
            _failing: failing,
            place,
        })
    }

    /// Attempts under way, in each pool.
    pub(super) fn under_way(&self) -> UnderWay {
        self.places.under_way()
    }

    fn endpoint(&self, id: &EndpointId, rate: Rate) -> Arc<Endpoint> {
        if let Some(endpoint) = self.endpoints.get(id) {
            return Arc::clone(&endpoint);
        }
        self.forget();
        let new = || {
            Arc::new(Endpoint {
                pace: Mutex::new(Pace::new(rate)),
                share: Arc::new(Semaphore::new(self.share())),
                drags: AtomicBool::new(false),
            })
        };
        let endpoint = self.endpoints.entry(id.clone()).or_insert_with(new);
        Arc::clone(&endpoint)
    }

    /// How many attempts one endpoint may have under way at its host.
    fn share(&self) -> usize {
        self.per_host - self.per_host / 4
    }

    fn host(&self, host: &str) -> Arc<Host> {
        if let Some(host) = self.hosts.get(host) {
            return Arc::clone(&host);
        }
        self.forget();
        let new = || Arc::new(Host::new(self.per_host));
        let host = self.hosts.entry(host.to_owned()).or_insert_with(new);
        Arc::clone(&host)
    }

    /// Forgets endpoints and hosts that would be the same if they came anew. Looks at all of them, but only when
    /// there are twice as many as the last time left over.
    fn forget(&self) {
        let known = || self.endpoints.len().max(self.hosts.len());
        if known() < self.known_max.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        // Who has it from the map holds it, or its permits.
        let is_held = |count: usize| count > 1;
        let share = self.share();
        self.endpoints
            .retain(|_, endpoint| is_held(Arc::strong_count(endpoint)) || !endpoint.is_as_new(now, share));
        self.hosts
            .retain(|_, host| is_held(Arc::strong_count(host)) || !host.is_idle(self.per_host));
        let known_max = known().saturating_mul(2).max(KNOWN_MIN);
        self.known_max.store(known_max, Ordering::Relaxed);
    }
}

/// What comes of it; `None` if it is not wanted any more before that.
async fn while_wanted<T>(wait: impl Future<Output = T>, is_wanted: impl Fn() -> bool) -> Option<T> {
    let mut wait = pin!(wait);
    loop {
        tokio::select! {
            biased;
            done = &mut wait => return Some(done),
            () = sleep(LOOK_EVERY) => {
                if !is_wanted() {
                    return None;
                }
            }
        }
    }
}

impl Turn {
    /// Makes the attempt. One that drags is remembered of its endpoint, and moves to the slow pool.
    pub(super) async fn spend<T>(mut self, attempt: impl Future<Output = T>) -> T {
        let mut attempt = pin!(attempt);
        let drags = &self.endpoint.drags;
        tokio::select! {
            biased;
            done = &mut attempt => {
                drags.store(false, Ordering::Relaxed);
                return done;
            }
            () = sleep(DRAGS_AFTER) => drags.store(true, Ordering::Relaxed),
        }
        tokio::select! {
            biased;
            done = &mut attempt => return done,
            () = self.place.moved() => {}
        }
        attempt.await
    }
}

#[cfg(test)]
mod tests;
