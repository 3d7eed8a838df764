//! The floor under the journal: a file of frames, each with its length and crc32c, and one fdatasync a
//! commit. It can't settle anything, nor delete, nor tell a torn end from damage.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::workload::{self, Index, PER_COMMIT};

const FILE: &str = "records";
const HEADER_BYTES: usize = 8;
const CHUNK_BYTES: usize = 1024 * 1024;

/// Appends frames to a file.
#[derive(Debug)]
pub(crate) struct Framed {
    file: File,
    frames: Vec<u8>,
}

impl Framed {
    /// A new file in `folder`.
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            file: OpenOptions::new()
                .append(true)
                .create_new(true)
                .open(folder.join(FILE))?,
            frames: Vec::new(),
        })
    }

    /// Makes the records durable: one write, one fdatasync.
    pub(crate) fn commit<R: AsRef<[u8]>>(&mut self, records: impl IntoIterator<Item = R>) -> io::Result<()> {
        self.frames.clear();
        for record in records {
            let record = record.as_ref();
            let length = u32::try_from(record.len()).map_err(io::Error::other)?;
            self.frames.extend_from_slice(&length.to_le_bytes());
            self.frames
                .extend_from_slice(&crc32c::crc32c(record).to_le_bytes());
            self.frames.extend_from_slice(record);
        }
        self.file.write_all(&self.frames)?;
        self.file.sync_data()
    }
}

/// Appends that many records, a commit at a time.
pub(crate) fn append(folder: &Path, records: u64) -> anyhow::Result<Duration> {
    let mut framed = Framed::create(folder)?;
    let mut took = Duration::ZERO;
    for first in (0..records).step_by(usize::try_from(PER_COMMIT)?) {
        let commit = workload::commit(first);
        let began = Instant::now();
        framed.commit(&commit)?;
        took += began.elapsed();
    }
    Ok(took)
}

/// Reads and checks all of it, and tells where each repository's records are.
pub(crate) fn replay(folder: &Path, records: u64) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut file = File::open(folder.join(FILE))?;
    let mut index = Index::default();
    let mut held = Vec::new();
    let mut position = 0;
    loop {
        let read = Read::by_ref(&mut file)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut held)?;
        if read == 0 {
            break;
        }
        let taken = take_frames(&held, position, &mut index)?;
        position += taken as u64;
        held.drain(..taken);
    }
    let took = began.elapsed();
    ensure!(held.is_empty(), "the file ends within a frame");
    let found = index.records();
    ensure!(found == records, "{found} of {records} records were found again");
    Ok(took)
}

/// Takes the whole frames at the front of `bytes`, which stand at `position`; tells how many bytes they are.
fn take_frames(bytes: &[u8], position: u64, index: &mut Index) -> anyhow::Result<usize> {
    let mut rest = bytes;
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let [a, b, c, d, sum @ ..] = *header;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d]))?;
        let Some((record, behind)) = behind.split_at_checked(length) else {
            break;
        };
        ensure!(
            crc32c::crc32c(record) == u32::from_le_bytes(sum),
            "a frame is damaged"
        );
        index.add(record, position + (bytes.len() - rest.len()) as u64)?;
        rest = behind;
    }
    Ok(bytes.len() - rest.len())
}
