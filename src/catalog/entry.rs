//! What the history is told: plain values, without any secret, that borrow from whoever tells them, or from the bytes in
//! which they waited.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::mask::Mask;
use crate::{
    clock::Timestamp,
    image::{Digest, RepositoryName, Tag},
    journal::Durable,
    push::{EndpointId, Sequence},
    webhook::{Outcome, Sizes, answer::Answer, client::SendError, request::Request},
};

/// Of an answer, so much is kept.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Of a request's body, so much is kept: some 1,500 layers.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// Which delivery something happened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// The push.
    pub sequence: Sequence,
    /// For whom.
    pub endpoint: EndpointId,
    /// Where it was pushed.
    pub repository: RepositoryName,
    /// By which tag.
    pub tag: Option<Tag>,
}

/// An attempt as the dispatcher knows it, to be written down.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What was pushed.
    pub digest: &'a Digest,
    /// The sizes that were sent.
    pub sizes: &'a Sizes,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub elapsed: Duration,
    /// What was sent, unless that could not be written.
    pub request: Option<&'a Request>,
    /// What came back.
    pub answer: &'a Result<Answer, SendError>,
    /// What was made of it.
    pub outcome: &'a Outcome,
}

/// What an attempt says that has to be put together, or masked, first.
#[derive(Debug)]
pub(super) struct Texts {
    digest: String,
    fault: Option<String>,
    url: Option<String>,
    headers: Option<String>,
    /// What is kept of the answer, and how long it was.
    answer: Option<(Bytes, usize)>,
}

impl Texts {
    pub(super) fn of(attempt: Attempt<'_>) -> Self {
        let mask = attempt.request.map(Mask::of).unwrap_or_default();
        let fault = match attempt.outcome {
            Outcome::Delivered { .. } => None,
            Outcome::Failed { fault, .. } => Some(fault.to_string()),
        };
        let answer = attempt.answer.as_ref().ok().map(|answer| {
            // Masked before it is cut, so that nothing is left of a secret that lies across the cut.
            let masked = mask.apply(&answer.body);
            (masked.slice(..masked.len().min(ANSWER_BYTES_MAX)), masked.len())
        });
        Self {
            digest: attempt.digest.to_string(),
            fault,
            url: attempt.request.map(|request| request.target().to_string()),
            headers: attempt
                .request
                .map(|request| super::mask::headers(request.headers())),
            answer,
        }
    }
}

/// Something that happened. Times are milliseconds since 1970.
///
/// It may wait in a file ([`super::overflow`]): whoever changes what is here gives that file's format a new version.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry<'a> {
    /// A push became durable.
    Taken(#[serde(borrow)] Taken<'a>),
    /// A push came that no webhook is owed for.
    Dropped(#[serde(borrow)] DroppedPush<'a>),
    /// An attempt ended.
    Attempted(#[serde(borrow)] Place<'a>, #[serde(borrow)] Attempted<'a>),
    /// The delivery waits until then for its next attempt.
    Waits(#[serde(borrow)] Place<'a>, i64),
    /// It ended.
    Ended(#[serde(borrow)] Place<'a>, #[serde(borrow)] End<'a>),
    /// A push ended of which it is not known any more what it was: its number, and for whom.
    Buried(u64, &'a str, #[serde(borrow)] End<'a>),
    /// A repository has a webhook of its own.
    Known(&'a str),
    /// An endpoint's state changed.
    Changed(#[serde(borrow)] Changed<'a>),
    /// A push is owed that became durable before the start, which may stand there.
    Restored(#[serde(borrow)] Taken<'a>),
    /// It ended before the start, as a word of the column `state` says; when, and why, is not known. It may stand there.
    Settled(#[serde(borrow)] Place<'a>, &'a str),
    /// A repository has that many bytes, and since when that is known, without any webhook that told it.
    Sized(&'a str, u64, i64),
}

/// A delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place<'a> {
    pub(super) sequence: u64,
    pub(super) endpoint: &'a str,
    pub(super) repository: &'a str,
    /// Empty when it was pushed by digest.
    pub(super) tag: &'a str,
}

impl<'a> Place<'a> {
    /// Where `which` is; `endpoint` is its endpoint, written out.
    pub(super) fn of(which: &'a Which, endpoint: &'a str) -> Self {
        Self {
            sequence: which.sequence.get(),
            endpoint,
            repository: which.repository.as_str(),
            tag: which.tag.as_ref().map_or("", Tag::as_str),
        }
    }
}

/// A push that was taken.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken<'a> {
    pub(super) sequence: u64,
    pub(super) repository: &'a str,
    pub(super) tag: &'a str,
    pub(super) digest: &'a str,
    pub(super) media_type: &'a str,
    /// 0 when the registry did not say.
    pub(super) manifest_size: u64,
    pub(super) listed: u64,
    pub(super) at: i64,
    pub(super) event_id: &'a str,
    pub(super) actor: &'a str,
    #[serde(borrow)]
    pub(super) owed: Vec<&'a str>,
}

impl<'a> Taken<'a> {
    /// The push, its digest and the endpoints that owe it, written out.
    pub(super) fn of(durable: &'a Durable, digest: &'a str, owed: &'a [String]) -> Self {
        let push = &durable.push;
        Self {
            sequence: durable.sequence.get(),
            repository: push.repository.as_str(),
            tag: push.tag.as_ref().map_or("", Tag::as_str),
            digest,
            media_type: push.media_type.as_str(),
            manifest_size: push.manifest_size,
            listed: push.references.len() as u64,
            at: push.taken_at.unix_millis(),
            event_id: &push.event_id,
            actor: &push.actor,
            owed: owed.iter().map(String::as_str).collect(),
        }
    }
}

/// A push that was not.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DroppedPush<'a> {
    pub(super) at: i64,
    pub(super) rule: &'a str,
    pub(super) repository: &'a str,
    pub(super) tag: &'a str,
    pub(super) digest: &'a str,
    pub(super) event_id: &'a str,
    pub(super) actor: &'a str,
}

/// How a delivery ended: a word of the column `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End<'a> {
    pub(super) how: &'a str,
    #[serde(borrow)]
    pub(super) reason: Option<&'a str>,
    pub(super) at: i64,
}

/// An attempt as it is kept.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempted<'a> {
    pub(super) digest: &'a str,
    pub(super) image_size: Option<u64>,
    pub(super) layers: u64,
    pub(super) repository_size: Option<u64>,
    pub(super) at: i64,
    pub(super) elapsed_us: u64,
    pub(super) status: Option<u16>,
    #[serde(borrow)]
    pub(super) fault: Option<&'a str>,
    #[serde(borrow)]
    pub(super) reason: Option<&'a str>,
    #[serde(borrow)]
    pub(super) sent: Option<Sent<'a>>,
    #[serde(borrow)]
    pub(super) answer: Option<Kept<'a>>,
}

/// A request as it is kept.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sent<'a> {
    pub(super) url: &'a str,
    pub(super) headers: &'a str,
    #[serde(borrow)]
    pub(super) body: Kept<'a>,
}

/// The beginning of a body, and how long it was.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept<'a> {
    pub(super) first: &'a [u8],
    pub(super) bytes: u64,
}

impl<'a> Attempted<'a> {
    pub(super) fn new(attempt: Attempt<'a>, texts: &'a Texts) -> Self {
        let (status, reason) = match attempt.outcome {
            Outcome::Delivered { status } => (Some(*status), None),
            Outcome::Failed { status, reason, .. } => (*status, Some(reason.as_str())),
        };
        let sent = attempt.request.map(|request| Sent {
            url: texts.url.as_deref().unwrap_or_default(),
            headers: texts.headers.as_deref().unwrap_or_default(),
            body: Kept {
                first: request.body().get(..BODY_BYTES_MAX).unwrap_or(request.body()),
                bytes: request.body().len() as u64,
            },
        });
        Self {
            digest: &texts.digest,
            image_size: attempt.sizes.image_size,
            layers: attempt.sizes.layers.len() as u64,
            repository_size: attempt.sizes.repository_size,
            at: attempt.at.unix_millis(),
            elapsed_us: u64::try_from(attempt.elapsed.as_micros()).unwrap_or(u64::MAX),
            status,
            fault: texts.fault.as_deref(),
            reason,
            sent,
            answer: texts.answer.as_ref().map(|(first, bytes)| Kept {
                first,
                bytes: *bytes as u64,
            }),
        }
    }
}

/// A change of an endpoint's state.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Changed<'a> {
    pub(super) endpoint: &'a str,
    pub(super) at: i64,
    pub(super) before: &'a str,
    pub(super) after: &'a str,
    pub(super) failures: u32,
    pub(super) reason: &'a str,
}
