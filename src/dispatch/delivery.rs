//! One lane at work: attempt after attempt, in order, until it has nothing left to send now.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Dispatcher, retry::with_retry_after, which};
use crate::{
    catalog::Attempt,
    clock::Timestamp,
    image::RepositoryName,
    push::Settlement,
    queue::{Completion, Content, Lease},
    telemetry::labels::AttemptResult,
    webhook::{
        Endpoint, Fault, Outcome,
        answer::Answer,
        client::SendError,
        connect::ConnectError,
        format::{EventKind, Message},
        judge::judge,
        request,
        target::Target,
    },
};

/// How long a lane waits when its pushes can't be read back from the journal.
const UNREADABLE_WAIT: Duration = Duration::from_secs(10);

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
            let Some(completion) = completion else { return };
            self.write_wait(&repository, &lease, completion);
            let mut effects = parts
                .queue
                .complete(&repository, &lease, completion, Instant::now());
            let next = effects.leases.pop();
            debug_assert!(effects.leases.is_empty(), "a lane lends one push at a time");
            self.follow(&repository, effects);
            match next {
                Some(next) if !parts.tasks.soft().is_cancelled() => lease = next,
                _ => return,
            }
        }
    }

    /// One attempt, with all that comes before it. `None` when the process was asked to stop before the
    /// attempt began.
    async fn deliver(&self, repository: &RepositoryName, lease: &Lease) -> Option<Completion> {
        let soft = self.0.parts.tasks.soft();
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
                return Some(Completion::Later { at });
            }
        };
        let Some(endpoint) = self.0.parts.endpoints.get(&lease.endpoint) else {
            return Some(Completion::Settled(Settlement::DeadLetter));
        };
        let outcome = match request::target(endpoint) {
            Err(error) => {
                if !self.0.parts.queue.may_send(lease, Instant::now()) {
                    return Some(Completion::Returned);
                }
                warn!(%repository, endpoint = %lease.endpoint, %error, "no attempt: the endpoint's URL can't be used");
                let answer = Err(error);
                self.0.parts.metrics.attempt(result_of(&answer), Duration::ZERO);
                let now = self.0.parts.clock.now();
                let outcome = judge(&answer, now);
                let began = self.0.parts.steady.now();
                self.0.parts.states.attempted(&lease.endpoint, began, &outcome);
                self.write_attempt(
                    repository,
                    lease,
                    Attempt {
                        digest: &content.digest,
                        sizes: &content.sizes,
                        at: now,
                        elapsed: Duration::ZERO,
                        request: None,
                        answer: &answer,
                        outcome: &outcome,
                    },
                );
                outcome
            }
            Ok(target) => {
                let host = host_of(&target);
                let turn = tokio::select! {
                    () = soft.cancelled() => return None,
                    turn = self.0.turns.take(&lease.endpoint, endpoint.rate, &host) => turn?,
                };
                // What was lent before the endpoint failed goes back without an attempt.
                let queue = &self.0.parts.queue;
                if queue.is_outdated(repository, lease) || !queue.may_send(lease, Instant::now()) {
                    return Some(Completion::Returned);
                }
                let outcome = self.attempt(repository, lease, endpoint, content).await;
                drop(turn);
                outcome
            }
        };
        Some(self.follow_up(repository, lease, &outcome))
    }

    async fn attempt(
        &self,
        repository: &RepositoryName,
        lease: &Lease,
        endpoint: &Endpoint,
        content: &Content,
    ) -> Outcome {
        let parts = &self.0.parts;
        let (began, now) = (Instant::now(), parts.clock.now());
        let began_at = parts.steady.now();
        let message = Message {
            repository,
            tag: lease.tag.as_ref(),
            digest: &content.digest,
            public_host: &self.0.options.public_host,
            sizes: &content.sizes,
            event: EventKind::Push,
            at: now,
        };
        let delivery_id = self.webhook_id(lease.sequence, &lease.endpoint);
        let (request, answer) = match parts.client.request(endpoint, &message, &delivery_id) {
            Ok(request) => {
                let answer = parts.client.send(&request).await;
                (Some(request), answer)
            }
            Err(error) => (None, Err(error)),
        };
        let elapsed = began.elapsed();
        let outcome = judge(&answer, parts.clock.now());
        parts.states.attempted(&lease.endpoint, began_at, &outcome);
        parts.metrics.attempt(result_of(&answer), elapsed);
        self.write_attempt(
            repository,
            lease,
            Attempt {
                digest: &content.digest,
                sizes: &content.sizes,
                at: now,
                elapsed,
                request: request.as_ref(),
                answer: &answer,
                outcome: &outcome,
            },
        );
        let tag = lease.tag.as_ref().map(tracing::field::display);
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        match &outcome {
            Outcome::Delivered { status } => {
                info!(%repository, tag, endpoint = %lease.endpoint, delivery_id, status, elapsed_ms, "delivered");
            }
            Outcome::Failed {
                fault,
                status,
                reason,
                ..
            } => {
                warn!(
                    %repository, tag, endpoint = %lease.endpoint, delivery_id, status, %fault, reason, elapsed_ms,
                    "attempt failed"
                );
            }
        }
        outcome
    }

    fn write_attempt(&self, repository: &RepositoryName, lease: &Lease, attempt: Attempt<'_>) {
        let which = which(repository, lease.sequence, &lease.endpoint, lease.tag.as_ref());
        self.0.parts.history.attempted(which, attempt);
    }

    /// Writes down until when the push waits, if it does.
    fn write_wait(&self, repository: &RepositoryName, lease: &Lease, completion: Completion) {
        let wait = match completion {
            Completion::Retry { at } | Completion::Later { at } => {
                Some(at.saturating_duration_since(Instant::now()))
            }
            // For its endpoint.
            Completion::Returned => self.0.parts.states.wait(&lease.endpoint),
            Completion::Settled(_) => None,
        };
        let Some(wait) = wait.map(|wait| wait.as_millis()) else {
            return;
        };
        let now = self.0.parts.clock.now().unix_millis();
        let next_at = now.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX));
        let which = which(repository, lease.sequence, &lease.endpoint, lease.tag.as_ref());
        self.0
            .parts
            .history
            .waits(which, Timestamp::from_unix_millis(next_at));
    }

    /// From the outcome to what becomes of the push: the one place that decides it.
    fn follow_up(&self, repository: &RepositoryName, lease: &Lease, outcome: &Outcome) -> Completion {
        let schedule = &self.0.options.schedule;
        let &Outcome::Failed {
            fault, retry_after, ..
        } = outcome
        else {
            return Completion::Settled(Settlement::Delivered);
        };
        let delay = match fault {
            // Its line waits, not this lane.
            Fault::Endpoint => return Completion::Returned,
            Fault::Gone => return Completion::Settled(Settlement::DeadLetter),
            Fault::Push => schedule.delay(lease.push_failures.saturating_add(1), &mut rand::rng()),
        };
        let Some(delay) = delay else {
            return Completion::Settled(Settlement::DeadLetter);
        };
        let delay = with_retry_after(delay, retry_after);
        debug!(%repository, endpoint = %lease.endpoint, wait_s = delay.as_secs_f64(), "will be tried again");
        Completion::Retry {
            at: Instant::now() + delay,
        }
    }
}

/// What the cap per host counts by: host and port.
fn host_of(target: &Target) -> String {
    format!("{}:{}", target.host(), target.port())
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
        Err(
            SendError::Connect(ConnectError::Late(_)) | SendError::NoConnection(_) | SendError::NoAnswer(_),
        ) => AttemptResult::Timeout,
        Err(_) => AttemptResult::Other,
    }
}
