//! shipbell's journal and queue at the same work as the floor: the one file here that calls their API.

use std::{
    collections::VecDeque,
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::ensure;
use shipbell::{
    clock::Clock,
    glob::Patterns,
    image::{Digest, MediaType},
    journal::{Applied, Applier, Journal, Opened, Options},
    push::{EndpointId, Item, Pair, Push, Reference, Settlement},
    queue::Queue,
    secret::Secret,
    webhook::{Batching, Coalesce, Endpoint, Endpoints, Format, Rate, guard::Author},
};
use tokio::runtime::{Builder, Runtime};

use super::workload::{self, PER_COMMIT};

/// The actor's name fills a record up to [`workload::RECORD_BYTES`].
const ACTOR: &str = "robot$continuous-integration-of-all-the-teams-at-the-acme-works";

/// Pushes for so many commits are made before the clock runs.
const COMMITS_MADE_AHEAD: u64 = 20;

/// Appends that wait at a time.
const IN_LINE: usize = 4;

/// As `config.example.toml` has them.
const OPTIONS: Options = Options {
    segment_size: 16 * 1024 * 1024,
    max_size: 4 * 1024 * 1024 * 1024,
};

/// How long the last settlements may take to be cleared.
const CALM_WITHIN: Duration = Duration::from_secs(30);

/// A journal that takes appends.
#[derive(Debug)]
pub(crate) struct Running {
    journal: Journal,
    writer: JoinHandle<()>,
    runtime: Runtime,
}

impl Running {
    /// A journal in `folder`; what becomes durable is let go.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        Self::open_with(folder, Box::new(|_| {}))
    }

    fn open_with(folder: &Path, applier: Applier) -> anyhow::Result<Self> {
        let Opened {
            journal, mut writer, ..
        } = Journal::open(folder, OPTIONS, Clock::system())?;
        // However many appends wait, no two share a commit: the floor syncs as often.
        writer.limit_commits(1);
        Ok(Self {
            journal,
            writer: writer.start(applier)?,
            runtime: Builder::new_current_thread().build()?,
        })
    }

    /// Makes the pushes durable, in one commit.
    pub(crate) fn append(&self, pushes: Vec<Item>) -> anyhow::Result<()> {
        Ok(self.runtime.block_on(self.journal.append(pushes))?)
    }

    /// Ends it.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        self.runtime.block_on(self.journal.close());
        ensure!(self.writer.join().is_ok(), "the journal's thread panicked");
        Ok(())
    }
}

/// Appends that many pushes in `folder`, as those who take pushes do: while commits are written, the pushes of the
/// next ones are put in line. Each commit is of [`PER_COMMIT`] pushes.
pub(crate) fn append(folder: &Path, records: u64) -> anyhow::Result<Duration> {
    let journal = Running::open(folder)?;
    let mut took = Duration::ZERO;
    for first in (0..records).step_by(usize::try_from(COMMITS_MADE_AHEAD * PER_COMMIT)?) {
        let behind = records.min(first + COMMITS_MADE_AHEAD * PER_COMMIT);
        let made = (first..behind).step_by(usize::try_from(PER_COMMIT)?);
        let made: Vec<_> = made
            .map(|first| pushes(first, PER_COMMIT))
            .collect::<anyhow::Result<_>>()?;
        let began = Instant::now();
        let mut in_line = VecDeque::new();
        for pushes in made {
            in_line.push_back(journal.journal.append(pushes));
            if in_line.len() >= IN_LINE
                && let Some(oldest) = in_line.pop_front()
            {
                journal.runtime.block_on(oldest)?;
            }
        }
        for rest in in_line {
            journal.runtime.block_on(rest)?;
        }
        took += began.elapsed();
    }
    let handle = journal.journal.clone();
    journal.close()?;
    let (commits, wanted) = (handle.stats().commits, records / PER_COMMIT);
    ensure!(
        commits == wanted,
        "{records} pushes came in {commits} commits: the floor syncs {wanted} times"
    );
    let bytes = content_bytes(folder)? / records;
    ensure!(
        bytes.abs_diff(workload::RECORD_BYTES as u64) <= 10,
        "a push takes {bytes} bytes in the journal, not {}: adjust ACTOR",
        workload::RECORD_BYTES
    );
    Ok(took)
}

/// Opens the journal in `folder` and rebuilds the queues, as a start does.
pub(crate) fn replay(folder: &Path, records: u64) -> anyhow::Result<Duration> {
    let endpoints = endpoints();
    let began = Instant::now();
    let Opened {
        journal,
        writer: _writer,
        notes,
        ..
    } = Journal::open(folder, OPTIONS, Clock::system())?;
    let (queue, now) = (Queue::new(), tokio::time::Instant::now());
    let mut takers = [(); 2].map(|()| queue.restoring(&endpoints, now));
    notes.hand_over(&journal, &mut takers, |restoring, run| drop(restoring.take(&run)))?;
    for restoring in takers {
        restoring.finish();
    }
    let took = began.elapsed();
    let found = queue.pending() as u64;
    ensure!(found == records, "{found} of {records} pushes were found again");
    Ok(took)
}

/// What is on disk while pushes flow through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    /// Bytes of the records that were taken.
    pub(crate) taken_bytes: f64,
    /// Bytes in the folder at the end.
    pub(crate) disk_bytes: f64,
    /// As parts of twice the bytes that are live and two segments: at the end, and the most at any moment.
    pub(crate) last: f64,
    pub(crate) most: f64,
}

/// Takes that many pushes and settles each at once; but one of `every` is owed by an endpoint that takes none.
pub(crate) fn with_one_endpoint_dead(folder: &Path, records: u64, every: u64) -> anyhow::Result<Kept> {
    let (told, durable) = mpsc::channel();
    let journal = Running::open_with(
        folder,
        Box::new(move |applied| {
            for applied in applied {
                let Applied::Push(push) = applied else { continue };
                // Nobody listens once the measurement has failed.
                let _ = told.send((push.sequence, push.bytes));
            }
        }),
    )?;
    let mut kept = Kept::default();
    for first in (0..records).step_by(usize::try_from(PER_COMMIT)?) {
        let pushes = (first..first + PER_COMMIT).map(|number| {
            let mut push = push(number)?;
            if number % every == 0 {
                push.owed.push(EndpointId::Named("dead".into()));
            }
            Ok(Item::Push(push))
        });
        journal.append(pushes.collect::<anyhow::Result<_>>()?)?;
        let settled = durable.try_iter().map(|(sequence, bytes)| {
            kept.taken_bytes += f64::from(bytes);
            (Pair { sequence, place: 0 }, Settlement::Delivered)
        });
        journal
            .runtime
            .block_on(journal.journal.settle(settled.collect::<Vec<_>>()));
        kept.look(&journal.journal, folder)?;
    }
    // The last settlements are committed, and what they freed is cleared.
    let deadline = Instant::now() + CALM_WITHIN;
    while kept.last > 1.0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
        kept.look(&journal.journal, folder)?;
    }
    journal.close()?;
    Ok(kept)
}

impl Kept {
    fn look(&mut self, journal: &Journal, folder: &Path) -> anyhow::Result<()> {
        // In this order: what is freed in between only makes it more.
        let mut disk = 0;
        for entry in fs::read_dir(folder)? {
            match entry?.metadata() {
                // What the file system set aside, not how long the file says it is.
                Ok(metadata) => disk += metadata.blocks() * 512,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let live = journal.stats().live_bytes;
        let bound = 2 * live + 2 * u64::from(OPTIONS.segment_size);
        let [disk, bound] = [disk, bound].map(|bytes| u32::try_from(bytes / 1024).map(f64::from));
        let (disk, bound) = (disk?, bound?);
        self.disk_bytes = disk * 1024.0;
        self.last = disk / bound;
        self.most = self.most.max(self.last);
        Ok(())
    }
}

fn endpoint_id() -> EndpointId {
    EndpointId::Named("hook".into())
}

fn endpoints() -> Endpoints {
    let all = Arc::new(Patterns::everything());
    Endpoints::new(vec![Endpoint {
        id: endpoint_id(),
        author: Author::Operator,
        url: Secret::inline("http://127.0.0.1:1/hook"),
        secret: None,
        previous_secret: None,
        format: Format::Native,
        headers: Vec::new(),
        repositories: Arc::clone(&all),
        tags: all.into(),
        exclude_tags: Arc::default(),
        batching: Arc::new(Batching {
            window: Duration::from_hours(1),
            pushes_max: 10_000,
            coalesce: Coalesce::Tag,
        }),
        rate: Rate { per_second: None },
        way: None,
    }])
}

/// `count` pushes, the first of them of number `first`.
pub(crate) fn pushes(first: u64, count: u64) -> anyhow::Result<Vec<Item>> {
    (first..first + count)
        .map(|number| Ok(Item::Push(push(number)?)))
        .collect()
}

/// A push of a small image, its references listed: what the registry tells with `includereferences: true`.
fn push(number: u64) -> anyhow::Result<Push> {
    let digest = |blob: u8| {
        let mut bytes = [blob; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Digest::Sha256(bytes)
    };
    let reference = |blob: u8, media_type: &str| Reference {
        media_type: media_type.into(),
        size: 30_221,
        digest: digest(blob),
        has_urls: false,
    };
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    Ok(Push {
        event_id: format!("01a207aa-a24a-7313-b223-{number:012}"),
        repository: workload::repository(number).parse()?,
        tag: Some(format!("v{}", number / workload::REPOSITORIES % 100).parse()?),
        digest: digest(0),
        media_type: MediaType::OciManifest,
        manifest_size: 582,
        references: vec![
            reference(1, "application/vnd.oci.image.config.v1+json"),
            reference(2, layer),
            reference(3, layer),
            reference(4, layer),
            reference(5, layer),
        ],
        actor: ACTOR.to_owned(),
        // Now, so that its id is remembered as one that may come again.
        taken_at: Clock::system().now(),
        owed: vec![endpoint_id()],
    })
}

/// Bytes in the folder's segments, but for the zeros at their ends.
fn content_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let content = fs::read(entry?.path())?;
        let end = content.iter().rposition(|byte| *byte != 0);
        bytes += end.map_or(0, |end| end as u64 + 1);
    }
    Ok(bytes)
}
