//! After a kill the history lacks its last second, and so pushes that are owed still, and how others ended: the journal
//! knows all about them, and a start tells it once more.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use tracing::info;

use super::{History, Reader, Which};
use crate::{
    journal::{Durable, EndedLately, EndedPush, Journal},
    push::{EndpointId, Sequence},
};

/// So many are told at most: more than stood in memory when the process ended.
const RESTORED_MAX: usize = 20_000;

/// So many are read at once.
const AT_ONCE: usize = 500;

/// Bytes in memory that are waited for to be put aside before more is told, and how long at most.
const MEMORY_MAX: u64 = 512 << 10;
const WAIT_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Tells the history of pushes that the journal owes and that are newer than what stands in `file`, and of how pushes
/// `ended` last, unless that stands there; what waits to be written into the file is known when its turn comes. For a start,
/// before anything else is told, and before the journal's writer is started. Blocks on the disk.
pub fn restore(history: &History, journal: &Journal, file: &Path, ended: &EndedLately) {
    // One that is not there, or is damaged, is begun anew.
    let reader = Reader::open(file).ok();
    let newest = reader
        .as_ref()
        .and_then(|reader| reader.newest(journal.id()).ok());
    let newest = newest.flatten();
    let is_open = |sequence| {
        let found = reader
            .as_ref()
            .map(|reader| reader.has_open(journal.id(), sequence));
        found.is_none_or(|found| found.unwrap_or(true))
    };
    let until = Instant::now() + WAIT_MAX;
    let is_wanted = |sequence| {
        let is_missing = newest.is_none_or(|newest| sequence > newest);
        Instant::now() < until && (is_missing || is_open(sequence))
    };
    let mut ended = ended.pushes(journal, is_wanted).peekable();
    let mut telling = Telling {
        history,
        newest,
        pushes: 0,
        ends: 0,
        until,
    };
    // In their order, in which a repository's last tag is known by.
    let mut after = newest;
    while telling.has_room() {
        // What can't be read is told by whoever is to send it.
        let owed: Vec<_> = journal.owed(after, AT_ONCE).into_iter().flatten().collect();
        let sequences: Vec<Sequence> = owed.iter().map(|owed| owed.sequence).collect();
        let Some(last) = sequences.last() else {
            break;
        };
        after = Some(*last);
        for (owed, push) in owed.into_iter().zip(journal.read(&sequences)) {
            while let Some(earlier) = ended.next_if(|push| push.durable.sequence <= owed.sequence) {
                telling.ended(earlier);
            }
            if let Ok(push) = push {
                let durable = Durable {
                    sequence: owed.sequence,
                    bytes: owed.bytes,
                    push,
                };
                telling.restored(durable, owed.owed.into_iter().map(|(_, endpoint)| endpoint));
            }
        }
    }
    while let Some(push) = ended.next_if(|_| telling.has_room()) {
        telling.ended(push);
    }
    if telling.pushes + telling.ends > 0 {
        info!(
            pushes = telling.pushes,
            ends = telling.ends,
            "the history is told once more of what it may lack"
        );
    }
}

/// What the history is told of at a start.
struct Telling<'a> {
    history: &'a History,
    /// The newest push that stands in the file.
    newest: Option<Sequence>,
    pushes: usize,
    ends: usize,
    until: Instant,
}

impl Telling<'_> {
    fn has_room(&self) -> bool {
        self.pushes < RESTORED_MAX && Instant::now() < self.until
    }

    /// A push that those owe or owed: of others it is not said that it is pending for them.
    fn restored(&mut self, mut durable: Durable, of: impl Iterator<Item = EndpointId>) {
        durable.push.owed = of.collect();
        self.history.restored(&durable);
        self.pushes += 1;
        self.pause();
    }

    /// Waits until there is room for more in memory, unless that takes too long.
    fn pause(&self) {
        while self.history.memory_bytes() > MEMORY_MAX && Instant::now() < self.until {
            sleep(LOOK_EVERY);
        }
    }

    fn ended(&mut self, ended: EndedPush) {
        let EndedPush { durable, ends, left } = ended;
        let (sequence, push) = (durable.sequence, &durable.push);
        let (repository, tag) = (push.repository.clone(), push.tag.clone());
        if self.newest.is_none_or(|newest| sequence > newest) {
            let ended = ends.iter().map(|(endpoint, _)| endpoint.clone());
            self.restored(durable, ended.chain(left));
        }
        for (endpoint, how) in ends {
            let which = Which {
                sequence,
                endpoint,
                repository: repository.clone(),
                tag: tag.clone(),
            };
            self.history.settled(&which, how);
            self.ends += 1;
        }
        self.pause();
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
            restore(&history, &journal, &file, &EndedLately::default());
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

    #[tokio::test]
    async fn how_pushes_ended_is_told_where_that_is_missing_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let sizes = journal::Options {
            segment_size: 1 << 20,
            max_size: 64 << 20,
        };
        let open = || Journal::open(&folder.path().join("journal"), sizes, Clock::system()).unwrap();
        let opened = open();
        let writer = opened.writer.start(Box::new(|_| {})).unwrap();
        let items = ["1", "2", "3", "4"].map(|tag| Item::Push(push(tag)));
        opened.journal.append(items.into()).await.unwrap();
        let pair = |number, place| Pair {
            sequence: Sequence::new(number).unwrap(),
            place,
        };
        let ends = [
            (pair(1, 0), Settlement::Delivered),
            (pair(2, 0), Settlement::Delivered),
            (pair(2, 1), Settlement::DeadLetter),
            (pair(3, 1), Settlement::Superseded),
            (pair(4, 0), Settlement::Delivered),
            (pair(4, 1), Settlement::Delivered),
        ];
        opened.journal.settle(ends).await;
        opened.journal.close().await;
        drop(opened.journal);
        writer.join().unwrap();

        let kept = Options {
            age_max: Duration::from_hours(1),
            bytes_max: 64 << 20,
        };
        let file = folder.path().join(catalog::FILE);
        let start = |journal: &Journal| {
            let clock = Clock::system();
            catalog::start(folder.path(), kept, journal.clone(), Vec::new, clock, || {}).unwrap()
        };
        let of = |number, endpoint: &str| Which {
            sequence: Sequence::new(number).unwrap(),
            endpoint: EndpointId::Named(endpoint.into()),
            repository: "acme/app".parse().unwrap(),
            tag: Some(number.to_string().parse().unwrap()),
        };
        let mut opened = open();
        let history = start(&opened.journal);
        // Of the first two it was written down that they came, and of one how it ended.
        for (number, tag) in [(1, "1"), (2, "2")] {
            history.taken(&Durable {
                sequence: Sequence::new(number).unwrap(),
                bytes: 1,
                push: push(tag),
            });
        }
        let at = crate::clock::Timestamp::from_unix_millis(7);
        history.given_up(&of(2, "cd"), "it was told why", at);
        history.close().await;
        let ended = opened.notes.take_ended();
        for _ in ["a kill", "and another"] {
            let history = start(&opened.journal);
            restore(&history, &opened.journal, &file, &ended);
            history.close().await;
            let mut reader = Reader::open(&file).unwrap();
            let of = Sought::Repository("acme/app".to_owned());
            let found = reader.stories(&of, None, 10).unwrap().pushes;
            let told = found.iter().flat_map(|push| {
                let deliveries = push.deliveries.iter();
                deliveries.map(|one| {
                    let state = (&*one.state, one.ended_at, one.reason.as_deref());
                    (&*push.tag, &*one.endpoint, state)
                })
            });
            let unknown = |state| (state, None, None);
            assert_eq!(
                told.collect::<Vec<_>>(),
                [
                    ("4", "cd", unknown("delivered")),
                    ("4", "ci", unknown("delivered")),
                    ("3", "cd", unknown("superseded")),
                    ("3", "ci", unknown("pending")),
                    ("2", "cd", ("dead_letter", Some(at), Some("it was told why"))),
                    ("2", "ci", unknown("delivered")),
                    ("1", "cd", unknown("pending")),
                    ("1", "ci", unknown("delivered")),
                ]
            );
        }
    }
}
