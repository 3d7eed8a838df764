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
    // Two fit into a segment, and what does not fit is not staged for it.
    let told = hand.append_all((1..=5).map(large));
    assert!(told.iter().all(Result::is_ok), "{told:?}");
    for durable in hand.durable() {
        let read = hand.read(&[durable.sequence]).unwrap();
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

/// A journal on its own threads, whose commits are all handed over, on a disk that takes its time.
struct Threads {
    storage: Arc<Faulty>,
    journal: Journal,
    thread: std::thread::JoinHandle<()>,
    applied: Arc<Mutex<Vec<Applied>>>,
}

impl Threads {
    /// So many that a segment is enough.
    const OPTIONS: Options = Options {
        segment_size: 4 * 1024 * 1024,
        max_size: 64 * 1024 * 1024,
    };

    fn start() -> Self {
        let storage = Faulty::new();
        let opened = {
            let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(&storage);
            recovery::open(&storage, Self::OPTIONS, clock(), Filling::OnDemand).unwrap()
        };
        let (journal, mut writer) = (opened.journal, opened.writer);
        writer.pace.handed_over_bytes = 0;
        let applied = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&applied);
        let tell: Applier = Box::new(move |news| sink.lock().unwrap().extend_from_slice(news));
        Self {
            storage,
            journal,
            thread: writer.start(tell).unwrap(),
            applied,
        }
    }

    fn append(&self, number: u32) -> impl Future<Output = Result<(), AppendError>> + use<> {
        self.journal.append(vec![Item::Push(push(number))])
    }

    /// Waits until the writer has taken all that waits.
    fn wait_until_taken(&self) {
        while self.journal.stats().waiting > 0 {
            std::thread::yield_now();
        }
    }

    /// Closes it; what was applied, in order.
    fn close(self) -> Vec<Durable> {
        futures_executor(self.journal.close());
        self.thread.join().unwrap();
        let applied = std::mem::take(&mut *self.applied.lock().unwrap());
        let pushes = applied.into_iter().map(|applied| match applied {
            Applied::Push(durable) => durable,
            Applied::Change(_) => unreachable!("there are none"),
        });
        pushes.collect()
    }
}

#[test]
fn what_comes_while_a_thread_writes_is_the_next_commit_and_fails_with_it() {
    let threads = Threads::start();
    let slow = Trouble::Delay(std::time::Duration::from_millis(2));
    threads.storage.trouble(Call::Write, slow, 0, u64::MAX);
    let (mut refused, mut number) = (0, 0);
    for round in 0..40 {
        if round % 10 == 9 {
            // The first commit of the round, and with it what was staged behind it.
            threads.storage.fail(Call::Sync, ErrorKind::Other, 0, 1);
        }
        let answers: Vec<_> = (0..25)
            .map(|_| {
                number += 1;
                threads.append(number)
            })
            .collect();
        for answer in answers {
            refused += usize::from(futures_executor(answer).is_err());
        }
    }
    assert_eq!(threads.journal.health(), Health::Ready);
    // One at least of each round that failed, and all of it at most.
    assert!((4..=4 * 25).contains(&refused), "{refused} were refused");
    let storage = Arc::clone(&threads.storage);
    let durable = threads.close();
    let sequences: Vec<_> = durable.iter().map(|durable| durable.sequence.get()).collect();
    assert_eq!(sequences, (1..=1_000 - refused as u64).collect::<Vec<_>>());
    storage.heal();
    let storage: Arc<dyn Storage> = storage.after_power_loss();
    let found = recovery::open(&storage, Threads::OPTIONS, clock(), Filling::OnDemand).unwrap();
    assert_eq!(all_owed(&found.journal).unwrap().len(), sequences.len());
}

#[test]
fn a_panic_of_the_thread_that_writes_fails_its_commit_and_no_other() {
    let threads = Threads::start();
    assert_eq!(futures_executor(threads.append(1)), Ok(()));
    threads.storage.trouble(Call::Write, Trouble::Panic, 0, 1);
    let refused = futures_executor(threads.append(2));
    assert!(matches!(refused, Err(AppendError::Io(_))), "{refused:?}");
    for number in [2, 3] {
        assert_eq!(futures_executor(threads.append(number)), Ok(()));
    }
    assert_eq!(threads.journal.health(), Health::Ready);
    let storage = Arc::clone(&threads.storage);
    assert_eq!(event_ids(&threads.close()), ["event-1", "event-2", "event-3"]);
    let storage: Arc<dyn Storage> = storage.after_power_loss();
    let found = recovery::open(&storage, Threads::OPTIONS, clock(), Filling::OnDemand).unwrap();
    assert_eq!(all_owed(&found.journal).unwrap().len(), 3);
}

#[test]
fn what_is_staged_when_the_journal_closes_is_written_first() {
    let threads = Threads::start();
    let held = threads.storage.hold();
    let first = threads.append(1);
    threads.wait_until_taken();
    let staged = threads.append(2);
    threads.wait_until_taken();
    let closed = threads.journal.close();
    drop(held);
    assert_eq!(futures_executor(first), Ok(()));
    assert_eq!(futures_executor(staged), Ok(()));
    futures_executor(closed);
    assert_eq!(event_ids(&threads.close()), ["event-1", "event-2"]);
}

#[test]
fn while_a_disk_stands_still_no_more_is_taken_than_may_wait_though_all_of_it_are_repeats() {
    let threads = Threads::start();
    let held = threads.storage.hold();
    let first = threads.append(1);
    threads.wait_until_taken();
    let mut answers = Vec::new();
    // What is staged, and what may wait beside it.
    let most = 3 * inbox::WAITING_APPENDS_MAX;
    let busy = (0..most).find_map(|_| {
        let mut answer = Box::pin(threads.append(1));
        let told = (&mut answer).now_or_never();
        answers.push(answer);
        told
    });
    assert!(matches!(busy, Some(Err(AppendError::Busy { .. }))), "{busy:?}");
    answers.pop();
    drop(held);
    assert_eq!(futures_executor(first), Ok(()));
    for answer in answers {
        assert_eq!(futures_executor(answer), Ok(()));
    }
    assert_eq!(threads.close().len(), 1);
}
