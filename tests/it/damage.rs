//! A journal that is not as it was left: newer, damaged, or torn at its end (CONTRACT 6 and 9). All of them
//! were written by the real process.

use std::{fs, os::unix::fs::FileExt, path::Path, time::Duration};

use serde_json::Value;

use crate::support::{
    SOON, envelope, eventually, files,
    receiver::{Receiver, images},
    shipbell::{Config, Shipbell},
};

/// Where the first commit of a segment begins, and how long the header of a commit is.
const SEGMENT_HEADER_BYTES: usize = 128;
const FRAME_HEADER_BYTES: usize = 28;

/// Pushes of these tags, taken one by one, none of them delivered, then a kill.
fn killed_with(receiver: &Receiver, pushes: &[Value]) -> Shipbell {
    let config = Config::without_registry()
        .endpoint("hook", &receiver.url("/hook"))
        .with("batch.window = '1h'\ningest.max_body = '256KiB'\njournal.segment_size = '1MiB'");
    let mut shipbell = Shipbell::start(config);
    for push in pushes {
        shipbell.take(envelope::of(std::slice::from_ref(push)));
    }
    shipbell.kill();
    shipbell
}

fn pushes(tags: std::ops::RangeInclusive<u32>) -> Vec<Value> {
    tags.map(|tag| envelope::push("acme/app", &tag.to_string(), &tag.to_string()))
        .collect()
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_journal_of_a_newer_version_is_refused_and_left_as_it_is() {
    let receiver = Receiver::start();
    let mut shipbell = killed_with(&receiver, &pushes(1..=3));
    let segment = files::segments(&shipbell.data()).pop().unwrap();
    change(&segment, |bytes| {
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..SEGMENT_HEADER_BYTES - 4]);
        bytes[SEGMENT_HEADER_BYTES - 4..SEGMENT_HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    });
    let before = files::contents(&shipbell.data());
    let refusal = shipbell.start_in_vain();
    assert_eq!(refusal.code, Some(65), "{}", refusal.said);
    for words in [
        &*segment.display().to_string(),
        "newer version",
        "run that version",
    ] {
        assert!(
            refusal.said.contains(words),
            "nothing of {words} in {}",
            refusal.said
        );
    }
    assert!(
        files::contents(&shipbell.data()) == before,
        "something changed on disk"
    );
}

#[test]
fn a_flipped_bit_with_commits_behind_it_stops_the_start() {
    let receiver = Receiver::start();
    let mut shipbell = killed_with(&receiver, &pushes(1..=5));
    let segment = files::segments(&shipbell.data()).pop().unwrap();
    let flip = |bytes: &mut Vec<u8>| bytes[SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 9] ^= 0b100;
    change(&segment, flip);
    let before = files::contents(&shipbell.data());
    let refusal = shipbell.start_in_vain();
    assert_eq!(refusal.code, Some(65), "{}", refusal.said);
    let place = format!(
        "{} is damaged at offset {SEGMENT_HEADER_BYTES}",
        segment.display()
    );
    for words in [&*place, "shipbell journal repair"] {
        assert!(
            refusal.said.contains(words),
            "nothing of {words} in {}",
            refusal.said
        );
    }
    assert!(
        files::contents(&shipbell.data()) == before,
        "something changed on disk"
    );

    // With the bit as it was, everything is there.
    change(&segment, flip);
    shipbell.start_again();
    let requests = receiver.wait_for_image("acme/app:5", SOON);
    assert_eq!(
        images(&requests),
        ["1", "2", "3", "4", "5"].map(|tag| format!("acme/app:{tag}"))
    );
}

#[test]
fn a_push_that_can_not_be_read_for_a_while_is_delivered_once_it_can() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .endpoint("hook", &receiver.url("/hook"))
        .with("batch.window = '4s'");
    let mut shipbell = Shipbell::start(config);
    let tags = ["whole", "broken", "late"];
    shipbell.take(envelope::of(
        &tags.map(|tag| envelope::push("acme/app", tag, tag)),
    ));
    let segment = files::segments(&shipbell.data()).pop().unwrap();
    let bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(6).position(|window| window == b"broken").unwrap();
    let file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
    // Where it stands, as a disk would: the process has the file open.
    file.write_all_at(b"BROKEN", at as u64).unwrap();
    receiver.wait_for_image("acme/app:whole", SOON);
    let log = eventually("it says that it can't be read", SOON, || {
        Some(shipbell.log()).filter(|log| log.contains("the push can't be read back"))
    });
    assert!(
        log.contains("acme/app") && receiver.requests().len() == 1,
        "{log}"
    );
    file.write_all_at(b"broken", at as u64).unwrap();
    let requests = receiver.wait_for_image("acme/app:late", Duration::from_secs(20));
    assert_eq!(images(&requests), tags.map(|tag| format!("acme/app:{tag}")));
    shipbell.stop();
}

#[test]
fn garbage_behind_the_last_commit_is_cut_saved_and_reported() {
    let receiver = Receiver::start();
    let mut shipbell = killed_with(&receiver, &pushes(1..=4));
    let segment = files::segments(&shipbell.data()).pop().unwrap();
    // A commit may end in a few zeros of its own.
    let at = files::end_of_content(&segment) + 16;
    change(&segment, |bytes| bytes[at..at + 7].copy_from_slice(b"garbage"));
    assert_cut(&mut shipbell, &segment, b"garbage");
    let requests = receiver.wait_for_image("acme/app:4", SOON);
    assert_eq!(
        images(&requests),
        ["1", "2", "3", "4"].map(|tag| format!("acme/app:{tag}"))
    );
}

#[test]
fn a_torn_last_commit_is_cut_and_its_push_is_taken_when_it_comes_again() {
    let receiver = Receiver::start();
    let pushes = pushes(1..=5);
    let mut shipbell = killed_with(&receiver, &pushes);
    let segment = files::segments(&shipbell.data()).pop().unwrap();
    let end = files::end_of_content(&segment);
    let mut last = Vec::new();
    change(&segment, |bytes| {
        bytes.truncate(end - 5);
        last = bytes[end - 105..].to_vec();
    });
    assert_cut(&mut shipbell, &segment, &last);
    receiver.wait_for_image("acme/app:4", SOON);
    shipbell.set("batch.window = '10ms'");
    shipbell.kill();
    shipbell.start_again();
    shipbell.take(envelope::of(&pushes[3..]));
    let requests = receiver.wait_for_image("acme/app:5", SOON);
    let mut images = images(&requests);
    // The attempts in flight at the kill may come twice.
    images.dedup();
    assert_eq!(
        images,
        ["1", "2", "3", "4", "5"].map(|tag| format!("acme/app:{tag}"))
    );
}

#[test]
fn the_id_of_a_webhook_whose_push_was_cut_is_no_other_pushs() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .endpoint("hook", &receiver.url("/hook"))
        .with("batch.window = '0s'\nsize.deadline = '10ms'");
    let mut shipbell = Shipbell::start(config);
    shipbell.take(envelope::of(&pushes(1..=1)));
    let sent = receiver.wait_for(1, SOON)[0].id().to_owned();
    shipbell.kill();
    let segment = files::segments(&shipbell.data()).pop().unwrap();
    // In its first commit. If its settlement came behind, that goes with it.
    change(&segment, |bytes| {
        bytes[SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 9] ^= 0b100;
        bytes.truncate(SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES + 100);
    });
    shipbell.start_again();
    assert!(shipbell.log().contains("is cut"), "{}", shipbell.log());
    // What is given on from there is found again.
    for tag in 2..=3 {
        shipbell.take(envelope::of(&pushes(tag..=tag)));
        receiver.wait_for_image(&format!("acme/app:{tag}"), SOON);
        shipbell.stop();
        shipbell.start_again();
    }
    let requests = receiver.requests();
    assert_eq!(
        images(&requests),
        ["1", "2", "3"].map(|tag| format!("acme/app:{tag}"))
    );
    assert!(requests[1..].iter().all(|request| request.id() != sent), "{sent}");
}

/// Starts it, and asserts that the end of `segment` is cut off: saved beside it, and told in the log.
fn assert_cut(shipbell: &mut Shipbell, segment: &Path, saved_end: &[u8]) {
    shipbell.start_again();
    let folder = shipbell.data().join("journal");
    let cuts: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("cut-"))
        .collect();
    let [cut] = &cuts[..] else { panic!("{cuts:?}") };
    let saved = fs::read(cut).unwrap();
    assert!(saved.ends_with(saved_end), "{saved:?}");
    let log = shipbell.log();
    let report = log.lines().find(|line| line.contains("is cut")).unwrap();
    for words in [segment, cut] {
        assert!(report.contains(&words.display().to_string()), "{report}");
    }
    assert_eq!(files::with_wrong_modes(&shipbell.data()), []);
}
