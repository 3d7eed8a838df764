//! The file system, as far as the journal needs it: a seam, so that every fault can be staged.
//!
//! The contract, which `tests::conforms` holds every implementation to:
//! - a name is a plain file name within the journal's one directory;
//! - what [`StorageFile::write_all_at`] wrote is read back at once, and survives the process being killed;
//! - it survives a power loss only once [`StorageFile::sync_data`] returned `Ok`, under its name only once
//!   [`Storage::sync_dir`] returned `Ok`; after an `Err` of either nothing is known;
//! - a file that somebody removed while it was open can't be synced: nothing in it would be found again;
//! - [`Storage::rename`] replaces its target atomically;
//! - interrupted calls and short writes are finished inside, so an `Err` is the disk's last word.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, OFlags},
    io::Errno,
};

use super::OpenError;
use crate::folder;

/// The journal's directory.
pub(super) trait Storage: Send + Sync + fmt::Debug {
    /// Where the file `name` is, for people.
    fn path(&self, name: &str) -> PathBuf;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes the file, or empties the one there is.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens a regular file, for reading and writing; for reading only where that is all the storage is for.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Gives a file another name, and takes that name from whoever had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes what was created, renamed and removed before durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One file.
pub(super) trait StorageFile: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` from `offset` on.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills `buffer` from `offset` on; fewer bytes than that only at the file's end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes the file at least this long, with zeros, and sets the space for all of it aside: to write there needs no
    /// more. What it holds stays.
    ///
    /// # Errors
    /// `Unsupported` where the file system can't; then nothing was done.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Makes the content, and the size it needs, durable.
    ///
    /// # Errors
    /// The disk's, and `NotFound` when the file has no name any more.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or lengthens the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// Whether it passes by itself: the disk, or this user's share of it, is full, or there was nothing left to open a file
/// with ([`not_opened`]).
pub(crate) fn will_pass(error: &io::Error) -> bool {
    let is_unopened = error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<Unopened>);
    is_unopened || is_full(error)
}

/// Whether the disk, or this user's share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The system had no open file or no memory left to open one with. Nothing was done to it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unopened(io::Error);

/// What [`Storage::create`] and [`Storage::open`] say of an error: one of these passes, which of a write or a sync
/// would be final.
pub(super) fn not_opened(error: io::Error) -> io::Error {
    let errno = Errno::from_io_error(&error);
    if matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)) {
        io::Error::new(error.kind(), Unopened(error))
    } else {
        error
    }
}

/// A real directory: locked against every other process for as long as this value lives, or only read.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    handle: File,
    access: Access,
}

#[derive(Debug)]
enum Access {
    /// Ours alone: the lock file is locked, and the directory itself, whose lock nobody takes away with a file.
    Locked { _lock: File },
    /// Whoever else may be writing to it: nothing is locked, created or changed.
    ReadOnly,
}

/// Held with an advisory lock by the process that has the journal open; never removed, never written.
pub(super) const LOCK: &str = "lock";

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

impl Disk {
    /// Opens the directory, makes it if there is none, and locks it.
    pub(super) fn open(directory: &Path) -> Result<Self, OpenError> {
        if let Err(error) = fs::DirBuilder::new().mode(DIRECTORY_MODE).create(directory)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(OpenError::from_io(directory.to_owned(), error));
        }
        let parent = folder::above(directory);
        folder::sync(parent).map_err(failed(parent))?;
        Self::open_existing(directory)
    }

    /// Opens the directory, which must be there, and locks it.
    pub(super) fn open_existing(directory: &Path) -> Result<Self, OpenError> {
        let handle = File::open(directory).map_err(failed(directory))?;
        let lock_path = directory.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&lock_path)
            .and_then(|lock| folder::give_to_owner(&lock, &handle).map(|()| lock))
            .map_err(failed(&lock_path))?;
        let locked = |tried| match tried {
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
                directory: directory.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(OpenError::from_io(lock_path.clone(), error)),
            Ok(()) => Ok(()),
        };
        locked(try_lock(&lock))?;
        match try_lock(&handle) {
            // Some network file systems lock only what can be written to.
            Err(TryLockError::Error(error)) => {
                tracing::debug!(directory = %directory.display(), %error, "the journal's directory can't be locked, only the file in it");
            }
            tried => locked(tried)?,
        }
        Ok(Self {
            directory: directory.to_owned(),
            handle,
            access: Access::Locked { _lock: lock },
        })
    }

    /// Opens the directory, which must be there, for reading only: beside a server, too. Takes no lock and
    /// leaves no trace; a directory and files that this user may only read are enough.
    pub(super) fn open_read_only(directory: &Path) -> Result<Self, OpenError> {
        Ok(Self {
            directory: directory.to_owned(),
            handle: File::open(directory).map_err(failed(directory))?,
            access: Access::ReadOnly,
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::Locked { .. } => Ok(()),
            Access::ReadOnly => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

fn try_lock(file: &File) -> Result<(), TryLockError> {
    loop {
        match file.try_lock() {
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            tried => return tried,
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |error| OpenError::from_io(path, error)
}

impl Storage for Disk {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.check_writable()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(self.path(name))
            .map_err(not_opened)?;
        folder::give_to_owner(&file, &self.handle)?;
        Ok(Arc::new(DiskFile::of(file)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let is_writable = self.check_writable().is_ok();
        // To open a pipe would otherwise wait for whoever is to write to it. Of a file it says nothing.
        let unwaiting = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        options.read(true).write(is_writable).custom_flags(unwaiting);
        let file = options.open(self.path(name)).map_err(not_opened)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        Ok(Arc::new(DiskFile::of(file)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

/// A file on a disk.
#[derive(Debug)]
struct DiskFile {
    file: File,
    /// The file system counts a file's names: not all do.
    counts_names: bool,
}

impl DiskFile {
    fn of(file: File) -> io::Result<Self> {
        let counts_names = file.metadata()?.nlink() > 0;
        Ok(Self { file, counts_names })
    }
}

impl StorageFile for DiskFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(&self.file, bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(&self.file, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
                // A file system without it says so in one way or another, none of which means a bad file here.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                Err(Errno::INTR) => {}
                other => return other.map_err(io::Error::from),
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.counts_names && self.file.metadata()?.nlink() == 0 {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the file was removed while it was open",
            ));
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::journal::faulty::Faulty;

    fn conforms(storage: &dyn Storage) {
        let file = storage.create("a").unwrap();
        file.write_all_at(b"hello", 0).unwrap();
        file.write_all_at(b"J", 6).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.size().unwrap(), 7);
        let mut buffer = [9; 16];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 7);
        assert_eq!(&buffer[..7], b"hello\0J");
        assert_eq!(file.read_at(&mut buffer, 100).unwrap(), 0);
        file.set_len(2).unwrap();
        assert_eq!(storage.open("a").unwrap().read_at(&mut buffer, 0).unwrap(), 2);
        let long = storage.create("c").unwrap();
        long.allocate(70_000).unwrap();
        assert_eq!(long.size().unwrap(), 70_000);
        assert_eq!(long.read_at(&mut buffer, 69_990).unwrap(), 10);
        assert_eq!(buffer[..10], [0; 10]);
        file.allocate(1).unwrap();
        file.allocate(3).unwrap();
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 3);
        assert_eq!(&buffer[..3], b"he\0");
        file.set_len(2).unwrap();
        storage.create("b").unwrap();
        storage.rename("a", "b").unwrap();
        storage.sync_dir().unwrap();
        assert_eq!(storage.open("b").unwrap().size().unwrap(), 2);
        assert_eq!(storage.open("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(storage.create("b").unwrap().size().unwrap(), 0);
        let removed = storage.open("b").unwrap();
        storage.remove("b").unwrap();
        assert_eq!(removed.sync_data().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!storage.list().unwrap().contains(&"b".to_owned()));
    }

    #[test]
    fn both_implementations_conform() {
        let folder = tempfile::tempdir().unwrap();
        conforms(&Disk::open(&folder.path().join("journal")).unwrap());
        conforms(&*Faulty::new());
    }

    #[test]
    fn the_directory_and_its_files_are_private_and_locked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let disk = Disk::open(&path).unwrap();
        disk.create("a").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&path), mode(&path.join("a")), mode(&path.join("lock"))),
            (0o700, 0o600, 0o600)
        );
        assert!(matches!(Disk::open(&path), Err(OpenError::Locked { .. })));
        fs::remove_file(path.join(LOCK)).unwrap();
        assert!(matches!(Disk::open(&path), Err(OpenError::Locked { .. })));
        drop(disk);
        assert!(Disk::open(&path).is_ok());
    }

    #[test]
    fn a_directory_opened_to_read_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Disk::open_read_only(&folder.path().join("journal")).is_err());
        assert!(!folder.path().join("journal").exists());
        fs::write(folder.path().join("a"), b"hello").unwrap();
        fs::set_permissions(folder.path().join("a"), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
        let disk = Disk::open_read_only(folder.path()).unwrap();
        assert_eq!(disk.list().unwrap(), ["a"]);
        let file = disk.open("a").unwrap();
        let mut buffer = [0; 5];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 5);
        assert!(file.write_all_at(b"x", 0).is_err());
        assert!(disk.create("b").is_err() && disk.rename("a", "b").is_err() && disk.remove("a").is_err());
        assert_eq!(disk.list().unwrap(), ["a"]);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
}
