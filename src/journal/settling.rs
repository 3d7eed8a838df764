//! Settlements between being told and being durable.
//!
//! A settlement rides with the next commit. When none comes, it waits up to [`SYNC_WITHIN`] for one of its
//! own, so that a stream of them doesn't cost an fsync each; until then it stands in the file `settling`,
//! written by a thread that does nothing else and not synced, which is enough to survive `kill -9`. So every commit in a
//! segment is durable before the next one is written, and a bad commit with a valid one behind it is damage
//! without doubt: two commits under one fsync could be torn in the wrong order by a power loss, and look just
//! the same.
//!
//! The file holds plain records from its beginning on; the first one that is not intact ends it. It is
//! written from the beginning again once all it held is committed, so older records may follow the current
//! ones; as a settlement is never taken back, reading those again changes nothing. Recovery commits what it
//! finds there and removes the file before anything else is taken. Of pushes that a cut took along, it passes over the
//! sequence numbers: no other push meets settlements of theirs.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    frame::Seed,
    record,
    storage::{Storage, StorageFile, will_pass},
    time::now,
    unsettled::Unsettled,
};
use crate::push::{Pair, Sequence, Settlement};

/// The file's name.
pub(super) const SETTLING: &str = "settling";

/// How long a settlement waits for a commit to ride with.
pub(super) const SYNC_WITHIN: Duration = Duration::from_millis(100);

/// More bytes than this don't wait any longer, and no more than this are written to the file, or read from it.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The bytes of the file, as many as may be records; none if there is no file. What stands behind those nobody wrote.
pub(super) fn read(storage: &dyn Storage) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open(SETTLING) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.size()?;
    if size > FILE_BYTES_MAX {
        tracing::warn!(
            file = %storage.path(SETTLING).display(), bytes = size, bytes_max = FILE_BYTES_MAX,
            "the file of settlements is longer than it can have become; what is behind that is not read"
        );
    }
    let mut bytes = vec![0; usize::try_from(size.min(FILE_BYTES_MAX)).unwrap_or_default()];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// One encoded settlement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) pair: Pair,
    /// Length of its record.
    pub(super) bytes: usize,
}

/// Encoded settlements, in order.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) bytes: Vec<u8>,
    pub(super) marks: VecDeque<Mark>,
}

impl Backlog {
    pub(super) fn push(&mut self, seed: Seed, pair: Pair, how: Settlement) {
        let start = self.bytes.len();
        record::put_settled(&mut self.bytes, seed, pair, how);
        let bytes = self.bytes.len() - start;
        self.marks.push_back(Mark { pair, bytes });
    }

    /// How many settlements, and how many bytes of them, fit into `room` bytes.
    fn fitting(&self, room: usize) -> Fitting {
        let mut fitting = Fitting::default();
        for mark in &self.marks {
            if fitting.bytes + mark.bytes > room {
                break;
            }
            fitting.bytes += mark.bytes;
            fitting.count += 1;
        }
        fitting
    }
}

/// The first settlements of the backlog.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fitting {
    pub(super) count: usize,
    /// Bytes of their records.
    pub(super) bytes: usize,
}

/// What telling a settlement came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It waits with others, which the writer knows of.
    More,
    /// The writer has to know of it.
    News,
    /// The journal has ended.
    TooLate,
}

/// The settlements that are not durable yet, and the file that holds them meanwhile.
#[derive(Debug)]
pub(super) struct Settling {
    storage: Arc<dyn Storage>,
    seed: Seed,
    /// What a start that had no space left uncommitted: settled all the same.
    left_over: HashMap<Sequence, Vec<u16>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    backlog: Backlog,
    since: Option<Instant>,
    /// How many of the backlog's bytes stand in the file.
    filed: usize,
    file: FileState,
    file_end: u64,
    has_ended: bool,
}

#[derive(Debug)]
enum FileState {
    Absent,
    Open(Arc<dyn StorageFile>),
    /// A write failed: settlements go into commits at once.
    Failed,
}

impl Settling {
    /// Begins with what recovery found to be settled but not committed; `file_end` is how much of the file
    /// that takes, 0 when there is no file.
    pub(super) fn new(storage: Arc<dyn Storage>, seed: Seed, backlog: Backlog, file_end: u64) -> Self {
        let mut left_over: HashMap<_, Vec<_>> = HashMap::new();
        for Mark { pair, .. } in &backlog.marks {
            left_over.entry(pair.sequence).or_default().push(pair.place);
        }
        let state = State {
            since: (!backlog.marks.is_empty()).then(now),
            filed: backlog.bytes.len(),
            backlog,
            file: FileState::Absent,
            file_end,
            has_ended: false,
        };
        Self {
            storage,
            seed,
            left_over,
            state: Mutex::new(state),
        }
    }

    /// Every change is whole before anything can panic, so a poisoned lock guards sound data.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes settlements, and writes them to the file: they survive `kill -9` when this returns.
    pub(super) fn tell(&self, settlements: impl IntoIterator<Item = (Pair, Settlement)>) -> Told {
        let mut state = self.lock();
        if state.has_ended {
            return Told::TooLate;
        }
        let was_due = state.due_at();
        for (pair, how) in settlements {
            state.backlog.push(self.seed, pair, how);
        }
        if !state.backlog.marks.is_empty() {
            state.since.get_or_insert_with(now);
        }
        state.file(&*self.storage);
        if state.due_at() == was_due {
            Told::More
        } else {
            Told::News
        }
    }

    /// Strikes out which of a push's pairs were settled before the start, although no commit says so yet.
    pub(super) fn strike_out(&self, sequence: Sequence, unsettled: &mut Unsettled) {
        if self.left_over.is_empty() {
            return;
        }
        for place in self.left_over.get(&sequence).into_iter().flatten() {
            unsettled.settle(*place);
        }
    }

    /// When these must be durable.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.lock().due_at()
    }

    /// Whether they wait for longer than they should, or more than `bytes_max` bytes do.
    pub(super) fn is_behind(&self, bytes_max: usize) -> bool {
        let state = self.lock();
        let is_late = state.since.is_some_and(|since| since + 2 * SYNC_WITHIN <= now());
        is_late || state.backlog.bytes.len() > bytes_max
    }

    /// How many settlements wait.
    pub(super) fn len(&self) -> usize {
        self.lock().backlog.marks.len()
    }

    /// The first settlements that fit into `room` bytes.
    pub(super) fn fitting(&self, room: usize) -> Fitting {
        self.lock().backlog.fitting(room)
    }

    /// Length of the first settlement's record; 0 if there is none.
    pub(super) fn first_bytes(&self) -> usize {
        self.lock().backlog.marks.front().map_or(0, |mark| mark.bytes)
    }

    /// Appends the records of the first settlements.
    pub(super) fn put(&self, out: &mut Vec<u8>, fitting: Fitting) {
        let state = self.lock();
        out.extend_from_slice(state.backlog.bytes.get(..fitting.bytes).unwrap_or_default());
    }

    /// Says that the first settlements are durable, and returns them.
    pub(super) fn committed(&self, fitting: Fitting) -> Vec<Pair> {
        let mut state = self.lock();
        let bytes = fitting.bytes.min(state.backlog.bytes.len());
        let count = fitting.count.min(state.backlog.marks.len());
        state.backlog.bytes.drain(..bytes);
        state.filed = state.filed.saturating_sub(bytes);
        let pairs = state.backlog.marks.drain(..count).map(|mark| mark.pair).collect();
        if state.backlog.marks.is_empty() {
            state.since = None;
            state.file_end = 0;
        } else if state.file_end > FILE_BYTES_MAX / 2 && 2 * state.filed as u64 <= state.file_end {
            // So many come that it is never empty: what is still needed is written from the beginning again,
            // over what is committed.
            state.filed = 0;
            state.file_end = 0;
        }
        // What did not fit into the file may fit now.
        state.file(&*self.storage);
        pairs
    }

    /// Takes nothing more. Tells how many settlements are not durable.
    pub(super) fn end(&self) -> usize {
        let mut state = self.lock();
        state.has_ended = true;
        state.backlog.marks.len()
    }
}

impl State {
    fn due_at(&self) -> Option<Instant> {
        let since = self.since?;
        if matches!(self.file, FileState::Failed) || self.backlog.bytes.len() as u64 >= FILE_BYTES_MAX {
            return Some(since);
        }
        Some(since + SYNC_WITHIN)
    }

    /// Writes what is not in the file yet.
    fn file(&mut self, storage: &dyn Storage) {
        let unfiled = self.backlog.bytes.get(self.filed..).unwrap_or_default();
        if unfiled.is_empty() || self.file_end + unfiled.len() as u64 > FILE_BYTES_MAX {
            return;
        }
        if let Err(error) = write(storage, &mut self.file, unfiled, self.file_end) {
            // This passes by itself: what is missing in the file is written with the next one told.
            if !will_pass(&error) {
                tracing::warn!(file = SETTLING, %error, "settlements can't be kept beside the journal; each is committed at once");
                self.file = FileState::Failed;
            }
            return;
        }
        self.file_end += unfiled.len() as u64;
        self.filed = self.backlog.bytes.len();
    }
}

fn write(storage: &dyn Storage, state: &mut FileState, bytes: &[u8], offset: u64) -> io::Result<()> {
    let file = match state {
        FileState::Open(file) => Arc::clone(file),
        FileState::Failed => return Ok(()),
        FileState::Absent => {
            let file = match storage.open(SETTLING) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => storage.create(SETTLING)?,
                other => other?,
            };
            *state = FileState::Open(Arc::clone(&file));
            file
        }
    };
    file.write_all_at(bytes, offset)
}
