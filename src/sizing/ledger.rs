//! What is known of one repository: its tags, and which manifests it holds. Pure.
//!
//! Two sources speak of tags: events, which come in order, and the registry's list, read once, which may
//! lag behind an event or leave tags out. **An event wins over the list, whichever came first**; the list
//! only tells of tags that no event spoke of. From then on only events move anything.
//!
//! Each event gets a version of its own. A tag that the list told has version 0, so the deletion of a
//! digest voids every tag that named it before, those that a list under way is yet to tell included, and
//! none written after.

use std::collections::HashMap;

use tokio::time::Instant;

use super::seen::{Presence, Seen};
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
    is_complete: bool,
    /// How often the whole repository was deleted.
    emptied: u64,
}

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
    roots: Roots,
}

#[derive(Debug)]
enum Roots {
    /// All that was tagged; a digest may stand there more than once.
    All(Vec<Digest>),
    /// The list was not read yet: only what events had told.
    Told(HashMap<Tag, Option<Digest>>),
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            version: 1,
            tags: HashMap::new(),
            manifests: HashMap::new(),
            is_complete: false,
            emptied: 0,
        }
    }
}

impl Ledger {
    /// Applies what an event told.
    pub(super) fn apply(&mut self, change: &Change) {
        self.version += 1;
        match change {
            Change::Tagged { tag, digest, .. } => {
                self.tags.insert(
                    tag.clone(),
                    Told {
                        digest: Some(digest.clone()),
                        at: self.version,
                    },
                );
                self.hold(digest, self.version);
            }
            Change::Untagged { tag, .. } if self.is_complete => {
                self.tags.remove(tag);
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
            Change::Deleted { digest, .. } => {
                let seen = self.manifests.entry(digest.clone()).or_default();
                seen.delete(self.version);
            }
            Change::RepositoryDeleted { .. } => {
                // An empty repository is known as a whole, without any list.
                self.tags.clear();
                self.manifests.clear();
                self.is_complete = true;
                self.emptied += 1;
            }
        }
    }

    /// The version up to which events are applied.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// How many tags there are, once the list was read, but for those that name what was deleted.
    pub(super) fn tag_count(&self) -> Option<usize> {
        let live = self.tags.values().filter(|told| self.live(told).is_some());
        self.is_complete.then(|| live.count())
    }

    /// The manifest is there, or was at `version`.
    pub(super) fn hold(&mut self, digest: &Digest, version: u64) {
        self.manifests.entry(digest.clone()).or_default().hold(version);
    }

    /// The registry, asked at `version`, answers that it does not have the manifest.
    pub(super) fn miss(&mut self, digest: &Digest, version: u64, now: Instant) {
        self.manifests
            .entry(digest.clone())
            .or_default()
            .miss(version, now);
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

    /// The repository as it is at `now`, as far as it is known.
    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let live = |told: &Told| self.live(told).cloned();
        let roots = if self.is_complete {
            Roots::All(self.tags.values().filter_map(live).collect())
        } else {
            Roots::Told(
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
            roots,
        }
    }

    /// What was tagged at the moment of `snapshot`; `None` when that can't be told any more, because the
    /// list was not read before the repository was deleted. Only for a ledger that is complete.
    ///
    /// Where the list was read after that moment, a tag that was written in between is left out: the list
    /// can't tell what it named before, most often nothing.
    pub(super) fn roots(&self, snapshot: &Snapshot) -> Option<Vec<Digest>> {
        let told = match &snapshot.roots {
            Roots::All(digests) => return Some(digests.clone()),
            Roots::Told(_) if self.emptied != snapshot.emptied => return None,
            Roots::Told(told) => told,
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

    /// Takes what the list told, read when the repository had been deleted `emptied` times.
    pub(super) fn complete(&mut self, emptied: u64, listed: impl IntoIterator<Item = (Tag, Digest)>) {
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
    }

    /// How many tags and manifests are kept.
    pub(super) fn len(&self) -> usize {
        self.tags.len() + self.manifests.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sizing::seen::{BELIEVED_FIRST, BELIEVED_MAX, GONE_AFTER};

    fn digest(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    fn tag(name: &str) -> Tag {
        name.parse().unwrap()
    }

    fn repository() -> crate::image::RepositoryName {
        "acme/app".parse().unwrap()
    }

    impl Ledger {
        fn tagged(&mut self, name: &str, content: &str) {
            self.apply(&Change::Tagged {
                repository: repository(),
                tag: tag(name),
                digest: digest(content),
            });
        }

        fn untagged(&mut self, name: &str) {
            self.apply(&Change::Untagged {
                repository: repository(),
                tag: tag(name),
            });
        }

        fn deleted(&mut self, content: &str) {
            self.apply(&Change::Deleted {
                repository: repository(),
                digest: digest(content),
            });
        }

        fn wiped(&mut self) {
            self.apply(&Change::RepositoryDeleted {
                repository: repository(),
            });
        }

        fn listed(&mut self, list: &[(&str, &str)]) {
            let list = list.iter().map(|(name, content)| (tag(name), digest(content)));
            self.complete(self.emptied(), list);
        }

        /// The contents among `a` to `e` that are tagged as of `snapshot`.
        fn names(&self, snapshot: &Snapshot) -> String {
            let roots = self.roots(snapshot).unwrap();
            ["a", "b", "c", "d", "e"]
                .into_iter()
                .filter(|name| roots.contains(&digest(name)))
                .collect()
        }

        fn now(&self) -> String {
            self.names(&self.snapshot(Instant::now()))
        }
    }

    #[test]
    fn an_event_wins_over_the_list_whichever_came_first() {
        let mut ledger = Ledger::default();
        ledger.tagged("moved", "b");
        ledger.untagged("removed");
        ledger.tagged("unlisted", "c");
        ledger.listed(&[("moved", "a"), ("removed", "e"), ("old", "d")]);
        assert_eq!(ledger.now(), "bcd");
        ledger.tagged("old", "a");
        ledger.untagged("unlisted");
        assert_eq!(ledger.now(), "ab");
    }

    #[test]
    fn a_retag_leaves_the_old_digest_only_where_another_tag_names_it() {
        let mut ledger = Ledger::default();
        ledger.listed(&[("v1", "a"), ("v2", "a"), ("v3", "b")]);
        ledger.tagged("v1", "c");
        assert_eq!(ledger.now(), "abc");
        ledger.tagged("v2", "c");
        assert_eq!(ledger.now(), "bc");
    }

    #[test]
    fn a_deleted_digest_takes_every_tag_that_named_it_and_none_written_later() {
        let mut ledger = Ledger::default();
        ledger.tagged("told", "a");
        ledger.listed(&[("listed", "a"), ("other", "b")]);
        ledger.deleted("a");
        assert_eq!(ledger.now(), "b");
        ledger.tagged("again", "a");
        assert_eq!(ledger.now(), "ab");
        ledger.untagged("again");
        assert_eq!(ledger.now(), "b", "the old tags stay gone");
    }

    #[test]
    fn a_digest_deleted_before_or_while_the_list_is_read_is_not_listed() {
        let mut ledger = Ledger::default();
        ledger.deleted("a");
        ledger.listed(&[("v1", "a"), ("v2", "b")]);
        assert_eq!(ledger.now(), "b");
    }

    #[test]
    fn a_deleted_repository_is_known_to_be_empty_and_a_list_under_way_is_void() {
        let mut ledger = Ledger::default();
        ledger.tagged("v1", "a");
        let before = ledger.snapshot(Instant::now());
        let emptied = ledger.emptied();
        ledger.wiped();
        ledger.tagged("v2", "b");
        ledger.complete(emptied, [(tag("v3"), digest("c"))]);
        assert!(ledger.is_complete());
        assert_eq!(ledger.now(), "b");
        assert_eq!(
            ledger.roots(&before),
            None,
            "what else it had can't be known any more"
        );
    }

    #[test]
    fn a_snapshot_keeps_what_was_there_when_it_was_taken() {
        let mut ledger = Ledger::default();
        ledger.listed(&[("v1", "a"), ("v2", "b")]);
        let snapshot = ledger.snapshot(Instant::now());
        ledger.tagged("v1", "c");
        ledger.deleted("b");
        ledger.wiped();
        assert_eq!(ledger.names(&snapshot), "ab");
    }

    #[test]
    fn a_snapshot_older_than_the_list_leaves_out_what_was_written_since() {
        let mut ledger = Ledger::default();
        ledger.tagged("v1", "a");
        let snapshot = ledger.snapshot(Instant::now());
        ledger.tagged("v2", "b");
        ledger.tagged("v1", "c");
        ledger.listed(&[("v1", "c"), ("v2", "b"), ("v3", "d")]);
        assert_eq!(ledger.names(&snapshot), "ad");
        assert_eq!(ledger.now(), "bcd");
    }

    #[test]
    fn a_manifest_is_held_or_gone_by_what_was_told_last() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let a = digest("a");
        assert_eq!(ledger.presence(&a, &ledger.snapshot(now)), Presence::Unknown);
        ledger.hold(&a, ledger.version());
        let before = ledger.snapshot(now);
        assert_eq!(ledger.presence(&a, &before), Presence::Held);
        let asked_at = ledger.version();
        ledger.deleted("a");
        ledger.hold(&a, asked_at);
        assert_eq!(ledger.presence(&a, &ledger.snapshot(now)), Presence::Gone);
        assert_eq!(ledger.presence(&a, &before), Presence::Held, "it was, then");
        let asked_at = ledger.version();
        ledger.tagged("v1", "a");
        ledger.miss(&a, asked_at, now);
        assert_eq!(ledger.presence(&a, &ledger.snapshot(now)), Presence::Held);
    }

    #[test]
    fn a_registry_that_lacks_what_was_pushed_is_believed_for_a_while_and_then_longer() {
        let (mut ledger, mut now) = (Ledger::default(), Instant::now());
        let a = digest("a");
        ledger.listed(&[]);
        ledger.tagged("v1", "a");
        assert!(ledger.is_expected(&a));
        let mut believed = BELIEVED_FIRST;
        for _ in 0..12 {
            ledger.miss(&a, ledger.version(), now);
            // Whoever asks at the same time is told the same.
            ledger.miss(&a, ledger.version(), now);
            let for_now = if believed < GONE_AFTER {
                Presence::Missing
            } else {
                Presence::Gone
            };
            for (passed, presence) in [
                (Duration::ZERO, for_now),
                (believed.mul_f64(0.999), for_now),
                (believed, Presence::Unknown),
            ] {
                let snapshot = ledger.snapshot(now + passed);
                assert_eq!(ledger.presence(&a, &snapshot), presence, "{passed:?}");
                assert_eq!(ledger.tagged_presence(&a, &snapshot), presence, "{passed:?}");
                assert_eq!(ledger.names(&snapshot), "a", "a tag names it all the same");
                assert!(ledger.is_missed(&a) && !ledger.is_expected(&a));
            }
            now += believed;
            believed = (believed * 2).min(BELIEVED_MAX);
        }
        assert_eq!(believed, BELIEVED_MAX);
        ledger.hold(&a, ledger.version());
        assert_eq!(ledger.presence(&a, &ledger.snapshot(now)), Presence::Held);
        assert!(!ledger.is_missed(&a));
    }

    #[test]
    fn what_was_never_pushed_and_is_not_there_is_gone_and_asked_for_now_and_then() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let a = digest("a");
        ledger.listed(&[("v1", "a")]);
        assert_eq!(ledger.tagged_presence(&a, &ledger.snapshot(now)), Presence::Held);
        ledger.miss(&a, ledger.version(), now);
        let snapshot = ledger.snapshot(now + BELIEVED_MAX / 2);
        assert_eq!(ledger.presence(&a, &snapshot), Presence::Gone);
        assert_eq!(ledger.tagged_presence(&a, &snapshot), Presence::Gone);
        assert!(!ledger.is_missed(&a));
        let later = ledger.snapshot(now + BELIEVED_MAX);
        assert_eq!(ledger.presence(&a, &later), Presence::Unknown);
    }
}
