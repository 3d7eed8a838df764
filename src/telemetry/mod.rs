//! What shipbell tells about itself: metrics by type, and log lines.
//!
//! Metrics are named `shipbell_…`, in base units (seconds, bytes), and carry no repository and no
//! URL: their number is fixed by this module. What happened is counted where it happens; what *is*
//! (sizes of queues and files) is sampled at each scrape, by the hooks of [`Metrics::on_scrape`].

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use crate::{clock::Clock, locked::Locked as _, push::Settlement};

mod gauges;
pub mod labels;
mod letters;
mod lines;
pub mod log;
mod reloads;

pub use gauges::{Gauges, HistorySample, JournalSample, QueueSample};
pub use labels::ReloadResult;
pub use letters::{Letters, LettersSample};
pub use reloads::Reloads;

use labels::{
    AttemptResult, ConnectionEnd, EnvelopeAnswer, EventVerdict, ListenerName, Pool, RegistryResult,
    SizeNumber,
};

/// The content type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

type Hook = Box<dyn Fn(&Gauges) + Send + Sync>;

struct Inner {
    registry: Registry,
    hooks: Mutex<Vec<Hook>>,
    gauges: Gauges,

    connections: Family<ListenerLabels, Gauge<u64, AtomicU64>>,
    connections_ended: Family<ConnectionLabels, Counter>,
    envelopes: Family<EnvelopeLabels, Counter>,
    events: Family<EventLabels, Counter>,
    ack_seconds: Histogram,
    quarantine_failures: Counter,

    commits: Counter,
    fsync_seconds: Histogram,

    sizing_seconds: Histogram,
    sizes_unknown: Family<SizeLabels, Counter>,
    registry_requests: Family<RegistryLabels, Counter>,

    attempts: Family<AttemptLabels, Counter>,
    attempt_seconds: Histogram,
    settled: Family<SettledLabels, Counter>,
    letters: Letters,
    reloads: Reloads,
    endpoint_changes: Family<StateLabels, Counter>,
}

/// What came of pushes since the start, each for each endpoint that owed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Those that were delivered.
    pub delivered: u64,
    /// Those that gave way to a newer one.
    pub superseded: u64,
    /// Those that were given up on.
    pub dead_letters: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: ListenerName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    listener: ListenerName,
    end: ConnectionEnd,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EnvelopeLabels {
    answer: EnvelopeAnswer,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    verdict: EventVerdict,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SizeLabels {
    number: SizeNumber,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegistryLabels {
    result: RegistryResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    result: AttemptResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SettledLabels {
    how: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: Pool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// Upper bounds in seconds, by what is measured: a disk's flush, an answer to the registry, a
/// request to somebody else.
const FSYNC_BUCKETS: [f64; 12] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0,
];
const ACK_BUCKETS: [f64; 13] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
];
const REQUEST_BUCKETS: [f64; 13] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

impl Metrics {
    /// Metrics of a process that starts now.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        let mut inner = Inner::unregistered();
        inner.begin();
        inner.register(clock);
        Self(Arc::new(inner))
    }

    /// Has `sample` called before each scrape, on the thread that serves it: it must not wait.
    pub fn on_scrape(&self, sample: impl Fn(&Gauges) + Send + Sync + 'static) {
        self.hooks().push(Box::new(sample));
    }

    /// All metrics as they stand, in the OpenMetrics text format ([`CONTENT_TYPE`]).
    #[must_use]
    pub fn encode(&self) -> String {
        for hook in self.hooks().iter() {
            hook(&self.0.gauges);
        }
        // Counted for the process.
        let left_out = self.0.gauges.log_lines_left_out.inner();
        left_out.store(log::left_out(), Ordering::Relaxed);
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a String does not fail.
        let _ = text::encode(&mut text, &self.0.registry);
        text
    }

    fn hooks(&self) -> std::sync::MutexGuard<'_, Vec<Hook>> {
        self.0.hooks.locked()
    }

    /// A connection was opened.
    pub fn connection_opened(&self, listener: ListenerName) {
        self.0
            .connections
            .get_or_create(&ListenerLabels { listener })
            .inc();
    }

    /// A connection was closed.
    pub fn connection_ended(&self, listener: ListenerName, end: ConnectionEnd) {
        self.0
            .connections
            .get_or_create(&ListenerLabels { listener })
            .dec();
        let labels = ConnectionLabels { listener, end };
        self.0.connections_ended.get_or_create(&labels).inc();
    }

    /// A request to ingest was answered, or was cut off. `reason` is from a fixed set; empty when the
    /// answer says it all.
    pub fn envelope(&self, answer: EnvelopeAnswer, reason: &'static str) {
        self.0
            .envelopes
            .get_or_create(&EnvelopeLabels { answer, reason })
            .inc();
    }

    /// Envelopes may be answered so: an increase is seen only of what was there before.
    pub fn may_answer(&self, answer: EnvelopeAnswer, reason: &'static str) {
        drop(self.0.envelopes.get_or_create(&EnvelopeLabels { answer, reason }));
    }

    /// So many events were judged like this, none too. `reason` is from a fixed set; empty when the verdict says it all.
    pub fn event(&self, verdict: EventVerdict, reason: &'static str, count: u64) {
        self.0
            .events
            .get_or_create(&EventLabels { verdict, reason })
            .inc_by(count);
    }

    /// An envelope was answered 202 this long after its head had been read.
    pub fn acknowledged(&self, elapsed: Duration) {
        self.0.ack_seconds.observe(elapsed.as_secs_f64());
    }

    /// A body should have been quarantined and could not be.
    pub fn quarantine_failed(&self) {
        self.0.quarantine_failures.inc();
    }

    /// The journal committed; its flush took this long.
    pub fn committed(&self, fsync: Duration) {
        self.0.commits.inc();
        self.0.fsync_seconds.observe(fsync.as_secs_f64());
    }

    /// A batch's sizes were had, or given up on, after this long.
    pub fn sized(&self, elapsed: Duration) {
        self.0.sizing_seconds.observe(elapsed.as_secs_f64());
    }

    /// A webhook went out without this number.
    pub fn size_unknown(&self, number: SizeNumber) {
        self.0.sizes_unknown.get_or_create(&SizeLabels { number }).inc();
    }

    /// The registry's API was asked.
    pub fn registry_request(&self, result: RegistryResult) {
        self.0
            .registry_requests
            .get_or_create(&RegistryLabels { result })
            .inc();
    }

    /// An attempt ended this way after this long.
    pub fn attempt(&self, result: AttemptResult, elapsed: Duration) {
        self.0.attempts.get_or_create(&AttemptLabels { result }).inc();
        self.0.attempt_seconds.observe(elapsed.as_secs_f64());
    }

    /// An endpoint has come into this state.
    pub fn endpoint_changed(&self, state: &'static str) {
        self.0
            .endpoint_changes
            .get_or_create(&StateLabels { state })
            .inc();
    }

    /// Endpoints may come into this state.
    pub fn may_change_to(&self, state: &'static str) {
        drop(self.0.endpoint_changes.get_or_create(&StateLabels { state }));
    }

    /// A push was settled for an endpoint.
    pub fn settled(&self, how: Settlement) {
        self.0.settled.get_or_create(&SettledLabels::of(how)).inc();
    }

    /// What is counted of the configuration being read again.
    #[must_use]
    pub fn reloads(&self) -> &Reloads {
        &self.0.reloads
    }

    /// What came of pushes since the start.
    #[must_use]
    pub fn outcomes(&self) -> Outcomes {
        let settled = |how| {
            let counter = self.0.settled.get(&SettledLabels::of(how));
            counter.map(|counter| counter.get()).unwrap_or_default()
        };
        let attempts = |result: &AttemptResult| {
            let counter = self.0.attempts.get(&AttemptLabels { result: *result });
            counter.map(|counter| counter.get()).unwrap_or_default()
        };
        let failures = AttemptResult::ALL
            .iter()
            .filter(|result| **result != AttemptResult::Status2xx);
        Outcomes {
            delivered: settled(Settlement::Delivered),
            superseded: settled(Settlement::Superseded),
            dead_letters: settled(Settlement::DeadLetter),
            failed_attempts: failures.map(attempts).sum(),
        }
    }

    /// What is counted of dead letters.
    #[must_use]
    pub fn letters(&self) -> &Letters {
        &self.0.letters
    }
}

impl SettledLabels {
    fn of(how: Settlement) -> Self {
        Self { how: how.as_str() }
    }
}

impl Inner {
    /// Has what is counted be there from the beginning: an increase is seen only of what was there before. What depends on
    /// others is told by them.
    fn begin(&self) {
        for &listener in ListenerName::ALL {
            for &end in ConnectionEnd::ALL {
                let labels = ConnectionLabels { listener, end };
                drop(self.connections_ended.get_or_create(&labels));
            }
        }
        for &number in SizeNumber::ALL {
            drop(self.sizes_unknown.get_or_create(&SizeLabels { number }));
        }
        for &result in RegistryResult::ALL {
            drop(self.registry_requests.get_or_create(&RegistryLabels { result }));
        }
        for &result in AttemptResult::ALL {
            drop(self.attempts.get_or_create(&AttemptLabels { result }));
        }
        for how in [
            Settlement::Delivered,
            Settlement::Superseded,
            Settlement::DeadLetter,
        ] {
            drop(self.settled.get_or_create(&SettledLabels::of(how)));
        }
    }

    fn unregistered() -> Self {
        Self {
            registry: Registry::default(),
            hooks: Mutex::default(),
            gauges: Gauges::default(),
            connections: Family::default(),
            connections_ended: Family::default(),
            envelopes: Family::default(),
            events: Family::default(),
            ack_seconds: Histogram::new(ACK_BUCKETS),
            quarantine_failures: Counter::default(),
            commits: Counter::default(),
            fsync_seconds: Histogram::new(FSYNC_BUCKETS),
            sizing_seconds: Histogram::new(REQUEST_BUCKETS),
            sizes_unknown: Family::default(),
            registry_requests: Family::default(),
            attempts: Family::default(),
            attempt_seconds: Histogram::new(REQUEST_BUCKETS),
            settled: Family::default(),
            letters: Letters::default(),
            reloads: Reloads::default(),
            endpoint_changes: Family::default(),
        }
    }

    fn register(&mut self, clock: &Clock) {
        let started = Gauge::<f64, AtomicU64>::default();
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds since 1970 fit 53 bits until the year 287396"
        )]
        started.set(clock.now().unix_millis() as f64 / 1000.0);
        // The name every dashboard knows, so without the prefix.
        self.registry.register_with_unit(
            "process_start_time",
            "Start time of the process since the Unix epoch",
            Unit::Seconds,
            started,
        );

        let gauges = &self.gauges;
        let r = self.registry.sub_registry_with_prefix("shipbell");
        r.register(
            "build",
            "The running build",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );

        r.register("connections", "Open connections", self.connections.clone());
        r.register(
            "connections_ended",
            "Connections closed, by why",
            self.connections_ended.clone(),
        );
        r.register(
            "envelopes",
            "Requests to ingest, by answer",
            self.envelopes.clone(),
        );
        r.register("events", "Events judged, by verdict", self.events.clone());
        let help = "From the head of an envelope to its 202";
        r.register_with_unit("ack", help, Unit::Seconds, self.ack_seconds.clone());
        let help = "Bodies that should have been quarantined and could not be";
        r.register("quarantine_failures", help, self.quarantine_failures.clone());

        r.register(
            "journal_segments",
            "Segment files of the journal",
            gauges.journal_segments.clone(),
        );
        let help = "Bytes of the journal's files";
        r.register_with_unit("journal", help, Unit::Bytes, gauges.journal_bytes.clone());
        let help = "Pairs of push and endpoint in the journal that are not settled";
        r.register("journal_live", help, gauges.journal_live.clone());
        r.register(
            "journal_ready",
            "Whether the journal takes appends",
            gauges.journal_ready.clone(),
        );
        r.register("journal_commits", "Commits of the journal", self.commits.clone());
        let help = "Duration of the journal's flushes";
        r.register_with_unit("journal_fsync", help, Unit::Seconds, self.fsync_seconds.clone());

        r.register(
            "queue_pushes",
            "Pushes not settled yet",
            gauges.queue_pushes.clone(),
        );
        r.register(
            "queue_repositories",
            "Repositories with such pushes",
            gauges.queue_repositories.clone(),
        );
        let help = "Age of the oldest push not settled yet";
        r.register_with_unit(
            "queue_oldest",
            help,
            Unit::Seconds,
            gauges.queue_oldest_seconds.clone(),
        );

        let help = "Time to size a batch";
        r.register_with_unit("sizing", help, Unit::Seconds, self.sizing_seconds.clone());
        r.register(
            "sizes_unknown",
            "Numbers that webhooks went out without",
            self.sizes_unknown.clone(),
        );
        r.register(
            "registry_requests",
            "Requests to the registry's API",
            self.registry_requests.clone(),
        );

        gauges.register_history(r);

        r.register("attempts", "Delivery attempts, by result", self.attempts.clone());
        let help = "Delivery attempts under way, by pool";
        r.register("attempts_under_way", help, gauges.attempts.clone());
        let help = "Duration of delivery attempts";
        r.register_with_unit("attempt", help, Unit::Seconds, self.attempt_seconds.clone());
        let help = "Pushes settled for an endpoint, by how";
        r.register("settled", help, self.settled.clone());
        self.letters.register(&gauges.letters, r);
        self.reloads.register(r);
        r.register("endpoints", "Endpoints, by state", gauges.endpoints.clone());
        let help = "Changes of endpoints' states, by the new one";
        r.register("endpoint_changes", help, self.endpoint_changes.clone());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests;
