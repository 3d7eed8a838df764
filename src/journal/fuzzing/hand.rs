//! A journal in memory whose writer is turned by hand, so that an input means one order of events.

use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::FutureExt;
use tokio::sync::oneshot;

use crate::{
    clock::{Clock, Timestamp},
    journal::{
        AppendError, Applied, Durable, Journal, OpenError, Options, RecoveryReport, Storage, Writer,
        faulty::Faulty, inbox::Gate, live::LivePush, recovery, spare::Filling, time::now,
        unsettled::Unsettled,
    },
    locked::Locked as _,
    push::{Item, Pair, Push, Settlement},
};

pub(super) const OPTIONS: Options = Options {
    segment_size: 1024,
    max_size: 64 * 1024 * 1024,
};

/// More turns than there is ever anything to carry forward in.
const TURNS_MAX: usize = 10_000;

pub(super) struct Hand {
    pub(super) journal: Journal,
    pub(super) report: RecoveryReport,
    writer: Writer,
    applied: Arc<Mutex<Vec<Applied>>>,
}

pub(super) fn clock() -> Clock {
    Clock::from_fn(|| Timestamp::from_unix_millis(1_000_000))
}

impl Hand {
    pub(super) fn open(storage: &Arc<Faulty>) -> Result<Self, OpenError> {
        let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(storage);
        let opened = recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand)?;
        Ok(Self {
            journal: opened.journal,
            report: opened.report,
            writer: opened.writer,
            applied: Arc::default(),
        })
    }

    /// One turn of the writer.
    pub(super) fn turn(&mut self) {
        let applied = Arc::clone(&self.applied);
        self.journal.shared.inbox.nudge();
        let gate = self
            .writer
            .turn(&mut (Box::new(move |news: &[Applied]| lock(&applied).extend_from_slice(news)) as _));
        let health = self.journal.health();
        assert_ne!(gate, Gate::Ended, "the writer ended: {health:?}");
    }

    /// Turns until there is nothing left that can be carried forward or deleted now.
    pub(super) fn calm_down(&mut self) {
        for _ in 0..TURNS_MAX {
            self.turn();
            if self.writer.carry_at().is_none_or(|at| at > now()) {
                return;
            }
        }
        panic!("carrying forward comes to no end");
    }

    /// Has the pushes taken; returns those that became durable.
    pub(super) fn take(
        &mut self,
        pushes: impl IntoIterator<Item = Push>,
    ) -> Result<Vec<Durable>, AppendError> {
        let answer = self.journal.append(pushes.into_iter().map(Item::Push).collect());
        self.turn();
        let answered = answer.now_or_never();
        let applied = std::mem::take(&mut *lock(&self.applied));
        let durable = applied.into_iter().filter_map(|applied| match applied {
            Applied::Push(durable) => Some(durable),
            Applied::Change(_) => None,
        });
        answered.unwrap_or(Err(AppendError::Closed))?;
        Ok(durable.collect())
    }

    /// Returns those that are not written down yet.
    pub(super) fn settle(&self, pairs: impl IntoIterator<Item = Pair>) -> Vec<Pair> {
        let is_unwritten = |pair: &Pair| {
            let (caller, mut answer) = oneshot::channel();
            let shared = &self.journal.shared;
            shared.settle_for([(*pair, Settlement::Delivered)], vec![caller]);
            answer.try_recv().is_err()
        };
        pairs.into_iter().filter(is_unwritten).collect()
    }

    /// What is owed, by the index.
    pub(super) fn owed(&self) -> Vec<LivePush> {
        self.journal.shared.live().owed_after(None).collect()
    }

    /// Closes it: all that was told is durable.
    pub(super) fn close(mut self) {
        let closed = self.journal.close();
        self.writer.turn(&mut (Box::new(|_: &[Applied]| {}) as _));
        drop(self);
        assert!(closed.now_or_never().is_some(), "closed within the turn");
    }
}

/// The pairs of `push` that are unsettled.
pub(super) fn pairs(push: &LivePush) -> impl Iterator<Item = Pair> {
    let sequence = push.sequence;
    let places = match &push.unsettled {
        Unsettled::Few(_) => 0..32,
        Unsettled::Many(words) => 0..u16::try_from(words.len() * 64).unwrap_or(u16::MAX),
    };
    places
        .filter(|place| push.unsettled.contains(*place))
        .map(move |place| Pair { sequence, place })
}

fn lock(applied: &Mutex<Vec<Applied>>) -> MutexGuard<'_, Vec<Applied>> {
    applied.locked()
}
