//! The journals that inputs begin with, made by the code itself.

use std::sync::{Arc, LazyLock};

use super::hand::{Hand, pairs};
use crate::{
    clock::Timestamp,
    image::{Digest, MediaType},
    journal::{
        Durable, JournalId,
        faulty::Faulty,
        segment::{self, SegmentHeader},
    },
    push::{EndpointId, Pair, Push, Reference, Sequence},
};

pub(super) const JOURNAL: JournalId = JournalId([7; 16]);

/// A journal as files, and the pushes that were ever taken into it.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) files: Vec<(String, Vec<u8>)>,
    pub(super) pushes: Vec<(Sequence, Push)>,
}

/// All of them, from nothing at all to some segments that everything happened to.
pub(super) fn all() -> &'static [Made] {
    static ALL: LazyLock<Vec<Made>> = LazyLock::new(|| {
        vec![
            Made::default(),
            made(begun),
            made(one_segment),
            made(killed_while_settling),
            made(many_segments),
            made(many_endpoints),
        ]
    });
    &ALL
}

struct Making {
    storage: Arc<Faulty>,
    hand: Hand,
    pushes: Vec<(Sequence, Push)>,
}

/// What `make` leaves of a journal whose identity is always the same.
fn made(make: fn(&mut Making)) -> Made {
    let storage = Faulty::new();
    let header = SegmentHeader {
        number: 1,
        journal: JOURNAL,
        created_at: Timestamp::from_unix_millis(0),
        first_sequence: Sequence::FIRST,
        first_commit: 1,
        predecessor: 0,
        predecessor_end: 0,
        passed_over: 0,
    };
    storage.put(&segment::file_name(1), &header.encode());
    let Ok(hand) = Hand::open(&storage) else {
        panic!("an empty journal opens")
    };
    let mut making = Making {
        storage,
        hand,
        pushes: Vec::new(),
    };
    make(&mut making);
    Made {
        files: making.storage.files(),
        pushes: making.pushes,
    }
}

impl Making {
    fn take(&mut self, push: Push) -> Durable {
        let taken = self.hand.take([push]).map(|mut durable| durable.pop());
        let Ok(Some(durable)) = taken else {
            panic!("a new push is taken")
        };
        self.pushes.push((durable.sequence, durable.push.clone()));
        durable
    }

    /// Has the pushes `numbers` taken and settled, and the odd ones' second endpoint left owing.
    fn churn(&mut self, numbers: impl Iterator<Item = u16>) {
        for number in numbers {
            let durable = self.take(push(number, 1 + number % 2));
            self.hand.settle([first_pair(&durable)]);
        }
    }
}

fn begun(_: &mut Making) {}

fn one_segment(making: &mut Making) {
    for number in 1..=3 {
        making.take(push(number, number));
    }
}

fn killed_while_settling(making: &mut Making) {
    let first = making.take(push(1, 1));
    let second = making.take(push(2, 2));
    making.hand.settle([first_pair(&first), first_pair(&second)]);
}

fn many_segments(making: &mut Making) {
    making.churn(1..=24);
    making.hand.calm_down();
}

fn many_endpoints(making: &mut Making) {
    making.take(push(1, 70));
    making.churn((2..=60).step_by(2));
    making.hand.calm_down();
    let settled: Vec<Pair> = making.hand.owed().iter().flat_map(pairs).step_by(3).collect();
    making.hand.settle(settled);
    making.churn((62..=80).step_by(2));
    making.hand.calm_down();
}

fn first_pair(durable: &Durable) -> Pair {
    Pair {
        sequence: durable.sequence,
        place: 0,
    }
}

/// A push that so many endpoints owe.
pub(super) fn push(number: u16, owed: u16) -> Push {
    let own = EndpointId::Repository("app".parse().unwrap_or_else(|error| panic!("{error}")));
    let named = (1..owed).map(|place| EndpointId::Named(format!("e{place}").into()));
    Push {
        event_id: format!("event-{number}"),
        repository: "app".parse().unwrap_or_else(|error| panic!("{error}")),
        tag: format!("v{number}").parse().ok(),
        digest: Digest::Sha256([1; 32]),
        media_type: MediaType::OciManifest,
        manifest_size: 528,
        references: vec![Reference {
            media_type: "layer".into(),
            size: u64::from(number),
            digest: Digest::Sha256([2; 32]),
            has_urls: true,
        }],
        actor: String::new(),
        taken_at: Timestamp::from_unix_millis(i64::from(number)),
        owed: [own].into_iter().chain(named).take(usize::from(owed)).collect(),
    }
}

/// The files as a storage.
pub(super) fn storage(files: &[(String, Vec<u8>)]) -> Arc<Faulty> {
    let storage = Faulty::new();
    for (name, bytes) in files {
        storage.put(name, bytes);
    }
    storage
}
