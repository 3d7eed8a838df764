//! What is not as it was written is noticed.

use super::*;

/// A journal of one segment with some commits, and where each of them ends.
fn commits() -> (Vec<u8>, Vec<usize>) {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    let mut ends = vec![SEGMENT_HEADER_BYTES];
    for number in 1..=4 {
        hand.take(number).unwrap();
        let file = &storage.files()[0].1;
        ends.push(file.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    }
    (storage.files()[0].1.clone(), ends)
}

#[test]
fn a_journal_torn_at_any_byte_is_what_was_committed_before() {
    let (bytes, ends) = commits();
    let name = segment::file_name(1);
    for cut in SEGMENT_HEADER_BYTES..=*ends.last().unwrap() {
        for zeros in [0, 100] {
            let storage = Faulty::new();
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            storage.put(&name, &torn);
            let hand = open(&storage);
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let content = torn.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            assert_eq!(hand.pending.len(), whole, "cut at {cut}");
            let cut_off = content.saturating_sub(ends[whole]);
            assert_eq!(
                hand.report.cut.as_ref().map_or(0, |cut| cut.bytes),
                cut_off as u64
            );
            if let Some(saved) = &hand.report.cut {
                let files = storage.after_power_loss().files();
                let saved = files
                    .iter()
                    .find(|(name, _)| *name == *saved.saved.to_string_lossy());
                assert_eq!(saved.unwrap().1, torn[ends[whole]..content]);
            }
            let again = open(&storage.after_power_loss());
            assert_eq!((again.pending.len(), again.report.cut), (whole, None));
        }
    }
}

#[test]
fn every_flipped_bit_is_cut_if_in_the_last_commit_and_refused_anywhere_else() {
    let (bytes, ends) = commits();
    let name = segment::file_name(1);
    let (last, end) = (ends[3], ends[4]);
    for bit in 0..end * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let storage = Faulty::new();
        storage.put(&name, &flipped);
        match try_open(&storage, OPTIONS) {
            Ok(hand) => {
                assert!(bit / 8 >= last, "bit {bit} went unnoticed");
                assert_eq!((hand.pending.len(), hand.report.cut.is_some()), (3, true));
            }
            Err(OpenError::Damaged { file, offset, .. }) => {
                assert!(bit / 8 < last, "bit {bit} of the last commit refused the start");
                assert!(ends.contains(&usize::try_from(offset).unwrap()) || offset < 128);
                assert_eq!(file.to_string_lossy(), name);
                assert_eq!(
                    storage.files(),
                    [(name.clone(), flipped)],
                    "a refused journal was changed"
                );
            }
            Err(other) => panic!("bit {bit}: {other}"),
        }
    }
}

#[test]
fn damage_in_an_older_segment_and_a_missing_segment_are_refused() {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for number in 1..=40 {
        hand.take(number).unwrap();
    }
    hand.close();
    let last = hand_last_commit(&storage, 2);
    for (name, bytes) in storage.files() {
        if segment::parse_file_name(&name) == Some(2) {
            let copy = storage.after_kill();
            let mut flipped = bytes.clone();
            flipped[last] ^= 1;
            copy.put(&name, &flipped);
            assert!(matches!(try_open(&copy, OPTIONS), Err(OpenError::Damaged { .. })));
            let copy = storage.after_kill();
            copy.put(&name, &bytes[..bytes.len() - 1]);
            assert!(matches!(try_open(&copy, OPTIONS), Err(OpenError::Damaged { .. })));
            let copy = storage.after_kill();
            copy.remove(&name).unwrap();
            assert!(matches!(try_open(&copy, OPTIONS), Err(OpenError::Damaged { .. })));
        }
    }
}

/// The offset of the last byte that is not zero.
fn hand_last_commit(storage: &Faulty, segment: u64) -> usize {
    let files = storage.files();
    let (_, bytes) = files
        .iter()
        .find(|(name, _)| *name == segment::file_name(segment))
        .unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap()
}

#[test]
fn stale_frames_of_another_segment_or_journal_stay_dead() {
    let (bytes, ends) = commits();
    let storage = Faulty::new();
    let mut hand = open(&storage);
    hand.take(1).unwrap();
    hand.close();
    // Behind the last commit stands what another journal once wrote there.
    let (name, mut mine) = storage.files().remove(0);
    let end = hand_last_commit(&storage, 1) + 1;
    let foreign = &bytes[ends[1]..ends[2]];
    mine[end..end + foreign.len()].copy_from_slice(foreign);
    storage.put(&name, &mine);
    let again = open(&storage);
    assert_eq!(again.pending_ids(), ["event-1"]);
    assert_eq!(again.report.cut.unwrap().offset, end as u64);
}

#[test]
fn bad_bytes_over_more_than_the_last_commit_are_damage() {
    let (bytes, ends) = commits();
    let name = segment::file_name(1);
    // The headers of the commits behind it are gone, too: only its own length tells that there were any.
    let mut garbled = bytes;
    garbled[ends[2] + FRAME_HEADER_BYTES + 9..ends[4] - 9].fill(0x5a);
    let storage = Faulty::new();
    storage.put(&name, &garbled);
    let Err(OpenError::Damaged { offset, .. }) = try_open(&storage, OPTIONS) else {
        panic!("opened")
    };
    assert_eq!(offset, ends[2] as u64);
}

#[test]
fn a_newer_version_is_left_alone() {
    let (mut bytes, _) = commits();
    bytes[8] = 2;
    let sum = crc32c::crc32c(&bytes[..124]).to_le_bytes();
    bytes[124..128].copy_from_slice(&sum);
    let storage = Faulty::new();
    storage.put(&segment::file_name(1), &bytes);
    let Err(error) = try_open(&storage, OPTIONS) else {
        panic!("opened")
    };
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[test]
fn the_smallest_commit_is_larger_than_its_frame() {
    let (_, ends) = commits();
    assert!(ends.windows(2).all(|pair| pair[1] - pair[0] > FRAME_HEADER_BYTES));
}

#[test]
fn a_segments_name_that_leads_to_no_file_is_told_and_nobody_waits_for_it() {
    type Put = fn(&std::path::Path);
    let puts: [(Put, &str); 3] = [
        (
            |path| rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).unwrap(),
            "it is not a regular file",
        ),
        (
            |path| std::os::unix::fs::symlink("nowhere", path).unwrap(),
            "No such file",
        ),
        (|path| std::fs::create_dir(path).unwrap(), "Is a directory"),
    ];
    for (put, why) in puts {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DIRECTORY);
        drop(Journal::open(&path, OPTIONS, clock()).unwrap());
        let newest = path.join(segment::file_name(2));
        put(&newest);
        let name = newest.display().to_string();
        let refused = Journal::open(&path, OPTIONS, clock()).unwrap_err().to_string();
        assert!(refused.contains(&name) && refused.contains(why), "{refused}");
        let told = verify(&path, &mut |_, _| {}).unwrap_err().to_string();
        assert!(told.contains(&name), "{told}");
        assert!(told.contains(why) || why == "Is a directory", "{told}");
    }
}
