//! How fast and how small shipbell is, as ratios to floors that are measured in the same run.
//!
//! A floor is the least that would do the same work: a framed file with a crc and the same fsyncs under the
//! journal ([`framed`]), a bare hyper server that parses the same envelopes and commits them in groups under
//! the ingest ([`floor_server`]), a bare client under the deliveries ([`floor_client`]). Absolute figures differ between machines and between minutes, so contestants
//! take turns, each round gives one ratio, and the median counts.
//!
//! Environment: `ONLY=append` (rows whose names begin so), `ROUNDS=3`, `QUICK=1`; see [`settings`].

use std::env;

use anyhow::ensure;

mod deliveries;
mod disk;
mod drain;
mod endpoints;
mod floor_client;
mod floor_server;
mod framed;
mod ingest;
mod isolation;
mod journal_rows;
mod kept;
mod load;
mod memory;
mod servers;
mod settings;
mod sinks;
mod stages;
mod table;
mod workload;

#[path = "../../tests/it/support/mod.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "written for the tests: the benchmark uses a part of it, and stops where they would fail"
)]
mod support;

use settings::Settings;
use table::Row;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["unit", rest @ ..] => journal_rows::unit(rest),
        ["floor-server", rest @ ..] => floor_server::run(rest),
        ["floor-client", rest @ ..] => floor_client::run(rest),
        // What else there is comes from cargo.
        _ => measure(&Settings::from_environment()?),
    }
}

fn measure(settings: &Settings) -> anyhow::Result<()> {
    type Section = (&'static [&'static str], fn(&Settings) -> anyhow::Result<Vec<Row>>);
    let sections: [Section; 9] = [
        (&journal_rows::ROWS, journal_rows::rows),
        (&ingest::ROWS, ingest::rows),
        (&memory::ROWS, memory::rows),
        (&disk::ROWS, disk::rows),
        (&drain::ROWS, drain::rows),
        (&isolation::ROWS, isolation::rows),
        (&deliveries::ROWS, deliveries::rows),
        (&stages::ROWS, stages::rows),
        (&endpoints::ROWS, endpoints::rows),
    ];
    let mut rows = Vec::new();
    for (names, measure) in sections {
        if settings.wants(names) {
            let measured = measure(settings)?;
            for row in &measured {
                println!("{row}");
            }
            rows.extend(measured);
        }
    }
    ensure!(!rows.is_empty(), "no row's name begins with what ONLY says");
    println!("\n{}", Row::table(&rows));
    Ok(())
}
