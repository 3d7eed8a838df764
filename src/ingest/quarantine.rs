//! What could not be understood, kept for people to look at: bounded, oldest out first.
//!
//! # Format
//! One file an entry, named `<number>-<UTC time>-<reason>`, where the number counts up over the
//! folder's whole life. It reads like a message: headers, an empty line, then the body, byte for byte.
//! ```text
//! taken-at: 2026-11-23T09:08:38.473Z
//! reason: unreadable
//! detail: expected value at line 1 column 1
//! peer: 10.0.0.7:51324
//! body-bytes: 52428800
//! kept-bytes: 4194304
//!
//! …
//! ```
//! The folder is mode 0700, the files 0600; other files in it are left alone. An entry is synced, and
//! its name too, when [`Quarantine::keep`] returns. A crash in the middle can leave a file with less than
//! its `kept-bytes`; nothing depends on it.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use chrono::{TimeZone, Utc};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{clock::Timestamp, folder, locked::Locked as _};

/// What a quarantine is built of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its folder; made if missing.
    pub folder: PathBuf,
    /// Files at most.
    pub files_max: usize,
    /// Bytes of all files at most.
    pub bytes_max: u64,
}

impl Options {
    /// At `folder`, with at most 1,000 files and 64 MiB.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            files_max: 1000,
            bytes_max: 64 << 20,
        }
    }
}

/// Something to be kept.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it came.
    pub taken_at: Timestamp,
    /// Why it is here, in one word of `a-z` and `_`: part of the file's name.
    pub reason: &'static str,
    /// Why it is here, in words.
    pub detail: String,
    /// Who sent it.
    pub peer: SocketAddr,
    /// How long it was, in bytes.
    pub body_bytes: u64,
    /// What was kept of it: all, or its beginning.
    pub body: Bytes,
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Quarantine {
    files: Arc<Mutex<Files>>,
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Files {
    options: Options,
    /// Names and sizes, oldest first.
    names: VecDeque<(String, u64)>,
    bytes: u64,
    next: u64,
}

impl Quarantine {
    /// The quarantine with what it holds already. Blocks on the disk.
    ///
    /// # Errors
    /// The folder can't be made or read.
    pub fn open(options: Options) -> io::Result<Self> {
        Ok(Self {
            files: Arc::new(Mutex::new(Files::open(options)?)),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// Its turn, which nobody else has until it is dropped.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> tokio::sync::OwnedSemaphorePermit {
        Arc::clone(&self.turn).acquire_owned().await.unwrap()
    }

    /// Writes `entry` and syncs it; returns its file. Entries wait for their turn, and dropping the future
    /// before its turn keeps nothing.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn keep(&self, entry: Entry) -> io::Result<PathBuf> {
        // One at a time, and waiting without a thread.
        let turn = Arc::clone(&self.turn)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let files = Arc::clone(&self.files);
        spawn_blocking(move || {
            let _turn = turn;
            files.locked().keep(&entry)
        })
        .await
        .map_err(io::Error::other)?
    }
}

impl Files {
    fn open(options: Options) -> io::Result<Self> {
        folder::make(&options.folder)?;
        fs::set_permissions(&options.folder, PermissionsExt::from_mode(0o700))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&options.folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let Some(number) = number_of(&name) else { continue };
            let meta = entry.metadata()?;
            if meta.is_file() {
                found.push((number, name, meta.len()));
            }
        }
        found.sort_unstable();
        let mut this = Self {
            next: found.last().map_or(1, |(number, ..)| number.saturating_add(1)),
            bytes: found.iter().map(|(.., bytes)| bytes).sum(),
            names: found.into_iter().map(|(_, name, bytes)| (name, bytes)).collect(),
            options,
        };
        // The bounds may have been lowered since.
        this.make_room()?;
        Ok(this)
    }

    fn keep(&mut self, entry: &Entry) -> io::Result<PathBuf> {
        let head_bytes_max = 4096;
        let body_bytes_max = self.options.bytes_max.saturating_sub(head_bytes_max);
        let kept = usize::try_from(body_bytes_max)
            .unwrap_or(usize::MAX)
            .min(entry.body.len());
        let body = entry.body.get(..kept).unwrap_or_default();
        let head = head(entry, kept);
        let bytes = (head.len() + body.len()) as u64;
        let name = format!("{:010}-{}-{}", self.next, compact(entry.taken_at), entry.reason);
        self.next += 1;
        let path = self.options.folder.join(&name);
        let mut written = write(&path, head.as_bytes(), body);
        // Somebody removed the folder, with what was in it or to have it elsewhere.
        if written
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            folder::make(&self.options.folder)?;
            written = write(&path, head.as_bytes(), body);
        }
        // A part of it is of use to nobody, and what was kept does not go for its sake. One that can't be removed counts.
        if written.is_ok() || remove(&path).is_err() {
            self.names.push_back((name, bytes));
            self.bytes += bytes;
        }
        written?;
        // The oldest go once there is something in their place.
        self.make_room()?;
        folder::sync(&self.options.folder)?;
        Ok(path)
    }

    fn make_room(&mut self) -> io::Result<()> {
        while self.names.len() > self.options.files_max || self.bytes > self.options.bytes_max {
            let Some((name, size)) = self.names.front() else {
                return Ok(());
            };
            remove(&self.options.folder.join(name))?;
            self.bytes = self.bytes.saturating_sub(*size);
            self.names.pop_front();
        }
        Ok(())
    }
}

fn write(path: &Path, head: &[u8], body: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(head)?;
    file.write_all(body)?;
    file.sync_all()
}

/// Has it gone, whoever removed it, and be it with its folder.
fn remove(path: &Path) -> io::Result<()> {
    use io::ErrorKind::{NotADirectory, NotFound};
    fs::remove_file(path).or_else(|error| match error.kind() {
        NotFound | NotADirectory => Ok(()),
        _ => Err(error),
    })
}

fn number_of(name: &str) -> Option<u64> {
    let (number, rest) = name.split_once('-')?;
    (number.len() >= 10 && rest.contains('-')).then(|| number.parse().ok())?
}

/// `20261123T090838.473Z`: RFC 3339 without what file names are better without.
fn compact(time: Timestamp) -> String {
    match Utc.timestamp_millis_opt(time.unix_millis()).single() {
        Some(time) => time.format("%Y%m%dT%H%M%S%.3fZ").to_string(),
        None => "0".to_owned(),
    }
}

fn head(entry: &Entry, kept: usize) -> String {
    // On one line, whatever a sender put into the names that it quotes.
    let detail: String = entry
        .detail
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(500)
        .collect();
    let mut head = String::new();
    // Writing to a String does not fail.
    let _ = write!(
        head,
        "taken-at: {}\nreason: {}\ndetail: {detail}\npeer: {}\nbody-bytes: {}\nkept-bytes: {kept}\n\n",
        entry.taken_at, entry.reason, entry.peer, entry.body_bytes,
    );
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(body: &'static [u8]) -> Entry {
        Entry {
            taken_at: Timestamp::from_unix_millis(1_795_424_918_473),
            reason: "unreadable",
            detail: "line one\nline two".to_owned(),
            peer: "10.0.0.7:51324".parse().unwrap(),
            body_bytes: body.len() as u64,
            body: Bytes::from_static(body),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn an_entry_is_a_readable_file_that_nobody_else_may_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("quarantine");
        let quarantine = Quarantine::open(Options::at(&folder)).unwrap();
        let path = quarantine.keep(entry(b"\xff{not json")).await.unwrap();
        assert_eq!(
            fs::read(&path).unwrap(),
            b"taken-at: 2026-11-23T09:08:38.473Z\nreason: unreadable\ndetail: line one line two\n\
              peer: 10.0.0.7:51324\nbody-bytes: 10\nkept-bytes: 10\n\n\xff{not json"
        );
        assert_eq!(names(&folder), ["0000000001-20261123T090838.473Z-unreadable"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
    }

    #[tokio::test]
    async fn the_oldest_goes_when_there_are_too_many_also_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        fs::write(folder.join("README"), "not ours").unwrap();
        let options = Options {
            files_max: 2,
            ..Options::at(folder)
        };
        let quarantine = Quarantine::open(options.clone()).unwrap();
        quarantine.keep(entry(b"1")).await.unwrap();
        quarantine.keep(entry(b"2")).await.unwrap();
        drop(quarantine);
        let quarantine = Quarantine::open(options.clone()).unwrap();
        quarantine.keep(entry(b"3")).await.unwrap();
        let numbers = |folder: &Path| {
            names(folder)
                .iter()
                .filter_map(|n| number_of(n))
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(folder), [2, 3]);
        Quarantine::open(Options {
            files_max: 1,
            ..options
        })
        .unwrap();
        assert_eq!(numbers(folder), [3]);
        assert!(folder.join("README").exists());
    }

    #[tokio::test]
    async fn the_oldest_go_when_there_are_too_many_bytes() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        let body: &[u8] = &[b'x'; 3000];
        let quarantine = Quarantine::open(Options {
            bytes_max: 7000,
            ..Options::at(folder)
        })
        .unwrap();
        for _ in 0..5 {
            quarantine.keep(entry(body)).await.unwrap();
        }
        let sizes: u64 = names(folder)
            .iter()
            .map(|n| fs::metadata(folder.join(n)).unwrap().len())
            .sum();
        assert_eq!(names(folder).len(), 2);
        assert!((6000..=7000).contains(&sizes), "{sizes}");
    }

    #[tokio::test]
    async fn what_can_not_be_kept_costs_nothing_that_was() {
        let root = tempfile::tempdir().unwrap();
        let (folder, away) = (root.path().join("quarantine"), root.path().join("away"));
        let quarantine = Quarantine::open(Options {
            files_max: 3,
            ..Options::at(&folder)
        })
        .unwrap();
        quarantine.keep(entry(b"1")).await.unwrap();
        let hide = || {
            fs::rename(&folder, &away).unwrap();
            fs::write(&folder, "not a folder").unwrap();
        };
        hide();
        for _ in 0..2 {
            quarantine.keep(entry(b"2")).await.unwrap_err();
        }
        fs::remove_file(&folder).unwrap();
        fs::rename(&away, &folder).unwrap();
        quarantine.keep(entry(b"3")).await.unwrap();
        assert_eq!(names(&folder).len(), 2);
        // Also when there is no room for more.
        quarantine.keep(entry(b"4")).await.unwrap();
        let known = || quarantine.files.lock().unwrap().names.clone();
        let before = known();
        hide();
        quarantine.keep(entry(b"5")).await.unwrap_err();
        assert_eq!((known(), before.len()), (before, 3));
    }

    #[tokio::test]
    async fn a_folder_that_somebody_removed_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("quarantine");
        let quarantine = Quarantine::open(Options {
            files_max: 2,
            ..Options::at(&folder)
        })
        .unwrap();
        quarantine.keep(entry(b"1")).await.unwrap();
        fs::remove_dir_all(&folder).unwrap();
        for body in [b"2", b"3", b"4"] {
            quarantine.keep(entry(body)).await.unwrap();
        }
        assert_eq!(names(&folder).len(), 2);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_file_that_somebody_removed_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::open(Options {
            files_max: 1,
            ..Options::at(root.path())
        })
        .unwrap();
        fs::remove_file(quarantine.keep(entry(b"1")).await.unwrap()).unwrap();
        quarantine.keep(entry(b"2")).await.unwrap();
        assert_eq!(names(root.path()).len(), 1);
    }
}
