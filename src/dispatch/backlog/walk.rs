//! The way through the journal from its oldest push on, for the sake of one bound.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;
use tracing::{field::display, warn};

use crate::{
    journal::{Journal, Owed, Unreadable},
    push::{EndpointId, Sequence},
    queue::Excess,
};

/// Pushes that are read back at once.
const READ_AT_ONCE: usize = 256;

/// How long until what was in flight is met again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A spell ends when nothing was given up for so long, or when it lasted so long: then its count is told.
const SPELL_QUIET: Duration = Duration::from_mins(1);
const SPELL_MAX: Duration = Duration::from_mins(10);

/// One bound's way. It goes forward only, but for what it passed over, and at its end begins again. For the sake of how many
/// pushes there are it never goes back before that: what is in front may be wanted, all of it, and for long.
#[derive(Debug)]
pub(super) struct Walk {
    /// The bound.
    excess: Excess,
    /// The last push that was read.
    cursor: Option<Sequence>,
    /// What was read and is not looked at yet.
    read: VecDeque<Result<Owed, Unreadable>>,
    /// The oldest push that was passed over.
    passed_over: Option<Sequence>,
    began: Instant,
    spell: Option<Spell>,
}

/// A time in which pushes are given up, told once at its beginning and once at its end.
#[derive(Clone, Copy, Debug)]
struct Spell {
    began: Instant,
    last: Instant,
    pushes: u64,
}

impl Walk {
    pub(super) fn new(excess: Excess) -> Self {
        Self {
            excess,
            cursor: None,
            read: VecDeque::new(),
            passed_over: None,
            began: Instant::now(),
            spell: None,
        }
    }

    /// Why what it meets is given up, in words.
    pub(super) fn reason(&self) -> &'static str {
        match self.excess {
            Excess::Endpoint(_) => "too much is owed to its endpoint (delivery.max_backlog)",
            Excess::Overall => "too much is owed in all (journal.max_size)",
            Excess::Pushes => "too many pushes are owed (ingest.max_pending), and its endpoint takes none",
        }
    }

    /// The key that sets the bound.
    fn key(&self) -> &'static str {
        match self.excess {
            Excess::Endpoint(_) => "delivery.max_backlog",
            Excess::Overall => "journal.max_size",
            Excess::Pushes => "ingest.max_pending",
        }
    }

    /// The endpoint that it is about, if it is about one.
    fn endpoint(&self) -> Option<&EndpointId> {
        match &self.excess {
            Excess::Endpoint(endpoint) => Some(endpoint),
            Excess::Overall | Excess::Pushes => None,
        }
    }

    /// The next oldest push, or why it can't be read; `None` at the end, after which it begins again.
    /// Cancel-safe.
    pub(super) async fn next(&mut self, journal: &Journal) -> Option<Result<Owed, Unreadable>> {
        if self.read.is_empty() {
            let (journal, cursor) = (journal.clone(), self.cursor);
            let read = move || journal.owed(cursor, READ_AT_ONCE);
            let read = tokio::task::spawn_blocking(read).await;
            let read = read.inspect_err(|error| warn!(%error, "the oldest pushes were not read"));
            self.read = read.unwrap_or_default().into();
            self.cursor = self.read.back().map(|last| match last {
                Ok(push) => push.sequence,
                Err(unreadable) => unreadable.sequence,
            });
        }
        self.read.pop_front()
    }

    /// Takes note of a push that is in flight: it may come back undelivered.
    pub(super) fn pass_over(&mut self, push: Sequence) {
        if self.excess != Excess::Pushes {
            self.passed_over.get_or_insert(push);
        }
    }

    /// Goes back to what was passed over, if that was long enough ago.
    pub(super) fn meet_again(&mut self) {
        if self.began.elapsed() < AGAIN_AFTER {
            return;
        }
        self.began = Instant::now();
        if let Some(oldest) = self.passed_over.take() {
            self.read.clear();
            self.cursor = Sequence::new(oldest.get() - 1);
        }
    }

    /// Goes back to the oldest push there is.
    pub(super) fn restart(&mut self) {
        self.read.clear();
        self.cursor = None;
        self.passed_over = None;
    }

    /// Counts a push that was given up, and tells when it is the first for long.
    pub(super) fn count(&mut self, now: Instant) {
        if self.spell.is_none() {
            let (bound, endpoint) = (self.key(), self.endpoint().map(display));
            warn!(
                bound,
                endpoint, "too much is owed: the oldest pushes become dead letters"
            );
        }
        let spell = self.spell.get_or_insert(Spell {
            began: now,
            last: now,
            pushes: 0,
        });
        spell.pushes += 1;
        spell.last = now;
    }

    /// When the spell ends, if nothing more happens.
    pub(super) fn spell_ends_at(&self) -> Option<Instant> {
        let spell = self.spell?;
        Some((spell.last + SPELL_QUIET).min(spell.began + SPELL_MAX))
    }

    /// Ends the spell if it is time, and tells its count.
    pub(super) fn end_spell_if_due(&mut self) {
        if self.spell_ends_at().is_some_and(|at| at <= Instant::now()) {
            self.end_spell();
        }
    }

    /// Ends the spell, and tells its count.
    pub(super) fn end_spell(&mut self) {
        if let Some(Spell { began, pushes, .. }) = self.spell.take() {
            let endpoint = self.endpoint().map(display);
            let elapsed_s = began.elapsed().as_secs();
            warn!(
                bound = self.key(),
                endpoint, pushes, elapsed_s, "dead letters: too much was owed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_passed_over_is_met_again_after_a_while_but_not_by_one_that_looks_for_what_nobody_wants()
    {
        let sequence = |number| Sequence::new(number).unwrap();
        let went_on_behind = async |excess| {
            let mut walk = Walk::new(excess);
            walk.cursor = Some(sequence(200_000));
            walk.pass_over(sequence(7));
            walk.pass_over(sequence(9));
            walk.meet_again();
            assert_eq!(walk.cursor, Some(sequence(200_000)), "not at once");
            advance(AGAIN_AFTER).await;
            walk.meet_again();
            walk.cursor
        };
        assert_eq!(went_on_behind(Excess::Overall).await, Some(sequence(6)));
        assert_eq!(went_on_behind(Excess::Pushes).await, Some(sequence(200_000)));
    }
}
