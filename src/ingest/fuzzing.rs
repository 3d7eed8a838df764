//! Any bytes as the body of a notification: [`crate::fuzzing::envelope`].

use std::{future, sync::LazyLock};

use super::{
    Intake, TakeError,
    envelope::Envelope,
    filter::{Filter, Options},
    judge::{Judged, judge},
};
use crate::{
    clock::Timestamp,
    glob::Patterns,
    image::{Digest, MediaType, RepositoryName, Tag},
    journal,
    push::{Change, EndpointId, Item, Push, Reference},
    telemetry::labels::EventVerdict,
};

const NOW: Timestamp = Timestamp::from_unix_millis(1_795_424_918_473);

/// Owes everything to one endpoint, and takes nothing.
#[derive(Clone)]
struct Owing;

impl Intake for Owing {
    fn owing(&self, _: &RepositoryName, _: Option<&Tag>) -> Vec<EndpointId> {
        vec![EndpointId::Named("ci".into())]
    }

    fn learn(&self, digest: &Digest, _: MediaType, _: u64, references: &[Reference]) {
        assert_eq!(digest.to_string().parse().as_ref(), Ok(digest));
        references.iter().for_each(check_reference);
    }

    fn take(&self, _: Vec<Item>) -> impl Future<Output = Result<(), TakeError>> + Send + 'static {
        future::ready(Ok(()))
    }
}

/// Lets every repository through; what has no tag, and referrers, only if `all`.
fn filter(all: bool) -> Filter {
    Filter::new(Options {
        repositories: Patterns::everything(),
        exclude_repositories: Patterns::default(),
        exclude_tags: Patterns::default(),
        exclude_actors: Patterns::default(),
        untagged: all,
        referrers: all,
        accept_hosts: Vec::new(),
    })
}

pub(crate) fn envelope(body: &[u8]) {
    // The default, and one that lets more through.
    static FILTERS: LazyLock<[Filter; 2]> = LazyLock::new(|| [filter(false), filter(true)]);
    let Ok(envelope) = Envelope::parse(body) else {
        let [quiet, _] = &*FILTERS;
        let judged = judge(body, quiet, &Owing, NOW);
        assert!(judged.is_err(), "judged what can't be read");
        assert!(Envelope::sound(body).is_none(), "read what can't be read");
        return;
    };
    if let Some(sound) = Envelope::sound(body) {
        let one_by_one: Vec<_> = envelope.events().filter_map(|(_, event)| event.ok()).collect();
        let sound: Vec<_> = sound.collect();
        assert_eq!(format!("{sound:?}"), format!("{one_by_one:?}"));
    }
    let raws: Vec<&str> = envelope.events().map(|(raw, _)| raw).collect();
    for filter in &*FILTERS {
        let Ok(judged) = judge(body, filter, &Owing, NOW) else {
            panic!("what was read can't be judged")
        };
        check(&judged, &raws);
        check_alone(&judged, &raws, filter);
    }
}

/// Every event is counted once, and what is accepted is valid.
fn check(judged: &Judged, raws: &[&str]) {
    let count = |verdict| {
        let of_it = judged.tally.iter().filter(|(counted, ..)| *counted == verdict);
        of_it.map(|(.., count)| count).sum::<u64>()
    };
    let counted: u64 = judged.tally.iter().map(|(.., count)| count).sum();
    assert_eq!(counted, raws.len() as u64, "an event is counted once");
    let pushes = judged.items.iter().filter(|item| matches!(item, Item::Push(_)));
    assert_eq!(pushes.count() as u64, count(EventVerdict::Accepted));
    let refused = count(EventVerdict::Quarantined);
    assert_eq!(
        judged.bad.is_some(),
        refused > 0,
        "what is refused is quarantined"
    );
    if let Some(bad) = &judged.bad {
        assert!(raws.iter().any(|raw| bad.text.starts_with(raw)));
        assert!(!bad.why.reason.is_empty() && !bad.why.detail.is_empty());
    }
    for item in &judged.items {
        match item {
            Item::Push(push) => check_push(push),
            Item::Change(told) => check_change(&told.change),
        }
    }
}

/// An event comes to the same alone as it does among others.
fn check_alone(judged: &Judged, raws: &[&str], filter: &Filter) {
    let mut items = judged.items.iter();
    for raw in raws {
        let body = format!(r#"{{"events":[{raw}]}}"#);
        let Ok(alone) = judge(body.as_bytes(), filter, &Owing, NOW) else {
            panic!("an event that was read can't be read alone")
        };
        for item in &alone.items {
            assert_eq!(
                Some(item),
                items.next(),
                "alone, an event comes to something else"
            );
        }
    }
    assert_eq!(items.next(), None, "alone, an event comes to less");
}

fn check_push(push: &Push) {
    check_names(&push.repository, push.tag.as_ref(), Some(&push.digest));
    assert!(push.event_id.len() <= 128 && push.actor.chars().count() <= 256);
    assert!(push.references.len() <= 1000 && push.owed.len() == 1);
    push.references.iter().for_each(check_reference);
    journal::fuzzing::keeps(push);
}

fn check_reference(reference: &Reference) {
    assert!(reference.size > 0 && MediaType::parse(&reference.media_type).is_none());
    assert_eq!(reference.digest.to_string().parse(), Ok(reference.digest.clone()));
}

fn check_change(change: &Change) {
    match change {
        Change::Tagged {
            repository,
            tag,
            digest,
        } => check_names(repository, Some(tag), Some(digest)),
        Change::Untagged { repository, tag } => check_names(repository, Some(tag), None),
        Change::Held { repository, digest } | Change::Deleted { repository, digest } => {
            check_names(repository, None, Some(digest));
        }
        Change::Doubted { repository } | Change::RepositoryDeleted { repository } => {
            check_names(repository, None, None);
        }
    }
}

/// Each is what its own text is parsed to.
fn check_names(repository: &RepositoryName, tag: Option<&Tag>, digest: Option<&Digest>) {
    assert_eq!(repository.as_str().parse().as_ref(), Ok(repository));
    if let Some(tag) = tag {
        assert_eq!(tag.as_str().parse().as_ref(), Ok(tag));
    }
    if let Some(digest) = digest {
        assert_eq!(digest.to_string().parse().as_ref(), Ok(digest));
    }
}
