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
    AppendError, Applied, Health, Shared, Stats,
    carry::{self, Carrying},
    group::{Group, Waiter},
    inbox::{Append, Gate},
    recent::Recent,
    segments::{Purpose, RoomError, Segments},
    time::now,
};
use crate::{clock::Clock, push::Sequence};

/// A group is committed once it is this large; a single append may be larger.
const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Settlements that ride with one commit at most.
const SETTLEMENT_BYTES_MAX: usize = 1024 * 1024;

/// Who is shown what became durable, in order.
pub type Applier = Box<dyn FnMut(&[Applied]) + Send>;

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
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) segments: Segments,
    pub(super) recent: Recent,
    next_sequence: Sequence,
    appends: Vec<Append>,
    pub(super) group: Group,
    pub(super) carrying: Carrying,
    stats: Stats,
    sync_told: Option<SyncTold>,
    is_refusing: bool,
    pub(super) fatal: Option<String>,
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
        self.shared.inbox.end(&error);
        self.shared.settler.end();
        let lost = self.shared.settling.end();
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
        next_sequence: Sequence,
    ) -> Self {
        let mut writer = Self {
            shared,
            clock,
            segments,
            recent,
            next_sequence,
            appends: Vec::new(),
            group: Group::new(),
            carrying: Carrying::default(),
            stats: Stats::default(),
            sync_told: None,
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

    /// Starts the thread, and the one that writes settlements down for it. `applier` is called on it, in the order of the sequence numbers, before the
    /// appends concerned resolve; it must not block.
    ///
    /// The thread ends when the journal is closed, its last handle is dropped, or it failed; see
    /// [`super::Journal::health`].
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(mut self, mut applier: Applier) -> io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        let settler = thread::Builder::new()
            .name("journal-settling".to_owned())
            .spawn(move || shared.settler.run(&shared))?;
        thread::Builder::new().name("journal".to_owned()).spawn(move || {
            while self.turn(&mut applier) == Gate::Open {}
            drop(self);
            // It has written down what it was told, and gives up its handle of the directory's lock.
            let _ = settler.join();
        })
    }

    /// One turn; tells whether there is to be another.
    pub(super) fn turn(&mut self, applier: &mut Applier) -> Gate {
        let deadline = self.deadline();
        let gate = self.shared.inbox.take(&mut self.appends, deadline);
        self.carrying.begin_turn();
        self.take_appends(applier);
        if gate != Gate::Open {
            self.shared.settler.write(&self.shared);
        }
        let due_at = self.shared.settling.due_at();
        if due_at.is_some_and(|due| due <= now()) || gate != Gate::Open {
            self.commit_settlements(gate);
        }
        self.upkeep();
        self.publish();
        if self.fatal.is_some() { Gate::Ended } else { gate }
    }

    /// When there is something to do even if nobody asks.
    fn deadline(&self) -> Option<Instant> {
        let retry_at = self.segments.no_space().map(|(_, at)| at);
        // On a full disk, settlements that don't fit wait for it rather than spin.
        let room = self.segments.room_for(Purpose::Upkeep);
        let fits = retry_at.is_none() || self.shared.settling.fitting(room).count > 0;
        let due_at = self.shared.settling.due_at().filter(|_| fits);
        [retry_at, due_at, self.carry_at()].into_iter().flatten().min()
    }

    fn take_appends(&mut self, applier: &mut Applier) {
        let mut appends = mem::take(&mut self.appends);
        for append in appends.drain(..) {
            let bytes = append.record_bytes();
            if bytes > 0 && !self.group_takes(bytes) {
                self.flush(applier);
                if bytes > self.segments.room_for(Purpose::Pushes)
                    && let Err(error) = self.make_room(bytes, Purpose::Pushes)
                {
                    let is_full = matches!(error, RoomError::Full { .. });
                    self.is_refusing |= is_full;
                    let error = match self.carrying.stuck.damage(is_full).filter(|_| is_full) {
                        Some(damage) => AppendError::Damaged(damage.clone()),
                        None => error.to_append_error(self.segments.options()),
                    };
                    Group::refuse(append, error);
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

    pub(super) fn make_room(&mut self, bytes: usize, purpose: Purpose) -> Result<(), RoomError> {
        if let Some(error) = &self.fatal {
            return Err(RoomError::Fatal(error.clone()));
        }
        let before = self.segments.active_number();
        let made = self.segments.make_room(bytes, purpose, self.next_sequence);
        self.follow(before);
        self.note(&made);
        made
    }

    /// Enters a segment that was begun into the index.
    fn follow(&self, before: u64) {
        let number = self.segments.active_number();
        if number != before {
            self.shared.live().begin(number, self.next_sequence);
        }
    }

    /// A disk that fails for another reason than being full ends the journal.
    fn note(&mut self, tried: &Result<(), RoomError>) {
        if let Err(RoomError::Fatal(error)) = tried {
            self.fail(error.clone());
        }
    }

    pub(super) fn fail(&mut self, error: String) {
        tracing::error!(error = %error, "the journal can't go on");
        self.fatal = Some(error);
    }

    /// Puts an append into the group: gives its pushes their places, and leaves out those taken before.
    fn stage(&mut self, append: Append) {
        if self.group.is_empty() {
            self.group.begin(self.recent.end(), self.next_sequence);
        }
        let base = self.segments.active_end();
        let Append {
            mut applied,
            frame,
            keys,
            reply,
        } = append;
        self.group.take_in(frame);
        let (mut keys, mut depends) = (keys.into_iter(), false);
        applied.retain_mut(|applied| {
            let Applied::Push(durable) = applied else {
                return true;
            };
            if let Some(key) = keys.next().flatten() {
                if let Some(place) = self.recent.place(key) {
                    self.group.leave_out(durable.bytes);
                    depends |= place >= self.group.ids_from;
                    self.stats.duplicates += 1;
                    return false;
                }
                self.recent.push(key, durable.push.taken_at);
            }
            durable.sequence = self.next_sequence;
            self.next_sequence = self.next_sequence.next();
            self.group.keep_push(durable, self.segments.seed(), base);
            depends = true;
            true
        });
        self.group.end_append(Waiter {
            reply,
            depends,
            applied,
        });
    }

    /// Commits the group if it holds anything to commit, and answers everybody in it.
    fn flush(&mut self, applier: &mut Applier) {
        let result = if self.group.record_bytes() == 0 {
            Ok(())
        } else {
            self.commit()
        };
        self.group.apply(result.is_ok(), applier);
        self.group.answer(&result);
        if result.is_err() {
            self.replace_sealed();
        }
    }

    /// Makes the group durable, together with what is to be carried forward and the settlements that fit.
    ///
    /// In that order: a copy that is carried says which pairs are unsettled, and a settlement behind it
    /// holds for the copy too.
    pub(super) fn commit(&mut self) -> Result<(), AppendError> {
        let room = self
            .segments
            .room_for(Purpose::Upkeep)
            .saturating_sub(self.group.record_bytes());
        let settled = self.shared.settling.fitting(room.min(SETTLEMENT_BYTES_MAX));
        let load = self.load(room - settled.bytes);
        self.shared.settling.put(&mut self.group.frame, settled);
        if self.group.record_bytes() == 0 {
            return Ok(());
        }
        match self.segments.commit(&mut self.group.frame) {
            Ok(took) => {
                self.stats.sync_last = took;
                if let Some(SyncTold(told)) = &self.sync_told {
                    told(took);
                }
                self.stats.pushes += self.group.pushes;
                self.stats.settlements += settled.count as u64;
                let pairs = self.shared.settling.committed(settled);
                let mut live = self.shared.live();
                self.group.enter(&mut live);
                load.enter(&mut live);
                for pair in pairs {
                    live.settle(pair);
                }
                drop(live);
                // Before anything is forgotten: it counts from the oldest id that was carried.
                self.unload(&load);
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
    pub(super) fn replace_sealed(&mut self) {
        if self.segments.is_sealed() && self.fatal.is_none() {
            // Whether it worked shows in the health, and at the next append.
            let _ = self.make_room(0, Purpose::Upkeep);
        }
    }

    /// Commits the settlements that found no commit to ride with.
    fn commit_settlements(&mut self, gate: Gate) {
        while self.shared.settling.len() > 0 && self.fatal.is_none() {
            let first = self.shared.settling.first_bytes();
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
            if gate == Gate::Open {
                // The next turn goes on: more of them may come than one sync takes, and pushes must not wait.
                return;
            }
        }
    }

    /// Retries what a full disk refused, and sees to old segments.
    fn upkeep(&mut self) {
        if self.fatal.is_none() && self.segments.no_space().is_some_and(|(_, at)| at <= now()) {
            let before = self.segments.active_number();
            let retried = self.segments.retry(self.next_sequence);
            self.follow(before);
            self.note(&retried);
        }
        if self.fatal.is_none() {
            self.clear_oldest();
        }
        // Otherwise it is made when it is needed: the old segments are to go first.
        if self.fatal.is_none() && self.segments.has_place_for_spare(self.live_bytes()) {
            self.segments.prepare_spare();
        }
    }

    /// Bytes of the records that are still owed, and of the remembered ids.
    fn live_bytes(&self) -> u64 {
        self.shared.live().bytes() + carry::id_bytes(self.recent.len() as u64)
    }

    /// Tells the handles how things stand.
    fn publish(&mut self) {
        let full = self.segments.is_full().filter(|_| self.is_refusing);
        self.is_refusing = full.is_some();
        // What is damaged keeps the disk from getting emptier, so it is told rather than what came of it.
        let health = if let Some(error) = &self.fatal {
            Health::Failed(error.clone())
        } else if let Some(damage) = self.carrying.stuck.damage(full.is_some()) {
            Health::Damaged(damage.clone())
        } else if let Some((error, _)) = self.segments.no_space() {
            let error = error.to_owned();
            Health::NoSpace { error }
        } else if let Some(bytes) = full {
            let bytes_max = self.segments.options().max_size;
            Health::Full { bytes, bytes_max }
        } else {
            Health::Ready
        };
        self.shared.tell(health);
        self.stats.segments = self.segments.count() as u64;
        self.stats.bytes = self.segments.bytes_on_disk();
        self.stats.bytes_max = self.segments.options().max_size;
        self.stats.unsettled = self.shared.live().pairs();
        self.stats.live_bytes = self.live_bytes();
        self.stats.commits = self.segments.commits();
        self.stats.event_ids = self.recent.len() as u64;
        self.shared.publish(&self.stats);
    }
}
