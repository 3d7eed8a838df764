//! Reading a journal in whatever state it is in: what is not intact is told, and what stands behind it is
//! read all the same.
//!
//! For the tools ([`super::inspect`], [`super::verify`], [`super::repair`]); a start refuses damage instead,
//! see [`super::recovery`]. Nothing here changes the directory, and it may change meanwhile, because a server
//! is at work in it:
//! - a segment that is gone before it could be opened was deleted: the directory is listed again. Once open, a
//!   file stays readable whoever deletes it;
//! - the last commit of the newest segment may be half written. It is looked at again before it is called
//!   damaged: once there is a valid commit behind it, it was durable before.

use std::{io, ops::ControlFlow, sync::Arc};

use super::{
    JournalId, OpenError,
    chain::{Directory, HeaderFault, decode_header},
    frame::Seed,
    scan::{CHUNK_BYTES, Commit, Window},
    segment::{self, FIRST_COMMIT_AT, SEGMENT_HEADER_BYTES, SegmentHeader},
    storage::{Storage, StorageFile},
};

/// How often the directory is listed until a listing is one that holds.
const LISTINGS_MAX: usize = 8;

/// A segment's file, sound or not.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) name: String,
    pub(super) file: Arc<dyn StorageFile>,
    /// Bytes, when it was opened.
    pub(super) size: u64,
    /// The number in its name.
    pub(super) named: u64,
    /// The number in its header, if that is intact, else the one in its name: its commits have it too.
    pub(super) number: u64,
    /// The header, if it is intact, under whatever name.
    pub(super) header: Option<SegmentHeader>,
    /// What is wrong with the header, or with its standing in this file.
    pub(super) fault: Option<HeaderFault>,
    /// The file's commits end here at the latest: at the end that the next segment names, or the file's.
    pub(super) limit: u64,
    /// Whether the next segment says where this one ends.
    pub(super) has_named_end: bool,
}

/// The journal's directory, its segments open.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) storage: Arc<dyn Storage>,
    /// All names in the directory.
    pub(super) names: Vec<String>,
    /// In the order of their numbers.
    pub(super) files: Vec<SegmentFile>,
    /// The identity that most headers tell; none if no header is intact.
    pub(super) journal: Option<JournalId>,
    /// What its checksums begin with: told by the identity, or found out from a commit.
    pub(super) seed: Option<Seed>,
}

/// What the reading of a segment comes upon.
#[derive(Debug)]
pub(super) enum Seen<'a> {
    Commit(Commit<'a>),
    Bad(Bad),
}

/// Bytes that are no valid commit where one should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) offset: u64,
    /// Behind the last of them.
    pub(super) end: u64,
    pub(super) kind: BadKind,
}

/// What bad bytes may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadKind {
    /// A valid commit follows, at their end.
    Followed,
    /// Nothing valid follows, in a segment that has another one after it, or they are more than one commit.
    Rest,
    /// Nothing valid follows in the newest segment, and they are no more than a commit that was torn by a crash
    /// or is being written.
    Last,
}

impl Survey {
    /// Lists the directory and opens its segments.
    ///
    /// # Errors
    /// The directory or a file can't be read, or a newer version has written a header.
    pub(super) fn open(storage: &Arc<dyn Storage>) -> Result<Self, OpenError> {
        let directory = Directory(&**storage);
        let mut listing = 1;
        loop {
            let names = storage.list().map_err(|error| directory.failed("", error))?;
            let mut numbers: Vec<u64> = names
                .iter()
                .filter_map(|name| segment::parse_file_name(name))
                .collect();
            numbers.sort_unstable();
            let is_last = listing == LISTINGS_MAX;
            if let Some(files) = open_all(directory, &numbers, is_last)? {
                let mut survey = Self::of(storage, names, files);
                if survey.seed.is_none() {
                    survey.seed = survey.guess_seed()?;
                }
                return Ok(survey);
            }
            listing += 1;
        }
    }

    fn of(storage: &Arc<dyn Storage>, names: Vec<String>, mut files: Vec<SegmentFile>) -> Self {
        files.sort_by_key(|file| (file.number, file.named));
        let journal = identity(&files);
        let next: Vec<_> = files.iter().skip(1).map(|file| file.header).collect();
        for (file, next) in files.iter_mut().zip(next) {
            let end = next
                .filter(|next| Some(next.journal) == journal && next.predecessor == file.number)
                .map(|next| next.predecessor_end)
                .filter(|end| (FIRST_COMMIT_AT..=file.size).contains(end));
            file.has_named_end = end.is_some();
            file.limit = end.unwrap_or(file.size);
        }
        Self {
            storage: Arc::clone(storage),
            names,
            files,
            journal,
            seed: journal.map(Seed::of),
        }
    }

    /// Keeps the segments with these numbers only, those of that journal.
    pub(super) fn keep(&mut self, numbers: &[u64], journal: JournalId) {
        self.files.retain(|file| numbers.contains(&file.named));
        self.journal = Some(journal);
        self.seed = Some(Seed::of(journal));
    }

    /// What the checksums begin with, if no header is left to tell it: a commit whose records agree with it
    /// tells it as well.
    fn guess_seed(&self) -> Result<Option<Seed>, OpenError> {
        for file in &self.files {
            let guessed = Window::new(Arc::clone(&file.file), CHUNK_BYTES)
                .and_then(|mut window| window.guess_seed(file.number))
                .map_err(|error| self.directory().failed(&file.name, error))?;
            if guessed.is_some() {
                return Ok(guessed);
            }
        }
        Ok(None)
    }

    /// Bytes of all segment files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    pub(super) fn directory(&self) -> Directory<'_> {
        Directory(&*self.storage)
    }

    /// Whether the file says that it is another journal's.
    pub(super) fn is_foreign(&self, file: &SegmentFile) -> bool {
        file.header
            .is_some_and(|header| Some(header.journal) != self.journal)
    }

    /// Reads the commits of one file, and hands over each, and what is none. Returns the offset behind the last
    /// valid one.
    ///
    /// # Errors
    /// The file can't be read.
    pub(super) fn read(
        &self,
        index: usize,
        seed: Seed,
        see: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> Result<u64, OpenError> {
        let Some(file) = self.files.get(index) else {
            return Ok(FIRST_COMMIT_AT);
        };
        let is_newest = index + 1 == self.files.len();
        self.walk(file, is_newest, seed, see)
            .map_err(|error| self.directory().failed(&file.name, error))
    }

    fn walk(
        &self,
        file: &SegmentFile,
        is_newest: bool,
        seed: Seed,
        see: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        let dead_from = self.first_dead_commit(file, seed)?;
        let open = || Window::new(Arc::clone(&file.file), CHUNK_BYTES);
        let mut window = open()?;
        let (mut offset, mut end) = (FIRST_COMMIT_AT, FIRST_COMMIT_AT);
        while offset < file.limit {
            if let Some(commit) = window.commit_at(offset, file.limit, file.number, seed)? {
                if dead_from.is_some_and(|dead_from| commit.number >= dead_from) {
                    break;
                }
                offset = commit.end();
                end = offset;
                if see(Seen::Commit(commit)).is_break() {
                    break;
                }
                continue;
            }
            let Some(bad) = bad(file, is_newest, &mut window, offset, seed)? else {
                break;
            };
            if is_newest {
                // Whoever writes it may have been in the middle of it.
                window = open()?;
                if window.commit_at(offset, file.limit, file.number, seed)?.is_some() {
                    continue;
                }
            }
            offset = bad.end;
            if see(Seen::Bad(bad)).is_break() || bad.kind != BadKind::Followed {
                break;
            }
        }
        Ok(end)
    }

    /// The number from which on commits of this file don't count, if its end is not known otherwise: a later
    /// segment begins with it, so what stands here was cut off.
    fn first_dead_commit(&self, file: &SegmentFile, seed: Seed) -> io::Result<Option<u64>> {
        if file.has_named_end {
            return Ok(None);
        }
        let later = self
            .files
            .iter()
            .filter(|later| later.number > file.number && !self.is_foreign(later));
        for later in later {
            if let Some(header) = later.header {
                return Ok(Some(header.first_commit));
            }
            let mut window = Window::new(Arc::clone(&later.file), CHUNK_BYTES)?;
            let Some(at) = window.find_commit(FIRST_COMMIT_AT, later.number, seed)? else {
                continue;
            };
            let first = window.commit_at(at, later.size, later.number, seed)?;
            if let Some(first) = first {
                return Ok(Some(first.number));
            }
        }
        Ok(None)
    }
}

/// Opens these segments; `None` if the listing does not hold any more: one of them is gone, or one was missed.
fn open_all(
    directory: Directory<'_>,
    numbers: &[u64],
    is_last: bool,
) -> Result<Option<Vec<SegmentFile>>, OpenError> {
    let has_gap = numbers
        .iter()
        .zip(numbers.iter().skip(1))
        .any(|(number, next)| number + 1 != *next);
    if has_gap && !is_last {
        return Ok(None);
    }
    let mut files = Vec::with_capacity(numbers.len());
    for number in numbers {
        let name = segment::file_name(*number);
        match open_one(directory.0, &name, *number) {
            Ok(file) => {
                if let Some(HeaderFault::Newer(version)) = file.fault {
                    return Err(directory.newer(&name, version));
                }
                files.push(file);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !is_last {
                    return Ok(None);
                }
                // Only the oldest are deleted by and by.
                if numbers.last() == Some(number) {
                    return Err(directory.failed(&name, error));
                }
            }
            Err(error) => return Err(directory.failed(&name, error)),
        }
    }
    Ok(Some(files))
}

fn open_one(storage: &dyn Storage, name: &str, named: u64) -> io::Result<SegmentFile> {
    let file = storage.open(name)?;
    let size = file.size()?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0)?;
    let decoded = decode_header(bytes.get(..read).unwrap_or_default(), named);
    let header = decoded.ok().or_else(|| SegmentHeader::decode(&bytes).ok());
    Ok(SegmentFile {
        name: name.to_owned(),
        file,
        size,
        named,
        number: header.map_or(named, |header| header.number),
        header,
        fault: decoded.err(),
        limit: size,
        has_named_end: false,
    })
}

/// The identity that most of the files tell; of two that as many tell, the newest one's.
fn identity(files: &[SegmentFile]) -> Option<JournalId> {
    let told = |journal| {
        let headers = files.iter().filter_map(|file| file.header);
        headers.filter(|header| header.journal == journal).count()
    };
    let headers = files.iter().filter_map(|file| file.header);
    headers
        .map(|header| header.journal)
        .max_by_key(|journal| told(*journal))
}

/// What is wrong at `offset`, where no valid commit stands; `None` if the commits end there.
fn bad(
    file: &SegmentFile,
    is_newest: bool,
    window: &mut Window,
    offset: u64,
    seed: Seed,
) -> io::Result<Option<Bad>> {
    // Behind it: at `offset` itself one may stand that is whole, but reaches past the limit.
    let next = window.find_commit(offset + 1, file.number, seed)?;
    if let Some(next) = next.filter(|next| *next < file.limit) {
        return Ok(Some(Bad {
            offset,
            end: next,
            kind: BadKind::Followed,
        }));
    }
    let end = if file.has_named_end {
        file.limit
    } else {
        window.end_of_content(offset)?.min(file.limit)
    };
    let kind = if is_newest && !window.is_more_than_one(offset, end, file.number, seed)? {
        BadKind::Last
    } else {
        BadKind::Rest
    };
    Ok((end > offset).then_some(Bad { offset, end, kind }))
}
