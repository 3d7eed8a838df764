//! In which numbers of pushes those of a time stand, without a look at each.
//!
//! Lists go by the number, and it follows the clock only nearly: clocks are set, and a data directory that is begun anew
//! has another journal's numbers behind the first's. So for each block of 1,024 numbers the table `spans` has the first
//! and the last moment at which one of them was taken. What it tells may be more than what is there, never less:
//! whoever asks looks at each push's own moment as well.

use std::{collections::BTreeMap, ops::RangeInclusive};

use rusqlite::{Connection, params};

use super::lists::Between;

/// Numbers of a block, as a power of two.
const BLOCK_BITS: u32 = 10;

/// What spans come to have more, by block.
#[derive(Default)]
pub(super) struct Spans(BTreeMap<i64, (i64, i64)>);

impl Spans {
    /// Takes note that a push was taken.
    pub(super) fn note(&mut self, push: i64, taken_at: i64) {
        let (first, last) = self.0.entry(push >> BLOCK_BITS).or_insert((taken_at, taken_at));
        (*first, *last) = ((*first).min(taken_at), (*last).max(taken_at));
    }

    /// Writes that down.
    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "INSERT INTO spans (block, first_at, last_at) VALUES (?1, ?2, ?3) ON CONFLICT (block) DO UPDATE SET \
                   first_at = min(first_at, ?2), last_at = max(last_at, ?3)";
        let mut statement = connection.prepare_cached(sql)?;
        for (block, (first, last)) in &self.0 {
            statement.execute(params![block, first, last])?;
        }
        Ok(())
    }
}

/// Forgets the blocks before the oldest push.
pub(super) fn prune(connection: &Connection) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM spans WHERE block < (SELECT ifnull(min(id), ?2) >> ?1 FROM pushes)";
    connection
        .prepare_cached(sql)?
        .execute(params![BLOCK_BITS, i64::MAX])
}

/// Where the pushes of that time stand, the newest first: ranges that don't touch.
pub(super) fn ranges(
    connection: &Connection,
    between: Between,
) -> rusqlite::Result<Vec<RangeInclusive<i64>>> {
    let sql = "SELECT block FROM spans WHERE last_at >= ?1 AND first_at < ?2 ORDER BY block DESC";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![between.since, between.until])?;
    let mut ranges: Vec<RangeInclusive<i64>> = Vec::new();
    while let Some(row) = rows.next()? {
        let block: i64 = row.get(0)?;
        let (first, last) = (
            block << BLOCK_BITS,
            (block << BLOCK_BITS) | ((1 << BLOCK_BITS) - 1),
        );
        match ranges.last_mut() {
            Some(newer) if *newer.start() == last + 1 => *newer = first..=*newer.end(),
            _ => ranges.push(first..=last),
        }
    }
    Ok(ranges)
}
