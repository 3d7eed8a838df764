//! Who has a journal open, found out without locking anything: a tool that looks must not keep a server from
//! starting, not even for a moment.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::storage::LOCK;

/// How often the table is read before a lock counts as not in it. The kernel hands a long table out in pieces, and finds
/// the next piece by counting: a lock is passed over when one before it goes away in between.
const LOOKS: u32 = 16;

/// Who has the journal open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// No process.
    Nobody,
    /// A process. Its number is not known when it lives in another PID namespace.
    Process(Option<u32>),
    /// The system doesn't say.
    Unknown,
}

/// Who holds the lock of the journal in `directory`, as the kernel tells it in `/proc/locks`.
#[must_use]
pub fn holder(directory: &Path) -> Holder {
    let Ok(lock) = fs::metadata(directory.join(LOCK)) else {
        // Whoever opens a journal makes the file first.
        return Holder::Nobody;
    };
    for _ in 0..LOOKS {
        match fs::read_to_string("/proc/locks").map(|locks| parse(&locks, lock.ino())) {
            Ok(Holder::Nobody) => {}
            Ok(holder) => return holder,
            Err(_) => return Holder::Unknown,
        }
    }
    Holder::Nobody
}

/// Looks for the exclusive lock on the file with that inode, in the form of proc(5):
/// `1: FLOCK ADVISORY WRITE 2345 fd:01:131090 0 EOF`.
///
/// The device is not compared: some file systems show another one here than `stat` does.
fn parse(locks: &str, inode: u64) -> Holder {
    for line in locks.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // A process that waits for a lock has `->` in front.
        let [_, "FLOCK", _, "WRITE", process, file, ..] = fields.as_slice() else {
            continue;
        };
        let number = file.rsplit(':').next().and_then(|number| number.parse().ok());
        if number == Some(inode) {
            return Holder::Process(process.parse().ok().filter(|process| *process > 0));
        }
    }
    Holder::Nobody
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;
    use crate::journal::storage::Disk;

    #[test]
    fn the_kernels_table_of_locks_is_understood() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 fe:00:500 0 EOF
2: FLOCK  ADVISORY  READ 12 fe:00:500 0 EOF
3: FLOCK  ADVISORY  WRITE 13 fe:00:501 0 EOF
3: -> FLOCK  ADVISORY  WRITE 14 fe:00:500 0 EOF
4: FLOCK  ADVISORY  WRITE -1 fe:00:502 0 EOF
";
        assert_eq!(parse(locks, 501), Holder::Process(Some(13)));
        assert_eq!(parse(locks, 502), Holder::Process(None));
        assert_eq!(parse(locks, 500), Holder::Nobody);
        assert_eq!(parse("", 500), Holder::Nobody);
    }

    /// A table of several pieces, whose locks come and go.
    #[test]
    fn a_holder_is_seen_among_many_locks_that_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let _disk = Disk::open(&path).unwrap();
        if !Path::new("/proc/locks").exists() {
            return;
        }
        let is_over = AtomicBool::new(false);
        let found = thread::scope(|scope| {
            for number in 0..2 {
                let files: Vec<_> = (0..150)
                    .map(|file| File::create(folder.path().join(format!("{number}-{file}"))).unwrap())
                    .collect();
                let is_over = &is_over;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        for file in &files {
                            file.lock().unwrap();
                        }
                        for file in &files {
                            file.unlock().unwrap();
                        }
                    }
                });
            }
            let found: Vec<_> = (0..500).map(|_| holder(&path)).collect();
            is_over.store(true, Ordering::Relaxed);
            found
        });
        let us = Holder::Process(Some(std::process::id()));
        assert_eq!(found.iter().filter(|found| **found != us).count(), 0);
    }

    #[test]
    fn whoever_has_the_journal_open_is_seen_and_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        assert_eq!(holder(&path), Holder::Nobody);
        let disk = Disk::open(&path).unwrap();
        if Path::new("/proc/locks").exists() {
            assert_eq!(holder(&path), Holder::Process(Some(std::process::id())));
        }
        drop(disk);
        assert_eq!(holder(&path), Holder::Nobody);
    }
}
