//! The bad last commit of the newest segment: what stands behind its valid end is saved beside before it is cut.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    scan::{CHUNK_BYTES, Window},
    segment,
    storage::{Storage, StorageFile},
};

/// The bad last commit of the newest segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub file: PathBuf,
    /// Where the bad commit began.
    pub offset: u64,
    /// How many bytes were cut, up to the last one that is not zero.
    pub bytes: u64,
    /// Where they were saved.
    pub saved: PathBuf,
}

/// Saves what stands behind `end` in the file of that segment, durably, if it is anything but zeros.
///
/// # Errors
/// It can't be read or saved. Nothing is left of the try.
pub(super) fn save(
    storage: &dyn Storage,
    file: &Arc<dyn StorageFile>,
    segment: u64,
    end: u64,
) -> io::Result<Option<Cut>> {
    let mut window = Window::new(Arc::clone(file), CHUNK_BYTES)?;
    let content_end = window.end_of_content(end)?;
    if content_end == end {
        return Ok(None);
    }
    let name = format!("cut-{segment:016}-{end}");
    storage
        .create(&name)
        .and_then(|target| {
            window.copy_to(&*target, end, content_end)?;
            target.sync_data()?;
            storage.sync_dir()
        })
        .inspect_err(|_| {
            // On a full disk it would keep everybody else from what is left.
            let _ = storage.remove(&name);
        })?;
    let cut = Cut {
        file: storage.path(&segment::file_name(segment)),
        offset: end,
        bytes: content_end - end,
        saved: storage.path(&name),
    };
    tracing::warn!(
        file = %cut.file.display(),
        offset = cut.offset,
        bytes = cut.bytes,
        saved = %cut.saved.display(),
        "the journal's last commit was not whole and is cut; it was never acknowledged, unless the disk damaged it since",
    );
    Ok(Some(cut))
}
