//! Carrying forward: what the oldest segment still holds is written again, so that its file can go.
//!
//! Segments go from the oldest end only, for a settlement must outlive the push that it settles. A single
//! push that nobody takes would so keep every later segment on disk. Therefore, whenever the segments hold
//! too many bytes that are dead, what is live in the oldest is written again into the active one, in small
//! steps that ride with the commits of the pushes, and then its file is deleted. Live are the records of
//! pushes that are still owed, and the event ids that are remembered.
//!
//! # The bound
//! Dead bytes may be half of what is live beyond one segment. They may be more only while the steps catch up:
//! each takes at least four times the bytes of the pushes it rides with. So the segments behind the active
//! one have at most twice the bytes that are live, and the active one and the spare file are the two segments
//! that come on top. Each byte is written again at most twice for each byte that was freed, however
//! settlements are spread.

use std::time::{Duration, Instant};

use super::{
    Health,
    frame::FRAME_HEADER_BYTES,
    live::{Live, LivePush},
    reader::Reader,
    record, segment,
    segments::{DeleteError, Purpose, RETRY_AFTER},
    storage::will_pass,
    stuck::Stuck,
    time::now,
    writer::Writer,
};

/// The least that a step carries, if there is so much.
const STEP_BYTES_MIN: usize = 512 * 1024;

/// The most that a step carries.
const STEP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes carried for each byte of new pushes in the same commit.
const STEP_RATIO: usize = 4;

/// Remembered ids that one record carries at most.
pub(super) const IDS_PER_RECORD: usize = 16 * 1024;

/// What a commit takes that carries ids alone, beside them.
const COMMIT_BYTES: u64 = (FRAME_HEADER_BYTES + record::RECORD_HEADER_BYTES) as u64;

/// How long the oldest segment is left alone when it can't be deleted.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How much is read at a time.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Bytes that so many remembered ids take on disk.
pub(super) fn id_bytes(ids: u64) -> u64 {
    ids * record::EVENT_ID_BYTES as u64
}

/// How far carrying forward has come.
#[derive(Debug, Default)]
pub(super) struct Carrying {
    /// Until when the oldest segment is left alone.
    rests_until: Option<Instant>,
    /// Something was carried in this turn.
    has_moved: bool,
    /// Nothing was, because a group was staged already.
    pub(super) is_kept_waiting: bool,
    reader: Option<Reader>,
    /// What can't be read.
    pub(super) stuck: Stuck,
    /// There was nothing left to open the oldest segment with, which says nothing of what stands in it.
    unopened: Option<String>,
    /// The oldest segment owes nothing and can't be deleted, nor any behind it.
    undeleted: Option<String>,
}

impl Carrying {
    pub(super) fn begin_turn(&mut self) {
        self.has_moved = false;
    }

    /// Why no older segment goes: of a journal at its bound, this is told rather than what comes of it.
    pub(super) fn hindrance(&self, is_full: bool) -> Option<Health> {
        let damage = self.stuck.damage(is_full).cloned().map(Health::Damaged);
        let kept = self.unopened.as_ref().or(self.undeleted.as_ref());
        let kept = kept.filter(|_| is_full).cloned();
        damage.or_else(|| kept.map(|error| Health::NoSpace { error }))
    }

    fn rest(&mut self, time: Duration) {
        self.rests_until = Some(now() + time);
    }
}

/// What one commit carries forward.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Each push, and where its copy stands in the active segment.
    pushes: Vec<(LivePush, u32, u32)>,
    /// The segment that the ids come from, and how many of them are carried.
    ids: (u64, usize),
}

impl Load {
    /// Enters the copies, which are durable now, into the index.
    pub(super) fn enter(&self, live: &mut Live) {
        for (push, offset, bytes) in &self.pushes {
            live.carry(push.sequence, *offset, *bytes, push.unsettled.clone());
        }
    }
}

impl Writer {
    /// When the oldest segment is to be seen to, if it is.
    pub(super) fn carry_at(&self) -> Option<Instant> {
        let now = now();
        (self.is_carrying() && self.can_finish())
            .then(|| self.carrying.rests_until.map_or(now, |until| until.max(now)))
    }

    fn may_carry(&self) -> bool {
        let rests = self.carrying.rests_until.is_some_and(|until| until > now());
        !rests && self.is_carrying() && self.can_finish()
    }

    /// Whether the oldest segment can be cleared with the room there is: on a full disk only that wins any, and
    /// half of it stays for settlements. Of one that owes nothing, ids may have all of it: they are written at once, and
    /// what is won is a segment.
    fn can_finish(&self) -> bool {
        let Some(oldest) = self
            .segments
            .oldest_sealed()
            .filter(|_| self.segments.no_space().is_some())
        else {
            return true;
        };
        let ids = self.recent.count_in(oldest.number);
        let pushes = self.shared.live().oldest_bytes();
        let room = self.segments.room_for(Purpose::Upkeep) as u64;
        if pushes == 0 {
            let commits = ids / IDS_PER_RECORD as u64 + 1;
            id_bytes(ids) + commits * COMMIT_BYTES <= room
        } else {
            pushes + id_bytes(ids) <= room / 2
        }
    }

    /// Whether the oldest segment is to go: nothing in it is live, or the sealed ones together hold more dead
    /// bytes than they may. On a full disk it is enough that more is won than written again.
    pub(super) fn is_carrying(&self) -> bool {
        let Some(oldest) = self.segments.oldest_sealed() else {
            return false;
        };
        let (pushes, active, in_oldest) = {
            let live = self.shared.live();
            (live.bytes(), live.newest_bytes(), live.oldest_bytes())
        };
        let its_live = in_oldest + id_bytes(self.recent.count_in(oldest.number));
        if its_live == 0 || (self.segments.no_space().is_some() && its_live <= oldest.bytes / 2) {
            return true;
        }
        let ids = id_bytes(self.recent.len() as u64);
        let live = pushes + ids;
        let active = active + id_bytes(self.recent.count_in(self.segments.active_number()));
        let sealed = self.segments.sealed_bytes();
        let sealed_live = live.saturating_sub(active);
        let options = self.segments.options();
        let segment = u64::from(options.segment_size);
        let allowed = (live.saturating_sub(segment) / 2)
            .min(options.max_size.saturating_sub(4 * segment + sealed_live));
        // Headers of segments and frames are dead from the first day on, also where all else is live: to write
        // it all again would win nothing.
        let framing = (sealed / 4).min(segment / 2);
        sealed.saturating_sub(sealed_live) > allowed + framing
    }

    /// Adds what is to be carried forward to the group's frame: as much as fits into `room` bytes, and no
    /// more than a step.
    pub(super) fn load(&mut self, room: usize) -> Load {
        let mut load = Load::default();
        if !self.may_carry() {
            return load;
        }
        let Some(oldest) = self.segments.oldest_sealed() else {
            return load;
        };
        let step = (self.group.record_bytes() * STEP_RATIO).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX);
        let begin = self.group.frame.len();
        let (end, end_max) = (begin + room.min(step), begin + room);
        load.ids = (oldest.number, self.load_ids(oldest.number, end));
        let left = end.saturating_sub(self.group.frame.len());
        let pushes = self
            .shared
            .live()
            .oldest_owed(left as u64, self.carrying.stuck.pushes());
        let base = self.segments.active_end();
        for push in pushes {
            let (start, tried_at) = (self.group.frame.len(), now());
            if let Err(error) = self.load_push(&push) {
                self.group.frame.truncate(start);
                self.pass_over(&push, &error, now() - tried_at);
                break;
            }
            // One that is larger than a step goes alone.
            let is_first = load.pushes.is_empty() && load.ids.1 == 0;
            if self.group.frame.len() > if is_first { end_max } else { end } {
                self.group.frame.truncate(start);
                break;
            }
            // Segments are smaller than 4 GiB.
            let offset = u32::try_from(base + start as u64).unwrap_or(u32::MAX);
            let bytes = u32::try_from(self.group.frame.len() - start).unwrap_or(u32::MAX);
            load.pushes.push((push, offset, bytes));
        }
        load
    }

    fn load_ids(&mut self, segment: u64, end: usize) -> usize {
        let room = end.saturating_sub(self.group.frame.len() + record::RECORD_HEADER_BYTES);
        let count = (room / record::EVENT_ID_BYTES).min(IDS_PER_RECORD);
        let ids: Vec<_> = self.recent.ids_in(segment).take(count).collect();
        if !ids.is_empty() {
            record::put_event_ids(&mut self.group.frame, self.segments.seed(), &ids);
        }
        ids.len()
    }

    fn load_push(&mut self, push: &LivePush) -> std::io::Result<()> {
        let seed = self.segments.seed();
        let reader = self.carrying.reader.get_or_insert_with(|| {
            Reader::new(std::sync::Arc::clone(&self.shared.storage), seed, CHUNK_BYTES)
        });
        let raw = reader.record(push.standing)?;
        self.carrying.unopened = None;
        record::put_carried(&mut self.group.frame, seed, &raw, &push.unsettled).map_err(|_| Reader::damaged())
    }

    fn pass_over(&mut self, push: &LivePush, error: &std::io::Error, took: Duration) {
        let file = segment::file_name(push.standing.segment);
        let file = self.shared.storage.path(&file);
        if will_pass(error) {
            if self.carrying.unopened.is_none() {
                tracing::warn!(file = %file.display(), %error, "a segment can't be opened and carried forward for now");
            }
            self.carrying.unopened = Some(error.to_string());
            self.carrying.rest(RETRY_AFTER);
            return;
        }
        let pause = self.carrying.stuck.add(push, file, error, took);
        self.carrying.reader = None;
        self.carrying.rest(pause);
    }

    /// Takes note of a load that is durable and in the index.
    pub(super) fn unload(&mut self, load: &Load) {
        let (segment, ids) = load.ids;
        if ids > 0 {
            self.recent.move_home(segment, ids, self.segments.active_number());
        }
        self.carrying.has_moved |= ids > 0 || !load.pushes.is_empty();
    }

    /// Carries forward what no commit of this turn has taken along, and deletes the oldest segment once
    /// nothing in it is live. A step at most: pushes don't wait for more.
    pub(super) fn clear_oldest(&mut self) {
        self.carrying.is_kept_waiting = false;
        if self.carrying.unopened.is_some() && !self.is_carrying() {
            // Nothing is kept from going by it any more.
            self.carrying.unopened = None;
        }
        if self.segments.no_space().is_some() {
            // No push comes that would see to it, and what is not remembered need not be carried.
            self.recent.forget(self.clock.now(), self.ids_durable);
        }
        if !self.may_carry() {
            return;
        }
        let Some(oldest) = self.segments.oldest_sealed() else {
            return;
        };
        self.recent.forget(self.clock.now(), self.ids_durable);
        let next_bytes = self.next_bytes(oldest.number);
        if next_bytes == 0 && self.shared.live().oldest_bytes() > 0 {
            // What is left can't be read.
            let wait = self.carrying.stuck.end_round();
            self.carrying.rest(wait);
        } else if next_bytes == 0 {
            self.delete_oldest();
        } else if !self.carrying.has_moved {
            self.carrying.is_kept_waiting = !self.group.is_empty();
            if self.group.is_empty() {
                self.carry_alone(next_bytes);
            }
        }
    }

    /// Room that the next thing to be carried takes; 0 when there is none.
    fn next_bytes(&self, oldest: u64) -> usize {
        if self.recent.count_in(oldest) > 0 {
            return record::RECORD_HEADER_BYTES + record::EVENT_ID_BYTES;
        }
        let next = self.shared.live().oldest_owed(0, self.carrying.stuck.pushes());
        next.first().map_or(0, |push| {
            // A copy is longer than the first record by the bits that tell who owes it.
            push.standing.bytes as usize + push.unsettled.bytes_max()
        })
    }

    /// What copies are for: on a full disk the oldest segment goes by them, and they may have what settlements may.
    pub(super) fn carrying_purpose(&self) -> Purpose {
        match self.segments.no_space() {
            Some(_) => Purpose::Upkeep,
            None => Purpose::Copies,
        }
    }

    fn carry_alone(&mut self, next_bytes: usize) {
        let purpose = self.carrying_purpose();
        if next_bytes > self.segments.room_for(purpose) && self.make_room(next_bytes, purpose).is_err() {
            self.carrying.rest(RETRY_AFTER);
            return;
        }
        if self.commit_alone().is_err() {
            self.carrying.rest(RETRY_AFTER);
        }
    }

    fn delete_oldest(&mut self) {
        self.carrying.reader = None;
        match self.segments.delete_oldest() {
            Ok(()) => {
                self.carrying.stuck = Stuck::default();
                self.carrying.unopened = None;
                self.carrying.undeleted = None;
                self.shared.live().drop_oldest();
            }
            Err(DeleteError::Later(error)) => {
                let error = format!("a segment that owes nothing can't be deleted: {error}");
                if self.carrying.undeleted.as_ref() != Some(&error) {
                    tracing::warn!("{error}; it is tried again");
                }
                self.carrying.undeleted = Some(error);
                // Of a journal at its bound pushes wait for it.
                let is_full = self.segments.is_full_for(0).is_some();
                self.carrying
                    .rest(if is_full { RETRY_AFTER } else { AGAIN_AFTER });
            }
            Err(DeleteError::Fatal(error)) => self.fail(&error.to_string()),
        }
    }
}
