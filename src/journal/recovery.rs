//! Opening: check everything, cut what was never acknowledged, and begin a fresh segment.
//!
//! The order of the steps, each of which a crash may follow:
//! 1. All headers and all commits are read and checked. Nothing is changed; damage ends it here.
//! 2. Leftover files without a number go: nothing in them was ever used.
//! 3. A bad last commit is saved beside, durably. Until step 5 is done, the next start does the same again.
//! 4. The newest segment's last commit is written once more where it stands, and synced: a process that was
//!    killed, or whose sync failed, may have left it in the system's memory alone, and a sync without a write
//!    would say nothing of it. All before it were durable before it was written.
//! 5. A fresh segment begins, its header naming the valid end of the one before it, and how many sequence numbers are
//!    passed over: what is cut may have had them, and pushes that are gone although settlements of them are there. From
//!    here on what stands behind that end is known to be cut. A newest segment without any commit is replaced, under
//!    its own number, by rename, unless numbers are passed over behind it.
//! 6. Settlements that were told but not committed are committed to it, then their file is begun anew.
//! 7. Older segments are cut to their valid ends, for the space. Not synced: the headers say it all.
//!
//! On a full disk the start ends with step 2 or 4: what is owed is delivered, nothing is taken, and the rest is
//! done once there is space.

use std::{collections::VecDeque, io, sync::Arc};

use super::{
    OpenError, Opened, Options, RecoveryReport,
    chain::{Directory, Found},
    cut::{self, Cut},
    frame::{FRAME_HEADER_BYTES, Seed},
    reading::Scanned,
    recent,
    record::EVENT_ID_BYTES,
    replay::Replay,
    scan::{CHUNK_BYTES, Window},
    segment::{self, Active, FIRST_COMMIT_AT, SegmentHeader},
    segments::{Account, LARGE, Parts, Segments},
    settling::{self, Backlog, SETTLING, Settling},
    spare::{Filling, SPARE},
    storage::{Storage, will_pass},
};
use crate::clock::Clock;

pub(super) struct Recovery<'a> {
    storage: &'a Arc<dyn Storage>,
    options: Options,
    pub(super) clock: Clock,
}

/// What stands behind the newest segment's valid end.
enum Tail {
    /// Nothing, or what was saved to be cut.
    Seen(Option<Cut>),
    /// Something that the full disk has no space to save. It stays where it is until there is.
    Unsaved,
}

/// Settlements that were told but not committed.
#[derive(Default)]
struct Uncommitted {
    backlog: Backlog,
    /// How much of their file they take.
    file_end: u64,
    /// The highest number of a push that the journal no longer has, and of which some are settled; 0 for none.
    highest_gone: u64,
}

/// Opens the journal in `storage`.
pub(super) fn open(
    storage: &Arc<dyn Storage>,
    options: Options,
    clock: Clock,
    filling: Filling,
) -> Result<Opened, OpenError> {
    let recovery = Recovery {
        storage,
        options,
        clock,
    };
    recovery.run(filling)
}

impl Recovery<'_> {
    pub(super) fn directory(&self) -> Directory<'_> {
        Directory(&**self.storage)
    }

    fn run(&self, filling: Filling) -> Result<Opened, OpenError> {
        let mut scanned = self.scan()?;
        let ids = recent::Bounds::within(self.options.max_size, EVENT_ID_BYTES);
        scanned.recent.bound(ids, self.clock.now());
        for leftover in [SPARE, LARGE] {
            self.directory().remove(leftover)?;
        }
        let journal = scanned.journal;
        let seed = Seed::of(journal);
        let uncommitted = self.uncommitted(seed, &mut scanned.replay)?;
        let tail = match scanned.found.last() {
            Some(newest) => {
                let tail = self.save_cut(newest)?;
                self.renew_last_commit(newest)?;
                tail
            }
            None => Tail::Seen(None),
        };
        let is_cut_unsaved = matches!(tail, Tail::Unsaved);
        let passed_over = pass_over(&mut scanned, &tail, &uncommitted);
        let mut report = RecoveryReport {
            is_new: scanned.found.is_empty(),
            segments: scanned.found.len(),
            commits: scanned.commits,
            settled_late: 0,
            pushes: 0,
            cut: None,
        };
        let begun = self.begin(&mut scanned, uncommitted, (tail, passed_over), &mut report)?;
        let (active, settling) = begun;
        // A fresh segment says it.
        let unsaid = if active.is_sealed { passed_over } else { 0 };
        let Replay {
            live,
            notes,
            next_sequence,
            ..
        } = scanned.replay;
        report.pushes = live.pushes();
        let segments = Segments::new(Parts {
            storage: Arc::clone(self.storage),
            options: self.options,
            clock: self.clock.clone(),
            journal,
            accounts: accounts(&scanned.found, &active),
            active,
            next_commit: scanned.next_commit,
            filling,
            is_cut_unsaved,
            passed_over: unsaid,
        });
        Ok(super::assemble(
            Arc::clone(self.storage),
            self.clock.clone(),
            journal,
            (segments, live, scanned.recent, settling, next_sequence),
            notes,
            report,
        ))
    }

    /// Begins the segment that commits go to from now on, and settles what was left over.
    ///
    /// When the disk has no space for it, or for what is to be cut, the newest segment is handed on, sealed and
    /// whole: what is owed can be delivered all the same, and space may come.
    fn begin(
        &self,
        scanned: &mut Scanned,
        Uncommitted {
            backlog, file_end, ..
        }: Uncommitted,
        (tail, passed_over): (Tail, u64),
        report: &mut RecoveryReport,
    ) -> Result<(Active, Settling), OpenError> {
        let seed = Seed::of(scanned.journal);
        let size = self.options.segment_size;
        let settling = |uncommitted, is_set_aside| {
            Settling::new(Arc::clone(self.storage), seed, size, uncommitted, is_set_aside)
        };
        let fresh = match tail {
            Tail::Seen(cut) => {
                report.cut = cut;
                self.fresh(scanned, passed_over, backlog.bytes.len())
            }
            Tail::Unsaved => Err(io::ErrorKind::StorageFull.into()),
        };
        let mut active = match (fresh, scanned.found.last()) {
            (Ok(active), _) => active,
            (Err(error), Some(newest)) if will_pass(&error) => {
                tracing::warn!(%error, "no space for a fresh segment; the journal takes nothing until there is");
                let active = sealed(newest);
                scanned.found.pop();
                return Ok((active, settling((backlog, file_end), false)));
            }
            (Err(error), _) => return Err(self.directory().failed(SPARE, error)),
        };
        if scanned
            .found
            .pop_if(|found| found.header.number == active.number)
            .is_some()
        {
            scanned.replay.live.retract();
        }
        scanned.replay.begin(active.number);
        if !backlog.marks.is_empty() {
            self.commit(&mut active, seed, scanned.next_commit, &backlog)?;
            scanned.next_commit += 1;
            let live = &mut scanned.replay.live;
            let late = backlog.marks.iter().filter(|mark| live.settle(mark.pair));
            report.settled_late = late.count();
        }
        let is_set_aside = settling::begin_anew(&**self.storage, size);
        self.truncate(&scanned.found);
        Ok((active, settling((Backlog::default(), 0), is_set_aside)))
    }

    /// Saves what stands behind the newest segment's valid end, if that is anything but zeros.
    fn save_cut(&self, newest: &Found) -> Result<Tail, OpenError> {
        match cut::save(&**self.storage, &newest.file, newest.header.number, newest.end) {
            Ok(cut) => Ok(Tail::Seen(cut)),
            Err(error) if will_pass(&error) => {
                tracing::warn!(
                    file = %self.storage.path(&newest.name).display(), offset = newest.end, %error,
                    "the journal's last commit is not whole, and there is no space to save it: it is cut once there is"
                );
                Ok(Tail::Unsaved)
            }
            Err(error) => Err(self.directory().failed(&newest.name, error)),
        }
    }

    /// Makes the newest segment's last commit durable. The same bytes again: a crash in between leaves it as it
    /// was, or as it is to be.
    fn renew_last_commit(&self, newest: &Found) -> Result<(), OpenError> {
        if newest.last_commit_at == 0 {
            return Ok(());
        }
        let renewed = Window::new(Arc::clone(&newest.file), CHUNK_BYTES).and_then(|mut window| {
            let bytes = usize::try_from(newest.end - newest.last_commit_at).unwrap_or(usize::MAX);
            let commit = window.bytes(newest.last_commit_at, bytes)?;
            let commit = commit.ok_or(io::ErrorKind::UnexpectedEof)?;
            newest.file.write_all_at(commit, newest.last_commit_at)?;
            newest.file.sync_data()
        });
        renewed.map_err(|error| self.directory().failed(&newest.name, error))
    }

    /// The settlements that were told but not committed, of pushes that `replay` knows.
    ///
    /// Of others there can be some after a cut, or when files were put back by hand: their pushes are gone.
    fn uncommitted(&self, seed: Seed, replay: &mut Replay) -> Result<Uncommitted, OpenError> {
        let next = replay.next_sequence;
        let read = settling::told(&**self.storage, seed);
        let (settled, file_end) = read.map_err(|error| self.directory().failed(SETTLING, error))?;
        let (mut backlog, mut stale, mut highest_gone) = (Backlog::default(), 0, 0);
        for (pair, how) in settled {
            if pair.sequence >= next {
                stale += 1;
                highest_gone = highest_gone.max(pair.sequence.get());
            } else {
                // Settled already, some of them: to settle it twice changes nothing.
                replay.note_end(pair, how);
                backlog.push(seed, pair, how);
            }
        }
        if stale > 0 {
            tracing::warn!(
                file = %self.storage.path(SETTLING).display(),
                settlements = stale,
                %next,
                "settlements of pushes that the journal no longer has are dropped"
            );
        }
        // These stay in the file until a segment says that their numbers are passed over; then they settle nothing.
        Ok(Uncommitted {
            backlog,
            file_end,
            highest_gone,
        })
    }

    /// Makes the segment behind the newest one, or in its place if it is empty.
    fn fresh(&self, scanned: &Scanned, passed_over: u64, backlog_bytes: usize) -> io::Result<Active> {
        let mut header = SegmentHeader {
            number: 1,
            journal: scanned.journal,
            created_at: self.clock.now(),
            first_sequence: scanned.replay.next_sequence,
            first_commit: scanned.next_commit,
            predecessor: 0,
            predecessor_end: 0,
            passed_over,
        };
        if let Some(newest) = scanned.found.last() {
            // As often as that is tried, the header of the blank one stays true for the one behind it.
            if passed_over == 0 && is_blank(newest)? {
                header.number = newest.header.number;
                header.predecessor = newest.header.predecessor;
                header.predecessor_end = newest.header.predecessor_end;
                header.passed_over = newest.header.passed_over;
            } else {
                header.number = newest.header.number + 1;
                header.predecessor = newest.header.number;
                header.predecessor_end = newest.end;
            }
        }
        let needed = FIRST_COMMIT_AT + (FRAME_HEADER_BYTES + backlog_bytes) as u64;
        let capacity = segment::usual_capacity(self.options.segment_size).max(needed);
        let file = segment::create(&**self.storage, SPARE, capacity)?;
        Active::begin(&**self.storage, SPARE, file, &header)
    }

    fn commit(
        &self,
        active: &mut Active,
        seed: Seed,
        number: u64,
        backlog: &Backlog,
    ) -> Result<(), OpenError> {
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        frame.extend_from_slice(&backlog.bytes);
        let committed = active.depart(frame, seed, number).fly().synced;
        active.land(committed.is_ok());
        committed
            .map(drop)
            .map_err(|error| self.directory().failed(&segment::file_name(active.number), error))
    }

    /// Gives back the space behind the valid ends.
    fn truncate(&self, found: &[Found]) {
        for found in found.iter().filter(|found| found.size > found.end) {
            if let Err(error) = found.file.set_len(found.end) {
                tracing::warn!(file = %self.storage.path(&found.name).display(), %error, "a segment keeps its unused space");
            }
        }
    }
}

/// Passes over the sequence numbers that pushes may have had which are gone: those of a last commit that is cut, and
/// those that were settled. A number is a webhook's id, and one that was sent must not mean another image. How many
/// they are.
fn pass_over(scanned: &mut Scanned, tail: &Tail, uncommitted: &Uncommitted) -> u64 {
    let next = scanned.replay.next_sequence.get();
    let settled = uncommitted.highest_gone.saturating_add(1).saturating_sub(next);
    // How long the bad commit was is not known: a part of it may read as zeros. It fitted into the file.
    let cut = match (tail, scanned.found.last()) {
        (Tail::Seen(None), _) | (_, None) => 0,
        (_, Some(newest)) => segment::pushes_max(newest.size.saturating_sub(newest.end)),
    };
    let room = segment::COUNT_MAX.saturating_sub(next) / 2;
    let numbers = cut.max(settled).min(room);
    scanned.replay.pass_over(numbers);
    numbers
}

/// Whether there is nothing behind a segment's header, and never was: then nothing is cut, either.
fn is_blank(newest: &Found) -> io::Result<bool> {
    if newest.end != FIRST_COMMIT_AT {
        return Ok(false);
    }
    let end = Window::new(Arc::clone(&newest.file), CHUNK_BYTES)?.end_of_content(FIRST_COMMIT_AT)?;
    Ok(end == FIRST_COMMIT_AT)
}

/// The segments that are left, and the one that commits go to from now on.
fn accounts(found: &[Found], active: &Active) -> VecDeque<Account> {
    let older = found.iter().map(|found| (found.header.number, found.end));
    older
        .chain([(active.number, active.end)])
        .map(|(number, bytes)| Account { number, bytes })
        .collect()
}

/// The newest segment as one that takes no more commits.
fn sealed(newest: &Found) -> Active {
    Active {
        number: newest.header.number,
        file: Arc::clone(&newest.file),
        end: newest.end,
        capacity: newest.end,
        is_sealed: true,
        in_flight: 0,
    }
}
