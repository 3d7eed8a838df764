//! What a dead letter is, and how some of them are asked for.

use globset::GlobMatcher;

use crate::{
    clock::Timestamp,
    glob::{Beginning, Seen},
    image::{Digest, MediaType, RepositoryName, Tag},
    journal::JournalId,
    push::{EndpointId, Push, Reference, Sequence},
};

/// Beyond so many bytes, what the registry listed of a push is not kept: its sizes are asked for again.
const LISTED_BYTES_MAX: usize = 128 * 1024;

/// The longest reason that is kept, bytes.
const REASON_BYTES_MAX: usize = 300;

/// Of the registry's own words, so many bytes are kept.
const WORDS_BYTES_MAX: usize = 1024;

/// A push that was given up on for an endpoint: all that it takes to send it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The journal that took the push.
    pub journal: JournalId,
    /// Its place in the order of that journal's pushes.
    pub sequence: Sequence,
    /// For whom it was given up.
    pub endpoint: EndpointId,
    /// Where it was pushed.
    pub repository: RepositoryName,
    /// By which tag; `None` when it was pushed by digest.
    pub tag: Option<Tag>,
    /// What was pushed.
    pub digest: Digest,
    /// What it is.
    pub media_type: MediaType,
    /// Its own bytes; 0 when the registry did not say.
    pub manifest_size: u64,
    /// Config and layers, where the registry listed them.
    pub references: Vec<Reference>,
    /// The registry's event id; empty when it had none.
    pub event_id: String,
    /// Who pushed it, in the registry's words; empty when anonymous.
    pub actor: String,
    /// When shipbell took it.
    pub taken_at: Timestamp,
    /// When it was given up on last.
    pub died_at: Timestamp,
    /// Why, in words, without any secret.
    pub reason: String,
    /// How many attempts there were; `None` when that is not known.
    pub attempts: Option<u32>,
}

impl Letter {
    /// The letter of a push that `journal` took under this number. What is too long to be kept is cut, or left out.
    #[must_use]
    pub fn of(
        journal: JournalId,
        sequence: Sequence,
        endpoint: EndpointId,
        push: Push,
        (died_at, reason, attempts): (Timestamp, &str, Option<u32>),
    ) -> Self {
        let listed: usize = push.references.iter().map(reference_bytes).sum();
        Self {
            journal,
            sequence,
            endpoint,
            repository: push.repository,
            tag: push.tag,
            digest: push.digest,
            media_type: push.media_type,
            manifest_size: push.manifest_size,
            references: if listed > LISTED_BYTES_MAX {
                Vec::new()
            } else {
                push.references
            },
            event_id: cut(&push.event_id, WORDS_BYTES_MAX).to_owned(),
            actor: cut(&push.actor, WORDS_BYTES_MAX).to_owned(),
            taken_at: push.taken_at,
            died_at,
            reason: brief(reason).to_owned(),
            attempts,
        }
    }

    /// What it takes in the file, about, with its part in the indexes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        const BASE: usize = 600;
        let listed: usize = self.references.iter().map(reference_bytes).sum();
        let names =
            3 * self.repository.as_str().len() + self.tag.as_ref().map_or(0, |tag| 3 * tag.as_str().len());
        let endpoint = 4 * match &self.endpoint {
            EndpointId::Named(name) => name.len(),
            EndpointId::Repository(name) => name.as_str().len(),
        };
        (BASE + listed + names + endpoint + self.event_id.len() + self.actor.len() + self.reason.len()) as u64
    }
}

fn reference_bytes(reference: &Reference) -> usize {
    reference.media_type.len() + 140
}

/// As much of a reason as is kept.
pub(crate) fn brief(reason: &str) -> &str {
    cut(reason, REASON_BYTES_MAX)
}

/// The beginning of a text.
fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max))
        .unwrap_or_default()
}

/// What is to become of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LetterState {
    /// It is kept.
    Dead,
    /// It is to be sent again.
    Replaying,
}

impl LetterState {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Replaying => "replaying",
        }
    }
}

/// A letter as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLetter {
    /// Its number here: what was given up later has a larger one, and none is given twice.
    pub id: i64,
    /// What is to become of it.
    pub state: LetterState,
    /// The letter.
    pub letter: Letter,
}

/// Which letters are meant: those that fulfil all of it. By default, all.
#[derive(Clone, Debug, Default)]
pub struct LetterFilter {
    /// These alone; none given means any.
    pub ids: Vec<i64>,
    /// Those of this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Those of repositories that match.
    pub repository: Option<GlobMatcher>,
    /// Those of repositories that whoever asks may see.
    pub seen: Option<Seen>,
    /// Those of this tag.
    pub tag: Option<Tag>,
    /// Those given up at that moment or later.
    pub since: Option<Timestamp>,
    /// Those given up before that moment.
    pub until: Option<Timestamp>,
}

impl LetterFilter {
    /// With what the names of the repositories begin that are meant; `None` if any may be.
    pub(super) fn beginnings(&self) -> Option<Vec<Beginning>> {
        match (&self.repository, &self.seen) {
            (Some(glob), _) => Some(vec![Beginning::of(glob.glob())]),
            (None, Some(seen)) => Some(seen.beginnings()),
            (None, None) => None,
        }
    }

    /// Whether those of a repository are meant, as far as that goes.
    #[must_use]
    pub fn is_repository_meant(&self, name: &str) -> bool {
        self.repository.as_ref().is_none_or(|glob| glob.is_match(name))
            && self.seen.as_ref().is_none_or(|seen| seen.is_match(name))
    }
}

/// Some letters, newest first. They may be fewer than were asked for although there is more: for one page only so many
/// are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterPage {
    /// The letters.
    pub letters: Vec<KeptLetter>,
    /// Behind which one the next page begins; `None` when there is no more.
    pub next: Option<i64>,
}

/// How much is kept of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterBounds {
    /// For how long, since they were given up on last.
    pub age_max: std::time::Duration,
    /// Bytes of `settings.db` that they may take.
    pub bytes_max: u64,
}

/// How many letters there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetterStats {
    /// All of them.
    pub letters: u64,
    /// Those that are to be sent again.
    pub replaying: u64,
    /// Bytes of `settings.db` that they take.
    pub bytes: u64,
    /// Bytes of `settings.db` that are in use, by whatever.
    pub used_bytes: u64,
}
