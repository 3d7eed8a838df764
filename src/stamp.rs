//! What tells one version of a file from the next.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use tokio::time::Instant;

/// How long after files could not be used they are tried again, although they are the same: it may have been for want of
/// rights, or of open files.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

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

/// Files that are read together, and again once one of them has changed.
#[derive(Clone, Copy, Debug)]
pub struct Versions<const N: usize> {
    /// As they were when they were last used.
    used: [Option<Stamp>; N],
    /// As they were when they could not be used, and when that was.
    refused: Option<([Option<Stamp>; N], Instant)>,
}

impl<const N: usize> Versions<N> {
    /// Of files that are in use.
    #[must_use]
    pub fn of(used: [Option<Stamp>; N]) -> Self {
        Self { used, refused: None }
    }

    /// Whether files with these stamps are to be read.
    #[must_use]
    pub fn are_due(&self, stamps: [Option<Stamp>; N], now: Instant) -> bool {
        let is_refused = self.refused.is_some_and(|(refused, at)| {
            refused == stamps && now.saturating_duration_since(at) < AGAIN_AFTER
        });
        self.are_other(stamps) && !is_refused
    }

    /// Whether these are others than those in use.
    #[must_use]
    pub fn are_other(&self, stamps: [Option<Stamp>; N]) -> bool {
        self.used != stamps
    }

    /// These can't be used; whether that is news.
    pub fn refuse(&mut self, stamps: [Option<Stamp>; N], now: Instant) -> bool {
        let before = self.refused.replace((stamps, now));
        before.is_none_or(|(before, _)| before != stamps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cant_be_used_are_tried_again_now_and_then_and_told_once() {
        let stamp = |number| [Some(Stamp(1, number, 1, 1, 1))];
        let mut now = Instant::now();
        let mut versions = Versions::of(stamp(1));
        assert!(!versions.are_due(stamp(1), now));
        for is_news in [true, false] {
            assert!(versions.are_due(stamp(2), now));
            assert_eq!(versions.refuse(stamp(2), now), is_news);
            assert!(!versions.are_due(stamp(2), now));
            assert!(versions.are_due(stamp(3), now), "another one");
            assert!(!versions.are_due(stamp(1), now), "the one in use is there again");
            now += AGAIN_AFTER;
        }
    }
}
