//! The rows `memory`: what a million pending pushes cost the real process over an idle one.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{
    load::{self, Load, Until},
    servers::{Conditions, Kind, Memory, Server},
    settings::Settings,
    table::{Row, Unit, Wanted},
};

/// The names of the rows.
pub(crate) const ROWS: [&str; 1] = ["memory"];

const BYTES_WANTED: f64 = 128.0 * 1024.0 * 1024.0;

/// How long a restarted process is watched: its lanes find that nobody is there.
const WATCHED: Duration = Duration::from_secs(15);

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let pushes = settings.scaled(1_000_000);
    let mut taken = Values::default();
    let mut restarted = Values::default();
    for _ in 0..settings.rounds(1) {
        let mut server = Server::start(Kind::Shipbell, Conditions::default())?;
        let idle = server.memory()?.resident;
        let load = Load {
            connections: 64,
            repositories: pushes / 10,
            until: Until::Sent(pushes),
        };
        load::run(server.port, load)?;
        all_pending(&server, pushes)?;
        taken.add(idle, server.memory()?);

        let began = Instant::now();
        server.restart()?;
        println!(
            "memory: ready {:.2} s after the signal to stop",
            began.elapsed().as_secs_f64()
        );
        all_pending(&server, pushes)?;
        thread::sleep(WATCHED);
        restarted.add(idle, server.memory()?);
    }
    let mut rows = taken.rows(&format!("memory of {pushes} pushes, taken"));
    rows.extend(restarted.rows(&format!(
        "memory of {pushes} pushes, {} s after a restart",
        WATCHED.as_secs()
    )));
    Ok(rows)
}

fn all_pending(server: &Server, pushes: u64) -> anyhow::Result<()> {
    let pending = server.pending()?;
    let wanted = f64::from(u32::try_from(pushes)?);
    ensure!(pending >= wanted, "{pending} pushes are pending, not {wanted}");
    Ok(())
}

/// Bytes over an idle process, a value a round.
#[derive(Default)]
struct Values {
    resident: Vec<f64>,
    peak: Vec<f64>,
}

impl Values {
    fn add(&mut self, idle: f64, memory: Memory) {
        self.resident.push(memory.resident - idle);
        self.peak.push(memory.peak - idle);
    }

    fn rows(&self, work: &str) -> Vec<Row> {
        [(&self.resident, "now"), (&self.peak, "at most")]
            .map(|(values, when)| {
                Row::of_values(
                    format!("{work}: {when}"),
                    "shipbell",
                    Unit::Mebibytes,
                    values,
                    Wanted::AtMost(BYTES_WANTED),
                )
            })
            .into()
    }
}
