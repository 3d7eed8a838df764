//! Any directory: it is refused and left as it is, or it opens, and is a journal like any other. The tools look at
//! it in any case.

use std::sync::Arc;

use super::{
    hand::{Hand, pairs},
    journals::{push, storage},
    script::{Left, frames, play, records, seed_of},
    tools,
};
use crate::{
    journal::{
        OpenError,
        faulty::Faulty,
        record::{RawRecord, Record},
        segment::{self, COUNT_MAX, SegmentHeader},
    },
    push::{Pair, Push, Sequence},
};

/// The number of the push that is taken once the journal is open: none before it has that.
const NUMBER: u16 = 1000;

/// How much further than an input a check counts, at the most.
const COUNTED_MAX: u64 = 1 << 20;

pub(crate) fn directory(bytes: &[u8]) {
    let left = play(bytes);
    tools::check(&storage(&left.files));
    if left.files.iter().any(|(_, file)| is_at_its_end(file)) {
        return;
    }
    let storage = storage(&left.files);
    match Hand::open(&storage) {
        Ok(hand) => check_opened(&left, &storage, hand),
        Err(error) => check_refused(&left, &storage, &error),
    }
}

/// Whether a segment has counted almost as far as any may. The next start refuses what this one writes then, but
/// nobody lives to see that.
fn is_at_its_end(file: &[u8]) -> bool {
    let header = file.first_chunk().map(SegmentHeader::decode);
    let Some(Ok(header)) = header else { return false };
    let furthest = header
        .number
        .max(header.first_sequence.get())
        .max(header.first_commit);
    furthest > COUNT_MAX - COUNTED_MAX
}

/// Nothing was changed, and the reason is the same the next time.
fn check_refused(left: &Left, storage: &Arc<Faulty>, error: &OpenError) {
    assert!(
        matches!(error, OpenError::Damaged { .. } | OpenError::Newer { .. }),
        "{error}"
    );
    let (files, names) = (storage.files(), |files: &[(String, Vec<u8>)]| {
        files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    });
    assert_eq!(names(&files), names(&left.files), "a refused journal was changed");
    assert!(files == left.files, "a refused journal's files were changed");
    let again = Hand::open(storage).err().map(|error| error.to_string());
    assert_eq!(again, Some(error.to_string()));
}

fn check_opened(left: &Left, storage: &Arc<Faulty>, hand: Hand) {
    let owed = hand.owed();
    assert_eq!(hand.report.pushes, owed.len() as u64);
    assert!(owed.is_sorted_by(|one, other| one.sequence < other.sequence));
    if left.files.iter().all(is_readable) {
        let read = read(&hand);
        if left.is_honest {
            let stray = read.iter().find(|taken| !left.made.pushes.contains(taken));
            assert_eq!(stray, None, "nobody has taken this push");
        }
    }
    drop(hand);
    let storage = storage.after_power_loss();
    let again = reopen(&storage);
    assert_eq!(again.owed(), owed, "the second time it opens as something else");
    assert_eq!((&again.report.cut, again.report.settled_late), (&None, 0));
    check_goes_on(&storage, again);
}

/// Whether the pushes in a segment are whole. A start reads of each only what the index takes, for the checksum
/// of its commit says the rest; an input can make that right around anything.
fn is_readable((name, file): &(String, Vec<u8>)) -> bool {
    if segment::parse_file_name(name).is_none() {
        return true;
    }
    let seed = seed_of(file);
    let is_whole = |raw: &RawRecord<'_>| match raw.decode() {
        Ok(Record::Push(head)) => raw.is_intact(seed) && head.to_push().is_ok(),
        Ok(Record::Settled(..) | Record::EventIds(_)) | Err(_) => true,
    };
    let frames = frames(file).into_iter().filter_map(|frame| file.get(frame));
    frames
        .flat_map(|frame| records(frame).into_iter().filter_map(|record| frame.get(record)))
        .filter_map(|record| RawRecord::split(record).ok())
        .all(|(raw, _)| is_whole(&raw))
}

/// Every push that is owed can be read, both ways.
fn read(hand: &Hand) -> Vec<(Sequence, Push)> {
    let (index, told) = (hand.owed(), hand.journal.owed(None, usize::MAX));
    let told = told.into_iter().collect::<Result<Vec<_>, _>>();
    let sequences: Vec<Sequence> = index.iter().map(|push| push.sequence).collect();
    let pushes: Result<Vec<_>, _> = hand.journal.read(&sequences).into_iter().collect();
    let (Ok(told), Ok(pushes)) = (told, pushes) else {
        panic!("what is owed can't be read")
    };
    assert_eq!((told.len(), pushes.len()), (index.len(), index.len()));
    for ((push, owed), live) in pushes.iter().zip(told).zip(&index) {
        assert_eq!(owed.sequence, live.sequence);
        assert_eq!((&owed.repository, &owed.tag), (&push.repository, &push.tag));
        let owing = pairs(live).filter_map(|pair| {
            let endpoint = push.owed.get(usize::from(pair.place))?;
            Some((pair.place, endpoint.clone()))
        });
        assert_eq!(owed.owed, owing.collect::<Vec<_>>());
    }
    sequences.into_iter().zip(pushes).collect()
}

/// It takes a push and settlements, carries forward and deletes, and loses nothing of that.
fn check_goes_on(storage: &Arc<Faulty>, mut hand: Hand) {
    let mut owed = unsettled(&hand);
    match hand.take([push(NUMBER, 2)]) {
        Ok(taken) => owed.extend(taken.iter().flat_map(|durable| {
            let sequence = durable.sequence;
            [0, 1].map(|place| Pair { sequence, place })
        })),
        Err(error) => panic!("a push is not taken: {error}"),
    }
    hand.calm_down();
    assert_eq!(unsettled(&hand), owed, "carrying forward changed what is owed");

    let storage = storage.after_power_loss();
    let hand = reopen(&storage);
    assert_eq!(
        unsettled(&hand),
        owed,
        "the power went, and with it what was durable"
    );
    let (settled, left): (Vec<_>, Vec<_>) = owed.into_iter().partition(|pair| pair.place % 2 == 0);
    let mut left: Vec<Pair> = left.into_iter().chain(hand.settle(settled)).collect();
    left.sort_unstable_by_key(|pair| (pair.sequence, pair.place));

    let storage = storage.after_kill();
    let mut hand = reopen(&storage);
    assert_eq!(unsettled(&hand), left, "a kill lost settlements");
    hand.calm_down();
    hand.settle(left);
    hand.close();

    let hand = reopen(&storage.after_power_loss());
    assert_eq!(unsettled(&hand), [], "closing lost settlements");
}

fn unsettled(hand: &Hand) -> Vec<Pair> {
    hand.owed().iter().flat_map(pairs).collect()
}

fn reopen(storage: &Arc<Faulty>) -> Hand {
    match Hand::open(storage) {
        Ok(hand) => hand,
        Err(error) => panic!("once open, it does not open again: {error}"),
    }
}
