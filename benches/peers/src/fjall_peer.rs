//! fjall: one keyspace, keys that count up, one batch a commit, synced.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::workload::{self, Index, PER_COMMIT};

fn open(folder: &Path) -> fjall::Result<(Database, Keyspace)> {
    let database = Database::builder(folder).open()?;
    let keyspace = database.keyspace("records", KeyspaceCreateOptions::default)?;
    Ok((database, keyspace))
}

pub(crate) fn append(folder: &Path, records: u64) -> anyhow::Result<Duration> {
    let (database, keyspace) = open(folder)?;
    let mut took = Duration::ZERO;
    for first in (0..records).step_by(PER_COMMIT as usize) {
        let commit = workload::commit(first);
        let began = Instant::now();
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        for (number, record) in (first..).zip(&commit) {
            batch.insert(&keyspace, number.to_be_bytes(), record.as_slice());
        }
        batch.commit()?;
        took += began.elapsed();
    }
    Ok(took)
}

pub(crate) fn replay(folder: &Path) -> anyhow::Result<(Duration, Index)> {
    let began = Instant::now();
    let (_database, keyspace) = open(folder)?;
    let mut index = Index::default();
    for item in keyspace.iter() {
        let (key, record) = item.into_inner()?;
        index.add(&record, u64::from_be_bytes(key.as_ref().try_into()?))?;
    }
    Ok((began.elapsed(), index))
}
