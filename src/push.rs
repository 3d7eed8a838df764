//! What the registry told us, as the rest of shipbell knows it: pushes, and the changes that only
//! move sizes.

use std::{fmt, num::NonZeroU64, str::FromStr, sync::Arc};

use crate::{
    clock::Timestamp,
    image::{BlobType, Digest, InvalidName, MediaType, RepositoryName, Tag},
};

/// A push's place in the order in which pushes were taken: 1, 2, 3, … over the journal's whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(NonZeroU64);

impl Sequence {
    /// The first there is.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The sequence number `number`; `None` for 0, which is nobody's.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One endpoint's share in a push: what is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The push.
    pub sequence: Sequence,
    /// Which of the endpoints that owed it when it was taken: an index into [`Push::owed`].
    pub place: u16,
}

/// Who an endpoint is, whatever its URL says today: this is what owes a push.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointId {
    /// The operator's, by its `name` in the configuration file.
    Named(Arc<str>),
    /// A repository's own, typed on its settings page.
    Repository(RepositoryName),
}

impl EndpointId {
    /// The identity that a text names; one of a repository whose name is none is the operator's.
    #[must_use]
    pub fn named(text: &str) -> Self {
        text.parse().unwrap_or_else(|_| Self::Named(text.into()))
    }
}

/// As its `Display` writes it.
impl FromStr for EndpointId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.strip_prefix("repository:") {
            None => Ok(Self::Named(text.into())),
            Some(name) => name.parse().map(Self::Repository),
        }
    }
}

/// `ci` for the operator's endpoint of that name, `repository:acme/app` for a repository's own. No
/// operator's name has a colon, so the two never meet.
impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Repository(name) => write!(f, "repository:{name}"),
        }
    }
}

/// One blob or manifest as an event's `target.references` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// What it is, in the registry's words.
    pub media_type: BlobType,
    /// Compressed size as stored, in bytes.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
    /// Whether it names `urls` of its own: a foreign layer, which the registry need not hold.
    pub has_urls: bool,
}

/// An accepted event: a manifest or an index was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The registry's event id, as it came; empty when it had none.
    pub event_id: String,
    /// Where it was pushed.
    pub repository: RepositoryName,
    /// By which tag; `None` when it was pushed by digest.
    pub tag: Option<Tag>,
    /// What was pushed.
    pub digest: Digest,
    /// The pushed manifest's media type.
    pub media_type: MediaType,
    /// The pushed manifest's own size in bytes; 0 when the event did not say.
    pub manifest_size: u64,
    /// Config and layers, in that order, where the event listed them. Empty when it did not.
    pub references: Vec<Reference>,
    /// Who pushed it, in the registry's words; empty when anonymous.
    pub actor: String,
    /// When shipbell took it.
    pub taken_at: Timestamp,
    /// The endpoints that owe it, fixed when it was taken; each once, at least one, at most 65,535.
    pub owed: Vec<EndpointId>,
}

/// A change that needs no webhook but moves sizes.
///
/// Changes and pushes of one registry are applied in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The tag names this digest now.
    Tagged {
        /// In this repository.
        repository: RepositoryName,
        /// The tag that was written.
        tag: Tag,
        /// What it names now.
        digest: Digest,
    },
    /// The tag is gone.
    Untagged {
        /// In this repository.
        repository: RepositoryName,
        /// The tag that was removed.
        tag: Tag,
    },
    /// The manifest is there, whatever was known of it before.
    Held {
        /// In this repository.
        repository: RepositoryName,
        /// What was pushed.
        digest: Digest,
    },
    /// The manifest or blob is gone, and with it every tag that named it.
    Deleted {
        /// In this repository.
        repository: RepositoryName,
        /// What was removed.
        digest: Digest,
    },
    /// Something may have happened to any of its tags: what they name is to be asked for.
    Doubted {
        /// This repository.
        repository: RepositoryName,
    },
    /// The whole repository is gone.
    RepositoryDeleted {
        /// This repository.
        repository: RepositoryName,
    },
}

impl Change {
    /// What a push changes. Without a tag, and although it lists nothing: the manifest is there, and may have been deleted
    /// before.
    #[must_use]
    pub fn of_push(repository: RepositoryName, tag: Option<Tag>, digest: Digest) -> Self {
        match tag {
            Some(tag) => Self::Tagged {
                repository,
                tag,
                digest,
            },
            None => Self::Held { repository, digest },
        }
    }

    /// Where it happened.
    #[must_use]
    pub fn repository(&self) -> &RepositoryName {
        let (Self::Tagged { repository, .. }
        | Self::Untagged { repository, .. }
        | Self::Held { repository, .. }
        | Self::Deleted { repository, .. }
        | Self::Doubted { repository }
        | Self::RepositoryDeleted { repository }) = self;
        repository
    }
}

/// A change as an event told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The registry's event id; empty when it had none. What comes again with it moves nothing.
    pub event_id: String,
    /// What it told.
    pub change: Change,
}

#[cfg(test)]
impl Push {
    /// A push for a test: just now, of a digest made of the tag, owed by endpoints of these names.
    pub(crate) fn plain(repository: &str, tag: &str, owed: &[&str]) -> Self {
        let named = |name: &&str| EndpointId::Named((*name).into());
        Self {
            event_id: String::new(),
            repository: repository.parse().unwrap(),
            tag: Some(tag.parse().unwrap()),
            digest: Digest::sha256(tag.as_bytes()),
            media_type: MediaType::ALL[0],
            manifest_size: 7,
            references: Vec::new(),
            actor: String::new(),
            taken_at: crate::clock::Clock::system().now(),
            owed: owed.iter().map(named).collect(),
        }
    }
}

/// How a push ended for one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// Its webhook was answered with 2xx.
    Delivered,
    /// A newer push of the same tag took its place before it was sent.
    Superseded,
    /// Given up on.
    DeadLetter,
}

impl Settlement {
    /// As people, the history and metrics say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Superseded => "superseded",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// What one event amounts to, once it passed the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// To be made durable and delivered.
    Push(Push),
    /// To be applied to sizes, in its place among the pushes.
    Change(Notice),
}

/// The [rule](Dropped::rule) of a push that passed the filter, and that no endpoint wants.
pub const NOBODY_OWES: &str = "nobody_owes";

/// A push that no webhook is owed for, as its event told it: its names need not be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// When the event came.
    pub at: Timestamp,
    /// By which rule: a key of the configuration's `[filter]`, or another word from a fixed set.
    pub rule: &'static str,
    /// Where it was pushed.
    pub repository: String,
    /// By which tag; empty when by digest.
    pub tag: String,
    /// What was pushed.
    pub digest: String,
    /// The registry's event id; empty when it had none.
    pub event_id: String,
    /// Who pushed it, in the registry's words; empty when anonymous.
    pub actor: String,
}
