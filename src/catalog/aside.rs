//! The thread that puts news aside into files while the writer doesn't take them.
//!
//! It does so when much stands in memory, and when something has stood there for long, so that a process that is killed
//! while the history can't be written loses little; and at the end, when the writer is too busy to see to it. News that
//! can't be put aside stay in memory, as far as they fit there.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    line::{End, Line, State},
    overflow::{self, Waiting},
};

/// After a file could not be written, none is for so long.
const AGAIN: Duration = Duration::from_secs(1);

/// How long news stand in memory, at least and at most: for each file that waits already it is a second more, for each
/// takes an entry in the folder.
const STANDS: Duration = Duration::from_secs(10);
const STANDS_MAX: Duration = Duration::from_mins(1);

/// How often that is looked after.
const LOOKED_AFTER: Duration = Duration::from_secs(5);

/// How long the writer has, at the end, to take what stands in memory.
const END_WITHIN: Duration = Duration::from_millis(300);

impl Line {
    /// Puts news into files until the end.
    pub(super) fn spill(&self) {
        let mut state = self.state();
        while !state.is_closed() {
            let waited = self.spill.wait_timeout_while(state, LOOKED_AFTER, |state| {
                !state.is_closed() && !self.is_to_put_aside(state)
            });
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !state.is_closed() && self.is_to_put_aside(&state) {
                state = self.put_aside(state);
            }
        }
        let waited = self.spill.wait_timeout_while(state, END_WITHIN, |state| {
            state.end == End::Closed && !state.memory.is_empty()
        });
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if !state.memory.is_empty() && self.has_room(&state) {
            drop(self.put_aside(state));
        }
    }

    fn has_room(&self, state: &State) -> bool {
        state.file_bytes + overflow::file_bytes(state.memory.len()) <= self.bounds.files
    }

    fn is_to_put_aside(&self, state: &State) -> bool {
        let files = u32::try_from(state.files.len()).unwrap_or(u32::MAX);
        let stands = STANDS
            .saturating_add(Duration::from_secs(1).saturating_mul(files))
            .min(STANDS_MAX);
        let is_old = state.since.is_some_and(|since| since.elapsed() >= stands);
        (is_old || state.memory.len() >= self.bounds.spill_at) && self.has_room(state)
    }

    /// Puts what stands in memory into a file. If that can't be written, it stays where it was, and some time passes.
    fn put_aside<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let (number, since) = (state.number(), state.since);
        let (frames, entries) = state.take_memory();
        state.spilling = frames.len();
        drop(state);
        let written = self.write(number, &frames);
        let mut state = self.state();
        state.spilling = 0;
        // Before any wait: the writer may have been waiting for this.
        self.news.notify_one();
        match written {
            Ok(bytes) => {
                self.add(&mut state, Waiting { number, bytes });
                state
            }
            Err(error) => {
                state.take_back(frames, entries, since);
                self.gauges.stays_in_memory(&error);
                let waited = self
                    .spill
                    .wait_timeout_while(state, AGAIN, |state| !state.is_closed());
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Nobody puts anything aside any more: what was on its way is lost.
    pub(super) fn is_alone(&self) {
        let mut state = self.state();
        if state.spilling > 0 {
            state.spilling = 0;
            drop(state);
            self.gauges.lose(1, "it was on its way into a file");
        }
        self.news.notify_one();
    }
}
