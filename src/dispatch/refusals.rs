//! Until when refused pushes wait, as `settings.db` keeps it: a restart neither sends them sooner nor begins their
//! schedule anew.
//!
//! What changes is written by one task, all that waits in one transaction; nothing waits for it. What a kill keeps from
//! being written is a push that is sent sooner.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::keeper::{self, Kept};
use crate::{
    catalog::Which,
    clock::Clock,
    journal::JournalId,
    locked::Locked as _,
    push::{EndpointId, Sequence},
    queue::Queue,
    settings::{AccessError, RefusalKey, SavedRefusal, Settings},
    webhook::{Endpoint, Endpoints},
};

/// What the refusals work with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The journal that has the pushes.
    pub journal: JournalId,
    /// Where they wait.
    pub queue: Arc<Queue>,
    /// Who refused them.
    pub endpoints: Endpoints,
    /// Where it is kept.
    pub settings: Settings,
    /// The wall clock.
    pub clock: Clock,
}

/// Which pushes were refused and wait. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Refusals(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: Parts,
    inner: Mutex<Inner>,
    unsaved: Notify,
    /// One write at a time, so that the later one has what is later.
    saving: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Those that wait; whether the file may have them.
    waiting: HashMap<RefusalKey, bool>,
    /// What the file is to be told.
    unsaved: HashMap<RefusalKey, Option<SavedRefusal>>,
}

impl Refusals {
    /// What was kept, and the lanes set by it. Once the queue has all that is owed, before anything is lent. Blocks on
    /// the disk.
    ///
    /// A push whose endpoint is set otherwise now waits no longer.
    ///
    /// # Errors
    /// It can't be read.
    pub fn restore(parts: Parts) -> Result<Self, AccessError> {
        let (now, at) = (parts.clock.now(), Instant::now());
        let (mut inner, mut waiting) = (Inner::default(), 0_u64);
        for saved in parts.settings.refusals(parts.journal)? {
            let endpoint = parts.endpoints.get(&saved.endpoint);
            let is_same = endpoint.is_some_and(|endpoint| is_set_as(&endpoint, &saved));
            // However the clock was set meanwhile, it is not longer than it was.
            let waits = saved.at.after(saved.wait).since(now).min(saved.wait);
            let until = if is_same { at + waits } else { at };
            let is_owed = parts.queue.resume(
                &saved.repository,
                &saved.endpoint,
                saved.sequence,
                saved.failures,
                until,
            );
            let key = (saved.sequence, saved.endpoint);
            waiting += u64::from(is_owed && until > at);
            if is_owed {
                inner.waiting.insert(key, true);
            } else {
                inner.unsaved.insert(key, None);
            }
        }
        if waiting > 0 {
            info!(pushes = waiting, "refused pushes go on waiting");
        }
        let unsaved = Notify::new();
        unsaved.notify_one();
        Ok(Self(Arc::new(Shared {
            parts,
            inner: Mutex::new(inner),
            unsaved,
            saving: tokio::sync::Mutex::default(),
        })))
    }

    /// A push was refused, so often by now, and waits so long.
    pub(super) fn refused(&self, which: &Which, endpoint: &Endpoint, failures: u32, wait: Duration) {
        let saved = SavedRefusal {
            sequence: which.sequence,
            endpoint: which.endpoint.clone(),
            repository: which.repository.clone(),
            failures,
            at: self.0.parts.clock.now(),
            wait,
            fingerprint: endpoint.fingerprint(),
        };
        let key = (which.sequence, which.endpoint.clone());
        let mut inner = self.inner();
        inner.waiting.entry(key.clone()).or_insert(false);
        inner.unsaved.insert(key, Some(saved));
        drop(inner);
        self.0.unsaved.notify_one();
    }

    /// An endpoint owes a push no longer.
    pub(super) fn ended(&self, sequence: Sequence, endpoint: &EndpointId) {
        let mut inner = self.inner();
        if inner.waiting.is_empty() {
            return;
        }
        let key = (sequence, endpoint.clone());
        match inner.waiting.remove(&key) {
            None => return,
            Some(false) => _ = inner.unsaved.remove(&key),
            Some(true) => _ = inner.unsaved.insert(key, None),
        }
        drop(inner);
        self.0.unsaved.notify_one();
    }

    /// Writes what changes, until the token is cancelled.
    pub async fn keep(self, soft: CancellationToken) {
        keeper::keep(&self, &soft).await;
    }

    /// Writes what is left, once nothing changes any more.
    pub async fn close(&self) {
        keeper::close(self).await;
    }

    /// Each change is whole before anything can panic.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.locked()
    }
}

impl Kept for Refusals {
    /// What is refused meanwhile is written at once then.
    const EVERY: Duration = Duration::from_millis(100);
    const UNSAVED: &str = "until when refused pushes wait can't be saved; a restart sends them sooner";
    const LOST: &str = "until when refused pushes wait was not saved at the end; they are sent sooner";

    fn unsaved(&self) -> &Notify {
        &self.0.unsaved
    }

    async fn save(&self) -> io::Result<()> {
        let _one_at_a_time = self.0.saving.lock().await;
        let (unsaved, new): (Vec<_>, Vec<_>) = {
            let mut inner = self.inner();
            let unsaved = std::mem::take(&mut inner.unsaved);
            // Until it is known whether they are written, the file may have them.
            let mut is_new = |key: &&RefusalKey| {
                let may_have = inner.waiting.get_mut(*key);
                may_have.is_some_and(|may_have| !std::mem::replace(may_have, true))
            };
            let new = unsaved.keys().filter(|key| is_new(key)).cloned().collect();
            (unsaved.into_iter().collect(), new)
        };
        if unsaved.is_empty() {
            return Ok(());
        }
        let (settings, journal) = (self.0.parts.settings.clone(), self.0.parts.journal);
        let unsaved = Arc::new(unsaved);
        let written = Arc::clone(&unsaved);
        let saved = keeper::write(move || settings.save_refusals(journal, &written)).await;
        if saved.is_err() {
            let mut inner = self.inner();
            for (key, refusal) in unsaved.iter() {
                // What is newer stands.
                inner
                    .unsaved
                    .entry(key.clone())
                    .or_insert_with(|| refusal.clone());
            }
            // Of those that ended meanwhile there is nothing to be said: else they would pile up for as long as
            // nothing can be written.
            for key in new {
                match inner.waiting.get_mut(&key) {
                    Some(may_have) => *may_have = false,
                    None => _ = inner.unsaved.remove(&key),
                }
            }
        }
        saved
    }
}

/// Whether the endpoint is set as it was when it refused. When that can't be told, it is.
fn is_set_as(endpoint: &Endpoint, saved: &SavedRefusal) -> bool {
    let now = endpoint.fingerprint();
    now.is_none() || saved.fingerprint.is_none() || now == saved.fingerprint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::FILE;

    #[tokio::test]
    async fn what_ends_while_nothing_can_be_written_does_not_pile_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let parts = Parts {
            journal: JournalId([7; 16]),
            queue: Arc::default(),
            endpoints: Endpoints::default(),
            settings: Settings::open(&file).unwrap(),
            clock: Clock::system(),
        };
        let refusals = Refusals::restore(parts).unwrap();
        let ci = EndpointId::Named("ci".into());
        let which = |number| Which {
            sequence: Sequence::new(number).unwrap(),
            endpoint: ci.clone(),
            repository: "acme/app".parse().unwrap(),
            tag: None,
        };
        let refused = |number| {
            let which = which(number);
            refusals.refused(
                &which,
                &Endpoint::plain("ci", "http://127.0.0.1:1/"),
                1,
                Duration::from_hours(1),
            );
        };
        let change = |sql| {
            let connection = rusqlite::Connection::open(&file).unwrap();
            connection.execute_batch(sql).unwrap();
        };
        refused(1);
        refusals.save().await.unwrap();
        change("CREATE TRIGGER not_now BEFORE INSERT ON refusals BEGIN SELECT RAISE(ABORT, 'not now'); END");
        refused(2);
        refused(3);
        refusals.save().await.unwrap_err();
        for number in 1..=2 {
            refusals.ended(which(number).sequence, &ci);
        }
        let unsaved = || {
            let inner = refusals.inner();
            let mut unsaved: Vec<_> = inner
                .unsaved
                .iter()
                .map(|(key, saved)| (key.0.get(), saved.is_some()))
                .collect();
            unsaved.sort_unstable();
            unsaved
        };
        assert_eq!(
            unsaved(),
            [(1, false), (3, true)],
            "the file has the first, and not the second"
        );
        change("DROP TRIGGER not_now");
        refusals.save().await.unwrap();
        assert_eq!(unsaved(), []);
        let kept = refusals.0.parts.settings.refusals(JournalId([7; 16])).unwrap();
        assert_eq!(
            kept.iter().map(|saved| saved.sequence.get()).collect::<Vec<_>>(),
            [3]
        );
    }
}
