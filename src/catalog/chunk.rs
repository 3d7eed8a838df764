//! What the writer takes out of the line at once: the news of one file, or those that stood in memory.

use tracing::error;

use super::{entry::Entry, overflow};
use crate::journal::JournalId;

/// What the writer takes out of the line at once.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Whose pushes it tells of.
    pub(super) journal: JournalId,
    /// The file that it comes from, or would go into.
    pub(super) number: u64,
    /// The file's random number and length, if it comes from one.
    pub(super) file: Option<(i64, u64)>,
    /// A whole file, or frames.
    pub(super) bytes: Vec<u8>,
    /// Where the first frame that was not read stands.
    pub(super) at: usize,
}

/// What is written down at once.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    /// Where the entry behind these stands.
    pub(super) end: usize,
    /// What followed can't be read.
    pub(super) is_cut: bool,
    /// More follows.
    pub(super) is_full: bool,
}

impl Chunk {
    /// The next entries: at most so many, of so many bytes, but one in any case. What can't be read ends the chunk, loudly.
    pub(super) fn batch(&self, entries_max: usize, bytes_max: usize) -> Batch<'_> {
        let mut rest = self.rest();
        let until = rest.len().saturating_sub(bytes_max.max(1));
        let (mut entries, mut is_cut) = (Vec::new(), false);
        while !rest.is_empty() && rest.len() > until && entries.len() < entries_max {
            match overflow::first(rest) {
                Ok((entry, behind)) => {
                    entries.push(entry);
                    rest = behind;
                }
                Err(why) => {
                    error!(
                        number = self.number,
                        at = self.bytes.len() - rest.len(),
                        why,
                        "what follows in news for the history is left out; deliveries are not affected"
                    );
                    (rest, is_cut) = (&[], true);
                }
            }
        }
        Batch {
            entries,
            end: self.bytes.len() - rest.len(),
            is_cut,
            is_full: !rest.is_empty(),
        }
    }

    /// Frames that were not read.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// How many entries these are.
    pub(super) fn entries(&self) -> u64 {
        self.batch(usize::MAX, usize::MAX).entries.len() as u64
    }

    /// Goes on behind what was read of the file before, if it is this one.
    pub(super) fn skip(&mut self, read: Option<(i64, i64)>) {
        if let (Some((id, _)), Some((file, position))) = (self.file, read)
            && file == id
        {
            self.at = self.at.max(usize::try_from(position).unwrap_or_default());
        }
    }

    /// Whether all of it was read.
    pub(super) fn is_read(&self) -> bool {
        self.at >= self.bytes.len()
    }
}
