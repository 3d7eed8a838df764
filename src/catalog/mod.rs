//! The catalog: `catalog.db`, where what became of every push is written down for people to read.
//!
//! A diary, not a truth: what is owed stands in the journal, and nothing here is ever read to decide what to do.
//! One thread writes it ([`start`]), many read it, beside a running server too ([`Reader`]); the tables are
//! described in `schema.sql` and what follows it.
//!
//! # What it survives
//! - **A crash of the process or of the machine**: the file stays whole (SQLite's log, synced at its checkpoints), and
//!   what was told last may be missing: what still stood in memory, the last second as a rule and the last minute while
//!   the file can't be written ([`aside`]), and after a power loss what the system had not written to the disk. What is
//!   missing of pushes that are owed still, and of how others ended, is told once more by the next start ([`restore`]).
//! - **More news than can be written, or a file that can't be**: they wait in the line to the thread, and in files
//!   beside ([`line`], [`overflow`]), over a restart too. Both are bounded; what doesn't fit is left out, counted and
//!   logged. Nobody ever waits for it, and it takes no processor that anybody else needs.
//! - **Damage** (not a database, a failed check at the start, a page that can't be read later): the file is moved
//!   aside with what belongs to it, as `catalog.db.damaged-<time>`, and a new one is begun, with a line in the log at
//!   the level of an error. Two such files are kept, and at most one a minute is made.
//! - **A file of a newer version**: moved aside as well, as `catalog.db.version-<n>-<time>`. Somebody who goes back to
//!   an older version in the middle of an incident needs deliveries and a history that works; and nothing is lost,
//!   for the newer version reads that file when it has its name again.
//!
//! A delivery of which it was not written down how it ended stands as `unknown`: what is pending here is compared
//! with what the journal owes whenever the file is opened.
//!
//! # Bounds
//! `delivery.history` and `delivery.history_max`, of which what waits may have a quarter: what is older, or too much, goes in steps of some hundred pushes, a
//! transaction each, between two batches; its pages are used again. What is still pending stays as long as there is
//! room. Of the file, dropped pushes have an eighth, and changes of endpoints' states a sixteenth ([`transitions`]).
//!
//! # Versions
//! A file of an older version is brought up to date when it is opened for writing, in one transaction.

use std::{io, path::Path, sync::Arc, thread, time::Duration};

use crate::{
    clock::{Clock, Timestamp},
    image::RepositoryName,
    journal::Journal,
};

mod aside;
mod chunk;
mod entry;
mod gathered;
mod history;
pub mod json;
mod line;
mod lists;
mod lookup;
pub(crate) mod mask;
mod overflow;
mod prune;
mod reader;
mod reconcile;
mod restored;
mod rows;
mod spans;
mod store;
mod story;
#[cfg(test)]
mod tests;
mod transitions;
mod walk;
mod writer;

pub use entry::{ANSWER_BYTES_MAX, Attempt, BODY_BYTES_MAX, Which};
use line::Line;

pub use history::{History, Stats};
pub use lists::{
    DELIVERY_STATES, DeliveryFilter, DeliveryPlace, ListedDelivery, ListedRepository, RepositoryOrder,
    RepositoryPlace,
};
pub use lookup::PastDelivery;
pub use reader::{ReadError, Reader};
pub use restored::restore;
pub use store::VERSION;
pub use story::{AttemptStory, DeliveryStory, DroppedStory, EndpointHealth, PushStory, Sought, Stories};
pub use transitions::{ListedTransition, Transition};

/// The file's name in the data directory.
pub const FILE: &str = "catalog.db";

/// Bytes of news in memory from which on they go into a file, and the most there may be, while none can be written too.
const SPILL_BYTES: usize = 512 << 10;
const MEMORY_BYTES: usize = 2 << 20;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// For how long.
    pub age_max: Duration,
    /// Bytes of the file and of what SQLite writes ahead of it; at least 8 MiB.
    pub bytes_max: u64,
}

impl Options {
    /// What ended before this goes.
    fn since(&self, now: Timestamp) -> Timestamp {
        let age = i64::try_from(self.age_max.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_millis(now.unix_millis().saturating_sub(age))
    }

    /// Bytes of the file itself. The rest is for SQLite's log, which has every page that a batch or a step touches, and
    /// these are many: webhook-ids and most event ids are random, and so is where they stand in their indexes.
    fn file_bytes_max(&self) -> u64 {
        self.bytes_max - self.log_bytes_max()
    }

    /// Bytes of the log above which it is emptied, and nothing is written while it can't be.
    fn log_bytes_max(&self) -> u64 {
        (self.bytes_max / 2).min(64 << 20)
    }

    /// What may wait.
    fn line(&self) -> line::Bounds {
        line::Bounds {
            spill_at: SPILL_BYTES,
            memory: MEMORY_BYTES,
            files: self.bytes_max / 4,
        }
    }

    /// Bytes of a batch.
    fn batch_bytes(&self) -> usize {
        usize::try_from(self.log_bytes_max() / 64).unwrap_or(usize::MAX)
    }
}

/// Starts the thread that writes `catalog.db` in `data_dir`, of the pushes of `journal`. The file is opened there too:
/// this waits for nothing. `names` tells which repositories have a webhook of their own. `lost` is called if one of
/// its threads ends by a panic.
///
/// # Errors
/// The system gives no thread.
pub fn start(
    data_dir: &Path,
    options: Options,
    journal: Journal,
    names: impl Fn() -> Vec<RepositoryName> + Send + 'static,
    clock: Clock,
    lost: impl Fn() + Send + Sync + 'static,
) -> io::Result<History> {
    let (id, gauges) = (journal.id(), Arc::default());
    let line = Arc::new(Line::new(data_dir, id, options.line(), gauges));
    let history = History::telling(Arc::clone(&line));
    let origin = (id, reconcile::Ledger::of(journal));
    let file = data_dir.join(FILE);
    let writer = writer::Writer::new(file, options, origin, Box::new(names), clock, Arc::clone(&line));
    let lost = Arc::new(lost);
    let ending = |then: fn(&Line)| Ending {
        line: Arc::clone(&line),
        then,
        lost: Arc::clone(&lost),
    };
    let (beside, guard) = (ending(Line::is_alone), ending(Line::over));
    thread::Builder::new()
        .name("history-line".to_owned())
        .spawn(move || beside.line.spill())?;
    thread::Builder::new().name("history".to_owned()).spawn(move || {
        step_back();
        writer.run();
        drop(guard);
    })?;
    Ok(history)
}

/// The lowest priority there is (setpriority(2)).
const NICE: i32 = 19;

/// Puts this thread behind all others: while they need all processors, the history waits.
fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::warn!(%error, "the history's thread keeps the priority of all others");
    }
}

/// Tells the line when a thread has ended, and whoever wants to know when it was unwound.
struct Ending<F: Fn()> {
    line: Arc<Line>,
    then: fn(&Line),
    lost: Arc<F>,
}

impl<F: Fn()> Drop for Ending<F> {
    fn drop(&mut self) {
        (self.then)(&self.line);
        if thread::panicking() {
            (self.lost)();
        }
    }
}
