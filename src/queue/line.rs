//! One endpoint's line: pure, see [`lines`](super::lines).

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

use super::lines::{Entry, Passage, Progress};
use crate::{image::RepositoryName, push::Sequence};

/// The line of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) passage: Passage,
    /// Lanes that are lent from, or were called to be.
    pub(super) at_once: usize,
    /// Those of them that are lent from.
    pub(super) lent: usize,
    /// By the oldest push that each had when it came, the repositories that they are of. A lane that is gone by
    /// the time it is called is passed over.
    pub(super) waiting: BTreeMap<Sequence, RepositoryName>,
    /// How often pushes were refused since it was open: what they were refused for says nothing of others, and with one
    /// at a time these would have their turn never.
    refused: HashMap<Sequence, u32>,
}

/// When a push has its turn among those of its line, the smallest first: how often it was refused, and which it is.
pub(super) type Turn = (u32, Sequence);

/// So many pushes that were refused are known; past that all of them are forgotten.
const REFUSED_MAX: usize = 1_000;

impl Line {
    /// How many lanes may be called, or lent from, at once.
    pub(super) fn width(&self, limits: Limits, now: Instant) -> usize {
        match self.passage {
            Passage::GivingUp { .. } | Passage::Gone if limits.keeps_all => 0,
            // What the probe is to be made with waits for room.
            Passage::GivingUp { .. } if !limits.has_room && self.lent == 0 && self.probes(now) => 0,
            // Those that are to be given up are called as well, some at a time.
            Passage::Open | Passage::GivingUp { .. } | Passage::Gone => limits.at_once_max,
            Passage::Narrow { from } => usize::from(from <= now && limits.has_room),
            Passage::Shut => 0,
        }
    }

    /// Whether it is one of those that are lent from and not open.
    pub(super) fn is_narrow_at_work(&self) -> bool {
        match self.passage {
            Passage::Narrow { .. } => self.at_once > 0,
            Passage::GivingUp { .. } => self.lent > 0,
            Passage::Open | Passage::Shut | Passage::Gone => false,
        }
    }

    /// From when on somebody can be called of those that wait, once there is room for one more line that is not open.
    /// What is `now` may have been a moment ago.
    pub(super) fn opening(&self, has_room: bool, now: Instant) -> Option<Instant> {
        let (from, is_free) = match self.passage {
            Passage::Narrow { from } => (from, self.at_once == 0),
            // Only for room does anybody wait here.
            Passage::GivingUp {
                probe_from: Some(from),
            } => (from, self.lent == 0 && !has_room && from <= now),
            _ => return None,
        };
        (is_free && !self.waiting.is_empty()).then_some(from)
    }

    /// Whether what would be lent is given up, but for probes.
    pub(super) fn gives_up(&self) -> bool {
        matches!(self.passage, Passage::GivingUp { .. } | Passage::Gone)
    }

    /// Whether one at a time is sent at most.
    pub(super) fn is_single(&self) -> bool {
        matches!(self.passage, Passage::Narrow { .. } | Passage::GivingUp { .. })
    }

    /// Sets how it may be lent from; how it was before.
    pub(super) fn set(&mut self, passage: Passage) -> Passage {
        if passage == Passage::Open {
            self.refused = HashMap::new();
        }
        std::mem::replace(&mut self.passage, passage)
    }

    /// A push was refused, now. While it is not waited for the next attempt, the others have theirs at once.
    pub(super) fn note_refused(&mut self, push: Sequence, now: Instant) {
        if !matches!(self.passage, Passage::Narrow { from } if from > now) {
            return;
        }
        if self.refused.len() >= REFUSED_MAX {
            self.refused.clear();
        }
        *self.refused.entry(push).or_default() += 1;
    }

    /// A push has ended, and its place in line may be another one's now.
    pub(super) fn forget_refused(&mut self, push: Sequence) {
        self.refused.remove(&push);
    }

    /// Whether turns are those of the places.
    pub(super) fn is_by_age(&self) -> bool {
        self.refused.is_empty()
    }

    /// Its turn: the less often it was refused the sooner, and then the older it is.
    pub(super) fn turn(&self, push: Sequence) -> Turn {
        (self.refused.get(&push).copied().unwrap_or_default(), push)
    }

    /// Whose turn it is of those that wait.
    pub(super) fn next(&self) -> Option<Sequence> {
        let mut places = self.waiting.keys().copied();
        if self.refused.is_empty() {
            places.next()
        } else {
            places.min_by_key(|place| self.turn(*place))
        }
    }

    /// Whether nobody's turn comes before that of this push.
    fn is_next(&self, push: Sequence) -> bool {
        let next = self.next();
        next.is_none_or(|next| self.turn(push) <= self.turn(next))
    }

    pub(super) fn probes(&self, now: Instant) -> bool {
        matches!(self.passage, Passage::GivingUp { probe_from: Some(from) } if from <= now)
    }

    /// Whether a push may be sent whose lane is lent from.
    pub(super) fn may_send(&self, push: Sequence, now: Instant) -> bool {
        match self.passage {
            Passage::Open => true,
            Passage::Narrow { from } => from <= now && self.lent <= 1 && self.is_next(push),
            Passage::Shut | Passage::Gone => false,
            Passage::GivingUp { .. } => self.lent <= 1 && self.probes(now),
        }
    }

    /// What becomes of a lane with this push, which is not counted here.
    pub(super) fn entry(
        &self,
        push: Sequence,
        progress: Option<Progress>,
        limits: Limits,
        now: Instant,
    ) -> Entry {
        if self.gives_up() {
            let is_probe = self.lent == 0 && self.probes(now);
            return match (is_probe, limits.has_room) {
                (true, true) => Entry::Lend,
                // For room: it may be the one that heals the endpoint.
                (true, false) => Entry::Wait,
                (false, _) if limits.keeps_all => Entry::Wait,
                (false, _) => Entry::GiveUp,
            };
        }
        // While there is room for many it doesn't matter who was called a moment earlier.
        let was_called = progress.is_some() && self.passage == Passage::Open;
        let has_room = self.at_once < self.width(limits, now);
        if has_room && (was_called || self.is_next(push)) {
            Entry::Lend
        } else {
            Entry::Wait
        }
    }

    pub(super) fn is_spent(&self) -> bool {
        let is_needed = !matches!(self.passage, Passage::Open | Passage::Gone);
        self.at_once == 0 && self.waiting.is_empty() && !is_needed
    }
}

/// What holds for all lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) at_once_max: usize,
    pub(super) keeps_all: bool,
    /// Whether one more line may be lent from that is not open.
    pub(super) has_room: bool,
}
