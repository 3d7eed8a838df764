//! Writing settlements down, off their callers' threads.
//!
//! A disk may stand still, and whoever settles is mostly a task that shares its thread with others. So there is one
//! thread that takes all that waits, in the order in which it came, writes it at once, and answers everybody. What
//! comes while it writes is its next turn. While they come to several at once, it lets some more come first: to be woken
//! for each would cost more than to write it. Who settles alone waits for nobody, but once after there were several.

use std::{
    pin::Pin,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{Shared, settling::Caller};
use crate::{
    locked::Locked as _,
    push::{Pair, Settlement},
};

/// How long more are let come.
const GATHER: Duration = Duration::from_micros(200);

/// What waits for the thread.
#[derive(Debug, Default)]
pub(super) struct Settler {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Held from taking until all of it is written.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    settlements: Vec<(Pair, Settlement)>,
    callers: Vec<Caller>,
    /// There is no thread any more.
    is_over: bool,
    thread_sleeps: bool,
}

/// Resolves once settlements are written down: they survive `kill -9` then.
#[derive(Debug)]
pub struct Written(pub(super) oneshot::Receiver<()>);

impl Future for Written {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Without an answer there was nothing to write.
        Pin::new(&mut self.0).poll(context).map(drop)
    }
}

impl Settler {
    /// Every change is whole before anything can panic, so a poisoned lock guards sound data.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.locked()
    }

    /// Puts settlements in line. The answer comes once they are written; at once if there are none.
    pub(super) fn put(
        &self,
        shared: &Shared,
        settlements: impl IntoIterator<Item = (Pair, Settlement)>,
    ) -> oneshot::Receiver<()> {
        let (written, is_written) = oneshot::channel();
        let mut settlements = settlements.into_iter().peekable();
        if settlements.peek().is_none() {
            return is_written;
        }
        let mut waiting = self.lock();
        waiting.settlements.extend(settlements);
        waiting.callers.push(written);
        let is_over = waiting.is_over;
        let sleeps = std::mem::take(&mut waiting.thread_sleeps);
        drop(waiting);
        if is_over {
            self.write(shared);
        } else if sleeps {
            self.wake.notify_one();
        }
        is_written
    }

    /// Writes all that waits, on this thread, and tells from how many callers it was. Whose settlements found no space the
    /// journal's thread answers once they have.
    pub(super) fn write(&self, shared: &Shared) -> usize {
        let _writing = self.writing.locked();
        let mut waiting = self.lock();
        let settlements = std::mem::take(&mut waiting.settlements);
        let callers = std::mem::take(&mut waiting.callers);
        drop(waiting);
        let count = callers.len();
        if !settlements.is_empty() {
            shared.settle_for(settlements, callers);
        }
        count
    }

    /// Waits for settlements and writes them, again and again, until it is over.
    pub(super) fn run(&self, shared: &Shared) {
        /// However it ends, nobody waits for it in vain.
        struct End<'a>(&'a Settler);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        let _end = End(self);
        let mut came = 0;
        loop {
            let mut waiting = self.lock();
            while waiting.callers.is_empty() && !waiting.is_over {
                waiting.thread_sleeps = true;
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.thread_sleeps = false;
            if came > 1 && !waiting.is_over {
                let gathered = self.wake.wait_timeout(waiting, GATHER);
                waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
            }
            let is_over = waiting.is_over;
            drop(waiting);
            came = self.write(shared);
            if is_over {
                return;
            }
        }
    }

    /// Has the thread end. Who comes later writes for himself.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.wake.notify_one();
    }
}
