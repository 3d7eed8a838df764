//! What is counted of the configuration being read again.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::labels::ReloadResult;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: ReloadResult,
}

/// What is counted of reloads.
#[derive(Debug)]
pub struct Reloads {
    reloads: Family<ReloadLabels, Counter>,
    sound: Gauge<u64, AtomicU64>,
}

impl Default for Reloads {
    /// A process runs by a configuration that is sound.
    fn default() -> Self {
        let sound = Gauge::default();
        sound.set(1);
        let reloads = Family::<ReloadLabels, Counter>::default();
        // There from the beginning: an increase is seen only of what was there before.
        for result in [ReloadResult::Applied, ReloadResult::Refused] {
            drop(reloads.get_or_create(&ReloadLabels { result }));
        }
        Self { reloads, sound }
    }
}

impl Reloads {
    /// The configuration was read again.
    pub fn read(&self, result: ReloadResult) {
        self.reloads.get_or_create(&ReloadLabels { result }).inc();
        self.sound.set(u64::from(result == ReloadResult::Applied));
    }

    pub(super) fn register(&self, r: &mut Registry) {
        let help = "Times the configuration was read again, by result";
        r.register("config_reloads", help, self.reloads.clone());
        let help = "Whether the configuration that was read last is in effect";
        r.register("config_sound", help, self.sound.clone());
    }
}
