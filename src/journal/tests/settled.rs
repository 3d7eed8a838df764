//! Settlements are written by a thread of their own, in order, and never lost by whoever doesn't wait for it.

use std::time::{Duration, Instant};

use super::{
    record::Record,
    settling::{Backlog, SYNC_WITHIN},
    *,
};

fn pair(number: u64) -> Pair {
    Pair {
        sequence: Sequence::new(number).unwrap(),
        place: 0,
    }
}

fn delivered(number: u64) -> [(Pair, Settlement); 1] {
    [(pair(number), Settlement::Delivered)]
}

/// A journal at work.
fn started(storage: &Arc<Faulty>) -> (Journal, std::thread::JoinHandle<()>) {
    let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(storage);
    let opened = recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand).unwrap();
    let thread = opened.writer.start(Box::new(|_| {})).unwrap();
    (opened.journal, thread)
}

/// A journal at work that owes three pushes.
fn running(storage: &Arc<Faulty>) -> (Journal, std::thread::JoinHandle<()>) {
    let (journal, thread) = started(storage);
    let pushes = (1..=3).map(|number| Item::Push(push(number))).collect();
    futures_executor(journal.append(pushes)).unwrap();
    (journal, thread)
}

#[test]
fn what_has_resolved_survives_a_kill_and_so_does_all_that_was_told_before() {
    let storage = Faulty::new();
    let (journal, thread) = running(&storage);
    drop(journal.settle(delivered(3)));
    futures_executor(journal.settle(delivered(1)));
    assert_eq!(open(&storage.after_kill()).pending_ids(), ["event-2"]);
    futures_executor(journal.close());
    thread.join().unwrap();
    assert_eq!(open(&storage.after_power_loss()).pending_ids(), ["event-2"]);
}

#[test]
fn who_settles_waits_for_no_disk_unless_he_wants_to() {
    let storage = Faulty::new();
    let (journal, thread) = running(&storage);
    let standing_still = storage.hold();
    let mut written = journal.settle(delivered(1));
    assert!(
        (&mut written).now_or_never().is_none(),
        "nothing can have been written"
    );
    drop(standing_still);
    futures_executor(written);
    futures_executor(journal.close());
    thread.join().unwrap();
}

/// Closes the journal, which has nothing to complain of but the full disk.
fn ends_well(journal: &Journal, thread: std::thread::JoinHandle<()>) {
    futures_executor(journal.close());
    thread.join().unwrap();
    let health = journal.health();
    assert!(!matches!(health, Health::Failed(_)), "{health:?}");
}

/// Waits until the journal has met the full disk.
fn wait_until_it_says_full(journal: &Journal) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !matches!(journal.health(), Health::NoSpace { .. }) {
        assert!(Instant::now() < deadline, "{:?}", journal.health());
        std::thread::yield_now();
    }
}

#[test]
fn who_settles_where_nothing_can_be_written_waits_for_space() {
    let storage = Faulty::new();
    let (journal, thread) = running(&storage);
    storage.fail(Call::Write, ErrorKind::StorageFull, 0, u64::MAX);
    let mut written = journal.settle(delivered(1));
    wait_until_it_says_full(&journal);
    assert!((&mut written).now_or_never().is_none(), "it is written nowhere");
    storage.heal();
    futures_executor(written);
    assert_eq!(open(&storage.after_kill()).pending_ids(), ["event-2", "event-3"]);
    futures_executor(journal.close());
    thread.join().unwrap();
    assert_eq!(journal.health(), Health::Ready);
}

#[test]
fn space_that_is_enough_for_settlements_alone_is_enough_for_who_waits() {
    let storage = Faulty::new();
    let (journal, thread) = running(&storage);
    storage.fail(Call::Write, ErrorKind::StorageFull, 0, u64::MAX);
    let written = journal.settle(delivered(1));
    wait_until_it_says_full(&journal);
    storage.heal();
    // There is none for a segment.
    storage.fail(Call::Allocate, ErrorKind::StorageFull, 0, u64::MAX);
    futures_executor(written);
    assert_eq!(
        open(&storage.after_power_loss()).pending_ids(),
        ["event-2", "event-3"]
    );
    ends_well(&journal, thread);
}

#[test]
fn a_journal_that_ends_with_settlements_written_nowhere_says_so_and_leaves_nobody_waiting() {
    let storage = Faulty::new();
    let (journal, thread) = running(&storage);
    futures_executor(journal.settle(delivered(1)));
    storage.fail(Call::Write, ErrorKind::StorageFull, 0, u64::MAX);
    let written = journal.settle(delivered(2));
    wait_until_it_says_full(&journal);
    futures_executor(journal.close());
    thread.join().unwrap();
    futures_executor(written);
    let health = journal.health();
    assert!(
        matches!(&health, Health::Failed(reason) if reason.contains("1 settlements")),
        "{health:?}"
    );
    storage.heal();
    assert_eq!(open(&storage.after_kill()).pending_ids(), ["event-2", "event-3"]);
}

#[test]
fn what_is_written_beside_a_full_segment_is_durable_once_the_journal_ends() {
    let storage = Faulty::new();
    drop(running(&storage));
    let storage = storage.after_kill();
    storage.fail(Call::Create, ErrorKind::StorageFull, 0, u64::MAX);
    let (journal, thread) = started(&storage);
    futures_executor(journal.settle(delivered(1)));
    ends_well(&journal, thread);
    assert_eq!(
        open(&storage.after_power_loss()).pending_ids(),
        ["event-2", "event-3"]
    );
}

/// The settlements' file without the rest of a journal, of which a start read so many bytes.
fn holding(storage: &Arc<Faulty>, file_end: u64) -> Settling {
    let storage = Arc::<Faulty>::clone(storage);
    let seed = Seed::of(JournalId([7; 16]));
    Settling::new(storage, seed, 4096, (Backlog::default(), file_end), true)
}

#[test]
fn who_waits_is_answered_as_soon_as_his_own_is_committed() {
    let storage = Faulty::new();
    let settling = holding(&storage, 0);
    storage.fail(Call::Write, ErrorKind::StorageFull, 0, u64::MAX);
    let tell = |number| {
        let (caller, mut answer) = oneshot::channel();
        assert!(settling.tell(delivered(number), vec![caller]).1.is_empty());
        move || answer.try_recv().is_ok()
    };
    let (mut first, mut second) = (tell(1), tell(2));
    let (_, answerable) = settling.committed(settling.fitting(settling.first_bytes()));
    settling::answer(answerable);
    assert!(first() && !second());
    storage.heal();
    let (_, answerable) = settling.tell(delivered(3), Vec::new());
    settling::answer(answerable);
    assert!(second(), "it is in the file");
}

#[test]
fn a_file_that_cannot_grow_is_written_from_its_beginning_again() {
    let storage = Faulty::new();
    let settling = holding(&storage, 0);
    let tell = |number| settling.tell(delivered(number), Vec::new());
    tell(1);
    tell(2);
    tell(3);
    // The first two are committed: what stands in front is not needed.
    settling.committed(settling.fitting(2 * settling.first_bytes()));
    storage.fail(Call::Write, ErrorKind::StorageFull, 0, 1);
    tell(4);
    let read = settling::read(&*storage).unwrap().unwrap();
    let (first, rest) = record::RawRecord::split(&read).unwrap();
    let (second, _) = record::RawRecord::split(rest).unwrap();
    let pairs = [first, second].map(|record| match record.decode() {
        Ok(Record::Settled(pair, _)) => pair.sequence.get(),
        other => panic!("{other:?}"),
    });
    assert_eq!(pairs, [3, 4]);
}

/// The settlements that a start finds in the file.
fn found(storage: &Faulty) -> Vec<u64> {
    let read = settling::read(storage).unwrap().unwrap();
    let (seed, mut rest, mut found) = (Seed::of(JournalId([7; 16])), &*read, Vec::new());
    while let Ok((record, behind)) = record::RawRecord::split(rest)
        && record.is_intact(seed)
        && let Ok(Record::Settled(pair, _)) = record.decode()
    {
        found.push(pair.sequence.get());
        rest = behind;
    }
    found
}

#[test]
fn a_kill_while_the_file_is_written_from_its_beginning_again_loses_nothing_that_was_answered() {
    const TOLD: u64 = 2_000;
    for left in [1_000_u64, 600, 179, 178, 100, 1] {
        let storage = Faulty::new();
        let settling = {
            let storage = Arc::<Faulty>::clone(&storage);
            let seed = Seed::of(JournalId([7; 16]));
            Settling::new(storage, seed, 1 << 20, (Backlog::default(), 0), true)
        };
        for number in 1..=TOLD {
            let (caller, _) = oneshot::channel();
            let (_, answered) = settling.tell(delivered(number), vec![caller]);
            assert_eq!(answered.len(), 1);
        }
        storage.trouble(Call::Write, Trouble::Pages(ErrorKind::Other), 0, 1);
        let bytes = settling.first_bytes();
        settling.committed(settling.fitting(bytes * usize::try_from(TOLD - left).unwrap()));
        let (found, answered) = (found(&storage), TOLD - left + 1..=TOLD);
        let lost = answered.filter(|number| !found.contains(number)).count();
        assert_eq!(lost, 0, "of {left}");
        let is_written_again = found.first() == Some(&(TOLD - left + 1));
        assert_eq!(is_written_again, left <= 178, "as many as a page holds: {left}");
    }
}

#[test]
fn a_steady_stream_of_settlements_finds_room_in_the_file_again_and_again() {
    const AT_ONCE: u64 = 300;
    let storage = Faulty::new();
    let settling = holding(&storage, 0);
    let mut answered = 0;
    for round in 0..100 {
        // These are told while those before are being committed.
        let before = settling.fitting(usize::MAX);
        let told = (1..=AT_ONCE).flat_map(|number| delivered(round * AT_ONCE + number));
        let (caller, _) = oneshot::channel();
        answered += settling.tell(told, vec![caller]).1.len();
        answered += settling.committed(before).1.len();
    }
    answered += settling.committed(settling.fitting(usize::MAX)).1.len();
    assert_eq!(answered, 100);
}

#[test]
fn what_a_start_read_is_not_written_over_before_a_commit() {
    let storage = Faulty::new();
    let read = storage.create(settling::SETTLING).unwrap();
    read.write_all_at(&[7; 100], 0).unwrap();
    let settling = holding(&storage, 100);
    let tell = |number| settling.tell(delivered(number), Vec::new());
    tell(1);
    let front = || {
        let mut bytes = [0; 23];
        read.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    storage.fail(Call::Write, ErrorKind::StorageFull, 0, 1);
    tell(2);
    assert_eq!(front(), [7; 23]);
    settling.committed(settling.fitting(settling.first_bytes()));
    storage.fail(Call::Write, ErrorKind::StorageFull, 0, 1);
    tell(3);
    assert_ne!(front(), [7; 23]);
}

#[test]
fn what_does_not_fit_into_the_file_is_due_at_once_and_answered_once_it_is_committed() {
    let storage = Faulty::new();
    let settling = holding(&storage, 0);
    let bytes_max = settling::set_aside_bytes(4096);
    let mut number = 0;
    let mut answer = loop {
        number += 1;
        assert!(number < 100, "the file takes what it is given");
        let (caller, answer) = oneshot::channel();
        let (_, answerable) = settling.tell(delivered(number), vec![caller]);
        if answerable.is_empty() {
            break answer;
        }
        assert!(settling.due_at().unwrap() > time::now());
    };
    assert!(storage.open(settling::SETTLING).unwrap().size().unwrap() <= bytes_max);
    assert!(settling.due_at().unwrap() <= time::now());
    let (_, answerable) = settling.committed(settling.fitting(usize::MAX));
    settling::answer(answerable);
    assert!(answer.try_recv().is_ok());
    // Of many that are told at once those go into a file that fit.
    let storage = Faulty::new();
    let settling = holding(&storage, 0);
    let many = (1..=50).flat_map(delivered);
    let (caller, mut answer) = oneshot::channel();
    assert!(settling.tell(many, vec![caller]).1.is_empty());
    let read = settling::read(&*storage).unwrap().unwrap();
    let filed = read.len() as u64;
    assert!(filed > bytes_max - 50 && filed <= bytes_max, "{filed}");
    let (_, answerable) = settling.committed(settling.fitting(usize::MAX));
    settling::answer(answerable);
    assert!(answer.try_recv().is_ok());
}

/// What a kill leaves of a journal with three pushes; the first is settled, which only the settlements' file says.
fn killed() -> Arc<Faulty> {
    let storage = Faulty::new();
    let (journal, _) = running(&storage);
    futures_executor(journal.settle(delivered(1)));
    storage.after_kill()
}

fn space_for_settlements(storage: &Arc<Faulty>) -> u64 {
    let file = storage.open(settling::SETTLING);
    file.map_or(0, |file| file.size().unwrap())
}

#[test]
fn space_that_is_set_aside_is_not_given_up_by_a_start_that_finds_no_other() {
    for skip in [0, 1] {
        let storage = killed();
        storage.fail(Call::Allocate, ErrorKind::StorageFull, skip, u64::MAX);
        drop(open(&storage));
        let set_aside = settling::set_aside_bytes(OPTIONS.segment_size);
        assert_eq!(space_for_settlements(&storage), set_aside);
    }
}

#[test]
fn what_a_start_has_committed_no_start_reads_again() {
    let storage = killed();
    assert_eq!(open(&storage).pending_ids(), ["event-2", "event-3"]);
    let read = settling::read(&*storage).unwrap().unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
    storage.put(settling::SETTLING, &vec![7; 100_000]);
    let size = OPTIONS.segment_size;
    assert!(settling::begin_anew(&*storage, size));
    let read = settling::read(&*storage).unwrap().unwrap();
    assert!(read.iter().all(|byte| *byte == 0), "nor what is behind it");
    assert_eq!(space_for_settlements(&storage), settling::set_aside_bytes(size));
}

#[test]
fn a_start_that_found_no_space_for_settlements_sets_it_aside_later() {
    // No space for a segment, or only none for settlements.
    for skip in [0, 1] {
        let storage = Faulty::new();
        drop(running(&storage));
        let storage = storage.after_kill();
        storage.remove(settling::SETTLING).unwrap();
        storage.fail(Call::Allocate, ErrorKind::StorageFull, skip, u64::MAX);
        let (journal, thread) = started(&storage);
        futures_executor(journal.settle(delivered(1)));
        let set_aside = settling::set_aside_bytes(OPTIONS.segment_size);
        assert!(space_for_settlements(&storage) < set_aside);
        storage.heal();
        let deadline = Instant::now() + Duration::from_secs(30);
        while space_for_settlements(&storage) < set_aside {
            assert!(Instant::now() < deadline, "none is set aside");
            std::thread::yield_now();
        }
        // What was written before stands there still.
        assert_eq!(open(&storage.after_kill()).pending_ids(), ["event-2", "event-3"]);
        ends_well(&journal, thread);
    }
}

#[test]
fn what_is_in_line_when_the_journal_closes_is_durable_and_what_comes_later_keeps_nobody_waiting() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=2 {
        hand.take(number).unwrap();
    }
    // Nobody has written it down yet: there is no thread.
    let mut in_line = hand.journal.settle(delivered(1));
    assert!((&mut in_line).now_or_never().is_none());
    let journal = hand.journal.clone();
    hand.close();
    assert!(in_line.now_or_never().is_some());
    assert_eq!(open(&storage.after_power_loss()).pending_ids(), ["event-2"]);
    assert!(journal.settle(delivered(2)).now_or_never().is_some());
    assert!(journal.settle([]).now_or_never().is_some());
    assert_eq!(open(&storage.after_kill()).pending_ids(), ["event-2"]);
}

#[test]
fn a_file_of_settlements_that_is_far_too_long_is_read_as_far_as_it_can_have_been_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DIRECTORY);
    let opened = Journal::open(&path, OPTIONS, clock()).unwrap();
    let thread = opened.writer.start(Box::new(|_| {})).unwrap();
    let pushes = (1..=3).map(|number| Item::Push(push(number))).collect();
    futures_executor(opened.journal.append(pushes)).unwrap();
    futures_executor(opened.journal.close());
    thread.join().unwrap();
    drop(opened.journal);
    let seed = {
        let opened = Journal::open(&path, OPTIONS, clock()).unwrap();
        opened.journal.shared.seed
    };
    let mut records = Backlog::default();
    records.push(seed, pair(2), Settlement::Delivered);
    std::fs::write(path.join(settling::SETTLING), &records.bytes).unwrap();
    // A hole: nobody has so much memory.
    let file = std::fs::File::options()
        .write(true)
        .open(path.join(settling::SETTLING));
    file.unwrap().set_len(8 << 40).unwrap();
    let verified = verify(&path, &mut |_, _| {}).unwrap();
    assert_eq!((verified.settling, verified.owed), (1, 3));
    let opened = Journal::open(&path, OPTIONS, clock()).unwrap();
    assert_eq!(opened.report.settled_late, 1);
    assert_eq!(all_owed(&opened.journal).unwrap().len(), 2);
}

#[test]
fn settlements_told_during_a_commit_wait_from_then_on_and_what_did_not_fit_from_before() {
    const STEP: Duration = Duration::from_secs(10);
    let storage = Faulty::new();
    let hand = open(&storage);
    let settling = &hand.journal.shared.settling;
    let begun = time::now();
    // By how many steps after the beginning the first was told that waits; some of the time is real.
    let steps = || {
        let since = settling.due_at()?.duration_since(begun + SYNC_WITHIN);
        Some(since.as_secs() / STEP.as_secs())
    };
    drop(settling.tell(delivered(1), Vec::new()));
    assert_eq!(steps(), Some(0));
    time::pass(STEP);
    let all = settling.fitting(usize::MAX);
    settling.put(&mut Vec::new(), all);
    time::pass(STEP);
    drop(settling.tell(delivered(2), Vec::new()));
    time::pass(STEP);
    drop(settling.tell(delivered(3), Vec::new()));
    drop(settling.committed(all));
    assert_eq!(steps(), Some(2));
    // There is room for one of two.
    let first = settling.fitting(settling.first_bytes());
    settling.put(&mut Vec::new(), first);
    drop(settling.committed(first));
    assert_eq!((settling.len(), steps()), (1, Some(2)));
    let last = settling.fitting(usize::MAX);
    settling.put(&mut Vec::new(), last);
    drop(settling.committed(last));
    assert_eq!(steps(), None);
}

#[test]
fn a_start_notes_once_how_a_pair_ended_although_older_records_say_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DIRECTORY);
    let opened = Journal::open(&path, OPTIONS, clock()).unwrap();
    let thread = opened.writer.start(Box::new(|_| {})).unwrap();
    let seed = opened.journal.shared.seed;
    let two = Push {
        owed: [EndpointId::Named("a".into()), EndpointId::Named("b".into())].into(),
        ..push(1)
    };
    futures_executor(opened.journal.append(vec![Item::Push(two)])).unwrap();
    futures_executor(opened.journal.settle([(pair(1), Settlement::Delivered)]));
    futures_executor(opened.journal.close());
    thread.join().unwrap();
    drop(opened.journal);
    // What is committed may stand in that file still; its push is owed by somebody else.
    let mut records = Backlog::default();
    for _ in 0..3 {
        records.push(seed, pair(1), Settlement::Delivered);
    }
    std::fs::write(path.join(settling::SETTLING), &records.bytes).unwrap();
    let mut opened = Journal::open(&path, OPTIONS, clock()).unwrap();
    let ended = opened.notes.take_ended();
    let ended: Vec<_> = ended.pushes(&opened.journal, |_| true).collect();
    assert_eq!(ended.len(), 1);
    assert_eq!(
        ended[0].ends,
        [(EndpointId::Named("a".into()), Settlement::Delivered)]
    );
    assert_eq!(ended[0].left, [EndpointId::Named("b".into())]);
}
