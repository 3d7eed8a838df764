//! Settlements between being told and being durable.
//!
//! A settlement rides with the next commit. When none comes, it waits up to [`SYNC_WITHIN`] for one of its
//! own, so that a stream of them doesn't cost an fsync each; until then it stands in the file `settling`,
//! written and not synced, which is enough to survive `kill -9`. So every commit in a segment is durable
//! before the next one is written, and a bad commit with a valid one behind it is damage without doubt: two
//! commits under one fsync could be torn in the wrong order by a power loss, and look just the same.
//!
//! The file holds plain records from its beginning on; the first one that is not intact ends it. It is
//! written from the beginning again once all it held is committed, so older records may follow the current
//! ones; as a settlement is never taken back, reading those again changes nothing. Recovery commits what it
//! finds there and removes the file before anything else is taken: sequence numbers that a cut gave back
//! must not meet settlements of their earlier owners.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::storage::{Storage, StorageFile};

/// The file's name.
pub(super) const SETTLING: &str = "settling";

/// How long a settlement waits for a commit to ride with.
pub(super) const SYNC_WITHIN: Duration = Duration::from_millis(100);

/// More bytes than this don't wait any longer, and no more than this are written to the file.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// One encoded settlement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// Where the push stands that it settles.
    pub(super) segment: u64,
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
    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// How many settlements, and how many bytes of them, fit into `room` bytes.
    pub(super) fn fitting(&self, room: usize) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for mark in &self.marks {
            if bytes + mark.bytes > room {
                break;
            }
            bytes += mark.bytes;
            count += 1;
        }
        (count, bytes)
    }
}

/// The settlements that are not durable yet, and the file that holds them meanwhile.
#[derive(Debug)]
pub(super) struct Settling {
    storage: Arc<dyn Storage>,
    backlog: Backlog,
    since: Option<Instant>,
    /// How many of the backlog's bytes stand in the file.
    filed: usize,
    file: FileState,
    file_end: u64,
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
    pub(super) fn new(storage: Arc<dyn Storage>, backlog: Backlog, file_end: u64) -> Self {
        Self {
            storage,
            since: (!backlog.is_empty()).then(Instant::now),
            filed: backlog.bytes.len(),
            backlog,
            file: FileState::Absent,
            file_end,
        }
    }

    pub(super) fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Takes over what was told meanwhile, and leaves `told` empty.
    pub(super) fn take(&mut self, told: &mut Backlog) {
        if told.is_empty() {
            return;
        }
        self.since.get_or_insert_with(Instant::now);
        self.backlog.bytes.append(&mut told.bytes);
        self.backlog.marks.append(&mut told.marks);
    }

    /// When these must be durable.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let since = self.since?;
        if matches!(self.file, FileState::Failed) || self.backlog.bytes.len() as u64 >= FILE_BYTES_MAX {
            return Some(since);
        }
        Some(since + SYNC_WITHIN)
    }

    /// Writes what is not in the file yet.
    pub(super) fn file(&mut self) {
        let unfiled = self.backlog.bytes.get(self.filed..).unwrap_or_default();
        if unfiled.is_empty() || self.file_end + unfiled.len() as u64 > FILE_BYTES_MAX {
            return;
        }
        if let Err(error) = write(&*self.storage, &mut self.file, unfiled, self.file_end) {
            tracing::warn!(file = SETTLING, %error, "settlements can't be kept beside the journal; each is committed at once");
            self.file = FileState::Failed;
            return;
        }
        self.file_end += unfiled.len() as u64;
        self.filed = self.backlog.bytes.len();
    }

    /// Says that the first `count` settlements, `bytes` long, are durable, and returns them.
    pub(super) fn committed(&mut self, count: usize, bytes: usize) -> impl Iterator<Item = Mark> {
        self.backlog.bytes.drain(..bytes.min(self.backlog.bytes.len()));
        self.filed = self.filed.saturating_sub(bytes);
        let count = count.min(self.backlog.marks.len());
        if count == self.backlog.marks.len() {
            self.since = None;
            self.file_end = 0;
        }
        self.backlog.marks.drain(..count)
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
