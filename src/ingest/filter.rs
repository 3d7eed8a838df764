//! Which events are worth a webhook: pure, from an event to a verdict.
//!
//! | event | verdict |
//! |---|---|
//! | push of a manifest or index that the filter lets through | [`Verdict::Push`] |
//! | push of one that it doesn't | [`Verdict::SizesOnly`] |
//! | push of one with an invalid name | [`Verdict::Invalid`] |
//! | delete | [`Verdict::Change`] |
//! | anything else: blobs, mounts, pulls (our own come back to us), another host's | [`Verdict::Ignore`] |

use super::envelope::{Descriptor, Event, Target};
use crate::{
    clock::Timestamp,
    glob::Patterns,
    image::{Digest, InvalidName, MediaType, RepositoryName, Tag},
    push::{Change, EndpointId, Notice, Push, Reference},
};

/// What the filter lets through.
#[derive(Clone, Debug)]
pub struct Options {
    /// Repositories whose pushes fire.
    pub repositories: Patterns,
    /// Of those, the ones whose pushes don't.
    pub exclude_repositories: Patterns,
    /// Tags whose pushes don't fire. A push without a tag has none to be excluded by.
    pub exclude_tags: Patterns,
    /// People whose pushes don't fire; an anonymous one's name is empty.
    pub exclude_actors: Patterns,
    /// Whether pushes by digest fire: platform children, attestations.
    pub untagged: bool,
    /// Whether pushes to tags of the referrers fallback scheme fire: signatures, attestations.
    pub referrers: bool,
    /// The `request.host`s whose events are taken; empty takes all.
    pub accept_hosts: Vec<String>,
}

/// What is to be done about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is worth a webhook, to whoever owes it.
    Push(Arrival),
    /// A manifest arrived, but it is worth no webhook: only sizes move.
    SizesOnly(Arrival, Quiet),
    /// Something was deleted.
    Change(Change),
    /// Nothing.
    Ignore(Ignored),
    /// A push that can't be: it goes to the quarantine, alone.
    Invalid(Invalid),
}

/// A manifest or an index that was pushed, before it is known who owes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The registry's event id; empty when it had none.
    pub event_id: String,
    /// Where.
    pub repository: RepositoryName,
    /// By which tag, if by any.
    pub tag: Option<Tag>,
    /// What.
    pub digest: Digest,
    /// What kind.
    pub media_type: MediaType,
    /// The manifest's own bytes; 0 when the event did not say.
    pub manifest_size: u64,
    /// Config and layers, in that order; empty when the event did not list them all properly.
    pub references: Vec<Reference>,
    /// Who, in the registry's words; empty when anonymous.
    pub actor: String,
}

impl Arrival {
    /// The push this is, taken now, owed by `owed`.
    #[must_use]
    pub fn into_push(self, taken_at: Timestamp, owed: Vec<EndpointId>) -> Push {
        Push {
            event_id: self.event_id,
            repository: self.repository,
            tag: self.tag,
            digest: self.digest,
            media_type: self.media_type,
            manifest_size: self.manifest_size,
            references: self.references,
            actor: self.actor,
            taken_at,
            owed,
        }
    }

    /// What it changes in its repository when nobody is to be told.
    #[must_use]
    pub fn into_change(self) -> Notice {
        Notice {
            event_id: self.event_id,
            change: Change::of_push(self.repository, self.tag, self.digest),
        }
    }
}

/// Which rule keeps a push quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quiet {
    /// `filter.untagged`
    Untagged,
    /// `filter.referrers`
    Referrers,
    /// `filter.repositories`
    Repository,
    /// `filter.exclude_repositories`
    ExcludedRepository,
    /// `filter.exclude_tags`
    ExcludedTag,
    /// `filter.exclude_actors`
    ExcludedActor,
}

impl Quiet {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Untagged,
        Self::Referrers,
        Self::Repository,
        Self::ExcludedRepository,
        Self::ExcludedTag,
        Self::ExcludedActor,
    ];

    /// As metrics say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untagged => "untagged",
            Self::Referrers => "referrers",
            Self::Repository => "repositories",
            Self::ExcludedRepository => "exclude_repositories",
            Self::ExcludedTag => "exclude_tags",
            Self::ExcludedActor => "exclude_actors",
        }
    }
}

/// Why an event is of no concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// Something was read.
    Pull,
    /// A blob was mounted from another repository.
    Mount,
    /// A blob was uploaded, or something that is no manifest that we know.
    NotAManifest,
    /// An action that we don't know, or none.
    OtherAction,
    /// It comes from a host that is not in `registry.accept_hosts`. Its repository may be [in doubt](Change::Doubted).
    OtherHost,
    /// A delete of something with an invalid name: there was nothing of that name.
    InvalidDelete,
}

impl Ignored {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Pull,
        Self::Mount,
        Self::NotAManifest,
        Self::OtherAction,
        Self::OtherHost,
        Self::InvalidDelete,
    ];

    /// As metrics say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Mount => "mount",
            Self::NotAManifest => "not_a_manifest",
            Self::OtherAction => "other_action",
            Self::OtherHost => "accept_hosts",
            Self::InvalidDelete => "invalid_delete",
        }
    }
}

/// What is wrong with a push.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Its repository.
    #[error(transparent)]
    Repository(InvalidName),
    /// Its tag.
    #[error(transparent)]
    Tag(InvalidName),
    /// Its digest.
    #[error(transparent)]
    Digest(InvalidName),
}

impl Invalid {
    /// As metrics and the quarantine say it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Repository(_) => "invalid_repository",
            Self::Tag(_) => "invalid_tag",
            Self::Digest(_) => "invalid_digest",
        }
    }
}

/// An event id is a UUID of 36 bytes. A longer text is stood for by its digest, so that what
/// remembers ids stays bounded.
const EVENT_ID_BYTES_MAX: usize = 128;

/// What is shown to people is cut where it is longer.
const SHOWN_CHARS_MAX: usize = 256;

/// Tells pushes worth a webhook from the rest.
#[derive(Clone, Debug)]
pub struct Filter {
    options: Options,
}

impl Filter {
    /// A filter by these rules.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// What is to be done about `event`.
    #[must_use]
    pub fn judge(&self, event: &Event<'_>) -> Verdict {
        if !self.takes_host(&event.request.host) {
            return Verdict::Ignore(Ignored::OtherHost);
        }
        match &*event.action {
            "push" => self.judge_push(event),
            "delete" => judge_delete(&event.target),
            "pull" => Verdict::Ignore(Ignored::Pull),
            "mount" => Verdict::Ignore(Ignored::Mount),
            _ => Verdict::Ignore(Ignored::OtherAction),
        }
    }

    fn takes_host(&self, host: &str) -> bool {
        let accepted = &self.options.accept_hosts;
        accepted.is_empty()
            || accepted
                .iter()
                .any(|accepted| accepted.eq_ignore_ascii_case(host))
    }

    fn judge_push(&self, event: &Event<'_>) -> Verdict {
        let Some(media_type) = MediaType::parse(&event.target.media_type) else {
            return Verdict::Ignore(Ignored::NotAManifest);
        };
        let arrival = match arrival(event, media_type) {
            Ok(arrival) => arrival,
            Err(invalid) => return Verdict::Invalid(invalid),
        };
        match self.quiet(&arrival) {
            None => Verdict::Push(arrival),
            Some(rule) => Verdict::SizesOnly(arrival, rule),
        }
    }

    /// The rule that keeps `arrival` quiet, if one does.
    fn quiet(&self, arrival: &Arrival) -> Option<Quiet> {
        let options = &self.options;
        let repository = arrival.repository.as_str();
        match &arrival.tag {
            None if !options.untagged => return Some(Quiet::Untagged),
            Some(tag) if !options.referrers && tag.is_referrer() => {
                return Some(Quiet::Referrers);
            }
            Some(tag) if options.exclude_tags.is_match(tag.as_str()) => return Some(Quiet::ExcludedTag),
            _ => {}
        }
        if !options.repositories.is_match(repository) {
            return Some(Quiet::Repository);
        }
        if options.exclude_repositories.is_match(repository) {
            return Some(Quiet::ExcludedRepository);
        }
        if options.exclude_actors.is_match(&arrival.actor) {
            return Some(Quiet::ExcludedActor);
        }
        None
    }
}

fn arrival(event: &Event<'_>, media_type: MediaType) -> Result<Arrival, Invalid> {
    let target = &event.target;
    Ok(Arrival {
        event_id: bounded_id(&event.id),
        repository: target.repository.parse().map_err(Invalid::Repository)?,
        tag: tag(target).map_err(Invalid::Tag)?,
        digest: target.digest.parse().map_err(Invalid::Digest)?,
        media_type,
        manifest_size: if target.size > 0 {
            target.size
        } else {
            target.length
        },
        references: references(media_type, &target.references).unwrap_or_default(),
        actor: cut(&event.actor.name),
    })
}

/// `text` as it is shown to people.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

/// `id` as it is remembered.
pub(super) fn bounded_id(id: &str) -> String {
    if id.len() > EVENT_ID_BYTES_MAX {
        Digest::sha256(id.as_bytes()).to_string()
    } else {
        id.to_owned()
    }
}

fn tag(target: &Target<'_>) -> Result<Option<Tag>, InvalidName> {
    if target.tag.is_empty() {
        return Ok(None);
    }
    target.tag.parse().map(Some)
}

/// What a manifest refers to, if the event tells all of it: a single doubtful one spoils the sum, and
/// the registry is asked instead. Not of an index, whose children must be looked into anyway; not of
/// schema 1, which has no sizes.
fn references(media_type: MediaType, descriptors: &[Descriptor<'_>]) -> Option<Vec<Reference>> {
    if media_type.is_index() || media_type.is_schema1() {
        return None;
    }
    descriptors.iter().map(reference).collect()
}

fn reference(descriptor: &Descriptor<'_>) -> Option<Reference> {
    // Something that is not one of its own blobs.
    if MediaType::parse(&descriptor.media_type).is_some() {
        return None;
    }
    // A size of 0 is one that was left out: no compressed layer and no config is empty.
    if descriptor.size == 0 {
        return None;
    }
    Some(Reference {
        media_type: (*descriptor.media_type).into(),
        size: descriptor.size,
        digest: descriptor.digest.parse().ok()?,
        has_urls: descriptor.has_urls,
    })
}

/// What an event of another host comes to. The host may be another name of this store's, and then one of the repository's
/// tags is another now; or another store's, and then not. The registry knows. A push without a tag moves none, nor does what
/// happens to a blob, where the event says that it is one.
pub(super) fn doubted(event: &Event<'_>) -> Option<Change> {
    let is_manifest = MediaType::parse(&event.target.media_type).is_some();
    let may_move_a_tag = match &*event.action {
        "push" => is_manifest && !event.target.tag.is_empty(),
        "delete" => is_manifest || event.target.media_type.is_empty(),
        _ => false,
    };
    let repository = event.target.repository.parse().ok().filter(|_| may_move_a_tag)?;
    Some(Change::Doubted { repository })
}

fn judge_delete(target: &Target<'_>) -> Verdict {
    match deleted(target) {
        Ok(change) => Verdict::Change(change),
        Err(_) => Verdict::Ignore(Ignored::InvalidDelete),
    }
}

fn deleted(target: &Target<'_>) -> Result<Change, InvalidName> {
    let repository = target.repository.parse()?;
    if let Some(tag) = tag(target)? {
        return Ok(Change::Untagged { repository, tag });
    }
    if target.digest.is_empty() {
        return Ok(Change::RepositoryDeleted { repository });
    }
    let digest = target.digest.parse()?;
    Ok(Change::Deleted { repository, digest })
}

#[cfg(test)]
mod tests;
