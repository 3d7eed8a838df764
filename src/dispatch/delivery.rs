//! One lane at work: attempt after attempt, in order, until it has nothing left to send now.

use std::{ptr, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Dispatcher, Ended, authority::Authority, dying::Reason, retry::with_retry_after, which};
use crate::{
    catalog::{Attempt, Which},
    clock::Timestamp,
    image::{Digest, RepositoryName},
    journal::JournalId,
    push::Settlement,
    queue::{Completion, Lease},
    telemetry::labels::AttemptResult,
    webhook::{
        Endpoint, Fault, Outcome, Sizes,
        answer::Answer,
        client::SendError,
        connect::ConnectError,
        format::{EventKind, Message},
        judge::judge,
        request::Request,
        sign::webhook_id,
    },
};

/// How long a lane waits when its pushes can't be read back from the journal.
const UNREADABLE_WAIT: Duration = Duration::from_secs(10);

/// How long a lane waits, on average, whose host has too many that wait for it.
const CROWDED_WAIT: Duration = Duration::from_secs(4);

/// What one attempt sends.
#[derive(Debug)]
pub(super) struct Shipment<'a> {
    /// Of what, and to whom.
    pub(super) which: Which,
    /// The journal that took the push.
    pub(super) journal: JournalId,
    pub(super) digest: &'a Digest,
    pub(super) sizes: &'a Sizes,
    pub(super) counts: Counts,
}

/// What of an attempt the endpoint's state is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// Whatever came of it.
    Always,
    /// That it succeeded.
    Success,
}

impl Counts {
    /// Of what is sent again with this authority, and nobody is owed.
    pub(super) fn of(authority: Authority) -> Self {
        match authority {
            Authority::Endpoint => Self::Always,
            Authority::Repositories => Self::Success,
        }
    }
}

/// An attempt that ended.
#[derive(Debug)]
pub(super) struct Attempted {
    /// When it began, by the wall clock.
    pub(super) at: Timestamp,
    pub(super) elapsed: Duration,
    /// What was sent, unless that could not be written.
    pub(super) request: Option<Request>,
    pub(super) answer: Result<Answer, SendError>,
    pub(super) outcome: Outcome,
    /// It went to a URL that the endpoint no longer has: what came of it says nothing of where it is now.
    pub(super) is_of_the_past: bool,
}

impl Dispatcher {
    /// Sends the lane's pushes, from this lease on, until there is none to be sent now.
    pub(super) async fn run_lane(self, repository: RepositoryName, mut lease: Lease) {
        let parts = &self.0.parts;
        loop {
            let completion = tokio::select! {
                biased;
                () = parts.tasks.hard().cancelled() => return,
                completion = self.deliver(&repository, &lease) => completion,
            };
            let Some((completion, reason)) = completion else {
                return;
            };
            self.write_wait(&repository, &lease, completion);
            // Before the queue may lend the lane's next push, to whomever: a kill repeats one attempt of a lane.
            let told = match completion {
                Completion::Settled(Settlement::DeadLetter) | Completion::GivenUp => None,
                Completion::Settled(how) => {
                    tokio::select! {
                        biased;
                        () = parts.journal.settle([(lease.pair(), how)]) => {}
                        // The disk stands still. It is in line all the same.
                        () = parts.tasks.hard().cancelled() => return,
                    }
                    // Then it was not written, and the next one would be repeated too.
                    if parts.journal.has_failed() {
                        return;
                    }
                    Some(lease.pair())
                }
                _ => None,
            };
            // Before the queue no longer knows of it: whoever sends an older one again looks there first.
            if completion == Completion::Settled(Settlement::Delivered) {
                let which = which(&repository, lease.sequence, &lease.endpoint, lease.tag.as_ref());
                self.0.replays.delivered(&which);
            }
            let mut effects = parts
                .queue
                .complete(&repository, &lease, completion, Instant::now());
            let next = effects.leases.pop();
            debug_assert!(effects.leases.is_empty(), "a lane lends one push at a time");
            self.follow(&repository, effects, Ended { told, reason });
            match next {
                Some(next) if !parts.tasks.soft().is_cancelled() => lease = next,
                _ => return,
            }
        }
    }

    /// One attempt, with all that comes before it. `None` when the process was asked to stop before the
    /// attempt began.
    async fn deliver(
        &self,
        repository: &RepositoryName,
        lease: &Lease,
    ) -> Option<(Completion, Option<Reason>)> {
        let soft = self.0.parts.tasks.soft();
        let endpoint = self.0.parts.endpoints.get(&lease.endpoint);
        // In a place of its own, so that a lane which only waits takes little.
        let mut aim = endpoint.map(|endpoint| Box::new((self.0.parts.client.target(&endpoint), endpoint)));
        let mut waits = None;
        if let Some((Ok(target), _)) = aim.as_deref() {
            waits = self.join(&lease.endpoint, target);
            if waits.is_none() {
                let wait = CROWDED_WAIT.mul_f64(rand::random_range(0.5..1.5));
                let at = Instant::now() + wait;
                return Some((Completion::Crowded { at }, None));
            }
        }
        let content = tokio::select! {
            () = soft.cancelled() => return None,
            content = self.content(repository, lease) => content,
        };
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                warn!(
                    %repository, endpoint = %lease.endpoint, sequence = %lease.sequence, %error,
                    wait_s = UNREADABLE_WAIT.as_secs(), "no attempt: the push can't be read back; it is read again"
                );
                let at = Instant::now() + UNREADABLE_WAIT;
                return Some((Completion::Later { at }, None));
            }
        };
        let queue = &self.0.parts.queue;
        let shipment = Shipment {
            which: which(repository, lease.sequence, &lease.endpoint, lease.tag.as_ref()),
            journal: self.0.parts.journal.id(),
            digest: &content.digest,
            sizes: &content.sizes,
            counts: Counts::Always,
        };
        // What was lent before the endpoint failed goes back without an attempt.
        let is_wanted = || queue.may_send(lease, Instant::now()) && !queue.is_outdated(repository, lease);
        let (attempted, endpoint) = loop {
            let Some(endpoint) = self.0.parts.endpoints.get(&lease.endpoint) else {
                return Some((Completion::GivenUp, Some(Reason::gone(&lease.endpoint))));
            };
            let target = match aim.take().map(|aim| *aim) {
                Some((target, before)) if Arc::ptr_eq(&before, &endpoint) => target,
                _ => self.0.parts.client.target(&endpoint),
            };
            let target = match target {
                Ok(target) => target,
                Err(_) if !is_wanted() => return Some((Completion::Returned, None)),
                // It says why, and takes nobody's turn.
                Err(_) => break (Box::pin(self.attempt(&endpoint, &shipment)).await, endpoint),
            };
            if self.0.resent.has(&shipment.which) {
                tokio::select! {
                    () = soft.cancelled() => return None,
                    () = Box::pin(self.0.resent.wait(&shipment.which)) => {}
                }
            }
            let turn = tokio::select! {
                () = soft.cancelled() => return None,
                turn = self.turn(&endpoint, &target, is_wanted) => turn,
            };
            match turn {
                // In a place of its own, so that a lane which only waits takes little.
                Some(turn) => {
                    drop(waits.take());
                    let attempted = Box::pin(turn.spend(self.attempt(&endpoint, &shipment))).await;
                    break (attempted, endpoint);
                }
                None if is_wanted() => {}
                None => return Some((Completion::Returned, None)),
            }
        };
        let is_of_the_past = match attempted.outcome {
            Outcome::Delivered { .. } => false,
            // With what it was refused for, it is not sent any more.
            Outcome::Failed {
                fault: Fault::Push, ..
            } => attempted.is_of_the_past || self.is_set_otherwise(&endpoint),
            Outcome::Failed { .. } => attempted.is_of_the_past,
        };
        if is_of_the_past {
            return Some((Completion::Failed, None));
        }
        Some(self.follow_up(repository, lease, attempted.outcome))
    }

    /// Whether the endpoint has another URL than this request was sent to.
    fn has_moved(&self, endpoint: &Endpoint, request: Option<&Request>) -> bool {
        let now = self.0.parts.endpoints.get(&endpoint.id);
        // What is set as it was, and stands in no file, is where it was.
        let now = now.filter(|now| !ptr::eq(&raw const **now, endpoint) || now.url.path().is_some());
        let now = now.and_then(|now| self.0.parts.client.target(&now).ok());
        now.zip(request)
            .is_some_and(|(now, request)| !now.is_same(request.target()))
    }

    /// Whether the endpoint has another secret, header or way there by now. When that can't be told, it has not.
    fn is_set_otherwise(&self, endpoint: &Endpoint) -> bool {
        let now = self.0.parts.endpoints.get(&endpoint.id);
        let now = now.filter(|now| !ptr::eq(&raw const **now, endpoint));
        let prints = now.and_then(|now| now.fingerprint().zip(endpoint.fingerprint()));
        prints.is_some_and(|(now, then)| now != then)
    }

    /// One attempt, of which the endpoint's state, the history, the metrics and the log are told.
    pub(super) async fn attempt(&self, endpoint: &Endpoint, shipment: &Shipment<'_>) -> Attempted {
        let parts = &self.0.parts;
        let Shipment {
            which,
            journal,
            digest,
            sizes,
            counts,
        } = shipment;
        let (repository, tag) = (&which.repository, which.tag.as_ref());
        let message = Message {
            repository,
            tag,
            digest,
            public_host: &self.0.options.public_host,
            sizes,
            event: EventKind::Push,
            at: parts.clock.now(),
        };
        let began_at = parts.steady.now();
        let delivery_id = webhook_id(*journal, which.sequence, &which.endpoint);
        let attempted = self.request(endpoint, &message, &delivery_id).await;
        let is_told = *counts == Counts::Always || matches!(attempted.outcome, Outcome::Delivered { .. });
        if is_told && !attempted.is_of_the_past {
            parts
                .states
                .attempted(&which.endpoint, began_at, &attempted.outcome);
        }
        // The history has this journal's pushes by their numbers; another's would be taken for them.
        if *journal == parts.journal.id() {
            let attempt = Attempt {
                digest,
                sizes,
                at: attempted.at,
                elapsed: attempted.elapsed,
                request: attempted.request.as_ref(),
                answer: &attempted.answer,
                outcome: &attempted.outcome,
            };
            parts.history.attempted(which, attempt);
        }
        let tag = tag.map(tracing::field::display);
        let elapsed_ms = u64::try_from(attempted.elapsed.as_millis()).unwrap_or(u64::MAX);
        match &attempted.outcome {
            Outcome::Delivered { status } => {
                info!(%repository, tag, endpoint = %which.endpoint, delivery_id, status, elapsed_ms, "delivered");
            }
            Outcome::Failed {
                fault,
                status,
                reason,
                ..
            } => {
                // Of all endpoints alike: one line speaks for many.
                let attempts = match fault {
                    Fault::Ours => self.0.shortage.told(),
                    _ => Some(1),
                };
                if let Some(attempts) = attempts {
                    let attempts = (attempts > 1).then_some(attempts);
                    warn!(
                        %repository, tag, endpoint = %which.endpoint, delivery_id, status, %fault, reason, elapsed_ms,
                        attempts, "attempt failed"
                    );
                }
            }
        }
        attempted
    }

    /// One request, counted, and what came of it.
    pub(super) async fn request(&self, endpoint: &Endpoint, message: &Message<'_>, id: &str) -> Attempted {
        let parts = &self.0.parts;
        let began = Instant::now();
        let (request, answer) = match parts.client.request(endpoint, message, id) {
            Ok(request) => {
                let answer = parts.client.send(&request).await;
                (Some(request), answer)
            }
            Err(error) => (None, Err(error)),
        };
        let elapsed = began.elapsed();
        parts.metrics.attempt(result_of(&answer), elapsed);
        let outcome = judge(&answer, parts.clock.now());
        Attempted {
            is_of_the_past: self.has_moved(endpoint, request.as_ref()),
            outcome,
            at: message.at,
            elapsed,
            request,
            answer,
        }
    }

    /// Writes down until when the push waits, if it does.
    fn write_wait(&self, repository: &RepositoryName, lease: &Lease, completion: Completion) {
        let wait = match completion {
            Completion::Retry { at } | Completion::Later { at } => {
                Some(at.saturating_duration_since(Instant::now()))
            }
            // For its endpoint.
            Completion::Failed | Completion::Returned => self.0.parts.states.wait(&lease.endpoint),
            // So many come and go that it would fill the history.
            Completion::Settled(_) | Completion::GivenUp | Completion::Crowded { .. } => None,
        };
        let Some(wait) = wait else { return };
        let parts = &self.0.parts;
        let which = which(repository, lease.sequence, &lease.endpoint, lease.tag.as_ref());
        parts.history.waits(&which, parts.clock.now().after(wait));
        if let Completion::Retry { .. } = completion
            && let Some(endpoint) = parts.endpoints.get(&lease.endpoint)
        {
            let failures = lease.push_failures.saturating_add(1);
            parts.refusals.refused(&which, &endpoint, failures, wait);
        }
    }

    /// From the outcome to what becomes of the push: the one place that decides it.
    fn follow_up(
        &self,
        repository: &RepositoryName,
        lease: &Lease,
        outcome: Outcome,
    ) -> (Completion, Option<Reason>) {
        let schedule = &self.0.options.schedule;
        let Outcome::Failed {
            fault,
            retry_after,
            reason,
            ..
        } = outcome
        else {
            return (Completion::Settled(Settlement::Delivered), None);
        };
        let failures = lease.push_failures.saturating_add(1);
        let delay = match fault {
            // Its line waits, not this lane.
            Fault::Endpoint => return (Completion::Failed, None),
            // Nobody's line waits.
            Fault::Ours => {
                let now = Instant::now();
                let at = now + self.0.shortage.wait(now);
                return (Completion::Later { at }, None);
            }
            Fault::Gone => None,
            Fault::Push => schedule.delay(failures, &mut rand::rng()),
        };
        let Some(delay) = delay else {
            let reason = Reason::Said(reason.into());
            return (Completion::Settled(Settlement::DeadLetter), Some(reason));
        };
        let delay = with_retry_after(delay, retry_after);
        debug!(%repository, endpoint = %lease.endpoint, wait_s = delay.as_secs_f64(), "will be tried again");
        let at = Instant::now() + delay;
        (Completion::Retry { at }, None)
    }
}

/// What metrics call it.
fn result_of(answer: &Result<Answer, SendError>) -> AttemptResult {
    match answer {
        Ok(answer) => AttemptResult::of_status(answer.status.as_u16()),
        Err(SendError::Connect(ConnectError::Resolve { .. })) => AttemptResult::Dns,
        Err(SendError::Connect(ConnectError::Tls(_)) | SendError::Certificates(_)) => AttemptResult::Tls,
        Err(SendError::Connect(ConnectError::Proxy { .. }) | SendError::Proxy(_)) => AttemptResult::Proxy,
        Err(SendError::Connect(ConnectError::Refused(_))) => AttemptResult::Refused,
        Err(SendError::Connect(ConnectError::Tcp(_))) => AttemptResult::Connect,
        Err(SendError::Connect(ConnectError::Ours(_))) => AttemptResult::Local,
        Err(
            SendError::Connect(ConnectError::Late(_)) | SendError::NoConnection(_) | SendError::NoAnswer(_),
        ) => AttemptResult::Timeout,
        Err(_) => AttemptResult::Other,
    }
}
