//! Checking every byte of a journal: headers, the chain of segments, each commit's and each record's checksum,
//! what each record says, and whether it all fits together.
//!
//! Beside a running server, too: nothing is locked, created or changed, and a last commit in the making is
//! no damage (see [`super::survey`]).
//!
//! Where more bytes are bad at the end than the last commit can have had, they are damage, as at a start: commits among
//! them were durable.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Finding, Holder, JournalId, ToolError, Torn,
    examine::{Progress, examine},
    holder, inspect,
    storage::Storage,
};

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The journal's directory.
    pub directory: PathBuf,
    /// Its identity, if the header of any segment is intact.
    pub identity: Option<JournalId>,
    /// Who has it open.
    pub holder: Holder,
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Valid commits.
    pub commits: u64,
    /// Records in them.
    pub records: u64,
    /// Pushes that somebody still owes.
    pub owed: u64,
    /// Settlements told but not committed; the next start commits them.
    pub settling: u64,
    /// A last commit that is not whole. No damage: it is being written, or a crash tore it and the next start
    /// cuts it off and saves it beside.
    pub torn: Option<Torn>,
    /// What is damaged, in the order of the files. `shipbell journal repair` sees to all of it.
    pub findings: Vec<Finding>,
}

/// Checks the journal in `directory`. Blocks on the disk: all of it is read, and `progress` is told how far
/// that is.
///
/// # Errors
/// See [`ToolError`]. Damage is none: it is what [`Verification::findings`] tell.
pub fn verify(directory: &Path, progress: Progress<'_>) -> Result<Verification, ToolError> {
    of(&inspect::open(directory)?, directory, progress)
}

/// Checks the journal in `storage`.
pub(super) fn of(
    storage: &Arc<dyn Storage>,
    directory: &Path,
    progress: Progress<'_>,
) -> Result<Verification, ToolError> {
    let survey = inspect::survey(storage, directory)?;
    let examined = examine(&survey, progress)?;
    Ok(Verification {
        directory: directory.to_owned(),
        identity: survey.journal,
        holder: holder::holder(directory),
        segments: survey.files.len() as u64,
        bytes: survey.bytes(),
        commits: examined.segments.iter().map(|segment| segment.commits).sum(),
        records: examined.records,
        owed: examined.ledger.owed.len() as u64,
        settling: examined.settling.len() as u64,
        torn: examined.torn,
        findings: examined.findings,
    })
}
