//! Opening: check everything, cut what was never acknowledged, and begin a fresh segment.
//!
//! The order of the steps, each of which a crash may follow:
//! 1. All headers and all commits are read and checked. Nothing is changed; damage ends it here.
//! 2. Leftover files without a number go: nothing in them was ever used.
//! 3. A bad last commit is saved beside, durably. Until step 5 is done, the next start does the same again.
//! 4. The newest segment's last commit is written once more where it stands, and synced: a process that was
//!    killed, or whose sync failed, may have left it in the system's memory alone, and a sync without a write
//!    would say nothing of it. All before it were durable before it was written.
//! 5. A fresh segment begins, its header naming the valid end of the one before it. From here on what
//!    stands behind that end is known to be cut. A newest segment without any commit is replaced, under
//!    its own number, by rename.
//! 6. Settlements that were told but not committed are committed to it, then their file goes.
//! 7. Older segments are cut to their valid ends, for the space. Not synced: the headers say it all.

use std::{collections::VecDeque, io, path::PathBuf, sync::Arc};

use super::{
    OpenError, Opened, Options, RecoveryReport,
    chain::{Directory, Found},
    frame::{FRAME_HEADER_BYTES, Seed},
    reading::Scanned,
    record::{RawRecord, Record},
    replay::Replay,
    scan::{CHUNK_BYTES, Window},
    segment::{self, Active, FIRST_COMMIT_AT, SegmentHeader},
    segments::{Account, LARGE, Parts, Segments},
    settling::{Backlog, SETTLING, Settling},
    spare::{Filling, SPARE},
    storage::{Storage, is_no_space},
};
use crate::clock::Clock;

/// The bad last commit of the newest segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment's file.
    pub file: PathBuf,
    /// Where the bad commit began.
    pub offset: u64,
    /// How many bytes were cut, up to the last one that is not zero.
    pub bytes: u64,
    /// Where they were saved.
    pub saved: PathBuf,
}

pub(super) struct Recovery<'a> {
    storage: &'a Arc<dyn Storage>,
    options: Options,
    pub(super) clock: Clock,
}

/// Settlements that were told but not committed.
struct Uncommitted {
    backlog: Backlog,
    /// How much of their file they take.
    file_end: u64,
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
        for leftover in [SPARE, LARGE] {
            self.directory().remove(leftover)?;
        }
        let journal = scanned.journal;
        let seed = Seed::of(journal);
        let uncommitted = self.uncommitted(seed)?;
        let cut = match scanned.found.last() {
            Some(newest) => {
                let cut = self.save_cut(newest)?;
                self.renew_last_commit(newest)?;
                cut
            }
            None => None,
        };
        let mut report = RecoveryReport {
            is_new: scanned.found.is_empty(),
            segments: scanned.found.len(),
            commits: scanned.commits,
            settled_late: 0,
            pushes: 0,
            cut,
        };
        let (active, settling) = self.begin(&mut scanned, uncommitted, &mut report)?;
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
    /// When the disk has no space for it, the newest segment is handed on, sealed: what is owed can be
    /// delivered all the same, and space may come.
    fn begin(
        &self,
        scanned: &mut Scanned,
        Uncommitted { backlog, file_end }: Uncommitted,
        report: &mut RecoveryReport,
    ) -> Result<(Active, Settling), OpenError> {
        let seed = Seed::of(scanned.journal);
        let mut active = match (self.fresh(scanned, backlog.bytes.len()), scanned.found.last()) {
            (Ok(active), _) => active,
            (Err(error), Some(newest)) if is_no_space(&error) && report.cut.is_none() => {
                tracing::warn!(%error, "no space for a fresh segment; the journal takes nothing until there is");
                let active = sealed(newest);
                scanned.found.pop();
                let settling = Settling::new(Arc::clone(self.storage), seed, backlog, file_end);
                return Ok((active, settling));
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
        self.directory().remove(SETTLING)?;
        self.truncate(&scanned.found);
        Ok((
            active,
            Settling::new(Arc::clone(self.storage), seed, Backlog::default(), 0),
        ))
    }

    /// Saves what stands behind the newest segment's valid end, if that is anything but zeros.
    fn save_cut(&self, newest: &Found) -> Result<Option<Cut>, OpenError> {
        let failed = |error| self.directory().failed(&newest.name, error);
        let mut window = Window::new(Arc::clone(&newest.file), CHUNK_BYTES).map_err(failed)?;
        let end = window.end_of_content(newest.end).map_err(failed)?;
        if end == newest.end {
            return Ok(None);
        }
        let name = format!("cut-{:016}-{}", newest.header.number, newest.end);
        self.storage
            .create(&name)
            .and_then(|target| {
                window.copy_to(&*target, newest.end, end)?;
                target.sync_data()?;
                self.storage.sync_dir()
            })
            .map_err(|error| self.directory().failed(&name, error))?;
        let cut = Cut {
            file: self.storage.path(&newest.name),
            offset: newest.end,
            bytes: end - newest.end,
            saved: self.storage.path(&name),
        };
        tracing::warn!(
            file = %cut.file.display(),
            offset = cut.offset,
            bytes = cut.bytes,
            saved = %cut.saved.display(),
            "the journal's last commit was not whole and is cut; it was never acknowledged, unless the disk damaged it since",
        );
        Ok(Some(cut))
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

    /// The settlements that were told but not committed.
    fn uncommitted(&self, seed: Seed) -> Result<Uncommitted, OpenError> {
        let failed = |error| self.directory().failed(SETTLING, error);
        let mut bytes = Vec::new();
        match self.storage.open(SETTLING) {
            Ok(file) => {
                let size = file.size().map_err(failed)?;
                bytes.resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
                let read = file.read_at(&mut bytes, 0).map_err(failed)?;
                bytes.truncate(read);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let (mut backlog, mut rest) = (Backlog::default(), bytes.as_slice());
        while let Ok((record, behind)) = RawRecord::split(rest) {
            if !record.is_intact(seed) {
                break;
            }
            rest = behind;
            // Settled already, some of them: to settle it twice changes nothing.
            if let Ok(Record::Settled(pair, how)) = record.decode() {
                backlog.push(seed, pair, how);
            }
        }
        let file_end = (bytes.len() - rest.len()) as u64;
        Ok(Uncommitted { backlog, file_end })
    }

    /// Makes the segment behind the newest one, or in its place if it is empty.
    fn fresh(&self, scanned: &Scanned, backlog_bytes: usize) -> io::Result<Active> {
        let mut header = SegmentHeader {
            number: 1,
            journal: scanned.journal,
            created_at: self.clock.now(),
            first_sequence: scanned.replay.next_sequence,
            first_commit: scanned.next_commit,
            predecessor: 0,
            predecessor_end: 0,
        };
        if let Some(newest) = scanned.found.last() {
            if is_blank(newest)? {
                header.number = newest.header.number;
                header.predecessor = newest.header.predecessor;
                header.predecessor_end = newest.header.predecessor_end;
            } else {
                header.number = newest.header.number + 1;
                header.predecessor = newest.header.number;
                header.predecessor_end = newest.end;
            }
        }
        let needed = FIRST_COMMIT_AT + (FRAME_HEADER_BYTES + backlog_bytes) as u64;
        let capacity = u64::from(self.options.segment_size).max(needed);
        let file = segment::create_zeroed(&**self.storage, SPARE, capacity)?;
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
        active
            .commit(&mut frame, seed, number)
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
    }
}
