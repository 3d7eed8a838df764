//! What became of a journal's directory, as an input tells it.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | which of [`super::journals`] it begins with |
//! | 1 | which checksums are right in the end: 1 those of headers, 2 of frames, 4 of records |
//! | … | what happens to it, one after another: a byte, and what it takes |

use std::{collections::BTreeMap, ops::Range};

use super::{
    input::Input,
    journals::{self, JOURNAL, Made, push},
};
use crate::{
    clock::Timestamp,
    journal::{
        JournalId,
        codec::Decoder,
        frame::{self, FRAME_HEADER_BYTES, FrameHeader, Seed},
        recent::{EventKey, KEY_BYTES},
        record::{
            RECORD_HEADER_BYTES, RawRecord, number_push, put_carried, put_event_ids, put_push, put_settled,
        },
        segment::{self, SEGMENT_HEADER_BYTES},
        segments::LARGE,
        settling::SETTLING,
        spare::SPARE,
        unsettled::Unsettled,
    },
    push::{Pair, Sequence, Settlement},
};

/// No input makes more files, larger ones, or more happen.
const FILES_MAX: usize = 24;
const FILE_BYTES_MAX: usize = 32 * 1024;
const STEPS_MAX: usize = 64;

/// Names of files that a start looks at, or should not.
const NAMES: [&str; 8] = [
    SPARE,
    LARGE,
    SETTLING,
    "lock",
    "cut-0000000000000001-128",
    "0000000000000000.segment",
    "18446744073709551615.segment",
    "1.segment",
];

/// A directory as the input left it.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// What it began as.
    pub(super) made: &'static Made,
    /// Nobody has made a checksum for what he put there: every valid commit is one of the journal's own.
    pub(super) is_honest: bool,
}

/// Plays an input.
pub(super) fn play(bytes: &[u8]) -> Left {
    let mut input = Input::new(bytes);
    let journals = journals::all();
    let Some(made) = journals.get(input.below(journals.len())) else {
        panic!("there are some")
    };
    let sums = input.byte();
    let mut script = Script {
        files: made.files.iter().cloned().collect(),
        input,
        is_honest: true,
    };
    for _ in 0..STEPS_MAX {
        if script.input.is_empty() {
            break;
        }
        script.step();
    }
    script.set_right(sums);
    Left {
        files: script.files.into_iter().collect(),
        made,
        is_honest: script.is_honest,
    }
}

struct Script<'a> {
    files: BTreeMap<String, Vec<u8>>,
    input: Input<'a>,
    is_honest: bool,
}

impl Script<'_> {
    fn step(&mut self) {
        match self.input.byte() % 12 {
            0 => self.overwrite(),
            1 => self.flip(),
            2 => self.resize(),
            3 => self.remove(),
            4 => self.copy(),
            5 => self.swap(),
            6 => self.put(),
            7 => self.change_header(),
            8 => self.change_frame(),
            9 => self.drop_frame(),
            10 => self.append_frame(),
            _ => self.settle(),
        }
    }

    /// Which file there is.
    fn existing(&mut self) -> Option<String> {
        let index = self.input.below(self.files.len());
        self.files.keys().nth(index).cloned()
    }

    fn file(&mut self) -> Option<&mut Vec<u8>> {
        let name = self.existing()?;
        self.files.get_mut(&name)
    }

    /// Any name: a segment's, or one of the others.
    fn name(&mut self) -> String {
        let choice = self.input.below(16 + NAMES.len());
        NAMES.get(choice.wrapping_sub(16)).map_or_else(
            || segment::file_name(choice as u64 + 1),
            |name| (*name).to_owned(),
        )
    }

    fn insert(&mut self, name: String, bytes: Vec<u8>) {
        if self.files.len() < FILES_MAX || self.files.contains_key(&name) {
            self.files.insert(name, bytes);
        }
    }

    fn overwrite(&mut self) {
        let (name, count) = (self.existing(), self.input.below(64));
        let Some(file) = name.and_then(|name| self.files.get_mut(&name)) else {
            return;
        };
        let at = self.input.below(file.len() + 1);
        for (place, byte) in file.iter_mut().skip(at).zip(self.input.bytes(count)) {
            *place = *byte;
        }
    }

    fn flip(&mut self) {
        let Some(name) = self.existing() else { return };
        let Some(file) = self.files.get_mut(&name) else {
            return;
        };
        let (at, bit) = (self.input.below(file.len()), self.input.byte() % 8);
        if let Some(byte) = file.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    fn resize(&mut self) {
        let Some(name) = self.existing() else { return };
        let Some(file) = self.files.get_mut(&name) else {
            return;
        };
        let bytes = self.input.number(file.len() as u64);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(FILE_BYTES_MAX);
        file.resize(bytes, 0);
    }

    fn remove(&mut self) {
        if let Some(name) = self.existing() {
            self.files.remove(&name);
        }
    }

    fn copy(&mut self) {
        let (from, to) = (self.existing(), self.name());
        if let Some(bytes) = from.and_then(|from| self.files.get(&from).cloned()) {
            self.insert(to, bytes);
        }
    }

    fn swap(&mut self) {
        let (Some(one), Some(other)) = (self.existing(), self.existing()) else {
            return;
        };
        let (Some(bytes), Some(others)) = (self.files.remove(&one), self.files.remove(&other)) else {
            return;
        };
        self.files.insert(other, bytes);
        self.files.insert(one, others);
    }

    fn put(&mut self) {
        let (name, count) = (self.name(), usize::from(self.input.byte()));
        let bytes = self.input.bytes(count).to_vec();
        self.insert(name, bytes);
    }

    /// Changes a number in a header, and its checksum with it.
    fn change_header(&mut self) {
        let (field, Some(name)) = (self.input.below(8), self.existing()) else {
            return;
        };
        let Some(file) = self.files.get_mut(&name) else {
            return;
        };
        let at = 16 + 8 * field;
        let Some(place) = file.get_mut(at..at + 8).and_then(|it| it.first_chunk_mut()) else {
            return;
        };
        *place = self.input.number(u64::from_le_bytes(*place)).to_le_bytes();
        sum_header(file);
        self.is_honest = false;
    }

    /// Changes a frame's segment or commit number, and its checksum with it.
    fn change_frame(&mut self) {
        let (is_commit, index) = (self.input.below(2) == 1, self.input.below(256));
        let Some(name) = self.existing() else { return };
        let Some(file) = self.files.get_mut(&name) else {
            return;
        };
        let (frames, seed) = (frames(file), seed_of(file));
        let frame = index
            .checked_rem(frames.len())
            .and_then(|index| frames.get(index));
        let Some(frame) = frame.and_then(|frame| file.get_mut(frame.clone())) else {
            return;
        };
        let Some(header) = header_of(frame) else { return };
        let (mut segment, mut commit) = (header.segment, header.commit);
        if is_commit {
            commit = self.input.number(commit);
        } else {
            segment = self.input.number(segment);
        }
        frame::seal(frame, seed, segment, commit);
        self.is_honest = false;
    }

    fn drop_frame(&mut self) {
        let index = self.input.below(256);
        let Some(file) = self.file() else { return };
        let frames = frames(file);
        let frame = index
            .checked_rem(frames.len())
            .and_then(|index| frames.get(index));
        if let Some(frame) = frame {
            file.drain(frame.clone());
        }
    }

    /// Appends a commit whose records are the input's.
    fn append_frame(&mut self) {
        let Some(name) = self.existing() else { return };
        let Some(file) = self.files.get(&name) else { return };
        let (frames, seed) = (frames(file), seed_of(file));
        let last = frames.last().and_then(|last| header_of(file.get(last.clone())?));
        let (segment, commit) = last.map_or_else(
            || (number_in(file, 16), number_in(file, 56)),
            |last| (last.segment, last.commit.wrapping_add(1)),
        );
        let end = frames.last().map_or(SEGMENT_HEADER_BYTES, |last| last.end);
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        for _ in 0..=self.input.below(6) {
            self.put_record(&mut frame, seed);
        }
        frame::seal(&mut frame, seed, segment, commit);
        if let Some(file) = self.files.get_mut(&name)
            && end + frame.len() <= FILE_BYTES_MAX
        {
            file.truncate(end);
            file.resize(end, 0);
            file.extend_from_slice(&frame);
            file.resize(end + frame.len() + 64, 0);
            self.is_honest = false;
        }
    }

    fn put_record(&mut self, out: &mut Vec<u8>, seed: Seed) {
        let kind = self.input.byte();
        let sequence = Sequence::new(self.input.number(u64::from(kind / 6))).unwrap_or(Sequence::FIRST);
        match kind % 6 {
            0 | 1 => self.put_push(out, seed, sequence, kind % 2 == 1),
            2 => {
                let place = self.input.number(0).to_le_bytes();
                let place = u16::from_le_bytes([place[0], place[1]]);
                put_settled(out, seed, Pair { sequence, place }, Settlement::Superseded);
            }
            3 => {
                let ids = (0..self.input.byte() % 4).map(|_| {
                    let key = [self.input.byte(); KEY_BYTES];
                    let taken_at = self.input.number(0).cast_signed();
                    (EventKey(key), Timestamp::from_unix_millis(taken_at))
                });
                put_event_ids(out, seed, &ids.collect::<Vec<_>>());
            }
            _ => {
                // One whose body is the input's, perhaps of a kind that nobody writes.
                let start = out.len();
                let (kind, count) = (self.input.byte() % 6, self.input.byte());
                let body = self.input.bytes(usize::from(count));
                out.extend_from_slice(&(body.len() as u64).to_le_bytes());
                out.extend_from_slice(&[0; RECORD_HEADER_BYTES - 8]);
                out.extend_from_slice(body);
                if let Some(record) = out.get_mut(start..) {
                    if let Some(place) = record.get_mut(4) {
                        *place = kind;
                    }
                    sum_record(record, seed);
                }
            }
        }
    }

    fn put_push(&mut self, out: &mut Vec<u8>, seed: Seed, sequence: Sequence, is_carried: bool) {
        let number = self.input.byte();
        let owed = self.input.byte() % 80;
        let mut bytes = Vec::new();
        put_push(&mut bytes, seed, &push(number.into(), owed.into()));
        number_push(&mut bytes, seed, sequence);
        if !is_carried {
            out.extend_from_slice(&bytes);
            return;
        }
        let owed = u16::from(owed);
        let mut bits = self.input.bytes(usize::from(owed.div_ceil(8))).to_vec();
        bits.resize(usize::from(owed.div_ceil(8)), 0);
        let unsettled = Unsettled::from_bytes(&bits, owed).unwrap_or_else(|| Unsettled::all(owed));
        let made = RawRecord::split(&bytes).and_then(|(raw, _)| put_carried(out, seed, &raw, &unsettled));
        assert_eq!(made, Ok(()));
    }

    /// Tells settlements that no commit has.
    fn settle(&mut self) {
        let mut bytes = self.files.get(SETTLING).cloned().unwrap_or_default();
        let near = u64::from(self.input.byte());
        let sequence = Sequence::new(self.input.number(near)).unwrap_or(Sequence::FIRST);
        let place = u16::from(self.input.byte());
        let pair = Pair { sequence, place };
        put_settled(&mut bytes, Seed::of(JOURNAL), pair, Settlement::Delivered);
        if bytes.len() <= FILE_BYTES_MAX {
            self.insert(SETTLING.to_owned(), bytes);
        }
    }

    /// Makes the checksums right that `sums` names, innermost first.
    fn set_right(&mut self, sums: u8) {
        let (headers, inner, outer) = (sums & 1 != 0, sums & 4 != 0, sums & 2 != 0);
        self.is_honest &= !outer;
        for (name, file) in &mut self.files {
            if name == SETTLING && inner {
                for record in records(file) {
                    if let Some(record) = file.get_mut(record) {
                        sum_record(record, Seed::of(JOURNAL));
                    }
                }
            }
            if segment::parse_file_name(name).is_none() {
                continue;
            }
            if headers {
                self.is_honest = false;
                sum_header(file);
            }
            let seed = seed_of(file);
            for frame in frames(file) {
                if let Some(frame) = file.get_mut(frame) {
                    sum_frame(frame, seed, inner, outer);
                }
            }
        }
    }
}

/// Where the frames of a segment stand that follow each other, whatever their checksums say.
pub(super) fn frames(file: &[u8]) -> Vec<Range<usize>> {
    let mut frames = Vec::new();
    let mut start = SEGMENT_HEADER_BYTES;
    while let Some(header) = file.get(start..).and_then(header_of) {
        let end = start + FRAME_HEADER_BYTES + header.payload_bytes as usize;
        if end > file.len() {
            break;
        }
        frames.push(start..end);
        start = end;
    }
    frames
}

/// Where the records of a frame stand that follow each other, and in [`SETTLING`] those of the file.
pub(super) fn records(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut start = if header_of(bytes).is_some() {
        FRAME_HEADER_BYTES
    } else {
        0
    };
    let mut records = Vec::new();
    while let Some((raw, _)) = bytes.get(start..).and_then(|rest| RawRecord::split(rest).ok()) {
        let end = start + raw.bytes();
        records.push(start..end);
        start = end;
    }
    records
}

fn header_of(frame: &[u8]) -> Option<FrameHeader> {
    frame.first_chunk().and_then(FrameHeader::parse)
}

/// What the checksums of a segment's commits begin with, by its header.
pub(super) fn seed_of(file: &[u8]) -> Seed {
    let id = file.get(24..).and_then(|rest| rest.first_chunk());
    Seed::of(id.copied().map_or(JOURNAL, JournalId))
}

fn number_in(file: &[u8], at: usize) -> u64 {
    let mut decoder = Decoder::new(file.get(at..).unwrap_or_default());
    decoder.u64().unwrap_or_default()
}

fn sum_header(file: &mut [u8]) {
    const SUM_AT: usize = SEGMENT_HEADER_BYTES - 4;
    if let Some((summed, sum)) = file
        .get_mut(..SEGMENT_HEADER_BYTES)
        .map(|it| it.split_at_mut(SUM_AT))
    {
        sum.copy_from_slice(&crc32c::crc32c(summed).to_le_bytes());
    }
}

fn sum_frame(frame: &mut [u8], seed: Seed, inner: bool, outer: bool) {
    if inner {
        for record in records(frame) {
            if let Some(record) = frame.get_mut(record) {
                sum_record(record, seed);
            }
        }
    }
    if outer && let Some(header) = header_of(frame) {
        frame::seal(frame, seed, header.segment, header.commit);
    }
}

fn sum_record(record: &mut [u8], seed: Seed) {
    if let Some((head, body)) = record.split_at_mut_checked(RECORD_HEADER_BYTES) {
        let (head, sum) = head.split_at_mut(8);
        sum.copy_from_slice(&seed.sum(&[head, body]).to_le_bytes());
    }
}
