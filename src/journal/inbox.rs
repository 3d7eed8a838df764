//! What waits for the writer: a queue that is swapped out whole.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{AppendError, Appended, recent::EventKey, record};
use crate::push::{Change, EndpointId, Item, Push, Sequence, Settlement};

/// The most bytes of records that may wait. A disk that is so far behind is no disk to wait for.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;

/// One item of an append, as far as it can be prepared without the writer.
#[derive(Debug)]
pub(super) enum Prepared {
    Push {
        push: Push,
        key: Option<EventKey>,
        record: Vec<u8>,
    },
    Change(Change),
}

impl From<Item> for Prepared {
    fn from(item: Item) -> Self {
        match item {
            Item::Change(change) => Self::Change(change),
            Item::Push(push) => {
                let mut record = Vec::with_capacity(512);
                record::put_push(&mut record, &push);
                Self::Push {
                    key: EventKey::of(&push.event_id),
                    push,
                    record,
                }
            }
        }
    }
}

impl Prepared {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Push { record, .. } => record.len(),
            Self::Change(_) => 0,
        }
    }
}

/// An append that waits.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) items: Vec<Prepared>,
    /// Bytes of its records.
    pub(super) bytes: usize,
    pub(super) done: oneshot::Sender<Result<Appended, AppendError>>,
}

/// A settlement that waits.
#[derive(Clone, Debug)]
pub(super) struct Settle {
    pub(super) sequence: Sequence,
    pub(super) segment: u64,
    pub(super) endpoint: EndpointId,
    pub(super) how: Settlement,
}

/// All that waited.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) appends: Vec<Append>,
    pub(super) settles: Vec<Settle>,
    pub(super) closing: bool,
}

#[derive(Debug, Default)]
struct State {
    taken: Taken,
    bytes: usize,
}

/// The queue. Settlements are always taken: what can be settled is bounded by what was appended.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    filled: Condvar,
}

impl Inbox {
    pub(super) fn append(&self, append: Append) -> Result<(), AppendError> {
        let mut state = self.state();
        if state.taken.closing {
            return Err(AppendError::Closed);
        }
        if state.bytes + append.bytes > WAITING_BYTES_MAX && state.bytes > 0 {
            return Err(AppendError::Behind { bytes: state.bytes });
        }
        state.bytes += append.bytes;
        state.taken.appends.push(append);
        self.filled.notify_one();
        Ok(())
    }

    pub(super) fn settle(&self, settle: Settle) {
        let mut state = self.state();
        state.taken.settles.push(settle);
        self.filled.notify_one();
    }

    pub(super) fn close(&self) {
        self.state().taken.closing = true;
        self.filled.notify_one();
    }

    /// Waits until something is there, until the journal is closing, or until `deadline`; takes it all.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Taken {
        let mut state = self.state();
        while state.taken.appends.is_empty() && state.taken.settles.is_empty() && !state.taken.closing {
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(rest) if rest.is_zero() => break,
                Some(rest) => {
                    state = self
                        .filled
                        .wait_timeout(state, rest)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
                None => state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        let closing = state.taken.closing;
        state.bytes = 0;
        std::mem::replace(
            &mut state.taken,
            Taken {
                closing,
                ..Taken::default()
            },
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
