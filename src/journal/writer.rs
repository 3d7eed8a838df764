//! The writer: one thread that takes all that waits, writes it in one piece, syncs once, applies it in
//! order, and wakes everybody.

use std::{
    collections::BTreeMap,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    AppendError, Appended, Applied, Applier, Durable, Health, Options, Position, Shared,
    frame::{self, FRAME_HEADER_BYTES},
    inbox::{Append, Prepared, Settle, Taken},
    recent::{Place, Recent},
    record::{self, EVENT_ID_BYTES},
    recovery::Recovered,
    segment::{self, HEADER_BYTES, Header, Predecessor, Spare},
    storage::{Storage, StorageFile, is_no_space},
};
use crate::{clock::Clock, push::Sequence};

/// How long a settlement may be written but not synced.
const SETTLED_UNSYNCED_MAX: Duration = Duration::from_millis(100);

/// How long a full disk is left alone between two tries.
const NO_SPACE_WAIT: Duration = Duration::from_millis(500);

/// Remembered event ids in one record.
const EVENT_IDS_PER_RECORD: usize = 10_000;

type Answer = oneshot::Sender<Result<Appended, AppendError>>;

/// The segment that is written to.
#[derive(Debug)]
struct Active {
    number: u64,
    file: Arc<dyn StorageFile>,
    offset: u64,
    /// Up to where all is synced.
    synced: u64,
}

/// A commit in the making.
#[derive(Debug, Default)]
struct Commit {
    bytes: Vec<u8>,
    settles: Vec<Settle>,
    applied: Vec<Applied>,
    pushes: usize,
    answers: Vec<(Answer, Appended)>,
    ids_from: Place,
}

/// Why nothing can be written.
#[derive(Debug)]
enum Stop {
    NoSpace(io::Error),
    Failed(io::Error),
}

/// Writes the journal. [`Writer::start`] gives it its thread.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    options: Options,
    clock: Clock,
    recent: Recent,
    next_sequence: Sequence,
    next_commit: u64,
    active: Option<Active>,
    /// The newest segment, if it is not active any more, as its successor will name it.
    predecessor: Predecessor,
    spare: Spare,
    /// All segments but the active: number and bytes.
    sealed: BTreeMap<u64, u64>,
    /// Pairs of push and endpoint not settled, by segment.
    live: BTreeMap<u64, u64>,
    /// Settlements that are written and not synced, and since when.
    unsynced: Vec<Settle>,
    unsynced_since: Option<Instant>,
    /// Settlements that found no segment to be written to.
    unwritten: Vec<Settle>,
    retry_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        storage: Arc<dyn Storage>,
        options: Options,
        clock: Clock,
        recovered: Recovered,
        pending: &[Durable],
    ) -> Self {
        let (header, file) = recovered.active;
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        for durable in pending {
            *live.entry(durable.position.segment).or_default() += durable.push.owed.len() as u64;
        }
        let mut sealed = BTreeMap::new();
        for (number, file, bytes) in recovered.sealed {
            shared.files().insert(number, file);
            sealed.insert(number, bytes);
        }
        shared.files().insert(header.number, Arc::clone(&file));
        let writer = Self {
            shared,
            storage,
            options,
            clock,
            recent: recovered.recent,
            next_sequence: recovered.next_sequence,
            next_commit: recovered.next_commit,
            active: Some(Active {
                number: header.number,
                file,
                offset: HEADER_BYTES as u64,
                synced: HEADER_BYTES as u64,
            }),
            predecessor: Predecessor {
                number: header.number,
                valid_end: HEADER_BYTES as u64,
            },
            spare: Spare::default(),
            sealed,
            live,
            unsynced: Vec::new(),
            unsynced_since: None,
            unwritten: Vec::new(),
            retry_at: None,
        };
        writer.publish();
        writer
    }

    /// Gives the writer its thread. `applier` is called there, with what became durable, in order.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(mut self, applier: Applier) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name("journal".into()).spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| self.run(applier)));
            if ended.is_err() {
                shared.inbox.close();
                shared
                    .health
                    .send_replace(Health::Failed("the journal's thread panicked".to_owned()));
            }
        })?;
        Ok(())
    }

    fn run(&mut self, mut applier: Applier) {
        self.prepare_spare();
        self.delete_dead();
        loop {
            let taken = self.shared.inbox.take(self.wake_at());
            let closing = taken.closing && taken.appends.is_empty() && taken.settles.is_empty();
            self.work(taken, &mut applier);
            if matches!(*self.shared.health.borrow(), Health::Failed(_)) {
                self.shared.inbox.close();
                self.refuse(
                    self.shared.inbox.take(Some(Instant::now())).appends,
                    &AppendError::Closed,
                );
                return;
            }
            if closing {
                self.end();
                return;
            }
        }
    }

    /// When there is something to do even if nobody asks for anything.
    fn wake_at(&self) -> Option<Instant> {
        let sync = self.unsynced_since.map(|since| since + SETTLED_UNSYNCED_MAX);
        [sync, self.retry_at].into_iter().flatten().min()
    }

    fn work(&mut self, taken: Taken, applier: &mut Applier) {
        let mut settles = mem::take(&mut self.unwritten);
        settles.extend(taken.settles);
        if let Err(stop) = self.ready() {
            self.unwritten = settles;
            self.refuse(taken.appends, &stop);
            return;
        }
        let mut commit = self.begin();
        for settle in settles {
            self.make_room(&mut commit, record::RECORD_HEADER_BYTES + 300, applier);
            let (sequence, endpoint) = (settle.sequence, &settle.endpoint);
            record::put_settled(
                &mut commit.bytes,
                self.shared.seed,
                sequence,
                endpoint,
                settle.how,
            );
            commit.settles.push(settle);
        }
        for append in taken.appends {
            match self.refusal(&commit, append.bytes) {
                Some(error) => drop(append.done.send(Err(error))),
                None => {
                    self.make_room(&mut commit, append.bytes, applier);
                    self.add(&mut commit, append);
                }
            }
        }
        self.finish(commit, applier);
        let overdue = self
            .unsynced_since
            .is_some_and(|since| since.elapsed() >= SETTLED_UNSYNCED_MAX);
        if overdue && let Err(error) = self.sync() {
            self.lose_active(&error);
        }
        self.delete_dead();
        self.publish();
    }

    /// Makes sure that there is a segment to write to.
    fn ready(&mut self) -> Result<(), AppendError> {
        if self.active.is_some() {
            return Ok(());
        }
        let asleep = self.retry_at.is_some_and(|at| at > Instant::now());
        if !asleep {
            self.open_next();
        }
        match (&self.active, &*self.shared.health.borrow()) {
            (Some(_), _) => Ok(()),
            (None, Health::NoSpace(reason) | Health::Failed(reason)) => Err(AppendError::Io(reason.clone())),
            (None, _) => Err(AppendError::Closed),
        }
    }

    fn begin(&self) -> Commit {
        Commit {
            bytes: vec![0; FRAME_HEADER_BYTES],
            ids_from: self.recent.end(),
            ..Commit::default()
        }
    }

    /// Why an append of so many bytes can't be taken, if it can't. Room for two segments stays free: for
    /// settlements, and for the spare.
    fn refusal(&self, commit: &Commit, bytes: usize) -> Option<AppendError> {
        if bytes == 0 {
            return None;
        }
        let written = self.active.as_ref().map_or(0, |active| active.offset);
        let used = self.sealed.values().sum::<u64>() + written + commit.bytes.len() as u64;
        let reserve = self.options.segment_size.saturating_mul(2);
        (used + bytes as u64 + reserve > self.options.max_size).then_some(AppendError::Full {
            bytes: used,
            bytes_max: self.options.max_size,
        })
    }

    /// Writes out the commit so far and begins the next segment, if `bytes` more don't fit in this one.
    fn make_room(&mut self, commit: &mut Commit, bytes: usize, applier: &mut Applier) {
        let room = self.options.segment_size;
        let used = self.active.as_ref().map_or(room, |active| active.offset);
        if used + (commit.bytes.len() + bytes) as u64 <= room {
            return;
        }
        let fresh = Commit {
            bytes: vec![0; FRAME_HEADER_BYTES],
            ..Commit::default()
        };
        self.finish(mem::replace(commit, fresh), applier);
        if self.active.is_some() {
            self.roll();
        }
        commit.ids_from = self.recent.end();
    }

    /// Adds an append to the commit: numbers its pushes, and passes over those that were taken before.
    fn add(&mut self, commit: &mut Commit, append: Append) {
        let segment = self.active.as_ref().map_or(0, |active| active.number);
        let start = self.active.as_ref().map_or(0, |active| active.offset);
        let mut appended = Appended::default();
        for item in append.items {
            let (push, key, mut record) = match item {
                Prepared::Change(change) => {
                    commit.applied.push(Applied::Change(change));
                    continue;
                }
                Prepared::Push { push, key, record } => (push, key, record),
            };
            if key.is_some_and(|key| self.recent.place(key).is_some()) {
                appended.duplicates += 1;
                continue;
            }
            if let Some(key) = key {
                self.recent.push(key, push.taken_at);
            }
            let sequence = self.next_sequence;
            self.next_sequence = sequence.next();
            record::number_push(&mut record, self.shared.seed, sequence);
            let offset = u32::try_from(start + commit.bytes.len() as u64).unwrap_or(u32::MAX);
            commit.bytes.extend_from_slice(&record);
            commit.applied.push(Applied::Push(Durable {
                sequence,
                position: Position { segment, offset },
                push,
            }));
            appended.taken += 1;
            commit.pushes += 1;
        }
        commit.answers.push((append.done, appended));
    }

    /// Writes the commit, syncs it if it holds pushes, applies it, and answers.
    fn finish(&mut self, mut commit: Commit, applier: &mut Applier) {
        let written = match commit.bytes.len() > FRAME_HEADER_BYTES {
            true => self
                .write(&mut commit.bytes)
                .and_then(|()| self.after_write(&mut commit)),
            false => Ok(()),
        };
        if let Err(error) = written {
            self.recent.take_back(commit.ids_from);
            self.unwritten.append(&mut commit.settles);
            self.lose_active(&error);
            let error = AppendError::Io(error.to_string());
            commit
                .answers
                .into_iter()
                .for_each(|(answer, _)| drop(answer.send(Err(error.clone()))));
            return;
        }
        if let Some(active) = &self.active {
            self.recent.settle_in(commit.ids_from, active.number);
        }
        self.recent.forget(self.clock.now());
        for applied in &commit.applied {
            if let Applied::Push(durable) = applied {
                *self.live.entry(durable.position.segment).or_default() += durable.push.owed.len() as u64;
            }
        }
        if !commit.applied.is_empty() {
            applier(commit.applied);
        }
        commit
            .answers
            .into_iter()
            .for_each(|(answer, appended)| drop(answer.send(Ok(appended))));
    }

    fn write(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let active = self
            .active
            .as_mut()
            .ok_or_else(|| io::Error::other("no segment to write to"))?;
        frame::seal(bytes, self.shared.seed, active.number, self.next_commit);
        active.file.write_all_at(bytes, active.offset)?;
        active.offset += bytes.len() as u64;
        self.next_commit += 1;
        Ok(())
    }

    fn after_write(&mut self, commit: &mut Commit) -> io::Result<()> {
        for settle in &commit.settles {
            if let Some(live) = self.live.get_mut(&settle.segment) {
                *live = live.saturating_sub(1);
            }
        }
        if !commit.settles.is_empty() {
            self.unsynced.append(&mut commit.settles);
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        if commit.pushes > 0 { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let Some(active) = self.active.as_mut() else {
            return Ok(());
        };
        let began = Instant::now();
        active.file.sync_data()?;
        active.synced = active.offset;
        self.unsynced.clear();
        self.unsynced_since = None;
        if let Some(told) = &*self.shared.fsync.lock().unwrap_or_else(PoisonError::into_inner) {
            told(began.elapsed());
        }
        Ok(())
    }

    /// Gives up the active segment after a failed write or fsync: nothing behind its last sync counts.
    fn lose_active(&mut self, error: &io::Error) {
        let Some(active) = self.active.take() else { return };
        error!(%error, segment = active.number, "the journal's segment failed; it is closed for good");
        // Settled in memory already: their pairs were taken off the live counts, so they go straight back.
        let lost = mem::take(&mut self.unsynced);
        for settle in &lost {
            *self.live.entry(settle.segment).or_default() += 1;
        }
        self.unwritten.splice(0..0, lost);
        self.unsynced_since = None;
        self.predecessor = Predecessor {
            number: active.number,
            valid_end: active.synced,
        };
        self.sealed.insert(active.number, active.synced);
        self.open_next();
    }

    /// Ends the active segment, full as it is, and begins the next.
    fn roll(&mut self) {
        if let Err(error) = self.sync() {
            self.lose_active(&error);
            return;
        }
        let Some(active) = self.active.take() else { return };
        self.predecessor = Predecessor {
            number: active.number,
            valid_end: active.offset,
        };
        self.sealed.insert(active.number, active.offset);
        self.open_next();
        // Only now: until its successor names its end, the zeros behind it say where it ends.
        if self.active.is_some()
            && let Err(error) = active.file.set_len(active.offset)
        {
            warn!(%error, segment = active.number, "a full segment can't be cut to its size");
        }
    }

    fn open_next(&mut self) {
        let header = Header {
            number: self.predecessor.number + 1,
            journal: self.shared.id,
            created_at: self.clock.now(),
            first_sequence: self.next_sequence,
            first_commit: self.next_commit,
            predecessor: Some(self.predecessor),
        };
        match segment::create(&*self.storage, self.spare.take(), &header).map_err(Stop::from) {
            Ok(file) => {
                self.shared.files().insert(header.number, Arc::clone(&file));
                let offset = HEADER_BYTES as u64;
                self.active = Some(Active {
                    number: header.number,
                    file,
                    offset,
                    synced: offset,
                });
                self.retry_at = None;
                if self.shared.health.send_replace(Health::Ready) != Health::Ready {
                    info!(segment = header.number, "the journal can be written again");
                }
                self.prepare_spare();
            }
            Err(Stop::NoSpace(error)) => {
                self.retry_at = Some(Instant::now() + NO_SPACE_WAIT);
                let reason = format!("no room for a new segment: {error}");
                if self.shared.health.send_replace(Health::NoSpace(reason)) == Health::Ready {
                    error!(%error, "no room for the journal; pushes are refused until there is");
                }
            }
            Err(Stop::Failed(error)) => {
                error!(%error, segment = header.number, "no fresh segment can be made; the journal has failed");
                self.shared.health.send_replace(Health::Failed(error.to_string()));
            }
        }
    }

    fn prepare_spare(&mut self) {
        if self.options.prefill {
            self.spare.begin(&self.storage, self.options.segment_size);
        }
    }

    /// Deletes segments from the oldest end, as long as nothing in them is owed.
    fn delete_dead(&mut self) {
        while let Some((oldest, _)) = self.sealed.first_key_value() {
            let oldest = *oldest;
            if self.live.get(&oldest).is_some_and(|live| *live > 0) || self.active.is_none() {
                return;
            }
            if let Err(error) = self.rehome_ids(oldest) {
                self.lose_active(&error);
                return;
            }
            let name = segment::name(oldest);
            let removed = self.storage.remove(&name).and_then(|()| self.storage.sync_dir());
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(%error, segment = oldest, "a segment that nobody needs can't be deleted");
                return;
            }
            self.sealed.remove(&oldest);
            self.live.remove(&oldest);
            self.shared.files().remove(&oldest);
        }
    }

    /// Writes the event ids that only the oldest segment holds into the active one, durably.
    fn rehome_ids(&mut self, oldest: u64) -> io::Result<()> {
        let ids: Vec<_> = self.recent.ids_in(oldest).collect();
        for ids in ids.chunks(EVENT_IDS_PER_RECORD) {
            let bytes = FRAME_HEADER_BYTES + record::RECORD_HEADER_BYTES + ids.len() * EVENT_ID_BYTES;
            let used = self.active.as_ref().map_or(0, |active| active.offset);
            if used + bytes as u64 > self.options.segment_size {
                self.roll();
            }
            let mut frame = vec![0; FRAME_HEADER_BYTES];
            record::put_event_ids(&mut frame, self.shared.seed, ids);
            self.write(&mut frame)?;
        }
        if !ids.is_empty() {
            self.sync()?;
        }
        if let Some(active) = &self.active {
            self.recent.move_home(oldest, active.number);
        }
        Ok(())
    }

    fn refuse(&self, appends: Vec<Append>, error: &AppendError) {
        for append in appends {
            drop(append.done.send(Err(error.clone())));
        }
    }

    fn publish(&self) {
        let mut stats = self.shared.stats();
        stats.segments = self.sealed.len() as u64 + u64::from(self.active.is_some());
        stats.bytes =
            self.sealed.values().sum::<u64>() + self.active.as_ref().map_or(0, |active| active.offset);
        stats.live = self.live.values().sum();
    }

    fn end(&mut self) {
        if let Err(error) = self.sync() {
            error!(%error, "the journal's last sync failed; what was settled last may be repeated");
        }
        self.spare.end(&*self.storage);
        self.shared.health.send_replace(Health::Closed);
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if is_no_space(&error) {
            Self::NoSpace(error)
        } else {
            Self::Failed(error)
        }
    }
}
