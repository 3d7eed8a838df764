//! Looking at a journal: what its files hold, and each record.
//!
//! Beside a running server, too: nothing is locked, created or changed (see [`super::survey`]). What it shows
//! is then a moment's view.

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Holder, JournalId, OpenError, SegmentFigures, ToolError,
    examine::examine,
    holder,
    recent::Recent,
    record::{RawRecord, Record},
    scan::{Commit, for_each_record},
    segment::{self, FORMAT_VERSION},
    storage::{Disk, LOCK, Storage},
    survey::{Seen, Survey},
    unsettled::Unsettled,
};
use crate::{
    clock::Clock,
    image::RepositoryName,
    push::{Pair, Push, Sequence, Settlement},
};

/// A journal at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Its directory.
    pub directory: PathBuf,
    /// Its identity, if the header of any segment is intact.
    pub identity: Option<JournalId>,
    /// The format's version.
    pub format: u32,
    /// Who has it open.
    pub holder: Holder,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentFigures>,
    /// Pushes that somebody still owes.
    pub owed: u64,
    /// Pairs of such a push and an endpoint that owes it.
    pub pairs: u64,
    /// The oldest of them.
    pub oldest: Option<Sequence>,
    /// What the next push gets; not known when the end can't be read.
    pub next: Option<Sequence>,
    /// Event ids remembered.
    pub remembered: u64,
    /// Settlements told but not committed.
    pub settling: u64,
    /// Bytes of a last commit that is not whole: of a crash, or being written.
    pub torn_bytes: u64,
    /// Whether all is well but for that; [`super::verify()`] tells what is wrong.
    pub is_sound: bool,
    /// Files that are no segments, by name.
    pub others: Vec<OtherFile>,
}

/// A file in the journal's directory that is no segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherFile {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A record as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView {
    /// In which segment.
    pub segment: u64,
    /// Its offset in the segment's file.
    pub offset: u64,
    /// Its length in bytes, with its header.
    pub bytes: u64,
    /// In which commit.
    pub commit: u64,
    /// What it says.
    pub content: Content,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A push. In a copy that was carried forward, with the places of those that owed it then.
    Push(Sequence, Box<Push>, Option<Vec<u16>>),
    /// A pair is settled.
    Settled(Pair, Settlement),
    /// So many remembered event ids.
    EventIds(u64),
    /// It can't be read.
    Malformed(&'static str),
}

/// Which records to show; without any of these, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those in this segment.
    pub segment: Option<u64>,
    /// The pushes to this repository.
    pub repository: Option<RepositoryName>,
    /// Those about this push.
    pub sequence: Option<Sequence>,
}

/// Looks at the journal in `directory`. Blocks on the disk: all of it is read.
///
/// # Errors
/// See [`ToolError`]. Damage is none.
pub fn inspect(directory: &Path, clock: &Clock) -> Result<Inspection, ToolError> {
    of(&open(directory)?, directory, clock)
}

/// Looks at the journal in `storage`.
pub(super) fn of(
    storage: &Arc<dyn Storage>,
    directory: &Path,
    clock: &Clock,
) -> Result<Inspection, ToolError> {
    let survey = survey(storage, directory)?;
    let mut examined = examine(&survey, &mut |_, _| {})?;
    let holder = holder::holder(directory);
    let found = std::mem::take(&mut examined.ledger.ids);
    let recent = Recent::restore(found, clock.now());
    for (figures, file) in examined.segments.iter_mut().zip(&survey.files) {
        figures.remembered = recent.count_in(file.named);
    }
    let others = others(&survey)?;
    Ok(Inspection {
        directory: directory.to_owned(),
        identity: survey.journal,
        format: FORMAT_VERSION,
        holder,
        owed: examined.ledger.owed.len() as u64,
        pairs: examined.ledger.pairs(),
        oldest: examined.ledger.owed.keys().next().copied(),
        next: examined.ledger.next,
        remembered: recent.len() as u64,
        settling: examined.settling.len() as u64,
        torn_bytes: examined.torn.as_ref().map_or(0, |torn| torn.bytes),
        is_sound: examined.findings.is_empty(),
        segments: examined.segments,
        others,
    })
}

fn others(survey: &Survey) -> Result<Vec<OtherFile>, OpenError> {
    let mut others = Vec::new();
    let mut names: Vec<_> = survey
        .names
        .iter()
        .filter(|name| segment::parse_file_name(name).is_none() && *name != LOCK)
        .collect();
    names.sort();
    for name in names {
        match fs::metadata(survey.storage.path(name)) {
            Ok(metadata) => others.push(OtherFile {
                name: name.clone(),
                bytes: metadata.len(),
            }),
            // It is gone by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(survey.directory().failed(name, error)),
        }
    }
    Ok(others)
}

/// Hands over the records of the journal in `directory` that pass the filter, in the order in which they
/// stand, until `show` breaks off. Blocks on the disk.
///
/// # Errors
/// See [`ToolError`]. Damage is none: what can't be read is left out, as [`super::verify()`] tells.
pub fn records(
    directory: &Path,
    filter: &Filter,
    show: &mut dyn FnMut(RecordView) -> ControlFlow<()>,
) -> Result<(), ToolError> {
    let storage = open(directory)?;
    let survey = survey(&storage, directory)?;
    let Some(seed) = survey.seed else {
        return Ok(());
    };
    let mut flow = ControlFlow::Continue(());
    for (index, file) in survey.files.iter().enumerate() {
        if survey.is_foreign(file) || filter.segment.is_some_and(|segment| segment != file.number) {
            continue;
        }
        survey.read(index, seed, &mut |seen| {
            if let Seen::Commit(commit) = seen {
                flow = show_commit(file.number, &commit, filter, show);
            }
            flow
        })?;
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

fn show_commit(
    segment: u64,
    commit: &Commit<'_>,
    filter: &Filter,
    show: &mut dyn FnMut(RecordView) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut flow = ControlFlow::Continue(());
    // A record that has no end ends the commit; to say so is another tool's business.
    let _ = for_each_record(commit, |offset, raw| {
        let view = RecordView {
            segment,
            offset,
            bytes: raw.bytes() as u64,
            commit: commit.number,
            content: content(&raw),
        };
        if flow.is_continue() && filter.takes(&view) {
            flow = show(view);
        }
        Ok(())
    });
    flow
}

fn content(raw: &RawRecord<'_>) -> Content {
    let decode = || {
        Ok(match raw.decode()? {
            Record::Push(head) => {
                let places = head
                    .carried
                    .as_ref()
                    .map(|unsettled| places(unsettled, head.owed));
                Content::Push(head.sequence, Box::new(head.to_push()?), places)
            }
            Record::Settled(pair, how) => Content::Settled(pair, how),
            Record::EventIds(ids) => Content::EventIds(ids.count() as u64),
        })
    };
    decode().unwrap_or_else(|error| match error {
        super::record::RecordError::Malformed(reason) => Content::Malformed(reason),
        super::record::RecordError::Newer(_) => {
            Content::Malformed("a record of a kind that only a newer version knows")
        }
    })
}

fn places(unsettled: &Unsettled, owed: u16) -> Vec<u16> {
    (0..owed).filter(|place| unsettled.contains(*place)).collect()
}

impl Filter {
    fn takes(&self, view: &RecordView) -> bool {
        let (sequence, repository) = match &view.content {
            Content::Push(sequence, push, _) => (Some(*sequence), Some(&push.repository)),
            Content::Settled(pair, _) => (Some(pair.sequence), None),
            Content::EventIds(_) | Content::Malformed(_) => (None, None),
        };
        (self.sequence.is_none() || self.sequence == sequence)
            && (self.repository.is_none() || self.repository.as_ref() == repository)
    }
}

/// The directory, to be read only.
pub(super) fn open(directory: &Path) -> Result<Arc<dyn Storage>, ToolError> {
    match Disk::open_read_only(directory) {
        Ok(disk) => Ok(Arc::new(disk)),
        Err(OpenError::Io { error, .. }) if is_absence(&error) => Err(absent(directory)),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

pub(super) fn absent(directory: &Path) -> ToolError {
    ToolError::Absent {
        directory: directory.to_owned(),
    }
}

/// The directory's segments, of which there must be one.
pub(super) fn survey(storage: &Arc<dyn Storage>, directory: &Path) -> Result<Survey, ToolError> {
    let survey = Survey::open(storage)?;
    if survey.files.is_empty() {
        return Err(absent(directory));
    }
    Ok(survey)
}
