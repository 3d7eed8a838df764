//! Stories for machines: what `shipbell why --output json` prints and the API answers.

use serde::Serialize;
use utoipa::ToSchema;

use super::{AttemptStory, DeliveryStory, DroppedStory, EndpointHealth, PushStory, Stories};
use crate::clock::Timestamp;

/// What was found: pushes that were taken, and pushes that were dropped, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoriesDocument {
    pushes: Vec<PushWithDeliveries>,
    dropped: Vec<DroppedDocument>,
}

/// A push that was taken, and its deliveries.
#[derive(Debug, Serialize, ToSchema)]
struct PushWithDeliveries {
    #[serde(flatten)]
    push: PushDocument,
    /// One for each endpoint that it goes to.
    deliveries: Vec<DeliveryDocument>,
}

/// A push that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct PushDocument {
    /// Its place in the order of all pushes.
    sequence: u64,
    /// Where it was pushed.
    repository: String,
    /// By which tag; null when it was pushed by digest.
    tag: Option<String>,
    /// What was pushed, if that was written down.
    digest: Option<String>,
    /// The media type of its manifest.
    media_type: Option<String>,
    /// How many blobs the notification listed with their sizes.
    listed_blobs: Option<u64>,
    /// When it was taken, if that was written down.
    taken_at: Option<String>,
    /// The registry's id of the event.
    event_id: Option<String>,
    /// Who pushed it.
    actor: Option<String>,
}

/// A delivery, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryDocument {
    /// To which endpoint.
    endpoint: String,
    /// The same in every attempt.
    webhook_id: String,
    /// `pending`, `delivered`, `superseded`, `dead_letter`, or `unknown`.
    #[schema(example = "delivered")]
    state: String,
    /// When it ended.
    ended_at: Option<String>,
    /// The earliest moment of the next attempt, if it waits for one.
    next_at: Option<String>,
    /// Why it was given up, if it was.
    reason: Option<String>,
    /// How its endpoint is, if that holds it up.
    endpoint_health: Option<HealthDocument>,
    /// Bytes, as they were sent last; null when they were not known in time, and before anything was sent.
    image_size: Option<u64>,
    /// How many layers were sent.
    layers: Option<u64>,
    /// Bytes, as they were sent last; null when they were not known in time, and before anything was sent.
    repository_size: Option<u64>,
    /// How many attempts there were, as far as is written down: after a kill, `ended_at` of what ended is null, and there
    /// may have been more.
    attempts_made: u64,
    /// Those that are kept, in order.
    attempts: Vec<AttemptDocument>,
}

/// How an endpoint is that is not healthy.
#[derive(Debug, Serialize, ToSchema)]
struct HealthDocument {
    /// `failing`, `paused`, `ignored`, `disabled`, or `held`.
    #[schema(example = "paused")]
    state: String,
    /// Since when.
    since: Option<String>,
    /// The earliest moment of the next attempt of any push; null when there is none.
    next_attempt: Option<String>,
}

/// One request, and what was answered.
#[derive(Debug, Serialize, ToSchema)]
struct AttemptDocument {
    /// From 1.
    number: u64,
    /// When it began.
    at: String,
    /// How long it took, milliseconds.
    elapsed_ms: f64,
    /// What was answered, if anything was.
    status: Option<u16>,
    /// Whose fault the failure was: `endpoint`, `push`, `gone` (the endpoint's, for good) or `shipbell` (this
    /// machine had nothing left to connect with).
    fault: Option<String>,
    /// What went wrong.
    reason: Option<String>,
    /// The earliest moment of the attempt after this one.
    retry_at: Option<String>,
    /// Where it went, with the query masked; null when no request could be made, and to whoever may not know where.
    url: Option<String>,
    /// The headers, a line each, with credentials masked; without `Host` to whoever may not know where it went.
    request_headers: Option<Vec<String>>,
    /// The body, or its beginning; null where there is none, and in a story that has too much of them.
    request_body: Option<String>,
    /// How long the body was.
    request_body_bytes: Option<u64>,
    /// The beginning of the answer; null to whoever may not know where it came from, and in a story that has too much of
    /// them.
    answer: Option<String>,
    /// How much of the answer was read, bytes.
    answer_bytes: Option<u64>,
}

/// A push that no webhook was owed for.
#[derive(Debug, Serialize, ToSchema)]
struct DroppedDocument {
    /// When it came.
    at: String,
    /// By which rule it was dropped.
    rule: String,
    /// Where it was pushed.
    repository: String,
    /// By which tag; null when it was pushed by digest.
    tag: Option<String>,
    /// What was pushed.
    digest: Option<String>,
    /// The registry's id of the event.
    event_id: Option<String>,
    /// Who pushed it.
    actor: Option<String>,
}

impl From<&Stories> for StoriesDocument {
    fn from(found: &Stories) -> Self {
        let push = |push: &PushStory| PushWithDeliveries {
            push: push.into(),
            deliveries: push.deliveries.iter().map(Into::into).collect(),
        };
        Self {
            pushes: found.pushes.iter().map(push).collect(),
            dropped: found.dropped.iter().map(Into::into).collect(),
        }
    }
}

impl From<&PushStory> for PushDocument {
    fn from(push: &PushStory) -> Self {
        Self {
            sequence: push.sequence,
            repository: push.repository.clone(),
            tag: text(&push.tag),
            digest: push.digest.clone(),
            media_type: push.media_type.clone(),
            listed_blobs: push.listed,
            taken_at: moment(push.taken_at),
            event_id: text(&push.event_id),
            actor: text(&push.actor),
        }
    }
}

impl From<&DeliveryStory> for DeliveryDocument {
    fn from(delivery: &DeliveryStory) -> Self {
        Self {
            endpoint: delivery.endpoint.clone(),
            webhook_id: delivery.webhook_id.clone(),
            state: delivery.state.clone(),
            ended_at: moment(delivery.ended_at),
            next_at: moment(delivery.next_at),
            reason: delivery.reason.clone(),
            endpoint_health: delivery.endpoint_health.as_ref().map(Into::into),
            image_size: delivery.image_size,
            layers: delivery.layers,
            repository_size: delivery.repository_size,
            attempts_made: delivery.attempts_made,
            attempts: delivery.attempts.iter().map(Into::into).collect(),
        }
    }
}

impl From<&EndpointHealth> for HealthDocument {
    fn from(health: &EndpointHealth) -> Self {
        Self {
            state: health.state.clone(),
            since: moment(health.since),
            next_attempt: moment(health.next_attempt),
        }
    }
}

impl From<&AttemptStory> for AttemptDocument {
    fn from(attempt: &AttemptStory) -> Self {
        let lossy = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let lines = |headers: &String| headers.lines().map(str::to_owned).collect();
        Self {
            number: attempt.number,
            at: attempt.at.to_string(),
            elapsed_ms: attempt.elapsed.as_secs_f64() * 1000.0,
            status: attempt.status,
            fault: attempt.fault.clone(),
            reason: attempt.reason.clone(),
            retry_at: moment(attempt.retry_at),
            url: attempt.url.clone(),
            request_headers: attempt.headers.as_ref().map(lines),
            request_body: attempt.body.as_ref().map(lossy),
            request_body_bytes: attempt.body_bytes,
            answer: attempt.answer.as_ref().map(lossy),
            answer_bytes: attempt.answer_bytes,
        }
    }
}

impl From<&DroppedStory> for DroppedDocument {
    fn from(dropped: &DroppedStory) -> Self {
        Self {
            at: dropped.at.to_string(),
            rule: dropped.rule.clone(),
            repository: dropped.repository.clone(),
            tag: text(&dropped.tag),
            digest: text(&dropped.digest),
            event_id: text(&dropped.event_id),
            actor: text(&dropped.actor),
        }
    }
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn moment(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}
