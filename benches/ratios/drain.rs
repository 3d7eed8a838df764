//! How fast a real registry's backlog of notifications drains into shipbell, beside a bare receiver that
//! answers at once and one that syncs each event to disk first.
//!
//! The registry sends one event at a time and waits for the answer, so its rate is one over the time to
//! answer.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime::Runtime, task::JoinSet};

use super::{
    settings::Settings,
    support::{
        folder, http,
        image::Image,
        ports,
        registry::{Options, Registry, put_manifest},
        shipbell::{Config, Shipbell, TOKEN},
    },
    table::{Row, Unit, Wanted},
};

/// The names of the rows.
pub(crate) const ROWS: [&str; 1] = ["drain"];

const REPOSITORY: &str = "bench/app";
const PUSHERS: u32 = 8;
const LOOK_EVERY: Duration = Duration::from_millis(10);
const DRAIN_MAX: Duration = Duration::from_mins(5);

/// Who takes the events.
#[derive(Clone, Copy, PartialEq)]
enum Taker {
    Instant,
    Syncing,
    Shipbell,
}

const TAKERS: [Taker; 3] = [Taker::Instant, Taker::Syncing, Taker::Shipbell];

impl Taker {
    fn name(self) -> &'static str {
        match self {
            Self::Instant => "answers at once",
            Self::Syncing => "appends, syncs, answers",
            Self::Shipbell => "shipbell",
        }
    }
}

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let rounds = settings.rounds(3);
    let events = settings.events;
    let instant = ports::free();
    let syncing = ports::free();
    let registry_port = ports::free();

    let webhooks = Sink::start(ports::free(), None)?;
    let hook = format!("http://127.0.0.1:{}/hook", webhooks.port);
    // What a user would have: the defaults, and one endpoint.
    let shipbell =
        Config::with_defaults(&format!("http://127.0.0.1:{registry_port}")).endpoint("hook", &hook);
    let port_of = |taker| match taker {
        Taker::Instant => instant,
        Taker::Syncing => syncing,
        Taker::Shipbell => shipbell.ingest(),
    };
    let registry = Registry::start_on(
        registry_port,
        &Options {
            notify: TAKERS.map(|taker| (port_of(taker), TOKEN)).to_vec(),
            ignore_noise: true,
            ..Options::default()
        },
    );

    println!("events/s of a backlog of {events}, {rounds} rounds");
    let mut rates: Vec<[f64; 3]> = Vec::new();
    for round in 0..rounds {
        let backlog = push_backlog(&registry, events)?;
        ensure!(
            backlog == u64::from(events) * 3,
            "{backlog} events wait, not {events} for each of three"
        );
        let mut row = [0.0; 3];
        for turn in 0..TAKERS.len() {
            let place = (turn + round) % TAKERS.len();
            let (Some(&taker), Some(rate)) = (TAKERS.get(place), row.get_mut(place)) else {
                continue;
            };
            let port = port_of(taker);
            let data = folder();
            *rate = match taker {
                Taker::Instant => {
                    let _sink = Sink::start(port, None)?;
                    drain(&registry, port, events)?
                }
                Taker::Syncing => {
                    let _sink = Sink::start(port, Some(data.path()))?;
                    drain(&registry, port, events)?
                }
                Taker::Shipbell => {
                    let _shipbell = Shipbell::start(shipbell.clone());
                    drain(&registry, port, events)?
                }
            };
        }
        print_row(&format!("round {}", round + 1), row);
        rates.push(row);
    }
    let [instant, syncing, shipbell] = [0, 1, 2].map(|place| {
        rates
            .iter()
            .filter_map(|row| row.get(place).copied())
            .collect::<Vec<f64>>()
    });
    let work = format!("a real registry's backlog of {events} events");
    let unit = Unit::PerSecond("events");
    Ok(vec![
        Row::of_ratios(
            format!("{work}, beside a receiver that syncs each"),
            "shipbell",
            unit,
            &shipbell,
            &syncing,
            Wanted::AtLeast(0.85),
        ),
        Row::of_ratios(
            format!("{work}, beside one that answers at once"),
            "shipbell",
            unit,
            &shipbell,
            &instant,
            Wanted::Nothing,
        ),
    ])
}

/// Pushes one small manifest under as many tags while nobody takes notifications; the length of the
/// registry's queues after it.
fn push_backlog(registry: &Registry, events: u32) -> anyhow::Result<u64> {
    let image = Image::oci("bench", &[1_000]);
    registry.put_blobs(&image, REPOSITORY, &[]);
    thread::scope(|scope| {
        let pushers: Vec<_> = (0..PUSHERS)
            .map(|pusher| {
                let image = &image;
                scope.spawn(move || {
                    let mut connection = http::Connection::open(registry.port())?;
                    for number in (pusher..events).step_by(PUSHERS as usize) {
                        put_manifest(
                            &mut connection,
                            REPOSITORY,
                            &format!("t{number}"),
                            &image.manifest,
                        );
                    }
                    io::Result::Ok(())
                })
            })
            .collect();
        for pusher in pushers {
            pusher.join().ok().context("a pusher failed")??;
        }
        anyhow::Ok(())
    })?;
    Ok(registry.pending_events())
}

/// Waits until the registry has got rid of `events` events at `port`; events per second between the first
/// and the last that were seen to go, by the registry's own count.
fn drain(registry: &Registry, port: u16, events: u32) -> anyhow::Result<f64> {
    let before = registry.taken_events(port);
    let begun = Instant::now();
    let mut first = None;
    loop {
        let taken = registry.taken_events(port) - before;
        let now = Instant::now();
        ensure!(
            now - begun < DRAIN_MAX,
            "only {taken} of {events} events were taken in {DRAIN_MAX:?}"
        );
        if taken > 0 {
            let (first_taken, since) = *first.get_or_insert((taken, now));
            if taken >= u64::from(events) {
                let taken = u32::try_from(taken - first_taken)?;
                return Ok(f64::from(taken) / (now - since).as_secs_f64());
            }
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// A bare receiver, built as shipbell's listener is. Dropping it closes its port.
struct Sink {
    port: u16,
    runtime: Option<Runtime>,
}

impl Sink {
    /// Takes everything at `port`; with a folder, only after appending it to a file there and syncing.
    fn start(port: u16, folder: Option<&Path>) -> anyhow::Result<Self> {
        let file = folder
            .map(|folder| File::create_new(folder.join("events")))
            .transpose()?;
        let file = file.map(|file| Arc::new(Mutex::new(file)));
        let runtime = Runtime::new()?;
        let listener = runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))))?;
        let mut tasks = JoinSet::new();
        tasks.spawn_on(
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let file = file.clone();
                    connections.spawn(async move {
                        let service = service_fn(|request| take(request, file.clone()));
                        // A client that goes away is nobody's business here.
                        let _ = http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    });
                    while connections.try_join_next().is_some() {}
                }
            },
            runtime.handle(),
        );
        tasks.detach_all();
        Ok(Self {
            port,
            runtime: Some(runtime),
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

async fn take(
    request: Request<Incoming>,
    file: Option<Arc<Mutex<File>>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = match (request.into_body().collect().await, file) {
        (Ok(_), None) => StatusCode::ACCEPTED,
        // On this thread: with one event at a time, handing it to another only costs.
        (Ok(body), Some(file)) => match append(&file, &body.to_bytes()) {
            Ok(()) => StatusCode::ACCEPTED,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        },
        (Err(_), _) => StatusCode::BAD_REQUEST,
    };
    Ok(response)
}

fn append(file: &Mutex<File>, bytes: &[u8]) -> io::Result<()> {
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    file.write_all(bytes)?;
    file.sync_data()
}

fn print_row(label: &str, rates: [f64; 3]) {
    let cells: Vec<String> = TAKERS
        .iter()
        .zip(rates)
        .map(|(taker, rate)| format!("{} {rate:>6.0}", taker.name()))
        .collect();
    println!("{label:>8}: {}", cells.join("   "));
}
