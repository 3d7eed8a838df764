//! Commit frames: the unit that is on disk whole or not at all.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic, no text has it: `C7 53 42 F1` |
//! | 4 | 4 | payload length in bytes, at least 1 |
//! | 8 | 8 | number of the segment it stands in |
//! | 16 | 8 | commit number, running over the whole journal |
//! | 24 | 4 | crc32c of bytes 0..24 and the payload, begun with the journal's seed |
//! | 28 | … | payload: whole records |
//!
//! The seed comes from the journal's random identity, so that neither another journal's bytes nor bytes
//! that somebody smuggled into an event are ever taken for a frame of this one.

use super::{JournalId, codec::Decoder, sum::POLYNOMIAL};

pub(super) const FRAME_HEADER_BYTES: usize = 28;

/// Where the crc stands.
const SUMMED_BYTES: usize = 24;

const MAGIC: u32 = u32::from_le_bytes([0xC7, b'S', b'B', 0xF1]);

/// What every frame begins with, for looking ahead.
pub(super) const MAGIC_BYTES: [u8; 4] = MAGIC.to_le_bytes();

/// What every crc of a journal but those of its segment headers begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn of(journal: JournalId) -> Self {
        Self(crc32c::crc32c(&journal.0))
    }

    /// The seed with which [`Seed::sum`] of `parts` comes to `sum`: there is always one, for a crc can be run
    /// backwards. So it says nothing about whether the parts are intact.
    fn behind(sum: u32, parts: &[&[u8]]) -> Self {
        let bytes = parts.iter().rev().flat_map(|part| part.iter().rev());
        let state = bytes.fold(!sum, |state, byte| {
            let before = (0..8).fold(state, |state, _| {
                if state >> 31 == 1 {
                    (state ^ POLYNOMIAL) << 1 | 1
                } else {
                    state << 1
                }
            });
            before ^ u32::from(*byte)
        });
        Self(!state)
    }

    pub(super) fn sum(self, parts: &[&[u8]]) -> u32 {
        parts
            .iter()
            .fold(self.0, |sum, part| crc32c::crc32c_append(sum, part))
    }
}

/// What stands before a commit's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) payload_bytes: u32,
    pub(super) segment: u64,
    pub(super) commit: u64,
    sum: u32,
}

impl FrameHeader {
    /// Reads the header; `None` when these bytes begin no frame.
    pub(super) fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes);
        let magic = decoder.u32().ok()?;
        let header = Self {
            payload_bytes: decoder.u32().ok()?,
            segment: decoder.u64().ok()?,
            commit: decoder.u64().ok()?,
            sum: decoder.u32().ok()?,
        };
        (magic == MAGIC && header.payload_bytes > 0).then_some(header)
    }

    /// What the journal's checksums begin with, if `payload` is what this header was written for.
    pub(super) fn seed_for(&self, payload: &[u8]) -> Seed {
        let summed = summed(self.payload_bytes, self.segment, self.commit);
        Seed::behind(self.sum, &[&summed, payload])
    }

    /// Whether `payload` is what this header was written for.
    pub(super) fn matches(&self, seed: Seed, payload: &[u8]) -> bool {
        let summed = summed(self.payload_bytes, self.segment, self.commit);
        seed.sum(&[&summed, payload]) == self.sum
    }
}

fn summed(payload_bytes: u32, segment: u64, commit: u64) -> [u8; SUMMED_BYTES] {
    let mut bytes = [0; SUMMED_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC_BYTES);
    bytes[4..8].copy_from_slice(&payload_bytes.to_le_bytes());
    bytes[8..16].copy_from_slice(&segment.to_le_bytes());
    bytes[16..24].copy_from_slice(&commit.to_le_bytes());
    bytes
}

/// Fills in the header that `frame` left room for, [`FRAME_HEADER_BYTES`] in front of its payload.
pub(super) fn seal(frame: &mut [u8], seed: Seed, segment: u64, commit: u64) {
    let Some((header, payload)) = frame.split_first_chunk_mut::<FRAME_HEADER_BYTES>() else {
        return;
    };
    // A commit is bounded far below 4 GiB: by the inbox, and by what one append may hold.
    let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let summed = summed(payload_bytes, segment, commit);
    header[0..SUMMED_BYTES].copy_from_slice(&summed);
    header[SUMMED_BYTES..].copy_from_slice(&seed.sum(&[&summed, payload]).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_valid_only_in_its_own_journal_segment_and_place() {
        let seed = Seed::of(JournalId([7; 16]));
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        frame.extend_from_slice(b"payload");
        seal(&mut frame, seed, 3, 9);
        let (header, payload) = frame.split_first_chunk().unwrap();
        let parsed = FrameHeader::parse(header).unwrap();
        assert_eq!((parsed.payload_bytes, parsed.segment, parsed.commit), (7, 3, 9));
        assert!(parsed.matches(seed, payload));
        assert!(!parsed.matches(Seed::of(JournalId([8; 16])), payload));
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (header, payload) = flipped.split_first_chunk().unwrap();
            let detected = FrameHeader::parse(header).is_none_or(|parsed| {
                parsed.payload_bytes as usize != payload.len() || !parsed.matches(seed, payload)
            });
            assert!(detected, "bit {bit}");
        }
    }

    #[test]
    fn the_seed_behind_a_sum_is_the_one_it_was_made_with() {
        let seed = Seed::of(JournalId([7; 16]));
        let parts: [&[u8]; 3] = [b"", b"some bytes", &[0, 255, 3]];
        assert_eq!(Seed::behind(seed.sum(&parts), &parts), seed);
    }

    #[test]
    fn zeros_are_no_frame() {
        assert_eq!(FrameHeader::parse(&[0; FRAME_HEADER_BYTES]), None);
    }
}
