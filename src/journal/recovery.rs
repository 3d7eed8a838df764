//! What is read at the start: every segment, in order; what is still owed comes out.
//!
//! The order of steps, each of which may be the last before a crash:
//! 1. All segments are read and checked; nothing is changed. Damage that is not a torn tail ends here.
//! 2. A torn tail is saved beside, synced.
//! 3. A fresh segment is made, whose header names the valid end of the newest one: from here on the torn
//!    tail is a known cut, whether or not the next step happens.
//! 4. The segment before is truncated to its valid end, which frees the room it was filled with.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    Durable, JournalId, OpenError, Options, Position, RecoveryReport,
    frame::{FRAME_HEADER_BYTES, FrameHeader, MAGIC_BYTES, Seed},
    recent::{EventKey, Found, Recent},
    record::{RawRecord, Record, RecordError},
    segment::{self, HEADER_BYTES, Header, HeaderError, Predecessor},
    storage::{Storage, StorageFile},
};
use crate::{clock::Clock, push::Sequence};

/// What recovery found, and the fresh segment it made.
pub(super) struct Recovered {
    pub(super) id: JournalId,
    pub(super) pending: Vec<Durable>,
    pub(super) recent: Recent,
    pub(super) next_sequence: Sequence,
    pub(super) next_commit: u64,
    /// All segments but the fresh one: number, file, bytes.
    pub(super) sealed: Vec<(u64, Arc<dyn StorageFile>, u64)>,
    pub(super) active: (Header, Arc<dyn StorageFile>),
    pub(super) report: RecoveryReport,
}

struct Segment {
    header: Header,
    file: Arc<dyn StorageFile>,
    bytes: Vec<u8>,
}

/// A torn tail of the newest segment.
struct Cut {
    segment: u64,
    offset: u64,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Findings {
    pending: BTreeMap<Sequence, Durable>,
    ids: Vec<Found>,
    highest: Option<Sequence>,
    commits: u64,
    records: u64,
}

pub(super) fn recover(
    storage: &Arc<dyn Storage>,
    options: Options,
    clock: &Clock,
) -> Result<Recovered, OpenError> {
    let failed = |name: &str| {
        let path = storage.path(name);
        move |error: io::Error| OpenError::from_io(path, error)
    };
    let mut numbers = Vec::new();
    for name in storage.list().map_err(failed(""))? {
        if let Some(number) = segment::number_of(&name) {
            numbers.push(number);
        } else if name == segment::SPARE || name == segment::UNNAMED {
            storage.remove(&name).map_err(failed(&name))?;
        }
    }
    numbers.sort_unstable();
    let mut found = Findings::default();
    let mut sealed = Vec::new();
    let mut before: Option<(Header, Arc<dyn StorageFile>, u64)> = None;
    let mut cut = None;
    let mut next_commit = 1;
    let mut rest = numbers.iter().copied().peekable();
    while let Some(number) = rest.next() {
        let segment = read(&**storage, number)?;
        check_chain(
            &**storage,
            before.as_ref().map(|(header, ..)| header),
            &segment.header,
        )?;
        let end = match rest.peek() {
            None => None,
            Some(next) => Some(valid_end_of(&**storage, *next, number)?),
        };
        let (valid_end, torn) = scan(&**storage, &segment, end, &mut found)?;
        next_commit = segment.header.first_commit + found.commits;
        found.records += found.commits;
        found.commits = 0;
        cut = torn;
        if let Some((header, file, bytes)) = before.replace((segment.header, segment.file, valid_end)) {
            sealed.push((header.number, file, bytes));
        }
    }
    if let Some(cut) = &cut {
        save(&**storage, cut).map_err(failed("cut"))?;
    }
    let newest = before.as_ref().map(|(header, _, bytes)| (*header, *bytes));
    let id = match newest {
        Some((header, _)) => header.journal,
        None => JournalId(rand::random()),
    };
    let from_header = newest.map_or(Sequence::FIRST, |(header, _)| header.first_sequence);
    let next_sequence = found
        .highest
        .map_or(from_header, |highest| highest.next().max(from_header));
    let header = Header {
        number: newest.map_or(1, |(header, _)| header.number + 1),
        journal: id,
        created_at: clock.now(),
        first_sequence: next_sequence,
        first_commit: next_commit,
        predecessor: newest.map(|(header, valid_end)| Predecessor {
            number: header.number,
            valid_end,
        }),
    };
    let file = first_file(&**storage, options).and_then(|spare| segment::create(&**storage, spare, &header));
    let file = file.map_err(failed(&segment::name(header.number)))?;
    if let Some((header, file, valid_end)) = before {
        let name = segment::name(header.number);
        file.set_len(valid_end).map_err(failed(&name))?;
        sealed.push((header.number, file, valid_end));
    }
    let recent = Recent::restore(found.ids, clock.now());
    let pending: Vec<Durable> = found.pending.into_values().collect();
    let report = RecoveryReport {
        segments: numbers.len(),
        commits: found.records,
        pending: pending.len(),
        remembered_ids: recent.len(),
        cut: cut.map(|cut| (storage.path(&cut_name(&cut)), cut.bytes.len())),
    };
    Ok(Recovered {
        id,
        pending,
        recent,
        next_sequence,
        next_commit,
        sealed,
        active: (header, file),
        report,
    })
}

/// The first segment is filled here and now: a start may take the time, a commit may not.
fn first_file(storage: &dyn Storage, options: Options) -> io::Result<Option<Arc<dyn StorageFile>>> {
    if !options.prefill {
        return Ok(None);
    }
    let file = storage.create(segment::SPARE)?;
    segment::fill(&*file, options.segment_size)?;
    Ok(Some(file))
}

fn damaged(storage: &dyn Storage, number: u64, offset: u64, reason: impl Into<String>) -> OpenError {
    OpenError::Damaged {
        file: storage.path(&segment::name(number)),
        offset,
        reason: reason.into(),
    }
}

fn read(storage: &dyn Storage, number: u64) -> Result<Segment, OpenError> {
    let name = segment::name(number);
    let failed = |error| OpenError::from_io(storage.path(&name), error);
    let file = storage.open(&name).map_err(failed)?;
    let size = usize::try_from(file.size().map_err(failed)?)
        .map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
    let mut bytes = vec![0; size];
    let count = file.read_at(&mut bytes, 0).map_err(failed)?;
    bytes.truncate(count);
    let header = parse_header(storage, number, &bytes)?;
    Ok(Segment { header, file, bytes })
}

fn parse_header(storage: &dyn Storage, number: u64, bytes: &[u8]) -> Result<Header, OpenError> {
    let header = Header::parse(bytes.get(..HEADER_BYTES).unwrap_or(bytes)).map_err(|error| match error {
        HeaderError::Damaged(reason) => damaged(storage, number, 0, reason),
        HeaderError::Newer(version) => OpenError::Newer {
            file: storage.path(&segment::name(number)),
            version,
        },
    })?;
    if header.number != number {
        return Err(damaged(
            storage,
            number,
            16,
            format!("its header says that it is segment {}", header.number),
        ));
    }
    Ok(header)
}

fn check_chain(storage: &dyn Storage, before: Option<&Header>, header: &Header) -> Result<(), OpenError> {
    let Some(before) = before else { return Ok(()) };
    let wrong = |offset, reason: String| Err(damaged(storage, header.number, offset, reason));
    if header.number != before.number + 1 {
        return wrong(
            16,
            format!("the segment before it, {}, is missing", header.number - 1),
        );
    }
    if header.journal != before.journal {
        return wrong(24, "it belongs to another journal".to_owned());
    }
    if header.predecessor.map(|predecessor| predecessor.number) != Some(before.number) {
        return wrong(64, "it does not follow the segment before it".to_owned());
    }
    Ok(())
}

/// Where the segment `number` ends, as the header of its successor says.
fn valid_end_of(storage: &dyn Storage, successor: u64, number: u64) -> Result<u64, OpenError> {
    let name = segment::name(successor);
    let failed = |error| OpenError::from_io(storage.path(&name), error);
    let mut bytes = [0; HEADER_BYTES];
    let count = storage
        .open(&name)
        .and_then(|file| file.read_at(&mut bytes, 0))
        .map_err(failed)?;
    let header = parse_header(storage, successor, bytes.get(..count).unwrap_or_default())?;
    match header.predecessor {
        Some(predecessor) if predecessor.number == number => Ok(predecessor.valid_end),
        _ => Err(damaged(
            storage,
            successor,
            64,
            format!("it does not follow segment {number}"),
        )),
    }
}

/// Reads a segment's commits, up to `end` where that is known, and returns where they end.
fn scan(
    storage: &dyn Storage,
    segment: &Segment,
    end: Option<u64>,
    found: &mut Findings,
) -> Result<(u64, Option<Cut>), OpenError> {
    let number = segment.header.number;
    let seed = Seed::of(segment.header.journal);
    let known_end = end.and_then(|end| usize::try_from(end).ok());
    let mut offset = HEADER_BYTES;
    loop {
        if known_end == Some(offset) {
            return Ok((offset as u64, None));
        }
        let commit = segment.header.first_commit + found.commits;
        let tail = segment
            .bytes
            .get(offset..known_end.unwrap_or(segment.bytes.len()))
            .unwrap_or_default();
        let Some(payload) = commit_at(tail, seed, number, commit) else {
            if known_end.is_some() {
                return Err(damaged(
                    storage,
                    number,
                    offset as u64,
                    format!("commit {commit} is not valid"),
                ));
            }
            return torn_tail(storage, segment, offset, seed, commit);
        };
        let first = offset + FRAME_HEADER_BYTES;
        take_records(payload, number, first, found).map_err(|error| match error {
            RecordError::Malformed(reason) => damaged(storage, number, first as u64, reason),
            RecordError::Newer(kind) => OpenError::Newer {
                file: storage.path(&segment::name(number)),
                version: u32::from(kind),
            },
        })?;
        found.commits += 1;
        offset = first + payload.len();
    }
}

/// The payload of the commit of that number at the front of `bytes`, if there is a valid one.
fn commit_at(bytes: &[u8], seed: Seed, segment: u64, commit: u64) -> Option<&[u8]> {
    let (header, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let header = FrameHeader::parse(header)?;
    let payload = rest.get(..usize::try_from(header.payload_bytes).ok()?)?;
    (header.segment == segment && header.commit == commit && header.matches(seed, payload)).then_some(payload)
}

/// What follows the last valid commit of the newest segment: nothing, a torn commit, or damage.
fn torn_tail(
    storage: &dyn Storage,
    segment: &Segment,
    offset: usize,
    seed: Seed,
    expected: u64,
) -> Result<(u64, Option<Cut>), OpenError> {
    let number = segment.header.number;
    let tail = segment.bytes.get(offset..).unwrap_or_default();
    let Some(last) = tail.iter().rposition(|byte| *byte != 0) else {
        return Ok((offset as u64, None));
    };
    let tail = tail.get(..=last).unwrap_or_default();
    let later = tail
        .windows(MAGIC_BYTES.len())
        .enumerate()
        .find_map(|(at, magic)| {
            if magic == MAGIC_BYTES {
                later_commit(tail.get(at..)?, seed, number, expected)
            } else {
                None
            }
        });
    match later {
        Some(later) => Err(damaged(
            storage,
            number,
            offset as u64,
            format!("commit {expected} is not valid, and commit {later} after it is"),
        )),
        None => Ok((
            offset as u64,
            Some(Cut {
                segment: number,
                offset: offset as u64,
                bytes: tail.to_vec(),
            }),
        )),
    }
}

/// The number of the valid commit at the front of `bytes`, if it is not older than `expected`.
fn later_commit(bytes: &[u8], seed: Seed, segment: u64, expected: u64) -> Option<u64> {
    let (header, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let header = FrameHeader::parse(header).filter(|header| header.segment == segment)?;
    let payload = rest.get(..usize::try_from(header.payload_bytes).ok()?)?;
    (header.commit >= expected && header.matches(seed, payload)).then_some(header.commit)
}

fn take_records(
    mut payload: &[u8],
    segment: u64,
    mut offset: usize,
    found: &mut Findings,
) -> Result<(), RecordError> {
    while !payload.is_empty() {
        let (record, rest) = RawRecord::split(payload)?;
        match record.decode()? {
            Record::Push(head) => {
                let position = Position {
                    segment,
                    offset: u32::try_from(offset).unwrap_or(u32::MAX),
                };
                if let Some(key) = EventKey::of(head.event_id) {
                    found.ids.push(Found {
                        key,
                        taken_at: head.taken_at,
                        segment,
                    });
                }
                let sequence = head.sequence;
                found.highest = found.highest.max(Some(sequence));
                let push = head.to_push(super::record::EndpointRef::to_id)?;
                found.pending.insert(
                    sequence,
                    Durable {
                        sequence,
                        position,
                        push,
                    },
                );
            }
            Record::Settled {
                sequence, endpoint, ..
            } => {
                let endpoint = endpoint.to_id()?;
                if let Some(durable) = found.pending.get_mut(&sequence) {
                    durable.push.owed.retain(|owed| *owed != endpoint);
                    if durable.push.owed.is_empty() {
                        found.pending.remove(&sequence);
                    }
                }
            }
            Record::EventIds(ids) => {
                for id in ids {
                    let (key, taken_at) = id?;
                    found.ids.push(Found {
                        key,
                        taken_at,
                        segment,
                    });
                }
            }
        }
        offset += payload.len() - rest.len();
        payload = rest;
    }
    Ok(())
}

fn cut_name(cut: &Cut) -> String {
    format!("cut-{:016}-{}", cut.segment, cut.offset)
}

fn save(storage: &dyn Storage, cut: &Cut) -> io::Result<()> {
    let file = storage.create(&cut_name(cut))?;
    file.write_all_at(&cut.bytes, 0)?;
    file.sync_data()?;
    storage.sync_dir()
}
