//! Writing settlements down, off their callers' threads.
//!
//! A disk may stand still, and whoever settles is mostly a task that shares its thread with others. So there is one
//! thread that takes all that waits, in the order in which it came, writes it at once, and answers everybody. What
//! comes while it writes is its next turn.

use std::{
    pin::Pin,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::Shared;
use crate::push::{Pair, Settlement};

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
    callers: Vec<oneshot::Sender<()>>,
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
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Writes all that waits, on this thread.
    pub(super) fn write(&self, shared: &Shared) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.lock();
        let settlements = std::mem::take(&mut waiting.settlements);
        let callers = std::mem::take(&mut waiting.callers);
        drop(waiting);
        if !settlements.is_empty() {
            shared.settle(settlements);
        }
        for caller in callers {
            // Nobody may wait for it any more: then it is written all the same.
            let _ = caller.send(());
        }
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
        loop {
            let mut waiting = self.lock();
            while waiting.callers.is_empty() && !waiting.is_over {
                waiting.thread_sleeps = true;
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.thread_sleeps = false;
            let is_over = waiting.is_over;
            drop(waiting);
            self.write(shared);
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
