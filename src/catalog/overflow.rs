//! Files in which news wait while more happens than can be written down: `catalog.overflow-<number>`.
//!
//! Each is written once, read once from its beginning, and deleted; lower numbers are older. Nothing is synced: as with
//! the history itself, what the system had not written to the disk by itself is gone after a power loss.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic: `shbo` |
//! | 4 | 4 | version of the format: 4 |
//! | 8 | 8 | a random number, by which `catalog.db` knows how far the file was read |
//! | 16 | 16 | identity of the journal whose pushes it tells of |
//! | 32 | … | frames, to the end of the file |
//!
//! A frame is the length of what it holds, 4 bytes, the crc32c of that, 4 bytes, and an [`Entry`] as
//! [postcard](https://postcard.jamesmunns.com/wire-format) writes it. Numbers are little-endian.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use tracing::warn;

use super::entry::Entry;
use crate::journal::JournalId;

const MAGIC: [u8; 4] = *b"shbo";
const VERSION: u32 = 4;

/// What can be read as well: version 1 has no [`Entry::Restored`], version 2 no [`Entry::Settled`], and version 3
/// no [`Entry::Sized`].
const OLDEST_VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;

/// What a file's name begins with, and the digits of the number behind it.
const PREFIX: &str = "catalog.overflow-";
const NUMBER_DIGITS: usize = 20;

/// No frame is longer: a request's body is cut at 256 KiB, an answer at 4 KiB, and all else is bounded by what sent it.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// In front of what a frame holds.
const FRAME_HEADER_BYTES: usize = 8;

/// A file that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) number: u64,
    pub(super) bytes: u64,
}

/// What is in a file.
#[derive(Debug)]
pub(super) struct Content {
    /// Its random number.
    pub(super) id: i64,
    pub(super) journal: JournalId,
    /// The whole file.
    pub(super) bytes: Vec<u8>,
}

/// Where a file's frames begin.
pub(super) const FIRST_FRAME: usize = HEADER_BYTES;

/// The file of that number.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{number:0NUMBER_DIGITS$}"))
}

/// The files in a folder, the oldest first. One of which nothing more can be told than its name is there all the same:
/// newer ones get higher numbers.
pub(super) fn list(folder: &Path) -> Vec<Waiting> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            warn!(folder = %folder.display(), %error, "files in which news for the history may wait can't be listed");
            return found;
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(number) else {
            continue;
        };
        let metadata = entry.metadata();
        if metadata.as_ref().is_ok_and(|metadata| !metadata.is_file()) {
            continue;
        }
        let bytes = metadata.map_or(0, |metadata| metadata.len());
        found.push(Waiting { number, bytes });
    }
    found.sort_by_key(|waiting| waiting.number);
    found
}

/// The number that a file's name says: as [`path`] writes it.
fn number(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?;
    let is_whole = number.len() == NUMBER_DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
    is_whole.then(|| number.parse().ok()).flatten()
}

/// Bytes of a file of so many bytes of frames.
pub(super) fn file_bytes(frames: usize) -> u64 {
    (HEADER_BYTES + frames) as u64
}

/// Writes a file of these frames, for its owner only; its length. What can't be written whole is deleted again.
pub(super) fn write(path: &Path, journal: JournalId, frames: &[u8]) -> io::Result<u64> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&rand::random::<u64>().to_le_bytes());
    header.extend_from_slice(&journal.0);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file.write_all(&header).and_then(|()| file.write_all(frames));
    if let Err(error) = written {
        // What is left is read as far as it goes, and what is in it may be written down twice then.
        if let Err(error) = fs::remove_file(path) {
            warn!(file = %path.display(), %error, "a part of a file of news can't be deleted");
        }
        return Err(error);
    }
    Ok((header.len() + frames.len()) as u64)
}

/// Reads a file of that length.
///
/// # Errors
/// `InvalidData` if it is no such file, `Unsupported` if it is one of another version; or it can't be read.
pub(super) fn read(path: &Path, length: u64) -> io::Result<Content> {
    let mut bytes = Vec::new();
    File::open(path)?.take(length).read_to_end(&mut bytes)?;
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    let (header, _) = bytes
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or_else(|| invalid("it is cut off in its header"))?;
    let (magic, rest) = header.split_at(4);
    let (version, rest) = rest.split_at(4);
    let (id, journal) = rest.split_at(8);
    if magic != MAGIC {
        return Err(invalid("it is no such file"));
    }
    let version = version.try_into().map_or(0, u32::from_le_bytes);
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "another version wrote it",
        ));
    }
    let number = |bytes: &[u8]| bytes.try_into().map(i64::from_le_bytes).unwrap_or_default();
    let journal = journal.try_into().map_or(JournalId([0; 16]), JournalId);
    Ok(Content {
        id: number(id),
        journal,
        bytes,
    })
}

/// A frame of the entry.
pub(super) fn frame(entry: &Entry<'_>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(room(entry));
    frame.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    // Memory is all that it could lack.
    let mut frame = postcard::to_extend(entry, frame).unwrap_or_default();
    if let Some((header, held)) = frame.split_first_chunk_mut::<FRAME_HEADER_BYTES>() {
        let (length, sum) = header.split_at_mut(4);
        length.copy_from_slice(&u32::try_from(held.len()).unwrap_or(u32::MAX).to_le_bytes());
        sum.copy_from_slice(&crc32c::crc32c(held).to_le_bytes());
    }
    frame
}

/// Bytes that a frame of the entry hardly exceeds.
fn room(entry: &Entry<'_>) -> usize {
    match entry {
        Entry::Attempted(_, attempted) => {
            let sent = attempted.sent.as_ref();
            let sent = sent.map_or(0, |sent| {
                sent.url.len() + sent.headers.len() + sent.body.first.len()
            });
            512 + sent + attempted.answer.as_ref().map_or(0, |answer| answer.first.len())
        }
        _ => 512,
    }
}

/// The entry of the first frame, and what is behind it.
///
/// # Errors
/// There is no whole frame, or it is not what was written; words say what.
pub(super) fn first(frames: &[u8]) -> Result<(Entry<'_>, &[u8]), &'static str> {
    let (header, rest) = frames
        .split_first_chunk::<FRAME_HEADER_BYTES>()
        .ok_or("it ends within a frame")?;
    let (length, sum) = header.split_at(4);
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).unwrap_or_default();
    let length = number(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err("a frame's length is impossible");
    }
    let (held, rest) = rest.split_at_checked(length).ok_or("it ends within a frame")?;
    if crc32c::crc32c(held) != number(sum) {
        return Err("a frame's checksum is wrong");
    }
    let entry = postcard::from_bytes(held).map_err(|_| "a frame holds something unknown")?;
    Ok((entry, rest))
}
