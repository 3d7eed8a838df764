//! The journal: every unsettled push, durable before it is acknowledged.
//!
//! # On disk
//! One directory of *segments*, numbered without a gap, each a header and *commits* one behind the other
//! (`segment.rs`). A commit is one framed unit, on disk whole or not at all (`frame.rs`), and holds
//! *records* (`record.rs`): pushes, settlements, and event ids whose first home is about to be deleted.
//! Beside the segments there are `lock`, held by the process that has the journal open; `spare`, zeros for
//! the next segment; and `cut-<segment>-<offset>`, what a torn write left behind, kept for people.
//!
//! # Invariants
//! 1. [`Journal::append`] resolves with `Ok` only after the fdatasync that covers it returned. The writer
//!    waits on no timer for more to come: what is queued when the disk is free is the next commit.
//! 2. Sequence numbers are given in the order of the file, never twice; pushes are applied in that order,
//!    on the writer's thread, before anybody is answered.
//! 3. A commit is valid only in its own journal, segment and place, and zeros are no commit; so stale bytes
//!    never come back to life. A bad commit with a valid one behind it, or before an end that a successor's
//!    header vouches for, is damage and refuses the start. Only a bad *last* commit is cut, and saved
//!    beside. Nothing is ever appended behind a cut: each start begins a fresh segment.
//! 4. Segments are deleted from the oldest end only, once nothing in them is owed; a settlement thus
//!    outlives the push it settles.
//! 5. A failed write or fsync is final for its file. What waited for it is not acknowledged, and the next
//!    segment's header names an end before it, so that it can't come back. Settlements not yet synced are
//!    written again.
//!
//! # What each verb survives
//! | verb | kill -9 | power loss |
//! |---|---|---|
//! | [`Journal::append`], resolved | yes | yes |
//! | [`Journal::settle`] | once the writer's thread has written it, at once when the disk is free | after 100 ms at most |
//! | [`Journal::close`], resolved | yes | yes |

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use crate::{
    clock::Clock,
    push::{Change, EndpointId, Item, Push, Sequence, Settlement},
};

mod codec;
#[cfg(test)]
mod faulty;
mod frame;
mod inbox;
mod recent;
mod record;
mod recovery;
mod segment;
mod storage;
#[cfg(test)]
mod tests;
mod writer;

use frame::Seed;
use inbox::{Append, Inbox, Prepared, Settle};
use record::{RECORD_HEADER_BYTES, RawRecord, Record};
use storage::{Disk, Storage, StorageFile};
pub use writer::Writer;

/// The random identity a journal got when it was made: 128 bits, part of every `webhook-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JournalId(pub [u8; 16]);

/// Where a push's record stands: segment number and byte offset within that segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// Byte offset of the record in the segment's file.
    pub offset: u32,
}

/// A push that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Its place in the order of all pushes.
    pub sequence: Sequence,
    /// Where to read it back.
    pub position: Position,
    /// The push; at recovery, `owed` holds only the endpoints that are not settled.
    pub push: Push,
}

/// What the applier is given, in order: what became durable, and the changes that came between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A push became durable.
    Push(Durable),
    /// A change's turn has come.
    Change(Change),
}

/// Takes what was applied, in order, on the writer's thread.
pub type Applier = Box<dyn FnMut(Vec<Applied>) + Send>;

/// The journal's settings.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a segment; at least 1 MiB in production, less in tests.
    pub segment_size: u64,
    /// Bytes of all segments together.
    pub max_size: u64,
    /// Whether segments are filled with zeros before they are used: a commit then syncs faster.
    pub prefill: bool,
}

/// How an append went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Pushes that were written now.
    pub taken: usize,
    /// Pushes whose event id was taken before; they are durable, and not queued again.
    pub duplicates: usize,
}

/// Why an append was not acknowledged. None of its pushes counts as taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The journal is at `journal.max_size`.
    #[error("the journal is full: {bytes} of at most {bytes_max} bytes (journal.max_size)")]
    Full {
        /// Bytes in use.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// More is waiting to be written than memory should hold.
    #[error("the journal's writer is behind: {bytes} bytes wait to be written")]
    Behind {
        /// Bytes that wait.
        bytes: usize,
    },
    /// One append is larger than a segment.
    #[error("{bytes} bytes of pushes in one envelope do not fit in a segment (journal.segment_size)")]
    TooLarge {
        /// Bytes of its records.
        bytes: usize,
    },
    /// The disk refused.
    #[error("the journal can't be written: {0}")]
    Io(String),
    /// The journal is closing.
    #[error("the journal is closing")]
    Closed,
}

/// Why the journal can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another shipbell; one data_dir serves one process", directory.display())]
    Locked {
        /// The journal's directory.
        directory: PathBuf,
    },
    /// The journal is damaged in a way that a crash can't explain; nothing was changed.
    #[error(
        "{} is damaged at byte {offset}: {reason}. Nothing was changed. What is before that byte is whole; keep a copy of \
         the journal's directory, then run `shipbell journal repair` (from the version that has it), or restore the file",
        file.display()
    )]
    Damaged {
        /// The damaged segment.
        file: PathBuf,
        /// Where it stops making sense.
        offset: u64,
        /// In which way.
        reason: String,
    },
    /// A newer shipbell wrote it.
    #[error("{} was written by a newer shipbell (format {version}); run that version, or another data_dir", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// What it has that this version doesn't know.
        version: u32,
    },
    /// The file system doesn't let us.
    #[error("{}: permission denied; the journal's directory belongs to the user that runs shipbell", path.display())]
    Permission {
        /// What was tried.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("{}: {error}", path.display())]
    Io {
        /// What was tried.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
}

impl OpenError {
    fn from_io(path: PathBuf, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { path },
            _ => Self::Io { path, error },
        }
    }
}

/// Whether pushes can be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// They can.
    Ready,
    /// Not now: the disk is full. It is tried again, on its own.
    NoSpace(String),
    /// Not any more, not in this process.
    Failed(String),
    /// The journal was closed.
    Closed,
}

/// What recovery did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments read.
    pub segments: usize,
    /// Commits read.
    pub commits: u64,
    /// Pushes that are still owed.
    pub pending: usize,
    /// Event ids remembered.
    pub remembered_ids: usize,
    /// Where the torn tail was saved, and its size in bytes, if there was one.
    pub cut: Option<(PathBuf, usize)>,
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segment files.
    pub segments: u64,
    /// Bytes of commits and headers in them.
    pub bytes: u64,
    /// Pairs of push and endpoint that are not settled.
    pub live: u64,
}

/// An open journal, its writer not yet started.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub journal: Journal,
    /// What is owed, by sequence number.
    pub pending: Vec<Durable>,
    /// The writer; start it once `pending` is in the queues.
    pub writer: Writer,
    /// What recovery did.
    pub report: RecoveryReport,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Journal(Arc<Shared>);

struct Shared {
    id: JournalId,
    seed: Seed,
    segment_size: u64,
    inbox: Inbox,
    files: Mutex<HashMap<u64, Arc<dyn StorageFile>>>,
    stats: Mutex<Stats>,
    health: watch::Sender<Health>,
    fsync: Mutex<Option<Box<dyn Fn(Duration) + Send>>>,
}

impl Journal {
    /// Opens the journal in `directory`, or makes one there. Blocks on the disk.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing but a torn tail is ever changed.
    pub fn open(directory: &Path, options: Options, clock: Clock) -> Result<Opened, OpenError> {
        Self::open_on(Arc::new(Disk::open(directory)?), options, clock)
    }

    fn open_on(storage: Arc<dyn Storage>, options: Options, clock: Clock) -> Result<Opened, OpenError> {
        let mut recovered = recovery::recover(&storage, options, &clock)?;
        let (pending, report) = (
            std::mem::take(&mut recovered.pending),
            std::mem::take(&mut recovered.report),
        );
        let shared = Arc::new(Shared {
            id: recovered.id,
            seed: Seed::of(recovered.id),
            segment_size: options.segment_size,
            inbox: Inbox::default(),
            files: Mutex::default(),
            stats: Mutex::default(),
            health: watch::Sender::new(Health::Ready),
            fsync: Mutex::default(),
        });
        let writer = Writer::new(Arc::clone(&shared), storage, options, clock, recovered, &pending);
        Ok(Opened {
            journal: Self(shared),
            pending,
            writer,
            report,
        })
    }

    /// This journal's identity.
    #[must_use]
    pub fn id(&self) -> JournalId {
        self.0.id
    }

    /// Makes the pushes durable, in order, all or none; resolves once they are, and were applied. Changes
    /// are applied in their place among them, and never written.
    ///
    /// The append is under way from the call on, whether or not the future is polled or dropped.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(
        &self,
        items: Vec<Item>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + use<> {
        let (done, answer) = oneshot::channel();
        let items: Vec<Prepared> = items.into_iter().map(Prepared::from).collect();
        let bytes = items.iter().map(Prepared::bytes).sum::<usize>();
        let room = usize::try_from(self.0.segment_size).unwrap_or(usize::MAX);
        let refused = if bytes.saturating_add(segment::HEADER_BYTES + frame::FRAME_HEADER_BYTES) > room {
            Some(AppendError::TooLarge { bytes })
        } else {
            self.0.inbox.append(Append { items, bytes, done }).err()
        };
        async move {
            match refused {
                Some(error) => Err(error),
                // A writer that is gone without an answer took nothing.
                None => answer.await.unwrap_or(Err(AppendError::Closed)),
            }
        }
    }

    /// Records that `endpoint` owes the push no longer. Written at once, synced within 100 ms.
    pub fn settle(&self, sequence: Sequence, position: Position, endpoint: &EndpointId, how: Settlement) {
        self.0.inbox.settle(Settle {
            sequence,
            segment: position.segment,
            endpoint: endpoint.clone(),
            how,
        });
    }

    /// Reads pushes back. Blocks on the disk.
    ///
    /// # Errors
    /// The record can't be read, or is not what was written.
    pub fn read(&self, positions: &[Position]) -> io::Result<Vec<Push>> {
        positions
            .iter()
            .map(|position| self.read_one(*position))
            .collect()
    }

    fn read_one(&self, position: Position) -> io::Result<Push> {
        let gone = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("segment {} is gone", position.segment),
            )
        };
        let file = self
            .0
            .files()
            .get(&position.segment)
            .map(Arc::clone)
            .ok_or_else(gone)?;
        let damaged = || {
            let place = format!(
                "no push at byte {} of segment {}",
                position.offset, position.segment
            );
            io::Error::new(io::ErrorKind::InvalidData, place)
        };
        let mut bytes = vec![0; RECORD_HEADER_BYTES];
        file.read_at(&mut bytes, position.offset.into())?;
        let body = record::body_bytes(&bytes).map_err(|_| damaged())?;
        if body as u64 > self.0.segment_size {
            return Err(damaged());
        }
        bytes.resize(RECORD_HEADER_BYTES + body, 0);
        file.read_at(&mut bytes, position.offset.into())?;
        let (raw, _) = RawRecord::split(&bytes).map_err(|_| damaged())?;
        let record = raw.is_intact(self.0.seed).then(|| raw.decode());
        match record {
            Some(Ok(Record::Push(head))) => head.to_push(record::EndpointRef::to_id).map_err(|_| damaged()),
            _ => Err(damaged()),
        }
    }

    /// Whether pushes can be taken.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.health.borrow().clone()
    }

    /// Waits until the journal has failed for good, and tells why. Never resolves for one that is closed.
    pub async fn failed(&self) -> String {
        let mut health = self.0.health.subscribe();
        loop {
            if let Health::Failed(reason) = &*health.borrow_and_update() {
                return reason.clone();
            }
            if health.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *self.0.stats()
    }

    /// Calls `told` with the duration of each commit's fdatasync, on the writer's thread.
    pub fn on_fsync(&self, told: impl Fn(Duration) + Send + 'static) {
        *self.0.fsync.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(told));
    }

    /// Takes nothing more, writes and syncs what waits, and ends the writer's thread.
    pub async fn close(&self) {
        self.0.inbox.close();
        let mut health = self.0.health.subscribe();
        let ended = |health: &Health| matches!(health, Health::Closed | Health::Failed(_));
        drop(health.wait_for(ended).await);
    }
}

impl Shared {
    fn files(&self) -> MutexGuard<'_, HashMap<u64, Arc<dyn StorageFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}
