//! Who has a journal open, found out without locking anything: a tool that looks must not keep a server from
//! starting, not even for a moment.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

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

/// Where a file is: its file system's device, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
}

/// Who holds a lock of the journal in `directory`, the file's or the directory's own, as the kernel tells it in
/// `/proc/locks`.
#[must_use]
pub fn holder(directory: &Path) -> Holder {
    let paths = [directory.to_owned(), directory.join(LOCK)];
    let places: Vec<_> = paths.iter().filter_map(|path| place(path).ok()).collect();
    if places.is_empty() {
        return Holder::Nobody;
    }
    for _ in 0..LOOKS {
        match fs::read_to_string("/proc/locks").map(|locks| parse(&locks, &places, has_open)) {
            Ok(Holder::Nobody) => {}
            Ok(holder) => return holder,
            Err(_) => return Holder::Unknown,
        }
    }
    Holder::Nobody
}

fn place(path: &Path) -> io::Result<Place> {
    fs::metadata(path).map(|metadata| Place {
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}

/// Whether the process has the file open; none if that is not told.
fn has_open(process: u32, sought: Place) -> Option<bool> {
    let mut files = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    Some(files.any(|file| file.is_ok_and(|file| place(&file.path()).is_ok_and(|place| place == sought))))
}

/// Looks for an exclusive lock on one of the files, in the form of proc(5):
/// `1: FLOCK ADVISORY WRITE 2345 fd:01:131090 0 EOF`.
///
/// Some file systems show another device here than `stat` does. Where it differs, the process is asked for what it has
/// open; where that is not told either, the number of the file alone counts.
fn parse(locks: &str, sought: &[Place], has_open: impl Fn(u32, Place) -> Option<bool>) -> Holder {
    for line in locks.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // A process that waits for a lock has `->` in front.
        let [_, "FLOCK", _, "WRITE", process, file, ..] = fields.as_slice() else {
            continue;
        };
        let Some((device, inode)) = locked(file) else {
            continue;
        };
        let process = process.parse().ok().filter(|process| *process > 0);
        let is_ours = |place: &Place| {
            place.inode == inode
                && (place.device == device
                    || process
                        .and_then(|process| has_open(process, *place))
                        .unwrap_or(true))
        };
        if sought.iter().any(is_ours) {
            return Holder::Process(process);
        }
    }
    Holder::Nobody
}

/// Device and number of a file, from `fd:01:131090`: major and minor number of the device in hexadecimal digits.
fn locked(file: &str) -> Option<(u64, u64)> {
    let mut parts = file.split(':');
    let mut hexadecimal = || u32::from_str_radix(parts.next()?, 16).ok();
    let device = rustix::fs::makedev(hexadecimal()?, hexadecimal()?);
    Some((device, parts.next()?.parse().ok()?))
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
        let at = |inode| Place {
            device: rustix::fs::makedev(0xfe, 0),
            inode,
        };
        let unasked = |_, _| panic!("the device says it");
        let held = |inode| parse(locks, &[at(1), at(inode)], unasked);
        assert_eq!(held(501), Holder::Process(Some(13)));
        assert_eq!(held(502), Holder::Process(None));
        assert_eq!(held(500), Holder::Nobody);
        assert_eq!(parse("", &[at(500)], unasked), Holder::Nobody);
        // Another file system's file with that number, or one whose device is shown otherwise.
        let elsewhere = [Place {
            device: 7,
            inode: 501,
        }];
        for (told, wanted) in [
            (Some(false), Holder::Nobody),
            (Some(true), Holder::Process(Some(13))),
            (None, Holder::Process(Some(13))),
        ] {
            let asked = |process, place: Place| {
                assert_eq!((process, place), (13, elsewhere[0]));
                told
            };
            assert_eq!(parse(locks, &elsewhere, asked), wanted);
        }
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
            let us = Holder::Process(Some(std::process::id()));
            assert_eq!(holder(&path), us);
            let lock = place(&path.join(LOCK)).unwrap();
            assert_eq!(has_open(std::process::id(), lock), Some(true));
            fs::remove_file(path.join(LOCK)).unwrap();
            assert_eq!(holder(&path), us);
        }
        drop(disk);
        assert_eq!(holder(&path), Holder::Nobody);
    }
}
