//! The journal: every unsettled push, durable before it is acknowledged.
//!
//! # What each verb survives
//!
//! | verb | once it returned or resolved `Ok` | before |
//! |---|---|---|
//! | [`Journal::append`] | survives everything but the loss of the disk | all of the append is found again, or none |
//! | [`Journal::settle`] | survives `kill -9`, and power loss after 100 ms | the pair is found unsettled, and all that were told after it |
//! | [`Journal::close`] | all that was told is durable | as above |
//!
//! A failed write or fsync is final for its file: no append in that commit is acknowledged, and a fresh
//! segment is begun whose header cuts the failed commit off. Should even that fail, a full disk, or a want of
//! open files or memory to open a file with, makes the journal refuse appends until there is some
//! ([`Health::NoSpace`]); anything else ends it ([`Health::Failed`]).
//!
//! # Files
//!
//! One directory, mode 0700, files 0600, one process at a time (an advisory lock on `lock`, and one on the
//! directory):
//!
//! | file | what |
//! |---|---|
//! | `0000000000000042.segment` | segment 42 |
//! | `spare`, `large` | a segment in the making: zeros, then a header, then renamed. Removed at a start |
//! | `settling` | settlements told but not yet committed, see [`settling`] |
//! | `cut-0000000000000042-4096` | what was cut off segment 42 at offset 4096. Kept, never read |
//! | `repair-20261123T090838.473Z-…` | what a repair at that time moved aside, whole, under its name before. Never read |
//! | `lock` | empty |
//!
//! # Format, version 1
//!
//! A segment is a header of 128 bytes ([`segment`]), then commits without gaps, each a frame ([`frame`])
//! around records ([`record`]), then zeros, or the end of the file. Segment numbers have no gaps. All
//! integers are little-endian. No run of zeros is a valid header, frame or record. A frame names its
//! segment and its own number, and its checksum begins with the journal's random identity: bytes of
//! another segment, another time or another journal are never taken for a commit.
//!
//! # Invariants
//!
//! 1. `append` resolves `Ok` only after the fsync of the commit that holds its pushes, and after the applier
//!    was given them. The applier gets everything in the order of the sequence numbers; changes pass through
//!    it in their place and are not written.
//! 2. Sequence numbers are given in the order of commits, begin with 1 and have no gaps within a segment. Between two
//!    the header of the later one may pass over some, which pushes may have had that a start found to be gone. Those of
//!    a failed commit, which nobody has seen, are given again. Each segment's header holds the next one, so they are
//!    not reused when all older segments are gone.
//! 3. A commit is written only when every one before it is durable. So only the last commit of the newest
//!    segment can be torn; it is cut, saved beside, and reported. A bad commit with a valid one after it, or
//!    in an older segment, is damage: the journal is not opened.
//! 4. Nothing is ever appended behind a cut: every start, and every failed commit, begins a fresh segment.
//!    Its header names where its predecessor validly ends; what stands behind that is ignored for ever.
//!    Once a segment's header may be on disk, its predecessor takes no more commits.
//! 5. Segments are deleted from the oldest on, one at a time, each durably, and only when nothing in it is live:
//!    each push in it is settled, or was carried forward with the pairs that are not, and so were the event ids
//!    that only it remembered ([`carry`]). A copy keeps its sequence number.
//! 6. Within a commit, copies that were carried forward stand before settlements: these hold for the copies.
//! 7. The index ([`live`]) says where the last copy of each push stands that is still owed, and changes only
//!    once the commit that says so is durable.
//!
//! The order of steps at a start is told in [`recovery`]. Tools look at a journal without opening it
//! ([`inspect`], [`verify()`]), or mend it ([`repair`]).

use std::{
    fmt,
    future::Future,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use data_encoding::HEXLOWER;
use tokio::sync::{oneshot, watch};

use crate::{
    clock::Clock,
    locked::Locked as _,
    push::{Item, Notice, Pair, Push, Sequence, Settlement},
};

mod ahead;
mod carry;
mod chain;
mod codec;
mod cut;
mod delivered;
mod ended;
mod error;
mod examine;
mod extract;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), expect(dead_code, reason = "fuzzing asks for no faults"))]
#[expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a double: it may panic as tests may"
)]
mod faulty;
mod flight;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod group;
mod hand_over;
mod holder;
mod inbox;
mod inspect;
mod ledger;
mod live;
mod notes;
mod oldest;
mod owed;
mod progress;
mod reader;
mod reading;
mod rebuild;
mod recent;
mod record;
mod recovery;
mod repair;
mod replay;
mod scan;
mod segment;
mod segments;
mod settler;
mod settling;
mod spare;
mod status;
mod storage;
mod strands;
mod stuck;
mod sum;
mod survey;
#[cfg(test)]
mod tests;
mod time;
mod unsettled;
mod verify;
mod writer;

pub use cut::Cut;
pub use ended::{EndedLately, EndedPush};
pub use error::{AppendError, OpenError, ToolError, repair_command};
pub use examine::{Finding, Progress, SegmentFigures, Torn};
pub use hand_over::{OwedBy, OwedPush, OwedRun};
pub use holder::{Holder, holder};
pub use inspect::{Content, Filter, Inspection, OtherFile, RecordView, inspect, records};
pub use notes::{DeliveredPush, Notes};
pub use owed::{Owed, Unreadable};
pub use repair::{Identity, Plan, Purpose, Repair, Repaired};
pub use settler::Written;
pub use status::{Health, RecoveryReport, Stats};
pub(crate) use storage::will_pass;
pub use stuck::Damage;
pub use verify::{Verification, verify};
pub use writer::{Applier, Writer};

use frame::Seed;
use inbox::{APPEND_BYTES_MAX, Admits, Answer, Append, Inbox};
use live::Live;
use recent::Recent;
use segments::Segments;
use settler::Settler;
use settling::{Caller, Settling, Told};
use storage::{Disk, Storage};

/// The journal's directory within the data directory.
pub const DIRECTORY: &str = "journal";

/// So many records, or pushes, are looked up together before anything is done with the first: what a processor has to fetch
/// for one is on its way while it looks for the others.
const TOGETHER: usize = 32;

/// The random identity a journal got when it was made: 128 bits, part of every `webhook-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JournalId(pub [u8; 16]);

/// 32 hexadecimal digits.
impl JournalId {
    /// The identity that was displayed so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = HEXLOWER.decode(text.as_bytes()).ok()?;
        id.try_into().ok().map(Self)
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

/// A push that is durable, and owed by all of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Its place in the order of all pushes.
    pub sequence: Sequence,
    /// What it takes on disk, bytes.
    pub bytes: u32,
    /// The push.
    pub push: Push,
}

/// What the applier is given, in order: what became durable, and the changes that came between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A push became durable.
    Push(Durable),
    /// A change's turn has come.
    Change(Notice),
}

/// How large the journal and its files may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a segment file, in bytes; at most 1 GiB. An append that needs more gets a larger one.
    pub segment_size: u32,
    /// Bound on all segments, in bytes, past which appends are refused; at least 4 segments. One segment
    /// of it is kept for settlements, which are written whatever the bound says; event ids that are remembered take an
    /// eighth of it at most.
    pub max_size: u64,
}

/// A journal as it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub journal: Journal,
    /// The writer, to be started once what is still owed is where it belongs.
    pub writer: Writer,
    /// What was noted of the pushes, to hand over what is still owed ([`Notes::hand_over`]).
    pub notes: Notes,
    /// What the start found.
    pub report: RecoveryReport,
}

/// What handles and writer share.
#[derive(Debug)]
struct Shared {
    id: JournalId,
    seed: Seed,
    storage: Arc<dyn Storage>,
    inbox: Inbox,
    settling: Settling,
    settler: Settler,
    live: Mutex<Live>,
    health: watch::Sender<Health>,
    stats: Mutex<Stats>,
    oldest: oldest::Known,
}

impl Shared {
    /// Every change of the index is whole before anything can panic.
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.locked()
    }

    fn tell(&self, health: Health) {
        self.health.send_if_modified(|told| {
            let is_news = *told != health;
            *told = health;
            is_news
        });
    }

    /// Writes settlements down, on this thread, and answers `callers` once they survive `kill -9`.
    fn settle_for(&self, settlements: impl IntoIterator<Item = (Pair, Settlement)>, callers: Vec<Caller>) {
        let (told, answerable) = self.settling.tell(settlements, callers);
        settling::answer(answerable);
        match told {
            Told::More => {}
            Told::News => self.inbox.nudge(),
            Told::TooLate => {
                tracing::warn!("settled after the journal ended; the webhook will be repeated");
            }
        }
    }

    /// The same, and nobody waits.
    #[cfg(test)]
    fn settle(&self, settlements: impl IntoIterator<Item = (Pair, Settlement)>) {
        self.settle_for(settlements, Vec::new());
    }

    fn publish(&self, stats: &Stats) {
        self.stats.locked().clone_from(stats);
    }
}

/// The handle. Cheap to clone. When the last one is dropped, the journal closes.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    _last: Arc<LastHandle>,
}

/// Closes the journal with the last handle.
#[derive(Debug)]
struct LastHandle(Arc<Shared>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        drop(self.0.inbox.close());
    }
}

impl Journal {
    /// Opens the journal in `directory`, or makes one there; the directory's parent must exist. Blocks on
    /// the disk: all segments are read.
    ///
    /// The directory stays locked until the last handle is dropped and the writer's thread has ended.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, options: Options, clock: Clock) -> Result<Opened, OpenError> {
        let storage: Arc<dyn Storage> = Arc::new(Disk::open(directory)?);
        recovery::open(&storage, options, clock, spare::Filling::Ahead)
    }

    /// This journal's identity.
    #[must_use]
    pub fn id(&self) -> JournalId {
        self.shared.id
    }

    /// Makes the pushes durable, in order, all or none; resolves once they are, and were applied.
    ///
    /// They are in line when this returns, in the order of the calls; dropping the future takes nothing back.
    /// A push whose event id was taken before is left out, and counts as durable once the first one is.
    /// Changes are applied in their place; an append of changes only needs no disk.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append(
        &self,
        items: Vec<Item>,
    ) -> impl Future<Output = Result<(), AppendError>> + Send + 'static + use<> {
        self.append_what(items, Admits::All)
    }

    /// The same, if all the pushes were taken before: [`AppendError::New`] if one was not, and nothing is done then.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append_repeats(
        &self,
        items: Vec<Item>,
    ) -> impl Future<Output = Result<(), AppendError>> + Send + 'static + use<> {
        self.append_what(items, Admits::Repeats)
    }

    fn append_what(
        &self,
        items: Vec<Item>,
        admits: Admits,
    ) -> impl Future<Output = Result<(), AppendError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        let append = Append::new(items, admits, self.shared.seed, reply);
        let queued = if append.record_bytes() > APPEND_BYTES_MAX {
            Err(AppendError::Full {
                bytes: append.record_bytes() as u64,
                bytes_max: APPEND_BYTES_MAX as u64,
            })
        } else {
            self.shared.inbox.append(append)
        };
        let queued = queued.map_err(|error| self.explain(error));
        async move {
            queued?;
            // Without an answer the writer is gone.
            let Answer { result, done_with } = answer.await.unwrap_or_else(|_| AppendError::Closed.into());
            drop(done_with);
            result
        }
    }

    /// A journal that failed says so, rather than that it is closed.
    fn explain(&self, error: AppendError) -> AppendError {
        match (&error, self.health()) {
            (AppendError::Closed, Health::Failed(reason)) => AppendError::Io(reason),
            _ => error,
        }
    }

    /// Records that these pairs are settled; resolves once that is written, and is synced within 100 ms.
    ///
    /// They are in line when this returns, in the order of the calls; dropping the future takes nothing back. For
    /// pushes that were applied or told as owed. Of two settlements of one pair the first counts.
    pub fn settle(&self, settlements: impl IntoIterator<Item = (Pair, Settlement)>) -> Written {
        Written(self.shared.settler.put(&self.shared, settlements))
    }

    /// Whether it takes appends.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health.borrow().clone()
    }

    /// Whether it has ended by a failure: whoever settles is answered, though nothing was written.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(*self.shared.health.borrow(), Health::Failed(_))
    }

    /// For how long appends have been waiting for the disk without any being answered, if any waits.
    #[must_use]
    pub fn stands_still(&self) -> Option<Duration> {
        self.shared.inbox.stands_still()
    }

    /// Tells each change of its health, [`Health::Failed`] above all.
    #[must_use]
    pub fn health_changes(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.stats.locked().clone();
        stats.waiting = self.shared.inbox.len();
        stats
    }

    /// Takes no more appends, writes what waits, syncs, and ends the writer's thread. Resolves when that is
    /// done; at once if it was done before.
    pub fn close(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let done = self.shared.inbox.close();
        async move {
            // The sender goes when the journal has ended already.
            let _ = done.await;
        }
    }
}

/// Puts together what recovery made.
fn assemble(
    storage: Arc<dyn Storage>,
    clock: Clock,
    id: JournalId,
    (segments, live, recent, settling, next_sequence): (Segments, Live, Recent, Settling, Sequence),
    notes: Notes,
    report: RecoveryReport,
) -> Opened {
    let shared = Arc::new(Shared {
        id,
        seed: Seed::of(id),
        storage,
        inbox: Inbox::new(),
        settling,
        settler: Settler::default(),
        live: Mutex::new(live),
        health: watch::Sender::new(Health::Ready),
        stats: Mutex::default(),
        oldest: oldest::Known::default(),
    });
    let writer = Writer::new(Arc::clone(&shared), clock, segments, recent, next_sequence);
    let last = Arc::new(LastHandle(Arc::clone(&shared)));
    Opened {
        journal: Journal { shared, _last: last },
        writer,
        notes,
        report,
    }
}
