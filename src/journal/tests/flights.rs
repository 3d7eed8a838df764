//! A commit is on its way, and the next one is put together meanwhile.

use super::*;

/// Each append is a commit of its own, and all that waits is looked at while it is on its way.
const EACH_ALONE: Pace = Pace {
    commit_bytes_max: 1,
    handed_over_bytes: 0,
};

fn hand(storage: &Arc<Faulty>) -> Hand {
    let mut hand = open(storage);
    hand.set_pace(EACH_ALONE);
    hand
}

#[test]
fn what_waits_together_comes_in_the_order_of_the_calls_whatever_commits_it_takes() {
    let storage = Faulty::new();
    let mut hand = hand(&storage);
    // More than one segment holds.
    let appends = (0..20).map(|append| (0..3).map(|number| push(10 * append + number)).collect());
    let told = hand.append_all(appends);
    assert!(told.iter().all(Result::is_ok), "{told:?}");
    assert_eq!(hand.journal.stats().commits, 20);
    let durable = hand.durable();
    let wanted: Vec<_> = (0..60)
        .map(|number| format!("event-{}", 10 * (number / 3) + number % 3))
        .collect();
    assert_eq!(event_ids(&durable), wanted);
    assert!(segments(&storage).len() > 2);
    let recent = &hand.writer.as_ref().unwrap().recent;
    let at_home = segments(&storage)
        .iter()
        .map(|segment| recent.count_in(*segment))
        .sum::<u64>();
    assert_eq!(at_home, recent.len() as u64, "each id has one home");
    for storage in [storage.after_kill(), storage.after_power_loss()] {
        assert_eq!(
            open(&storage).pushes(),
            durable
                .iter()
                .map(|durable| durable.push.clone())
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn what_was_staged_behind_a_commit_that_fails_fails_with_it_and_can_come_again() {
    for call in [Call::Write, Call::Sync] {
        let storage = Faulty::new();
        let mut hand = hand(&storage);
        hand.take(1).unwrap();
        storage.fail(call, ErrorKind::Other, 0, 1);
        let told = hand.append_all([vec![push(2)], vec![push(3)], vec![push(2)], vec![push(4)]]);
        // The first two were on their way together. The others came after that, so a fresh segment has them.
        let is_taken: Vec<_> = told.iter().map(Result::is_ok).collect();
        assert_eq!(is_taken, [false, false, true, true], "{call:?}");
        hand.take(3).unwrap();
        let durable = hand.durable();
        assert_eq!(event_ids(&durable), ["event-1", "event-2", "event-4", "event-3"]);
        let sequences: Vec<_> = durable.iter().map(|durable| durable.sequence.get()).collect();
        assert_eq!(
            sequences,
            [1, 2, 3, 4],
            "numbers that nobody has seen are given again"
        );
        for storage in [storage.after_kill(), storage.after_power_loss()] {
            assert_eq!(open(&storage).pending_ids(), event_ids(&durable));
        }
    }
}

#[test]
fn a_push_that_comes_again_while_the_first_is_on_its_way_is_answered_as_that_one_is() {
    for fails in [false, true] {
        let storage = Faulty::new();
        let mut hand = hand(&storage);
        if fails {
            storage.fail(Call::Sync, ErrorKind::Other, 0, 1);
        }
        let told = hand.append_all([vec![push(1)], vec![push(1)]]);
        assert!(told.iter().all(|told| told.is_err() == fails), "{told:?}");
        assert_eq!(hand.durable().len(), usize::from(!fails));
        hand.take(1).unwrap();
        assert_eq!(hand.durable().len(), 1);
    }
}

#[test]
fn a_segment_begun_for_a_group_names_its_first_push() {
    let storage = Faulty::new();
    let mut hand = hand(&storage);
    let large = |number| {
        let actor = "x".repeat(1500);
        vec![Push {
            actor,
            ..push(number)
        }]
    };
    // The second and the third don't fit behind the first: what is staged is staged for a segment that is not there.
    let told = hand.append_all((1..=5).map(large));
    assert!(told.iter().all(Result::is_ok), "{told:?}");
    for durable in hand.durable() {
        let read = hand.journal.read(&[durable.sequence]).unwrap();
        assert_eq!(read, [durable.push]);
    }
    assert_eq!(open(&storage.after_power_loss()).pending.len(), 5);
}

#[test]
fn changes_keep_their_place_among_pushes_that_are_on_their_way() {
    let storage = Faulty::new();
    let mut hand = hand(&storage);
    let answers = [
        hand.journal.append(vec![Item::Push(push(1))]),
        hand.journal.append(vec![Item::Change(change())]),
        hand.journal
            .append(vec![Item::Push(push(2)), Item::Change(change())]),
    ];
    hand.turn();
    for answer in answers {
        assert_eq!(answer.now_or_never(), Some(Ok(())));
    }
    let applied = hand.applied.lock().unwrap();
    let is_push = |applied: &Applied| matches!(applied, Applied::Push(_));
    assert_eq!(
        applied.iter().map(is_push).collect::<Vec<_>>(),
        [true, false, true, false]
    );
}

#[test]
fn what_comes_while_a_thread_writes_is_the_next_commit() {
    let storage = Faulty::new();
    let opened = {
        let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(&storage);
        recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand).unwrap()
    };
    let (journal, mut writer) = (opened.journal, opened.writer);
    writer.pace = Pace {
        handed_over_bytes: 0,
        ..Pace::default()
    };
    storage.trouble(
        Call::Sync,
        Trouble::Delay(std::time::Duration::from_millis(2)),
        0,
        u64::MAX,
    );
    let applied = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&applied);
    let thread = writer
        .start(Box::new(move |news| sink.lock().unwrap().extend_from_slice(news)))
        .unwrap();
    let mut refused = 0;
    for round in 0..40 {
        if round % 10 == 9 {
            storage.fail(Call::Sync, ErrorKind::Other, 1, 1);
        }
        let answers: Vec<_> = (0..25)
            .map(|number| journal.append(vec![Item::Push(push(100 * round + number))]))
            .collect();
        for answer in answers {
            refused += usize::from(futures_executor(answer).is_err());
        }
    }
    futures_executor(journal.close());
    thread.join().unwrap();
    assert!(journal.stats().commits < 1_000, "appends share commits");
    let applied = applied.lock().unwrap();
    let sequences: Vec<_> = applied
        .iter()
        .map(|applied| match applied {
            Applied::Push(durable) => durable.sequence.get(),
            Applied::Change(_) => unreachable!("there are none"),
        })
        .collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    assert_eq!(sequences.len(), 1_000 - refused);
    storage.heal();
    let found = open(&storage.after_power_loss());
    assert_eq!(found.pending.len(), sequences.len());
}
