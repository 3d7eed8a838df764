//! The directory as a start finds it: which segments there are, and whether they follow each other.

use std::{io, sync::Arc};

use super::{
    OpenError,
    record::RecordError,
    segment::{self, FIRST_COMMIT_AT, FORMAT_VERSION, HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader},
    storage::{Storage, StorageFile},
};

/// A segment file whose header is valid.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) size: u64,
    /// Where its commits end: named by the successor, or found by reading.
    pub(super) end: u64,
    /// Where its last commit begins: found by reading, 0 before that and where there is none.
    pub(super) last_commit_at: u64,
}

/// What keeps one segment from following another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkFault {
    /// The file that is not as it should be.
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) reason: &'static str,
}

/// Whether the segment of `next` follows that of `last`, whose file has `size` bytes.
pub(super) fn link(last: &SegmentHeader, size: u64, next: &SegmentHeader) -> Result<(), LinkFault> {
    let fault = |number, offset, reason| {
        Err(LinkFault {
            file: segment::file_name(number),
            offset,
            reason,
        })
    };
    let missing = last.number + 1;
    if next.number != missing {
        return fault(missing, 0, "the segment is missing, and there is one after it");
    }
    if next.journal != last.journal || next.predecessor != last.number {
        return fault(
            next.number,
            0,
            "it is not the segment that follows the one before it",
        );
    }
    if next.predecessor_end > size || next.predecessor_end < FIRST_COMMIT_AT {
        return fault(
            last.number,
            size,
            "it ends before the end that its successor names",
        );
    }
    Ok(())
}

/// Why there is no header to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Damaged { offset: u64, reason: &'static str },
    Newer(u32),
}

/// Reads the header at the front of `bytes`, the file of segment `number`.
///
/// A header is on disk before its segment has its name, so a torn one is damage.
pub(super) fn decode_header(bytes: &[u8], number: u64) -> Result<SegmentHeader, HeaderFault> {
    let damaged = |offset, reason| HeaderFault::Damaged { offset, reason };
    let bytes = bytes
        .first_chunk()
        .ok_or_else(|| damaged(bytes.len() as u64, "the file ends within its header"))?;
    let header = SegmentHeader::decode(bytes).map_err(|error| match error {
        HeaderError::Damaged(reason) => damaged(0, reason),
        HeaderError::Newer(version) => HeaderFault::Newer(version),
    })?;
    if header.number != number {
        return Err(damaged(16, "its header has another segment's number"));
    }
    Ok(header)
}

/// The journal's directory, and what to say of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory<'a>(pub(super) &'a dyn Storage);

impl Directory<'_> {
    pub(super) fn failed(&self, name: &str, error: io::Error) -> OpenError {
        OpenError::from_io(self.0.path(name), error)
    }

    pub(super) fn damaged(&self, name: &str, offset: u64, reason: &str) -> OpenError {
        OpenError::Damaged {
            file: self.0.path(name),
            offset,
            reason: reason.to_owned(),
        }
    }

    pub(super) fn bad_record(&self, name: &str, (offset, error): (u64, RecordError)) -> OpenError {
        match error {
            RecordError::Malformed(reason) => self.damaged(name, offset, reason),
            RecordError::Newer(kind) => OpenError::Newer {
                file: self.0.path(name),
                what: format!("records of kind {kind}"),
            },
        }
    }

    pub(super) fn newer(&self, name: &str, version: u32) -> OpenError {
        OpenError::Newer {
            file: self.0.path(name),
            what: format!("format version {version}, and this one knows {FORMAT_VERSION}"),
        }
    }

    /// Removes a file if it is there, durably.
    pub(super) fn remove(&self, name: &str) -> Result<(), OpenError> {
        match self.0.remove(name) {
            Ok(()) => self.0.sync_dir().map_err(|error| self.failed(name, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// The segments in order, their headers checked against each other.
    pub(super) fn headers(&self) -> Result<Vec<Found>, OpenError> {
        let names = self.0.list().map_err(|error| self.failed("", error))?;
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| segment::parse_file_name(name))
            .collect();
        numbers.sort_unstable();
        let mut found: Vec<Found> = Vec::with_capacity(numbers.len());
        for number in numbers {
            let next = self.header(number)?;
            if let Some(last) = found.last_mut() {
                link(&last.header, last.size, &next.header)
                    .map_err(|fault| self.damaged(&fault.file, fault.offset, fault.reason))?;
                last.end = next.header.predecessor_end;
            }
            found.push(next);
        }
        Ok(found)
    }

    fn header(&self, number: u64) -> Result<Found, OpenError> {
        let name = segment::file_name(number);
        let failed = |error| self.failed(&name, error);
        let file = self.0.open(&name).map_err(failed)?;
        let size = file.size().map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut bytes, 0).map_err(failed)?;
        let header =
            decode_header(bytes.get(..read).unwrap_or_default(), number).map_err(|fault| match fault {
                HeaderFault::Damaged { offset, reason } => self.damaged(&name, offset, reason),
                HeaderFault::Newer(version) => self.newer(&name, version),
            })?;
        Ok(Found {
            name,
            header,
            file,
            size,
            end: size,
            last_commit_at: 0,
        })
    }
}
