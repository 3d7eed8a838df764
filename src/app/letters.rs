//! Takes back, at a start, the dead letters of what is owed all the same: the process, or the machine, ended between a
//! letter and the settlement that followed it.

use std::collections::HashMap;

use tracing::{info, warn};

use crate::{
    journal::{JournalId, OwedRun},
    push::{EndpointId, Sequence},
    settings::{AccessError, Settings},
};

/// So many of the newest letters may be early: far more than are written within the 100 ms in which a settlement is
/// synced.
const EARLY_MAX: u32 = 50_000;

/// Letters that may have been written before their pushes were settled.
#[derive(Debug, Default)]
pub(super) struct Early {
    letters: HashMap<Sequence, Vec<(EndpointId, i64)>>,
    /// Those of which it is certain.
    owed: Vec<i64>,
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

    /// Looks whether letters are of pushes that are owed.
    pub(super) fn look_at(&mut self, run: &OwedRun<'_>) {
        if self.letters.is_empty() {
            return;
        }
        for push in run.pushes {
            let letters = self.letters.get(&push.sequence).into_iter().flatten();
            let is_owed = |endpoint: &EndpointId| run.owed.iter().any(|(_, owing)| owing == endpoint);
            let owed = letters.filter(|(endpoint, _)| is_owed(endpoint));
            self.owed.extend(owed.map(|(_, id)| *id));
        }
    }

    /// Removes those letters. Blocks on the disk. Should that fail they stay, and their pushes are sent all the same.
    pub(super) fn take_back(&self, settings: &Settings) {
        match settings.remove_letters(&self.owed) {
            Ok(0) => {}
            Ok(letters) => info!(
                letters,
                "dead letters were taken back: their pushes are still owed"
            ),
            Err(error) => warn!(%error, "dead letters of pushes that are still owed could not be taken back"),
        }
    }
}
