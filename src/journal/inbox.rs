//! What waits for the writer: appends in the order of the calls, and the wish to close.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    AppendError, Applied, Durable,
    frame::{FRAME_HEADER_BYTES, Seed},
    progress::{Progress, Ticket},
    recent::EventKey,
    record,
    time::now,
};
use crate::{
    locked::Locked as _,
    push::{Item, Sequence},
};

/// Bytes of encoded pushes that may wait; a single append is let in whatever its size.
pub(super) const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A change counts by so many of these bytes: of a repository of 255 letters, a tag and an id of 128 each it takes about as
/// many.
pub(super) const CHANGE_BYTES: usize = 640;

/// Appends that may wait.
pub(super) const WAITING_APPENDS_MAX: usize = 65_536;

/// The largest append: with all its endpoints, far more than one envelope comes to.
pub(super) const APPEND_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Which pushes an append may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admits {
    All,
    /// Those that were taken before.
    Repeats,
}

/// One call of append, encoded as far as its caller can.
#[derive(Debug)]
pub(super) struct Append {
    /// What was given, as it is to be applied: the sequence numbers are left open.
    pub(super) applied: Vec<Applied>,
    /// Room for a frame's header, then the records of the pushes, back to back, with 0 for their sequence numbers.
    pub(super) frame: Vec<u8>,
    /// By what each push is known if it comes again.
    pub(super) keys: Vec<Option<EventKey>>,
    /// What it may hold.
    pub(super) admits: Admits,
    pub(super) reply: oneshot::Sender<Answer>,
    /// Once it is in line.
    pub(super) ticket: Option<Ticket>,
}

/// What is told of an append.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) result: Result<(), AppendError>,
    /// What is to be let go: by the caller, for the writer is one and callers are many.
    pub(super) done_with: Vec<Applied>,
}

impl From<AppendError> for Answer {
    fn from(error: AppendError) -> Self {
        Self {
            result: Err(error),
            done_with: Vec::new(),
        }
    }
}

impl Append {
    /// Encodes the pushes among `items`.
    pub(super) fn new(items: Vec<Item>, admits: Admits, seed: Seed, reply: oneshot::Sender<Answer>) -> Self {
        let bytes = items.iter().map(|item| match item {
            Item::Push(push) => record::push_bytes_about(push),
            Item::Change(_) => 0,
        });
        let bytes: usize = bytes.sum();
        let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + bytes);
        frame.resize(FRAME_HEADER_BYTES, 0);
        let mut keys = Vec::with_capacity(items.len());
        let applied = items.into_iter().map(|item| match item {
            Item::Change(change) => Applied::Change(change),
            Item::Push(push) => {
                let start = frame.len();
                record::put_push(&mut frame, seed, &push);
                keys.push(EventKey::of(&push.event_id));
                Applied::Push(Durable {
                    sequence: Sequence::FIRST,
                    // An append is refused long before it is as large.
                    bytes: u32::try_from(frame.len() - start).unwrap_or(u32::MAX),
                    push,
                })
            }
        });
        Self {
            applied: applied.collect(),
            frame,
            keys,
            admits,
            reply,
            ticket: None,
        }
    }

    /// Bytes of its records.
    pub(super) fn record_bytes(&self) -> usize {
        self.frame.len() - FRAME_HEADER_BYTES
    }

    /// Bytes by which it counts while it waits: its records, and its changes, of which there are no records.
    fn waiting_bytes(&self) -> usize {
        let changes = self.applied.len().saturating_sub(self.keys.len());
        self.record_bytes() + changes * CHANGE_BYTES
    }
}

/// How far the journal is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Takes everything.
    Open,
    /// Takes nothing new; what waits is still written.
    Closing,
    /// The writer is gone.
    Ended,
}

/// The inbox.
#[derive(Debug)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Waiting {
    appends: VecDeque<Append>,
    bytes: usize,
    /// Something changed that the writer has to look at.
    is_nudged: bool,
    /// No commit is on its way.
    is_landed: bool,
    gate: Gate,
    closers: Vec<oneshot::Sender<()>>,
    /// The writer sleeps, until so many bytes wait at the latest.
    wakes_at: Option<usize>,
}

impl Waiting {
    fn hand_out(&mut self, line: &mut VecDeque<Append>) {
        self.wakes_at = None;
        self.bytes = 0;
        if line.is_empty() {
            // Swapped, so that two buffers go back and forth and none is made anew.
            mem::swap(&mut self.appends, line);
        } else {
            line.append(&mut self.appends);
        }
    }
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                appends: VecDeque::new(),
                bytes: 0,
                is_nudged: false,
                is_landed: true,
                gate: Gate::Open,
                closers: Vec::new(),
                wakes_at: None,
            }),
            wake: Condvar::new(),
            progress: Progress::new(),
        }
    }

    /// Every change below is whole before anything can panic, so a poisoned lock guards sound data.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.locked()
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let sleeps = waiting.wakes_at.take().is_some();
        drop(waiting);
        if sleeps {
            self.wake.notify_one();
        }
    }

    /// Puts an append in line, or hands it back with the reason why not.
    pub(super) fn append(&self, mut append: Append) -> Result<(), AppendError> {
        let mut waiting = self.lock();
        if waiting.gate != Gate::Open {
            return Err(AppendError::Closed);
        }
        let bytes = waiting.bytes + append.waiting_bytes();
        let is_first = waiting.appends.is_empty();
        if !is_first && (bytes > WAITING_BYTES_MAX || waiting.appends.len() >= WAITING_APPENDS_MAX) {
            return Err(AppendError::Busy {
                appends: waiting.appends.len(),
                bytes: waiting.bytes,
            });
        }
        append.ticket = Some(self.progress.begin());
        waiting.bytes = bytes;
        waiting.appends.push_back(append);
        if waiting.wakes_at.is_some_and(|at| at <= bytes) {
            self.wake(waiting);
        }
        Ok(())
    }

    /// Has the writer take a turn.
    pub(super) fn nudge(&self) {
        let mut waiting = self.lock();
        waiting.is_nudged = true;
        self.wake(waiting);
    }

    /// Asks the writer to finish; the answer comes when it has.
    pub(super) fn close(&self) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.gate != Gate::Ended {
            waiting.gate = Gate::Closing;
            waiting.closers.push(reply);
            self.wake(waiting);
        }
        answer
    }

    /// Waits for something to do, until `deadline` at the latest, and puts all of it in `line`.
    pub(super) fn take(&self, line: &mut VecDeque<Append>, deadline: Option<Instant>) -> Gate {
        let mut waiting = self.lock();
        while waiting.appends.is_empty() && !waiting.is_nudged && waiting.gate == Gate::Open {
            waiting.wakes_at = Some(0);
            let Some(deadline) = deadline else {
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(left) = deadline
                .checked_duration_since(now())
                .filter(|left| !left.is_zero())
            else {
                break;
            };
            waiting = match self.wake.wait_timeout(waiting, left) {
                Ok((waiting, _)) => waiting,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        waiting.is_nudged = false;
        waiting.hand_out(line);
        waiting.gate
    }

    /// How far the end is.
    pub(super) fn gate(&self) -> Gate {
        self.lock().gate
    }

    /// A commit is on its way.
    pub(super) fn take_off(&self) {
        self.lock().is_landed = false;
    }

    /// It has landed.
    pub(super) fn land(&self) {
        let mut waiting = self.lock();
        waiting.is_landed = true;
        self.wake(waiting);
    }

    /// While a commit is on its way: waits until so many bytes wait, and puts all of it in `line`; `false` once it has
    /// landed.
    pub(super) fn take_meanwhile(&self, line: &mut VecDeque<Append>, bytes: usize) -> bool {
        let mut waiting = self.lock();
        while !waiting.is_landed && (waiting.bytes < bytes || waiting.appends.is_empty()) {
            waiting.wakes_at = Some(bytes);
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.is_landed {
            waiting.wakes_at = None;
            return false;
        }
        waiting.hand_out(line);
        true
    }

    /// Takes nothing more; whoever waits is told `error`, and whoever closes that it is done.
    pub(super) fn end(&self, error: &AppendError) {
        let mut waiting = self.lock();
        waiting.gate = Gate::Ended;
        waiting.bytes = 0;
        let appends = mem::take(&mut waiting.appends);
        let closers = mem::take(&mut waiting.closers);
        drop(waiting);
        for append in appends {
            // Nobody may wait for it any more.
            let _ = append.reply.send(error.clone().into());
        }
        for closer in closers {
            let _ = closer.send(());
        }
    }

    /// For how long appends have been waiting without any being answered, if any waits.
    pub(super) fn stands_still(&self) -> Option<Duration> {
        self.progress.stands_still()
    }

    /// Appends that wait now.
    pub(super) fn len(&self) -> usize {
        self.lock().appends.len()
    }
}
