//! The rows `disk`: what stays on disk while one endpoint is dead and all the others take their pushes.

use super::{
    kept::{self, Kept},
    settings::Settings,
    support::folder,
    table::{Row, Unit, Wanted},
};

/// The names of the rows.
pub(crate) const ROWS: [&str; 1] = ["disk"];

/// Of so many pushes, the dead endpoint owes one too.
const DEAD_EVERY: [u64; 2] = [100, 2];

/// Measures, and makes rows of it.
pub(crate) fn rows(settings: &Settings) -> anyhow::Result<Vec<Row>> {
    let pushes = settings.scaled(1_000_000);
    let mut rows = Vec::new();
    for every in DEAD_EVERY {
        let mut measured = Vec::new();
        for _ in 0..settings.rounds(1) {
            let folder = folder();
            measured.push(kept::with_one_endpoint_dead(folder.path(), pushes, every)?);
        }
        let work = format!("disk, {pushes} pushes flow through, a dead endpoint owes one of {every} as well");
        let values = |of: fn(&Kept) -> f64| measured.iter().map(of).collect::<Vec<_>>();
        let row = |when: &str, unit, values: &[f64], wanted| {
            Row::of_values(format!("{work}: {when}"), "shipbell", unit, values, wanted)
        };
        rows.extend([
            row(
                "written",
                Unit::Mebibytes,
                &values(|kept| kept.taken_bytes),
                Wanted::Nothing,
            ),
            row(
                "on disk at the end",
                Unit::Mebibytes,
                &values(|kept| kept.disk_bytes),
                Wanted::Nothing,
            ),
            row(
                "of twice the live bytes and two segments, at the end",
                Unit::Times,
                &values(|kept| kept.last),
                Wanted::AtMost(1.0),
            ),
            row(
                "the same, at any moment",
                Unit::Times,
                &values(|kept| kept.most),
                Wanted::AtMost(1.0),
            ),
        ]);
    }
    Ok(rows)
}
