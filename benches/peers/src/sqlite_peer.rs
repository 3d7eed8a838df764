//! SQLite: one table, append-only by rowid, one transaction a commit, `synchronous=FULL`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::workload::{self, Index, PER_COMMIT};

fn open(folder: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(folder.join("records.db"))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    Ok(database)
}

pub(crate) fn append(folder: &Path, records: u64) -> anyhow::Result<Duration> {
    let mut database = open(folder)?;
    database.execute_batch("CREATE TABLE records (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")?;
    let mut took = Duration::ZERO;
    for first in (0..records).step_by(PER_COMMIT as usize) {
        let commit = workload::commit(first);
        let began = Instant::now();
        let transaction = database.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO records (body) VALUES (?1)")?;
            for record in &commit {
                insert.execute([record.as_slice()])?;
            }
        }
        transaction.commit()?;
        took += began.elapsed();
    }
    Ok(took)
}

pub(crate) fn replay(folder: &Path) -> anyhow::Result<(Duration, Index)> {
    let began = Instant::now();
    let database = open(folder)?;
    let mut index = Index::default();
    let mut select = database.prepare("SELECT id, body FROM records ORDER BY id")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        index.add(row.get_ref(1)?.as_blob()?, id.cast_unsigned())?;
    }
    Ok((began.elapsed(), index))
}
