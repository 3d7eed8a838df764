//! A disk that is full, and what makes room on it.

use super::*;

const SMALL: Options = Options {
    segment_size: 16 * 1024,
    max_size: 64 * 1024 * 1024,
};

/// Some 320 bytes each.
fn small(number: u32) -> Push {
    Push {
        actor: "x".repeat(170),
        ..push(number)
    }
}

/// Takes pushes until the disk is full; how many.
fn fill(hand: &mut Hand, from: u32) -> u32 {
    let refused = (from..100_000).find(|number| hand.append(vec![Item::Push(small(*number))]).is_err());
    let refused = refused.unwrap();
    let health = hand.journal.health();
    assert!(matches!(health, Health::NoSpace { .. }), "{health:?}");
    refused
}

/// Settles what stands in a segment.
fn settle_segment(hand: &mut Hand, number: u64) {
    for durable in hand.durable() {
        if hand.segment_of(durable.sequence) == number {
            hand.settle(&durable);
        }
    }
    time::pass(settling::SYNC_WITHIN);
    hand.calm_down();
}

#[test]
fn what_is_delivered_frees_a_full_disk_also_of_small_pushes_whose_ids_are_remembered() {
    const SEGMENTS: u64 = 14;
    let storage = Faulty::new();
    let mut hand = try_open(&storage, SMALL).unwrap();
    storage.fail(Call::Create, ErrorKind::StorageFull, SEGMENTS, u64::MAX);
    fill(&mut hand, 1);
    let all = segments(&storage);
    assert!(
        all.len() > 12,
        "so many that few of their bytes are dead: {all:?}"
    );
    settle_segment(&mut hand, all[0]);
    assert_eq!(
        segments(&storage),
        all[1..],
        "it wins a segment, and costs its ids"
    );
    let again = try_open(&storage.after_kill(), SMALL).unwrap();
    assert!(again.pending_ids().len() > 100);
    storage.heal();
    time::pass(segments::RETRY_AFTER);
    hand.calm_down();
    assert_eq!(hand.journal.health(), Health::Ready);
    // It is remembered still, in the segment that it was carried into.
    hand.append(vec![Item::Push(small(1))]).unwrap();
    assert_eq!(hand.journal.stats().duplicates, 1);
}

#[test]
fn a_full_disk_does_not_write_again_what_wins_nothing() {
    let storage = Faulty::new();
    let mut hand = try_open(&storage, SMALL).unwrap();
    // The oldest segment is a short one: there would be room for all that it owes.
    hand.append(vec![Item::Push(small(1))]).unwrap();
    hand.append((2..50).map(|number| Item::Push(small(number))).collect())
        .unwrap();
    assert_eq!(segments(&storage).len(), 2);
    storage.fail(Call::Create, ErrorKind::StorageFull, 6, u64::MAX);
    fill(&mut hand, 50);
    let (all, bytes) = (segments(&storage), hand.journal.stats().bytes);
    time::pass(segments::RETRY_AFTER);
    hand.calm_down();
    assert_eq!((segments(&storage), hand.journal.stats().bytes), (all, bytes));
}

#[test]
fn a_disk_without_room_for_the_next_segment_is_found_out_while_this_one_has_some() {
    let storage = Faulty::new();
    let mut hand = open_filling(&storage, SMALL, Filling::Ahead).unwrap();
    // There is room for one more file.
    storage.fail(Call::Create, ErrorKind::StorageFull, 1, u64::MAX);
    let mut numbers = 1..;
    while hand.journal.stats().segments < 2 {
        hand.append(vec![Item::Push(small(numbers.next().unwrap()))])
            .unwrap();
    }
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while hand.journal.health() == Health::Ready {
        assert!(std::time::Instant::now() < until, "it is not found out");
        hand.poke();
        std::thread::yield_now();
    }
    let refused = numbers.next().unwrap();
    assert!(hand.append(vec![Item::Push(small(refused))]).is_err());
    let writer = hand.writer.as_ref().unwrap();
    let room = writer.segments.room_for(segments::Purpose::Upkeep);
    assert!(
        room > SMALL.segment_size as usize / 2,
        "{room} bytes are left for settlements"
    );
    assert_eq!(writer.segments.room_for(segments::Purpose::Pushes), 0);
    storage.heal();
    time::pass(segments::RETRY_AFTER);
    let segment = hand.journal.stats().segments;
    hand.append(vec![Item::Push(small(refused))]).unwrap();
    assert_eq!(hand.journal.stats().segments, segment, "and goes on in it");
}
