//! The rows `endpoints`: what a hundred thousand repositories with a webhook of their own take of memory, at rest and
//! when all of them are due at once.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use rusqlite::{Connection, params};

use super::{
    load::{self, Load, Until},
    servers::memory_of,
    settings::Settings,
    sinks::{Sinks, Told},
    support::{
        folder,
        shipbell::{Config, Shipbell},
        wait,
    },
    table::{Row, Unit, Wanted},
};

/// The names of the rows.
pub(crate) const ROWS: [&str; 1] = ["endpoints"];

/// Longer than it takes to push to all of them.
const WINDOW_S: u64 = 20;
const DELIVERED_MAX: Duration = Duration::from_mins(5);

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let count = settings.scaled(100_000);
    let divisor = f64::from(u32::try_from(count)?);
    let (mut resting, mut due) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds(3) {
        let none = at_rest(0)?;
        let (rest, peak) = (at_rest(count)?, due_at_once(count)?);
        resting.push((rest - none) / divisor);
        due.push((peak - none) / divisor);
    }
    let work = format!("endpoints, {count} repositories with their own: memory of each");
    Ok(vec![
        Row::of_values(
            format!("{work}, at rest"),
            "shipbell",
            Unit::Bytes,
            &resting,
            Wanted::Nothing,
        ),
        Row::of_values(
            format!("{work}, at most, a push to each due at once"),
            "shipbell",
            Unit::Bytes,
            &due,
            Wanted::Nothing,
        ),
    ])
}

fn config(data: &Path, url: &str, registry: &str) -> Config {
    // Their URLs are people's, and so may not point here by themselves.
    let text = format!(
        "batch.window = '{WINDOW_S}s'\nlog.level = 'error'\ndelivery.allow_networks = ['127.0.0.0/8']"
    );
    // One that wants nothing, so that there is a URL to copy in any case.
    let none = format!("[[endpoints]]\nname = 'none'\nrepositories = ['none']\nurl = '{url}'");
    Config::with_defaults(registry)
        .with(&text)
        .with(&none)
        .data_in(data)
}

/// Bytes of memory of a process that has just started.
fn at_rest(endpoints: u64) -> anyhow::Result<f64> {
    let folder = folder();
    let url = "http://127.0.0.1:9/hook";
    let shipbell = started_with(endpoints, folder.path(), url, "http://127.0.0.1:9")?;
    Ok(memory_of(shipbell.id())?.resident)
}

/// Bytes of memory at most, until a push to each was delivered.
fn due_at_once(endpoints: u64) -> anyhow::Result<f64> {
    let folder = folder();
    let came = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&came);
    let told: Told = Arc::new(move |_| {
        counting.fetch_add(1, Ordering::AcqRel);
    });
    let (_sinks, url, registry) = Sinks::one(&told)?;
    let shipbell = started_with(endpoints, folder.path(), &url, &registry)?;
    let load = Load {
        connections: 64,
        repositories: endpoints,
        until: Until::Sent(endpoints),
    };
    load::run(shipbell.ingest(), load)?;
    let all = wait::poll(DELIVERED_MAX, || {
        (came.load(Ordering::Acquire) >= endpoints).then_some(())
    });
    ensure!(
        all.is_some(),
        "{} of {endpoints} came",
        came.load(Ordering::Acquire)
    );
    Ok(memory_of(shipbell.id())?.peak)
}

/// A process with so many endpoints, of the repositories that the load pushes to.
fn started_with(endpoints: u64, folder: &Path, url: &str, registry: &str) -> anyhow::Result<Shipbell> {
    let data = folder.join("data");
    let mut shipbell = Shipbell::start(config(&data, url, registry));
    shipbell.stop();
    let file = Connection::open(data.join("settings.db")).context("settings.db")?;
    let endpoints = i64::try_from(endpoints)?;
    file.execute(
        "WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < ?1) \
         INSERT INTO repository_webhooks \
             (repository, url, format, headers, tags, version, saved_at_ms, saved_by) \
         SELECT printf('team/service-%06d', n), ?2 || '?token=' || n, 'native', '[]', '[\"**\"]', n, 0, '' \
         FROM number WHERE ?1 > 0",
        params![endpoints, url],
    )?;
    file.execute("UPDATE webhook_version SET value = ?1", [endpoints])?;
    drop(file);
    shipbell.start_again();
    Ok(shipbell)
}
