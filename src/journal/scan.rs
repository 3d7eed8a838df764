//! Reading segments: commits one after the other, and what may stand behind the last of them.

use std::{io, sync::Arc};

use super::{
    frame::{FRAME_HEADER_BYTES, FrameHeader, MAGIC_BYTES, Seed},
    record::{RawRecord, RecordError},
    storage::StorageFile,
};

/// How much is read at a time where a whole segment is looked through; a larger commit is read whole.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// A file, seen through a buffer.
#[derive(Debug)]
pub(super) struct Window {
    file: Arc<dyn StorageFile>,
    size: u64,
    chunk_bytes: usize,
    buffer: Vec<u8>,
    /// How much of the buffer is the file's, and from which offset on.
    held: usize,
    start: u64,
}

/// A valid commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit<'a> {
    pub(super) number: u64,
    /// Where in the segment its payload begins.
    pub(super) payload_at: u64,
    pub(super) payload: &'a [u8],
}

impl Commit<'_> {
    /// The offset behind it.
    pub(super) fn end(&self) -> u64 {
        self.payload_at + self.payload.len() as u64
    }
}

/// Hands over each record of a commit, with its offset in the segment.
pub(super) fn for_each_record(
    commit: &Commit<'_>,
    mut take: impl FnMut(u64, RawRecord<'_>) -> Result<(), RecordError>,
) -> Result<(), (u64, RecordError)> {
    let mut rest = commit.payload;
    while !rest.is_empty() {
        let offset = commit.end() - rest.len() as u64;
        let here = |error| (offset, error);
        let (raw, behind) = RawRecord::split(rest).map_err(here)?;
        take(offset, raw).map_err(here)?;
        rest = behind;
    }
    Ok(())
}

impl Window {
    /// The file as it is now, read so many bytes at a time.
    pub(super) fn new(file: Arc<dyn StorageFile>, chunk_bytes: usize) -> io::Result<Self> {
        Ok(Self {
            size: file.size()?,
            chunk_bytes,
            file,
            buffer: Vec::new(),
            held: 0,
            start: 0,
        })
    }

    /// Another file, seen through the same buffer.
    pub(super) fn turn_to(&mut self, file: Arc<dyn StorageFile>) -> io::Result<()> {
        self.size = file.size()?;
        self.file = file;
        (self.held, self.start) = (0, 0);
        Ok(())
    }

    /// The `count` bytes from `offset` on; none if the file ends before that.
    pub(super) fn bytes(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        if offset.saturating_add(count as u64) > self.size {
            return Ok(None);
        }
        if !self.holds(offset, count) {
            self.fill(offset, count)?;
        }
        let held = self.buffer.get(self.index(offset)..self.held);
        Ok(held.and_then(|held| held.get(..count)))
    }

    fn holds(&self, offset: u64, count: usize) -> bool {
        offset >= self.start && offset + count as u64 <= self.start + self.held as u64
    }

    /// Where in the buffer an offset from its start on is.
    fn index(&self, offset: u64) -> usize {
        let index = usize::try_from(offset.saturating_sub(self.start));
        index.unwrap_or(usize::MAX).min(self.held)
    }

    /// Has the buffer begin at `offset`, with at least `count` bytes if the file has them. What is held of them
    /// is not read again.
    fn fill(&mut self, offset: u64, count: usize) -> io::Result<()> {
        let kept = if offset >= self.start {
            self.index(offset)..self.held
        } else {
            0..0
        };
        let kept_bytes = kept.len();
        if kept.start > 0 {
            self.buffer.copy_within(kept, 0);
        }
        (self.start, self.held) = (offset, kept_bytes);
        let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
        let wanted = count.max(self.chunk_bytes).min(left);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let rest = self.buffer.get_mut(kept_bytes..wanted).unwrap_or_default();
        // What a failed read has left there is nothing.
        self.held += self.file.read_at(rest, offset + kept_bytes as u64)?;
        Ok(())
    }

    /// The valid commit of that segment at `offset`, if there is one that ends at `limit` at the latest.
    pub(super) fn commit_at(
        &mut self,
        offset: u64,
        limit: u64,
        segment: u64,
        seed: Seed,
    ) -> io::Result<Option<Commit<'_>>> {
        let Some(header) = self
            .bytes(offset, FRAME_HEADER_BYTES)?
            .and_then(|bytes| bytes.first_chunk())
            .and_then(FrameHeader::parse)
        else {
            return Ok(None);
        };
        let payload_at = offset + FRAME_HEADER_BYTES as u64;
        if header.segment != segment || payload_at + u64::from(header.payload_bytes) > limit {
            return Ok(None);
        }
        let bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        // Header and payload at once, so that the header is not read a second time with the next chunk.
        let frame = self.bytes(offset, FRAME_HEADER_BYTES.saturating_add(bytes))?;
        Ok(frame
            .and_then(|frame| frame.get(FRAME_HEADER_BYTES..))
            .filter(|payload| header.matches(seed, payload))
            .map(|payload| Commit {
                number: header.commit,
                payload_at,
                payload,
            }))
    }

    /// Whether the bytes from `offset` to `end` are more than one commit that is not intact: what its frame says
    /// of its length is less. Then commits that were durable are bad. A length in which one bit has flipped is
    /// told apart: with that bit back, the checksum is right.
    pub(super) fn is_more_than_one(
        &mut self,
        offset: u64,
        end: u64,
        segment: u64,
        seed: Seed,
    ) -> io::Result<bool> {
        let header = self
            .bytes(offset, FRAME_HEADER_BYTES)?
            .and_then(|bytes| bytes.first_chunk())
            .and_then(FrameHeader::parse);
        let payload_at = offset + FRAME_HEADER_BYTES as u64;
        let Some(header) = header
            .filter(|header| header.segment == segment && payload_at + u64::from(header.payload_bytes) < end)
        else {
            return Ok(false);
        };
        for bit in 0..u32::BITS {
            let mut flipped = header;
            flipped.payload_bytes ^= 1 << bit;
            let bytes = usize::try_from(flipped.payload_bytes).unwrap_or(usize::MAX);
            // As long as the content, but for zeros at its end.
            if payload_at + u64::from(flipped.payload_bytes) < end {
                continue;
            }
            if let Some(payload) = self.bytes(payload_at, bytes)?
                && flipped.matches(seed, payload)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where behind `offset` a valid commit of that segment begins.
    pub(super) fn find_commit(
        &mut self,
        mut offset: u64,
        segment: u64,
        seed: Seed,
    ) -> io::Result<Option<u64>> {
        let size = self.size;
        while let Some(at) = self.find_magic(offset)? {
            if self.commit_at(at, size, segment, seed)?.is_some() {
                return Ok(Some(at));
            }
            offset = at + 1;
        }
        Ok(None)
    }

    /// What the checksums of that segment's commits begin with, found out from the first commit of which every
    /// record's checksum says the same.
    pub(super) fn guess_seed(&mut self, segment: u64) -> io::Result<Option<Seed>> {
        let mut offset = 0;
        while let Some(at) = self.find_magic(offset)? {
            offset = at + 1;
            let header = self
                .bytes(at, FRAME_HEADER_BYTES)?
                .and_then(|bytes| bytes.first_chunk())
                .and_then(FrameHeader::parse);
            let Some(header) = header.filter(|header| header.segment == segment) else {
                continue;
            };
            let bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
            let Some(payload) = self.bytes(at + FRAME_HEADER_BYTES as u64, bytes)? else {
                continue;
            };
            let seed = header.seed_for(payload);
            let mut rest = payload;
            while let Ok((record, behind)) = RawRecord::split(rest)
                && record.is_intact(seed)
            {
                rest = behind;
            }
            if rest.is_empty() {
                return Ok(Some(seed));
            }
        }
        Ok(None)
    }

    fn find_magic(&mut self, mut offset: u64) -> io::Result<Option<u64>> {
        loop {
            let left = self.size.saturating_sub(offset);
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            if count < MAGIC_BYTES.len() {
                return Ok(None);
            }
            let Some(bytes) = self.bytes(offset, count)? else {
                return Ok(None);
            };
            let found = bytes
                .windows(MAGIC_BYTES.len())
                .position(|window| window == MAGIC_BYTES);
            match found {
                Some(index) => return Ok(Some(offset + index as u64)),
                // The magic may lie across two chunks.
                None => offset += (count - (MAGIC_BYTES.len() - 1)) as u64,
            }
        }
    }

    /// The offset behind the last byte from `offset` on that is not zero; `offset` if there is none.
    pub(super) fn end_of_content(&mut self, mut offset: u64) -> io::Result<u64> {
        let mut end = offset;
        while offset < self.size {
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            let count = left.min(CHUNK_BYTES);
            let Some(bytes) = self.bytes(offset, count)? else {
                break;
            };
            // Mostly there is nothing: that is seen without a look at each byte.
            if bytes.iter().fold(0, |all, byte| all | byte) != 0
                && let Some(index) = bytes.iter().rposition(|byte| *byte != 0)
            {
                end = offset + index as u64 + 1;
            }
            offset += count as u64;
        }
        Ok(end)
    }

    /// Copies the bytes from `from` to `to` into another file.
    pub(super) fn copy_to(&mut self, target: &dyn StorageFile, from: u64, to: u64) -> io::Result<()> {
        let mut offset = from;
        while offset < to {
            let count = usize::try_from(to - offset)
                .unwrap_or(usize::MAX)
                .min(CHUNK_BYTES);
            let Some(bytes) = self.bytes(offset, count)? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            target.write_all_at(bytes, offset - from)?;
            offset += count as u64;
        }
        Ok(())
    }
}
