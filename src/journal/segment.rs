//! One segment file: its name, its header, and how it begins and grows.
//!
//! A header has 128 bytes. Its size, the magic, and the places of version and crc stay the same in all
//! versions, so that damage is told from a newer version.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic `shipbell` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 8 | segment number, as in the file's name |
//! | 24 | 16 | the journal's identity, the same in all of its segments |
//! | 40 | 8 | created at, Unix ms |
//! | 48 | 8 | first sequence number: what the first new push in it gets |
//! | 56 | 8 | first commit number: the last one of the predecessor, plus 1 |
//! | 64 | 8 | the predecessor's number, 0 for none |
//! | 72 | 8 | the predecessor's valid end: what stands behind that was never acknowledged |
//! | 80 | 8 | how many sequence numbers before the first one nobody gets: pushes that were gone at a start may have had them |
//! | 88 | 36 | zero |
//! | 124 | 4 | crc32c of bytes 0..124 |

use std::{io, sync::Arc};

use super::{
    JournalId,
    codec::{Decoder, Malformed},
    flight::Flight,
    frame::Seed,
    settling,
    storage::{Storage, StorageFile},
};
use crate::{clock::Timestamp, push::Sequence};

pub(super) const SEGMENT_HEADER_BYTES: usize = 128;

/// The first offset at which a commit can stand.
pub(super) const FIRST_COMMIT_AT: u64 = SEGMENT_HEADER_BYTES as u64;

/// The format that this version writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"shipbell";
const SUM_AT: usize = 124;
const SUFFIX: &str = ".segment";

/// No journal comes to a segment, commit or sequence number past this; counting on from here never overflows.
pub(super) const COUNT_MAX: u64 = u64::MAX / 2;

/// The name of the segment's file.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:016}{SUFFIX}")
}

/// The number of the segment whose file has that name.
pub(super) fn parse_file_name(name: &str) -> Option<u64> {
    let number = name.strip_suffix(SUFFIX)?.parse().ok()?;
    // Strictly below, so that there is always a next one.
    ((1..COUNT_MAX).contains(&number) && file_name(number) == name).then_some(number)
}

/// What a segment says of itself and of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u64,
    pub(super) journal: JournalId,
    pub(super) created_at: Timestamp,
    pub(super) first_sequence: Sequence,
    pub(super) first_commit: u64,
    pub(super) predecessor: u64,
    pub(super) predecessor_end: u64,
    /// So many sequence numbers are passed over before the first one.
    pub(super) passed_over: u64,
}

/// Why a header can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged(&'static str),
    Newer(u32),
}

const UNCOUNTED: HeaderError = HeaderError::Damaged("the header names a number that no journal comes to");

impl From<Malformed> for HeaderError {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::Damaged(reason)
    }
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.journal.0);
        bytes[40..48].copy_from_slice(&self.created_at.unix_millis().to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first_sequence.get().to_le_bytes());
        bytes[56..64].copy_from_slice(&self.first_commit.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.predecessor.to_le_bytes());
        bytes[72..80].copy_from_slice(&self.predecessor_end.to_le_bytes());
        bytes[80..88].copy_from_slice(&self.passed_over.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..SUM_AT]);
        bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, HeaderError> {
        let mut decoder = Decoder::new(bytes);
        if decoder.array()? != MAGIC {
            return Err(HeaderError::Damaged("it does not begin as a segment does"));
        }
        if crc32c::crc32c(&bytes[..SUM_AT]).to_le_bytes() != bytes[SUM_AT..] {
            return Err(HeaderError::Damaged("the header's checksum is wrong"));
        }
        let version = decoder.u32()?;
        if version > FORMAT_VERSION {
            return Err(HeaderError::Newer(version));
        }
        if version == 0 {
            return Err(HeaderError::Damaged("the header names format version 0"));
        }
        decoder.u32()?;
        let header = Self {
            number: decode_count(&mut decoder)?,
            journal: JournalId(decoder.array()?),
            created_at: Timestamp::from_unix_millis(decoder.i64()?),
            first_sequence: Sequence::new(decode_count(&mut decoder)?).ok_or(UNCOUNTED)?,
            first_commit: decode_count(&mut decoder)?,
            predecessor: decoder.u64()?,
            predecessor_end: decoder.u64()?,
            passed_over: decoder.u64()?,
        };
        Some(header)
            .filter(|header| header.passed_over < header.first_sequence.get())
            .ok_or(UNCOUNTED)
    }
}

/// How many pushes there can be in so many bytes of a segment.
pub(super) fn pushes_max(bytes: u64) -> u64 {
    /// A push's record has more bytes than this.
    const PUSH_BYTES_MIN: u64 = 64;
    bytes.div_ceil(PUSH_BYTES_MIN)
}

fn decode_count(decoder: &mut Decoder<'_>) -> Result<u64, HeaderError> {
    Some(decoder.u64()?)
        .filter(|count| (1..=COUNT_MAX).contains(count))
        .ok_or(UNCOUNTED)
}

/// Bytes of a segment's file: with what is set aside for settlements, which there is once, two segments take no more than
/// twice `segment_size`.
pub(super) fn usual_capacity(segment_size: u32) -> u64 {
    u64::from(segment_size) - settling::set_aside_bytes(segment_size)
}

/// Makes a file of `bytes` zeros, durable but for its name. Its blocks are set aside, but mostly not written yet
/// ([`fill`]), unless the file system can't do the one without the other.
pub(super) fn create(storage: &dyn Storage, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
    let file = storage.create(name)?;
    let made = match file.allocate(bytes) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => fill(&*file, 0, bytes),
        allocated => allocated,
    };
    made.and_then(|()| file.sync_data()).inspect_err(|_| {
        // On a full disk, half a segment of zeros would keep everybody else from what is left. The file
        // means nothing, and its name is taken by the next try.
        let _ = storage.remove(name);
    })?;
    Ok(file)
}

/// Writes zeros from `from` to `to`.
///
/// Zeros that are on disk already make a later commit a plain overwrite: fdatasync then has no metadata
/// to write. Blocks that were only set aside are marked as written at their first use.
pub(super) fn fill(file: &dyn StorageFile, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];
    let mut offset = from;
    while offset < to {
        let count = usize::try_from(to - offset)
            .unwrap_or(usize::MAX)
            .min(ZEROS.len());
        file.write_all_at(ZEROS.get(..count).unwrap_or(&ZEROS), offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// The segment that commits go to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) file: Arc<dyn StorageFile>,
    /// Where the next commit goes: everything before it is durable and valid.
    pub(super) end: u64,
    /// How far commits may reach.
    pub(super) capacity: u64,
    /// Nothing goes to this file any more.
    pub(super) is_sealed: bool,
    /// Bytes of the commit that is on its way.
    pub(super) in_flight: u64,
}

impl Active {
    /// Turns the prepared file `from` into the segment that `header` describes. Durable when it returns `Ok`.
    ///
    /// A crash in between leaves either no file of the segment's name, or one with its whole header.
    pub(super) fn begin(
        storage: &dyn Storage,
        from: &str,
        file: Arc<dyn StorageFile>,
        header: &SegmentHeader,
    ) -> io::Result<Self> {
        let capacity = file.size()?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync_data()?;
        storage.rename(from, &file_name(header.number))?;
        storage.sync_dir()?;
        Ok(Self {
            number: header.number,
            file,
            end: FIRST_COMMIT_AT,
            capacity,
            is_sealed: false,
            in_flight: 0,
        })
    }

    /// Bytes that still fit, frame headers included.
    pub(super) fn room(&self) -> u64 {
        if self.is_sealed {
            0
        } else {
            self.capacity.saturating_sub(self.end + self.in_flight)
        }
    }

    /// The commit that `frame` holds, as it is to be written; [`Active::land`] is to follow.
    pub(super) fn depart(&mut self, frame: Vec<u8>, seed: Seed, commit: u64) -> Flight {
        debug_assert_eq!(self.in_flight, 0, "one commit is under way at a time");
        self.in_flight = frame.len() as u64;
        Flight {
            file: Arc::clone(&self.file),
            frame,
            at: self.end,
            seed,
            segment: self.number,
            commit,
        }
    }

    /// Takes note of what became of the commit that was on its way.
    pub(super) fn land(&mut self, is_durable: bool) {
        let bytes = std::mem::take(&mut self.in_flight);
        if is_durable {
            self.end += bytes;
        } else {
            self.is_sealed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            number: 7,
            journal: JournalId([9; 16]),
            created_at: Timestamp::from_unix_millis(-1),
            first_sequence: Sequence::new(12).unwrap(),
            first_commit: 34,
            predecessor: 6,
            predecessor_end: 4096,
            passed_over: 3,
        }
    }

    #[test]
    fn headers_round_trip_and_every_flipped_bit_is_noticed() {
        let header = header();
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(
                SegmentHeader::decode(&flipped),
                Err(HeaderError::Damaged(_))
            ));
        }
    }

    #[test]
    fn a_number_that_no_journal_comes_to_is_damage_however_right_its_checksum_is() {
        let counts = [(0, false), (1, true), (COUNT_MAX, true), (COUNT_MAX + 1, false)];
        // Before the twelfth number there are eleven to be passed over.
        let passed_over = [(0, true), (11, true), (12, false), (u64::MAX, false)];
        for (at, numbers) in [(16, counts), (48, counts), (56, counts), (80, passed_over)] {
            for (number, is_sound) in numbers {
                let mut bytes = SegmentHeader {
                    passed_over: 0,
                    ..header()
                }
                .encode();
                bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
                let sum = crc32c::crc32c(&bytes[..SUM_AT]);
                bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
                assert_eq!(
                    SegmentHeader::decode(&bytes).is_ok(),
                    is_sound,
                    "{number} at {at}"
                );
            }
        }
    }

    #[test]
    fn a_newer_header_is_told_from_damage() {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..SUM_AT]);
        bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Newer(2)));
    }

    #[test]
    fn file_names_round_trip_and_nothing_else_is_one() {
        assert_eq!(file_name(42), "0000000000000042.segment");
        assert_eq!(parse_file_name(&file_name(42)), Some(42));
        for other in [
            "42.segment",
            "0000000000000000.segment",
            "spare",
            "0000000000000042.segment~",
            "18446744073709551615.segment",
        ] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }
}
