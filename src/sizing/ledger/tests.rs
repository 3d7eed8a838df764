//! Events, lists and snapshots, one after the other.

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
        self.complete(self.emptied(), Instant::now(), list);
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
    ledger.complete(emptied, Instant::now(), [(tag("v3"), digest("c"))]);
    assert!(ledger.is_complete());
    assert_eq!(ledger.now(), "b");
    assert_eq!(
        ledger.roots(&before),
        None,
        "what else it had can't be known any more"
    );
}

#[test]
fn a_list_that_is_to_be_read_anew_tells_nothing_until_it_is() {
    let (mut ledger, now) = (Ledger::default(), Instant::now());
    ledger.tagged("v1", "a");
    let before = ledger.snapshot(now);
    ledger.listed(&[("v1", "a"), ("v2", "b")]);
    assert_eq!(ledger.names(&before), "ab");
    ledger.doubt(now);
    ledger.reopen_if_doubted(now);
    assert_eq!(ledger.roots(&before), None);
    ledger.listed(&[("v1", "a"), ("v2", "b")]);
    assert_eq!(ledger.names(&before), "ab");
}

#[test]
fn a_doubt_has_what_was_known_before_it_told_anew_and_not_too_often() {
    let (mut ledger, now) = (Ledger::default(), Instant::now());
    ledger.tagged("v1", "a");
    ledger.deleted("b");
    ledger.listed(&[("v3", "e")]);
    ledger.doubt(now);
    ledger.tagged("v2", "c");
    ledger.reopen_if_doubted(now);
    assert!(!ledger.is_complete());
    ledger.listed(&[("v1", "b"), ("v2", "d")]);
    assert_eq!(ledger.now(), "bc", "only what was told since is known better");
    ledger.doubt(now);
    for (passed, is_reopened) in [(SHOWS_AFTER / 2, false), (SHOWS_AFTER, true)] {
        ledger.reopen_if_doubted(now + passed);
        assert_eq!(!ledger.is_complete(), is_reopened);
    }
    // One that is being read goes on, and is read anew afterwards.
    ledger.tagged("v4", "d");
    ledger.doubt(now + SHOWS_AFTER);
    ledger.reopen_if_doubted(now + SHOWS_AFTER * 9);
    assert!(ledger.is_told(&tag("v4")));
    ledger.listed(&[]);
    ledger.reopen_if_doubted(now + SHOWS_AFTER * 9);
    assert!(!ledger.is_complete() && !ledger.is_told(&tag("v4")));
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
    let (a, early) = (digest("a"), digest("early"));
    ledger.listed(&[("v1", "a")]);
    ledger.miss(&early, ledger.version(), now);
    let presence = ledger.presence(&early, &ledger.snapshot(now));
    assert_eq!(presence, Presence::Missing, "it may have been pushed before");
    let now = now + GONE_AFTER;
    assert_eq!(ledger.tagged_presence(&a, &ledger.snapshot(now)), Presence::Held);
    ledger.miss(&a, ledger.version(), now);
    let snapshot = ledger.snapshot(now + BELIEVED_MAX / 2);
    assert_eq!(ledger.presence(&a, &snapshot), Presence::Gone);
    assert_eq!(ledger.tagged_presence(&a, &snapshot), Presence::Gone);
    assert!(!ledger.is_missed(&a));
    let later = ledger.snapshot(now + BELIEVED_MAX);
    assert_eq!(ledger.presence(&a, &later), Presence::Unknown);
}
