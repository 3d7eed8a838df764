//! Segments that owe nothing go, and what has a bound keeps to it.

use std::time::Duration;

use super::{carried::owed_by, *};

#[test]
fn dead_segments_go_oldest_first_and_sequence_numbers_go_on() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=10 {
        let actor = "x".repeat(1_000);
        let push = Push {
            actor,
            ..push(number)
        };
        hand.append(vec![Item::Push(push)]).unwrap();
    }
    let durable = hand.durable();
    let oldest = hand.segment_of(durable[0].sequence);
    let (first, rest) = durable.split_first().unwrap();
    for durable in rest {
        hand.settle(durable);
    }
    hand.turn();
    hand.turn();
    assert_eq!(
        segments(&storage)[0],
        oldest,
        "a settlement must outlive its push"
    );
    hand.settle(first);
    let stuck = segments(&storage).len();
    while hand.journal.stats().segments > 1 {
        hand.turn();
    }
    assert!(stuck > 2 && segments(&storage).len() == 1);
    hand.close();
    let mut again = open(&storage.after_power_loss());
    assert!(again.pending.is_empty());
    again.take(11).unwrap();
    assert_eq!(again.durable()[0].sequence.get(), 11);
}

#[test]
fn many_short_runs_pile_up_no_segments() {
    let mut storage = Faulty::new();
    for number in 1..=30 {
        let mut hand = open(&storage);
        let after_start = segments(&storage);
        assert!(after_start.len() <= 8, "{after_start:?}");
        hand.take(number).unwrap();
        hand.settle(&hand.durable()[0]);
        hand.take(1000 + number).unwrap();
        hand.settle(&hand.durable()[1]);
        // Open, append, settle: each may find something dead.
        let closed = hand.journal.close();
        hand.turn();
        closed.now_or_never().unwrap();
        storage = storage.after_power_loss();
        drop(open(&storage));
        drop(open(&storage));
    }
}

fn segments_of_4_kib(count: u64) -> Options {
    Options {
        segment_size: 4096,
        max_size: count * 4096,
    }
}

#[test]
fn past_its_bound_appends_are_refused_and_settlements_are_not() {
    let storage = Faulty::new();
    let options = segments_of_4_kib(5);
    let mut hand = try_open(&storage, options).unwrap();
    let mut number = 0;
    let refused = loop {
        number += 1;
        if let Err(error) = hand.take(number) {
            break error;
        }
        let bytes: usize = storage.files().iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes as u64 <= options.max_size);
    };
    assert!(matches!(refused, AppendError::Full { .. }), "{refused}");
    assert!(matches!(hand.journal.health(), Health::Full { .. }));
    for durable in hand.durable() {
        hand.settle(&durable);
    }
    while hand.journal.health() != Health::Ready {
        hand.turn();
    }
    hand.take(number).unwrap();
    hand.close();
    let again = try_open(&storage.after_power_loss(), options).unwrap();
    assert_eq!(again.pending_ids(), [format!("event-{number}")]);
}

#[test]
fn a_journal_without_room_for_a_large_append_says_that_it_is_full_until_there_is() {
    let storage = Faulty::new();
    let options = segments_of_4_kib(8);
    let large = |first| {
        (first..first + 30)
            .map(|number| Item::Push(push(number)))
            .collect()
    };
    let mut hand = try_open(&storage, options).unwrap();
    for number in 1.. {
        hand.take(number).unwrap();
        let mut other = try_open(&storage.after_power_loss(), options).unwrap();
        let Err(refused) = other.append(large(1_000)) else {
            continue;
        };
        assert!(matches!(refused, AppendError::Full { .. }), "{refused}");
        // Somebody is to make room, although what is not as large has some.
        assert!(matches!(other.journal.health(), Health::Full { .. }));
        other.take(2_000).unwrap();
        assert!(matches!(other.journal.health(), Health::Full { .. }));
        for push in other.journal.owed(None, 1_000) {
            other.settle_owed(&push.unwrap());
        }
        while other.journal.health() != Health::Ready {
            other.turn();
        }
        other.append(large(3_000)).unwrap();
        return;
    }
}

#[test]
fn a_journal_is_full_no_longer_once_it_has_room_for_what_was_refused() {
    const SEGMENT: u32 = 64 * 1024;
    let storage = Faulty::new();
    let options = Options {
        segment_size: SEGMENT,
        max_size: 8 * u64::from(SEGMENT),
    };
    let mut hand = try_open(&storage, options).unwrap();
    let some = |first: u32| {
        (first..first + 20)
            .map(|number| owed_by(number, &["a", "b"]))
            .collect()
    };
    let refused = (1..).step_by(20).find_map(|first| hand.append(some(first)).err());
    assert!(matches!(refused, Some(AppendError::Full { .. })), "{refused:?}");
    assert!(matches!(hand.journal.health(), Health::Full { .. }));
    // Nothing goes for these, but they begin another segment.
    let settled = hand.durable().into_iter().take(700).map(|durable| {
        let sequence = durable.sequence;
        (Pair { sequence, place: 0 }, Settlement::Delivered)
    });
    hand.journal.shared.settle(settled.collect::<Vec<_>>());
    let before = segments(&storage);
    while hand.journal.shared.settling.len() > 0 {
        hand.turn();
    }
    let after = segments(&storage);
    assert_eq!((before.first(), before.len() + 1), (after.first(), after.len()));
    assert_eq!(hand.journal.health(), Health::Ready);
    hand.append(some(1_000_000)).unwrap();
}

#[test]
fn a_full_journal_says_whether_it_makes_room_by_itself() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=600 {
        hand.take(number).unwrap();
    }
    for durable in hand.durable().iter().step_by(2) {
        hand.journal.shared.settle([(
            Pair {
                sequence: durable.sequence,
                place: 0,
            },
            Settlement::Delivered,
        )]);
    }
    while hand.journal.shared.settling.len() > 0 {
        hand.turn();
    }
    let live = hand.journal.stats().live_bytes;
    let options = Options {
        segment_size: 4096,
        max_size: live * 10 / 6,
    };
    drop(hand);
    let mut hand = try_open(&storage.after_kill(), options).unwrap();
    let owed = hand.journal.stats().unsettled;
    assert_eq!(owed, 300);
    let many = |first| {
        (first..first + 30)
            .map(|number| Item::Push(push(number)))
            .collect()
    };
    let full = |hand: &mut Hand, first: u32| {
        let refused = (first..)
            .step_by(30)
            .find_map(|first| hand.append(many(first)).err());
        assert!(matches!(refused, Some(AppendError::Full { .. })), "{refused:?}");
    };
    full(&mut hand, 1_000);
    let mut turns = 0;
    while let Health::Full { makes_room, .. } = hand.journal.health() {
        assert!(makes_room, "after {turns} turns");
        turns += 1;
        assert!(turns < 1_000);
        hand.poke();
    }
    assert!(turns > 1, "{turns}");
    assert_eq!(hand.journal.health(), Health::Ready);
    hand.append(many(2_000)).unwrap();
    // But not once all is owed.
    let is_all_owed = |hand: &Hand| {
        let health = hand.journal.health();
        matches!(
            health,
            Health::Full {
                makes_room: false,
                ..
            }
        )
    };
    let mut first = 3_000;
    while !is_all_owed(&hand) {
        assert!(first < 60_000, "{:?}", hand.journal.health());
        full(&mut hand, first);
        hand.calm_down();
        first += 3_000;
    }
}

#[test]
fn an_append_that_no_journal_has_room_for_has_nobody_make_room() {
    let storage = Faulty::new();
    let mut hand = try_open(&storage, segments_of_4_kib(8)).unwrap();
    hand.take(1).unwrap();
    let huge = (1_000..1_200).map(|number| Item::Push(push(number))).collect();
    let refused = hand.append(huge).unwrap_err();
    assert!(matches!(refused, AppendError::Full { .. }), "{refused}");
    assert_eq!(hand.journal.health(), Health::Ready);
    hand.take(2).unwrap();
}

#[test]
fn remembered_ids_never_close_a_small_journal() {
    let storage = Faulty::new();
    let options = Options {
        segment_size: 4096,
        max_size: 5 * 4096,
    };
    let ids_max = options.max_size / 8 / record::EVENT_ID_BYTES as u64;
    let mut hand = try_open(&storage, options).unwrap();
    let last = u32::try_from(10 * ids_max).unwrap();
    for number in 1..=last {
        hand.take(number).unwrap();
        hand.settle(hand.durable().last().unwrap());
        time::pass(settling::SYNC_WITHIN);
        hand.calm_down();
    }
    assert_eq!(hand.journal.stats().event_ids, ids_max);
    hand.close();
    let mut again = try_open(&storage.after_power_loss(), options).unwrap();
    assert_eq!(again.journal.stats().event_ids, ids_max);
    // The newest are known still, and the oldest is taken again.
    again.take(last).unwrap();
    assert!(again.durable().is_empty());
    again.take(1).unwrap();
    assert_eq!(again.durable().len(), 1);
}

#[test]
fn more_than_may_wait_is_refused() {
    let hand = open(&Faulty::new());
    let large = Push {
        actor: "x".repeat(inbox::WAITING_BYTES_MAX / 2),
        ..push(1)
    };
    let answers: Vec<_> = (0..3)
        .map(|_| hand.journal.append(vec![Item::Push(large.clone())]))
        .collect();
    let refused = answers.into_iter().filter_map(FutureExt::now_or_never).count();
    assert_eq!(refused, 2);
    assert_eq!(hand.journal.stats().waiting, 1);
}

#[test]
fn changes_take_their_part_of_what_may_wait() {
    let hand = open(&Faulty::new());
    let changes = || vec![Item::Change(change()); inbox::WAITING_BYTES_MAX / 2 / inbox::CHANGE_BYTES];
    let answers = [changes(), changes(), changes()].map(|items| hand.journal.append(items));
    let told = answers.map(FutureExt::now_or_never);
    assert!(
        matches!(told, [None, None, Some(Err(AppendError::Busy { .. }))]),
        "{told:?}"
    );
}

#[test]
fn how_long_nothing_has_been_answered_is_known_whoever_gives_up_waiting() {
    let mut hand = open(&Faulty::new());
    let still = |hand: &Hand| hand.journal.stands_still().map(|still| still.as_secs());
    assert_eq!(still(&hand), None);
    time::pass(Duration::from_mins(1));
    drop(hand.journal.append(vec![Item::Push(push(1))]));
    assert_eq!(still(&hand), Some(0), "nobody waited before");
    time::pass(Duration::from_secs(7));
    let second = hand.journal.append(vec![Item::Push(push(2))]);
    assert_eq!(still(&hand), Some(7));
    // One that is refused is no answer of the disk's.
    let large = vec![Item::Change(change()); inbox::WAITING_BYTES_MAX.div_ceil(inbox::CHANGE_BYTES)];
    assert!(hand.journal.append(large).now_or_never().is_some());
    assert_eq!(still(&hand), Some(7));
    hand.turn();
    assert_eq!(second.now_or_never(), Some(Ok(())));
    assert_eq!(still(&hand), None);
}
