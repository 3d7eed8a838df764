//! The row `deliveries`: webhooks a second, 64 in flight, to a sink that answers at once; settled and recorded.
//!
//! shipbell's are taken while their windows are open, and go out after a restart, which closes those; so nothing is
//! ingested meanwhile. There is no registry, so that nothing is asked of it meanwhile, either: like the floor's, the
//! webhooks have the sizes that events tell, and none of their repositories. The floor is a bare client of the same library that sends as many, appends a record for each
//! to a file that is synced every 100 ms, and writes a row for each into SQLite, many in a transaction.

use std::{
    env,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use super::{
    load::{self, Load, Until},
    settings::Settings,
    sinks::{Sinks, Told},
    support::{
        folder,
        process::Process,
        shipbell::{Config, Shipbell},
    },
    table::{Row, Unit, Wanted},
};

/// The names of the rows.
pub(crate) const ROWS: [&str; 1] = ["deliveries"];

/// In flight.
pub(crate) const IN_FLIGHT: usize = 64;

/// Of each repository; fewer than what closes a window.
const PUSHES: u64 = 50;

const LOOK_EVERY: Duration = Duration::from_millis(10);
const TURN_MAX: Duration = Duration::from_mins(5);

/// What went into the history is there when its count has stood still for so many looks.
const STILL: u32 = 30;

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let count = settings.scaled(100_000);
    let (mut floors, mut figures, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..settings.rounds(5) {
        floors.push(floor(count)?);
        let (rate, missing) = shipbell(count)?;
        figures.push(rate);
        dropped.push(missing);
    }
    let work = format!("deliveries, {count} at {IN_FLIGHT} in flight, settled and recorded");
    let unit = Unit::PerSecond("deliveries");
    Ok(vec![
        Row::of_ratios(&*work, "shipbell", unit, &figures, &floors, Wanted::AtLeast(0.7)),
        Row::of_values(
            "the same: entries that the history was too slow for, of all",
            "shipbell",
            Unit::Times,
            &dropped,
            Wanted::Nothing,
        ),
    ])
}

/// Counts what comes, and when the first did.
fn counting() -> (Arc<AtomicU64>, Told) {
    let count = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&count);
    let told = move |_: &str| {
        counting.fetch_add(1, Ordering::AcqRel);
    };
    (count, Arc::new(told))
}

fn floor(count: u64) -> anyhow::Result<f64> {
    let (came, told) = counting();
    let (_sinks, url, _) = Sinks::one(&told)?;
    let folder = folder();
    let mut command = Command::new(env::current_exe()?);
    command
        .args(["floor-client", &url, &count.to_string()])
        .arg(folder.path());
    command.current_dir(folder.path()).env_clear();
    let mut process = Process::spawn("the floor client", command, &folder.path().join("log"))?;
    let status = process.wait(TURN_MAX)?;
    ensure!(status.success(), "it ended with {status}: {}", process.log());
    ensure!(came.load(Ordering::Acquire) == count, "not all came");
    let seconds: f64 = process.log().trim().parse().context("seconds")?;
    Ok(f64::from(u32::try_from(count)?) / seconds)
}

/// Deliveries a second, and the part of the history's entries that is missing.
fn shipbell(count: u64) -> anyhow::Result<(f64, f64)> {
    let (came, told) = counting();
    let (_sinks, url, _) = Sinks::one(&told)?;
    let config = Config::without_registry().endpoint("hook", &url).with(&format!(
        "batch.window = '1h'\nlog.level = 'error'\ndelivery.concurrency = {IN_FLIGHT}\n\
             delivery.per_host = {IN_FLIGHT}"
    ));
    let mut shipbell = Shipbell::start(config);
    let load = Load {
        connections: 64,
        repositories: count / PUSHES,
        until: Until::Sent(count),
    };
    load::run(shipbell.ingest(), load)?;
    ensure!(came.load(Ordering::Acquire) == 0, "the windows are closed");
    shipbell.stop();
    shipbell.launch_again();
    let first = until("the first", || came.load(Ordering::Acquire) > 0)?;
    shipbell.wait_until_ready();
    let gauge = |name| sample(&shipbell, name);
    let settled = until("all are settled", || {
        came.load(Ordering::Acquire) >= count && gauge("shipbell_queue_pushes") == 0.0
    })?;
    let (mut written, mut last, mut still) = (0.0, settled, 0);
    while still < STILL {
        let now = gauge("shipbell_history_rows_total") + gauge("shipbell_history_dropped_total");
        if now > written {
            (written, last, still) = (now, Instant::now(), 0);
        } else {
            still += 1;
            thread::sleep(LOOK_EVERY);
        }
    }
    let missing = gauge("shipbell_history_dropped_total") / written;
    let seconds = (last.max(settled) - first).as_secs_f64();
    Ok((f64::from(u32::try_from(count)?) / seconds, missing))
}

fn until(what: &str, is_so: impl Fn() -> bool) -> anyhow::Result<Instant> {
    let deadline = Instant::now() + TURN_MAX;
    while !is_so() {
        ensure!(Instant::now() < deadline, "not within {TURN_MAX:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
    Ok(Instant::now())
}

/// A sample of shipbell's metrics; 0 when there is none.
pub(crate) fn sample(shipbell: &Shipbell, name: &str) -> f64 {
    let metrics = shipbell.ops("/metrics").text();
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}
