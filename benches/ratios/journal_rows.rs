//! The rows `append` and `replay`: shipbell's journal and the peers beside the floor's framed file.
//!
//! Each turn is a process of its own, so that nobody inherits another's heap, and its peak of memory is its
//! own. The replay follows its append, so the page cache is warm.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use super::{
    framed, kept,
    settings::Settings,
    support::folder,
    table::{Row, Unit, Wanted},
    workload,
};

/// The names of the rows.
pub(crate) const ROWS: [&str; 2] = ["append", "replay"];

const FLOOR: &str = "framed file";
const SHIPBELL: &str = "shipbell";
const PEERS: [(&str, &str); 3] = [("SQLite", "sqlite"), ("fjall", "fjall"), ("okaywal", "okaywal")];

const REPLAY_SECONDS_MAX: f64 = 3.0;

/// Somebody who appends and replays.
struct Contestant {
    name: &'static str,
    /// A program, and its arguments before the work's.
    command: (PathBuf, Vec<&'static str>),
    turns: Vec<Turn>,
}

/// What one round gave.
#[derive(Clone, Copy)]
struct Turn {
    append: Measured,
    replay: Measured,
}

#[derive(Clone, Copy)]
struct Measured {
    seconds: f64,
    peak_bytes: f64,
}

impl Contestant {
    fn all(settings: &Settings) -> anyhow::Result<Vec<Self>> {
        let own = env::current_exe()?;
        let this = |name, argument| Self {
            name,
            command: (own.clone(), vec!["unit", argument]),
            turns: Vec::new(),
        };
        let mut all = vec![this(FLOOR, "framed"), this(SHIPBELL, "shipbell")];
        if let Some(peers) = &settings.peers {
            all.extend(PEERS.map(|(name, argument)| Self {
                name,
                command: (peers.clone(), vec![argument]),
                turns: Vec::new(),
            }));
        }
        Ok(all)
    }

    fn take_turn(&mut self, records: u64) -> anyhow::Result<()> {
        let folder = folder();
        // What the one before has left to be written is not this one's.
        ensure!(Command::new("sync").status()?.success(), "sync failed");
        let turn = Turn {
            append: self.run("append", folder.path(), records)?,
            replay: self.run("replay", folder.path(), records)?,
        };
        println!(
            "  {:>11}: append {:.2} s, replay {:.2} s",
            self.name, turn.append.seconds, turn.replay.seconds
        );
        self.turns.push(turn);
        Ok(())
    }

    fn run(&self, work: &str, folder: &Path, records: u64) -> anyhow::Result<Measured> {
        let (program, arguments) = &self.command;
        let output = Command::new(program)
            .args(arguments)
            .arg(work)
            .arg(folder)
            .arg(records.to_string())
            .output()
            .with_context(|| format!("{} can't be started", program.display()))?;
        ensure!(
            output.status.success(),
            "{} {work}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        let printed = String::from_utf8(output.stdout)?;
        let (seconds, peak_bytes) = printed
            .trim()
            .split_once(' ')
            .with_context(|| format!("{} printed {printed:?}", self.name))?;
        Ok(Measured {
            seconds: seconds.parse()?,
            peak_bytes: peak_bytes.parse()?,
        })
    }

    fn values(&self, of: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.turns.iter().map(of).collect()
    }

    /// Its row beside the floor; shipbell is held to the bound.
    fn row(&self, work: &str, floor: &Self, rate: impl Fn(&Turn) -> f64, bound: f64) -> Row {
        let wanted = if self.name == SHIPBELL {
            Wanted::AtLeast(bound)
        } else {
            Wanted::Nothing
        };
        let (figures, floors) = (self.values(&rate), floor.values(&rate));
        Row::of_ratios(
            work,
            self.name,
            Unit::PerSecond("records"),
            &figures,
            &floors,
            wanted,
        )
    }
}

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let records = settings.scaled(1_000_000);
    let mut all = Contestant::all(settings)?;
    for round in 0..settings.rounds(5) {
        println!("append and replay of {records} records, round {}", round + 1);
        for contestant in &mut all {
            contestant.take_turn(records)?;
        }
    }
    let Some((floor, others)) = all.split_first() else {
        bail!("nobody takes part");
    };
    let rate = |of: fn(&Turn) -> Measured| {
        let records = f64::from(u32::try_from(records).unwrap_or(u32::MAX));
        move |turn: &Turn| records / of(turn).seconds
    };
    let mut rows = Vec::new();
    if settings.wants(&["append"]) {
        let work = format!(
            "append {records} records of {} B, fsync every {}",
            workload::RECORD_BYTES,
            workload::PER_COMMIT
        );
        let rate = rate(|turn| turn.append);
        rows.extend(others.iter().map(|other| other.row(&work, floor, rate, 0.8)));
    }
    if settings.wants(&["replay"]) {
        let work = format!("replay {records} to a queue ready to serve, warm");
        let rate = rate(|turn| turn.replay);
        rows.extend(others.iter().map(|other| other.row(&work, floor, rate, 0.6)));
        let ours = others.iter().filter(|other| other.name == SHIPBELL);
        rows.extend(ours.map(|ours| {
            let seconds = ours.values(|turn| turn.replay.seconds);
            Row::of_values(
                &work,
                SHIPBELL,
                Unit::Seconds,
                &seconds,
                Wanted::AtMost(REPLAY_SECONDS_MAX),
            )
        }));
    }
    rows.extend(all.iter().map(|one| {
        let peaks = one.values(|turn| turn.append.peak_bytes.max(turn.replay.peak_bytes));
        let work = "the same: most memory that the process held";
        Row::of_values(work, one.name, Unit::Mebibytes, &peaks, Wanted::Nothing)
    }));
    Ok(rows)
}

/// One turn in this process: prints the seconds that it took, and the most bytes that were held.
pub(crate) fn unit(arguments: &[&str]) -> anyhow::Result<()> {
    let [who, work, folder, records] = arguments else {
        bail!("usage: unit framed|shipbell append|replay FOLDER RECORDS");
    };
    let (folder, records) = (Path::new(folder), records.parse()?);
    let took: Duration = match (*who, *work) {
        ("framed", "append") => framed::append(folder, records)?,
        ("framed", "replay") => framed::replay(folder, records)?,
        ("shipbell", "append") => kept::append(folder, records)?,
        ("shipbell", "replay") => kept::replay(folder, records)?,
        _ => bail!("no such unit: {who} {work}"),
    };
    println!("{} {}", took.as_secs_f64(), workload::peak_bytes()?);
    Ok(())
}
