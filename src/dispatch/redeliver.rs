//! What somebody sends by hand: one delivery again, or a test.
//!
//! Both are one attempt, now, of which the caller learns what was sent and what came back. For each endpoint there is
//! one such attempt at a time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use rand::RngExt;
use tokio::time::{Instant, timeout};
use tracing::info;

use super::{
    Dispatcher, Parts,
    again::WAITING_MAX,
    authority::{Authority, By},
    delivery::{Attempted, Counts},
    health::{Event, State},
    letters::LettersError,
    newer::Newer,
    of_letter,
    turn::Turn,
};
use crate::{
    catalog::{
        ANSWER_BYTES_MAX, PastDelivery, ReadError, Reader,
        mask::{self, Mask},
    },
    clock::Timestamp,
    image::{Digest, MediaType, RepositoryName, Tag},
    journal::JournalId,
    locked::Locked as _,
    push::{EndpointId, Sequence},
    settings::{KeptLetter, Letter, LetterState, Order},
    webhook::{
        Endpoint, Outcome, Sizes,
        format::{EventKind, Message},
        sign::webhook_id,
    },
};

/// The tag of a test.
pub const TEST_TAG: &str = "shipbell-test";

/// The repository of a test of an endpoint that has many, unless another is named.
const TEST_REPOSITORY: &str = "shipbell/test";

/// The endpoints to which somebody sends by hand just now.
#[derive(Debug, Default)]
pub(super) struct ByHand(Mutex<HashSet<EndpointId>>);

/// The right to send to an endpoint by hand.
pub(super) struct Hand<'a>(&'a ByHand, EndpointId);

impl ByHand {
    pub(super) fn take(&self, endpoint: &EndpointId) -> Result<Hand<'_>, SendAgainError> {
        let mut taken = self.0.locked();
        if taken.insert(endpoint.clone()) {
            Ok(Hand(self, endpoint.clone()))
        } else {
            Err(SendAgainError::Busy)
        }
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        let mut taken = self.0.0.locked();
        taken.remove(&self.1);
    }
}

/// An attempt that was made by hand, without any secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its `webhook-id`.
    pub webhook_id: String,
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub elapsed: Duration,
    /// What was made of it.
    pub outcome: Outcome,
    /// Whether there was a connection to send it by.
    pub is_connected: bool,
    /// Where it went, masked; `None` when no request could be made.
    pub url: Option<String>,
    /// The headers that were sent, a line each, credentials masked.
    pub headers: String,
    /// The body that was sent.
    pub body: Bytes,
    /// The answer's first 4 KiB, secrets of the request masked; `None` when there was no answer.
    pub answer: Option<Bytes>,
    /// How much of the answer was read, bytes.
    pub answer_bytes: usize,
}

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum SendAgainError {
    /// Nothing can be sent to that endpoint: a sentence.
    #[error("{0}")]
    Refused(String),
    /// Neither a dead letter nor the history knows of such a delivery, or not enough.
    #[error("There is nothing known of this delivery any more that could be sent.")]
    Unknown,
    /// It waits for its turn, or is in flight.
    #[error("This delivery is not over yet: it will be sent without that.")]
    Owed,
    /// It is a dead letter that is to be sent again.
    #[error("This delivery is a dead letter that is being replayed already.")]
    Replaying,
    /// A newer push of its tag is known.
    #[error(
        "There is a newer push of this tag for this endpoint; sending the older one again has to be forced."
    )]
    Newer,
    /// Somebody sends to the endpoint by hand just now, or its turn did not come in time.
    #[error("The endpoint is busy; try again in a moment.")]
    Busy,
    /// A set of too many deliveries.
    #[error(
        "These are more than {WAITING_MAX} deliveries: ask for fewer at once, by time, endpoint or state."
    )]
    TooMany,
    /// So many wait that these have no room.
    #[error(
        "{waiting} deliveries wait to be sent again already, and there is room for {WAITING_MAX}: try again when \
         they are sent."
    )]
    Full {
        /// How many wait.
        waiting: usize,
    },
    /// Dead letters can't be had.
    #[error(transparent)]
    Letters(#[from] LettersError),
    /// The history can't be read.
    #[error(transparent)]
    History(#[from] ReadError),
}

/// What came of sending a delivery again.
#[derive(Debug)]
pub enum Redelivered {
    /// It was sent.
    Sent(Box<Sent>),
    /// It was not over yet, and waited for its next attempt, which is due now.
    Due,
}

impl Dispatcher {
    /// Sends a delivery again, now, whether it was delivered, is a dead letter, or was superseded; of a push that
    /// `journal` took, or this one if `None`. Its `webhook-id` is the same. If it is a dead letter, it goes on 2xx. One
    /// that was refused and waits for its next attempt waits no longer, nor does one that is the next to be sent to an
    /// endpoint that is failing or paused, if the `authority` is over that: the endpoint is as well waited for on behalf of
    /// others. For the same reason a failure counts against it with that authority alone: nobody owed this attempt.
    ///
    /// # Errors
    /// See [`SendAgainError`]. A failed attempt is none.
    pub async fn redeliver(
        &self,
        journal: Option<JournalId>,
        sequence: Sequence,
        endpoint: &EndpointId,
        order: Order,
        authority: Authority,
    ) -> Result<Redelivered, SendAgainError> {
        let journal = journal.unwrap_or(self.0.parts.journal.id());
        self.receiver(endpoint)?;
        let _hand = self.0.by_hand.take(endpoint)?;
        let by = By::Hand(authority.over(endpoint));
        self.send_again(journal, sequence, endpoint, order, by).await
    }

    /// What an endpoint is set to that something can be sent to again.
    fn receiver(&self, endpoint: &EndpointId) -> Result<Arc<Endpoint>, SendAgainError> {
        if let Some(sentence) = self.refusal(endpoint) {
            return Err(SendAgainError::Refused(sentence));
        }
        let settings = self.0.parts.endpoints.get(endpoint);
        settings.ok_or(SendAgainError::Unknown)
    }

    /// The same for whoever is the only one to do it for the endpoint.
    pub(super) async fn send_again(
        &self,
        journal: JournalId,
        sequence: Sequence,
        endpoint: &EndpointId,
        order: Order,
        by: By,
    ) -> Result<Redelivered, SendAgainError> {
        let settings = self.receiver(endpoint)?;
        let (kept, past) = self.kept_or_past(journal, sequence, endpoint).await?;
        let letter = &kept.letter;
        let is_own = journal == self.0.parts.journal.id();
        let queue = &self.0.parts.queue;
        if is_own && queue.owes(&letter.repository, endpoint, sequence) {
            let may_hurry = by == By::Hand(Authority::Endpoint);
            return self.hurry(&letter.repository, endpoint, sequence, may_hurry);
        }
        if is_own {
            self.check_dying(sequence, endpoint)?;
        }
        let (sizes, turn) = self.sizes_and_turn(letter, &settings, by).await?;
        let resending = self.0.resent.begin_alone(&of_letter(letter))?;
        if is_own {
            // It may have been given up just when it was looked for above. If its letter is written, that is seen next.
            self.check_dying(sequence, endpoint)?;
        }
        let (still, _) = self.kept_or_past(journal, sequence, endpoint).await?;
        if still.id != kept.id {
            // Meanwhile it was delivered or discarded, or became a letter.
            return Err(SendAgainError::Unknown);
        }
        let checked = self.newer(vec![kept.clone()], order).await?;
        if checked.iter().any(|(_, newer)| *newer == Newer::Known) {
            return Err(SendAgainError::Newer);
        }
        self.receiver(endpoint)?;
        // It may be set otherwise by now, or have failed.
        if !self.stands(&settings) || !self.may_go(by, endpoint) {
            return Err(SendAgainError::Busy);
        }
        let aside = match by {
            By::Hand(_) => None,
            By::Set(..) => Some(queue.send_aside(endpoint).ok_or(SendAgainError::Busy)?),
        };
        let counts = Counts::of(by.authority());
        let attempted = self.send_letter(&settings, letter, (&sizes, counts), turn).await;
        drop((resending, aside));
        let is_delivered = matches!(attempted.outcome, Outcome::Delivered { .. });
        match past {
            None => self.keep_outcome(&kept, &attempted).await,
            Some(past) if is_own && is_delivered && past.state != "delivered" => {
                self.write_delivered(&of_letter(letter));
            }
            Some(_) => {}
        }
        let id = webhook_id(journal, sequence, endpoint);
        Ok(Redelivered::Sent(Box::new(sent(id, attempted))))
    }

    /// What was given up ends as a dead letter, whatever is sent before that is written: sent as well, it would be both.
    fn check_dying(&self, sequence: Sequence, endpoint: &EndpointId) -> Result<(), SendAgainError> {
        let dying = self.0.dying.of(&HashSet::from([sequence]));
        if dying.contains(&(sequence, endpoint.clone())) {
            let sentence = "This delivery was given up, and its dead letter is not written yet: try again in a moment. If \
                            that lasts, see the log for what keeps shipbell from writing settings.db.";
            return Err(SendAgainError::Refused(sentence.to_owned()));
        }
        Ok(())
    }

    /// Whether the endpoint's state is no reason to wait. Somebody who asks for one delivery has it tried.
    fn may_go(&self, by: By, endpoint: &EndpointId) -> bool {
        match by {
            By::Hand(_) => true,
            By::Set(_, leave) => leave.holds(self.0.parts.states.state(endpoint)),
        }
    }

    /// What is to be sent: a dead letter or, if it is none, what the history knows.
    async fn kept_or_past(
        &self,
        journal: JournalId,
        sequence: Sequence,
        endpoint: &EndpointId,
    ) -> Result<(KeptLetter, Option<PastDelivery>), SendAgainError> {
        let id = endpoint.clone();
        let kept = self.with_settings(move |settings| settings.letter_of(journal, sequence, &id));
        match kept.await? {
            Some(kept) if kept.state == LetterState::Replaying => Err(SendAgainError::Replaying),
            Some(kept) => Ok((kept, None)),
            None => {
                let (past, kept) = self.past(journal, sequence, endpoint).await?;
                Ok((kept, Some(past)))
            }
        }
    }

    /// A letter's sizes, and its turn, unless the endpoint's URL can't be used, which the attempt says. Nothing new is begun
    /// once the process is to end.
    async fn sizes_and_turn(
        &self,
        letter: &Letter,
        settings: &Arc<Endpoint>,
        by: By,
    ) -> Result<(Sizes, Option<Turn>), SendAgainError> {
        let soft = self.0.parts.tasks.soft();
        let stopping = || SendAgainError::Letters(LettersError::Stopping);
        let sizes = soft.run_until_cancelled(self.sizes_of(letter)).await;
        let sizes = sizes.ok_or_else(stopping)?;
        let Ok(target) = self.0.parts.client.target(settings) else {
            return Ok((sizes, None));
        };
        // It may be stopped by hand while this waits.
        let is_wanted = || self.refusal(&settings.id).is_none() && self.may_go(by, &settings.id);
        let turn = timeout(by.turn_within(), self.turn(settings, &target, is_wanted));
        let turn = soft.run_until_cancelled(turn).await.ok_or_else(stopping)?;
        // Or it is set otherwise by now.
        match turn.ok().flatten() {
            Some(turn) => Ok((sizes, Some(turn))),
            None => self.receiver(&settings.id).and(Err(SendAgainError::Busy)),
        }
    }

    /// Has an owed push sent now that waits for its next attempt, or says why not.
    fn hurry(
        &self,
        repository: &RepositoryName,
        endpoint: &EndpointId,
        sequence: Sequence,
        may_hurry: bool,
    ) -> Result<Redelivered, SendAgainError> {
        let Parts { queue, states, .. } = &self.0.parts;
        let view = states.view(endpoint);
        let waits = matches!(view.state, State::Failing | State::Paused);
        let next = view
            .next_attempt
            .filter(|next| waits && *next > self.0.parts.steady.now());
        // One that waited for its own sake waits for its endpoint at most from now on.
        if queue.hurry(repository, endpoint, sequence, Instant::now()) {
            return Ok(Redelivered::Due);
        }
        let Some(next) = next else {
            return Err(SendAgainError::Owed);
        };
        let first = queue.first_in_line(endpoint);
        let is_first = first.as_ref() == Some(&(repository.clone(), sequence));
        if is_first && may_hurry {
            states.hurry_one(endpoint);
            return Ok(Redelivered::Due);
        }
        // Whoever may see this repository may not know of others.
        let ahead = match first.filter(|_| !is_first) {
            Some((other, first)) if other == *repository => {
                let id = webhook_id(self.0.parts.journal.id(), first, endpoint);
                format!(", and an older push ({id}) goes first")
            }
            Some(_) => ", and an older push of another repository goes first".to_owned(),
            None => String::new(),
        };
        Err(SendAgainError::Refused(format!(
            "The endpoint {endpoint} is {}: its next attempt is at {next}{ahead}. Enable the endpoint, or send it a test \
             that passes, and all that it is owed goes at once, in order.",
            view.state
        )))
    }

    /// Sends a test to an endpoint, now, as if something had been pushed to `repository`. One that passes heals the
    /// endpoint; one that fails says nothing of it.
    ///
    /// # Errors
    /// There is no such endpoint, or somebody sends to it by hand just now.
    pub async fn test(
        &self,
        endpoint: &EndpointId,
        repository: Option<&RepositoryName>,
    ) -> Result<Sent, SendAgainError> {
        let Some(settings) = self.0.parts.endpoints.get(endpoint) else {
            let sentence = format!("There is no endpoint {endpoint}.");
            return Err(SendAgainError::Refused(sentence));
        };
        let _hand = self.0.by_hand.take(endpoint)?;
        let own = match endpoint {
            EndpointId::Repository(name) => Some(name),
            EndpointId::Named(_) => None,
        };
        let repository = repository
            .or(own)
            .cloned()
            .or_else(|| TEST_REPOSITORY.parse().ok());
        let (Some(repository), Ok(tag)) = (repository, TEST_TAG.parse::<Tag>()) else {
            return Err(SendAgainError::Unknown);
        };
        let attempted = self.send_test(&settings, &repository, &tag).await;
        if let Outcome::Delivered { status } = attempted.1.outcome
            && !attempted.1.is_of_the_past
        {
            let reason = format!("a test was answered {status}");
            self.0.parts.states.happen(endpoint, Event::Healed, &reason);
        }
        let elapsed_ms = attempted.1.elapsed.as_millis();
        info!(%endpoint, %repository, elapsed_ms, outcome = ?attempted.1.outcome, "a test was sent");
        Ok(sent(attempted.0, attempted.1))
    }

    async fn send_test(
        &self,
        endpoint: &Endpoint,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> (String, Attempted) {
        let message = Message {
            repository,
            tag: Some(tag),
            digest: &Digest::sha256(TEST_TAG.as_bytes()),
            public_host: &self.0.options.public_host,
            sizes: &Sizes::default(),
            event: EventKind::Test,
            at: self.0.parts.clock.now(),
        };
        let id = format!("test_{:032x}", rand::rng().random::<u128>());
        let attempted = self.request(endpoint, &message, &id).await;
        (id, attempted)
    }

    /// What the history knows of a delivery.
    async fn past(
        &self,
        journal: JournalId,
        sequence: Sequence,
        endpoint: &EndpointId,
    ) -> Result<(PastDelivery, KeptLetter), SendAgainError> {
        let path = self.0.parts.history_file.clone().ok_or(SendAgainError::Unknown)?;
        let id = endpoint.clone();
        let read = move || Reader::open(&path)?.delivery(journal, sequence, &id);
        let read = tokio::task::spawn_blocking(read).await;
        let past = read.map_err(|_| LettersError::Stopping)??;
        let past = past.ok_or(SendAgainError::Unknown)?;
        let letter = letter_of(journal, sequence, endpoint, &past).ok_or(SendAgainError::Unknown)?;
        // No letter has this number, and nothing is done by it.
        let (id, state) = (0, LetterState::Dead);
        Ok((past, KeptLetter { id, state, letter }))
    }
}

/// What is known of a past delivery, as a letter would have it; `None` if it is not enough.
pub(super) fn letter_of(
    journal: JournalId,
    sequence: Sequence,
    endpoint: &EndpointId,
    past: &PastDelivery,
) -> Option<Letter> {
    let taken_at = past.taken_at.unwrap_or_default();
    Some(Letter {
        journal,
        sequence,
        endpoint: endpoint.clone(),
        repository: past.repository.parse().ok()?,
        tag: match past.tag.as_str() {
            "" => None,
            tag => Some(tag.parse().ok()?),
        },
        digest: past.digest.as_ref()?.parse().ok()?,
        media_type: MediaType::parse(past.media_type.as_ref()?)?,
        manifest_size: past.manifest_size.unwrap_or_default(),
        references: Vec::new(),
        event_id: past.event_id.clone(),
        actor: past.actor.clone(),
        taken_at,
        died_at: taken_at,
        reason: String::new(),
        attempts: None,
    })
}

fn sent(webhook_id: String, attempted: Attempted) -> Sent {
    let request = attempted.request.as_ref();
    let mask = request.map(Mask::of).unwrap_or_default();
    let answer = attempted
        .answer
        .as_ref()
        .ok()
        .map(|answer| mask.apply(&answer.body));
    Sent {
        webhook_id,
        at: attempted.at,
        elapsed: attempted.elapsed,
        is_connected: !matches!(&attempted.answer, Err(error) if error.is_before_sending()),
        url: request.map(|request| request.target().to_string()),
        headers: request
            .map(|request| mask::headers(request.headers()))
            .unwrap_or_default(),
        body: request.map(|request| request.body().clone()).unwrap_or_default(),
        answer_bytes: answer.as_ref().map_or(0, Bytes::len),
        answer: answer.map(|answer| answer.slice(..answer.len().min(ANSWER_BYTES_MAX))),
        outcome: attempted.outcome,
    }
}
