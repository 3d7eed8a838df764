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
        // Short turns and many: on a machine that others use, the minutes differ more than the rounds.
        let pairs = rounds(settings, "ingest", 11, Conditions::default(), |port| {
            keep_alive(port, 2)
        })?;
        let work = "ingest, 64 connections, one event each, durable";
        rows.push(pairs.row(work, REQUESTS, |turn| turn.load.rate(), Wanted::AtLeast(0.8)));
        rows.push(pairs.row(
            "the same: processor time an event",
            Unit::Micros,
            Turn::processor_micros,
            Wanted::Nothing,
        ));
    }
    if settings.wants(&["serial"]) {
        let count = settings.scaled(3_000);
        let pairs = rounds(settings, "serial", 7, Conditions::default(), |port| {
            load::run_serially(port, count)
        })?;
        let work = "ingest, a new connection an event, serial: p50";
        rows.push(pairs.row(
            work,
            Unit::Micros,
            |turn| turn.load.micros(500),
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
            |turn| turn.load.micros(999),
            Wanted::AtMost(2.0),
        ));
    }
    for (name, millis) in [("slow-1ms", 1), ("slow-5ms", 5), ("slow-20ms", 20)] {
        if settings.wants(&[name]) {
            let conditions = Conditions {
                slower_by: Some(Duration::from_millis(millis)),
            };
            let pairs = rounds(settings, name, 5, conditions, |port| keep_alive(port, 3))?;
            let work = format!("ingest, 64 connections, each fsync {millis} ms slower");
            rows.push(pairs.row(&work, REQUESTS, |turn| turn.load.rate(), Wanted::AtLeast(0.8)));
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

/// What one server gave in one round.
struct Turn {
    load: Measured,
    processor_seconds: f64,
}

impl Turn {
    fn processor_micros(&self) -> f64 {
        let sent = f64::from(u32::try_from(self.load.sent).unwrap_or(u32::MAX));
        self.processor_seconds * 1_000_000.0 / sent
    }
}

/// What the two gave, round by round.
struct Pairs {
    floor: Vec<Turn>,
    shipbell: Vec<Turn>,
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
        for (kind, turns) in [
            (Kind::Floor, &mut pairs.floor),
            (Kind::Shipbell, &mut pairs.shipbell),
        ] {
            let server = Server::start(kind, conditions)?;
            let before = server.processor_seconds()?;
            let turn = Turn {
                load: load(server.port)?,
                processor_seconds: server.processor_seconds()? - before,
            };
            println!(
                "{name}, round {}, {kind:?}: {:.0} events/s, p50 {:.0} µs, p99.9 {:.0} µs, processor {:.1} µs an event",
                round + 1,
                turn.load.rate(),
                turn.load.micros(500),
                turn.load.micros(999),
                turn.processor_micros()
            );
            turns.push(turn);
        }
    }
    Ok(pairs)
}

impl Pairs {
    fn row(&self, work: &str, unit: Unit, figure: impl Fn(&Turn) -> f64, wanted: Wanted) -> Row {
        let figures: Vec<f64> = self.shipbell.iter().map(&figure).collect();
        let floors: Vec<f64> = self.floor.iter().map(&figure).collect();
        Row::of_ratios(work, "shipbell", unit, &figures, &floors, wanted)
    }
}
