//! After a kill the history lacks its last second, and so pushes that are owed still: the journal knows all about them,
//! and a start tells it once more.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use tracing::info;

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
        // What can't be read is told by whoever is to send it.
        let owed: Vec<_> = journal.owed(after, AT_ONCE).into_iter().flatten().collect();
        let sequences: Vec<Sequence> = owed.iter().map(|owed| owed.sequence).collect();
        let Some(last) = sequences.last() else {
            break;
        };
        after = Some(*last);
        for (owed, push) in owed.into_iter().zip(journal.read(&sequences)) {
            let Ok(mut push) = push else { continue };
            // Of the others it is not said that they are pending.
            push.owed = owed.owed.into_iter().map(|(_, endpoint)| endpoint).collect();
            history.restored(&Durable {
                sequence: owed.sequence,
                bytes: owed.bytes,
                push,
            });
            told += 1;
        }
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
