//! What is taken is kept, in order, once.

use super::*;

#[test]
fn every_field_survives_a_restart_and_is_read_back_by_position() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let full = Push {
        event_id: "f00d".to_owned(),
        repository: "acme/app".parse().unwrap(),
        tag: Some("1.4".parse().unwrap()),
        digest: format!("sha512:{}", "ab".repeat(64)).parse().unwrap(),
        media_type: MediaType::DockerSchema1Signed,
        manifest_size: u64::MAX,
        references: vec![Reference {
            media_type: "application/vnd.oci.image.config.v1+json".into(),
            size: 1 << 40,
            digest: Digest::sha256(b"x"),
            has_urls: true,
        }],
        actor: "käthe".to_owned(),
        taken_at: Timestamp::from_unix_millis(-1),
        owed: vec![
            EndpointId::Named("ci".into()),
            EndpointId::Repository("acme/app".parse().unwrap()),
            EndpointId::Repository("acme/other".parse().unwrap()),
        ],
    };
    let bare = Push {
        event_id: String::new(),
        tag: None,
        ..push(2)
    };
    let items = vec![Item::Push(full.clone()), Item::Push(bare.clone())];
    hand.append(items).unwrap();
    let durable = hand.durable();
    let sequences: Vec<_> = durable.iter().map(|durable| durable.sequence).collect();
    let backwards: Vec<_> = sequences.iter().rev().copied().collect();
    assert_eq!(hand.read(&backwards).unwrap(), [bare.clone(), full.clone()]);
    let id = hand.journal.id();

    let again = open(&storage.after_power_loss());
    let owed: Vec<_> = durable.iter().map(owed).collect();
    assert_eq!(again.pending, owed);
    assert_eq!(again.journal.id(), id);
    assert_eq!(again.read(&sequences).unwrap(), [full, bare]);
}

#[test]
fn pushes_of_an_append_that_were_taken_before_leave_no_gap_however_large_it_is() {
    // The first pushes of each, and every third one after the first time, are known.
    for appended in [4, 2_000] {
        let storage = Faulty::new();
        let mut hand = open(&storage);
        hand.take(0).unwrap();
        let numbers = (0..appended).map(|number| if number % 3 == 2 { number - 1 } else { number });
        let items: Vec<_> = numbers.clone().map(|number| Item::Push(push(number))).collect();
        hand.append(items.into_iter().chain([Item::Change(change())]).collect())
            .unwrap();
        hand.take(appended).unwrap();

        let mut once: Vec<_> = numbers.chain([appended]).collect();
        once.dedup();
        let taken: Vec<_> = once.iter().map(|number| format!("event-{number}")).collect();
        assert_eq!(event_ids(&hand.durable()), taken);
        let sequences: Vec<_> = hand
            .durable()
            .iter()
            .map(|durable| durable.sequence.get())
            .collect();
        assert_eq!(sequences, (1..=once.len() as u64).collect::<Vec<_>>());
        let again = open(&storage.after_power_loss());
        assert_eq!(
            again.pushes(),
            once.iter().map(|number| push(*number)).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_push_that_is_settled_or_not_there_or_not_intact_is_an_error_to_read() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=3 {
        hand.take(number).unwrap();
    }
    let [first, second, third] = [1, 2, 3].map(|number| Sequence::new(number).unwrap());
    assert!(hand.read(&[Sequence::new(4).unwrap()]).is_err());
    hand.settle(&hand.durable()[1]);
    hand.take(4).unwrap();
    assert_eq!(hand.read(&[second]).unwrap_err().kind(), ErrorKind::NotFound);
    let standing = hand.journal.shared.live().find(first).unwrap().standing;
    let file = storage.open(&segment::file_name(standing.segment)).unwrap();
    file.write_all_at(b"x", u64::from(standing.offset + standing.bytes - 1))
        .unwrap();
    assert_eq!(hand.read(&[first]).unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(hand.read(&[third]).unwrap(), [push(3)]);
}

#[test]
fn what_is_settled_is_not_pending_after_a_restart() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=4 {
        hand.take(number).unwrap();
    }
    let durable = hand.durable();
    hand.settle(&durable[1]);
    hand.take(5).unwrap();
    // The settlement rode with the push, under its fsync.
    let again = open(&storage.after_power_loss());
    assert_eq!(again.pending_ids(), ["event-1", "event-3", "event-4", "event-5"]);
    assert_eq!(again.report.commits, 5);
}

#[test]
fn a_push_is_settled_for_each_endpoint_by_itself() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let owed = vec![EndpointId::Named("a".into()), EndpointId::Named("b".into())];
    hand.append(vec![Item::Push(Push { owed, ..push(1) })]).unwrap();
    let durable = &hand.durable()[0];
    let pair = Pair {
        sequence: durable.sequence,
        place: 0,
    };
    // Told twice, settled once.
    hand.journal.shared.settle([(pair, Settlement::DeadLetter)]);
    hand.journal.shared.settle([(pair, Settlement::Delivered)]);
    hand.close();
    let again = open(&storage);
    assert_eq!(again.pending[0].owed, [(1, EndpointId::Named("b".into()))]);
    assert_eq!(again.journal.stats().unsettled, 1);
}

#[test]
fn a_settlement_alone_survives_a_kill_at_once_and_a_power_loss_soon() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    let syncs = storage.syncs();
    hand.settle(&hand.durable()[0]);
    hand.turn();
    assert_eq!(storage.syncs(), syncs);
    let killed = storage.after_kill();
    let after_kill = open(&killed);
    assert_eq!((after_kill.pending.len(), after_kill.report.settled_late), (0, 1));
    // It is committed now, and its file is gone.
    assert!(open(&killed.after_power_loss()).pending.is_empty());
    assert_eq!(open(&storage.after_power_loss()).pending.len(), 1);
    hand.turn();
    assert_eq!(storage.syncs(), syncs + 1);
    assert!(open(&storage.after_power_loss()).pending.is_empty());
}

#[test]
fn settlements_of_pushes_that_are_gone_settle_no_other_and_their_numbers_are_nobodys() {
    for is_full in [false, true] {
        let storage = Faulty::new();
        let mut hand = open(&storage);
        for number in 1..=3 {
            hand.take(number).unwrap();
        }
        let durable = hand.durable();
        let standing = hand
            .journal
            .shared
            .live()
            .find(durable[2].sequence)
            .unwrap()
            .standing;
        // Of the third push and of the first, in this order, and the third one's commit is lost.
        hand.settle(&durable[2]);
        hand.settle(&durable[0]);
        let storage = storage.after_kill();
        let name = segment::file_name(standing.segment);
        let file = storage.open(&name).unwrap();
        let start = u64::from(standing.offset) - FRAME_HEADER_BYTES as u64;
        file.write_all_at(&vec![0; FRAME_HEADER_BYTES + standing.bytes as usize], start)
            .unwrap();
        if is_full {
            storage.fail(Call::Create, ErrorKind::StorageFull, 0, u64::MAX);
        }
        let mut again = open(&storage);
        assert_eq!(again.pending_ids(), ["event-2"], "{is_full}");
        if is_full {
            // Killed before there is space.
            again = open(&storage);
            assert_eq!(again.pending_ids(), ["event-2"]);
            assert!(again.take(4).is_err());
            storage.heal();
            time::pass(segments::RETRY_AFTER);
            again.poke();
        }
        again.take(4).unwrap();
        assert_eq!(again.durable()[0].sequence, durable[2].sequence.next());
        let newest = *segments(&storage).last().unwrap();
        let file = storage.open(&segment::file_name(newest)).unwrap();
        let mut header = [0; SEGMENT_HEADER_BYTES];
        file.read_at(&mut header, 0).unwrap();
        let header = segment::SegmentHeader::decode(&header).unwrap();
        assert_eq!(header.passed_over, 1, "{is_full}");
        for storage in [storage.after_kill(), storage.after_power_loss()] {
            assert_eq!(open(&storage).pending_ids(), ["event-2", "event-4"], "{is_full}");
            let storage: Arc<dyn Storage> = storage;
            let survey = crate::journal::survey::Survey::open(&storage).unwrap();
            let found = crate::journal::examine::examine(&survey, &mut |_, _| {}).unwrap();
            assert_eq!((found.findings, found.torn), (Vec::new(), None), "{is_full}");
        }
    }
}

#[test]
fn numbers_that_are_passed_over_are_told_alike_however_often_it_is_tried() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let empty = storage.files();
    hand.take(1).unwrap();
    hand.settle(&hand.durable()[0]);
    let storage = storage.after_kill();
    // Its commit, the first there is, reads as zeros.
    let name = segment::file_name(1);
    let (_, blank) = empty.into_iter().find(|(file, _)| *file == name).unwrap();
    storage.put(&name, &blank);
    // The name of what the start begins is there, and can't be made durable.
    storage.fail(Call::SyncDir, ErrorKind::StorageFull, 0, 1);
    let mut again = open(&storage);
    let (_, kept) = storage
        .files()
        .into_iter()
        .find(|(file, _)| *file == name)
        .unwrap();
    assert_eq!(
        kept[..SEGMENT_HEADER_BYTES],
        blank[..SEGMENT_HEADER_BYTES],
        "what goes on from there is told behind it"
    );
    storage.heal();
    while again.journal.health() != Health::Ready {
        time::pass(segments::RETRY_AFTER);
        again.poke();
    }
    again.take(2).unwrap();
    assert_eq!(again.durable()[0].sequence.get(), 2);
    for storage in [storage.after_kill(), storage.after_power_loss()] {
        assert_eq!(open(&storage).pending_ids(), ["event-2"]);
    }
}

#[test]
fn what_waits_together_shares_one_commit() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let syncs = storage.syncs();
    let answers: Vec<_> = (1..=9)
        .map(|number| hand.journal.append(vec![Item::Push(push(number))]))
        .collect();
    hand.turn();
    assert_eq!(storage.syncs(), syncs + 1);
    assert!(
        answers
            .into_iter()
            .all(|answer| answer.now_or_never() == Some(Ok(())))
    );
    let sequences: Vec<_> = hand
        .durable()
        .iter()
        .map(|durable| durable.sequence.get())
        .collect();
    assert_eq!(sequences, (1..=9).collect::<Vec<_>>());
}

#[test]
fn changes_pass_in_their_place_and_need_no_fsync() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let syncs = storage.syncs();
    hand.append(vec![Item::Change(change())]).unwrap();
    hand.append(Vec::new()).unwrap();
    assert_eq!(storage.syncs(), syncs);
    hand.append(vec![
        Item::Push(push(1)),
        Item::Change(change()),
        Item::Push(push(2)),
    ])
    .unwrap();
    let kinds: Vec<_> = hand
        .applied
        .lock()
        .unwrap()
        .iter()
        .map(|applied| matches!(applied, Applied::Push(_)))
        .collect();
    assert_eq!(kinds, [false, true, false, true]);
}

#[test]
fn one_append_is_one_commit_even_if_it_needs_a_segment_of_its_own() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    let many: Vec<_> = (10..100).map(|number| Item::Push(push(number))).collect();
    hand.append(many).unwrap();
    hand.take(2).unwrap();
    let again = open(&storage.after_power_loss());
    assert_eq!((again.pending.len(), again.report.commits), (92, 3));
    let durable: Vec<_> = hand.durable().iter().map(owed).collect();
    assert_eq!(again.pending, durable);
}

#[test]
fn concurrent_appends_are_all_answered_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DIRECTORY);
    let options = Options {
        segment_size: 64 * 1024,
        ..OPTIONS
    };
    let opened = Journal::open(&path, options, clock()).unwrap();
    let journal = opened.journal;
    let thread = opened.writer.start(Box::new(|_| {})).unwrap();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let journal = &journal;
            scope.spawn(move || {
                for number in 0..50 {
                    let append = journal.append(vec![Item::Push(push(client * 1000 + number))]);
                    futures_executor(append).unwrap();
                }
            });
        }
    });
    assert!(journal.stats().commits <= 400);
    futures_executor(journal.close());
    assert_eq!(
        futures_executor(journal.append(Vec::new())),
        Err(AppendError::Closed)
    );
    thread.join().unwrap();
    drop(journal);
    let again = Journal::open(&path, options, clock()).unwrap();
    let pending = all_owed(&again.journal).unwrap();
    assert_eq!(pending.len(), 400);
    assert!(pending.is_sorted_by_key(|owed| owed.sequence));
}

#[test]
fn a_repeated_event_id_is_taken_once() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let (first, second) = (
        hand.journal.append(vec![Item::Push(push(1))]),
        hand.journal
            .append(vec![Item::Push(push(1)), Item::Push(push(2))]),
    );
    hand.turn();
    assert_eq!(
        (first.now_or_never(), second.now_or_never()),
        (Some(Ok(())), Some(Ok(())))
    );
    hand.take(2).unwrap();
    assert_eq!(event_ids(&hand.durable()), ["event-1", "event-2"]);
    assert_eq!(hand.journal.stats().duplicates, 2);
    let mut again = open(&storage.after_power_loss());
    again.take(1).unwrap();
    assert!(again.durable().is_empty());
}

#[test]
fn pushes_without_event_id_are_never_repeats() {
    let mut hand = open(&Faulty::new());
    let anonymous = || {
        Item::Push(Push {
            event_id: String::new(),
            ..push(1)
        })
    };
    hand.append(vec![anonymous(), anonymous()]).unwrap();
    assert_eq!(hand.durable().len(), 2);
}

#[test]
fn a_repeat_is_not_answered_before_the_first_one_is_durable() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let (first, repeat) = (
        hand.journal.append(vec![Item::Push(push(1))]),
        hand.journal.append(vec![Item::Push(push(1))]),
    );
    storage.fail(Call::Sync, ErrorKind::Other, 0, 1);
    hand.turn();
    assert!(first.now_or_never().unwrap().is_err() && repeat.now_or_never().unwrap().is_err());
    hand.take(1).unwrap();
    assert_eq!(event_ids(&hand.durable()), ["event-1"]);
}

#[test]
fn event_ids_survive_the_deletion_of_their_segment() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=200 {
        hand.take(number).unwrap();
        hand.settle(hand.durable().last().unwrap());
    }
    assert!(!segments(&storage).contains(&1));
    hand.close();
    let mut again = open(&storage.after_power_loss());
    again
        .append((1..=200).map(|number| Item::Push(push(number))).collect())
        .unwrap();
    assert!(again.durable().is_empty());
    assert_eq!(again.journal.stats().event_ids, 200);
}

#[test]
fn the_oldest_push_is_read_once_and_is_the_next_one_when_it_is_settled() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=200 {
        hand.take(number).unwrap();
    }
    let durable = hand.durable();
    assert_eq!(
        hand.journal.oldest_taken_at().unwrap(),
        Some(durable[0].push.taken_at)
    );
    let calls = storage.calls();
    assert_eq!(
        hand.journal.oldest_taken_at().unwrap(),
        Some(durable[0].push.taken_at)
    );
    assert_eq!(storage.calls(), calls, "it is known");
    for (index, settled) in durable.iter().enumerate() {
        hand.settle(settled);
        hand.take(1_000 + u32::try_from(index).unwrap()).unwrap();
        let live = &mut hand.journal.shared.live();
        let expected = live.owed_after(None).next().unwrap().sequence;
        assert_eq!(live.oldest(), Some(expected));
    }
    assert_eq!(hand.journal.oldest(), Some(durable[199].sequence.next()));
    let taken_at = hand.journal.oldest_taken_at().unwrap();
    assert_eq!(taken_at, Some(Timestamp::from_unix_millis(1_000)));
}

#[test]
fn how_old_the_oldest_push_is_is_told_without_the_disk() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let known = |hand: &Hand| hand.journal.oldest_known().map(Timestamp::unix_millis);
    assert_eq!(known(&hand), None);
    hand.take(1).unwrap();
    assert_eq!(known(&hand), None, "it was not looked for");
    hand.journal.oldest_taken_at().unwrap();
    assert_eq!(known(&hand), Some(1));
    hand.take(2).unwrap();
    hand.settle(&hand.durable()[0]);
    time::pass(super::settling::SYNC_WITHIN);
    hand.poke();
    assert_eq!(known(&hand), None, "another one is the oldest just now");
    // The disk does not say since when: it is no younger than it would be.
    time::pass(super::oldest::FRESH_FOR);
    assert_eq!(known(&hand), Some(1));
    hand.journal.oldest_taken_at().unwrap();
    assert_eq!(known(&hand), Some(2));
}

#[test]
fn two_processes_dont_share_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DIRECTORY);
    let opened = Journal::open(&path, OPTIONS, clock()).unwrap();
    let second = Journal::open(&path, OPTIONS, clock());
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(opened);
    assert!(Journal::open(&path, OPTIONS, clock()).is_ok());
}
