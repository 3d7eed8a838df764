//! Stories for machines: what `shipbell why --output json` prints and the API answers.

use serde_json::{Value, json};

use super::{AttemptStory, DeliveryStory, DroppedStory, EndpointHealth, PushStory, Stories};
use crate::clock::Timestamp;

/// What was found, as an object of lists.
#[must_use]
pub fn stories(found: &Stories) -> Value {
    json!({
        "pushes": found.pushes.iter().map(push).collect::<Vec<_>>(),
        "dropped": found.dropped.iter().map(dropped).collect::<Vec<_>>(),
    })
}

/// A push, with its deliveries.
#[must_use]
pub fn push(push: &PushStory) -> Value {
    json!({
        "sequence": push.sequence,
        "repository": push.repository,
        "tag": text(&push.tag),
        "digest": push.digest,
        "media_type": push.media_type,
        "listed_blobs": push.listed,
        "taken_at": moment(push.taken_at),
        "event_id": text(&push.event_id),
        "actor": text(&push.actor),
        "deliveries": push.deliveries.iter().map(delivery).collect::<Vec<_>>(),
    })
}

/// A delivery, with its attempts.
#[must_use]
pub fn delivery(delivery: &DeliveryStory) -> Value {
    json!({
        "endpoint": delivery.endpoint,
        "webhook_id": delivery.webhook_id,
        "state": delivery.state,
        "ended_at": moment(delivery.ended_at),
        "next_at": moment(delivery.next_at),
        "reason": delivery.reason,
        "endpoint_health": delivery.endpoint_health.as_ref().map(health),
        "image_size": delivery.image_size,
        "layers": delivery.layers,
        "repository_size": delivery.repository_size,
        "attempts_made": delivery.attempts_made,
        "attempts": delivery.attempts.iter().map(attempt).collect::<Vec<_>>(),
    })
}

fn health(health: &EndpointHealth) -> Value {
    json!({
        "state": health.state,
        "since": moment(health.since),
        "next_attempt": moment(health.next_attempt),
    })
}

fn attempt(attempt: &AttemptStory) -> Value {
    let lossy = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let headers = attempt
        .headers
        .as_ref()
        .map(|headers| headers.lines().collect::<Vec<_>>());
    json!({
        "number": attempt.number,
        "at": attempt.at.to_string(),
        "elapsed_ms": attempt.elapsed.as_secs_f64() * 1000.0,
        "status": attempt.status,
        "fault": attempt.fault,
        "reason": attempt.reason,
        "retry_at": moment(attempt.retry_at),
        "url": attempt.url,
        "request_headers": headers,
        "request_body": attempt.body.as_ref().map(lossy),
        "request_body_bytes": attempt.body_bytes,
        "answer": attempt.answer.as_ref().map(lossy),
        "answer_bytes": attempt.answer_bytes,
    })
}

fn dropped(dropped: &DroppedStory) -> Value {
    json!({
        "at": dropped.at.to_string(),
        "rule": dropped.rule,
        "repository": dropped.repository,
        "tag": text(&dropped.tag),
        "digest": text(&dropped.digest),
        "event_id": text(&dropped.event_id),
        "actor": text(&dropped.actor),
    })
}

fn text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn moment(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}
