//! Takes back, at a start, the dead letters of what is owed all the same: the process, or the machine, ended between a
//! letter and the settlement that followed it.

use std::collections::HashMap;

use tracing::{info, warn};

use crate::{
    journal::{JournalId, OwedRun},
    push::{EndpointId, Pair, Sequence},
    queue::Orphans,
    settings::{AccessError, Settings},
};

/// So many of the newest letters may be early: far more than are written within the 100 ms in which a settlement is
/// synced.
const EARLY_MAX: u32 = 50_000;

/// Letters that may have been written before their pushes were settled.
#[derive(Debug, Default)]
pub(super) struct Early {
    letters: HashMap<Sequence, Vec<(EndpointId, i64)>>,
}

impl Early {
    /// The newest letters. Blocks on the disk.
    pub(super) fn find(settings: &Settings, journal: JournalId) -> Result<Self, AccessError> {
        let mut early = Self::default();
        for (sequence, endpoint, id) in settings.newest_letters(journal, EARLY_MAX)? {
            early.letters.entry(sequence).or_default().push((endpoint, id));
        }
        Ok(early)
    }

    /// Those of these pairs that have no letter, and those that have one.
    pub(super) fn part(&self, pairs: Orphans) -> (Orphans, Vec<Pair>) {
        let has_letter = |(pair, endpoint): &(Pair, EndpointId)| {
            let letters = self.letters.get(&pair.sequence).into_iter().flatten();
            letters.into_iter().any(|(of, _)| of == endpoint)
        };
        let (with, without): (Orphans, Orphans) = pairs.into_iter().partition(has_letter);
        (without, with.into_iter().map(|(pair, _)| pair).collect())
    }

    /// Which of the letters are of these pushes, which are owed.
    pub(super) fn of(&self, run: &OwedRun<'_>) -> Vec<i64> {
        if self.letters.is_empty() {
            return Vec::new();
        }
        let is_owed = |endpoint: &EndpointId| run.owed.iter().any(|(_, owing)| owing == endpoint);
        let letters = run
            .pushes
            .iter()
            .filter_map(|push| self.letters.get(&push.sequence));
        let owed = letters.flatten().filter(|(endpoint, _)| is_owed(endpoint));
        owed.map(|(_, id)| *id).collect()
    }
}

/// Removes letters whose pushes are owed. Blocks on the disk. Should that fail they stay, and their pushes are sent all
/// the same.
pub(super) fn take_back(settings: &Settings, owed: &[i64]) {
    match settings.remove_letters(owed) {
        Ok(0) => {}
        Ok(letters) => info!(
            letters,
            "dead letters were taken back: their pushes are still owed"
        ),
        Err(error) => warn!(%error, "dead letters of pushes that are still owed could not be taken back"),
    }
}
