//! Small file systems of a test's own, to be filled up and broken. It takes the capability to mount; a
//! test that isn't allowed to is skipped.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use super::{
    folder,
    privilege::{self, Capability},
    process,
};

const MIB: u64 = 1024 * 1024;

/// A mounted file system. Dropping it unmounts it, even below somebody who still uses it.
pub(crate) struct Volume {
    /// The file that holds it, if it isn't in memory.
    image: Option<PathBuf>,
    point: PathBuf,
    folder: TempDir,
}

impl Volume {
    /// One in memory, of `mib` MiB, for `test`.
    pub(crate) fn in_memory<T: Copy>(test: T, mib: u64) -> Option<Self> {
        let volume = Self::unmounted(test)?;
        let options = CString::new(format!("size={mib}m,mode=0700")).unwrap();
        let mounted = rustix::mount::mount("tmpfs", &volume.point, "tmpfs", MountFlags::empty(), &*options);
        if let Err(error) = mounted {
            privilege::skipped(test, &format!("a tmpfs can't be mounted: {error}"));
            return None;
        }
        Some(volume)
    }

    /// One that can turn read-only at any moment, as ext4 does when its disk fails; of `mib` MiB, for
    /// `test`.
    pub(crate) fn ext4<T: Copy>(test: T, mib: u64) -> Option<Self> {
        let mut volume = Self::unmounted(test)?;
        let image = volume.folder.path().join("image");
        File::create(&image).unwrap().set_len(mib * MIB).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0"], &image).unwrap();
        volume.image = Some(image);
        if let Err(error) = volume.mount_image() {
            privilege::skipped(test, &format!("a file can't be mounted: {error}"));
            return None;
        }
        Some(volume)
    }

    fn unmounted<T: Copy>(test: T) -> Option<Self> {
        if !privilege::has(test, &[Capability::SysAdmin]) {
            return None;
        }
        let folder = folder();
        let point = folder.path().join("volume");
        fs::create_dir(&point).unwrap();
        Some(Self {
            image: None,
            point,
            folder,
        })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    /// Takes all the space there is, also what has become free since the last time.
    pub(crate) fn fill(&self) {
        let filler = self.filler();
        let mut file = OpenOptions::new().create(true).append(true).open(filler).unwrap();
        loop {
            match file.write_all(&[1; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives back what [`Volume::fill`] took.
    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.point.join("filler")
    }

    /// What ext4 does at an error: from now on it is read-only, also for those who write.
    pub(crate) fn turn_read_only(&self) {
        run("mount", &["-o", "remount,abort"], &self.point).unwrap();
    }

    /// Mounts it afresh, which makes an ext4 writable again. Nobody may use it.
    pub(crate) fn mount_again(&self) {
        rustix::mount::unmount(&self.point, UnmountFlags::empty()).unwrap();
        self.mount_image().unwrap();
    }

    fn mount_image(&self) -> io::Result<()> {
        let image = self.image.as_ref().unwrap().display().to_string();
        run("mount", &["-t", "ext4", "-o", "loop", &image], &self.point)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // It may not be mounted.
        let _ = rustix::mount::unmount(&self.point, UnmountFlags::DETACH);
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> io::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .arg(path)
        .output()
        .map_err(|error| process::missing(program, error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}", said.trim())))
}
