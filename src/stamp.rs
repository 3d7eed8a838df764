//! What tells one version of a file from the next.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Device and inode, size in bytes, and the time of the last modification in seconds and nanoseconds: one of
/// them changes when a file is written, and when another takes its place, also behind a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64, u64, u64, i64, i64);

impl Stamp {
    /// The stamp of the file at `path`; `None` when there is none, or it can't be looked at.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|meta| Self::of_metadata(&meta))
    }

    /// The file's size, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.2
    }

    /// The stamp of a file that this is said of.
    #[must_use]
    pub fn of_metadata(meta: &Metadata) -> Self {
        Self(
            meta.dev(),
            meta.ino(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
        )
    }
}
