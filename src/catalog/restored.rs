//! After a kill the history lacks its last second, and so pushes that are owed still: the journal knows all about them,
//! and a start tells it once more.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{History, Reader};
use crate::{
    journal::{Durable, Journal},
    push::Sequence,
};

/// So many are told at most: more than stood in memory when the process ended.
const RESTORED_MAX: usize = 20_000;

/// So many are read at once.
const AT_ONCE: usize = 500;

/// Bytes in memory that are waited for to be put aside before more is told, and how long at most.
const MEMORY_MAX: u64 = 512 << 10;
const WAIT_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Tells the history of pushes that the journal owes and that are newer than what stands in `file`; those that wait to be
/// written into it are known when their turn comes. For a start, before anything else is told. Blocks on the disk.
pub fn restore(history: &History, journal: &Journal, file: &Path) {
    let newest = Reader::open(file).and_then(|reader| reader.newest(journal.id()));
    // One that is not there, or is damaged, is begun anew.
    let mut after = newest.ok().flatten();
    let (mut told, until) = (0, Instant::now() + WAIT_MAX);
    while told < RESTORED_MAX && Instant::now() < until {
        let owed = journal.owed(after, AT_ONCE);
        let sequences: Vec<(Sequence, u32)> = owed
            .iter()
            .filter_map(|owed| owed.as_ref().ok().map(|owed| (owed.sequence, owed.bytes)))
            .collect();
        let Some((last, _)) = sequences.last().copied() else {
            break;
        };
        let numbers: Vec<Sequence> = sequences.iter().map(|(sequence, _)| *sequence).collect();
        for ((sequence, bytes), push) in sequences.into_iter().zip(journal.read(&numbers)) {
            match push {
                Ok(push) => history.restored(&Durable {
                    sequence,
                    bytes,
                    push,
                }),
                Err(error) => {
                    warn!(%sequence, %error, "the history is not told of a push that can't be read");
                }
            }
            told += 1;
        }
        after = Some(last);
        while history.memory_bytes() > MEMORY_MAX && Instant::now() < until {
            sleep(LOOK_EVERY);
        }
    }
    if told > 0 {
        info!(
            pushes = told,
            "the history is told once more of what it may lack of what is owed"
        );
    }
}
