//! All segments of a journal: which one is written to, what each still owes, and which may go.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    AppendError, JournalId, Options, cut,
    flight::Flight,
    frame::{FRAME_HEADER_BYTES, Seed},
    segment::{self, Active, FIRST_COMMIT_AT, SegmentHeader},
    settling,
    spare::{Filling, SPARE, Spare},
    storage::{Storage, StorageFile, is_full, will_pass},
    time::now,
};
use crate::{clock::Clock, push::Sequence};

/// How long after the disk was found full it is tried again.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Each segment keeps this part of itself free of pushes: settlements and remembered ids still fit when
/// no further segment can be had, and they are what makes room.
const RESERVE_PART: u64 = 8;

/// The name under which a segment larger than usual is made, for one append that needs it.
pub(super) const LARGE: &str = "large";

/// What is known of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) number: u64,
    /// Up to its valid end.
    pub(super) bytes: u64,
}

/// What room is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// New pushes: within the journal's bound, and never from the reserve.
    Pushes,
    /// Copies that are carried forward: no bound holds them up either, and half of the reserve is not for them. They come
    /// by megabytes, and would take all of it before anybody finds that there is no further segment.
    Copies,
    /// Settlements, and what frees the oldest segment of a full disk: they make room, so no bound holds them up.
    Upkeep,
}

/// Why there is no room.
#[derive(Clone, Debug)]
pub(super) enum RoomError {
    /// The journal is as large as it may be.
    Full { bytes: u64 },
    /// The disk is full, or no file can be opened. Passes by itself.
    NoSpace(String),
    /// The disk is broken.
    Fatal(String),
}

impl RoomError {
    pub(super) fn to_append_error(&self, options: Options) -> AppendError {
        match self {
            Self::Full { bytes } => AppendError::Full {
                bytes: *bytes,
                bytes_max: options.max_size,
            },
            Self::NoSpace(error) | Self::Fatal(error) => AppendError::Io(error.clone()),
        }
    }
}

/// Why a segment is still there.
#[derive(Debug)]
pub(super) enum DeleteError {
    /// It may go at another time.
    Later(io::Error),
    /// The disk is broken.
    Fatal(io::Error),
}

/// The disk was found full.
#[derive(Debug)]
struct NoSpace {
    error: String,
    /// Else there was nothing left to open a file with.
    is_disk_full: bool,
    retry_at: Instant,
}

/// The segments.
#[derive(Debug)]
pub(super) struct Segments {
    storage: Arc<dyn Storage>,
    options: Options,
    clock: Clock,
    journal: JournalId,
    seed: Seed,
    /// Oldest first, without gaps; the last one is the active segment's.
    accounts: VecDeque<Account>,
    active: Active,
    spare: Spare,
    next_commit: u64,
    no_space: Option<NoSpace>,
    /// What stands behind the active segment's end is a bad commit that is not saved yet.
    is_cut_unsaved: bool,
    /// So many sequence numbers before the next one are passed over: the next header says it.
    passed_over: u64,
}

/// What recovery hands over.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) options: Options,
    pub(super) clock: Clock,
    pub(super) journal: JournalId,
    pub(super) accounts: VecDeque<Account>,
    pub(super) active: Active,
    pub(super) next_commit: u64,
    pub(super) filling: Filling,
    /// Whether what is to be cut off the active segment, which is sealed then, is still to be saved.
    pub(super) is_cut_unsaved: bool,
    /// How many sequence numbers were passed over, if no header says it yet.
    pub(super) passed_over: u64,
}

impl Segments {
    pub(super) fn new(parts: Parts) -> Self {
        let spare = Spare::new(
            Arc::clone(&parts.storage),
            segment::usual_capacity(parts.options.segment_size),
            parts.filling,
        );
        // Recovery hands over a sealed segment only when the disk had no space for a fresh one.
        let no_space = parts.active.is_sealed.then(|| NoSpace {
            error: "there was no space for a fresh segment at the start".to_owned(),
            is_disk_full: true,
            retry_at: now(),
        });
        Self {
            seed: Seed::of(parts.journal),
            storage: parts.storage,
            options: parts.options,
            clock: parts.clock,
            journal: parts.journal,
            accounts: parts.accounts,
            active: parts.active,
            spare,
            next_commit: parts.next_commit,
            no_space,
            is_cut_unsaved: parts.is_cut_unsaved,
            passed_over: parts.passed_over,
        }
    }

    pub(super) fn seed(&self) -> Seed {
        self.seed
    }

    pub(super) fn options(&self) -> Options {
        self.options
    }

    pub(super) fn active_number(&self) -> u64 {
        self.active.number
    }

    /// Where the next commit's first byte goes.
    pub(super) fn active_end(&self) -> u64 {
        self.active.end
    }

    /// Whether the active segment takes no more commits: it failed, or its successor may exist already.
    pub(super) fn is_sealed(&self) -> bool {
        self.active.is_sealed
    }

    /// How many bytes of records the next commit may have. On a disk that has no room for the next segment, all that is
    /// left of this one is for what makes room.
    pub(super) fn room_for(&self, purpose: Purpose) -> usize {
        let reserve = match purpose {
            Purpose::Pushes if self.is_disk_full() => return 0,
            Purpose::Pushes => self.reserve(),
            Purpose::Copies => self.reserve() / 2,
            Purpose::Upkeep => 0,
        };
        let room = self
            .active
            .room()
            .saturating_sub(reserve + FRAME_HEADER_BYTES as u64);
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    fn is_disk_full(&self) -> bool {
        self.no_space
            .as_ref()
            .is_some_and(|no_space| no_space.is_disk_full)
    }

    fn reserve(&self) -> u64 {
        u64::from(self.options.segment_size) / RESERVE_PART
    }

    /// The records that `frame` holds behind the place for its header, as the next commit; [`Segments::land`] is to
    /// follow.
    pub(super) fn depart(&mut self, frame: Vec<u8>) -> Flight {
        self.active.depart(frame, self.seed, self.next_commit)
    }

    /// Takes note of what became of the commit that was on its way.
    pub(super) fn land(&mut self, is_durable: bool) {
        self.active.land(is_durable);
        if !is_durable {
            return;
        }
        self.next_commit += 1;
        if let Some(account) = self.accounts.back_mut() {
            account.bytes = self.active.end;
        }
    }

    /// Opens the next segment, with room for at least `bytes` of records.
    pub(super) fn make_room(
        &mut self,
        bytes: usize,
        purpose: Purpose,
        next_sequence: Sequence,
    ) -> Result<(), RoomError> {
        let usual = segment::usual_capacity(self.options.segment_size);
        let capacity = self.capacity_for(bytes);
        if purpose == Purpose::Pushes {
            self.check_bound(capacity)?;
        }
        self.check_no_space()?;
        if purpose == Purpose::Pushes && self.is_disk_full() && !self.active.is_sealed {
            // What is left of this segment is for pushes again, once there is a file for the next.
            let ensured = self.spare.ensure();
            self.judge(ensured)?;
            if bytes <= self.room_for(purpose) {
                return Ok(());
            }
        }
        let rolled = match self.save_cut() {
            Err(error) => Err(error),
            Ok(()) if capacity > usual => segment::create(&*self.storage, LARGE, capacity)
                .and_then(|file| self.roll(LARGE, file, next_sequence)),
            Ok(()) => self.roll_spare(next_sequence),
        };
        self.judge(rolled)
    }

    /// Makes the spare file the active segment: one that was made ahead, but for that somebody removed it since.
    fn roll_spare(&mut self, next_sequence: Sequence) -> io::Result<()> {
        let file = self.spare.take()?;
        match self.roll(SPARE, file, next_sequence) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = self.spare.take()?;
                self.roll(SPARE, file, next_sequence)
            }
            rolled => rolled,
        }
    }

    /// Saves what the start found no space to save, before the next segment's header cuts it off.
    fn save_cut(&mut self) -> io::Result<()> {
        if self.is_cut_unsaved {
            cut::save(
                &*self.storage,
                &self.active.file,
                self.active.number,
                self.active.end,
            )?;
            self.is_cut_unsaved = false;
        }
        Ok(())
    }

    /// Whether a further segment of that capacity, and one more for settlements, stay within the bound.
    fn check_bound(&self, capacity: u64) -> Result<(), RoomError> {
        let bytes = self.valid_bytes() + self.set_aside();
        if bytes + capacity + u64::from(self.options.segment_size) > self.options.max_size {
            return Err(RoomError::Full { bytes });
        }
        Ok(())
    }

    /// The capacity of a segment that has room for so many bytes of records.
    fn capacity_for(&self, bytes: usize) -> u64 {
        let needed = FIRST_COMMIT_AT + FRAME_HEADER_BYTES as u64 + bytes as u64 + self.reserve();
        needed.max(segment::usual_capacity(self.options.segment_size))
    }

    /// How full the journal is, if its bound leaves no further segment that has room for so many bytes of pushes, and would
    /// if there were nothing but the one that is written to: else nothing would be gained by making room.
    pub(super) fn is_full_for(&self, bytes: usize) -> Option<u64> {
        let capacity = self.capacity_for(bytes);
        let least = capacity + 2 * u64::from(self.options.segment_size) + self.set_aside();
        if least > self.options.max_size {
            return None;
        }
        match self.check_bound(capacity) {
            Err(RoomError::Full { bytes }) => Some(bytes),
            _ => None,
        }
    }

    fn check_no_space(&self) -> Result<(), RoomError> {
        match &self.no_space {
            Some(no_space) if now() < no_space.retry_at => Err(RoomError::NoSpace(no_space.error.clone())),
            _ => Ok(()),
        }
    }

    /// What a try for more space came to.
    fn judge(&mut self, tried: io::Result<()>) -> Result<(), RoomError> {
        match tried {
            Ok(()) => {
                self.no_space = None;
                Ok(())
            }
            Err(error) if will_pass(&error) => {
                let (error, is_disk_full) = (error.to_string(), is_full(&error));
                self.no_space = Some(NoSpace {
                    error: error.clone(),
                    is_disk_full,
                    retry_at: now() + RETRY_AFTER,
                });
                Err(RoomError::NoSpace(error))
            }
            Err(error) => Err(RoomError::Fatal(error.to_string())),
        }
    }

    /// The disk's complaint, while it is full, and when to try it again.
    pub(super) fn no_space(&self) -> Option<(&str, Instant)> {
        self.no_space
            .as_ref()
            .map(|no_space| (no_space.error.as_str(), no_space.retry_at))
    }

    /// Tries again, once it is time, to get what the full disk refused.
    pub(super) fn retry(&mut self, next_sequence: Sequence) -> Result<(), RoomError> {
        self.check_no_space()?;
        if self.active.is_sealed {
            return self.make_room(0, Purpose::Upkeep, next_sequence);
        }
        let ensured = self.spare.ensure();
        self.judge(ensured)
    }

    /// Makes `file` the active segment. The one before it is valid up to where it ends now, for ever.
    fn roll(&mut self, from: &str, file: Arc<dyn StorageFile>, next_sequence: Sequence) -> io::Result<()> {
        let header = SegmentHeader {
            number: self.active.number + 1,
            journal: self.journal,
            created_at: self.clock.now(),
            first_sequence: next_sequence,
            first_commit: self.next_commit,
            predecessor: self.active.number,
            predecessor_end: self.active.end,
            passed_over: self.passed_over,
        };
        // From here on the header may be on disk, even if what follows fails: a commit into the old
        // segment would stand behind the end that the header names, and be lost.
        self.active.is_sealed = true;
        let next = Active::begin(&*self.storage, from, file, &header)?;
        self.passed_over = 0;
        let old = std::mem::replace(&mut self.active, next);
        self.accounts.push_back(Account {
            number: header.number,
            bytes: self.active.end,
        });
        if let Err(error) = old.file.set_len(old.end) {
            tracing::warn!(segment = old.number, %error, "a sealed segment keeps its unused space until the next start");
        }
        Ok(())
    }

    /// Whether a spare file fits into what the journal may take on disk with so many bytes live: twice as much,
    /// and two segments.
    pub(super) fn has_place_for_spare(&self, live: u64) -> bool {
        let usual = u64::from(self.options.segment_size);
        let free = self.active.capacity.saturating_sub(self.active.end);
        self.valid_bytes() + self.set_aside() + free <= 2 * live + usual
    }

    /// Gets the next segment's file ready, off this thread, if it isn't. While this segment has room, a disk that has none
    /// for the next is found out by it.
    pub(super) fn prepare_spare(&mut self) {
        if self.no_space.is_some() {
            return;
        }
        match self.spare.failure() {
            Some(error) => drop(self.judge(Err(error))),
            None => self.spare.prepare(),
        }
    }

    /// The oldest segment, unless it is the active one.
    pub(super) fn oldest_sealed(&self) -> Option<Account> {
        let oldest = self.accounts.front()?;
        (oldest.number != self.active.number).then_some(*oldest)
    }

    /// Bytes of all segments but the active one.
    pub(super) fn sealed_bytes(&self) -> u64 {
        let active = self.accounts.back().map_or(0, |account| account.bytes);
        self.valid_bytes() - active
    }

    /// Deletes the oldest segment, durably. The caller has seen to what it alone held.
    ///
    /// One at a time: if the power goes now, what is left has no gap. For the same reason a directory that
    /// can't be synced is fatal: nobody knows any more which of its names would be left.
    pub(super) fn delete_oldest(&mut self) -> Result<(), DeleteError> {
        let active = self.active.number;
        let Some(account) = self.accounts.front().filter(|account| account.number != active) else {
            return Ok(());
        };
        match self.storage.remove(&segment::file_name(account.number)) {
            // It went at the last try, and the full disk had no room to say so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(DeleteError::Later)?,
        }
        self.storage.sync_dir().map_err(|error| {
            if will_pass(&error) {
                DeleteError::Later(error)
            } else {
                DeleteError::Fatal(error)
            }
        })?;
        self.accounts.pop_front();
        Ok(())
    }

    pub(super) fn count(&self) -> usize {
        self.accounts.len()
    }

    fn valid_bytes(&self) -> u64 {
        self.accounts.iter().map(|account| account.bytes).sum()
    }

    /// Bytes that settlements have beside the segments.
    fn set_aside(&self) -> u64 {
        settling::set_aside_bytes(self.options.segment_size)
    }

    /// Bytes that all segments, the active one's free room, the spare file and what is set aside take on disk.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        let free = self.active.capacity.saturating_sub(self.active.end);
        self.valid_bytes() + self.set_aside() + free + self.spare.bytes_used()
    }

    pub(super) fn commits(&self) -> u64 {
        self.next_commit - 1
    }
}
