//! What a journal says of itself.

use std::time::Duration;

use super::{Cut, Damage};

/// What a start found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// There was no journal, and one was made.
    pub is_new: bool,
    /// Segments found.
    pub segments: usize,
    /// Valid commits in them.
    pub commits: u64,
    /// Settlements that were told but not committed.
    pub settled_late: usize,
    /// Pushes that are still owed: what [`super::Journal::owed`] tells.
    pub pushes: u64,
    /// The last commit, if it was bad.
    pub cut: Option<Cut>,
}

/// Whether the journal takes appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ready,
    /// It is at its bound, until older segments are settled.
    Full {
        /// Bytes in use.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
        /// Whether the journal is clearing an older segment: it makes room without anything being settled.
        makes_room: bool,
    },
    /// The disk is full, or no file can be opened for want of open files or memory; tried again every 500 ms. What
    /// still fits into the current segment is taken.
    NoSpace {
        /// What the system says.
        error: String,
    },
    /// A push that is still owed can't be read, so that its segment can't be deleted, and none after it. What fits
    /// within the bound is taken; the journal wants to be repaired.
    Damaged(Damage),
    /// It ended; only another start can help.
    Failed(String),
}

/// Figures for metrics, as of the writer's last turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segment files.
    pub segments: u64,
    /// Bytes on disk: segments, with what the newest one has free, and the spare file.
    pub bytes: u64,
    /// The bound on them, in bytes.
    pub bytes_max: u64,
    /// Pairs (push, endpoint) that are not settled durably.
    pub unsettled: u64,
    /// Bytes of the records of pushes that are still owed, and of the event ids that are remembered. The
    /// files take at most twice as many, and two segments.
    pub live_bytes: u64,
    /// Commits over the journal's whole life.
    pub commits: u64,
    /// Pushes committed since the start.
    pub pushes: u64,
    /// Settlements committed since the start.
    pub settlements: u64,
    /// Pushes left out since the start because their event id was taken before.
    pub duplicates: u64,
    /// Event ids remembered.
    pub event_ids: u64,
    /// How long the last commit's fsync took.
    pub sync_last: Duration,
    /// Appends that wait for the writer now.
    pub waiting: usize,
}
