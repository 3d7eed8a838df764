//! The row `deliveries`: webhooks a second, 64 in flight, to a sink that answers at once; settled and recorded.
//!
//! shipbell's are taken while their windows are open, and go out after a restart, which closes those; so nothing is
//! ingested meanwhile. That they were taken stands in the history before, for the floor takes none. There is no registry,
//! so that nothing is asked of it meanwhile, either: like the floor's, the webhooks have the sizes that events tell, and
//! none of their repositories. The floor is a bare client of the same library that sends as many, appends a record for
//! each to a file that is synced every 100 ms, and writes a row for each into SQLite, many in a transaction.

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

/// One endpoint has three quarters of it.
const PER_HOST: usize = 2 * IN_FLIGHT;

/// Of each repository; fewer than what closes a window.
const PUSHES: u64 = 50;

const LOOK_EVERY: Duration = Duration::from_millis(10);
const TURN_MAX: Duration = Duration::from_mins(5);

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let count = settings.scaled(100_000);
    let (mut floors, mut turns) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds(5) {
        floors.push(floor(count)?);
        turns.push(shipbell(count)?);
    }
    let values = |of: fn(&Turn) -> f64| turns.iter().map(of).collect::<Vec<_>>();
    let work = format!("deliveries, {count} at {IN_FLIGHT} in flight");
    let unit = Unit::PerSecond("deliveries");
    let row = |what: &str, figures: &[f64], wanted| {
        Row::of_ratios(
            format!("{work}, {what}"),
            "shipbell",
            unit,
            figures,
            &floors,
            wanted,
        )
    };
    Ok(vec![
        row(
            "settled and recorded",
            &values(|turn| turn.recorded),
            Wanted::AtLeast(0.7),
        ),
        row(
            "settled, though not recorded",
            &values(|turn| turn.settled),
            Wanted::Nothing,
        ),
        Row::of_values(
            "the same: what the history had no room for, of all that was told",
            "shipbell",
            Unit::Times,
            &values(|turn| turn.missing),
            Wanted::AtMost(0.0),
        ),
    ])
}

/// What a round gave: deliveries a second until all were settled, and until all stood in the history, too; and what is
/// missing there, as a part.
struct Turn {
    settled: f64,
    recorded: f64,
    missing: f64,
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

fn shipbell(count: u64) -> anyhow::Result<Turn> {
    let (came, told) = counting();
    let (_sinks, url, _) = Sinks::one(&told)?;
    let config = Config::without_registry().endpoint("hook", &url).with(&format!(
        "batch.window = '1h'\nlog.level = 'error'\ndelivery.concurrency = {IN_FLIGHT}\n\
             delivery.per_host = {PER_HOST}"
    ));
    let mut shipbell = Shipbell::start(config);
    let load = Load {
        connections: 64,
        repositories: count / PUSHES,
        until: Until::Sent(count),
    };
    load::run(shipbell.ingest(), load)?;
    ensure!(came.load(Ordering::Acquire) == 0, "the windows are closed");
    until("that they were taken is recorded", || {
        sample(&shipbell, "shipbell_history_waiting_bytes") == 0.0
    })?;
    shipbell.stop();
    shipbell.launch_again();
    let first = until("the first", || came.load(Ordering::Acquire) > 0)?;
    shipbell.wait_until_ready();
    let gauge = |name| sample(&shipbell, name);
    let settled = until("all are settled", || {
        came.load(Ordering::Acquire) >= count && gauge("shipbell_queue_pushes") == 0.0
    })?;
    let recorded = until("all is recorded", || {
        gauge("shipbell_history_waiting_bytes") == 0.0
    })?;
    let dropped = gauge("shipbell_history_dropped_total");
    let count = f64::from(u32::try_from(count)?);
    Ok(Turn {
        settled: count / (settled - first).as_secs_f64(),
        recorded: count / (recorded - first).as_secs_f64(),
        missing: dropped / (gauge("shipbell_history_rows_total") + dropped),
    })
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
