//! The dispatcher on a real journal, a real `settings.db` and a receiver on the loopback.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    health::{Event, Policy, Verdict},
    retry::RetrySchedule,
    *,
};
use crate::{
    catalog,
    clock::Timestamp,
    journal::Applied,
    push::{Item, Push},
    queue::Bounds,
    registry,
    secret::Secret,
    settings::{FILE, LetterFilter},
    sizing,
    webhook::{
        Batching, Coalesce, Endpoint, Rate,
        client::{self, Client},
        guard::Guard,
    },
};

mod bounded;
mod by_hand;
mod deciding;
mod dying;
mod full;
mod moved;
mod refused;
mod replays;
mod waiting_letters;

const HOUR_MS: i64 = 3_600_000;
const SOON: Duration = Duration::from_mins(1);
const UNPACED: Rate = Rate { per_second: None };

/// How much a lane at work takes besides what its attempt does: there may be as many as
/// [`LANES_MAX`](lanes::LANES_MAX).
#[test]
fn a_lane_that_waits_takes_little() {
    fn size_of_result<D, R, L, T>(_: impl Fn(D, R, L) -> T) -> usize {
        size_of::<T>()
    }
    let bytes = size_of_result(Dispatcher::run_lane);
    assert!(bytes <= 2_048, "{bytes} bytes");
}

fn named(name: &str) -> EndpointId {
    EndpointId::Named(name.into())
}

fn endpoint(name: &str, url: &str, rate: Rate) -> Endpoint {
    Endpoint {
        rate,
        ..Endpoint::plain(name, url)
    }
}

fn push(repository: &str, tag: &str, owed: &[&str]) -> Push {
    Push::plain(repository, tag, owed)
}

/// A clock that stands where it is put.
#[derive(Clone)]
struct Set(Arc<AtomicI64>);

impl Set {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(Clock::system().now().unix_millis())))
    }

    fn clock(&self) -> Clock {
        let at = Arc::clone(&self.0);
        Clock::from_fn(move || Timestamp::from_unix_millis(at.load(Ordering::Acquire)))
    }

    fn go(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::AcqRel);
    }
}

/// What waits for a state of others, with a deadline.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A webhook as it came.
#[derive(Clone, Debug)]
struct Came {
    id: String,
    image: String,
    body: serde_json::Value,
    at: Instant,
}

/// No answer until another one is told.
const LATER: usize = 0;

/// Takes webhooks on the loopback, and answers as it is told.
#[derive(Clone)]
struct Hook {
    url: String,
    came: Arc<Mutex<Vec<Came>>>,
    status: watch::Sender<usize>,
}

impl Hook {
    async fn start(status: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hook = Self {
            url: format!("http://{}/hook?token=hunter2", listener.local_addr().unwrap()),
            came: Arc::default(),
            status: watch::Sender::new(status),
        };
        let serving = hook.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        hook
    }

    fn answer(&self, status: usize) {
        self.status.send_replace(status);
    }

    fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    fn images(&self) -> Vec<String> {
        self.came().into_iter().map(|came| came.image).collect()
    }

    async fn wait_for(&self, count: usize) -> Vec<Came> {
        eventually(&format!("{count} webhooks"), async || self.came().len() >= count).await;
        self.came()
    }

    async fn serve(self, mut stream: TcpStream) {
        let (reader, mut writer) = stream.split();
        let mut reader = BufReader::new(reader);
        loop {
            let (mut head, mut line) = (String::new(), String::new());
            while line != "\r\n" {
                line.clear();
                if reader.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                head.push_str(&line.to_ascii_lowercase());
            }
            let header = |name: &str| {
                let value = head
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                value.unwrap().to_owned()
            };
            let mut body = vec![0; header("content-length").parse().unwrap()];
            reader.read_exact(&mut body).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            self.came.lock().unwrap().push(Came {
                id: header("webhook-id"),
                image: body["image"].as_str().unwrap().to_owned(),
                body,
                at: Instant::now(),
            });
            let mut told = self.status.subscribe();
            let Ok(status) = told.wait_for(|status| *status != LATER).await.map(|told| *told) else {
                return;
            };
            let answer = format!("HTTP/1.1 {status} Told\r\nContent-Length: 12\r\n\r\nsaid hunter2");
            if writer.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// A dispatcher at work.
struct Stage {
    folder: PathBuf,
    dispatcher: Dispatcher,
}

impl Stage {
    /// Starts on what is in the folder, as the process does, but for the ingest and the registry.
    async fn start(folder: &TempDir, endpoints: Vec<Endpoint>) -> Self {
        Self::start_bounded(folder, endpoints, Bounds::default()).await
    }

    /// The same within these bounds.
    async fn start_bounded(folder: &TempDir, endpoints: Vec<Endpoint>, bounds: Bounds) -> Self {
        Self::start_by(folder, endpoints, bounds, dispatch_options(), Clock::system()).await
    }

    /// The same by these options and this clock.
    async fn start_by(
        folder: &TempDir,
        endpoints: Vec<Endpoint>,
        bounds: Bounds,
        options: Options,
        clock: Clock,
    ) -> Self {
        let folder = folder.path().to_owned();
        let endpoints = Endpoints::new(endpoints);
        let sizes = crate::journal::Options {
            segment_size: 16 << 20,
            max_size: 1 << 30,
        };
        let mut opened = Journal::open(&folder.join("journal"), sizes, clock.clone());
        let deadline = Instant::now() + SOON;
        // What was cut off before may hold it for a moment still.
        while let (Err(crate::journal::OpenError::Locked { .. }), true) = (&opened, Instant::now() < deadline)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
            opened = Journal::open(&folder.join("journal"), sizes, clock.clone());
        }
        let opened = opened.unwrap();
        let (journal, metrics) = (opened.journal, Metrics::new(&clock));
        let queue = Arc::new(Queue::bounded(bounds));
        let restoring = queue.restoring(&endpoints, Instant::now());
        let mut takers = [((Orphans::new(), Orphans::new()), restoring)];
        let restored =
            opened
                .notes
                .hand_over(&journal, &mut takers, |((orphans, overtaken), restoring), run| {
                    if run.is_overtaken {
                        overtaken.extend(restoring.pass_over(&run));
                    } else {
                        orphans.extend(restoring.take(&run));
                    }
                });
        restored.unwrap();
        let [((orphans, overtaken), restoring)] = takers;
        restoring.finish();
        let settings = Settings::open(&folder.join(FILE)).unwrap();
        let kept = catalog::Options {
            age_max: Duration::from_hours(24),
            bytes_max: 1 << 30,
        };
        let history = catalog::start(&folder, kept, journal.clone(), Vec::new, clock.clone(), || {}).unwrap();
        let steady = clock.steady();
        let states = states::Parts {
            policy: policy(),
            clock: steady.clone(),
            queue: Arc::clone(&queue),
            endpoints: endpoints.clone(),
            settings: settings.clone(),
            metrics: metrics.clone(),
            alerts: None,
            history: history.clone(),
        };
        let refusals = refusals::Parts {
            journal: journal.id(),
            queue: Arc::clone(&queue),
            endpoints: endpoints.clone(),
            settings: settings.clone(),
            clock: clock.clone(),
        };
        let parts = Parts {
            refusals: Refusals::restore(refusals).unwrap(),
            queue: Arc::clone(&queue),
            journal,
            endpoints: endpoints.clone(),
            sizing: Sizing::new(nowhere(), sizing::Options::default()),
            client: client(),
            states: States::restore(states).unwrap(),
            steady,
            clock,
            tasks: Tasks::new(),
            metrics,
            history: history.clone(),
            history_file: Some(folder.join(catalog::FILE)),
            settings,
        };
        let dispatcher = Dispatcher::new(options, parts);
        let undertaker = dispatcher.clone();
        let applier = move |applied: &[Applied]| {
            for applied in applied {
                if let Applied::Push(durable) = applied {
                    undertaker.bury(queue.apply(durable, &endpoints, Instant::now()), Some(0));
                    history.taken(durable);
                }
            }
        };
        opened.writer.start(Box::new(applier)).unwrap();
        let tasks = &dispatcher.0.parts.tasks;
        let refusals = dispatcher.0.parts.refusals.clone();
        tasks.spawn_lasting("refusals", refusals.keep(tasks.soft().clone()));
        tasks.spawn_lasting("letters", dispatcher.clone().keep_letters());
        tasks.spawn_lasting("replays", dispatcher.clone().run_replays());
        tasks.spawn_lasting("backlogs", dispatcher.clone().bound_backlogs());
        tasks.spawn_lasting("dispatcher", dispatcher.clone().run());
        dispatcher.bury(orphans, None);
        dispatcher.bury_overtaken(overtaken, Vec::new());
        Self { folder, dispatcher }
    }

    async fn stop(self) {
        let parts = &self.dispatcher.0.parts;
        parts.tasks.soft().cancel();
        parts.tasks.ended().await;
        self.dispatcher.close_letters().await;
        parts.states.close().await;
        parts.refusals.close().await;
        parts.journal.close().await;
        parts.history.close().await;
    }

    /// Ends as if killed, but for what is in the hands of the system.
    async fn kill(self) {
        let parts = &self.dispatcher.0.parts;
        parts.tasks.soft().cancel();
        parts.tasks.hard().cancel();
        parts.tasks.ended().await;
        parts.journal.close().await;
        parts.history.close().await;
    }

    async fn take(&self, pushes: Vec<Push>) {
        let items = pushes.into_iter().map(Item::Push).collect();
        self.dispatcher.0.parts.journal.append(items).await.unwrap();
    }

    fn letters(&self) -> letters::DeadLetters {
        self.dispatcher.dead_letters()
    }

    async fn wait_for_letters(&self, count: u64) {
        eventually(&format!("{count} letters"), async || {
            self.letters().stats().letters == count
        })
        .await;
    }

    /// Pairs that the journal owes.
    fn owed(&self) -> u64 {
        self.dispatcher.0.parts.journal.stats().unsettled
    }

    async fn wait_for_nothing_owed(&self) {
        eventually("nothing is owed", async || self.owed() == 0).await;
    }

    fn happens(&self, endpoint: &EndpointId, verdict: Verdict) {
        let states = &self.dispatcher.0.parts.states;
        let began = self.dispatcher.0.parts.steady.now();
        states.happen(
            endpoint,
            Event::Attempt { began, verdict },
            "as the test wants it",
        );
    }

    fn metric(&self, sample: &str) -> u64 {
        let text = self.dispatcher.0.parts.metrics.encode();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn settings_file(&self) -> PathBuf {
        self.folder.join(FILE)
    }
}

/// Holds `settings.db` so that nobody can write it, until it is dropped.
struct Locked(rusqlite::Connection);

impl Locked {
    fn lock(file: &Path) -> Self {
        let connection = rusqlite::Connection::open(file).unwrap();
        connection.busy_timeout(SOON).unwrap();
        connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
        Self(connection)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

/// So many steps: a millisecond each, and an hour for the last if there are several.
fn schedule(steps: usize) -> RetrySchedule {
    let mut all = vec![Duration::from_millis(1); steps];
    if let [_, .., last] = &mut *all {
        *last = Duration::from_hours(1);
    }
    RetrySchedule::new(all, 0.0).unwrap()
}

fn policy() -> Policy {
    Policy {
        schedule: RetrySchedule::new(vec![Duration::from_hours(1)], 0.0).unwrap(),
        pause_after: 1,
        probe_first: Duration::from_hours(1),
        probe_max: Duration::from_hours(1),
        ignore_after: Duration::from_hours(1),
        ignore_after_failures: 10,
    }
}

fn dispatch_options() -> Options {
    Options {
        public_host: String::new(),
        concurrency: 64,
        per_host: 16,
        timeout: Duration::from_secs(10),
        // What is refused is a letter after two attempts.
        schedule: schedule(1),
        size_deadline: Duration::from_millis(200),
        segment_bytes: 16 << 20,
        letters: LetterBounds {
            age_max: Duration::from_hours(24),
            bytes_max: 1 << 30,
        },
    }
}

/// A registry where nobody listens.
fn nowhere() -> registry::Client {
    let options = registry::Options {
        url: "http://127.0.0.1:1/".parse().unwrap(),
        username: String::new(),
        password: None,
        ca_pem: None,
        timeout: Duration::from_secs(1),
        concurrency: 1,
        metrics: None,
    };
    registry::Client::new(options).unwrap()
}

pub(super) fn client() -> Client {
    let options = client::Options {
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        user_agent: HeaderValue::from_static("WebHook Handler"),
        header_name: HeaderName::from_static("x-alin-webhook"),
        guard: Guard::default(),
        ca_file: None,
        proxy: None,
        idle_per_host_max: 4,
        idle_timeout: Duration::from_secs(4),
        connections_max: 100,
    };
    Client::new(options).unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn all() -> LetterFilter {
    LetterFilter::default()
}
