//! Segment files: their names, their header, and how one comes to be.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic: `shipbell` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 8 | number of this segment, from 1 |
//! | 24 | 16 | the journal's identity, the same in all its segments |
//! | 40 | 8 | created at, Unix ms |
//! | 48 | 8 | a sequence number above all in earlier segments |
//! | 56 | 8 | number of the first commit in this segment |
//! | 64 | 8 | number of the segment before, 0 for none |
//! | 72 | 8 | where that one's valid commits end, bytes from its start |
//! | 80 | 44 | zero |
//! | 124 | 4 | crc32c of bytes 0..124 |
//!
//! Commits follow from byte 128 on; behind the last one a file holds zeros or ends.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use super::{
    JournalId,
    codec::Decoder,
    storage::{Storage, StorageFile},
};
use crate::{clock::Timestamp, push::Sequence};

pub(super) const HEADER_BYTES: usize = 128;

/// The format this version writes, and the newest it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"shipbell";
const SUMMED_BYTES: usize = 124;

/// The name of a file that is to become a segment.
pub(super) const UNNAMED: &str = "new";
/// The name of the file that is made ready for the next segment.
pub(super) const SPARE: &str = "spare";

/// The file name of the segment of that number.
pub(super) fn name(number: u64) -> String {
    format!("{number:016}.segment")
}

/// The number of the segment of that file name, if it is one.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    (digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The segment before, as its successor knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Predecessor {
    pub(super) number: u64,
    pub(super) valid_end: u64,
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    pub(super) journal: JournalId,
    pub(super) created_at: Timestamp,
    pub(super) first_sequence: Sequence,
    pub(super) first_commit: u64,
    pub(super) predecessor: Option<Predecessor>,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged(&'static str),
    Newer(u32),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let predecessor = self.predecessor.unwrap_or(Predecessor {
            number: 0,
            valid_end: 0,
        });
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.journal.0);
        bytes.extend_from_slice(&self.created_at.unix_millis().to_le_bytes());
        bytes.extend_from_slice(&self.first_sequence.get().to_le_bytes());
        bytes.extend_from_slice(&self.first_commit.to_le_bytes());
        bytes.extend_from_slice(&predecessor.number.to_le_bytes());
        bytes.extend_from_slice(&predecessor.valid_end.to_le_bytes());
        bytes.resize(SUMMED_BYTES, 0);
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let damaged = HeaderError::Damaged;
        let short = |_| damaged("the segment's header is cut short");
        let summed = bytes
            .get(..SUMMED_BYTES)
            .ok_or(damaged("the segment's header is cut short"))?;
        let mut decoder = Decoder::new(bytes);
        let magic: [u8; 8] = decoder.array().map_err(short)?;
        let version = decoder.u32().map_err(short)?;
        if magic != MAGIC {
            return Err(damaged("it does not begin as a segment does"));
        }
        if version > FORMAT_VERSION {
            return Err(HeaderError::Newer(version));
        }
        decoder.bytes(4).map_err(short)?;
        let number = decoder.u64().map_err(short)?;
        let journal = JournalId(decoder.array().map_err(short)?);
        let created_at = Timestamp::from_unix_millis(decoder.i64().map_err(short)?);
        let first_sequence = decoder.u64().map_err(short)?;
        let first_commit = decoder.u64().map_err(short)?;
        let before = decoder.u64().map_err(short)?;
        let valid_end = decoder.u64().map_err(short)?;
        decoder.bytes(SUMMED_BYTES - 80).map_err(short)?;
        if decoder.u32().map_err(short)? != crc32c::crc32c(summed) {
            return Err(damaged("the segment's header does not match its checksum"));
        }
        Ok(Self {
            number,
            journal,
            created_at,
            first_sequence: Sequence::new(first_sequence).ok_or(damaged("its first sequence number is 0"))?,
            first_commit,
            predecessor: (before > 0).then_some(Predecessor {
                number: before,
                valid_end,
            }),
        })
    }
}

/// Makes the segment that `header` describes: in the spare, when one is ready, else in a new file.
///
/// The file gets its name only after its header is synced, so that a segment under its own name always has
/// a whole header; once this returns, name and header survive a power loss.
pub(super) fn create(
    storage: &dyn Storage,
    spare: Option<Arc<dyn StorageFile>>,
    header: &Header,
) -> io::Result<Arc<dyn StorageFile>> {
    let (file, current) = match spare {
        Some(file) => (file, SPARE),
        None => (storage.create(UNNAMED)?, UNNAMED),
    };
    file.write_all_at(&header.encode(), 0)?;
    file.sync_data()?;
    storage.rename(current, &name(header.number))?;
    storage.sync_dir()?;
    Ok(file)
}

/// Fills a file with zeros up to `bytes`, so that commits into it change no metadata and sync faster.
pub(super) fn fill(file: &dyn StorageFile, bytes: u64) -> io::Result<()> {
    const BLOCK: usize = 1 << 20;
    let zeros = vec![0; BLOCK];
    let mut offset = 0;
    while offset < bytes {
        let rest = usize::try_from(bytes - offset).unwrap_or(BLOCK).min(BLOCK);
        file.write_all_at(zeros.get(..rest).unwrap_or_default(), offset)?;
        offset += rest as u64;
    }
    file.sync_data()
}

/// The file for the next segment, filled off the writer's thread.
#[derive(Debug, Default)]
pub(super) struct Spare {
    ready: Arc<Mutex<Option<Arc<dyn StorageFile>>>>,
    maker: Option<thread::JoinHandle<()>>,
}

impl Spare {
    /// Begins to make one, unless one is ready or being made. What goes wrong goes wrong again, and is
    /// told, where the segment is needed.
    pub(super) fn begin(&mut self, storage: &Arc<dyn Storage>, bytes: u64) {
        let is_ready = self
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        if is_ready || self.maker.as_ref().is_some_and(|maker| !maker.is_finished()) {
            return;
        }
        let (storage, ready) = (Arc::clone(storage), Arc::clone(&self.ready));
        let make = move || {
            let made = storage
                .create(SPARE)
                .and_then(|file| fill(&*file, bytes).map(|()| file));
            match made {
                Ok(file) => *ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(file),
                // Half a spare would take the room that a full disk does not have.
                Err(_) => drop(storage.remove(SPARE)),
            }
        };
        self.maker = thread::Builder::new()
            .name("journal-spare".into())
            .spawn(make)
            .ok();
    }

    /// Takes the spare if it is ready. One that is still being made is left to its maker.
    pub(super) fn take(&mut self) -> Option<Arc<dyn StorageFile>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for the maker and removes what it made.
    pub(super) fn end(&mut self, storage: &dyn Storage) {
        if let Some(maker) = self.maker.take() {
            drop(maker.join());
        }
        if self.take().is_some() {
            drop(storage.remove(SPARE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_round_trips_and_every_flipped_bit_is_noticed() {
        let header = Header {
            number: 7,
            journal: JournalId([9; 16]),
            created_at: Timestamp::from_unix_millis(1_795_424_918_473),
            first_sequence: Sequence::new(42).unwrap(),
            first_commit: 99,
            predecessor: Some(Predecessor {
                number: 6,
                valid_end: 4_711,
            }),
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(Header::parse(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn names_sort_as_their_numbers() {
        assert_eq!(name(12), "0000000000000012.segment");
        assert_eq!(number_of(&name(12)), Some(12));
        for other in ["12.segment", "lock", "spare", "000000000000001x.segment"] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
