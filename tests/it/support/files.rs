//! What shipbell has on disk, looked at from outside.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Every file and folder below `root`, with what a file holds.
pub(crate) fn contents(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    below(root)
        .into_iter()
        .map(|path| {
            let content = path.is_file().then(|| fs::read(&path).unwrap());
            (path, content)
        })
        .collect()
}

/// Every file that others than its owner may touch, and every folder: each with its mode if it is not
/// 0600 or 0700.
pub(crate) fn with_wrong_modes(root: &Path) -> Vec<(PathBuf, String)> {
    below(root)
        .into_iter()
        .filter_map(|path| {
            let metadata = fs::metadata(&path).unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let right = if metadata.is_dir() { 0o700 } else { 0o600 };
            (mode != right).then(|| (path, format!("{mode:04o}")))
        })
        .collect()
}

/// `root` and all that is below it.
fn below(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if path.is_dir() {
            found.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// The journal's segments below the data folder `data`, oldest first.
pub(crate) fn segments(data: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<PathBuf> = fs::read_dir(data.join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    segments.sort_unstable();
    segments
}

/// Where the zeros begin that a segment ends in.
pub(crate) fn end_of_content(segment: &Path) -> usize {
    let bytes = fs::read(segment).unwrap();
    bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}
