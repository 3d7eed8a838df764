//! What goes out of a repository's queue: batches, leases on their members, and what ended.

use std::sync::Arc;

use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    image::{Digest, Tag},
    push::{EndpointId, Pair, Sequence, Settlement},
    webhook::Sizes,
};

/// What sizing made of one member of a batch.
#[derive(Clone, Debug)]
pub struct Content {
    /// The image's digest.
    pub digest: Digest,
    /// Its sizes, and its repository's as of the sealing.
    pub sizes: Sizes,
}

/// What one window gathered, once it has closed; or what is left of it in one lane, when its turn comes long
/// after that.
#[derive(Debug)]
pub struct Batch {
    /// When the window closed, or when its turn came.
    pub sealed_at: Instant,
    /// The pushes that survived coalescing in at least one lane, in order.
    pub members: Box<[Sequence]>,
    /// What is sent of each member, by its index. Filled once by whoever needs it first; a member that could
    /// not be read back then is filled by whoever reads it later.
    pub contents: OnceCell<Vec<OnceCell<Content>>>,
    /// The right to hold contents ahead of their turn. Without it they go when an attempt fails.
    _ahead: Option<OwnedSemaphorePermit>,
}

impl Batch {
    pub(super) fn new(
        members: Vec<Sequence>,
        sealed_at: Instant,
        ahead: Option<OwnedSemaphorePermit>,
    ) -> Arc<Self> {
        debug_assert!(members.is_sorted());
        Arc::new(Self {
            sealed_at,
            members: members.into_boxed_slice(),
            contents: OnceCell::new(),
            _ahead: ahead,
        })
    }

    /// The index among the members.
    pub(super) fn member(&self, sequence: Sequence) -> Option<usize> {
        self.members.binary_search(&sequence).ok()
    }
}

/// The bound on images that are sized, and held so, before it is their turn.
#[derive(Debug)]
pub(super) struct Ahead(Arc<Semaphore>);

impl Ahead {
    pub(super) fn new(images_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(images_max)))
    }

    pub(super) fn take(&self, images: usize) -> Option<OwnedSemaphorePermit> {
        let images = u32::try_from(images).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(images).ok()
    }
}

/// The loan of a lane's oldest push, for one attempt. Give it back with
/// [`Queue::complete`](super::Queue::complete).
#[derive(Clone, Debug)]
pub struct Lease {
    /// Whose turn it is.
    pub endpoint: Arc<EndpointId>,
    /// What is to be sent.
    pub sequence: Sequence,
    /// The endpoint's place among those that owed it at first.
    pub place: u16,
    /// The tag it was pushed by.
    pub tag: Option<Tag>,
    /// The batch it belongs to.
    pub batch: Arc<Batch>,
    /// Its index among the batch's members.
    pub member: usize,
    /// Attempts of this push that failed by its own fault.
    pub push_failures: u32,
}

impl Lease {
    /// What is recorded as settled once this is.
    #[must_use]
    pub fn pair(&self) -> Pair {
        Pair {
            sequence: self.sequence,
            place: self.place,
        }
    }
}

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The push is settled here, by an attempt.
    Settled(Settlement),
    /// It ends as a dead letter, without an attempt.
    GivenUp,
    /// It stays, and its lane waits until then: it was refused.
    Retry {
        /// The earliest moment of the next attempt.
        at: Instant,
    },
    /// It stays: the endpoint failed, and it is for its line to wait.
    Failed,
    /// It stays, as if it had never been lent: the attempt did not take place.
    Returned,
    /// It stays, and its lane waits until then; nobody is to blame.
    Later {
        /// The earliest moment of the next attempt.
        at: Instant,
    },
    /// The same, because too many wait for its host.
    Crowded {
        /// When it may join them, at the earliest.
        at: Instant,
    },
}

impl Completion {
    /// Whether an attempt was made.
    pub(super) fn is_attempt(self) -> bool {
        match self {
            Self::Settled(_) | Self::Retry { .. } | Self::Failed => true,
            Self::GivenUp | Self::Returned | Self::Later { .. } | Self::Crowded { .. } => false,
        }
    }
}

/// A push that ended for one endpoint.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The push.
    pub sequence: Sequence,
    /// The tag it was pushed by.
    pub tag: Option<Tag>,
    /// What it takes on disk, bytes.
    pub bytes: u32,
    /// The endpoint's place among those that owed it at first.
    pub place: u16,
    /// The endpoint.
    pub endpoint: Arc<EndpointId>,
    /// How it ended.
    pub how: Settlement,
    /// How many attempts there were; `None` for one that was taken before the last start, of which that is not known.
    pub attempts: Option<u32>,
    /// Whether no endpoint owes it any more.
    pub last: bool,
}

impl Settled {
    /// What is to be recorded as settled.
    #[must_use]
    pub fn pair(&self) -> Pair {
        Pair {
            sequence: self.sequence,
            place: self.place,
        }
    }
}

/// What came of giving up a push for an endpoint.
#[derive(Clone, Debug)]
pub enum GivenUp {
    /// It is settled, as a dead letter.
    Settled(Settled),
    /// It stays: an attempt is under way.
    InFlight,
    /// It is not owed there, or not yet.
    NotOwed,
}

/// What follows from a step.
#[derive(Debug, Default)]
pub struct Effects {
    /// Batches that were sealed, and may be sized ahead of their turn.
    pub sealed: Vec<Arc<Batch>>,
    /// Pushes that may be sent now.
    pub leases: Vec<Lease>,
    /// Pushes that ended.
    pub settled: Vec<Settled>,
    /// Pushes that ended as dead letters because their endpoint is given nothing, see
    /// [`Passage::GivingUp`](super::Passage::GivingUp).
    pub given_up: Vec<Settled>,
}

impl Effects {
    /// All pushes that ended.
    pub fn ended(&self) -> impl Iterator<Item = &Settled> {
        self.settled.iter().chain(&self.given_up)
    }
}

/// What an endpoint owes one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who owes it.
    pub endpoint: Arc<EndpointId>,
    /// How many pushes.
    pub pushes: u32,
    /// The oldest of them.
    pub oldest: Sequence,
}
