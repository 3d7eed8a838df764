//! Ingest: takes the registry's envelopes and answers when every push in them is durable.
//!
//! The registry takes 2xx and 3xx for success and sends everything else again for ever, blocking its
//! whole queue. So, once a request is authenticated, the answers are:
//!
//! | what came | answer |
//! |---|---|
//! | an envelope, and its pushes are durable | 202 |
//! | what can't be read, or is too large | 202, and the quarantine has it |
//! | a push with an invalid name | 202 with the rest, and the quarantine has that event |
//! | what can't be made durable, or not within the deadline | 503 with `Retry-After` |
//! | a body that is cut off, or too slow | none: the connection is closed |
//!
//! An answer of 503 says nothing of what became of the pushes: they may become durable all the same,
//! and are known by their event ids when they come again.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    clock::Clock,
    image::{Digest, MediaType, RepositoryName, Tag},
    journal,
    lifecycle::Tasks,
    listener::{Body, BodyError, Hangup, Listener},
    push::{Change, Dropped, EndpointId, Item, Reference},
    secret::Secret,
    telemetry::{Metrics, labels::EnvelopeAnswer, log::Throttle},
};

pub mod envelope;
pub mod filter;
mod foreseen;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod judge;
pub mod quarantine;
mod receive;
mod tokens;

use filter::Filter;
use judge::{Judged, Refused};
use quarantine::{Entry, Quarantine};
use receive::{ReceiveError, Received, Receiver, discard};
use tokens::Tokens;

/// What ingest hands its pushes to.
pub trait Intake: Clone + Send + Sync + 'static {
    /// Who owes a push of `tag` in `repository`, as the endpoints stand now.
    fn owing(&self, repository: &RepositoryName, tag: Option<&Tag>) -> Vec<EndpointId>;

    /// Tells what a manifest says of which no push is taken: that holds wherever it is, and whenever it came. That it was
    /// pushed is a change, and has its turn. Must not wait.
    fn learn(&self, digest: &Digest, media_type: MediaType, manifest_size: u64, references: &[Reference]);

    /// Tells which process of the registry that is listened to speaks, before it is told what it says. Must not wait.
    fn heard_from(&self, instance: &str) {
        let _ = instance;
    }

    /// Tells of pushes that no webhook is owed for, once their envelope was taken. Must not wait.
    fn dropped(&self, dropped: Vec<Dropped>) {
        drop(dropped);
    }

    /// Makes the pushes durable and applies all items, in order, all or none; resolves once that is done.
    /// A push whose event id was taken before is passed over, once the first one is durable. Dropping
    /// the future does not take back what was begun.
    fn take(&self, items: Vec<Item>) -> impl Future<Output = Result<(), TakeError>> + Send + 'static;
}

/// Why items were not taken. The registry is to send them again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TakeError {
    /// A bound was reached; which, in words.
    #[error("{0}")]
    Full(String),
    /// The journal did not take them.
    #[error(transparent)]
    Journal(#[from] journal::AppendError),
}

impl TakeError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Full(_) | Self::Journal(journal::AppendError::New) => "full",
            Self::Journal(journal::AppendError::Full { .. }) => "journal_full",
            Self::Journal(journal::AppendError::Damaged(_)) => "journal_damaged",
            Self::Journal(journal::AppendError::Busy { .. }) => "journal_busy",
            Self::Journal(journal::AppendError::Io(_)) => "journal_io",
            Self::Journal(journal::AppendError::Closed) => "journal_closed",
        }
    }
}

/// What ingest is built of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The path that takes envelopes, such as `/events`.
    pub path: String,
    /// Of these bearer tokens a request must carry one; empty lets everybody in.
    pub tokens: Vec<Secret>,
    /// Bytes that a body may have.
    pub body_bytes_max: usize,
    /// From the end of a body to its answer.
    pub ack_deadline: Duration,
}

/// Answers the registry. Cheap to clone.
pub struct Ingest<I>(Arc<Inner<I>>);

struct Inner<I> {
    path: String,
    ack_deadline: Duration,
    tokens: Tokens,
    receiver: Receiver,
    filter: Filter,
    intake: I,
    quarantine: Quarantine,
    metrics: Metrics,
    clock: Clock,
    complaints: Complaints,
}

/// Lines that a client can provoke.
#[derive(Debug, Default)]
struct Complaints {
    unauthorized: Throttle,
    unavailable: Throttle,
    quarantined: Throttle,
    quarantine_failed: Throttle,
}

/// Why an envelope is not taken now.
struct Unavailable {
    reason: &'static str,
    detail: String,
}

impl<I: Intake> Ingest<I> {
    /// An ingest that hands what passes `filter` to `intake`.
    #[must_use]
    pub fn new(
        options: Options,
        filter: Filter,
        intake: I,
        quarantine: Quarantine,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        foreseen::announce(&metrics);
        Self(Arc::new(Inner {
            path: options.path,
            ack_deadline: options.ack_deadline,
            tokens: Tokens::new(options.tokens),
            receiver: Receiver::new(options.body_bytes_max, options.ack_deadline),
            filter,
            intake,
            quarantine,
            metrics,
            clock,
            complaints: Complaints::default(),
        }))
    }

    /// Serves `listener` until `stop` is cancelled and its last connection has ended. A request that
    /// comes on an open connection after that is answered 503.
    pub async fn serve(self, listener: Listener, tasks: Tasks, stop: CancellationToken) {
        let stopping = stop.clone();
        let handler = move |request| {
            let inner = Arc::clone(&self.0);
            let stopping = stopping.clone();
            async move { inner.answer(request, &stopping).await }
        };
        listener.serve(tasks, stop, handler).await;
    }
}

impl<I: Intake> Inner<I> {
    async fn answer(
        &self,
        request: Request<Body>,
        stopping: &CancellationToken,
    ) -> Result<Response<Full<Bytes>>, Hangup> {
        let began = Instant::now();
        let (head, mut body) = request.into_parts();
        let peer = body.peer();
        if let Some(refusal) = self.refusal(&head, &body) {
            return Ok(closing_unless(discard(body).await, refusal));
        }
        if stopping.is_cancelled() {
            let answer = self.unavailable(&Unavailable {
                reason: "stopping",
                detail: "shipbell is stopping".to_owned(),
            });
            return Ok(closing_unless(discard(body).await, answer));
        }
        let received = match self.receiver.receive(&mut body).await {
            Ok(received) => received,
            Err(ReceiveError::NoMemory) => {
                let detail = ReceiveError::NoMemory.to_string();
                let answer = self.unavailable(&Unavailable {
                    reason: "memory",
                    detail,
                });
                return Ok(closing_unless(discard(body).await, answer));
            }
            Err(ReceiveError::Body(error)) => {
                debug!(%peer, %error, "a body did not come whole");
                self.metrics.envelope(EnvelopeAnswer::Cut, cut_reason(&error));
                return Err(Hangup);
            }
        };
        match self.take(&received, peer).await {
            Ok(answer) => {
                self.metrics.envelope(answer, "");
                self.metrics.acknowledged(began.elapsed());
                Ok(closing_unless(received.ended, empty(StatusCode::ACCEPTED)))
            }
            Err(unavailable) => Ok(self.unavailable(&unavailable)),
        }
    }

    /// The answer to a request that is refused whatever its body is.
    fn refusal(&self, head: &Parts, body: &Body) -> Option<Response<Full<Bytes>>> {
        if head.uri.path() != self.path {
            self.metrics.envelope(EnvelopeAnswer::NotFound, "");
            return Some(empty(StatusCode::NOT_FOUND));
        }
        if head.method != Method::POST {
            self.metrics.envelope(EnvelopeAnswer::MethodNotAllowed, "");
            let mut answer = empty(StatusCode::METHOD_NOT_ALLOWED);
            answer
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("POST"));
            return Some(answer);
        }
        if !self.tokens.admit(&head.headers) {
            self.metrics.envelope(EnvelopeAnswer::Unauthorized, "");
            if let Some(times) = self.complaints.unauthorized.due() {
                let peer = body.peer();
                error!(%peer, times, "envelope refused: its bearer token is none of ours, and its sender will not give up");
            }
            let mut answer = empty(StatusCode::UNAUTHORIZED);
            let challenge = HeaderValue::from_static("Bearer realm=\"shipbell\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            return Some(answer);
        }
        None
    }

    /// Takes what a body holds: its pushes are durable when this returns `Ok`.
    async fn take(
        &self,
        received: &Received,
        peer: std::net::SocketAddr,
    ) -> Result<EnvelopeAnswer, Unavailable> {
        let deadline = Instant::now() + self.ack_deadline;
        let judged = if received.is_too_large() {
            Err(Refused::too_large(received.total))
        } else {
            judge::judge(&received.body, &self.filter, &self.intake, self.clock.now())
        };
        let judged = match judged {
            Ok(judged) => judged,
            Err(refused) => {
                let (body, total) = (received.body.clone(), received.total);
                self.quarantine(refused, body, total, peer, deadline).await;
                return Ok(EnvelopeAnswer::Quarantined);
            }
        };
        let Judged {
            items,
            tally,
            dropped,
            bad,
        } = judged;
        if !items.is_empty() {
            // What comes from another host has nobody wait: without it a size may be an old one, as without the event.
            let is_needed = items.iter().any(|item| !is_doubt(item));
            match timeout_at(deadline, self.intake.take(items)).await {
                Ok(Ok(())) => {}
                _ if !is_needed => {}
                Ok(Err(error)) => {
                    return Err(Unavailable {
                        reason: error.reason(),
                        detail: error.to_string(),
                    });
                }
                Err(_) => {
                    return Err(Unavailable {
                        reason: "deadline",
                        detail: format!("not durable within {:?}", self.ack_deadline),
                    });
                }
            }
        }
        for (verdict, reason, count) in tally {
            self.metrics.event(verdict, reason, count);
        }
        self.intake.dropped(dropped);
        // Only now: an envelope that comes again is quarantined once.
        if let Some(bad) = bad {
            let total = bad.text.len() as u64;
            self.quarantine(bad.why, bad.text.into(), total, peer, deadline)
                .await;
        }
        Ok(EnvelopeAnswer::Taken)
    }

    /// Keeps `body`, if that can be done by the deadline: the answer is 202 in any case.
    async fn quarantine(
        &self,
        Refused { reason, detail }: Refused,
        body: Bytes,
        body_bytes: u64,
        peer: std::net::SocketAddr,
        deadline: Instant,
    ) {
        let entry = Entry {
            taken_at: self.clock.now(),
            reason,
            detail,
            peer,
            body_bytes,
            body,
        };
        let failure = match timeout_at(deadline, self.quarantine.keep(entry)).await {
            Ok(Ok(file)) => {
                if let Some(times) = self.complaints.quarantined.due() {
                    warn!(%peer, reason, body_bytes, times, file = %file.display(), "quarantined what can't be taken");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not kept within {:?}", self.ack_deadline),
        };
        self.metrics.quarantine_failed();
        if let Some(times) = self.complaints.quarantine_failed.due() {
            error!(%peer, reason, body_bytes, times, error = failure, "what can't be taken could not be quarantined, and is gone");
        }
    }

    fn unavailable(&self, unavailable: &Unavailable) -> Response<Full<Bytes>> {
        let Unavailable { reason, detail } = unavailable;
        self.metrics.envelope(EnvelopeAnswer::Unavailable, reason);
        if let Some(times) = self.complaints.unavailable.due() {
            warn!(
                reason,
                error = detail,
                times,
                "envelope not taken; the registry will send it again"
            );
        }
        let mut answer = empty(StatusCode::SERVICE_UNAVAILABLE);
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        answer
    }
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Tells the client that the connection ends with this answer, when its body was not read to the end.
fn closing_unless(ended: bool, mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    if !ended {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

fn cut_reason(error: &BodyError) -> &'static str {
    match error {
        BodyError::TimedOut => "timeout",
        BodyError::Cut(_) => "client",
        BodyError::Evicted => "evicted",
    }
}

fn is_doubt(item: &Item) -> bool {
    matches!(item, Item::Change(notice) if matches!(notice.change, Change::Doubted { .. }))
}

#[cfg(test)]
mod tests;
