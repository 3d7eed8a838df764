//! What nobody takes is carried forward, and keeps nothing else on disk.

use std::path::Path;

use rustix::io::Errno;

use super::*;

pub(super) fn owed_by(number: u32, endpoints: &[&str]) -> Item {
    let owed = endpoints
        .iter()
        .map(|name| EndpointId::Named((*name).into()))
        .collect();
    Item::Push(Push { owed, ..push(number) })
}

fn delivered(durable: &Durable, place: u16) -> (Pair, Settlement) {
    let pair = Pair {
        sequence: durable.sequence,
        place,
    };
    (pair, Settlement::Delivered)
}

fn bytes_on_disk(storage: &Faulty) -> u64 {
    storage.files().iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

/// Twice what is live, and two segments.
fn bound(hand: &Hand, options: Options) -> u64 {
    2 * hand.journal.stats().live_bytes + 2 * u64::from(options.segment_size)
}

#[test]
fn with_one_endpoint_dead_the_disk_holds_twice_what_is_live_and_two_segments() {
    let storage = Faulty::new();
    let options = Options {
        segment_size: 16 * 1024,
        max_size: 64 * 1024 * 1024,
    };
    let mut hand = try_open(&storage, options).unwrap();
    let (mut number, mut segments_most) = (0, 0);
    for _ in 0..3_000 {
        let items = (0..3).map(|_| {
            number += 1;
            // One push in ten is owed by the dead endpoint too.
            let owed: &[&str] = if number % 10 == 0 {
                &["ci", "dead"]
            } else {
                &["ci"]
            };
            owed_by(number, owed)
        });
        hand.append(items.collect()).unwrap();
        let durable = std::mem::take(&mut *hand.applied.lock().unwrap());
        for applied in durable {
            let Applied::Push(durable) = applied else { continue };
            hand.journal.shared.settle([delivered(&durable, 0)]);
        }
        // What is settled last is not committed yet, and a segment that was just sealed not yet cleared.
        let slack = 2 * u64::from(options.segment_size);
        assert!(bytes_on_disk(&storage) <= bound(&hand, options) + slack);
        segments_most = segments_most.max(segments(&storage).len());
    }
    time::pass(settling::SYNC_WITHIN);
    hand.calm_down();
    assert!(
        bytes_on_disk(&storage) <= bound(&hand, options),
        "{} bytes on disk, {} of them live",
        bytes_on_disk(&storage),
        hand.journal.stats().live_bytes
    );
    assert!(!segments(&storage).contains(&1) && segments_most > 3);
    let again = try_open(&storage.after_power_loss(), options).unwrap();
    let expected: Vec<_> = (1..=900).map(|tenth| format!("event-{}", tenth * 10)).collect();
    assert_eq!(again.pending_ids(), expected);
    assert!(
        again
            .pending
            .iter()
            .all(|owed| owed.owed == [(1, EndpointId::Named("dead".into()))])
    );
}

#[test]
fn a_single_push_that_nobody_takes_keeps_no_other_on_disk() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.append(vec![owed_by(1, &["dead"])]).unwrap();
    for number in 2..=400 {
        hand.take(number).unwrap();
        hand.settle(hand.durable().last().unwrap());
    }
    time::pass(settling::SYNC_WITHIN);
    hand.calm_down();
    // The ids of 400 events are more than the push.
    assert!(bytes_on_disk(&storage) <= bound(&hand, OPTIONS));
    assert_eq!(hand.read(&[Sequence::FIRST]).unwrap()[0].event_id, "event-1");
    assert_eq!(hand.journal.oldest(), Some(Sequence::FIRST));
    let mut again = open(&storage.after_power_loss());
    assert_eq!(again.pending_ids(), ["event-1"]);
    again.take(7).unwrap();
    assert!(again.durable().is_empty(), "its event id is known");
    again.settle_owed(&again.pending[0]);
    again.close();
}

#[test]
fn a_push_of_many_endpoints_keeps_each_ones_share_however_often_it_is_carried() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let names: Vec<_> = (0..70).map(|number| format!("e{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    hand.append(vec![owed_by(1, &names)]).unwrap();
    let first = hand.durable()[0].clone();
    let mut left: Vec<u16> = (0..70).collect();
    for round in 0..12 {
        let settled = left.remove((round * 31) % left.len());
        hand.journal.shared.settle([delivered(&first, settled)]);
        for number in 0..40 {
            hand.take(100 * u32::try_from(round + 1).unwrap() + number)
                .unwrap();
            hand.settle(hand.durable().last().unwrap());
        }
        hand.calm_down();
    }
    assert!(hand.segment_of(first.sequence) > 12);
    let again = open(&storage.after_power_loss());
    assert_eq!(again.pending[0].sequence, first.sequence);
    let places: Vec<_> = again.pending[0].owed.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, left);
}

/// Takes pushes until the first one, owed by two, is carried forward; with which one that was. The first
/// endpoint's share is settled right before push `settled_at` is taken.
fn until_carried(storage: &Arc<Faulty>, settled_at: Option<u32>) -> u32 {
    let mut hand = open(storage);
    hand.append(vec![owed_by(1, &["a", "b"])]).unwrap();
    let first = hand.durable()[0].clone();
    let segment = hand.segment_of(first.sequence);
    for number in 2.. {
        if settled_at == Some(number) {
            hand.journal.shared.settle([delivered(&first, 0)]);
        }
        hand.take(number).unwrap();
        if hand.segment_of(first.sequence) != segment {
            return number;
        }
        hand.settle(hand.durable().last().unwrap());
    }
    unreachable!("it is never carried")
}

#[test]
fn a_settlement_that_rides_with_a_copy_holds_for_the_copy() {
    let carried_at = until_carried(&Faulty::new(), None);
    let storage = Faulty::new();
    assert_eq!(until_carried(&storage, Some(carried_at)), carried_at);
    let again = open(&storage.after_power_loss());
    let found = again.pending.iter().find(|owed| owed.sequence == Sequence::FIRST);
    assert_eq!(found.unwrap().owed, [(1, EndpointId::Named("b".into()))]);
}

/// A journal whose first push can't be read, which nobody takes, nor the two after it; and in which the first
/// segment should have been cleared long ago.
fn with_a_bad_record() -> (Arc<Faulty>, Hand, live::Standing) {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=3 {
        hand.append(vec![owed_by(number, &["dead"])]).unwrap();
    }
    let standing = hand.journal.shared.live().find(Sequence::FIRST).unwrap().standing;
    overwrite(&storage, standing, b"bad");
    for number in 4..=60 {
        hand.take(number).unwrap();
        hand.settle(hand.durable().last().unwrap());
    }
    time::pass(settling::SYNC_WITHIN);
    (storage, hand, standing)
}

fn overwrite(storage: &Faulty, standing: live::Standing, bytes: &[u8]) {
    let file = storage.open(&segment::file_name(standing.segment)).unwrap();
    file.write_all_at(bytes, u64::from(standing.offset) + 40).unwrap();
}

/// Takes back what [`with_a_bad_record`] did to the record.
fn overwrite_as_it_was(storage: &Faulty, standing: live::Standing) {
    let whole = Faulty::new();
    let mut same = open(&whole);
    same.append(vec![owed_by(1, &["dead"])]).unwrap();
    let file = whole.open(&segment::file_name(1)).unwrap();
    let mut bytes = [0; 3];
    file.read_at(&mut bytes, u64::from(standing.offset) + 40).unwrap();
    overwrite(storage, standing, &bytes);
}

/// Turns until the journal calls itself damaged.
fn until_damaged(hand: &mut Hand) -> Damage {
    for _ in 0..200 {
        hand.poke();
        if let Health::Damaged(damage) = hand.journal.health() {
            return damage;
        }
        time::pass(std::time::Duration::from_secs(1));
    }
    panic!("it does not say that it is damaged");
}

#[test]
fn a_record_that_went_bad_is_told_and_keeps_its_segment_alone_from_being_carried() {
    let (storage, mut hand, standing) = with_a_bad_record();
    let damage = until_damaged(&mut hand);
    let place = (
        damage.file.to_str().unwrap(),
        damage.offset,
        damage.sequence.get(),
        damage.pushes,
    );
    assert_eq!(
        place,
        (
            &*segment::file_name(standing.segment),
            u64::from(standing.offset),
            1,
            1
        )
    );
    assert!(damage.to_string().contains("shipbell journal repair"), "{damage}");
    let sequences = [2, 3].map(|number| Sequence::new(number).unwrap());
    assert!(
        sequences
            .iter()
            .all(|push| hand.segment_of(*push) > standing.segment)
    );
    assert_eq!(hand.segment_of(Sequence::FIRST), standing.segment);
    hand.take(61).unwrap();
    assert!(matches!(hand.journal.health(), Health::Damaged(_)));
    // A start would refuse it. A repair loses what stands in the bad commit and nowhere else.
    let storage = storage.after_kill();
    assert!(matches!(
        try_open(&storage, OPTIONS),
        Err(OpenError::Damaged { .. })
    ));
    let storage: Arc<dyn Storage> = storage;
    let keep = repair::Identity::Keep;
    let repair = Repair::of(&storage, Path::new(""), keep, 4096, clock(), &mut |_, _| {}).unwrap();
    repair.run().unwrap();
    let again = recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand).unwrap();
    let owed = again.journal.owed(None, usize::MAX);
    assert_eq!(
        owed.iter()
            .map(|owed| owed.as_ref().unwrap().sequence.get())
            .collect::<Vec<_>>(),
        [2, 3, 61]
    );
}

#[test]
fn a_bad_record_whose_push_is_settled_is_not_missed() {
    let (storage, mut hand, standing) = with_a_bad_record();
    until_damaged(&mut hand);
    let pair = Pair {
        sequence: Sequence::FIRST,
        place: 0,
    };
    hand.journal.shared.settle([(pair, Settlement::Superseded)]);
    time::pass(stuck::ROUND_WAIT);
    hand.calm_down();
    assert_eq!(hand.journal.health(), Health::Ready);
    assert!(!segments(&storage).contains(&standing.segment));
    assert!(bytes_on_disk(&storage) <= bound(&hand, OPTIONS));
    assert_eq!(
        open(&storage.after_power_loss()).pending_ids(),
        ["event-2", "event-3"]
    );
}

#[test]
fn a_record_that_can_not_be_read_for_a_while_is_carried_once_it_can() {
    let (storage, mut hand, standing) = with_a_bad_record();
    until_damaged(&mut hand);
    overwrite_as_it_was(&storage, standing);
    time::pass(stuck::ROUND_WAIT);
    hand.calm_down();
    assert_eq!(hand.journal.health(), Health::Ready);
    assert!(hand.segment_of(Sequence::FIRST) > standing.segment);
    assert_eq!(hand.read(&[Sequence::FIRST]).unwrap()[0].event_id, "event-1");
}

#[test]
fn a_damaged_journal_at_its_bound_does_not_call_itself_full() {
    let (_, mut hand, standing) = with_a_bad_record();
    let mut told = hand.journal.health_changes();
    let refused = (1_000..).find_map(|number| {
        let taken = hand.take(number).err();
        if taken.is_none() {
            hand.settle(hand.durable().last().unwrap());
        }
        assert!(!matches!(*told.borrow_and_update(), Health::Full { .. }));
        taken
    });
    let Some(AppendError::Damaged(damage)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(damage.offset, u64::from(standing.offset));
    assert_eq!(hand.journal.health(), Health::Damaged(damage));
}

/// What keeps the oldest segment from going is told as a want of space, and over once it passes.
fn is_waited_out(storage: &Faulty, hand: &mut Hand) {
    hand.poke();
    let health = hand.journal.health();
    assert!(matches!(&health, Health::NoSpace { .. }), "{health:?}");
    storage.heal();
    time::pass(segments::RETRY_AFTER);
    hand.calm_down();
    assert_eq!(hand.journal.health(), Health::Ready);
    hand.take(1).unwrap();
}

#[test]
fn a_journal_that_has_nothing_to_open_a_segment_with_is_neither_damaged_nor_full() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.append(vec![owed_by(1, &["dead"])]).unwrap();
    storage.trouble(Call::Open, Trouble::Refuse(Errno::MFILE), 0, u64::MAX);
    let mut told = hand.journal.health_changes();
    let refused = (1_000..).find_map(|number| {
        let taken = hand.take(number).err();
        if taken.is_none() {
            hand.settle(hand.durable().last().unwrap());
            assert_eq!(*told.borrow_and_update(), Health::Ready);
        }
        // Rounds enough to call it damaged.
        time::pass(stuck::ROUND_WAIT);
        taken
    });
    assert!(matches!(&refused, Some(AppendError::Io(_))), "{refused:?}");
    is_waited_out(&storage, &mut hand);
    assert_eq!(open(&storage.after_kill()).pending_ids().len(), 1);
}

#[test]
fn a_journal_whose_oldest_segment_cant_be_deleted_is_not_full_and_goes_on_once_it_can() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    storage.fail(Call::Remove, ErrorKind::PermissionDenied, 0, u64::MAX);
    let mut told = hand.journal.health_changes();
    let refused = (1_000..).find_map(|number| {
        let taken = hand.take(number).err();
        if taken.is_none() {
            hand.settle(hand.durable().last().unwrap());
        }
        time::pass(segments::RETRY_AFTER);
        // Nobody is to give up pushes for room that would not come of it.
        assert!(!matches!(*told.borrow_and_update(), Health::Full { .. }));
        taken
    });
    let refused = refused.unwrap().to_string();
    assert!(refused.contains("can't be deleted"), "{refused}");
    is_waited_out(&storage, &mut hand);
}

#[test]
fn copies_leave_half_of_the_reserve_to_settlements_unless_the_disk_is_known_to_be_full() {
    const RESERVE: usize = OPTIONS.segment_size as usize / 8;
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let room = |hand: &Hand| {
        let writer = hand.writer.as_ref().unwrap();
        let copies = writer.segments.room_for(writer.carrying_purpose());
        writer.segments.room_for(segments::Purpose::Upkeep) - copies
    };
    hand.take(1).unwrap();
    assert_eq!(room(&hand), RESERVE / 2);
    storage.fail(Call::Create, ErrorKind::StorageFull, 0, u64::MAX);
    assert!((2..10_000).any(|number| hand.take(number).is_err()));
    assert_eq!(room(&hand), 0);
}

#[test]
fn event_ids_alone_move_on_too() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=600 {
        hand.take(number).unwrap();
        hand.settle(hand.durable().last().unwrap());
    }
    time::pass(settling::SYNC_WITHIN);
    hand.calm_down();
    assert!(bytes_on_disk(&storage) <= bound(&hand, OPTIONS));
    let mut again = open(&storage.after_power_loss());
    again
        .append((1..=600).map(|number| Item::Push(push(number))).collect())
        .unwrap();
    assert!(again.durable().is_empty());
}

#[test]
fn a_push_that_is_larger_than_a_step_is_carried_alone() {
    let storage = Faulty::new();
    let options = Options {
        segment_size: 64 * 1024,
        max_size: 64 * 1024 * 1024,
    };
    let mut hand = try_open(&storage, options).unwrap();
    let large = Push {
        actor: "x".repeat(700_000),
        ..push(1)
    };
    hand.append(vec![Item::Push(large.clone())]).unwrap();
    let segment = hand.segment_of(Sequence::FIRST);
    for number in 2..=8_000 {
        hand.take(number).unwrap();
        let durable = std::mem::take(&mut *hand.applied.lock().unwrap());
        for applied in durable {
            if let Applied::Push(durable) = applied
                && durable.sequence != Sequence::FIRST
            {
                hand.settle(&durable);
            }
        }
    }
    hand.calm_down();
    assert!(hand.segment_of(Sequence::FIRST) > segment);
    assert_eq!(hand.read(&[Sequence::FIRST]).unwrap(), [large]);
}

#[test]
fn pushes_do_not_wait_for_settlements_that_never_end() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    let first = hand.durable()[0].clone();
    // As if more of them were told during each sync than one commit takes.
    let many = 2 * 1024 * 1024 / 23;
    hand.journal
        .shared
        .settle((0..many).map(|_| delivered(&first, 0)));
    time::pass(settling::SYNC_WITHIN);
    hand.poke();
    assert!(hand.journal.shared.settling.len() > 0, "one commit a turn");
    hand.take(2).unwrap();
}
