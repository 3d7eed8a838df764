//! The format on disk is version 1 for good: what this version writes, to the byte, and what an earlier build
//! has left behind.

use std::{fmt::Write as _, path::Path};

use super::*;
use crate::journal::{
    recent::EventKey,
    record::{self, RawRecord},
    segment::SegmentHeader,
    unsettled::Unsettled,
};

const ID: JournalId = JournalId([0x5a; 16]);

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

fn sample() -> Push {
    Push {
        event_id: "0198e6a4-7c1b-7f00-a1b2-c3d4e5f60718".to_owned(),
        repository: "acme/app".parse().unwrap(),
        tag: Some("1.4".parse().unwrap()),
        digest: Digest::from_bytes(&[0xd1; 32]).unwrap(),
        media_type: MediaType::OciIndex,
        manifest_size: 582,
        references: vec![Reference {
            media_type: "m/t".into(),
            size: 300,
            digest: Digest::from_bytes(&[0xd2; 32]).unwrap(),
            has_urls: true,
        }],
        actor: "alice".to_owned(),
        taken_at: Timestamp::from_unix_millis(0x0102_0304_0506),
        owed: vec![
            EndpointId::Named("ci".into()),
            EndpointId::Repository("acme/app".parse().unwrap()),
            EndpointId::Repository("b".parse().unwrap()),
        ],
    }
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = Vec::new();
    write(&mut bytes);
    hex(&bytes)
}

#[test]
fn headers_frames_and_records_are_written_as_version_1_has_them() {
    let seed = Seed::of(ID);
    let sequence = Sequence::new(7).unwrap();
    let mut push = Vec::new();
    record::put_push(&mut push, seed, &sample());
    record::number_push(&mut push, seed, sequence);
    let header = SegmentHeader {
        number: 3,
        journal: ID,
        created_at: Timestamp::from_unix_millis(0x0102_0304_0506),
        first_sequence: sequence,
        first_commit: 9,
        predecessor: 2,
        predecessor_end: 4096,
        passed_over: 0,
    };
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    frame.extend_from_slice(b"payload");
    frame::seal(&mut frame, seed, 3, 9);
    let pair = Pair { sequence, place: 2 };
    let key = EventKey::of(&sample().event_id).unwrap();
    let lines = [
        ("header", hex(&header.encode())),
        ("frame", hex(&frame)),
        ("push", hex(&push)),
        (
            "settled",
            written(|out| record::put_settled(out, seed, pair, Settlement::DeadLetter)),
        ),
        (
            "event ids",
            written(|out| record::put_event_ids(out, seed, &[(key, Timestamp::from_unix_millis(-2))])),
        ),
        (
            "carried",
            written(|out| {
                let raw = RawRecord::split(&push).unwrap().0;
                record::put_carried(out, seed, &raw, &Unsettled::Few(0b110)).unwrap();
            }),
        ),
    ];
    let text = lines
        .iter()
        .fold(String::new(), |text, (name, hex)| format!("{text}{name} {hex}\n"));
    assert_eq!(text, include_str!("../../../tests/journals/v1.bytes"));
}

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_journal_that_the_first_build_of_version_1_left_behind_is_read_as_it_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DIRECTORY);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journals/v1");
    copy(&fixture, &path);
    let opened = Journal::open(&path, OPTIONS, clock()).unwrap();
    let journal = opened.journal;
    let mut text = String::new();
    for owed in all_owed(&journal).unwrap() {
        let push = journal.read(&[owed.sequence]).remove(0).unwrap();
        let who: Vec<_> = owed
            .owed
            .iter()
            .map(|(place, id)| format!("{place}:{id}"))
            .collect();
        let who = if who.len() > 4 {
            format!("{} of {}", who.len(), push.owed.len())
        } else {
            who.join(" ")
        };
        let tag = push.tag.map(|tag| tag.to_string()).unwrap_or_default();
        writeln!(
            text,
            "{} {}:{tag} {} {who}",
            owed.sequence, push.repository, push.digest
        )
        .unwrap();
    }
    writeln!(
        text,
        "{} settled late, {} commits, cut: {}",
        opened.report.settled_late,
        opened.report.commits,
        opened.report.cut.map_or(0, |cut| cut.bytes)
    )
    .unwrap();
    assert_eq!(text, include_str!("../../../tests/journals/v1.owed"));
    // What was taken before is known, although its segment is gone.
    let thread = opened.writer.start(Box::new(|_| {})).unwrap();
    futures_executor(journal.append(vec![Item::Push(push(2))])).unwrap();
    futures_executor(journal.close());
    thread.join().unwrap();
    assert_eq!(journal.stats().duplicates, 1);
}
