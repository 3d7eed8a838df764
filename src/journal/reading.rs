//! The first step of a start: all headers and all commits are read and checked, and nothing is changed.
//!
//! Of a journal that isn't small, three threads share the work: one reads and checks the frames and takes out what the
//! records say, one keeps that, and one remembers event ids. Of what the first two find to be wrong, the first thing in
//! the order of the records is told.

use std::{
    sync::{Arc, mpsc::sync_channel},
    thread,
};

use super::{
    JournalId, OpenError,
    ahead::{self, Read, Source, Unwanted},
    chain::Found,
    frame::Seed,
    recent::{Gathering, Recent},
    recovery::Recovery,
    replay::Replay,
    scan::Window,
    segment::{self, FIRST_COMMIT_AT, SegmentHeader},
};
use crate::push::Sequence;

/// A journal of no more bytes than this is read by one thread: others would take longer to begin.
const ALONE_BYTES_MAX: u64 = 1024 * 1024;

/// How much is read at a time. A commit that is larger is read to its end and no further: what is held of the one behind
/// it would have to be moved.
const READ_BYTES: usize = 256 * 1024;

/// Parcels of event ids that wait to be remembered.
const PARCELS: usize = 16;

/// What the reading found.
pub(super) struct Scanned {
    pub(super) found: Vec<Found>,
    pub(super) journal: JournalId,
    pub(super) replay: Replay,
    pub(super) recent: Recent,
    /// Valid commits in the segments that are left.
    pub(super) commits: u64,
    pub(super) next_commit: u64,
}

/// Why reading ends early.
enum Stop {
    /// What was read before is not as it should be.
    Unwanted,
    Failed(OpenError),
}

impl From<Unwanted> for Stop {
    fn from(_: Unwanted) -> Self {
        Self::Unwanted
    }
}

impl From<OpenError> for Stop {
    fn from(error: OpenError) -> Self {
        Self::Failed(error)
    }
}

impl Recovery<'_> {
    /// Reads and checks everything.
    pub(super) fn scan(&self) -> Result<Scanned, OpenError> {
        let mut found = self.directory().headers()?;
        let oldest = found.first().map(|found| found.header);
        let newest = found.last().map(|found| found.header);
        let first_commit = oldest.map_or(1, |header| header.first_commit);
        let journal = oldest.map_or_else(|| JournalId(rand::random()), |header| header.journal);
        let first_sequence = oldest.map_or(Sequence::FIRST, |header| header.first_sequence);
        let pushes = newest.map_or(0, |header| {
            header.first_sequence.get().saturating_sub(first_sequence.get())
        });
        let bytes: u64 = found.iter().map(|found| found.end).sum();
        let mut replay = Replay::new(first_sequence);
        let gathering = Gathering::new(usize::try_from(pushes).unwrap_or(usize::MAX));
        let read =
            |source: &mut Source<'_>| self.read_all(&mut found, Seed::of(journal), first_commit, source);
        let (next_commit, recent) = if bytes > ALONE_BYTES_MAX {
            self.scan_ahead(read, &mut replay, gathering)?
        } else {
            self.scan_here(read, &mut replay, gathering)?
        };
        Ok(Scanned {
            found,
            journal,
            replay,
            recent,
            commits: next_commit - first_commit,
            next_commit,
        })
    }

    fn scan_here<R>(
        &self,
        read: impl FnOnce(&mut Source<'_>) -> Result<R, OpenError>,
        replay: &mut Replay,
        mut gathering: Gathering,
    ) -> Result<(R, Recent), OpenError> {
        let (read, done) = ahead::read_here(read, |read| {
            self.take_in(read, replay)?;
            gathering.add(std::mem::take(&mut replay.found));
            Ok(())
        });
        done?;
        Ok((read?, gathering.finish(self.clock.now())))
    }

    fn scan_ahead<R: Send>(
        &self,
        read: impl FnOnce(&mut Source<'_>) -> Result<R, OpenError> + Send,
        replay: &mut Replay,
        mut gathering: Gathering,
    ) -> Result<(R, Recent), OpenError> {
        let system = |error| self.directory().failed("", error);
        let (ids, parcels) = sync_channel(PARCELS);
        let remember = || {
            for found in parcels {
                gathering.add(found);
            }
            gathering.finish(self.clock.now())
        };
        // The ids end with it.
        let take_in = move |read: &mut Read| {
            self.take_in(read, replay)?;
            // Nobody takes them only once that thread has panicked, which comes out when it is joined.
            let _ = ids.send(std::mem::take(&mut replay.found));
            Ok(())
        };
        thread::scope(|scope| {
            let remembering = thread::Builder::new().name("journal-ids".to_owned());
            let remembering = remembering.spawn_scoped(scope, remember).map_err(system)?;
            let (read, done) = ahead::read_ahead(read, take_in).map_err(system)?;
            done?;
            let read = read?;
            match remembering.join() {
                Ok(recent) => Ok((read, recent)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Takes in what was read.
    fn take_in(&self, read: &mut Read, replay: &mut Replay) -> Result<(), OpenError> {
        match read {
            Read::Segment(header) if replay.goes_on_in(header) => {
                replay.begin(header.number);
                Ok(())
            }
            Read::Segment(header) => Err(self.is_no_successor(header)),
            Read::Records(extract) => replay.take(extract).map_err(|error| {
                let name = segment::file_name(replay.segment);
                self.directory().bad_record(&name, error)
            }),
        }
    }

    /// Reads all segments; tells the number of the commit that comes next.
    fn read_all(
        &self,
        found: &mut [Found],
        seed: Seed,
        mut next_commit: u64,
        source: &mut Source<'_>,
    ) -> Result<u64, OpenError> {
        let mut window = None;
        let mut segments = found.iter_mut().peekable();
        while let Some(found) = segments.next() {
            let is_newest = segments.peek().is_none();
            match self.read((found, is_newest), &mut window, seed, &mut next_commit, source) {
                Ok(()) => {}
                Err(Stop::Unwanted) => break,
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        Ok(next_commit)
    }

    /// Reads and checks one segment; finds the newest one's end.
    fn read(
        &self,
        (found, is_newest): (&mut Found, bool),
        window: &mut Option<Window>,
        seed: Seed,
        next_commit: &mut u64,
        source: &mut Source<'_>,
    ) -> Result<(), Stop> {
        if found.header.first_commit != *next_commit {
            return Err(self.is_no_successor(&found.header).into());
        }
        source.begin(found.header)?;
        let failed = |error| self.directory().failed(&found.name, error);
        let file = Arc::clone(&found.file);
        let window = match window {
            Some(window) => {
                window.turn_to(file).map_err(failed)?;
                window
            }
            None => window.insert(Window::new(file, READ_BYTES).map_err(failed)?),
        };
        let end = self.read_commits(found, window, seed, next_commit, source)?;
        if end == found.end {
            return Ok(());
        }
        let damaged = |reason: &str| Err(self.directory().damaged(&found.name, end, reason).into());
        if !is_newest {
            return damaged("this commit is not intact");
        }
        let number = found.header.number;
        let failed = |error| self.directory().failed(&found.name, error);
        let content_end = window.end_of_content(end).map_err(failed)?;
        if content_end > end {
            // Only the last commit can be torn: each one is durable before the next is written.
            if let Some(later) = window.find_commit(end, number, seed).map_err(failed)? {
                return damaged(&format!(
                    "this commit is not intact, and there is a valid one after it, at {later}"
                ));
            }
            let is_more = window.is_more_than_one(end, content_end, number, seed);
            if is_more.map_err(failed)? {
                return damaged("this commit is not intact, and it is not the last one");
            }
        }
        found.end = end;
        Ok(())
    }

    /// Hands on a segment's commits, up to one that is not intact; tells where they end.
    fn read_commits(
        &self,
        found: &mut Found,
        window: &mut Window,
        seed: Seed,
        next_commit: &mut u64,
        source: &mut Source<'_>,
    ) -> Result<u64, Stop> {
        let mut offset = FIRST_COMMIT_AT;
        while offset < found.end {
            let commit = window
                .commit_at(offset, found.end, found.header.number, seed)
                .map_err(|error| self.directory().failed(&found.name, error))?;
            let Some(commit) = commit else { break };
            if commit.number != *next_commit {
                let reason = "commits are missing before this one";
                return Err(self.directory().damaged(&found.name, offset, reason).into());
            }
            source.commit(&commit)?;
            *next_commit += 1;
            found.last_commit_at = offset;
            offset = commit.end();
        }
        Ok(offset)
    }

    fn is_no_successor(&self, header: &SegmentHeader) -> OpenError {
        let reason = "it does not begin where the one before it ends";
        self.directory()
            .damaged(&segment::file_name(header.number), 48, reason)
    }
}
