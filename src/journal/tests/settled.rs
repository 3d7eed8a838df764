//! Settlements are written by a thread of their own, in order, and never lost by whoever doesn't wait for it.

use super::*;

fn pair(number: u64) -> Pair {
    Pair {
        sequence: Sequence::new(number).unwrap(),
        place: 0,
    }
}

fn delivered(number: u64) -> [(Pair, Settlement); 1] {
    [(pair(number), Settlement::Delivered)]
}

/// A journal at work that owes three pushes.
fn running(storage: &Arc<Faulty>) -> (Journal, std::thread::JoinHandle<()>) {
    let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(storage);
    let opened = recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand).unwrap();
    let thread = opened.writer.start(Box::new(|_| {})).unwrap();
    let pushes = (1..=3).map(|number| Item::Push(push(number))).collect();
    futures_executor(opened.journal.append(pushes)).unwrap();
    (opened.journal, thread)
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
    let mut records = settling::Backlog::default();
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
