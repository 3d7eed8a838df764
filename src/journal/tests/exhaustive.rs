//! Every byte at which a journal can be cut, and every bit of it that can flip.

use super::*;

/// A segment of at least that many bytes of commits, and where each of them ends; of the bytes behind the last
/// one none is left.
fn commits(bytes_min: usize) -> (Vec<u8>, Vec<usize>) {
    let storage = Faulty::new();
    let options = Options {
        segment_size: 256 * 1024,
        max_size: 1024 * 1024,
    };
    let mut hand = try_open(&storage, options).unwrap();
    let mut ends = vec![SEGMENT_HEADER_BYTES];
    let mut number = 0;
    while *ends.last().unwrap() < SEGMENT_HEADER_BYTES + bytes_min {
        // One push, or a few, or one with a settlement along.
        let count = 1 + number % 3;
        let pushes = (number + 1..=number + count).map(|number| Item::Push(push(number)));
        hand.append(pushes.collect()).unwrap();
        number += count;
        if number % 5 == 0 {
            hand.settle(hand.durable().last().unwrap());
        }
        let writer = hand.writer.as_ref().unwrap();
        ends.push(usize::try_from(writer.segments.active_end()).unwrap());
    }
    let mut file = storage.files().remove(0).1;
    file.truncate(*ends.last().unwrap());
    (file, ends)
}

/// What a start finds; the disk is the one that it was given.
fn start(bytes: &[u8]) -> (Arc<Faulty>, Result<RecoveryReport, OpenError>) {
    let storage = Faulty::new();
    storage.put(&segment::file_name(1), bytes);
    let opened = recovery::open(
        &(Arc::<Faulty>::clone(&storage) as Arc<dyn Storage>),
        OPTIONS,
        clock(),
        Filling::OnDemand,
    );
    (storage, opened.map(|opened| opened.report))
}

/// Halves the work between two threads.
fn in_halves(count: usize, check: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for half in 0..2 {
            let check = &check;
            scope.spawn(move || (half..count).step_by(2).for_each(check));
        }
    });
}

#[test]
fn a_journal_of_64_kib_cut_at_any_byte_is_exactly_the_commits_before() {
    let (bytes, ends) = commits(64 * 1024);
    let cuts = bytes.len() + 1 - SEGMENT_HEADER_BYTES;
    in_halves(cuts, |cut| {
        let cut = cut + SEGMENT_HEADER_BYTES;
        let (_, report) = start(&bytes[..cut]);
        let report = report.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let torn = bytes[ends[whole]..cut].iter().rposition(|byte| *byte != 0);
        assert_eq!(
            (report.commits, report.cut.map_or(0, |cut| cut.bytes)),
            (whole as u64, torn.map_or(0, |last| last as u64 + 1)),
            "cut at {cut}"
        );
    });
    println!(
        "{cuts} cuts of {} commits in {} bytes",
        ends.len() - 1,
        bytes.len()
    );
}

#[test]
fn every_bit_of_16_kib_that_flips_is_noticed_and_cut_or_refused() {
    let (bytes, ends) = commits(16 * 1024);
    let last = ends[ends.len() - 2];
    let name = segment::file_name(1);
    in_halves(bytes.len() * 8, |bit| {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (storage, report) = start(&flipped);
        match report {
            Ok(report) => {
                assert!(bit / 8 >= last, "bit {bit} went unnoticed");
                assert_eq!(report.commits, ends.len() as u64 - 2, "bit {bit}");
                let cut = report.cut.unwrap();
                assert_eq!(cut.offset, last as u64, "bit {bit}");
                let saved = storage.open(&cut.saved.to_string_lossy()).unwrap();
                assert_eq!(saved.size().unwrap(), cut.bytes);
            }
            Err(OpenError::Damaged { file, offset, .. }) => {
                assert!(bit / 8 < last, "bit {bit} of the last commit refused the start");
                let offset = usize::try_from(offset).unwrap();
                assert!(
                    ends.contains(&offset) || offset < SEGMENT_HEADER_BYTES,
                    "bit {bit}"
                );
                assert_eq!(file.to_string_lossy(), name);
                assert_eq!(
                    storage.files(),
                    [(name.clone(), flipped)],
                    "a refused journal was changed"
                );
            }
            Err(other) => panic!("bit {bit}: {other}"),
        }
    });
    println!("{} bits of {} commits", bytes.len() * 8, ends.len() - 1);
}
