//! The journal's one writing thread.
//!
//! A turn: take everything that waits; stage appends into a group until the segment is full or the group
//! large enough; write the group as one commit, with one fsync; hand what became durable to the applier;
//! then answer. It never waits on a timer for more appends to come: what has gathered while the disk was
//! busy is the next commit. While a large commit is on its way ([`flight`](super::flight)), the next group is
//! staged; should that commit fail, what was staged behind it fails with it.

use std::{
    collections::VecDeque,
    fmt, io, mem,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    AppendError, Applied, Health, Shared, Stats,
    carry::{self, Carrying},
    flight::{Meanwhile, Pace, Pilot},
    group::Group,
    inbox::{Append, Gate},
    recent::{Place, Recent},
    segments::{Purpose, RETRY_AFTER, RoomError, Segments},
    settling,
    time::now,
};
use crate::{clock::Clock, push::Sequence};

mod staging;

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
    /// The place behind the newest id that is durable.
    pub(super) ids_durable: Place,
    next_sequence: Sequence,
    /// Appends that no group has taken yet.
    pub(super) line: VecDeque<Append>,
    /// The commit in the making.
    pub(super) group: Group,
    /// The one that was written last, until everybody in it is answered; empty otherwise.
    flown: Group,
    pub(super) pace: Pace,
    /// None while the writer is turned by hand.
    pub(super) pilot: Option<Pilot>,
    /// In this turn appends came while a commit was on its way.
    pub(super) has_met_more: bool,
    pub(super) carrying: Carrying,
    stats: Stats,
    sync_told: Option<SyncTold>,
    /// Bytes of the largest group of pushes that was refused because the journal is full.
    refused: Option<usize>,
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
        self.shared.settler.end();
        let lost = self.shared.settling.end();
        if lost > 0 {
            tracing::warn!(
                settlements = lost,
                "the journal ended before these settlements were written; their webhooks will be repeated"
            );
            if self.fatal.is_none() && !thread::panicking() {
                self.shared.tell(Health::Failed(format!(
                    "it ended with {lost} settlements that could not be written; their webhooks will be repeated"
                )));
            }
        }
        // Whoever waits for the end looks at the health then.
        self.shared.inbox.end(&error);
        if let Some(pilot) = self.pilot.take() {
            pilot.end();
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
            ids_durable: recent.end(),
            recent,
            next_sequence,
            line: VecDeque::new(),
            group: Group::new(),
            flown: Group::new(),
            pace: Pace::default(),
            pilot: None,
            has_met_more: false,
            carrying: Carrying::default(),
            stats: Stats::default(),
            sync_told: None,
            refused: None,
            fatal: None,
        };
        writer.publish();
        writer
    }

    /// Has `told` called with the duration of each commit's fdatasync.
    pub fn on_sync(&mut self, told: impl Fn(Duration) + Send + 'static) {
        self.sync_told = Some(SyncTold(Box::new(told)));
    }

    /// Has a commit hold no more than so many bytes of records, or one append; 4 MiB unless it is said.
    pub fn limit_commits(&mut self, bytes_max: usize) {
        self.pace.commit_bytes_max = bytes_max;
    }

    /// Starts the thread, and those that write settlements down and large commits for it. `applier` is called on it, in
    /// the order of the sequence numbers, before the appends concerned resolve; it must not block.
    ///
    /// The thread ends when the journal is closed, its last handle is dropped, or it failed; see
    /// [`super::Journal::health`].
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(mut self, mut applier: Applier) -> io::Result<JoinHandle<()>> {
        self.pilot = Some(Pilot::start(&self.shared)?);
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
        let gate = self.take();
        self.carrying.begin_turn();
        self.write(applier);
        if gate != Gate::Open {
            self.shared.settler.write(&self.shared);
        }
        let due_at = self.shared.settling.due_at();
        // A group that is staged already takes them along at once.
        if self.group.is_empty() && (due_at.is_some_and(|due| due <= now()) || gate != Gate::Open) {
            self.commit_settlements(gate);
        }
        if gate != Gate::Open {
            settling::answer(self.shared.settling.file_again());
        }
        self.upkeep();
        self.publish();
        if self.fatal.is_some() {
            // Nobody is left to wait for another turn.
            self.write(applier);
            Gate::Ended
        } else {
            gate
        }
    }

    /// Takes what waits. But a large group that is staged goes to the disk first: what waits is looked at meanwhile.
    fn take(&mut self) -> Gate {
        let is_large = self.group.record_bytes() >= self.pace.handed_over_bytes.max(1);
        if is_large && self.shared.inbox.gate() == Gate::Open {
            return Gate::Open;
        }
        let deadline = self.deadline();
        self.shared.inbox.take(&mut self.line, deadline)
    }

    /// When there is something to do even if nobody asks.
    fn deadline(&self) -> Option<Instant> {
        if self.has_staged() {
            return Some(now());
        }
        let retry_at = self.segments.no_space().map(|(_, at)| at);
        // On a full disk, settlements that don't fit wait for it rather than spin.
        let room = self.segments.room_for(Purpose::Upkeep);
        let fits = retry_at.is_none() || self.shared.settling.fitting(room).count > 0;
        let due_at = self.shared.settling.due_at().filter(|_| fits);
        let set_aside_at = self.set_aside_at();
        [retry_at, due_at, set_aside_at, self.carry_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// When space for settlements is to be tried for, of a disk that has some.
    fn set_aside_at(&self) -> Option<Instant> {
        let at = self.shared.settling.set_aside_at();
        at.filter(|_| self.segments.no_space().is_none())
    }

    fn has_staged(&self) -> bool {
        !self.line.is_empty() || !self.group.is_empty()
    }

    /// Writes what is in line. Once something came while a commit was on its way, the rest is the next turn's: there
    /// is more to do than to write.
    fn write(&mut self, applier: &mut Applier) {
        self.has_met_more = false;
        while self.has_staged() && (!self.has_met_more || self.fatal.is_some()) {
            self.stage_line(Meanwhile::Wait);
            self.flush(applier);
        }
    }

    pub(super) fn make_room(&mut self, bytes: usize, purpose: Purpose) -> Result<(), RoomError> {
        if let Some(error) = &self.fatal {
            return Err(RoomError::Fatal(error.clone()));
        }
        let before = self.segments.active_number();
        let made = self.segments.make_room(bytes, purpose, self.first_unwritten());
        self.follow(before);
        self.note(&made);
        made
    }

    /// Enters a segment that was begun into the index.
    fn follow(&self, before: u64) {
        let number = self.segments.active_number();
        if number != before {
            self.shared.live().begin(number, self.first_unwritten());
        }
    }

    /// A disk that fails for another reason than being full ends the journal.
    fn note(&mut self, tried: &Result<(), RoomError>) {
        if let Err(RoomError::Fatal(error)) = tried {
            self.fail(error);
        }
    }

    pub(super) fn fail(&mut self, error: &str) {
        let directory = self.shared.storage.path("");
        tracing::error!(directory = %directory.display(), error, "the journal can't go on");
        self.fatal = Some(format!("{}: {error}", directory.display()));
    }

    /// Commits the group if it holds anything to commit, and answers everybody in it.
    fn flush(&mut self, applier: &mut Applier) {
        let result = self.make_room_for_group().and_then(|()| {
            if self.group.record_bytes() == 0 {
                Ok(())
            } else {
                self.commit(self.meanwhile())
            }
        });
        if self.flown.is_empty() {
            // It never left.
            mem::swap(&mut self.flown, &mut self.group);
        }
        if result.is_err() {
            self.take_back();
        }
        self.flown.apply(result.is_ok(), applier);
        self.flown.answer(&result);
        if result.is_err() {
            // What was staged meanwhile has lost its numbers and ids.
            self.group.apply(false, applier);
            self.group.answer(&result);
            self.replace_sealed();
        }
    }

    /// Makes the group durable, together with what is to be carried forward and the settlements that fit. It is the
    /// one that was flown then, and another one may be staged.
    ///
    /// In that order: a copy that is carried says which pairs are unsettled, and a settlement behind it
    /// holds for the copy too.
    fn commit(&mut self, meanwhile: Meanwhile) -> Result<(), AppendError> {
        let room = self
            .segments
            .room_for(Purpose::Upkeep)
            .saturating_sub(self.group.record_bytes());
        let settled = self.shared.settling.fitting(room.min(SETTLEMENT_BYTES_MAX));
        let copies = self.segments.room_for(self.carrying_purpose());
        let copies = copies.saturating_sub(self.group.record_bytes() + settled.bytes);
        let load = self.load(copies);
        self.shared.settling.put(&mut self.group.frame, settled);
        mem::swap(&mut self.group, &mut self.flown);
        if self.flown.record_bytes() == 0 {
            return Ok(());
        }
        let base = self.segments.active_end();
        let flight = self.segments.depart(mem::take(&mut self.flown.frame));
        let landed = self.fly(flight, meanwhile);
        self.flown.frame = landed.frame;
        self.segments.land(landed.synced.is_ok());
        let took = landed.synced.map_err(|error| {
            tracing::error!(segment = self.segments.active_number(), %error, "a commit failed; its segment is given up");
            AppendError::Io(error.to_string())
        })?;
        self.stats.sync_last = took;
        if let Some(SyncTold(told)) = &self.sync_told {
            told(took);
        }
        self.stats.pushes += self.flown.pushes;
        self.stats.settlements += settled.count as u64;
        let (pairs, callers) = self.shared.settling.committed(settled);
        let mut live = self.shared.live();
        self.flown.enter(&mut live, base);
        load.enter(&mut live);
        for pair in pairs {
            live.settle(pair);
        }
        drop(live);
        settling::answer(callers);
        // Before anything is forgotten: it counts from the oldest id that was carried.
        self.unload(&load);
        if self.flown.pushes > 0 {
            self.ids_durable = self.flown.ids.end;
            self.recent
                .settle_in(self.flown.ids.clone(), self.segments.active_number());
            self.recent.forget(self.clock.now(), self.ids_durable);
        }
        Ok(())
    }

    /// Commits settlements and what is to be carried forward, while no append waits for it.
    pub(super) fn commit_alone(&mut self) -> Result<(), AppendError> {
        debug_assert!(self.group.is_empty(), "somebody waits for these records");
        let committed = self.commit(Meanwhile::Wait);
        self.flown.clear();
        if committed.is_err() {
            self.replace_sealed();
        }
        committed
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
                // There may be space for the file.
                settling::answer(self.shared.settling.file_again());
                return;
            }
            if self.commit_alone().is_err() {
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
            let retried = self.segments.retry(self.first_unwritten());
            self.follow(before);
            self.note(&retried);
        }
        if self.fatal.is_none() && self.set_aside_at().is_some_and(|at| at <= now()) {
            self.shared.settling.set_aside(RETRY_AFTER);
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
        let full = self.refused.and_then(|bytes| self.segments.is_full_for(bytes));
        let hindrance = self.carrying.hindrance(full.is_some());
        // Settlements or copies may have begun another segment: then nobody need make room. What hinders is told still.
        let has_room = |bytes| bytes <= self.segments.room_for(Purpose::Pushes);
        let full = full.filter(|_| hindrance.is_some() || !self.refused.is_some_and(has_room));
        self.refused = self.refused.filter(|_| full.is_some());
        let health = if let Some(error) = &self.fatal {
            Health::Failed(error.clone())
        } else if let Some(hindrance) = hindrance {
            hindrance
        } else if let Some((error, _)) = self.segments.no_space() {
            let error = error.to_owned();
            Health::NoSpace { error }
        } else if let Some(bytes) = full {
            let bytes_max = self.segments.options().max_size;
            Health::Full {
                bytes,
                bytes_max,
                makes_room: self.is_carrying(),
            }
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
