//! Whether the registry is known to be down, so that nobody waits for it in vain.
//!
//! It is when a whole batch waited for it until its deadline and not a single request of anybody's was
//! answered meanwhile. From then on one quick request is tried now and then, and everybody else fails at
//! once; the first answer, whatever it says, ends it. A process of the registry that is heard from is up, or was a moment
//! ago: the next one who asks tries at once.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{locked::Locked as _, registry::RegistryError};

/// What is known of the registry, from the requests that were made for sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// None was made yet.
    Unknown,
    /// It answered the last one, so long ago.
    Answers(Duration),
    /// It left the last one without an answer, so long ago.
    Silent(Duration),
}

/// How long a quick request may take.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after a quick request the next one is tried.
pub(super) const PROBE_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Health {
    state: Mutex<State>,
    /// Held by whoever tries; the others wait for what comes of it.
    probe: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    answered_at: Option<Instant>,
    /// When a request was last left without an answer, and what came instead.
    missed: Option<(Instant, RegistryError)>,
    /// When it was last found silent, if it is known to be down.
    silent_at: Option<Instant>,
    /// Whether a new process of it was heard from, and nobody tried since.
    is_heard: bool,
}

impl Health {
    /// Whether to ask the registry now. `probe` is run where it takes a quick request to tell.
    pub(super) async fn admits(&self, probe: impl Future<Output = Result<(), RegistryError>>) -> bool {
        if self.state().silent_at.is_none() {
            return true;
        }
        let _turn = self.probe.lock().await;
        {
            let mut state = self.state();
            let Some(silent_at) = state.silent_at else {
                return true;
            };
            // Taken by one: should it be down all the same, the others go by what this one finds.
            let is_heard = std::mem::take(&mut state.is_heard);
            if silent_at.elapsed() < PROBE_PAUSE && !is_heard {
                return false;
            }
            state.silent_at = Some(Instant::now());
        }
        let answer = probe.await;
        self.note(&answer);
        let mut state = self.state();
        if state.silent_at.is_some() {
            state.silent_at = Some(Instant::now());
        }
        state.silent_at.is_none()
    }

    /// Takes note of how a request ended.
    pub(super) fn note<T>(&self, answer: &Result<T, RegistryError>) {
        let mut state = self.state();
        if let Err(error) = answer
            && error.is_silence()
        {
            state.missed = Some((Instant::now(), error.clone()));
            return;
        }
        state.answered_at = Some(Instant::now());
        state.is_heard = false;
        if state.silent_at.take().is_some() {
            info!("the registry answers again");
        }
    }

    /// A new process of the registry tells of something. Not for each event: where the registry can reach us and we can't
    /// reach it, everybody would wait for a try of his own.
    pub(super) fn heard(&self) {
        self.state().is_heard = true;
    }

    /// Whether the registry answered last.
    pub(super) fn reach(&self) -> Reach {
        let state = self.state();
        let missed = state.missed.as_ref().map(|(at, _)| *at);
        match (state.answered_at, missed) {
            (None, None) => Reach::Unknown,
            (Some(answered), missed) if missed.is_none_or(|missed| missed <= answered) => {
                Reach::Answers(answered.elapsed())
            }
            (_, missed) => Reach::Silent(missed.map(|missed| missed.elapsed()).unwrap_or_default()),
        }
    }

    /// Whether the registry answered anybody since.
    pub(super) fn was_answered_since(&self, since: Instant) -> bool {
        let answered_at = self.state().answered_at;
        answered_at.is_some_and(|answered_at| answered_at >= since)
    }

    /// A batch that began at `since` waited until its deadline for requests of its own.
    pub(super) fn waited_in_vain(&self, since: Instant) {
        let was_answered = self.was_answered_since(since);
        let mut state = self.state();
        if !was_answered && state.silent_at.replace(Instant::now()).is_none() {
            let error = state.missed_since(since);
            warn!(%error, "the registry does not answer: webhooks go out without sizes until it does");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }
}

impl State {
    /// What came instead of an answer: what did before tells nothing of this time.
    fn missed_since(&self, since: Instant) -> String {
        let missed = self.missed.as_ref().filter(|(at, _)| *at >= since);
        missed.map_or_else(
            || "no answer by the deadline".to_owned(),
            |(_, error)| error.to_string(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const SILENCE: Result<(), RegistryError> = Err(RegistryError::Timeout(PROBE_TIMEOUT));

    #[tokio::test(start_paused = true)]
    async fn a_silent_registry_is_tried_once_in_a_while_and_the_first_answer_clears_it() {
        let health = Health::default();
        let tried = AtomicUsize::new(0);
        let ask = async |answer: Result<(), RegistryError>| {
            let probe = async {
                tried.fetch_add(1, Ordering::Relaxed);
                answer
            };
            health.admits(probe).await
        };
        assert!(ask(SILENCE).await, "nothing is known against it");
        health.waited_in_vain(Instant::now());
        assert!(!ask(Ok(())).await);
        assert_eq!(tried.load(Ordering::Relaxed), 0, "it was just tried in vain");
        tokio::time::advance(PROBE_PAUSE).await;
        assert!(!ask(SILENCE).await);
        assert!(!ask(Ok(())).await);
        assert_eq!(tried.load(Ordering::Relaxed), 1);
        tokio::time::advance(PROBE_PAUSE).await;
        assert!(ask(Err(RegistryError::NotFound)).await, "an answer is an answer");
        assert!(ask(SILENCE).await);
        assert_eq!(tried.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_heard_from_is_tried_at_once_by_one_alone() {
        let health = Health::default();
        let tried = AtomicUsize::new(0);
        let ask = async |answer: Result<(), RegistryError>| {
            let probe = async {
                tried.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PROBE_TIMEOUT).await;
                answer
            };
            health.admits(probe).await
        };
        let three = async || tokio::join!(ask(SILENCE), ask(SILENCE), ask(SILENCE));
        health.waited_in_vain(Instant::now());
        health.heard();
        assert_eq!(three().await, (false, false, false));
        assert_eq!(tried.swap(0, Ordering::Relaxed), 1, "it is down all the same");
        // By whoever waited for it since before it came back.
        health.heard();
        health.waited_in_vain(Instant::now());
        assert!(ask(Ok(())).await);
        tokio::time::advance(PROBE_TIMEOUT).await;
        health.waited_in_vain(Instant::now());
        assert!(!ask(Ok(())).await, "what was heard before it answered is over");
        assert_eq!(tried.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_tells_of_its_own_trouble_alone_is_down() {
        for (status, is_down) in [
            (500, true),
            (502, true),
            (503, true),
            (504, true),
            (429, false),
            (403, false),
        ] {
            let (health, since) = (Health::default(), Instant::now());
            health.note(&Err::<(), _>(RegistryError::Status {
                status,
                retry_after: None,
            }));
            health.waited_in_vain(since);
            assert_eq!(health.admits(async { SILENCE }).await, !is_down, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whether_it_answered_last_is_told() {
        let health = Health::default();
        assert_eq!(health.reach(), Reach::Unknown);
        health.note(&SILENCE);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(health.reach(), Reach::Silent(Duration::from_secs(3)));
        health.note(&Err::<(), _>(RegistryError::NotFound));
        assert_eq!(health.reach(), Reach::Answers(Duration::ZERO));
        tokio::time::advance(Duration::from_secs(1)).await;
        health.note(&SILENCE);
        assert_eq!(health.reach(), Reach::Silent(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_instead_of_an_answer_is_of_this_time() {
        let health = Health::default();
        health.note(&SILENCE);
        let of_now = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        let told = |since| health.state().missed_since(since);
        assert_eq!(told(of_now), RegistryError::Timeout(PROBE_TIMEOUT).to_string());
        assert_eq!(told(Instant::now()), "no answer by the deadline");
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_answered_anybody_meanwhile_is_not_down() {
        let health = Health::default();
        let since = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        health.note(&Ok(()));
        health.waited_in_vain(since);
        assert!(health.admits(async { SILENCE }).await);
    }
}
