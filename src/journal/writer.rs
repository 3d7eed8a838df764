//! The journal's one writing thread.
//!
//! A turn: take everything that waits; stage appends into a group until the segment is full or the group
//! large enough; write the group as one commit, with one fsync; hand what became durable to the applier;
//! then answer. It never waits on a timer for more appends to come: what has gathered while the disk was
//! busy is the next commit.

use std::{
    fmt, io, mem,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    AppendError, Applied, Durable, Health, Position, Shared, Stats,
    group::{Group, Waiter},
    inbox::{Append, Gate},
    recent::Recent,
    record,
    segments::{DeleteError, Purpose, RoomError, Segments},
    settling::{Backlog, Settling},
};
use crate::{
    clock::Clock,
    push::{Item, Sequence},
};

/// A group is committed once it is this large; a single append may be larger.
const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Settlements that ride with one commit at most.
const SETTLEMENT_BYTES_MAX: usize = 1024 * 1024;

/// Remembered ids that one record carries at most.
const IDS_PER_RECORD: usize = 32 * 1024;

/// How long a dead segment that could not be deleted is left alone.
const DELETE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Who is handed what became durable, in order.
pub type Applier = Box<dyn FnMut(Vec<Applied>) + Send>;

/// Is told how long each commit's fdatasync took, on the writer's thread.
struct SyncTold(Box<dyn Fn(Duration) + Send>);

impl fmt::Debug for SyncTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SyncTold")
    }
}

/// The writer before it runs: made by opening the journal, started once the replay was inserted.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    clock: Clock,
    segments: Segments,
    recent: Recent,
    settling: Settling,
    next_sequence: Sequence,
    appends: Vec<Append>,
    told: Backlog,
    group: Group,
    stats: Stats,
    sync_told: Option<SyncTold>,
    delete_at: Option<Instant>,
    is_refusing: bool,
    fatal: Option<String>,
}

impl Drop for Writer {
    /// However the writer ends, by closing, failure or panic, nobody waits for it in vain.
    fn drop(&mut self) {
        let error = match &self.fatal {
            Some(error) => AppendError::Io(error.clone()),
            None => AppendError::Closed,
        };
        if self.fatal.is_none() && thread::panicking() {
            self.shared
                .tell(Health::Failed("the journal's thread panicked".to_owned()));
        }
        let lost = self.shared.inbox.end(&error) + self.settling.backlog().marks.len();
        if lost > 0 {
            tracing::warn!(
                settlements = lost,
                "the journal ended before these settlements were durable; their webhooks may be repeated"
            );
        }
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        clock: Clock,
        segments: Segments,
        recent: Recent,
        settling: Settling,
        next_sequence: Sequence,
    ) -> Self {
        let mut writer = Self {
            shared,
            clock,
            segments,
            recent,
            settling,
            next_sequence,
            appends: Vec::new(),
            told: Backlog::default(),
            group: Group::new(),
            stats: Stats::default(),
            sync_told: None,
            delete_at: Some(Instant::now()),
            is_refusing: false,
            fatal: None,
        };
        writer.publish();
        writer
    }

    /// Has `told` called with the duration of each commit's fdatasync.
    pub fn on_sync(&mut self, told: impl Fn(Duration) + Send + 'static) {
        self.sync_told = Some(SyncTold(Box::new(told)));
    }

    /// Starts the thread. `applier` is called on it, in the order of the sequence numbers, before the
    /// appends concerned resolve; it must not block.
    ///
    /// The thread ends when the journal is closed, its last handle is dropped, or it failed; see
    /// [`super::Journal::health`].
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(mut self, mut applier: Applier) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("journal".to_owned()).spawn(move || {
            self.segments.prepare_spare();
            while self.turn(&mut applier) == Gate::Open {}
        })
    }

    /// One turn; tells whether there is to be another.
    pub(super) fn turn(&mut self, applier: &mut Applier) -> Gate {
        let deadline = self.deadline();
        let gate = self
            .shared
            .inbox
            .take(&mut self.appends, &mut self.told, deadline);
        self.settling.take(&mut self.told);
        self.take_appends(applier);
        let is_due = self.settling.due_at().is_some_and(|due| due <= Instant::now());
        if is_due || gate != Gate::Open {
            self.commit_settlements();
        }
        self.settling.file();
        self.upkeep();
        self.publish();
        if self.fatal.is_some() { Gate::Ended } else { gate }
    }

    /// When there is something to do even if nobody asks.
    fn deadline(&self) -> Option<Instant> {
        let retry_at = self.segments.no_space().map(|(_, at)| at);
        // On a full disk, settlements that don't fit wait for it rather than spin.
        let room = self.segments.room_for(Purpose::Upkeep);
        let fits = retry_at.is_none() || self.settling.backlog().fitting(room).0 > 0;
        let due_at = self.settling.due_at().filter(|_| fits);
        [retry_at, due_at, self.delete_at].into_iter().flatten().min()
    }

    fn take_appends(&mut self, applier: &mut Applier) {
        let mut appends = mem::take(&mut self.appends);
        for append in appends.drain(..) {
            let bytes = append.records.len();
            if bytes > 0 && !self.group_takes(bytes) {
                self.flush(applier);
                if bytes > self.segments.room_for(Purpose::Pushes)
                    && let Err(error) = self.make_room(bytes, Purpose::Pushes)
                {
                    self.is_refusing |= matches!(error, RoomError::Full { .. });
                    Group::refuse(append, error.to_append_error(self.segments.options()));
                    continue;
                }
            }
            self.stage(append);
        }
        self.flush(applier);
        self.appends = appends;
    }

    /// Whether records of that length still go into the group.
    fn group_takes(&self, bytes: usize) -> bool {
        let staged = self.group.record_bytes();
        let is_small = staged == 0 || staged + bytes <= COMMIT_BYTES_MAX;
        is_small && staged + bytes <= self.segments.room_for(Purpose::Pushes)
    }

    fn make_room(&mut self, bytes: usize, purpose: Purpose) -> Result<(), RoomError> {
        if let Some(error) = &self.fatal {
            return Err(RoomError::Fatal(error.clone()));
        }
        let made = self.segments.make_room(bytes, purpose, self.next_sequence);
        self.note(&made);
        // A sealed segment may owe nothing already.
        self.delete_at.get_or_insert_with(Instant::now);
        made
    }

    /// A disk that fails for another reason than being full ends the journal.
    fn note(&mut self, tried: &Result<(), RoomError>) {
        if let Err(RoomError::Fatal(error)) = tried {
            self.fail(error.clone());
        }
    }

    fn fail(&mut self, error: String) {
        tracing::error!(error = %error, "the journal can't go on");
        self.fatal = Some(error);
    }

    /// Puts an append into the group: gives its pushes their places, and leaves out those taken before.
    fn stage(&mut self, append: Append) {
        if self.group.is_empty() {
            self.group.begin(self.recent.end(), self.next_sequence);
        }
        let segment = self.segments.active_number();
        let base = self.segments.active_end();
        let mut records = append.records.as_slice();
        let mut encoded = append.encoded.iter();
        let mut waiter = Waiter::new(append.reply);
        for item in append.items {
            let push = match item {
                Item::Change(change) => {
                    self.group.apply(&mut waiter, Applied::Change(change));
                    continue;
                }
                Item::Push(push) => push,
            };
            let Some((encoded, (record, rest))) = encoded
                .next()
                .and_then(|encoded| Some((encoded, records.split_at_checked(encoded.bytes)?)))
            else {
                continue;
            };
            records = rest;
            if let Some(key) = encoded.key {
                if let Some(place) = self.recent.place(key) {
                    waiter.depends |= place >= self.group.ids_from;
                    self.stats.duplicates += 1;
                    continue;
                }
                self.recent.push(key, push.taken_at);
            }
            let sequence = self.next_sequence;
            self.next_sequence = sequence.next();
            let at = base + self.group.add_record(record, self.segments.seed(), sequence) as u64;
            self.group.pairs += push.owed.len() as u64;
            self.group.pushes += 1;
            waiter.depends = true;
            let position = Position {
                segment,
                // Segments are smaller than 4 GiB.
                offset: u32::try_from(at).unwrap_or(u32::MAX),
            };
            let durable = Durable {
                sequence,
                position,
                push,
            };
            self.group.apply(&mut waiter, Applied::Push(durable));
        }
        self.group.waiters.push(waiter);
    }

    /// Commits the group if it holds anything to commit, and answers everybody in it.
    fn flush(&mut self, applier: &mut Applier) {
        let result = if self.group.record_bytes() == 0 {
            Ok(())
        } else {
            self.commit()
        };
        let news = self.group.take_applied(result.is_ok());
        if !news.is_empty() {
            applier(news);
        }
        self.group.answer(&result);
        if result.is_err() {
            self.replace_sealed();
        }
    }

    /// Makes the group durable, together with the settlements that fit.
    fn commit(&mut self) -> Result<(), AppendError> {
        let room = self
            .segments
            .room_for(Purpose::Upkeep)
            .saturating_sub(self.group.record_bytes())
            .min(SETTLEMENT_BYTES_MAX);
        let (settled, settled_bytes) = self.settling.backlog().fitting(room);
        let backlog = self.settling.backlog().bytes.get(..settled_bytes);
        self.group.frame.extend_from_slice(backlog.unwrap_or_default());
        match self.segments.commit(&mut self.group.frame) {
            Ok(took) => {
                self.stats.sync_last = took;
                if let Some(SyncTold(told)) = &self.sync_told {
                    told(took);
                }
                self.stats.pushes += self.group.pushes;
                self.stats.settlements += settled as u64;
                self.segments.owe(self.group.pairs);
                for mark in self.settling.committed(settled, settled_bytes) {
                    self.segments.settle(mark.segment);
                }
                if settled > 0 {
                    self.delete_at.get_or_insert_with(Instant::now);
                }
                if self.group.pushes > 0 {
                    self.recent
                        .settle_in(self.group.ids_from, self.segments.active_number());
                    self.recent.forget(self.clock.now());
                }
                Ok(())
            }
            Err(error) => {
                tracing::error!(segment = self.segments.active_number(), %error, "a commit failed; its segment is given up");
                if self.group.pushes > 0 {
                    self.recent.take_back(self.group.ids_from);
                    self.next_sequence = self.group.sequence_from;
                }
                Err(AppendError::Io(error.to_string()))
            }
        }
    }

    /// After a failed commit: opens a fresh segment, whose header cuts off what failed.
    fn replace_sealed(&mut self) {
        if self.segments.is_sealed() && self.fatal.is_none() {
            // Whether it worked shows in the health, and at the next append.
            let _ = self.make_room(0, Purpose::Upkeep);
        }
    }

    /// Commits the settlements that found no commit to ride with.
    fn commit_settlements(&mut self) {
        while !self.settling.backlog().is_empty() && self.fatal.is_none() {
            let first = self.settling.backlog().marks.front().map_or(0, |mark| mark.bytes);
            if first > self.segments.room_for(Purpose::Upkeep)
                && self.make_room(first, Purpose::Upkeep).is_err()
            {
                return;
            }
            let committed = self.commit();
            self.group.clear();
            if committed.is_err() {
                self.replace_sealed();
                return;
            }
        }
    }

    /// Retries what a full disk refused, and deletes what is dead.
    fn upkeep(&mut self) {
        if self.fatal.is_none()
            && self
                .segments
                .no_space()
                .is_some_and(|(_, at)| at <= Instant::now())
        {
            let retried = self.segments.retry(self.next_sequence);
            self.note(&retried);
        }
        if self.fatal.is_none() && self.delete_at.is_some_and(|at| at <= Instant::now()) {
            self.delete_dead();
        }
    }

    /// Deletes the oldest segment if it owes nothing, and sees to the ids that it alone remembers.
    ///
    /// Ids are written again only for as many dead segments as it takes to win at least twice the space:
    /// else a segment that holds little but ids would go round for ever.
    fn delete_dead(&mut self) {
        self.recent.forget(self.clock.now());
        let (mut bytes, mut carried, mut last) = (0, 0, None);
        for account in self.segments.dead() {
            bytes += account.bytes;
            carried += self.recent.count_in(account.number) * record::EVENT_ID_BYTES as u64;
            if carried * 2 <= bytes {
                last = Some(account.number);
                break;
            }
        }
        self.delete_at = None;
        let Some(last) = last else { return };
        let dead: Vec<u64> = self
            .segments
            .dead()
            .map(|account| account.number)
            .take_while(|number| *number <= last)
            .collect();
        for number in dead {
            if self.carry_ids(number).is_err() {
                self.delete_at = Some(Instant::now() + DELETE_AGAIN_AFTER);
                return;
            }
        }
        match self.segments.delete_oldest() {
            // The others go one by one, a turn each: appends don't wait for all of them.
            Ok(()) => self.delete_at = Some(Instant::now()),
            Err(DeleteError::Later(error)) => {
                tracing::warn!(%error, "a segment that owes nothing can't be deleted now");
                self.delete_at = Some(Instant::now() + DELETE_AGAIN_AFTER);
            }
            Err(DeleteError::Fatal(error)) => self.fail(error.to_string()),
        }
    }

    /// Writes the ids that would go with the segment again, into the active one: in one commit, so that
    /// they have one new home.
    fn carry_ids(&mut self, number: u64) -> Result<(), ()> {
        self.group.clear();
        let ids: Vec<_> = self.recent.ids_in(number).collect();
        if ids.is_empty() {
            return Ok(());
        }
        for ids in ids.chunks(IDS_PER_RECORD) {
            record::put_event_ids(&mut self.group.frame, self.segments.seed(), ids);
        }
        let bytes = self.group.record_bytes();
        let committed = if bytes > self.segments.room_for(Purpose::Upkeep) {
            self.make_room(bytes, Purpose::Upkeep).map_err(drop)
        } else {
            Ok(())
        };
        let committed = committed.and_then(|()| self.commit().map_err(drop));
        self.group.clear();
        match committed {
            Ok(()) => self.recent.move_home(number, self.segments.active_number()),
            Err(()) => self.replace_sealed(),
        }
        committed
    }

    /// Tells the handles how things stand.
    fn publish(&mut self) {
        let full = self.segments.is_full().filter(|_| self.is_refusing);
        self.is_refusing = full.is_some();
        let health = match (&self.fatal, self.segments.no_space(), full) {
            (Some(error), ..) => Health::Failed(error.clone()),
            (None, Some((error, _)), _) => Health::NoSpace {
                error: error.to_owned(),
            },
            (None, None, Some(bytes)) => Health::Full {
                bytes,
                bytes_max: self.segments.options().max_size,
            },
            (None, None, None) => Health::Ready,
        };
        self.shared.tell(health);
        self.stats.segments = self.segments.count() as u64;
        self.stats.bytes = self.segments.bytes_on_disk();
        self.stats.bytes_max = self.segments.options().max_size;
        self.stats.unsettled = self.segments.unsettled();
        self.stats.commits = self.segments.commits();
        self.stats.event_ids = self.recent.len() as u64;
        self.shared.publish(&self.stats);
    }
}
