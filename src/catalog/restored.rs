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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{self, Options, Sought},
        clock::Clock,
        journal::{self, Journal},
        push::{Item, Pair, Push, Settlement},
    };

    fn push(tag: &str) -> Push {
        Push {
            event_id: format!("event-{tag}"),
            ..Push::plain("acme/app", tag, &["ci", "cd"])
        }
    }

    #[tokio::test]
    async fn what_is_owed_and_missing_is_told_once_and_not_what_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let sizes = journal::Options {
            segment_size: 1 << 20,
            max_size: 64 << 20,
        };
        let opened = Journal::open(&folder.path().join("journal"), sizes, Clock::system()).unwrap();
        let journal = opened.journal;
        opened.writer.start(Box::new(|_| {})).unwrap();
        let items = ["1", "2", "3"].map(|tag| Item::Push(push(tag)));
        journal.append(items.into()).await.unwrap();
        let pair = |number, place| Pair {
            sequence: Sequence::new(number).unwrap(),
            place,
        };
        // One endpoint has the second push, both have the third.
        let delivered = [pair(2, 0), pair(3, 0), pair(3, 1)].map(|pair| (pair, Settlement::Delivered));
        journal.settle(delivered).await;
        let owes = |number| {
            let owed = journal.owed(None, 10).into_iter().flatten();
            { owed }
                .find(|owed| owed.sequence.get() == number)
                .map(|owed| owed.owed.len())
        };
        while (owes(2), owes(3)) != (Some(1), None) {
            tokio::task::yield_now().await;
        }
        let kept = Options {
            age_max: Duration::from_hours(1),
            bytes_max: 64 << 20,
        };
        let file = folder.path().join(catalog::FILE);
        let start = || {
            let (journal, clock) = (journal.clone(), Clock::system());
            catalog::start(folder.path(), kept, journal, Vec::new, clock, || {}).unwrap()
        };
        let history = start();
        let first = push("1");
        let sequence = Sequence::FIRST;
        history.taken(&Durable {
            sequence,
            bytes: 1,
            push: first,
        });
        history.close().await;
        for _ in ["a kill", "and another"] {
            let history = start();
            restore(&history, &journal, &file);
            history.close().await;
            let mut reader = Reader::open(&file).unwrap();
            let of = Sought::Repository("acme/app".to_owned());
            let found = reader.stories(&of, None, 10).unwrap().pushes;
            let told: Vec<_> = found
                .iter()
                .map(|push| {
                    let owing = push.deliveries.iter().map(|one| (&*one.endpoint, &*one.state));
                    (push.event_id.as_str(), owing.collect::<Vec<_>>())
                })
                .collect();
            let both = vec![("cd", "pending"), ("ci", "pending")];
            assert_eq!(told, [("event-2", vec![("cd", "pending")]), ("event-1", both)]);
        }
        journal.close().await;
    }
}
