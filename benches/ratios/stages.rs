//! The rows `stages`: pushes a second from ingest to the delivered webhook, and where a push spends its time.
//!
//! Sixty-four pushes are under way at once, each of an image of its own and without a window; the next is posted when
//! the webhook of the one before has come. The parts are by shipbell's own histograms; what is left is waiting: for
//! the dispatcher, for the push to be read back, for a turn.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{runtime::Runtime, sync::oneshot, task::JoinSet, time::timeout};

use super::{
    deliveries::sample,
    load::Poster,
    settings::Settings,
    sinks::{Sinks, Told},
    support::shipbell::{Config, Shipbell},
    table::{Row, Unit, Wanted},
};

/// The names of the rows.
pub(crate) const ROWS: [&str; 1] = ["stages"];

const UNDER_WAY: usize = 64;
const REPOSITORIES: u64 = 10_000;
const WEBHOOK_MAX: Duration = Duration::from_mins(1);

/// Those who wait for the webhook of an image.
type Waiting = Mutex<HashMap<String, oneshot::Sender<()>>>;

/// The stages, and the histograms that tell of them.
const STAGES: [(&str, &str); 3] = [
    (
        "taken: read, judged, durable, answered",
        "shipbell_ack_seconds_sum",
    ),
    ("sized", "shipbell_sizing_seconds_sum"),
    ("sent, and the answer read", "shipbell_attempt_seconds_sum"),
];

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let pushes = settings.scaled(100_000);
    let (mut rates, mut parts) = (Vec::new(), vec![Vec::new(); STAGES.len() + 1]);
    for _ in 0..settings.rounds(3) {
        let turn = turn(pushes)?;
        rates.push(turn.rate);
        for (values, part) in parts.iter_mut().zip(turn.parts) {
            values.push(part);
        }
    }
    let work = format!("stages, {UNDER_WAY} pushes under way, from ingest to delivered");
    let unit = Unit::PerSecond("pushes");
    let mut rows = vec![Row::of_values(work, "shipbell", unit, &rates, Wanted::Nothing)];
    let names = STAGES.iter().map(|(name, _)| *name).chain(["waiting"]);
    rows.extend(names.zip(&parts).map(|(name, values)| {
        let work = format!("the same: part of its time that a push is {name}");
        Row::of_values(work, "shipbell", Unit::Times, values, Wanted::Nothing)
    }));
    Ok(rows)
}

struct Turn {
    rate: f64,
    /// In the order of the stages; the last is what is left.
    parts: Vec<f64>,
}

fn turn(pushes: u64) -> anyhow::Result<Turn> {
    let waiting: Arc<Waiting> = Arc::default();
    let told: Told = {
        let waiting = Arc::clone(&waiting);
        Arc::new(move |image| {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever waited for it is gone when the run has failed.
            let _ = waiting.remove(image).map(|came| came.send(()));
        })
    };
    let (_sinks, url, registry) = Sinks::one(&told)?;
    let config = Config::with_defaults(&registry)
        .endpoint("hook", &url)
        .with(&format!(
            "batch.window = '0s'\nlog.level = 'error'\n[delivery]\nrate = '0'\nper_host = {}",
            2 * UNDER_WAY
        ));
    let shipbell = Shipbell::start(config);
    let began = Instant::now();
    let spent = Runtime::new()?.block_on(push_all(shipbell.ingest(), pushes, &waiting))?;
    let took = began.elapsed().as_secs_f64();
    let mut parts: Vec<f64> = STAGES
        .iter()
        .map(|(_, histogram)| sample(&shipbell, histogram) / spent.as_secs_f64())
        .collect();
    parts.push(1.0 - parts.iter().sum::<f64>());
    Ok(Turn {
        rate: f64::from(u32::try_from(pushes)?) / took,
        parts,
    })
}

/// How long all pushes took together.
async fn push_all(port: u16, pushes: u64, waiting: &Arc<Waiting>) -> anyhow::Result<Duration> {
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..UNDER_WAY {
        let (next, waiting) = (Arc::clone(&next), Arc::clone(waiting));
        clients.spawn(async move {
            let mut poster = Poster::open(port, REPOSITORIES).await?;
            let mut spent = Duration::ZERO;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= pushes {
                    return anyhow::Ok(spent);
                }
                let (sender, came) = oneshot::channel();
                waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(poster.image(number), sender);
                let began = Instant::now();
                poster.post(number).await?;
                timeout(WEBHOOK_MAX, came).await.context("no webhook came")??;
                spent += began.elapsed();
            }
        });
    }
    let mut spent = Duration::ZERO;
    while let Some(client) = clients.join_next().await {
        spent += client??;
    }
    Ok(spent)
}
