//! Folders that are there after a power loss, too: what is durable in one is lost with the folder's own name.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, fchown},
    path::Path,
};

/// Makes the folder, for its owner only, and those above it that are missing; each is durable in the one above it.
///
/// A process that was killed may have made it a moment ago: the name of one that is there is made durable, too, where
/// that can be done. Where it can't, nothing was made a moment ago.
///
/// # Errors
/// One can't be made or synced, or is no folder.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return match sync(above(path)) {
            Err(error) if is_not_ours(&error) => Ok(()),
            synced => synced,
        };
    }
    let above = above(path);
    if !above.is_dir() {
        make(above)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    sync(above)
}

/// Whether it is not this user's to change, or a file system that is only read, or can't do it.
fn is_not_ours(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(
        error.kind(),
        InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported
    )
}

/// Gives a file that root made in a folder to whom the folder belongs: a tool that is run as root beside a service leaves
/// nothing there that the service can't open. Where that isn't permitted it stays root's.
pub(crate) fn give_to_owner(file: &File, folder: &File) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = folder.metadata()?;
    if owner.uid() == file.metadata()?.uid() {
        return Ok(());
    }
    match fchown(file, Some(owner.uid()), Some(owner.gid())) {
        Err(error) if is_not_ours(&error) => Ok(()),
        given => given,
    }
}

/// Makes the names in the folder durable.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The folder in which `path` is.
pub(crate) fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        // Of the root, and of a name alone.
        _ => Path::new(if path.has_root() { "/" } else { "." }),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn missing_folders_are_made_for_their_owner_only_and_one_that_is_there_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (first, third) = (folder.path().join("a"), folder.path().join("a/b/c"));
        make(&third).unwrap();
        assert_eq!((mode(&first), mode(&third)), (0o700, 0o700));
        fs::set_permissions(&third, PermissionsExt::from_mode(0o750)).unwrap();
        make(&third).unwrap();
        assert_eq!(mode(&third), 0o750);
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(make(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(make(&file.join("below")).is_err());
    }

    #[test]
    fn every_path_has_a_folder_above_it() {
        for (path, wanted) in [("a", "."), ("a/b", "a"), ("/a", "/"), ("/", "/"), ("./a", ".")] {
            assert_eq!(above(Path::new(path)), Path::new(wanted), "{path}");
        }
    }

    #[test]
    fn what_root_makes_in_somebody_elses_folder_is_theirs() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: only root can make folders of others");
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_533)).unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        give_to_owner(&file, &File::open(folder.path()).unwrap()).unwrap();
        let given = fs::metadata(&path).unwrap();
        assert_eq!((given.uid(), given.gid()), (65_534, 65_533));
    }
}
