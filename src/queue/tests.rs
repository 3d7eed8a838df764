//! The repository's state machine against time, and the queue's timer heap.

use std::{collections::HashMap, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    clock::Timestamp,
    glob::Patterns,
    image::{Digest, MediaType},
    journal::{OwedBy, OwedPush, OwedRun},
    push::{Push, Sequence, Settlement},
    secret::Secret,
    webhook::{Batching, Coalesce, Endpoint, Format, Rate, guard::Author},
};

mod agenda;
mod given_up;
mod in_line;
mod model;
mod passages;

const WINDOW: Duration = Duration::from_secs(2);
const BATCHING: Batching = Batching {
    window: WINDOW,
    pushes_max: 100,
    coalesce: Coalesce::Tag,
};

fn named(name: &str) -> EndpointId {
    EndpointId::Named(name.into())
}

/// A repository's queue, with room enough to size ahead, and nobody else in line.
struct Repository {
    name: RepositoryName,
    queue: RepositoryQueue,
    ahead: Ahead,
    lines: Lines,
}

impl Default for Repository {
    fn default() -> Self {
        Self {
            name: "acme/app".parse().unwrap(),
            queue: RepositoryQueue::default(),
            ahead: Ahead::new(SIZED_AHEAD_MAX),
            lines: Lines::new(usize::MAX, usize::MAX),
        }
    }
}

impl Repository {
    fn push(&mut self, number: u64, tag: &str, owed: &[(&str, Batching)], now: Instant) {
        let arrival = Arrival {
            sequence: sequence(number),
            bytes: 400,
            tag,
            is_restored: false,
        };
        let owing = |(place, (name, batching)): (u16, &(&str, Batching))| Owing {
            place,
            endpoint: Arc::new(named(name)),
            batching: Arc::new(*batching),
        };
        let owed: Vec<_> = (0..).zip(owed).map(owing).collect();
        self.queue.push(arrival, &owed, &self.ahead, now);
    }

    fn advance(&mut self, now: Instant) -> Effects {
        self.queue.advance(&self.ahead, &self.lines.gate(&self.name), now)
    }

    fn complete(&mut self, lease: &Lease, completion: Completion, now: Instant) -> Effects {
        self.queue
            .complete(lease, completion, &self.lines.gate(&self.name), now)
    }

    fn give_up(&mut self, number: u64, endpoint: &str) -> GivenUp {
        let gate = self.lines.gate(&self.name);
        self.queue.give_up(sequence(number), &named(endpoint), &gate)
    }

    fn is_outdated(&self, lease: &Lease) -> bool {
        self.queue.is_outdated(lease)
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        self.queue.next_due(now)
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

fn push(
    queue: &mut Repository,
    number: u64,
    tag: &str,
    endpoints: &[&str],
    batching: Batching,
    now: Instant,
) {
    let owed: Vec<_> = endpoints.iter().map(|name| (*name, batching)).collect();
    queue.push(number, tag, &owed, now);
}

fn sent(effects: &Effects) -> Vec<(String, u64)> {
    effects
        .leases
        .iter()
        .map(|lease| (lease.endpoint.to_string(), lease.sequence.get()))
        .collect()
}

fn superseded(effects: &Effects) -> Vec<(String, u64)> {
    let mut list: Vec<_> = (effects.settled.iter())
        .filter(|settled| settled.how == Settlement::Superseded)
        .map(|settled| (settled.endpoint.to_string(), settled.sequence.get()))
        .collect();
    list.sort();
    list
}

const DELIVERED: Completion = Completion::Settled(Settlement::Delivered);

#[test]
fn a_window_closes_when_its_time_has_come_and_not_before() {
    let (mut queue, start) = (Repository::default(), Instant::now());
    push(&mut queue, 1, "v1", &["ci"], BATCHING, start);
    push(&mut queue, 2, "v2", &["ci"], BATCHING, start + WINDOW / 2);
    assert_eq!(queue.next_due(start), Some(start + WINDOW));
    let early = queue.advance(start + WINDOW / 2);
    assert!(early.leases.is_empty() && early.sealed.is_empty());
    let effects = queue.advance(start + WINDOW);
    assert_eq!(sent(&effects), [("ci".into(), 1)]);
    assert_eq!(effects.sealed[0].members.len(), 2);
}

#[test]
fn a_full_window_is_sealed_at_once_and_the_next_push_opens_another() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    let batching = Batching {
        pushes_max: 2,
        ..BATCHING
    };
    for number in 1..=3 {
        push(&mut queue, number, &format!("v{number}"), &["ci"], batching, now);
    }
    assert_eq!(queue.next_due(now), Some(now));
    let effects = queue.advance(now);
    assert_eq!(effects.sealed.len(), 1);
    assert_eq!(effects.sealed[0].members.len(), 2);
    assert_eq!(queue.next_due(now), Some(now + WINDOW));
}

#[test]
fn an_empty_window_seals_each_push_by_itself() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    push(
        &mut queue,
        1,
        "v1",
        &["ci"],
        Batching {
            window: Duration::ZERO,
            ..BATCHING
        },
        now,
    );
    assert_eq!(sent(&queue.advance(now)), [("ci".into(), 1)]);
}

#[test]
fn a_newer_push_of_a_tag_supersedes_the_older_within_a_batch() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    for (number, tag) in [(1, "v1"), (2, "v2"), (3, "v1"), (4, "")] {
        push(&mut queue, number, tag, &["ci"], BATCHING, now);
    }
    let effects = queue.advance(now + WINDOW);
    assert_eq!(superseded(&effects), [("ci".into(), 1)]);
    let order: Vec<u64> = effects.sealed[0]
        .members
        .iter()
        .map(|member| member.get())
        .collect();
    assert_eq!(order, [2, 3, 4], "survivors keep their own place");
}

#[test]
fn nothing_is_superseded_where_coalescing_is_off() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    for number in 1..=3 {
        push(
            &mut queue,
            number,
            "v1",
            &["ci"],
            Batching {
                coalesce: Coalesce::None,
                ..BATCHING
            },
            now,
        );
    }
    let effects = queue.advance(now + WINDOW);
    assert!(effects.settled.is_empty());
    assert_eq!(effects.sealed[0].members.len(), 3);
}

#[test]
fn the_backlog_of_a_lane_that_is_behind_coalesces_but_for_what_is_in_flight() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    let batching = Batching {
        window: Duration::ZERO,
        ..BATCHING
    };
    push(&mut queue, 1, "v1", &["ci"], batching, now);
    let lease = queue.advance(now).leases.remove(0);
    push(&mut queue, 2, "v1", &["ci"], batching, now);
    assert!(
        queue.advance(now).settled.is_empty(),
        "what is in flight is not superseded"
    );
    push(&mut queue, 3, "v1", &["ci"], batching, now);
    assert_eq!(superseded(&queue.advance(now)), [("ci".into(), 2)]);
    let effects = queue.complete(&lease, DELIVERED, now);
    assert_eq!(effects.settled[0].how, Settlement::Delivered);
    assert_eq!(sent(&effects), [("ci".into(), 3)]);
}

#[test]
fn a_push_that_comes_back_undelivered_is_superseded_by_the_newer_one_of_its_tag() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    let batching = Batching {
        window: Duration::ZERO,
        ..BATCHING
    };
    push(&mut queue, 1, "v1", &["ci"], batching, now);
    let lease = queue.advance(now).leases.remove(0);
    push(&mut queue, 2, "v1", &["ci"], batching, now);
    queue.advance(now);
    let from = now + Duration::from_secs(5);
    queue.lines.set(&named("ci"), Passage::Narrow { from });
    let effects = queue.complete(&lease, Completion::Returned, now);
    assert_eq!(superseded(&effects), [("ci".into(), 1)]);
    assert!(
        effects.leases.is_empty(),
        "the endpoint's own failure is waited out all the same"
    );
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn the_push_that_supersedes_a_refused_one_does_not_wait_for_its_sake() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    let batching = Batching {
        window: Duration::ZERO,
        ..BATCHING
    };
    push(&mut queue, 1, "v1", &["ci"], batching, now);
    let lease = queue.advance(now).leases.remove(0);
    queue.complete(&lease, Completion::Retry { at: now + HOUR }, now);
    push(&mut queue, 2, "v1", &["ci"], batching, now);
    let effects = queue.advance(now);
    assert_eq!(superseded(&effects), [("ci".into(), 1)]);
    assert_eq!(sent(&effects), [("ci".into(), 2)]);
    assert_eq!(effects.leases[0].push_failures, 0);
}

#[test]
fn a_lease_that_was_overtaken_before_its_attempt_is_told_and_superseded() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    let batching = Batching {
        window: Duration::ZERO,
        ..BATCHING
    };
    push(&mut queue, 1, "v1", &["ci"], batching, now);
    let lease = queue.advance(now).leases.remove(0);
    assert!(!queue.is_outdated(&lease));
    push(&mut queue, 2, "v1", &["ci"], batching, now);
    queue.advance(now);
    assert!(queue.is_outdated(&lease));
    let effects = queue.complete(&lease, Completion::Returned, now);
    assert_eq!(superseded(&effects), [("ci".into(), 1)]);
    assert_eq!(sent(&effects), [("ci".into(), 2)]);
}

#[test]
fn trouble_that_is_nobodys_fault_waits_and_counts_for_nothing() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    let batching = Batching {
        window: Duration::ZERO,
        ..BATCHING
    };
    push(&mut queue, 1, "v1", &["ci"], batching, now);
    let lease = queue.advance(now).leases.remove(0);
    assert!(
        queue
            .complete(&lease, Completion::Later { at: now + HOUR }, now)
            .leases
            .is_empty()
    );
    let lease = queue.advance(now + HOUR).leases.remove(0);
    assert_eq!(lease.push_failures, 0);
}

#[test]
fn a_retry_holds_back_what_is_behind_it_in_its_lane_and_nobody_else() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    let batching = Batching {
        window: Duration::ZERO,
        ..BATCHING
    };
    push(&mut queue, 1, "v1", &["bad", "good"], batching, now);
    push(&mut queue, 2, "v2", &["bad", "good"], batching, now);
    let leases = queue.advance(now).leases;
    assert_eq!(leases.len(), 2);
    let at = now + Duration::from_secs(5);
    let bad = queue.complete(&leases[0], Completion::Retry { at }, now);
    assert!(bad.leases.is_empty());
    let good = queue.complete(&leases[1], DELIVERED, now);
    assert_eq!(sent(&good), [("good".into(), 2)]);
    assert!(!good.settled[0].last, "the other endpoint still owes it");
    assert_eq!(queue.next_due(now), Some(at));
    assert!(queue.advance(at - Duration::from_millis(1)).leases.is_empty());
    let retried = queue.advance(at);
    assert_eq!(sent(&retried), [("bad".into(), 1)]);
    assert_eq!(retried.leases[0].push_failures, 1);
    let given_up = queue.complete(
        &retried.leases[0],
        Completion::Settled(Settlement::DeadLetter),
        at,
    );
    assert!(given_up.settled[0].last);
    assert_eq!(sent(&given_up), [("bad".into(), 2)], "the lane goes on");
    assert_eq!(given_up.leases[0].push_failures, 0);
}

#[test]
fn endpoints_with_a_window_of_their_own_are_not_held_to_the_others() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    let quick = Batching {
        window: Duration::ZERO,
        ..BATCHING
    };
    queue.push(1, "v1", &[("slow", BATCHING), ("quick", quick)], now);
    assert_eq!(sent(&queue.advance(now)), [("quick".into(), 1)]);
    assert_eq!(sent(&queue.advance(now + WINDOW)), [("slow".into(), 1)]);
}

#[test]
fn a_queue_that_owes_nothing_is_empty() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    push(&mut queue, 1, "v1", &["ci"], BATCHING, now);
    assert!(!queue.is_empty());
    let lease = queue.advance(now + WINDOW).leases.remove(0);
    assert!(queue.complete(&lease, DELIVERED, now).settled[0].last);
    assert!(queue.is_empty());
    assert_eq!(queue.next_due(now), None);
}

fn endpoints(names: &[&str]) -> Endpoints {
    let all = Patterns::everything();
    Endpoints::new(
        (names.iter())
            .map(|name| Endpoint {
                id: named(name),
                author: Author::Operator,
                url: Secret::inline("http://127.0.0.1:1/"),
                secret: None,
                previous_secret: None,
                format: Format::Native,
                headers: Vec::new(),
                repositories: Arc::new(all.clone()),
                tags: Arc::new(all.clone()).into(),
                exclude_tags: Arc::default(),
                batching: Arc::new(BATCHING),
                rate: Rate { per_second: None },
                way: None,
            })
            .collect(),
    )
}

fn durable(number: u64, repository: &str, owed: &[&str]) -> Durable {
    Durable {
        sequence: Sequence::new(number).unwrap(),
        bytes: 400,
        push: Push {
            event_id: String::new(),
            repository: repository.parse().unwrap(),
            tag: Some("v1".parse().unwrap()),
            digest: Digest::sha256(&number.to_be_bytes()),
            media_type: MediaType::OciManifest,
            manifest_size: 0,
            references: Vec::new(),
            actor: String::new(),
            taken_at: Timestamp::default(),
            owed: owed.iter().map(|name| named(name)).collect(),
        },
    }
}
