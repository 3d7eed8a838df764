//! okaywal: one entry a commit, one chunk a record; nothing is checkpointed away, for all of it is pending.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use okaywal::{
    Configuration, Entry, EntryId, LogManager, LogVoid, ReadChunkResult, SegmentReader, WriteAheadLog,
};

use super::workload::{self, Index, PER_COMMIT};

fn configuration(folder: &Path) -> Configuration {
    Configuration::default_for(folder).checkpoint_after_bytes(u64::MAX)
}

pub(crate) fn append(folder: &Path, records: u64) -> anyhow::Result<Duration> {
    let log = configuration(folder).open(LogVoid)?;
    let mut took = Duration::ZERO;
    for first in (0..records).step_by(PER_COMMIT as usize) {
        let commit = workload::commit(first);
        let began = Instant::now();
        let mut entry = log.begin_entry()?;
        for record in &commit {
            entry.write_chunk(record)?;
        }
        entry.commit()?;
        took += began.elapsed();
    }
    Ok(took)
}

pub(crate) fn replay(folder: &Path) -> anyhow::Result<(Duration, Index)> {
    let began = Instant::now();
    let index = Arc::new(Mutex::new(Index::default()));
    let _log = configuration(folder).open(Rebuild(Arc::clone(&index)))?;
    let took = began.elapsed();
    let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((took, std::mem::take(&mut *index)))
}

#[derive(Debug)]
struct Rebuild(Arc<Mutex<Index>>);

impl LogManager for Rebuild {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = entry.id().0;
        let mut number = (id - 1) * PER_COMMIT;
        loop {
            match entry.read_chunk()? {
                ReadChunkResult::Chunk(mut chunk) => {
                    index.add(&chunk.read_all()?, number)?;
                    number += 1;
                }
                ReadChunkResult::EndOfEntry => return Ok(()),
                ReadChunkResult::AbortedEntry => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}
