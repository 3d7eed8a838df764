//! The disk fails; nothing acknowledged is lost.

use rustix::io::Errno;

use super::*;

#[test]
fn a_failed_commit_is_not_acknowledged_and_never_comes_back() {
    for call in [Call::Write, Call::Sync] {
        let storage = Faulty::new();
        let mut hand = open(&storage);
        hand.take(1).unwrap();
        let segment = hand.segment_of(Sequence::FIRST);
        hand.settle(&hand.durable()[0]);
        let change_only = hand.journal.append(vec![Item::Change(change())]);
        let failing = hand
            .journal
            .append(vec![Item::Push(push(2)), Item::Change(change())]);
        storage.fail(call, ErrorKind::Other, 0, 1);
        hand.turn();
        assert_eq!(change_only.now_or_never(), Some(Ok(())));
        assert!(matches!(failing.now_or_never(), Some(Err(AppendError::Io(_)))));
        assert_eq!(hand.applied.lock().unwrap().len(), 2);
        assert_eq!(hand.journal.health(), Health::Ready);
        // All that was written is on disk now, the failed commit too.
        let crashed = open(&storage.after_kill());
        assert!(crashed.pushes().iter().all(|found| *found == push(1)));
        hand.take(3).unwrap();
        let durable = hand.durable();
        assert_eq!(durable[1].sequence.get(), 2);
        assert_eq!(hand.segment_of(durable[1].sequence), segment + 1);
        for storage in [storage.after_kill(), storage.after_power_loss()] {
            // The settlement that was in the failed commit was written again.
            assert_eq!(open(&storage).pending_ids(), ["event-3"]);
        }
    }
}

#[test]
fn a_disk_that_fails_for_good_ends_the_journal() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    assert!(!hand.journal.has_failed());
    storage.fail(Call::Sync, ErrorKind::Other, 0, 100);
    let (first, second) = (
        hand.journal.append(vec![Item::Push(push(2))]),
        hand.journal
            .append((10..60).map(|number| Item::Push(push(number))).collect()),
    );
    hand.turn();
    assert!(matches!(first.now_or_never(), Some(Err(AppendError::Io(_)))));
    assert!(matches!(second.now_or_never(), Some(Err(AppendError::Io(_)))));
    assert!(matches!(hand.journal.health(), Health::Failed(_)));
    assert!(hand.journal.has_failed(), "who settles knows that it was in vain");
    assert!(hand.writer.is_none());
    assert!(matches!(hand.take(3), Err(AppendError::Io(_))));
    assert_eq!(hand.journal.close().now_or_never(), Some(()));
    assert_eq!(open(&storage.after_power_loss()).pending_ids(), ["event-1"]);
}

#[test]
fn a_full_disk_is_waited_out() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    storage.fail(Call::Create, ErrorKind::StorageFull, 0, u64::MAX);
    let mut number = 0;
    let refused = loop {
        number += 1;
        if let Err(error) = hand.take(number) {
            break error;
        }
    };
    assert!(matches!(refused, AppendError::Io(_)), "{refused}");
    assert!(matches!(hand.journal.health(), Health::NoSpace { .. }));
    // Refused at once, not tried again for each append; settlements still go in.
    let calls = storage.calls();
    assert!(hand.take(number).is_err());
    assert_eq!(storage.calls(), calls);
    hand.settle(&hand.durable()[0]);
    hand.journal.close().now_or_never();
    hand.turn();
    storage.heal();
    let mut again = open(&storage.after_power_loss());
    assert_eq!(again.pending.len(), number as usize - 2);
    storage.heal();
    again.take(number).unwrap();
}

#[test]
fn once_there_is_space_again_appends_are_taken_without_a_restart() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    storage.fail(Call::Write, ErrorKind::StorageFull, 0, u64::MAX);
    assert!(matches!(hand.take(2), Err(AppendError::Io(_))));
    assert!(matches!(hand.journal.health(), Health::NoSpace { .. }));
    assert!(matches!(hand.take(2), Err(AppendError::Io(_))));
    storage.heal();
    // Nobody asks: the writer tries by itself.
    while hand.journal.health() != Health::Ready {
        hand.turn();
    }
    hand.take(2).unwrap();
    assert_eq!(
        open(&storage.after_power_loss()).pending_ids(),
        ["event-1", "event-2"]
    );
}

#[test]
fn a_moment_without_open_files_or_memory_is_waited_out_where_a_file_is_made() {
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
        let storage = Faulty::new();
        let mut hand = open(&storage);
        storage.trouble(Call::Create, Trouble::Refuse(errno), 0, u64::MAX);
        let mut number = 0;
        let refused = loop {
            number += 1;
            if let Err(error) = hand.take(number) {
                break error.to_string();
            }
        };
        assert!(
            refused.contains(&std::io::Error::from(errno).to_string()),
            "{refused}"
        );
        assert!(matches!(hand.journal.health(), Health::NoSpace { .. }));
        storage.heal();
        while hand.journal.health() != Health::Ready {
            time::pass(segments::RETRY_AFTER);
            hand.poke();
        }
        hand.take(number).unwrap();
        let again = open(&storage.after_power_loss());
        assert_eq!(again.pending.len(), number as usize);
        // Of a write or a sync it is final: a fresh segment, and then the end.
        for call in [Call::Write, Call::Sync] {
            let storage = Faulty::new();
            let mut hand = open(&storage);
            storage.trouble(call, Trouble::Refuse(errno), 0, u64::MAX);
            assert!(hand.take(1).is_err());
            assert!(matches!(hand.journal.health(), Health::Failed(_)));
        }
    }
}

#[test]
fn where_only_repeats_are_taken_what_is_new_is_refused_with_all_that_came_along() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    let mut repeat = |items: Vec<Item>| {
        let answer = hand.journal.append_repeats(items);
        hand.writer.as_mut().unwrap().turn(&mut hand.applier);
        answer.now_or_never().expect("answered within the turn")
    };
    let [known, new] = [1, 2].map(|number| Item::Push(push(number)));
    let nameless = Item::Push(Push {
        event_id: String::new(),
        ..push(1)
    });
    for refused in [
        vec![new.clone()],
        vec![known.clone(), Item::Change(change()), new],
        vec![nameless],
    ] {
        assert_eq!(repeat(refused), Err(AppendError::New));
    }
    assert_eq!(repeat(vec![known.clone(), Item::Change(change())]), Ok(()));
    let applied = hand.applied.lock().unwrap();
    assert!(matches!(
        applied.as_slice(),
        [Applied::Push(_), Applied::Change(_)]
    ));
    drop(applied);
    assert_eq!(open(&storage.after_power_loss()).pending_ids(), ["event-1"]);
    // One that is not durable yet is none to be sure of.
    let storage = Faulty::new();
    let mut hand = open(&storage);
    storage.fail(Call::Sync, ErrorKind::Other, 0, 1);
    let first = hand.journal.append(vec![known.clone()]);
    let again = hand.journal.append_repeats(vec![known]);
    hand.turn();
    assert!(first.now_or_never().unwrap().is_err());
    assert!(again.now_or_never().unwrap().is_err());
}

#[test]
fn a_start_without_an_open_file_for_a_fresh_segment_delivers_what_is_owed() {
    let storage = Faulty::new();
    open(&storage).take(1).unwrap();
    let storage = storage.after_kill();
    storage.trouble(Call::Create, Trouble::Refuse(Errno::MFILE), 0, 1);
    let mut again = open(&storage);
    assert_eq!(again.pending_ids(), ["event-1"]);
    assert!(matches!(again.journal.health(), Health::NoSpace { .. }));
    while again.journal.health() != Health::Ready {
        time::pass(segments::RETRY_AFTER);
        again.poke();
    }
    again.take(2).unwrap();
}

#[test]
fn a_start_on_a_full_disk_delivers_what_is_owed() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    hand.take(2).unwrap();
    hand.settle(&hand.durable()[0]);
    hand.turn();
    let storage = storage.after_kill();
    storage.fail(Call::Create, ErrorKind::StorageFull, 0, u64::MAX);
    let mut again = open(&storage);
    assert_eq!(again.pending_ids(), ["event-2"]);
    assert!(matches!(again.take(3), Err(AppendError::Io(_))));
    again.settle_owed(&again.pending[0]);
    again.turn();
    assert!(open(&storage.after_kill()).pending.is_empty());
    storage.heal();
    while again.journal.health() != Health::Ready {
        again.turn();
    }
    again.take(3).unwrap();
    again.close();
    let storage = storage.after_power_loss();
    assert_eq!(open(&storage).pending_ids(), ["event-3"]);
}

#[test]
fn a_start_on_a_full_disk_cuts_a_torn_tail_once_there_is_space_to_save_it() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    hand.take(2).unwrap();
    let end = hand.writer.as_ref().unwrap().segments.active_end();
    let storage = storage.after_kill();
    let file = storage.open(&segment::file_name(1)).unwrap();
    file.write_all_at(b"torn", end).unwrap();
    file.sync_data().unwrap();
    let cut = |storage: &Faulty| {
        let files = storage.files().into_iter();
        files
            .filter(|(name, _)| name.starts_with("cut-"))
            .collect::<Vec<_>>()
    };
    storage.put(settling::SETTLING, b"");
    storage.fail(Call::Create, ErrorKind::StorageFull, 0, u64::MAX);
    for expected in [vec!["event-1", "event-2"], vec!["event-2"]] {
        let mut again = open(&storage);
        assert_eq!(again.pending_ids(), expected);
        assert!(matches!(again.take(3), Err(AppendError::Io(_))));
        assert!(matches!(again.journal.health(), Health::NoSpace { .. }));
        assert_eq!((cut(&storage), again.report.cut.clone()), (Vec::new(), None));
        again.settle_owed(&again.pending[0]);
    }
    let mut again = open(&storage);
    assert!(again.pending.is_empty());
    storage.heal();
    while again.journal.health() != Health::Ready {
        time::pass(segments::RETRY_AFTER);
        again.poke();
    }
    again.take(3).unwrap();
    // The third number may have been given by what was torn.
    assert!(again.durable().last().unwrap().sequence.get() > 3);
    let saved = vec![(format!("cut-{:016}-{end}", 1), b"torn".to_vec())];
    assert_eq!(cut(&storage.after_power_loss()), saved);
    for storage in [storage.after_kill(), storage.after_power_loss()] {
        let last = open(&storage);
        assert_eq!(
            (last.pending_ids(), &last.report.cut),
            (vec!["event-3".to_owned()], &None)
        );
    }
}

#[test]
fn a_panic_in_the_applier_fails_the_journal_and_leaves_nobody_waiting() {
    let storage: Arc<dyn Storage> = Faulty::new();
    let opened = recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand).unwrap();
    let thread = opened.writer.start(Box::new(|_| panic!("on purpose"))).unwrap();
    let answer = futures_executor(opened.journal.append(vec![Item::Push(push(1))]));
    assert!(answer.is_err());
    assert!(thread.join().is_err());
    assert!(matches!(opened.journal.health(), Health::Failed(_)));
    assert!(futures_executor(opened.journal.append(Vec::new())).is_err());
}
