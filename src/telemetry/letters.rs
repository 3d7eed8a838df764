//! What is told of dead letters.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::labels::ReplayResult;

/// The dead letters as they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LettersSample {
    /// Those that are kept.
    pub kept: u64,
    /// Bytes of `settings.db` that they take.
    pub bytes: u64,
    /// Pushes given up on whose letters are not written yet.
    pub waiting: u64,
    /// Letters that are to be sent again.
    pub replaying: u64,
}

#[derive(Debug, Default)]
pub(super) struct LetterGauges {
    kept: Gauge<u64, AtomicU64>,
    bytes: Gauge<u64, AtomicU64>,
    waiting: Gauge<u64, AtomicU64>,
    replaying: Gauge<u64, AtomicU64>,
}

impl LetterGauges {
    pub(super) fn set(&self, sample: LettersSample) {
        self.kept.set(sample.kept);
        self.bytes.set(sample.bytes);
        self.waiting.set(sample.waiting);
        self.replaying.set(sample.replaying);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplayLabels {
    result: ReplayResult,
}

/// What is counted of dead letters.
#[derive(Debug)]
pub struct Letters {
    written: Counter,
    lost: Counter,
    removed: Counter,
    replays: Family<ReplayLabels, Counter>,
}

impl Default for Letters {
    fn default() -> Self {
        let replays = Family::<ReplayLabels, Counter>::default();
        // There from the beginning: an increase is seen only of what was there before.
        for &result in ReplayResult::ALL {
            drop(replays.get_or_create(&ReplayLabels { result }));
        }
        Self {
            written: Counter::default(),
            lost: Counter::default(),
            removed: Counter::default(),
            replays,
        }
    }
}

impl Letters {
    /// So many were written.
    pub fn written(&self, count: u64) {
        self.written.inc_by(count);
    }

    /// So many pushes were given up on without a letter.
    pub fn lost(&self, count: u64) {
        self.lost.inc_by(count);
    }

    /// So many were let go of, too old or too many.
    pub fn removed(&self, count: u64) {
        self.removed.inc_by(count);
    }

    /// One was sent again, or not after all.
    pub fn replayed(&self, result: ReplayResult) {
        self.replays.get_or_create(&ReplayLabels { result }).inc();
    }

    pub(super) fn register(&self, gauges: &LetterGauges, r: &mut Registry) {
        r.register("dead_letters", "Dead letters kept", gauges.kept.clone());
        let help = "Bytes that dead letters take of settings.db";
        r.register_with_unit("dead_letters", help, Unit::Bytes, gauges.bytes.clone());
        let help = "Pushes given up on whose dead letters are not written yet";
        r.register("dead_letters_waiting", help, gauges.waiting.clone());
        let help = "Dead letters that are to be sent again";
        r.register("dead_letters_replaying", help, gauges.replaying.clone());
        r.register(
            "dead_letters_written",
            "Dead letters written",
            self.written.clone(),
        );
        let help = "Pushes given up on without a dead letter, because none could be written";
        r.register("dead_letters_lost", help, self.lost.clone());
        let help = "Dead letters let go of, too old or too many";
        r.register("dead_letters_removed", help, self.removed.clone());
        let help = "Dead letters sent again, by result";
        r.register("dead_letter_replays", help, self.replays.clone());
    }
}
