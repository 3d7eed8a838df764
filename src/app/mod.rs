//! The composition root: builds every part from the configuration, starts them in order, and stops
//! them in order.
//!
//! # Start
//! Journal opened and read → settings opened, the repositories' webhooks among the endpoints → endpoints' states
//! restored → queues rebuilt → refused pushes wait on → listeners bound → the journal's thread → dispatcher → listeners
//! serve. Nothing is taken before everything that was owed is back in its queue.
//!
//! # Stop
//! 1. Readiness says no; ingest closes its socket and finishes the requests it has.
//! 2. The dispatcher begins nothing new; attempts under way finish, or are cut at `shutdown.deadline` or by
//!    a second signal.
//! 3. The dead letters of what was given up are written, the states of endpoints and refusals are saved; the journal
//!    writes and syncs what waits; then the history is written.
//! 4. The ops listener closes.
//!
//! A signal that comes while something is written cuts the wait for it and those that follow, and is no failure.

use std::{io, path::Path, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout, timeout_at},
};
use tracing::{info, warn};

use crate::{
    admin::{configuration::Configuration, webhooks::Defaults},
    catalog::{self, History},
    clock::Clock,
    config::Config,
    dispatch::{
        self, Dispatcher,
        alerts::Messenger,
        refusals::{self, Refusals},
        states::States,
    },
    folder,
    ingest::{
        Ingest,
        filter::Filter,
        quarantine::{self, Quarantine},
    },
    journal::{self, EndedLately, Health, Journal, Opened},
    lifecycle::Tasks,
    listener::Listener,
    ops::{self, Readiness},
    queue::Queue,
    registry,
    sizing::{self, Following, Sizing},
    telemetry::Metrics,
    webhook::{Endpoints, client},
};

mod admin;
mod ending;
mod error;
mod front;
mod health;
mod letters;
mod listeners;
mod options;
mod reload;
mod restoring;
mod shown;
mod sizes;
mod starter;

pub use error::RunError;
pub use reload::Load;

use ending::Ended;
use front::{Front, apply};
use listeners::Listeners;
use reload::Reloader;
use restoring::restore;
use sizes::Sizes;
use starter::Starter;

/// How long what was cut may take to end: it may hang on a disk that stands still.
const CUT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the journal may take to write what waits, once the letters and the states were written; each of those may
/// take five seconds, at the same time.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the history may take for the same, once that is done.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the ops listener may take to close.
const OPS_TIMEOUT: Duration = Duration::from_secs(1);

/// All parts, built and not yet running.
struct App {
    tasks: Tasks,
    ops_tasks: Tasks,
    journal: Journal,
    history: History,
    dispatcher: Dispatcher,
    states: States,
    refusals: Refusals,
    messenger: Option<(Messenger, client::Client)>,
    ingest: Ingest<Front>,
    ingest_listener: Listener,
    ops_listener: Listener,
    admin: admin::Side,
    reloader: Reloader,
    sizes: BoxFuture<'static, ()>,
    readiness: Readiness,
    metrics: Metrics,
}

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, load: Load) -> Result<(), RunError> {
    let mut signals = Signals::new().map_err(RunError::System)?;
    let hangups = signal(SignalKind::hangup()).map_err(RunError::System)?;

    let deadline = config.shutdown.deadline;
    let app = tokio::select! {
        app = build(&config, (load, hangups)) => app?,
        () = signals.next() => return Ok(()),
    };
    app.run(signals, deadline).await
}

#[expect(
    clippy::too_many_lines,
    reason = "every part, in the order in which they need each other"
)]
async fn build(config: &Config, (load, hangups): (Load, Signal)) -> Result<App, RunError> {
    let clock = Clock::system();
    make_data_dir(&config.data_dir)?;
    let starter = Starter::begin()?;
    let opened = open_journal(&starter, config, &clock).await?;
    let Opened {
        journal,
        mut writer,
        mut notes,
        report,
    } = opened;
    let (segments, commits) = (report.segments, report.commits);
    info!(segments, commits, pending = report.pushes, "journal opened");

    let metrics = Metrics::new(&clock);
    let endpoints = config.endpoints();
    let queue = Arc::new(Queue::bounded(options::queue_bounds(config)));
    let registry = registry::Client::new(options::registry_options(config, &metrics)?)?;
    let sizing = Sizing::new(registry, sizing::Options::default());
    let steady = clock.steady();
    let defaults = Defaults::new(config.batch, config.delivery.rate);
    let settings = admin::open_settings(config, commits > 0, (&endpoints, &defaults), &clock).await?;
    let tasks = Tasks::new();
    let ended = notes.take_ended();
    let history = start_history(config, &tasks, (&journal, ended), &endpoints, &clock).await?;
    let parts = health::Parts {
        clock: clock.clone(),
        steady: steady.clone(),
        queue: Arc::clone(&queue),
        endpoints: endpoints.clone(),
        metrics: metrics.clone(),
        settings: settings.clone(),
        history: history.clone(),
    };
    let (states, messenger) = health::build(config, parts).await?;
    let restored = restore(&starter, &journal, notes, &queue, &endpoints, &settings).await?;
    drop(starter);
    let parts = refusals::Parts {
        journal: journal.id(),
        queue: Arc::clone(&queue),
        endpoints: endpoints.clone(),
        settings: settings.clone(),
        clock: clock.clone(),
    };
    let refusals = health::refusals(parts).await?;

    let listeners = Listeners::bind(config, &metrics)?;
    let guard = options::guard(config, listeners.addresses());
    let client = client::Client::new(options::client_options(config, guard.clone()))?;

    let parts = dispatch::Parts {
        queue: Arc::clone(&queue),
        journal: journal.clone(),
        endpoints: endpoints.clone(),
        sizing: sizing.clone(),
        client: client.clone(),
        states: states.clone(),
        refusals: refusals.clone(),
        clock: clock.clone(),
        steady,
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        history: history.clone(),
        history_file: Some(config.data_dir.join(catalog::FILE)),
        settings: settings.clone(),
    };
    let dispatcher = Dispatcher::new(options::dispatch_options(config)?, parts);

    let quarantine = open_quarantine(&config.data_dir)?;

    let readiness = shown::readiness(&tasks, &journal, &queue, config.ingest.max_pending);
    shown::sample(&metrics, &journal, &queue, &history, &clock);
    shown::count(&metrics, &states);
    shown::attempts(&metrics, &dispatcher);
    shown::letters(&metrics, &dispatcher.dead_letters());
    let front = Front {
        endpoints: endpoints.clone(),
        states: states.clone(),
        journal: journal.clone(),
        queue: Arc::clone(&queue),
        sizing: sizing.clone(),
        history: history.clone(),
        pending_max: config.ingest.max_pending,
    };
    let ingest = Ingest::new(
        options::ingest_options(config),
        Filter::new(options::filter_options(config)),
        front,
        quarantine,
        metrics.clone(),
        clock.clone(),
    );
    let ingest_address = options::ingest_address(config);
    let configuration = Configuration::read(config.file.clone(), ingest_address, clock.now());
    let reloader = Reloader::new(
        config.clone(),
        hangups,
        reload::Parts {
            load,
            endpoints: endpoints.clone(),
            states: states.clone(),
            configuration: configuration.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
        },
    );
    let parts = admin::Parts {
        settings,
        rules: options::webhook_rules(config, guard),
        configuration,
        defaults,
        endpoints: endpoints.clone(),
        states: states.clone(),
        queue: Arc::clone(&queue),
        journal: journal.clone(),
        dispatcher: dispatcher.clone(),
        sizing: sizing.clone(),
        history: history.clone(),
        metrics: metrics.clone(),
        clock: clock.clone(),
    };
    let admin = admin::Side::build(config, listeners.admin, parts);
    let told = metrics.clone();
    writer.on_sync(move |elapsed| told.committed(elapsed));
    let following = Following::default();
    let parts = Sizes {
        sizing: sizing.clone(),
        deadline: config.size.deadline,
        history: history.clone(),
        file: config.data_dir.join(catalog::FILE),
        clock,
    };
    let sizes = parts.keep(following.clone(), tasks.soft().clone());
    let (written, undertaker) = (history.clone(), dispatcher.clone());
    writer
        .start(Box::new(move |applied| {
            let orphans = apply(applied, &queue, &sizing, &endpoints, &written, &following);
            undertaker.bury(orphans, Some(0));
        }))
        .map_err(RunError::System)?;
    dispatcher.delivered_before(restored.delivered);
    dispatcher.bury(restored.orphans, None);
    dispatcher.bury_overtaken(restored.overtaken, restored.lettered);
    Ok(App {
        tasks,
        ops_tasks: Tasks::new(),
        journal,
        history,
        dispatcher,
        states,
        refusals,
        messenger: messenger.map(|messenger| (messenger, client)),
        ingest,
        ingest_listener: listeners.ingest,
        ops_listener: listeners.ops,
        admin,
        reloader,
        sizes: Box::pin(sizes),
        readiness,
        metrics,
    })
}

async fn start_history(
    config: &Config,
    tasks: &Tasks,
    (journal, ended): (&Journal, EndedLately),
    endpoints: &Endpoints,
    clock: &Clock,
) -> Result<History, RunError> {
    let (options, tasks) = (options::history_options(config), tasks.clone());
    let lost = move || tasks.lose("history");
    let (data_dir, endpoints) = (&config.data_dir, endpoints.clone());
    let names = move || endpoints.repositories();
    let started = catalog::start(data_dir, options, journal.clone(), names, clock.clone(), lost);
    let history = started.map_err(RunError::System)?;
    let (telling, journal, file) = (history.clone(), journal.clone(), data_dir.join(catalog::FILE));
    // Before anything else is told.
    off_thread(move || catalog::restore(&telling, &journal, &file, &ended)).await?;
    Ok(history)
}

/// What `work` comes to, which waits for the disk.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| RunError::System(io::Error::other(error)))
}

impl App {
    async fn run(self, mut signals: Signals, deadline: Duration) -> Result<(), RunError> {
        let (tasks, ops_tasks) = (self.tasks, self.ops_tasks);
        let stop = ops_tasks.soft().clone();
        let ops = ops::serve(
            self.ops_listener,
            self.readiness,
            self.metrics,
            ops_tasks.clone(),
            stop,
        );
        ops_tasks.spawn_lasting("ops", ops);
        let oldest = shown::keep_oldest(self.journal.clone(), tasks.soft().clone());
        tasks.spawn_lasting("oldest push", oldest);
        tasks.spawn_lasting("sizes", self.sizes);
        tasks.spawn_lasting("states", self.states.clone().keep(tasks.soft().clone()));
        tasks.spawn_lasting("refusals", self.refusals.clone().keep(tasks.soft().clone()));
        if let Some((messenger, client)) = self.messenger {
            tasks.spawn_lasting("alerts", messenger.run(client, tasks.soft().clone()));
        }
        self.admin.spawn(&tasks);
        tasks.spawn_lasting("configuration", self.reloader.run(tasks.soft().clone()));
        tasks.spawn_lasting("backlogs", self.dispatcher.clone().bound_backlogs());
        tasks.spawn_lasting("space", self.dispatcher.clone().keep_journal_open());
        tasks.spawn_lasting("letters", self.dispatcher.clone().keep_letters());
        tasks.spawn_lasting("replays", self.dispatcher.clone().run_replays());
        tasks.spawn_lasting("dispatcher", self.dispatcher.clone().run());
        let ingest = self
            .ingest
            .serve(self.ingest_listener, tasks.clone(), tasks.soft().clone());
        tasks.spawn_lasting("ingest", ingest);

        let failed = tokio::select! {
            () = signals.next() => None,
            () = tasks.soft().cancelled() => None,
            () = ops_tasks.soft().cancelled() => None,
            reason = failure(&self.journal) => Some(reason),
        };
        let began = Instant::now();
        info!(deadline_ms = millis(deadline), "stopping");
        tasks.soft().cancel();
        tokio::select! {
            ended = timeout_at(began + deadline, tasks.ended()) => {
                if ended.is_err() {
                    warn!("not everything ended in time; what is under way is cut, and repeated after the next start");
                }
            }
            () = signals.next() => warn!("second signal: what is under way is cut, and repeated after the next start"),
        }
        tasks.hard().cancel();
        let close = async {
            if timeout(CUT_TIMEOUT, tasks.ended()).await.is_err() {
                warn!("something that was cut has not ended, and is not waited for");
            }
            tokio::join!(
                self.dispatcher.close_letters(),
                self.states.close(),
                self.refusals.close()
            );
            timeout(CLOSE_TIMEOUT, self.journal.close()).await
        };
        let closed = ending::wait(close, signals.next()).await;
        if closed == Ended::Cut {
            warn!("second signal: the journal's end is not waited for; what was acknowledged is on disk");
        }
        let left = |limit| {
            if closed == Ended::Cut {
                Duration::ZERO
            } else {
                limit
            }
        };
        let written = timeout(left(HISTORY_TIMEOUT), self.history.close());
        if ending::wait(written, signals.next()).await != Ended::Whole {
            warn!("the history's last second was not written down");
        }
        let failed = failed.or_else(|| ending::failure(self.journal.health(), closed));
        let lost = tasks.lost_one() || ops_tasks.lost_one();
        ops_tasks.soft().cancel();
        ops_tasks.hard().cancel();
        if timeout(left(OPS_TIMEOUT), ops_tasks.ended()).await.is_err() {
            warn!("the ops listener has not ended, and is not waited for");
        }
        info!(elapsed_ms = millis(began.elapsed()), "stopped");
        match failed {
            Some(reason) => Err(RunError::JournalFailed(reason)),
            None if lost => Err(RunError::LostPart),
            None => Ok(()),
        }
    }
}

/// Waits until the journal has failed for good, and tells why.
async fn failure(journal: &Journal) -> String {
    let mut changes = journal.health_changes();
    loop {
        if let Health::Failed(reason) = &*changes.borrow_and_update() {
            return reason.clone();
        }
        if changes.changed().await.is_err() {
            return "its thread is gone".to_owned();
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn make_data_dir(path: &Path) -> Result<(), RunError> {
    folder::make(path).map_err(|error| RunError::DataDir {
        path: path.to_owned(),
        error,
    })
}

fn open_quarantine(data_dir: &Path) -> Result<Quarantine, RunError> {
    let folder = data_dir.join("quarantine");
    let opened = Quarantine::open(quarantine::Options::at(&folder));
    opened.map_err(|error| RunError::DataDir { path: folder, error })
}

async fn open_journal(starter: &Starter, config: &Config, clock: &Clock) -> Result<Opened, RunError> {
    let (directory, clock) = (config.data_dir.join(journal::DIRECTORY), clock.clone());
    let options = journal::Options {
        segment_size: u32::try_from(config.journal.segment_size).unwrap_or(u32::MAX),
        max_size: config.journal.max_size,
    };
    let open = move || Journal::open(&directory, options, clock);
    Ok(starter.take(open).await??)
}
