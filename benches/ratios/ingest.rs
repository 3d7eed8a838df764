//! The rows of the ingest: shipbell beside the floor server, under the very same load.

use std::time::Duration;

use super::{
    load::{self, Load, Measured, Until},
    servers::{Conditions, Kind, Server},
    settings::Settings,
    table::{Row, Unit, Wanted},
};

/// The names of the rows.
pub(crate) const ROWS: [&str; 6] = ["ingest", "serial", "tail", "slow-1ms", "slow-5ms", "slow-20ms"];

const CONNECTIONS: usize = 64;
const REPOSITORIES: u64 = 10_000;
const REQUESTS: Unit = Unit::PerSecond("events");

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    if settings.wants(&["ingest"]) {
        let pairs = rounds(settings, "ingest", 5, Conditions::default(), |port| {
            keep_alive(port, 5)
        })?;
        let work = "ingest, 64 connections, one event each, durable";
        rows.push(pairs.row(work, REQUESTS, Measured::rate, Wanted::AtLeast(0.8)));
    }
    if settings.wants(&["serial"]) {
        let count = settings.scaled(5_000);
        let pairs = rounds(settings, "serial", 5, Conditions::default(), |port| {
            load::run_serially(port, count)
        })?;
        let work = "ingest, a new connection an event, serial: p50";
        rows.push(pairs.row(
            work,
            Unit::Micros,
            |measured| measured.micros(500),
            Wanted::AtMost(1.3),
        ));
    }
    if settings.wants(&["tail"]) {
        let seconds = settings.scaled(60);
        let pairs = rounds(settings, "tail", 3, Conditions::default(), |port| {
            keep_alive(port, seconds)
        })?;
        let work = format!("ingest, 64 connections for {seconds} s: p99.9");
        rows.push(pairs.row(
            &work,
            Unit::Micros,
            |measured| measured.micros(999),
            Wanted::AtMost(2.0),
        ));
    }
    for (name, millis) in [("slow-1ms", 1), ("slow-5ms", 5), ("slow-20ms", 20)] {
        if settings.wants(&[name]) {
            let conditions = Conditions {
                slower_by: Some(Duration::from_millis(millis)),
            };
            let pairs = rounds(settings, name, 3, conditions, |port| keep_alive(port, 5))?;
            let work = format!("ingest, 64 connections, each fsync {millis} ms slower");
            rows.push(pairs.row(&work, REQUESTS, Measured::rate, Wanted::AtLeast(0.8)));
        }
    }
    Ok(rows)
}

fn keep_alive(port: u16, seconds: u64) -> anyhow::Result<Measured> {
    let load = Load {
        connections: CONNECTIONS,
        repositories: REPOSITORIES,
        until: Until::Passed(Duration::from_secs(seconds)),
    };
    load::run(port, load)
}

/// What the two gave, round by round.
struct Pairs {
    floor: Vec<Measured>,
    shipbell: Vec<Measured>,
}

fn rounds(
    settings: &Settings,
    name: &str,
    usual: usize,
    conditions: Conditions,
    load: impl Fn(u16) -> anyhow::Result<Measured>,
) -> anyhow::Result<Pairs> {
    let mut pairs = Pairs {
        floor: Vec::new(),
        shipbell: Vec::new(),
    };
    for round in 0..settings.rounds(usual) {
        for (kind, measured) in [
            (Kind::Floor, &mut pairs.floor),
            (Kind::Shipbell, &mut pairs.shipbell),
        ] {
            let server = Server::start(kind, conditions)?;
            let turn = load(server.port)?;
            println!(
                "{name}, round {}, {kind:?}: {:.0} events/s, p50 {:.0} µs, p99.9 {:.0} µs",
                round + 1,
                turn.rate(),
                turn.micros(500),
                turn.micros(999)
            );
            measured.push(turn);
        }
    }
    Ok(pairs)
}

impl Pairs {
    fn row(&self, work: &str, unit: Unit, figure: impl Fn(&Measured) -> f64, wanted: Wanted) -> Row {
        let figures: Vec<f64> = self.shipbell.iter().map(&figure).collect();
        let floors: Vec<f64> = self.floor.iter().map(&figure).collect();
        Row::of_ratios(work, "shipbell", unit, &figures, &floors, wanted)
    }
}
