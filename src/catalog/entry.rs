//! What the history is told: plain values, without any secret.

use std::{mem::size_of, time::Duration};

use bytes::Bytes;

use crate::{
    clock::Timestamp,
    image::{Digest, RepositoryName, Tag},
    journal::Durable,
    push::{Dropped, EndpointId, Sequence, Settlement},
    webhook::{Fault, Outcome, Sizes, answer::Answer, client::SendError, request::Request},
};

use super::{mask::Mask, transitions::Transition};

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

/// An attempt as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempted {
    pub(super) digest: Digest,
    pub(super) image_size: Option<u64>,
    pub(super) layers: usize,
    pub(super) repository_size: Option<u64>,
    pub(super) at: Timestamp,
    pub(super) elapsed: Duration,
    pub(super) status: Option<u16>,
    pub(super) fault: Option<Fault>,
    pub(super) reason: Option<String>,
    pub(super) sent: Option<Sent>,
    pub(super) answer: Option<(Bytes, usize)>,
}

/// A request as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) url: String,
    pub(super) headers: String,
    pub(super) body: Bytes,
    pub(super) body_bytes: usize,
}

impl Attempted {
    pub(super) fn new(attempt: Attempt<'_>) -> Self {
        let mask = attempt.request.map(Mask::of).unwrap_or_default();
        let (status, fault, reason) = match attempt.outcome {
            Outcome::Delivered { status } => (Some(*status), None, None),
            Outcome::Failed {
                fault,
                status,
                reason,
                ..
            } => (*status, Some(*fault), Some(reason.clone())),
        };
        let answer = attempt.answer.as_ref().ok().map(|answer| {
            // Masked before it is cut, so that nothing is left of a secret that lies across the cut.
            let masked = mask.apply(&answer.body);
            (masked.slice(..masked.len().min(ANSWER_BYTES_MAX)), masked.len())
        });
        Self {
            digest: attempt.digest.clone(),
            image_size: attempt.sizes.image_size,
            layers: attempt.sizes.layers.len(),
            repository_size: attempt.sizes.repository_size,
            at: attempt.at,
            elapsed: attempt.elapsed,
            status,
            fault,
            reason,
            sent: attempt.request.map(|request| Sent {
                url: request.target().to_string(),
                headers: super::mask::headers(request.headers()),
                body: request.body().slice(..request.body().len().min(BODY_BYTES_MAX)),
                body_bytes: request.body().len(),
            }),
            answer,
        }
    }

    fn bytes(&self) -> usize {
        let sent = self.sent.as_ref();
        sent.map_or(0, |sent| sent.headers.len() + sent.body.len() + sent.url.len())
            + self.answer.as_ref().map_or(0, |(answer, _)| answer.len())
            + self.reason.as_ref().map_or(0, String::len)
    }
}

/// Something that happened.
#[derive(Debug)]
pub(super) enum Entry {
    /// A push became durable.
    Taken(Box<Durable>),
    /// Pushes that no webhook is owed for.
    Dropped(Vec<Dropped>),
    /// An attempt ended.
    Attempted(Box<(Which, Attempted)>),
    /// The delivery waits for its next attempt.
    Waits(Box<Which>, Timestamp),
    /// It ended.
    Ended(Box<Which>, Settlement, Timestamp),
    /// It ended as a dead letter, for this reason.
    GivenUp(Box<(Which, String)>, Timestamp),
    /// Pushes ended as dead letters for one reason, of which it is not known any more what they were.
    Buried(Vec<(Sequence, EndpointId)>, String, Timestamp),
    /// A repository has a webhook of its own.
    Known(RepositoryName),
    /// An endpoint's state changed.
    Changed(Box<Transition>),
    /// The process ends.
    Close(tokio::sync::oneshot::Sender<()>),
}

impl Entry {
    /// What it takes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        const BASE: usize = 256;
        match self {
            // The push itself, some ten small allocations, and what it owes.
            Self::Taken(durable) => {
                BASE + size_of::<Durable>()
                    + durable.push.references.len() * 128
                    + durable.push.owed.len() * 32
            }
            Self::Dropped(dropped) => BASE + dropped.len() * (size_of::<Dropped>() + 200),
            Self::Attempted(attempted) => BASE + attempted.1.bytes(),
            Self::GivenUp(given_up, _) => BASE + given_up.1.len(),
            Self::Buried(buried, reason, _) => BASE + buried.len() * 32 + reason.len(),
            Self::Changed(transition) => BASE + transition.reason.len(),
            Self::Waits(..) | Self::Ended(..) | Self::Known(_) | Self::Close(_) => BASE,
        }
    }

    /// How many things it tells.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Dropped(dropped) => dropped.len() as u64,
            Self::Buried(buried, ..) => buried.len() as u64,
            Self::Close(_) => 0,
            _ => 1,
        }
    }
}
