//! What the history tells of pushes, and by what they are asked for.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    image::{Digest, RepositoryName, Tag},
};

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Pushes of a repository.
    Repository(String),
    /// Pushes of a tag.
    Tag(String, String),
    /// Pushes of a digest.
    Digest(String, String),
    /// The push of an event.
    Event(String),
    /// The push of a delivery.
    Webhook(String),
}

impl Sought {
    /// What `text` can mean, likeliest first: an image, a repository, the id of an event or of a webhook.
    ///
    /// # Errors
    /// It can mean none of them; a sentence says what could.
    pub fn readings(text: &str) -> Result<Vec<Self>, String> {
        let mut readings = Vec::new();
        let is_name = |name: &str| name.parse::<RepositoryName>().is_ok();
        if let Some((repository, digest)) = text.split_once('@') {
            let digest: Digest = digest.parse().map_err(|error| format!("{error}"))?;
            // A tag before the digest says nothing more.
            let repository = match repository.rsplit_once(':') {
                Some((name, tag)) if !tag.contains('/') => name,
                _ => repository,
            };
            if !repository.is_empty() {
                readings.push(Self::Digest(repository.to_owned(), digest.to_string()));
            }
        } else {
            if text.starts_with("msg_") || text.starts_with("test_") {
                readings.push(Self::Webhook(text.to_owned()));
            }
            if let Some((repository, tag)) = text.rsplit_once(':')
                && tag.parse::<Tag>().is_ok()
                && !repository.is_empty()
            {
                readings.push(Self::Tag(repository.to_owned(), tag.to_owned()));
            }
            if !text.is_empty() && !text.contains('/') {
                readings.push(Self::Event(text.to_owned()));
            }
            if is_name(text) {
                readings.push(Self::Repository(text.to_owned()));
            }
        }
        if readings.is_empty() {
            return Err(
                "neither an image, such as acme/app:1.4, nor the id of an event or a webhook".to_owned(),
            );
        }
        Ok(readings)
    }

    /// `text` without the registry's host in front, if that stands there, in capital letters or small ones.
    #[must_use]
    pub fn without_host<'a>(text: &'a str, host: &str) -> Option<&'a str> {
        let (front, rest) = text.split_at_checked(host.len())?;
        let is_host = !host.is_empty() && front.eq_ignore_ascii_case(host);
        rest.strip_prefix('/').filter(|_| is_host)
    }
}

/// What was found, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stories {
    /// Pushes that were taken.
    pub pushes: Vec<PushStory>,
    /// Pushes that were dropped.
    pub dropped: Vec<DroppedStory>,
}

/// A push and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushStory {
    /// Larger than that of every older push.
    pub id: i64,
    /// Its sequence number.
    pub sequence: u64,
    /// Where it was pushed.
    pub repository: String,
    /// By which tag; empty when by digest.
    pub tag: String,
    /// What was pushed, if that was written down.
    pub digest: Option<String>,
    /// What kind it is.
    pub media_type: Option<String>,
    /// How many blobs the notification listed with their sizes.
    pub listed: Option<u64>,
    /// When, if that was written down.
    pub taken_at: Option<Timestamp>,
    /// The registry's event id, or empty.
    pub event_id: String,
    /// Who pushed it, or empty.
    pub actor: String,
    /// To whom it goes.
    pub deliveries: Vec<DeliveryStory>,
}

/// A delivery and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryStory {
    /// To whom.
    pub endpoint: String,
    /// Its `webhook-id`.
    pub webhook_id: String,
    /// `pending`, `delivered`, `superseded`, `dead_letter`, or `unknown`.
    pub state: String,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The earliest moment of the next attempt.
    pub next_at: Option<Timestamp>,
    /// As it was sent last; `None`: not known in time.
    pub image_size: Option<u64>,
    /// How many layers were sent.
    pub layers: Option<u64>,
    /// As it was sent last; `None`: not known in time.
    pub repository_size: Option<u64>,
    /// Why it was given up, if it was and that was written down.
    pub reason: Option<String>,
    /// How its endpoint is, if that holds it up. Not of the history: whoever tells the story knows, or doesn't.
    pub endpoint_health: Option<EndpointHealth>,
    /// How many attempts there were, as far as is written down.
    pub attempts_made: u64,
    /// Those that are kept, in order.
    pub attempts: Vec<AttemptStory>,
}

impl DeliveryStory {
    /// Whether there may have been more attempts than are written down: the process that made the last ones was killed
    /// before they were, so that the journal alone tells of the end.
    #[must_use]
    pub fn may_have_had_more(&self) -> bool {
        self.state != "pending" && self.ended_at.is_none()
    }
}

/// How an endpoint is that is not healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointHealth {
    /// `failing`, `paused`, `ignored`, `disabled`, or `held`.
    pub state: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The earliest moment of the next attempt of any push; `None` when there is none.
    pub next_attempt: Option<Timestamp>,
}

impl EndpointHealth {
    /// When a push has its next attempt at the earliest that waits until `next_at` for its own sake; `None` when there is
    /// none, or it is not known when.
    #[must_use]
    pub fn waits_until(&self, next_at: Option<Timestamp>) -> Option<Timestamp> {
        self.next_attempt
            .map(|endpoint| next_at.unwrap_or(endpoint).max(endpoint))
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptStory {
    /// From 1.
    pub number: u64,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub elapsed: Duration,
    /// What was answered, if anything was.
    pub status: Option<u16>,
    /// Whose fault the failure was: `endpoint`, `push`, `gone` (the endpoint's, for good) or `shipbell` (this
    /// machine had nothing left to connect with).
    pub fault: Option<String>,
    /// What went wrong.
    pub reason: Option<String>,
    /// The earliest moment of the attempt after this one.
    pub retry_at: Option<Timestamp>,
    /// Where it went, masked; `None` when no request could be made.
    pub url: Option<String>,
    /// The headers, a line each, credentials masked.
    pub headers: Option<String>,
    /// The body, or its beginning.
    pub body: Option<Vec<u8>>,
    /// How long the body was.
    pub body_bytes: Option<u64>,
    /// The answer's beginning.
    pub answer: Option<Vec<u8>>,
    /// How much of the answer was read.
    pub answer_bytes: Option<u64>,
}

/// A push that no webhook was owed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedStory {
    /// When it came.
    pub at: Timestamp,
    /// By which rule it was dropped.
    pub rule: String,
    /// Where it was pushed.
    pub repository: String,
    /// By which tag; empty when by digest.
    pub tag: String,
    /// What was pushed.
    pub digest: String,
    /// The registry's event id, or empty.
    pub event_id: String,
    /// Who pushed it, or empty.
    pub actor: String,
}
