//! The journal as a whole, on a storage that fails when told to. Turns of the writer are taken by hand, so
//! that every test sees one order of events.

use std::{
    collections::HashMap,
    io::ErrorKind,
    sync::{Arc, Mutex},
};

use futures_util::FutureExt;

use super::{
    faulty::{Call, Faulty, Trouble},
    flight::Pace,
    frame::FRAME_HEADER_BYTES,
    inbox::Gate,
    segment::SEGMENT_HEADER_BYTES,
    spare::Filling,
    *,
};
use crate::{
    clock::Timestamp,
    image::{Digest, MediaType, RepositoryName},
    push::{Change, EndpointId, Reference},
};

mod bounds;
mod carried;
mod damage;
mod exhaustive;
mod faults;
mod flights;
mod format;
mod kept;
mod model;
mod overtaken;
mod read;
mod settled;
mod space;
mod sweep;
mod tools;

const OPTIONS: Options = Options {
    segment_size: 4096,
    max_size: 1024 * 1024,
};

/// A journal whose writer is turned by hand.
struct Hand {
    journal: Journal,
    writer: Option<Writer>,
    applier: Applier,
    applied: Arc<Mutex<Vec<Applied>>>,
    pending: Vec<Owed>,
    report: RecoveryReport,
}

fn clock() -> Clock {
    Clock::from_fn(|| Timestamp::from_unix_millis(1_000_000))
}

fn try_open(storage: &Arc<Faulty>, options: Options) -> Result<Hand, OpenError> {
    open_filling(storage, options, Filling::OnDemand)
}

fn open_filling(storage: &Arc<Faulty>, options: Options, filling: Filling) -> Result<Hand, OpenError> {
    let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(storage);
    let opened = recovery::open(&storage, options, clock(), filling)?;
    let applied = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&applied);
    let mut pending =
        all_owed(&opened.journal).map_err(|error| OpenError::from_io(error.file, error.error))?;
    pending.retain(|owed| !owed.owed.is_empty());
    let handed_over = handed_over(opened.notes, &opened.journal)?;
    assert_eq!(handed_over, pending, "what is handed over is what is owed");
    Ok(Hand {
        journal: opened.journal,
        writer: Some(opened.writer),
        applier: Box::new(move |news| sink.lock().unwrap().extend_from_slice(news)),
        applied,
        pending,
        report: opened.report,
    })
}

/// What a start hands over, in the order of the sequence numbers; of each repository it must come so.
fn handed_over(notes: Notes, journal: &Journal) -> Result<Vec<Owed>, OpenError> {
    let mut takers = [(); 3].map(|()| (Vec::new(), HashMap::new()));
    let handed_over = notes.hand_over(journal, &mut takers, |(all, last), run| {
        for push in run.pushes {
            let before = last.insert(run.repository.clone(), (push.sequence, run.is_last));
            // Of a push that some are to be sent and others not, there are two.
            let is_in_order =
                |(before, was_last): (Sequence, bool)| before <= push.sequence && (!was_last || run.is_last);
            assert!(before.is_none_or(is_in_order));
            all.push(Owed {
                sequence: push.sequence,
                bytes: push.bytes,
                repository: run.repository.clone(),
                tag: (!push.tag.is_empty()).then(|| push.tag.parse().unwrap()),
                owed: run.owed.to_vec(),
            });
        }
    });
    handed_over.map_err(|error| OpenError::from_io("owed".into(), std::io::Error::other(error)))?;
    let repositories: usize = takers.iter().map(|(_, last)| last.len()).sum();
    let last = takers.iter().flat_map(|(_, last)| last);
    let last: HashMap<_, _> = last.collect();
    assert_eq!(
        last.len(),
        repositories,
        "what is of one repository goes to one taker"
    );
    assert!(
        last.values().all(|(_, was_last)| *was_last),
        "of each there is a last run"
    );
    let mut all: Vec<Owed> = takers.into_iter().flat_map(|(all, _)| all).collect();
    all.sort_by_key(|owed: &Owed| owed.sequence);
    all.dedup_by(|second, first| {
        let is_one = first.sequence == second.sequence;
        if is_one {
            first.owed.append(&mut second.owed);
            first.owed.sort_by_key(|(place, _)| *place);
        }
        is_one
    });
    Ok(all)
}

fn all_owed(journal: &Journal) -> Result<Vec<Owed>, Unreadable> {
    journal.owed(None, usize::MAX).into_iter().collect()
}

fn open(storage: &Arc<Faulty>) -> Hand {
    try_open(storage, OPTIONS).unwrap()
}

impl Hand {
    /// One turn of the writer; when it is done for, it goes, as its thread would.
    fn turn(&mut self) {
        let writer = self.writer.as_mut().expect("the writer has ended");
        if writer.turn(&mut self.applier) != Gate::Open {
            self.writer = None;
        }
    }

    /// A turn although there may be nothing to do.
    fn poke(&mut self) {
        self.journal.shared.inbox.nudge();
        self.turn();
    }

    /// Turns until there is nothing left to carry forward or to delete.
    fn calm_down(&mut self) {
        for _ in 0..10_000 {
            self.poke();
            let Some(writer) = &self.writer else { return };
            let Some(at) = writer.carry_at() else { return };
            time::pass(at.saturating_duration_since(time::now()));
        }
        panic!("carrying forward comes to no end");
    }

    fn append(&mut self, items: Vec<Item>) -> Result<(), AppendError> {
        let answer = self.journal.append(items);
        if self.writer.is_some() {
            self.turn();
        }
        answer.now_or_never().expect("answered within the turn")
    }

    /// Appends that wait together, and then a turn; what each is told.
    fn append_all(&mut self, appends: impl IntoIterator<Item = Vec<Push>>) -> Vec<Result<(), AppendError>> {
        let answers = appends.into_iter().map(|pushes| {
            let items = pushes.into_iter().map(Item::Push).collect();
            self.journal.append(items)
        });
        let answers: Vec<_> = answers.collect();
        if self.writer.is_some() {
            self.turn();
        }
        let answers = answers.into_iter();
        let told = answers.map(|answer| answer.now_or_never().expect("answered within the turn"));
        told.collect()
    }

    fn set_pace(&mut self, pace: Pace) {
        if let Some(writer) = &mut self.writer {
            writer.pace = pace;
        }
    }

    fn take(&mut self, number: u32) -> Result<(), AppendError> {
        self.append(vec![Item::Push(push(number))])
    }

    /// The pushes that were applied.
    fn durable(&self) -> Vec<Durable> {
        let applied = self.applied.lock().unwrap();
        let durable = applied.iter().filter_map(|applied| match applied {
            Applied::Push(durable) => Some(durable.clone()),
            Applied::Change(_) => None,
        });
        durable.collect()
    }

    fn settle(&self, durable: &Durable) {
        let pairs = (0..).zip(&durable.push.owed).map(|(place, _)| Pair {
            sequence: durable.sequence,
            place,
        });
        self.journal
            .shared
            .settle(pairs.map(|pair| (pair, Settlement::Delivered)));
    }

    /// Settles all that a push found at the start owes.
    fn settle_owed(&self, owed: &Owed) {
        let pairs = owed.owed.iter().map(|(place, _)| Pair {
            sequence: owed.sequence,
            place: *place,
        });
        self.journal
            .shared
            .settle(pairs.map(|pair| (pair, Settlement::Delivered)));
    }

    /// The pushes that were found to be owed at the start.
    fn pushes(&self) -> Vec<Push> {
        let sequences: Vec<_> = self.pending.iter().map(|owed| owed.sequence).collect();
        self.read(&sequences).unwrap()
    }

    fn read(&self, sequences: &[Sequence]) -> std::io::Result<Vec<Push>> {
        self.journal.read(sequences).into_iter().collect()
    }

    /// Their event ids.
    fn pending_ids(&self) -> Vec<String> {
        self.pushes().into_iter().map(|push| push.event_id).collect()
    }

    /// In which segment a push stands.
    fn segment_of(&self, sequence: Sequence) -> u64 {
        self.journal
            .shared
            .live()
            .find(sequence)
            .unwrap()
            .standing
            .segment
    }

    fn close(mut self) {
        let closed = self.journal.close();
        self.turn();
        closed.now_or_never().expect("closed within the turn");
    }
}

/// A push that owes one endpoint, its number in its event id.
fn push(number: u32) -> Push {
    Push {
        event_id: format!("event-{number}"),
        repository: "acme/app".parse().unwrap(),
        tag: Some(format!("v{number}").parse().unwrap()),
        digest: Digest::from_bytes(&[number.to_le_bytes(); 8].concat()).unwrap(),
        media_type: MediaType::OciManifest,
        manifest_size: 528,
        // The record ends with a byte that is not zero, so that its end is seen in a file of zeros.
        references: vec![Reference {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            size: u64::from(number),
            digest: Digest::sha256(b"layer"),
            has_urls: true,
        }],
        actor: String::new(),
        taken_at: Timestamp::from_unix_millis(i64::from(number)),
        owed: vec![EndpointId::Named("ci".into())],
    }
}

/// What a start finds of a push that nobody has settled.
fn owed(durable: &Durable) -> Owed {
    Owed {
        sequence: durable.sequence,
        bytes: durable.bytes,
        repository: durable.push.repository.clone(),
        tag: durable.push.tag.clone(),
        owed: (0..).zip(durable.push.owed.iter().cloned()).collect(),
    }
}

fn change() -> Notice {
    Notice {
        event_id: String::new(),
        change: Change::RepositoryDeleted {
            repository: "acme/app".parse().unwrap(),
        },
    }
}

fn event_ids(durable: &[Durable]) -> Vec<&str> {
    durable
        .iter()
        .map(|durable| durable.push.event_id.as_str())
        .collect()
}

fn segments(storage: &Faulty) -> Vec<u64> {
    storage
        .files()
        .iter()
        .filter_map(|(name, _)| segment::parse_file_name(name))
        .collect()
}

fn futures_executor<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}
