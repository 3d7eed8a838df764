//! On real files.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::StatusCode;
use tempfile::TempDir;

use super::{history::Gauges, line::Line, reconcile::Ledger, writer::Writer, *};
use crate::{
    image::{Digest, MediaType},
    journal::{Durable, JournalId, Owed},
    push::{Dropped, EndpointId, Push, Sequence, Settlement},
    webhook::{
        Fault, Outcome, Sizes,
        answer::{Answer, BodyEnd},
    },
};

mod bounds;
mod compared;
mod damage;
mod figures;
mod gathered;
mod line;
mod line_faults;
mod lists;
mod masks;
mod stories;
mod transitions;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const START_MS: i64 = 1_795_424_918_473;

const ROOMY: Options = Options {
    age_max: Duration::from_hours(7 * 24),
    bytes_max: 1 << 30,
};

/// A history of its own, on a clock that the test moves.
struct Stage {
    folder: TempDir,
    clock_ms: Arc<AtomicI64>,
    /// Set for a writer that doubts the clock as a real one does: how often it looked at what is old. Others believe it.
    looks: Option<Arc<AtomicUsize>>,
    options: Options,
    journal: JournalId,
}

impl Stage {
    fn new(options: Options) -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            clock_ms: Arc::new(AtomicI64::new(START_MS)),
            looks: None,
            options,
            journal: JournalId([7; 16]),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.clock_ms.load(Ordering::Relaxed))
    }

    fn pass(&self, ms: i64) {
        self.clock_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Starts writing; what `owed` lists is still owed.
    fn start_owing(&self, owed: Vec<Owed>) -> Running {
        let bounds = super::line::Bounds {
            spill_at: 16 << 20,
            memory: 64 << 20,
            files: self.options.bytes_max / 4,
        };
        self.start_with(bounds, owed)
    }

    /// The same, with so much in the line.
    fn start_with(&self, bounds: super::line::Bounds, owed: Vec<Owed>) -> Running {
        self.start_on(self.line(bounds), owed)
    }

    fn line(&self, bounds: super::line::Bounds) -> Line {
        Line::new(self.folder.path(), self.journal, bounds, Arc::default())
    }

    /// The same, on a line that was made before.
    fn start_on(&self, line: Line, owed: Vec<Owed>) -> Running {
        let line = Arc::new(line);
        let gauges = Arc::clone(&line.gauges);
        let history = History::telling(Arc::clone(&line));
        let clock_ms = Arc::clone(&self.clock_ms);
        let clock = Clock::from_fn(move || Timestamp::from_unix_millis(clock_ms.load(Ordering::Relaxed)));
        let ledger = Ledger::new(move |after, count| {
            let behind = owed
                .iter()
                .filter(|push| after.is_none_or(|after| push.sequence > after));
            Ok(behind.take(count).cloned().collect())
        });
        let mut writer = Writer::new(
            self.file(),
            self.options,
            (self.journal, ledger),
            Box::new(Vec::new),
            clock.clone(),
            Arc::clone(&line),
        );
        writer.ages = match &self.looks {
            None => clock,
            Some(looks) => {
                let (ages, looks) = (clock.for_ages(self.options.age_max), Arc::clone(looks));
                Clock::from_fn(move || {
                    looks.fetch_add(1, Ordering::Relaxed);
                    ages.now()
                })
            }
        };
        // Nothing runs beside it that needs the machine more, and nobody waits for its end.
        writer.rest_max = Duration::ZERO;
        writer.close_within = Duration::from_mins(1);
        writer.held_up_for = Duration::from_millis(1);
        let spilling = Arc::clone(&line);
        thread::spawn(move || spilling.spill());
        let ending = Arc::clone(&line);
        let thread = thread::spawn(move || {
            writer.run();
            ending.over();
        });
        Running {
            history,
            line,
            gauges,
            thread,
        }
    }

    fn start(&self) -> Running {
        self.start_owing(Vec::new())
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.file()).unwrap()
    }

    fn stories(&self, sought: &Sought) -> Stories {
        self.reader().stories(sought, None, 1000).unwrap()
    }

    fn tag(&self, tag: &str) -> Vec<PushStory> {
        self.stories(&Sought::Tag("acme/app".to_owned(), tag.to_owned()))
            .pushes
    }

    /// Names of what was moved aside, without companions.
    fn aside(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("catalog.db."))
            .collect();
        names.sort();
        names
    }
}

struct Running {
    history: History,
    line: Arc<Line>,
    gauges: Arc<Gauges>,
    thread: thread::JoinHandle<()>,
}

impl Running {
    fn close(self) -> Stats {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(self.history.close());
        self.thread.join().unwrap();
        assert!(self.gauges.rows.load(Ordering::Relaxed) < u64::MAX);
        self.history.stats()
    }
}

fn ci() -> EndpointId {
    EndpointId::Named("ci".into())
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

fn event_id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// What the journal says of a push that is owed.
fn owed(number: u64) -> Owed {
    Owed {
        sequence: sequence(number),
        bytes: 600,
        repository: "acme/app".parse().unwrap(),
        tag: None,
        owed: vec![(0, ci())],
    }
}

fn durable(number: u64, tag: &str, taken_at: Timestamp) -> Durable {
    Durable {
        sequence: sequence(number),
        bytes: 600,
        push: Push {
            event_id: event_id(number),
            repository: "acme/app".parse().unwrap(),
            tag: Some(tag.parse().unwrap()),
            digest: Digest::sha256(tag.as_bytes()),
            media_type: MediaType::OciManifest,
            manifest_size: 1234,
            references: Vec::new(),
            actor: "alice".to_owned(),
            taken_at,
            owed: vec![ci()],
        },
    }
}

fn which(number: u64, tag: &str) -> Which {
    Which {
        sequence: sequence(number),
        endpoint: ci(),
        repository: "acme/app".parse().unwrap(),
        tag: Some(tag.parse().unwrap()),
    }
}

fn answer(status: u16, body: &[u8]) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        retry_after: None,
        body: Bytes::copy_from_slice(body),
        end: BodyEnd::Complete,
    }
}

fn failed(status: u16) -> Outcome {
    Outcome::Failed {
        fault: Fault::Endpoint,
        status: Some(status),
        reason: format!("answered {status}"),
        retry_after: None,
    }
}

fn attempt(history: &History, number: u64, tag: &str, at: Timestamp, outcome: &Outcome) {
    let status = match outcome {
        Outcome::Delivered { status } => *status,
        Outcome::Failed { status, .. } => status.unwrap(),
    };
    let sizes = Sizes {
        image_size: Some(80_796),
        repository_size: None,
        ..Sizes::default()
    };
    history.attempted(
        &which(number, tag),
        Attempt {
            digest: &Digest::sha256(tag.as_bytes()),
            sizes: &sizes,
            at,
            elapsed: Duration::from_millis(12),
            request: None,
            answer: &Ok(answer(status, b"try again")),
            outcome,
        },
    );
}

/// A push that is taken, delivered at once, and ended.
fn deliver(history: &History, number: u64, tag: &str, at: Timestamp) {
    history.taken(&durable(number, tag, at));
    attempt(history, number, tag, at, &Outcome::Delivered { status: 200 });
    history.ended(&which(number, tag), Settlement::Delivered, at);
}

fn drop_one(rule: &'static str, tag: &str, number: u64, at: Timestamp) -> Dropped {
    Dropped {
        at,
        rule,
        repository: "acme/app".to_owned(),
        tag: tag.to_owned(),
        digest: Digest::sha256(tag.as_bytes()).to_string(),
        event_id: event_id(number),
        actor: String::new(),
    }
}

#[test]
fn the_file_is_its_owners_alone_and_goes_on_after_a_restart() {
    let stage = Stage::new(ROOMY);
    for number in 1..=3 {
        let running = stage.start();
        deliver(&running.history, number, "1", stage.now());
        running.close();
    }
    assert_eq!(
        fs::metadata(stage.file()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let sequences: Vec<u64> = stage.tag("1").iter().map(|push| push.sequence).collect();
    assert_eq!(sequences, [3, 2, 1], "newest first");
    let page = stage
        .reader()
        .stories(&Sought::Repository("acme/app".to_owned()), None, 2)
        .unwrap()
        .pushes;
    let next = stage
        .reader()
        .stories(&Sought::Repository("acme/app".to_owned()), Some(page[1].id), 2)
        .unwrap()
        .pushes;
    assert_eq!(next[0].sequence, 1);
}

#[test]
fn another_journals_pushes_are_others() {
    let mut stage = Stage::new(ROOMY);
    for journal in [1, 2] {
        stage.journal = JournalId([journal; 16]);
        let running = stage.start();
        deliver(&running.history, 1, "1", stage.now());
        running.close();
    }
    let pushes = stage.tag("1");
    assert_eq!(pushes.len(), 2);
    assert_ne!(
        pushes[0].deliveries[0].webhook_id,
        pushes[1].deliveries[0].webhook_id
    );
}

#[test]
fn two_readers_see_whole_states_while_it_is_written() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    deliver(&running.history, 1, "1", stage.now());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while Reader::open(&stage.file()).is_err() {
        assert!(std::time::Instant::now() < deadline, "it is never made");
        thread::yield_now();
    }
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut reader = stage.reader();
                loop {
                    let found = reader
                        .stories(&Sought::Tag("acme/app".to_owned(), "1".to_owned()), None, 1000)
                        .unwrap();
                    assert!(found.pushes.iter().all(|push| push.deliveries.len() == 1));
                    if found.pushes.len() == 500 {
                        break;
                    }
                    assert!(
                        std::time::Instant::now() < deadline,
                        "{} of 500",
                        found.pushes.len()
                    );
                }
            });
        }
        for number in 2..=500 {
            deliver(&running.history, number, "1", stage.now());
        }
    });
    assert_eq!(running.close().dropped, 0);
}
