//! What is shown of the parts: whether they are ready, and the numbers that are sampled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join;
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::History,
    clock::{Clock, Timestamp},
    dispatch::{Dispatcher, UnderWay, letters::DeadLetters, states::States},
    journal::{Health, Journal},
    lifecycle::Tasks,
    ops::Readiness,
    queue::Queue,
    telemetry::{
        HistorySample, JournalSample, LettersSample, Metrics, QueueSample,
        labels::{EventVerdict, Pool},
    },
};

/// After so long without an answer a disk hangs, rather than being slow: an order of magnitude more than a registry is
/// answered within.
const HANGS_AFTER: Duration = Duration::from_secs(5);

pub(super) fn readiness(
    tasks: &Tasks,
    journal: &Journal,
    queue: &Arc<Queue>,
    pending_max: usize,
) -> Readiness {
    let readiness = Readiness::new();
    let (soft, journal, queue) = (tasks.soft().clone(), journal.clone(), Arc::clone(queue));
    readiness.add("running", move || {
        if soft.is_cancelled() {
            Err("shutting down".to_owned())
        } else {
            Ok(())
        }
    });
    readiness.add("journal", move || match journal.health() {
        Health::Ready => match journal.stands_still() {
            Some(still) if still >= HANGS_AFTER => Err(format!(
                "the disk hangs: nothing has become durable for {} s, and pushes wait",
                still.as_secs()
            )),
            _ => Ok(()),
        },
        Health::Full { bytes, bytes_max, .. } => {
            Err(format!("{bytes} of at most {bytes_max} bytes (journal.max_size)"))
        }
        Health::NoSpace { error } => Err(format!("nothing new can be written: {error}")),
        Health::Damaged(damage) => Err(damage.to_string()),
        Health::Failed(reason) => Err(reason),
    });
    readiness.add("queue", move || match queue.pending() {
        pending if pending < pending_max => Ok(()),
        pending => Err(format!(
            "{pending} pushes are queued, of at most {pending_max} (ingest.max_pending)"
        )),
    });
    readiness
}

pub(super) fn sample(
    metrics: &Metrics,
    journal: &Journal,
    queue: &Arc<Queue>,
    history: &History,
    clock: &Clock,
) {
    let (journal, queue, clock) = (journal.clone(), Arc::clone(queue), clock.clone());
    let history = history.clone();
    let (told, counter) = (AtomicU64::new(0), metrics.clone());
    metrics.on_scrape(move |gauges| {
        let stats = journal.stats();
        let duplicates = stats
            .duplicates
            .saturating_sub(told.swap(stats.duplicates, Ordering::AcqRel));
        counter.event(EventVerdict::Duplicate, "", duplicates);
        gauges.journal(JournalSample {
            segments: stats.segments,
            bytes: stats.bytes,
            live: stats.unsettled,
            ready: journal.health() == Health::Ready,
        });
        let written = history.stats();
        gauges.history(HistorySample {
            rows: written.rows,
            dropped: written.dropped,
            bytes: written.bytes,
            waiting: written.waiting,
        });
        gauges.queue(QueueSample {
            pushes: queue.pending() as u64,
            repositories: queue.repositories() as u64,
            oldest: oldest(&journal, clock.now()),
        });
    });
}

/// How many endpoints are in which state.
pub(super) fn count(metrics: &Metrics, states: &States) {
    let states = states.clone();
    metrics.on_scrape(move |gauges| {
        for (state, count) in states.counts() {
            gauges.endpoints(state.as_str(), count);
        }
    });
}

/// How many attempts are under way.
pub(super) fn attempts(metrics: &Metrics, dispatcher: &Dispatcher) {
    let dispatcher = dispatcher.clone();
    metrics.on_scrape(move |gauges| {
        let UnderWay { fast, slow } = dispatcher.under_way();
        gauges.attempts(Pool::Fast, fast as u64);
        gauges.attempts(Pool::Slow, slow as u64);
    });
}

/// How many dead letters there are.
pub(super) fn letters(metrics: &Metrics, letters: &DeadLetters) {
    let letters = letters.clone();
    metrics.on_scrape(move |gauges| {
        let stats = letters.stats();
        gauges.letters(LettersSample {
            kept: stats.letters,
            bytes: stats.bytes,
            waiting: letters.waiting(),
            replaying: stats.replaying,
        });
    });
}

/// The age of the oldest push that is owed; zero when there is none. Looked up every second, for the disk may stand still:
/// whoever asks for metrics waits for nothing.
fn oldest(journal: &Journal, now: Timestamp) -> Duration {
    let taken_at = journal.oldest_known();
    taken_at.map(|taken_at| now.since(taken_at)).unwrap_or_default()
}

/// How often the oldest push that is owed is looked up.
const LOOKED_UP_EVERY: Duration = Duration::from_secs(1);

/// Looks up the oldest push that is owed, until the soft token is cancelled.
pub(super) async fn keep_oldest(journal: Journal, soft: CancellationToken) {
    while !soft.is_cancelled() {
        let looked_up = journal.clone();
        // One that can't be read is told by whoever is to send it.
        let looking = spawn_blocking(move || looked_up.oldest_taken_at());
        let both = join(looking, sleep(LOOKED_UP_EVERY));
        if soft.run_until_cancelled(both).await.is_none() {
            return;
        }
    }
}
