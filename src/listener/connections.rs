//! The open connections of a listener, what each is doing, and which to close when there are too many.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::BODY_GRACE;

use crate::locked::Locked as _;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has come since it was opened, or since its last request.
    Idle,
    /// A head is coming.
    Head,
    /// A body is coming.
    Body,
    /// Its request is here, and being worked on.
    Working,
    /// It is to be closed: no request may begin.
    Evicted,
}

/// One connection's phase and since when it has been in it, in one word: whoever moves it out of
/// [`Phase::Idle`] first, the listener or a request, has it.
#[derive(Debug)]
pub(super) struct State {
    opened: Instant,
    /// Milliseconds since `opened`, times 8, plus the phase.
    word: AtomicU64,
    /// Since when nothing is taken of what is to be written: milliseconds since `opened`, plus one; 0 while it is.
    stalled: AtomicU64,
    evicted: Notify,
}

impl State {
    fn new() -> Self {
        Self {
            opened: Instant::now(),
            word: AtomicU64::new(pack(Phase::Idle, 0)),
            stalled: AtomicU64::new(0),
            evicted: Notify::new(),
        }
    }

    /// The phase, and when it began.
    pub(super) fn phase(&self) -> (Phase, Instant) {
        let (phase, millis) = unpack(self.word.load(Ordering::Acquire));
        (phase, self.opened + Duration::from_millis(millis))
    }

    /// Moves from one of `from` to `to`; `false` when it is in none of them.
    pub(super) fn enter(&self, to: Phase, from: &[Phase]) -> bool {
        let millis = self.millis();
        let moved = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                from.contains(&unpack(word).0).then(|| pack(to, millis))
            });
        moved.is_ok()
    }

    /// Notes whether the client took what was to be written to it just now.
    pub(super) fn wrote(&self, is_taken: bool) {
        if is_taken {
            self.stalled.store(0, Ordering::Release);
            return;
        }
        let now = self.millis() + 1;
        // It may stall for longer already.
        let _ = self
            .stalled
            .compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Since when the client takes nothing of what is to be written to it; `None` while it does.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        let millis = self.stalled.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.opened + Duration::from_millis(millis))
    }

    /// Since it was opened.
    fn millis(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX >> 3)
    }

    /// Resolves when the connection is to be closed.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    fn evict(&self, from: &[Phase]) -> bool {
        let evicted = self.enter(Phase::Evicted, from);
        if evicted {
            self.evicted.notify_one();
        }
        evicted
    }
}

fn pack(phase: Phase, millis: u64) -> u64 {
    millis << 3 | phase as u64
}

fn unpack(word: u64) -> (Phase, u64) {
    let phase = match word & 7 {
        0 => Phase::Idle,
        1 => Phase::Head,
        2 => Phase::Body,
        3 => Phase::Working,
        _ => Phase::Evicted,
    };
    (phase, word >> 3)
}

/// All open connections of a listener.
#[derive(Debug)]
pub(super) struct Connections(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    by_number: HashMap<u64, Arc<State>>,
    next: u64,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Counts a connection that was opened now, until the guard is dropped.
    pub(super) fn open(self: &Arc<Self>) -> OpenConnection {
        let state = Arc::new(State::new());
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.by_number.insert(number, Arc::clone(&state));
        OpenConnection {
            state,
            number,
            connections: Arc::clone(self),
        }
    }

    /// Closes the connection that is most easily spared, if any is.
    pub(super) fn evict_one(&self) -> bool {
        loop {
            let Some((victim, from)) = self.most_easily_spared() else {
                return false;
            };
            // If a request began on it meanwhile, look again.
            if victim.evict(from) {
                return true;
            }
        }
    }

    fn most_easily_spared(&self) -> Option<(Arc<State>, &'static [Phase])> {
        const WAITING: &[Phase] = &[Phase::Idle, Phase::Head];
        const SLOW: &[Phase] = &[Phase::Body];
        let open = self.lock();
        let longest_in = |phases: &[Phase]| {
            open.by_number
                .values()
                .map(|state| (state, state.phase()))
                .filter(|(_, (phase, _))| phases.contains(phase))
                .min_by_key(|(_, (_, since))| *since)
        };
        if let Some((state, _)) = longest_in(WAITING) {
            return Some((Arc::clone(state), WAITING));
        }
        longest_in(SLOW)
            .filter(|(_, (_, since))| since.elapsed() >= BODY_GRACE)
            .map(|(state, _)| (Arc::clone(state), SLOW))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.locked()
    }
}

/// An open connection; dropping it takes it off the list.
#[derive(Debug)]
pub(super) struct OpenConnection {
    pub(super) state: Arc<State>,
    number: u64,
    connections: Arc<Connections>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const ANY: &[Phase] = &[Phase::Idle, Phase::Head, Phase::Body, Phase::Working];

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_goes_first_then_heads_then_bodies_past_their_grace() {
        let connections = Arc::new(Connections::new());
        let slow_body = connections.open();
        assert!(slow_body.state.enter(Phase::Body, ANY));
        let working = connections.open();
        assert!(working.state.enter(Phase::Working, ANY));
        advance(Duration::from_millis(10)).await;
        let slow_head = connections.open();
        assert!(slow_head.state.enter(Phase::Head, ANY));
        advance(Duration::from_millis(10)).await;
        let idle = connections.open();

        assert!(connections.evict_one());
        assert_eq!(slow_head.state.phase().0, Phase::Evicted);
        assert_eq!(idle.state.phase().0, Phase::Idle);
        assert!(connections.evict_one());
        assert_eq!(idle.state.phase().0, Phase::Evicted);

        assert!(!connections.evict_one(), "the body is within its grace");
        advance(BODY_GRACE).await;
        assert!(connections.evict_one());
        assert_eq!(slow_body.state.phase().0, Phase::Evicted);

        advance(Duration::from_hours(1)).await;
        assert!(
            !connections.evict_one(),
            "a request that is worked on is never cut"
        );
        assert_eq!(working.state.phase().0, Phase::Working);
    }

    #[tokio::test]
    async fn no_request_begins_on_an_evicted_connection() {
        let connections = Arc::new(Connections::new());
        let connection = connections.open();
        assert!(connections.evict_one());
        assert!(!connection.state.enter(Phase::Body, &[Phase::Idle, Phase::Head]));
        connection.state.evicted().await;
    }

    #[tokio::test]
    async fn a_connection_that_is_gone_is_not_evicted() {
        let connections = Arc::new(Connections::new());
        drop(connections.open());
        assert!(!connections.evict_one());
    }
}
