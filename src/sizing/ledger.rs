//! What is known of one repository: its tags, and which manifests it holds. Pure.
//!
//! Two sources speak of tags: events, which come in order, and the registry's list, read once, which may
//! lag behind an event or leave tags out. **An event wins over the list, whichever came first**; the list
//! only tells of tags that no event spoke of. From then on only events move anything.
//!
//! Each event gets a version of its own. A tag that the list told has version 0, so the deletion of a
//! digest voids every tag that named it before, those that a list under way is yet to tell included, and
//! none written after.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    roots::Roots,
    seen::{GONE_AFTER, Presence, Seen},
    unreadable::{Part, Unreadable},
};
use crate::{
    image::{Digest, Tag},
    push::Change,
};

#[derive(Debug)]
pub(super) struct Ledger {
    /// Of the last event; the first has 2, so that 0 is before any.
    version: u64,
    /// Until the list is read, `None` stands for a tag that is known to be gone.
    tags: HashMap<Tag, Told>,
    manifests: HashMap<Digest, Seen>,
    /// What the registry fails at.
    pub(super) unreadable: Unreadable,
    is_complete: bool,
    /// What the tags name, as long as it is complete.
    roots: Roots,
    /// How often the whole repository was deleted.
    emptied: u64,
    /// When it was last heard that something may have happened that was not told, until a list tells all of it.
    doubted_at: Option<Instant>,
    /// The version from which on events and answers came after that.
    doubted_version: u64,
    /// Since when events are heard and remembered; `None` for ever.
    heard_since: Option<Instant>,
    /// How often an event told of what may move a tag.
    moves: u64,
    /// When the list was last found to be in need of another reading.
    reopened_at: Option<Instant>,
}

/// A list that is read so soon after a doubt may lack what was the reason for it: a push is told before its tag is
/// written. One reading follows another no sooner either, however many doubts there are.
const SHOWS_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Told {
    digest: Option<Digest>,
    at: u64,
}

/// The repository as it was at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    as_of: u64,
    at: Instant,
    emptied: u64,
    tagged: Tagged,
}

impl Snapshot {
    /// All that was tagged, if that is known.
    pub(super) fn roots(&self) -> Option<&Roots> {
        match &self.tagged {
            Tagged::All(roots) => Some(roots),
            Tagged::Told(_) => None,
        }
    }
}

#[derive(Debug)]
enum Tagged {
    All(Roots),
    /// The list was not read yet: only what events had told.
    Told(HashMap<Tag, Option<Digest>>),
}

impl Default for Ledger {
    fn default() -> Self {
        Self::heard_since(Instant::now())
    }
}

impl Ledger {
    /// A new one; events of its repository are heard since then, and none was forgotten.
    pub(super) fn heard_since(since: Instant) -> Self {
        Self {
            version: 1,
            tags: HashMap::new(),
            manifests: HashMap::new(),
            unreadable: Unreadable::default(),
            is_complete: false,
            roots: Roots::default(),
            emptied: 0,
            doubted_at: None,
            doubted_version: 0,
            heard_since: Some(since),
            moves: 0,
            reopened_at: None,
        }
    }

    /// Something may have happened at `now` that was not told. A reading under way goes on: the next one tells.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.version += 1;
        self.doubted_at = Some(now);
        self.doubted_version = self.version;
    }

    /// Has the list read anew if it was read before a doubt, or too soon after.
    pub(super) fn reopen_if_doubted(&mut self, now: Instant) {
        let is_soon = |reopened_at| now < reopened_at + SHOWS_AFTER;
        if self.is_complete && self.doubted_at.is_some() && !self.reopened_at.is_some_and(is_soon) {
            self.is_complete = false;
            self.reopened_at = Some(now);
            self.forget_doubted();
        }
    }

    /// Forgets what was known before the last doubt, as a list is about to be read. What events told since stays.
    pub(super) fn forget_doubted(&mut self) {
        if self.is_complete || self.doubted_at.is_none() {
            return;
        }
        let since = self.doubted_version;
        self.tags.retain(|_, told| told.at >= since);
        self.manifests.retain(|_, seen| seen.newest() >= since);
        self.heard_since = self.doubted_at;
    }

    /// Applies what an event told.
    pub(super) fn apply(&mut self, change: &Change) {
        self.version += 1;
        self.moves += u64::from(!matches!(change, Change::Held { .. }));
        match change {
            Change::Tagged { tag, digest, .. } => {
                let told = Told {
                    digest: Some(digest.clone()),
                    at: self.version,
                };
                let before = self.tags.insert(tag.clone(), told);
                if self.is_complete {
                    self.unroot(before);
                    self.roots.add(digest);
                }
                self.unreadable.forget_any(|| Part::Tag(tag.clone()));
                self.hold(digest, self.version);
            }
            Change::Untagged { tag, .. } if self.is_complete => {
                let before = self.tags.remove(tag);
                self.unroot(before);
            }
            Change::Untagged { tag, .. } => {
                self.tags.insert(
                    tag.clone(),
                    Told {
                        digest: None,
                        at: self.version,
                    },
                );
            }
            Change::Held { digest, .. } => self.hold(digest, self.version),
            Change::Deleted { digest, .. } => {
                let seen = self.manifests.entry(digest.clone()).or_default();
                seen.delete(self.version);
                self.roots.remove_all(digest);
            }
            // It is a matter of time, too.
            Change::Doubted { .. } => {}
            Change::RepositoryDeleted { .. } => {
                // An empty repository is known as a whole, without any list.
                self.tags.clear();
                self.manifests.clear();
                self.unreadable.clear();
                self.roots = Roots::default();
                self.is_complete = true;
                self.emptied += 1;
                self.heard_since = None;
                self.doubted_at = None;
            }
        }
    }

    /// The version up to which events are applied.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// How often an event told of what may move a tag.
    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    /// How many tags there are, once the list was read, but for those that name what was deleted.
    pub(super) fn tag_count(&self) -> Option<usize> {
        self.is_complete.then(|| self.roots.tags())
    }

    /// The manifest is there, or was at `version`. Where the registry failed at it, it may have been written anew.
    pub(super) fn hold(&mut self, digest: &Digest, version: u64) {
        self.unreadable.forget_any(|| Part::Manifest(digest.clone()));
        self.manifests.entry(digest.clone()).or_default().hold(version);
    }

    /// The registry, asked at `version`, answers that it does not have the manifest. That nobody pushed it is sure only
    /// once any push of it would have been heard.
    pub(super) fn miss(&mut self, digest: &Digest, version: u64, now: Instant) {
        let would_be_heard = self.heard_since.is_none_or(|since| now >= since + GONE_AFTER);
        let seen = self.manifests.entry(digest.clone()).or_default();
        seen.miss(version, now, would_be_heard);
    }

    /// Whether the manifest was pushed, and nobody found it missing: the registry has it, or will have it in a moment.
    pub(super) fn is_expected(&self, digest: &Digest) -> bool {
        self.manifests.get(digest).is_some_and(Seen::is_expected)
    }

    /// Whether the registry doesn't have the manifest, although it was pushed and no event told that it was deleted.
    pub(super) fn is_missed(&self, digest: &Digest) -> bool {
        self.manifests.get(digest).is_some_and(Seen::is_missed)
    }

    /// Whether the repository had the manifest at the moment of `snapshot`.
    pub(super) fn presence(&self, digest: &Digest, snapshot: &Snapshot) -> Presence {
        let seen = self.manifests.get(digest);
        seen.map_or(Presence::Unknown, |seen| {
            seen.presence(snapshot.as_of, snapshot.at)
        })
    }

    /// The same of a manifest that was tagged then.
    pub(super) fn tagged_presence(&self, digest: &Digest, snapshot: &Snapshot) -> Presence {
        let seen = self.manifests.get(digest);
        seen.map_or(Presence::Held, |seen| seen.tagged_presence(snapshot.at))
    }

    fn is_void(&self, digest: &Digest, told_at: u64) -> bool {
        self.manifests
            .get(digest)
            .is_some_and(|seen| seen.gone_at() > told_at)
    }

    /// What a tag names, unless that was deleted.
    fn live<'a>(&self, told: &'a Told) -> Option<&'a Digest> {
        told.digest
            .as_ref()
            .filter(|digest| !self.is_void(digest, told.at))
    }

    /// A tag no longer names what it did.
    fn unroot(&mut self, before: Option<Told>) {
        if let Some(before) = before
            && let Some(digest) = self.live(&before).cloned()
        {
            self.roots.remove(&digest);
        }
    }

    /// The repository as it is at `now`, as far as it is known.
    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let live = |told: &Told| self.live(told).cloned();
        let tagged = if self.is_complete {
            Tagged::All(self.roots.clone())
        } else {
            Tagged::Told(
                self.tags
                    .iter()
                    .map(|(tag, told)| (tag.clone(), live(told)))
                    .collect(),
            )
        };
        Snapshot {
            as_of: self.version,
            at: now,
            emptied: self.emptied,
            tagged,
        }
    }

    /// What was tagged at the moment of `snapshot`; `None` when that can't be told any more, because the list was not read
    /// before the repository was deleted, or not yet, because it is to be read anew.
    ///
    /// Where the list was read after that moment, a tag that was written in between is left out: the list
    /// can't tell what it named before, most often nothing.
    pub(super) fn roots(&self, snapshot: &Snapshot) -> Option<Vec<Digest>> {
        let told = match &snapshot.tagged {
            Tagged::All(roots) => return Some(roots.iter().cloned().collect()),
            Tagged::Told(_) if !self.is_complete || self.emptied != snapshot.emptied => return None,
            Tagged::Told(told) => told,
        };
        let listed = self.tags.iter().filter_map(|(tag, known)| {
            let digest = known.digest.as_ref()?;
            let is_listed = known.at == 0 && !told.contains_key(tag) && !self.is_void(digest, 0);
            is_listed.then_some(digest)
        });
        Some(told.values().flatten().chain(listed).cloned().collect())
    }

    /// Whether the list was read.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// How often the whole repository was deleted.
    pub(super) fn emptied(&self) -> u64 {
        self.emptied
    }

    /// Whether an event spoke of the tag, so that the list has nothing to add.
    pub(super) fn is_told(&self, tag: &Tag) -> bool {
        self.tags.contains_key(tag)
    }

    /// Takes what the list told, read at `read_at` when the repository had been deleted `emptied` times.
    pub(super) fn complete(
        &mut self,
        emptied: u64,
        read_at: Instant,
        listed: impl IntoIterator<Item = (Tag, Digest)>,
    ) {
        if self.is_complete || self.emptied != emptied {
            return;
        }
        for (tag, digest) in listed {
            if !self.is_void(&digest, 0) {
                self.tags.entry(tag).or_insert(Told {
                    digest: Some(digest),
                    at: 0,
                });
            }
        }
        self.tags.retain(|_, told| told.digest.is_some());
        self.is_complete = true;
        let mut roots = Roots::default();
        for digest in self.tags.values().filter_map(|told| self.live(told)) {
            roots.add(digest);
        }
        self.roots = roots;
        self.doubted_at = self
            .doubted_at
            .filter(|doubted_at| read_at < *doubted_at + SHOWS_AFTER);
    }

    /// How many tags and manifests are kept.
    pub(super) fn len(&self) -> usize {
        self.tags.len() + self.manifests.len() + self.unreadable.len()
    }
}

#[cfg(test)]
mod tests;
