//! Reading pushes back from where they stand.

use std::{io, sync::Arc};

use super::{
    frame::Seed,
    live::Standing,
    record::{PushHead, RawRecord, Record, RecordError},
    scan::Window,
    segment,
    storage::Storage,
};

/// Files that are kept open.
const WINDOWS_MAX: usize = 4;

/// Reads records, a few files at a time. What it holds of a file is what stood there when it was read: a record
/// that is not intact in it may have been written since, and is read again.
#[derive(Debug)]
pub(super) struct Reader {
    storage: Arc<dyn Storage>,
    seed: Seed,
    chunk_bytes: usize,
    /// The segment that was read last comes last.
    windows: Vec<(u64, Window)>,
}

impl Reader {
    /// A reader that reads so many bytes at a time, or a whole record if that is longer.
    pub(super) fn new(storage: Arc<dyn Storage>, seed: Seed, chunk_bytes: usize) -> Self {
        Self {
            storage,
            seed,
            chunk_bytes,
            windows: Vec::new(),
        }
    }

    pub(super) fn damaged() -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "there is no intact push where one should be",
        )
    }

    /// The intact record that stands there.
    ///
    /// # Errors
    /// It can't be read, or is not intact; or its segment was deleted, because the push was carried forward
    /// or settled meanwhile.
    pub(super) fn record(&mut self, standing: Standing) -> io::Result<RawRecord<'_>> {
        let seed = self.seed;
        let is_intact = |raw: RawRecord<'_>| raw.is_intact(seed);
        if !self.held(standing)?.is_some_and(is_intact) {
            self.windows.retain(|(segment, _)| *segment != standing.segment);
            if !self.held(standing)?.is_some_and(is_intact) {
                return Err(Self::damaged());
            }
        }
        self.held(standing)?.ok_or_else(Self::damaged)
    }

    /// The record that stands there, as far as its length says; it is read unless it is held.
    fn held(&mut self, standing: Standing) -> io::Result<Option<RawRecord<'_>>> {
        let bytes = usize::try_from(standing.bytes).unwrap_or(usize::MAX);
        let window = self.window(standing.segment)?;
        let bytes = window.bytes(u64::from(standing.offset), bytes)?;
        Ok(bytes
            .and_then(|bytes| RawRecord::split(bytes).ok())
            .filter(|(_, rest)| rest.is_empty())
            .map(|(raw, _)| raw))
    }

    /// What `take` makes of the push that stands there.
    pub(super) fn push<T>(
        &mut self,
        standing: Standing,
        take: impl FnOnce(&PushHead<'_>) -> Result<T, RecordError>,
    ) -> io::Result<T> {
        match self.record(standing)?.decode() {
            Ok(Record::Push(head)) => take(&head).map_err(|_| Self::damaged()),
            _ => Err(Self::damaged()),
        }
    }

    fn window(&mut self, segment: u64) -> io::Result<&mut Window> {
        let known = self.windows.iter().position(|(number, _)| *number == segment);
        let entry = if let Some(index) = known {
            self.windows.remove(index)
        } else {
            let file = self.storage.open(&segment::file_name(segment))?;
            if self.windows.len() >= WINDOWS_MAX {
                self.windows.remove(0);
            }
            (segment, Window::new(file, self.chunk_bytes)?)
        };
        self.windows.push(entry);
        let last = self.windows.last_mut();
        last.map(|(_, window)| window).ok_or_else(Self::damaged)
    }
}
