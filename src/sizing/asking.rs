//! Asking the registry for what a batch needs, until it answers or it is known that it won't.
//!
//! A registry that is down as a whole is waited for until the deadline. One that fails at a single question and answers
//! others is not: what it was asked for is tried a few times, and left alone for minutes then ([`Unreadable`]).
//!
//! [`Unreadable`]: super::unreadable::Unreadable

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    health::PROBE_TIMEOUT, ledger::Snapshot, manifests::Manifests, repositories::Repository, unreadable::Part,
};
use crate::{
    image::{Digest, RepositoryName},
    locked::Locked as _,
    registry::{Disposition, RegistryError},
};

/// The first pause between two tries; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);

/// The longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How often the registry may fail at one question while it answers others: some 1.5 s of pauses.
const FAILURES_MAX: u32 = 4;

/// How long a question may take that only tells whether the registry answers any.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How long a registry that lags behind its own events is waited for: what was deleted meanwhile without an event would
/// hold up a batch for as long.
const LAGS_MAX: Duration = Duration::from_secs(5);

/// So long before the deadline it is given up that it has a manifest in time, and noted.
const GIVEN_UP_BEFORE: Duration = Duration::from_millis(200);

/// Why a number can't be had. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Unavailable {
    #[error("the registry is known to be down")]
    Down,
    #[error("the deadline has passed")]
    Late,
    #[error("a manifest of the image is not in the registry")]
    Incomplete,
    #[error("the repository was deleted meanwhile")]
    Deleted,
    #[error("{0}")]
    Limit(&'static str),
    /// The registry fails at this, and answers otherwise.
    #[error("{part} can't be read: {error}")]
    Unreadable { part: Part, error: RegistryError },
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// One batch being sized: which repository, as of when, and until when.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) name: RepositoryName,
    pub(super) repository: Arc<Repository>,
    pub(super) snapshot: Snapshot,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    /// Whether a request was sent for it.
    pub(super) has_asked: AtomicBool,
    /// Whether nobody was there to answer one.
    pub(super) has_met_silence: AtomicBool,
    /// The first failure that cost it a number.
    pub(super) failure: Mutex<Option<Unavailable>>,
}

impl Call {
    pub(super) fn fail(&self, error: Unavailable) {
        let mut failure = self.failure.locked();
        failure.get_or_insert(error);
    }

    /// Fails while the registry is known to fail at `part`.
    pub(super) fn readable(&self, part: &Part) -> Result<(), Unavailable> {
        match self.repository.ledger().unreadable.error(part, Instant::now()) {
            Some(error) => Err(Unavailable::Unreadable {
                part: part.clone(),
                error,
            }),
            None => Ok(()),
        }
    }
}

impl Manifests {
    /// Asks the registry for `part` until it answers or won't; `None` when it does not have it. Goes on until it is
    /// dropped, unless the registry asks for a pause that ends after the deadline, or fails at this alone.
    pub(super) async fn ask<T, F>(
        &self,
        call: &Call,
        part: &Part,
        request: impl Fn() -> F,
    ) -> Result<Option<T>, Unavailable>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        call.readable(part)?;
        let answer = self.ask_times(call, part, FAILURES_MAX, request).await;
        if let Err(Unavailable::Unreadable { part, error }) = &answer {
            let mut ledger = call.repository.ledger();
            ledger
                .unreadable
                .note(part.clone(), error.clone(), Instant::now());
        }
        answer
    }

    /// The same, but that the registry fails at this alone is told after so many times, and not noted.
    pub(super) async fn ask_times<T, F>(
        &self,
        call: &Call,
        part: &Part,
        failures_max: u32,
        request: impl Fn() -> F,
    ) -> Result<Option<T>, Unavailable>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let (mut backoff, mut failures) = (BACKOFF_FIRST, 0);
        loop {
            let probe = self.client.probe(&call.name, PROBE_TIMEOUT);
            if !self.health.admits(probe).await {
                return Err(Unavailable::Down);
            }
            call.has_asked.store(true, Ordering::Relaxed);
            let asked_at = Instant::now();
            let answer = request().await;
            self.note_read(call, &answer);
            let error = match answer {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => error,
            };
            if error.is_silence() {
                call.has_met_silence.store(true, Ordering::Relaxed);
                // Whether that goes for others too: an answer to this says that it doesn't.
                if !self.health.was_answered_since(call.since) {
                    let probe = self.client.probe(&call.name, PROBE_TIMEOUT);
                    self.health.note(&probe.await);
                }
            }
            if error.may_be_of_one() && self.reads_otherwise(call, asked_at).await {
                failures += 1;
                // The last try that there is time for tells as much as one more would.
                let is_last = failures > 1 && call.deadline <= Instant::now() + backoff + GIVEN_UP_BEFORE;
                if failures >= failures_max || is_last {
                    let part = part.clone();
                    return Err(Unavailable::Unreadable { part, error });
                }
            }
            match error.disposition() {
                Disposition::Gone => return Ok(None),
                Disposition::GiveUp => return Err(error.into()),
                Disposition::Retry { after } => {
                    let after = after.unwrap_or_default();
                    if call.deadline.saturating_duration_since(Instant::now()) < after {
                        return Err(error.into());
                    }
                    sleep(after.max(backoff)).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Takes note of how a request for something that the repository has or doesn't have ended.
    fn note_read<T>(&self, call: &Call, answer: &Result<T, RegistryError>) {
        self.health.note(answer);
        if matches!(answer, Ok(_) | Err(RegistryError::NotFound)) {
            call.repository.note_read();
        }
    }

    /// Whether the registry, which just failed at a question asked at `since`, reads what else it is asked for of this
    /// repository: some answer of it came since, or one comes of a blob that nobody need have. That it is there at all says
    /// too little, and so does another repository, to which other rights and another storage may belong.
    async fn reads_otherwise(&self, call: &Call, since: Instant) -> bool {
        if !call.repository.was_read_since(since) {
            let nothing = Digest::sha256(b"");
            // Without an answer by then it may not have been asked: its turn among our own requests may not have come.
            if let Ok(answer) = timeout(ANSWERS_WITHIN, self.client.blob_size(&call.name, &nothing)).await {
                self.note_read(call, &answer);
            }
        }
        call.repository.was_read_since(since)
    }

    /// The same as [`Manifests::ask`] for a manifest that was pushed: a registry that lags behind its own events is asked
    /// again for some seconds, and no longer than until shortly before the deadline.
    pub(super) async fn ask_for<T, F>(
        &self,
        call: &Call,
        digest: &Digest,
        request: impl Fn() -> F,
    ) -> Result<Option<T>, Unavailable>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let part = Part::Manifest(digest.clone());
        let mut backoff = BACKOFF_FIRST;
        let last = call
            .deadline
            .checked_sub(GIVEN_UP_BEFORE)
            .unwrap_or(call.deadline);
        let until = last.min(Instant::now() + LAGS_MAX);
        loop {
            let answer = self.ask(call, &part, &request).await?;
            // It may have been deleted meanwhile, or found missing by somebody else.
            let is_over = answer.is_some() || !call.repository.ledger().is_expected(digest);
            if is_over || until <= Instant::now() + backoff {
                return Ok(answer);
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}
