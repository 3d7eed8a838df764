//! Records in the oldest segment that can't be read, although they are still owed.
//!
//! Such a push can't be carried forward, so its segment can't go, and nothing after it can. What is to be done
//! about it is the operator's to say, for what was acknowledged is at stake: the journal drops nothing, and says
//! so.
//! - The other pushes of the segment are carried forward all the same: their records are intact one by one,
//!   and a second copy is what they need now.
//! - The bad ones are read again in rounds, for a read may fail for a while only. What is settled meanwhile, say
//!   because a newer push of its tag superseded it, is not missed: once nothing in the segment is owed, it goes.
//! - After [`ROUNDS`] rounds the journal calls itself damaged ([`super::Health::Damaged`]), which it is until the
//!   segment has gone. It takes pushes up to its bound, since what is new is not affected. But it doesn't call
//!   itself full when it comes to that: nobody is to give up pushes for room that would not come of it.

use std::{
    collections::BTreeSet,
    fmt, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{error::repair_command, live::LivePush, time::now};
use crate::push::Sequence;

/// Rounds in which a push can't be read, until that is called damage.
const ROUNDS: u32 = 3;

/// The wait between two rounds.
pub(super) const ROUND_WAIT: Duration = Duration::from_secs(10);

/// The least wait after a read that failed; and the wait as a multiple of what the read took, for a disk may
/// try for seconds, and pushes wait for the same thread.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_FACTOR: u32 = 9;

/// How often the log says that the journal is damaged.
const TOLD_EVERY: Duration = Duration::from_mins(10);

/// A push that was acknowledged, is still owed, and can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file.
    pub file: PathBuf,
    /// Where in it the push's record stands.
    pub offset: u64,
    /// Which push it is.
    pub sequence: Sequence,
    /// How many of the segment's pushes can't be read.
    pub pushes: u64,
    /// Why not.
    pub error: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, repair) = (self.file.display(), repair_command(&self.file));
        let Self {
            offset,
            sequence,
            pushes,
            error,
            ..
        } = self;
        write!(
            f,
            "{file} is damaged at offset {offset}, where push {sequence} stands, which is still owed ({error}; {pushes} pushes in all); with shipbell stopped, `{repair}` saves what can be saved"
        )
    }
}

/// The pushes that can't be read, round after round.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    /// Those of this round.
    pushes: BTreeSet<Sequence>,
    /// The first of them.
    first: Option<Damage>,
    /// The last whole round's.
    last: Option<Damage>,
    rounds: u32,
    told_at: Option<Instant>,
}

impl Stuck {
    /// Those that failed in this round: they are passed over.
    pub(super) fn pushes(&self) -> &BTreeSet<Sequence> {
        &self.pushes
    }

    /// A read failed that took so long. Tells how long to wait for the next one.
    pub(super) fn add(
        &mut self,
        push: &LivePush,
        file: PathBuf,
        error: &io::Error,
        took: Duration,
    ) -> Duration {
        let offset = u64::from(push.standing.offset);
        if self.pushes.is_empty() && self.rounds == 0 {
            tracing::warn!(
                file = %file.display(), offset, sequence = %push.sequence, %error,
                "a push that is still owed can't be read back and carried forward; it is tried again"
            );
        }
        self.pushes.insert(push.sequence);
        let first = self.first.get_or_insert_with(|| Damage {
            file,
            offset,
            sequence: push.sequence,
            pushes: 0,
            error: error.to_string(),
        });
        first.pushes = self.pushes.len() as u64;
        PAUSE_MIN.max(took * PAUSE_FACTOR)
    }

    /// Everything else in the segment is carried forward. Tells how long to wait for the next round.
    pub(super) fn end_round(&mut self) -> Duration {
        self.pushes.clear();
        self.last = self.first.take();
        self.rounds = self.rounds.saturating_add(1);
        let is_due = self.told_at.is_none_or(|at| now() >= at + TOLD_EVERY);
        if let Some(damage) = self.last.as_ref().filter(|_| self.rounds >= ROUNDS && is_due) {
            tracing::error!(
                file = %damage.file.display(),
                offset = damage.offset,
                sequence = %damage.sequence,
                pushes = damage.pushes,
                error = damage.error,
                repair = repair_command(&damage.file),
                "the journal is damaged: pushes that are still owed can't be read, and no segment from theirs on can be deleted; stop shipbell and repair it"
            );
            self.told_at = Some(now());
        }
        ROUND_WAIT
    }

    /// What is damaged. When the journal is full, one failed read is enough to say so.
    pub(super) fn damage(&self, is_full: bool) -> Option<&Damage> {
        let known = self.last.as_ref().or(self.first.as_ref());
        known.filter(|_| is_full || self.rounds >= ROUNDS)
    }
}
