//! Reading back what is owed, from files that may not be as they were.

use super::{reader::Reader, scan::CHUNK_BYTES, settling::SYNC_WITHIN, *};

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

/// Flips a bit in the last byte of a push's record.
fn damage(storage: &Faulty, hand: &Hand, number: u64) {
    let standing = hand
        .journal
        .shared
        .live()
        .find(sequence(number))
        .unwrap()
        .standing;
    let name = segment::file_name(standing.segment);
    let files = storage.files();
    let (_, mut bytes) = files.into_iter().find(|(file, _)| *file == name).unwrap();
    bytes[(standing.offset + standing.bytes - 1) as usize] ^= 1;
    storage.put(&name, &bytes);
}

#[test]
fn a_push_that_cant_be_read_is_told_in_its_place_and_hides_no_other() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=3 {
        hand.take(number).unwrap();
    }
    damage(&storage, &hand, 2);
    let told = hand.journal.owed(None, usize::MAX);
    let [Ok(first), Err(unreadable), Ok(third)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!((first.sequence.get(), third.sequence.get()), (1, 3));
    assert_eq!(unreadable.sequence.get(), 2);
    assert_eq!(unreadable.file.to_string_lossy(), segment::file_name(1));
    assert!(
        unreadable
            .to_string()
            .contains("push 2 in 0000000000000001.segment")
    );
    assert_eq!(hand.journal.owed(Some(sequence(2)), 1).len(), 1);
}

#[test]
fn pushes_that_are_read_together_open_their_file_once_and_a_bad_one_hides_no_other() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=3 {
        hand.take(number).unwrap();
    }
    let all = [1, 2, 3].map(sequence);
    let calls = |sequences: &[Sequence]| {
        let before = storage.calls();
        assert!(hand.journal.read(sequences).iter().all(Result::is_ok));
        storage.calls() - before
    };
    assert_eq!(calls(&all), calls(&all[..1]));
    damage(&storage, &hand, 2);
    let read = hand.journal.read(&all);
    let [Ok(first), Err(error), Ok(third)] = read.as_slice() else {
        panic!("{read:?}")
    };
    assert_eq!((first, third), (&push(1), &push(3)));
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}

#[test]
fn a_push_that_has_ended_is_not_told_as_one_that_cant_be_read() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=2 {
        hand.take(number).unwrap();
    }
    let push = hand.journal.shared.live().find(sequence(1)).unwrap();
    let mut reader = Reader::new(
        Arc::<Faulty>::clone(&storage),
        hand.journal.shared.seed,
        CHUNK_BYTES,
    );
    damage(&storage, &hand, 1);
    hand.settle(&hand.durable()[0]);
    hand.journal.shared.inbox.nudge();
    time::pass(SYNC_WITHIN);
    hand.turn();
    assert_eq!(hand.journal.owed_one(&mut reader, push).unwrap(), None);
}

#[test]
fn a_record_written_since_its_file_was_read_is_read_again() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let mut reader = Reader::new(
        Arc::<Faulty>::clone(&storage),
        hand.journal.shared.seed,
        CHUNK_BYTES,
    );
    for number in 1..=3 {
        hand.take(number).unwrap();
        let push = hand.journal.shared.live().find(sequence(number.into())).unwrap();
        let read = reader.push(push.standing, |head| Ok(head.sequence)).unwrap();
        assert_eq!(read, push.sequence);
    }
}

#[test]
fn a_push_that_is_malformed_under_a_right_checksum_stops_a_start_by_its_name() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    let seed = hand.journal.shared.seed;
    hand.close();
    let name = segment::file_name(1);
    let mut bytes = storage.files().remove(0).1;
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let frame = &mut bytes[SEGMENT_HEADER_BYTES..end];
    let tag = frame.windows(3).position(|window| window == b"\x02v1").unwrap();
    frame[tag + 1] = b'!';
    record::close(&mut frame[FRAME_HEADER_BYTES..], seed);
    frame::seal(frame, seed, 1, 1);
    storage.put(&name, &bytes);

    let storage: Arc<dyn Storage> = storage;
    let opened = recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand).unwrap();
    let told = opened.journal.owed(None, usize::MAX);
    assert!(matches!(told.as_slice(), [Err(_)]), "{told:?}");
    let Err(error) = opened
        .notes
        .hand_over(&opened.journal, &mut [()], |(), _| panic!("it is no push"))
    else {
        panic!("handed over")
    };
    let told = "push 1 in 0000000000000001.segment: there is no intact push where one should be";
    assert_eq!(error.to_string(), told);
}

#[test]
fn pushes_are_handed_over_by_repository_and_by_who_owes_them() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=40_u32 {
        let named = |name: &str| EndpointId::Named(name.into());
        let repository: RepositoryName = format!("acme/app-{}", number % 3).parse().unwrap();
        let own = EndpointId::Repository(repository.clone());
        let push = Push {
            tag: (number % 5 != 0).then(|| format!("v{number}").parse().unwrap()),
            owed: match number % 4 {
                0 => vec![own, named("ci")],
                1 => vec![EndpointId::Repository("acme/other".parse().unwrap())],
                _ => vec![named("ci")],
            },
            repository,
            ..push(number)
        };
        hand.append(vec![Item::Push(push)]).unwrap();
        if number % 7 == 0 {
            hand.settle(&hand.durable()[number as usize - 3]);
        }
    }
    hand.close();
    // Opening compares what is handed over with what is owed.
    let again = open(&storage.after_power_loss());
    assert_eq!(again.pending.len(), 35);
    assert!(segments(&storage).len() > 2);
}

#[test]
fn what_each_repository_owes_its_own_webhook_is_that_ones() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=40_u32 {
        let repository: RepositoryName = format!("acme/app-{}", number % 20).parse().unwrap();
        let push = Push {
            owed: vec![EndpointId::Repository(repository.clone())],
            repository,
            ..push(number)
        };
        hand.append(vec![Item::Push(push)]).unwrap();
    }
    hand.close();
    // Opening compares what is handed over with what is owed.
    assert_eq!(open(&storage.after_power_loss()).pending.len(), 40);
}

/// Enough that several threads share the work, and that it comes in several batches.
#[test]
fn a_large_journal_is_handed_over_as_a_small_one_is() {
    let storage = Faulty::new();
    let options = Options {
        segment_size: 4 * 1024 * 1024,
        max_size: 1024 * 1024 * 1024,
    };
    let mut hand = try_open(&storage, options).unwrap();
    for first in (1..70_000).step_by(1_000) {
        let pushes = (first..first + 1_000).map(|number| {
            Item::Push(Push {
                repository: format!("acme/app-{}", number % 300).parse().unwrap(),
                references: Vec::new(),
                ..push(number)
            })
        });
        hand.append(pushes.collect()).unwrap();
    }
    let durable = hand.durable();
    for durable in durable.iter().step_by(1_000) {
        hand.settle(durable);
    }
    hand.close();

    let storage = storage.after_power_loss();
    let again = try_open(&storage, options).unwrap();
    assert_eq!((again.report.pushes, again.pending.len()), (69_930, 69_930));
    assert_eq!(again.journal.stats().event_ids, 70_000);
    drop(again);

    // A bit that flips in the middle of its first segment is found there.
    let (name, mut bytes) = storage.files().remove(0);
    bytes[2 * 1024 * 1024] ^= 1;
    storage.put(&name, &bytes);
    let Err(OpenError::Damaged { file, .. }) = try_open(&storage, options) else {
        panic!("opened")
    };
    assert_eq!(file.to_string_lossy(), name);
}
