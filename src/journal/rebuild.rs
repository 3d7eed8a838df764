//! Writing segments anew from what a damaged journal still tells: the first step of [`super::repair`].

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    ToolError,
    carry::IDS_PER_RECORD,
    examine::examine,
    frame::{self, FRAME_HEADER_BYTES, Seed},
    ledger::Entry,
    reader::Reader,
    recent::EventKey,
    record,
    scan::CHUNK_BYTES,
    segment::{self, FIRST_COMMIT_AT, SegmentHeader},
    segments::LARGE,
    storage::{Storage, StorageFile},
    survey::Survey,
};
use crate::{
    clock::Timestamp,
    push::{Pair, Sequence, Settlement},
};

/// A commit is written once it has this many bytes.
const COMMIT_BYTES: usize = 1024 * 1024;

/// What the new segments are to hold.
#[derive(Debug)]
pub(super) struct Content {
    /// Pushes that are owed, and where they stand now.
    pub(super) owed: BTreeMap<Sequence, Entry>,
    /// Remembered ids, oldest first.
    pub(super) ids: Vec<(EventKey, Timestamp)>,
    /// Settlements that no commit has: without effect here, but they hold for what is left of the old files.
    pub(super) settled: Vec<(Pair, Settlement)>,
    /// The highest number of a commit.
    pub(super) last_commit: u64,
}

/// The segments in the making.
#[derive(Debug)]
pub(super) struct Rebuild<'a> {
    storage: &'a Arc<dyn Storage>,
    /// Of the segment that is written next.
    header: SegmentHeader,
    seed: Seed,
    segment_size: u64,
    /// The file that is written, and where the next commit goes.
    file: Option<(Arc<dyn StorageFile>, u64)>,
    frame: Vec<u8>,
    next_commit: u64,
    /// The numbers of those that are whole.
    written: Vec<u64>,
    bytes: u64,
}

impl<'a> Rebuild<'a> {
    /// Segments of about `segment_size` bytes, the first of which gets that header.
    pub(super) fn new(storage: &'a Arc<dyn Storage>, header: SegmentHeader, segment_size: u32) -> Self {
        Self {
            storage,
            seed: Seed::of(header.journal),
            next_commit: header.first_commit,
            header,
            segment_size: u64::from(segment_size),
            file: None,
            frame: vec![0; FRAME_HEADER_BYTES],
            written: Vec::new(),
            bytes: 0,
        }
    }

    /// The names of the segments that are whole.
    pub(super) fn names(&self) -> Vec<String> {
        self.written
            .iter()
            .map(|number| segment::file_name(*number))
            .collect()
    }

    /// Bytes of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes all segments; `old` is what the checksums of the old ones begin with. Durable when it returns
    /// `Ok`.
    pub(super) fn write(&mut self, content: &Content, old: Option<Seed>) -> io::Result<()> {
        self.begin()?;
        for ids in content.ids.chunks(IDS_PER_RECORD) {
            record::put_event_ids(&mut self.frame, self.seed, ids);
            self.flush_if_large()?;
        }
        if let Some(old) = old {
            let mut reader = Reader::new(Arc::clone(self.storage), old, CHUNK_BYTES);
            for entry in content.owed.values() {
                let raw = reader.record(entry.standing)?;
                record::put_carried(&mut self.frame, self.seed, &raw, &entry.unsettled)
                    .map_err(|_| Reader::damaged())?;
                self.flush_if_large()?;
            }
        }
        for (pair, how) in &content.settled {
            record::put_settled(&mut self.frame, self.seed, *pair, *how);
            self.flush_if_large()?;
        }
        self.flush()?;
        self.end()
    }

    fn begin(&mut self) -> io::Result<()> {
        let file = self.storage.create(LARGE)?;
        file.write_all_at(&self.header.encode(), 0)?;
        self.file = Some((file, FIRST_COMMIT_AT));
        Ok(())
    }

    fn flush_if_large(&mut self) -> io::Result<()> {
        // A commit has no more than a segment, but for a single push that is larger.
        let room = usize::try_from(self.segment_size).unwrap_or(usize::MAX);
        if self.frame.len() < COMMIT_BYTES.min(room) {
            return Ok(());
        }
        self.flush()
    }

    /// Writes what was gathered as one commit, into the next segment if this one is full.
    fn flush(&mut self) -> io::Result<()> {
        if self.frame.len() == FRAME_HEADER_BYTES {
            return Ok(());
        }
        let end = self.file.as_ref().map_or(0, |(_, end)| *end);
        let bytes = self.frame.len() as u64;
        if end > FIRST_COMMIT_AT && end + bytes > self.segment_size {
            self.end()?;
            self.begin()?;
        }
        frame::seal(&mut self.frame, self.seed, self.header.number, self.next_commit);
        if let Some((file, end)) = &mut self.file {
            file.write_all_at(&self.frame, *end)?;
            *end += bytes;
        }
        self.next_commit += 1;
        self.frame.truncate(FRAME_HEADER_BYTES);
        Ok(())
    }

    /// Gives the segment its name, and describes the one that would follow.
    fn end(&mut self) -> io::Result<()> {
        let Some((file, end)) = self.file.take() else {
            return Ok(());
        };
        file.sync_data()?;
        let number = self.header.number;
        // Known before it is tried: from here on it may have its name.
        self.written.push(number);
        self.storage.rename(LARGE, &segment::file_name(number))?;
        self.storage.sync_dir()?;
        self.bytes += end;
        self.header.number = number + 1;
        self.header.first_commit = self.next_commit;
        self.header.predecessor = number;
        self.header.predecessor_end = end;
        Ok(())
    }

    /// Reads the segments back: a journal by themselves, which owes what it should.
    pub(super) fn check(&self, content: &Content) -> Result<(), ToolError> {
        let mut survey = Survey::open(self.storage)?;
        survey.keep(&self.written, self.header.journal);
        let examined = examine(&survey, &mut |_, _| {})?;
        let not_repaired = |reason| Err(ToolError::NotRepaired { reason });
        if !examined.findings.is_empty() || examined.torn.is_some() {
            return not_repaired("what was written is not intact");
        }
        let owed = examined.ledger.owed.iter();
        let written = owed.map(|(sequence, entry)| (sequence, &entry.unsettled));
        let asked = content
            .owed
            .iter()
            .map(|(sequence, entry)| (sequence, &entry.unsettled));
        if !written.eq(asked) {
            return not_repaired("what was written does not owe what it should");
        }
        Ok(())
    }

    /// Removes what was written, as far as that is possible: no old file was touched.
    pub(super) fn remove(&mut self) {
        self.file = None;
        let written = self.written.drain(..).rev().map(segment::file_name);
        for name in [LARGE.to_owned()].into_iter().chain(written) {
            // What stays does no harm: the next repair begins behind it.
            let _ = self.storage.remove(&name);
        }
        let _ = self.storage.sync_dir();
    }
}
