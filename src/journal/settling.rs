//! Settlements between being told and being durable.
//!
//! A settlement rides with the next commit. When none comes, it waits up to [`SYNC_WITHIN`] for one of its
//! own, so that a stream of them doesn't cost an fsync each; until then it stands in the file `settling`,
//! written by a thread that does nothing else and not synced, which is enough to survive `kill -9`. So every commit in a
//! segment is durable before the next one is written, and a bad commit with a valid one behind it is damage
//! without doubt: two commits under one fsync could be torn in the wrong order by a power loss, and look just
//! the same.
//!
//! The file holds plain records from its beginning on; the first one that is not intact ends it. It is
//! written from the beginning again once all it held is committed, or all but a page of it, so older records may follow the
//! current ones; as a settlement is never taken back, reading those again changes nothing. Recovery commits what it
//! finds there and begins the file anew before anything else is taken. Of pushes that a cut took along, it passes over the
//! sequence numbers: no other push meets settlements of theirs.
//!
//! The file is never larger than what is set aside for it ([`set_aside`]), so that a full disk takes settlements for a
//! while (a file system that writes nothing in place takes them once). It is never removed: the space would be somebody
//! else's before it is set aside again. A start that finds no space leaves it to the writer, which tries again. What does
//! not fit into the file is committed at once, and whoever told it waits until it is, or until there is space: a lane that
//! went on would deliver what no start knows to be settled.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    frame::Seed,
    record::{self, RawRecord, Record},
    segment,
    storage::{Storage, StorageFile, will_pass},
    time::now,
    unsettled::Unsettled,
};
use crate::{
    locked::Locked as _,
    push::{Pair, Sequence, Settlement},
};

mod backlog;

pub(super) use backlog::{Backlog, Fitting, Mark};

/// The file's name.
pub(super) const SETTLING: &str = "settling";

/// How long a settlement waits for a commit to ride with.
pub(super) const SYNC_WITHIN: Duration = Duration::from_millis(100);

/// No more bytes of the file are read: the largest segment sets aside as many.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// So much is written whole or not at all, whenever the process is killed: a page.
const WHOLE_BYTES: usize = 4096;

/// The part of a segment that is set aside for the file: some 45,000 settlements of 23 bytes with the usual size.
const SET_ASIDE_PART: u64 = 16;

/// How many bytes are set aside, which is all that the file takes.
pub(super) fn set_aside_bytes(segment_size: u32) -> u64 {
    u64::from(segment_size) / SET_ASIDE_PART
}

/// Begins the file anew: all that a start read in it is committed. Whether its space is set aside.
pub(super) fn begin_anew(storage: &dyn Storage, segment_size: u32) -> bool {
    let bytes_max = set_aside_bytes(segment_size);
    let begun = open_or_create(storage).and_then(|file| {
        let size = file.size()?;
        if size > bytes_max {
            file.set_len(bytes_max)?;
        }
        // All of it: older ones may stand behind what was read. Should that fail, they are read again, which changes nothing.
        segment::fill(&*file, 0, size.min(bytes_max))?;
        set_aside(&*file, bytes_max)?;
        sync(storage, &*file)
    });
    if let Err(error) = &begun {
        tracing::warn!(file = %storage.path(SETTLING).display(), %error, "no space is set aside for settlements");
    }
    begun.is_ok()
}

/// Sets aside what is missing of the file's space: nobody else can take it then. What it holds stays.
fn set_aside(file: &dyn StorageFile, bytes: u64) -> io::Result<()> {
    match file.allocate(bytes) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => segment::fill(file, file.size()?, bytes),
        allocated => allocated,
    }
}

fn sync(storage: &dyn Storage, file: &dyn StorageFile) -> io::Result<()> {
    file.sync_data()?;
    storage.sync_dir()
}

fn open_or_create(storage: &dyn Storage) -> io::Result<Arc<dyn StorageFile>> {
    match storage.open(SETTLING) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => storage.create(SETTLING),
        opened => opened,
    }
}

/// The settlements in the file, as far as they are intact, and where they end. What stands behind those nobody wrote.
pub(super) fn told(storage: &dyn Storage, seed: Seed) -> io::Result<(Vec<(Pair, Settlement)>, u64)> {
    let bytes = read(storage)?.unwrap_or_default();
    let (mut rest, mut settled) = (bytes.as_slice(), Vec::new());
    while let Ok((record, behind)) = RawRecord::split(rest)
        && record.is_intact(seed)
    {
        if let Ok(Record::Settled(pair, how)) = record.decode() {
            settled.push((pair, how));
        }
        rest = behind;
    }
    Ok((settled, (bytes.len() - rest.len()) as u64))
}

/// The bytes of the file, as many as may be records; none if there is no file.
pub(super) fn read(storage: &dyn Storage) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open(SETTLING) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.size()?;
    if size > FILE_BYTES_MAX {
        tracing::warn!(
            file = %storage.path(SETTLING).display(), bytes = size, bytes_max = FILE_BYTES_MAX,
            "the file of settlements is longer than it can have become; what is behind that is not read"
        );
    }
    let mut bytes = vec![0; usize::try_from(size.min(FILE_BYTES_MAX)).unwrap_or_default()];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Whoever told settlements: an answer says that they are written down.
pub(super) type Caller = oneshot::Sender<()>;

/// Tells them that theirs are written down.
pub(super) fn answer(callers: Vec<Caller>) {
    for caller in callers {
        // Nobody may wait for it any more: then it is written all the same.
        let _ = caller.send(());
    }
}

/// What telling a settlement came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It waits with others, which the writer knows of.
    More,
    /// The writer has to know of it.
    News,
    /// The journal has ended.
    TooLate,
}

/// The settlements that are not durable yet, and the file that holds them meanwhile.
#[derive(Debug)]
pub(super) struct Settling {
    storage: Arc<dyn Storage>,
    seed: Seed,
    /// What the file takes.
    bytes_max: u64,
    /// What a start that had no space left uncommitted: settled all the same.
    left_over: HashMap<Sequence, Vec<u16>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    backlog: Backlog,
    /// When the first of them was told.
    since: Option<Instant>,
    /// When the first was told behind those that are being committed, if these were all.
    behind_since: Option<Instant>,
    /// How many of the backlog's bytes stand in the file.
    filed: usize,
    file: FileState,
    file_end: u64,
    /// Nothing that recovery read is needed any more.
    may_rewind: bool,
    /// When space for the file is tried for again, if the disk had none at the start.
    set_aside_at: Option<Instant>,
    /// Who waits for what is neither in the file nor committed, and how many bytes had been told then in all.
    held: VecDeque<(u64, Caller)>,
    /// How many bytes of settlements were committed.
    committed: u64,
    has_ended: bool,
}

#[derive(Debug)]
enum FileState {
    Absent,
    Open(Arc<dyn StorageFile>),
    /// A write failed: settlements go into commits at once.
    Failed,
}

impl FileState {
    /// The file, which is made if there is none; nothing when it has failed.
    fn open(&mut self, storage: &dyn Storage) -> io::Result<Option<Arc<dyn StorageFile>>> {
        match self {
            Self::Open(file) => Ok(Some(Arc::clone(file))),
            Self::Failed => Ok(None),
            Self::Absent => {
                let file = open_or_create(storage)?;
                *self = Self::Open(Arc::clone(&file));
                Ok(Some(file))
            }
        }
    }
}

impl Settling {
    /// Begins with what recovery found to be settled but not committed; `file_end` is how much of the file
    /// that takes, 0 when there is no file. `is_set_aside` is whether the start found space for all of it.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        seed: Seed,
        segment_size: u32,
        (backlog, file_end): (Backlog, u64),
        is_set_aside: bool,
    ) -> Self {
        let mut left_over: HashMap<_, Vec<_>> = HashMap::new();
        for Mark { pair, .. } in &backlog.marks {
            left_over.entry(pair.sequence).or_default().push(pair.place);
        }
        let state = State {
            since: (!backlog.marks.is_empty()).then(now),
            behind_since: None,
            filed: backlog.bytes.len(),
            backlog,
            file: FileState::Absent,
            file_end,
            may_rewind: file_end == 0,
            set_aside_at: (!is_set_aside).then(now),
            held: VecDeque::new(),
            committed: 0,
            has_ended: false,
        };
        Self {
            storage,
            seed,
            bytes_max: set_aside_bytes(segment_size),
            left_over,
            state: Mutex::new(state),
        }
    }

    /// Every change is whole before anything can panic, so a poisoned lock guards sound data.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }

    /// Takes settlements, and writes them to the file. Hands back who is to be answered: they survive `kill -9` then. The
    /// others are kept until theirs are written, too.
    pub(super) fn tell(
        &self,
        settlements: impl IntoIterator<Item = (Pair, Settlement)>,
        callers: Vec<Caller>,
    ) -> (Told, Vec<Caller>) {
        let mut state = self.lock();
        if state.has_ended {
            return (Told::TooLate, callers);
        }
        let was_due = state.due_at();
        for (pair, how) in settlements {
            state.backlog.push(self.seed, pair, how);
        }
        if !state.backlog.marks.is_empty() {
            let now = now();
            state.since.get_or_insert(now);
            state.behind_since.get_or_insert(now);
        }
        state.file(&*self.storage, self.bytes_max);
        let all = state.committed + state.backlog.bytes.len() as u64;
        state.held.extend(callers.into_iter().map(|caller| (all, caller)));
        let told = if state.due_at() == was_due {
            Told::More
        } else {
            Told::News
        };
        (told, state.answerable())
    }

    /// Strikes out which of a push's pairs were settled before the start, although no commit says so yet.
    pub(super) fn strike_out(&self, sequence: Sequence, unsettled: &mut Unsettled) {
        if self.left_over.is_empty() {
            return;
        }
        for place in self.left_over.get(&sequence).into_iter().flatten() {
            unsettled.settle(*place);
        }
    }

    /// When these must be durable.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.lock().due_at()
    }

    /// Whether they wait for longer than they should, or more than `bytes_max` bytes do.
    pub(super) fn is_behind(&self, bytes_max: usize) -> bool {
        let state = self.lock();
        let is_late = state.since.is_some_and(|since| since + 2 * SYNC_WITHIN <= now());
        is_late || state.backlog.bytes.len() > bytes_max
    }

    /// How many settlements wait.
    pub(super) fn len(&self) -> usize {
        self.lock().backlog.marks.len()
    }

    /// The first settlements that fit into `room` bytes.
    pub(super) fn fitting(&self, room: usize) -> Fitting {
        self.lock().backlog.fitting(room)
    }

    /// Length of the first settlement's record; 0 if there is none.
    pub(super) fn first_bytes(&self) -> usize {
        self.lock().backlog.marks.front().map_or(0, |mark| mark.bytes)
    }

    /// Appends the records of the first settlements.
    pub(super) fn put(&self, out: &mut Vec<u8>, fitting: Fitting) {
        let mut state = self.lock();
        out.extend_from_slice(state.backlog.bytes.get(..fitting.bytes).unwrap_or_default());
        state.behind_since = if fitting.is_all {
            (fitting.bytes < state.backlog.bytes.len()).then(now)
        } else {
            state.since
        };
    }

    /// Says that the first settlements are durable, and returns them, and who is to be answered.
    pub(super) fn committed(&self, fitting: Fitting) -> (Vec<Pair>, Vec<Caller>) {
        let mut state = self.lock();
        let bytes = fitting.bytes.min(state.backlog.bytes.len());
        let count = fitting.count.min(state.backlog.marks.len());
        state.backlog.bytes.drain(..bytes);
        state.committed += bytes as u64;
        state.may_rewind = true;
        state.filed = state.filed.saturating_sub(bytes);
        let pairs = state.backlog.marks.drain(..count).map(|mark| mark.pair).collect();
        // What was told meanwhile waits from then on. Else a steady stream would have a commit follow upon the other.
        state.since = state.behind_since.filter(|_| !state.backlog.marks.is_empty());
        if state.backlog.marks.is_empty() {
            state.file_end = 0;
        } else if state.file_end > self.bytes_max / 2 && state.fits_in_front() {
            // So many come that it is never empty: what is still needed is written from the beginning again,
            // over what is committed. If it is too much for that, the file will be full, and what comes then is in no
            // file once all that is in it is committed.
            state.filed = 0;
            state.file_end = 0;
        }
        // What did not fit into the file may fit now.
        state.file(&*self.storage, self.bytes_max);
        (pairs, state.answerable())
    }

    /// Writes what the file had no space for, if it has now, and makes it durable: no commit does. Who is to be answered.
    pub(super) fn file_again(&self) -> Vec<Caller> {
        let mut state = self.lock();
        state.file(&*self.storage, self.bytes_max);
        if let Err(error) = state.sync(&*self.storage)
            && !will_pass(&error)
        {
            tracing::warn!(file = SETTLING, %error, "settlements that found no space in a segment would not survive a power loss");
        }
        state.answerable()
    }

    /// When space for the file is to be tried for again.
    pub(super) fn set_aside_at(&self) -> Option<Instant> {
        self.lock().set_aside_at
    }

    /// Tries to set aside what the disk had no space for at the start; if it has none yet, again after `wait`.
    pub(super) fn set_aside(&self, wait: Duration) {
        let mut state = self.lock();
        state.set_aside_at = None;
        let tried = match state.file.open(&*self.storage) {
            // Nobody may write to it while zeros are.
            Ok(Some(file)) => set_aside(&*file, self.bytes_max).map(|()| file),
            // It has failed, and is not used any more.
            Ok(None) => return,
            Err(error) => Err(error),
        };
        drop(state);
        match tried.and_then(|file| sync(&*self.storage, &*file)) {
            Ok(()) => {
                tracing::info!(
                    file = SETTLING,
                    bytes = self.bytes_max,
                    "space is set aside for settlements"
                );
            }
            Err(error) if will_pass(&error) => self.lock().set_aside_at = Some(now() + wait),
            Err(error) => {
                tracing::warn!(file = SETTLING, %error, "no space can be set aside for settlements");
            }
        }
    }

    /// Takes nothing more, and answers nobody any more. Tells how many settlements are written nowhere.
    pub(super) fn end(&self) -> usize {
        let mut state = self.lock();
        state.has_ended = true;
        state.held.clear();
        let filed = state.backlog.fitting(state.filed);
        state.backlog.marks.len() - filed.count
    }
}

impl State {
    fn due_at(&self) -> Option<Instant> {
        let since = self.since?;
        // Whoever told what is not in the file waits for it.
        let is_filed = self.filed == self.backlog.bytes.len();
        Some(if is_filed { since + SYNC_WITHIN } else { since })
    }

    /// Whether what is in the file and still needed can be written from its beginning again, and is whole there or where it
    /// stands, whenever a kill comes: it was answered.
    fn fits_in_front(&self) -> bool {
        self.filed <= WHOLE_BYTES && 2 * self.filed as u64 <= self.file_end
    }

    /// Writes what is not in the file yet.
    fn file(&mut self, storage: &dyn Storage, bytes_max: u64) {
        let mut filed = self.write(storage, bytes_max);
        // Where the file can't grow, what is still needed of it may fit in front of where it stands.
        let may_rewind = self.may_rewind && matches!(self.file, FileState::Open(_)) && self.file_end > 0;
        if may_rewind && filed.as_ref().is_err_and(will_pass) && self.fits_in_front() {
            let before = (self.filed, self.file_end);
            (self.filed, self.file_end) = (0, 0);
            filed = self.write(storage, bytes_max);
            if filed.is_err() {
                // What was written of it is the same bytes again, or nothing.
                (self.filed, self.file_end) = before;
            }
        }
        // What passes by itself: what is missing is written once more is told, or tried for a commit.
        if let Err(error) = filed
            && !will_pass(&error)
        {
            tracing::warn!(file = SETTLING, %error, "settlements can't be kept beside the journal; each is committed at once");
            self.file = FileState::Failed;
            self.filed = 0;
        }
    }

    fn write(&mut self, storage: &dyn Storage, bytes_max: u64) -> io::Result<()> {
        let until = self.filed + self.fitting_behind(bytes_max.saturating_sub(self.file_end));
        let unfiled = self.backlog.bytes.get(self.filed..until).unwrap_or_default();
        if unfiled.is_empty() {
            return Ok(());
        }
        let Some(file) = self.file.open(storage)? else {
            return Ok(());
        };
        file.write_all_at(unfiled, self.file_end)?;
        self.file_end += unfiled.len() as u64;
        self.filed = until;
        Ok(())
    }

    /// Bytes of the first settlements behind those in the file that fit into so many.
    fn fitting_behind(&self, room: u64) -> usize {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let unfiled = self.backlog.bytes.len() - self.filed;
        if unfiled <= room {
            return unfiled;
        }
        self.backlog
            .fitting(self.filed.saturating_add(room))
            .bytes
            .saturating_sub(self.filed)
    }

    fn sync(&mut self, storage: &dyn Storage) -> io::Result<()> {
        if self.filed == 0 {
            return Ok(());
        }
        self.file.open(storage)?.map_or(Ok(()), |file| file.sync_data())
    }

    /// Who may be told that theirs is written down.
    fn answerable(&mut self) -> Vec<Caller> {
        let written = self.committed + self.filed as u64;
        let count = self.held.partition_point(|(all, _)| *all <= written);
        self.held.drain(..count).map(|(_, caller)| caller).collect()
    }
}
