//! The next segment's file, made off the writer's thread.
//!
//! Its space is set aside at once; zeros are written into it a little at a time, so that no commit finds the
//! disk busy with sixteen megabytes of them. A writer that is in a hurry takes the file as it is: what is not
//! filled by then costs its commits some metadata, and pushes that come this fast come many to a commit.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    segment,
    storage::{Storage, StorageFile, is_full},
};

/// The file's name until it gets its header and its number.
pub(super) const SPARE: &str = "spare";

/// A segment that is full sooner than this gets no zeros into the next one: they would be half the writing.
const FILL_AFTER: Duration = Duration::from_millis(100);

/// So much is written at a time,
const STEP_BYTES: u64 = 256 * 1024;

/// so often,
const STEP_EVERY: Duration = Duration::from_millis(4);

/// and synced once there is this much of it.
const SYNC_BYTES: u64 = 1024 * 1024;

/// Who makes the spare file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    /// A thread of its own, ahead of need.
    Ahead,
    /// Whoever needs it, at that moment: a test that counts calls wants them in one order.
    #[cfg(any(test, feature = "fuzzing"))]
    OnDemand,
}

/// At most one spare file.
#[derive(Debug)]
pub(super) struct Spare {
    storage: Arc<dyn Storage>,
    bytes: u64,
    filling: Filling,
    state: State,
}

#[derive(Debug)]
enum State {
    Absent,
    BeingMade(Maker),
    /// It could not be made ahead, for another reason than that the disk is full. Whoever needs it tries again.
    Failed,
    Ready(Arc<dyn StorageFile>),
}

/// The thread that makes the file.
#[derive(Debug)]
struct Maker {
    thread: JoinHandle<io::Result<Arc<dyn StorageFile>>>,
    is_wanted: Arc<AtomicBool>,
}

impl Maker {
    /// The file as far as it got.
    fn finish(self) -> io::Result<Arc<dyn StorageFile>> {
        self.is_wanted.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let made = self.thread.join();
        made.unwrap_or_else(|_| Err(io::Error::other("the thread that makes it panicked")))
    }
}

impl Spare {
    pub(super) fn new(storage: Arc<dyn Storage>, bytes: u64, filling: Filling) -> Self {
        Self {
            storage,
            bytes,
            filling,
            state: State::Absent,
        }
    }

    /// Begins to make the file. That it fails shows when it is needed.
    pub(super) fn prepare(&mut self) {
        if self.filling != Filling::Ahead || !matches!(self.state, State::Absent) {
            return;
        }
        let (storage, bytes) = (Arc::clone(&self.storage), self.bytes);
        let is_wanted = Arc::new(AtomicBool::new(false));
        let wanted = Arc::clone(&is_wanted);
        let thread = thread::Builder::new()
            .name("journal-spare".to_owned())
            .spawn(move || {
                let file = segment::create(&*storage, SPARE, bytes)?;
                fill(&*file, bytes, &wanted)?;
                Ok(file)
            });
        if let Ok(thread) = thread {
            self.state = State::BeingMade(Maker { thread, is_wanted });
        }
    }

    /// What the disk that is full said when the file was to be made ahead, if that is known by now. It is told once.
    pub(super) fn failure(&mut self) -> Option<io::Error> {
        let State::BeingMade(maker) = &self.state else {
            return None;
        };
        if !maker.thread.is_finished() {
            return None;
        }
        let State::BeingMade(maker) = std::mem::replace(&mut self.state, State::Absent) else {
            return None;
        };
        match maker.finish() {
            Ok(file) => {
                self.state = State::Ready(file);
                None
            }
            Err(error) if is_full(&error) => Some(error),
            Err(_) => {
                self.state = State::Failed;
                None
            }
        }
    }

    /// Sees to it that there is a file; waits for it, and makes it here if that failed elsewhere.
    pub(super) fn ensure(&mut self) -> io::Result<()> {
        let file = self.take()?;
        self.state = State::Ready(file);
        Ok(())
    }

    /// Hands the file out.
    pub(super) fn take(&mut self) -> io::Result<Arc<dyn StorageFile>> {
        let made = match std::mem::replace(&mut self.state, State::Absent) {
            State::Ready(file) => Some(file),
            State::BeingMade(maker) => maker.finish().ok(),
            State::Absent | State::Failed => None,
        };
        match made {
            Some(file) => Ok(file),
            None => segment::create(&*self.storage, SPARE, self.bytes),
        }
    }

    /// Bytes that the file takes, or will.
    pub(super) fn bytes_used(&self) -> u64 {
        if matches!(self.state, State::Absent | State::Failed) {
            0
        } else {
            self.bytes
        }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        // Nobody writes into the directory once its lock is given up.
        if let State::BeingMade(maker) = std::mem::replace(&mut self.state, State::Absent) {
            let _ = maker.finish();
        }
    }
}

/// Fills the file at its pace, until it is wanted.
fn fill(file: &dyn StorageFile, bytes: u64, is_wanted: &AtomicBool) -> io::Result<()> {
    let is_wanted_within = |pause: Duration| {
        let until = Instant::now() + pause;
        while !is_wanted.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::park_timeout(left);
        }
        true
    };
    let (mut filled, mut synced) = (0, 0);
    let mut pause = FILL_AFTER;
    while filled < bytes && !is_wanted_within(pause) {
        let to = bytes.min(filled + STEP_BYTES);
        segment::fill(file, filled, to)?;
        filled = to;
        if filled - synced >= SYNC_BYTES {
            file.sync_data()?;
            synced = filled;
        }
        pause = STEP_EVERY;
    }
    // The rest is synced with the header.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::faulty::{Call, Faulty};

    const BYTES: u64 = 3 * SYNC_BYTES;

    fn spare(storage: &Arc<Faulty>) -> Spare {
        Spare::new(Arc::clone(storage) as Arc<dyn Storage>, BYTES, Filling::Ahead)
    }

    #[test]
    fn who_is_in_a_hurry_gets_the_file_as_it_is() {
        let storage = Faulty::new();
        let mut spare = spare(&storage);
        let began = Instant::now();
        spare.prepare();
        let file = spare.take().unwrap();
        assert_eq!(file.size().unwrap(), BYTES);
        // On a machine so slow that the filling began, there is nothing to see.
        if began.elapsed() < FILL_AFTER {
            assert_eq!(storage.syncs(), 1, "nothing but its length was written");
        }
    }

    #[test]
    fn who_leaves_it_time_finds_it_filled() {
        let storage = Faulty::new();
        let mut spare = spare(&storage);
        spare.prepare();
        let deadline = Instant::now() + Duration::from_secs(30);
        // One sync for its length, one for each MiB.
        while storage.syncs() < 4 {
            assert!(Instant::now() < deadline, "it is not filled");
            thread::sleep(STEP_EVERY);
        }
        let calls = storage.calls();
        assert_eq!(spare.take().unwrap().size().unwrap(), BYTES);
        assert_eq!(storage.calls(), calls);
    }

    #[test]
    fn a_file_system_that_sets_nothing_aside_gets_zeros_at_once() {
        let storage = Faulty::new();
        storage.fail(Call::Allocate, io::ErrorKind::Unsupported, 0, 1);
        let mut spare = spare(&storage);
        assert_eq!(spare.take().unwrap().size().unwrap(), BYTES);
        storage.fail(Call::Allocate, io::ErrorKind::StorageFull, 0, 2);
        assert_eq!(spare.take().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(storage.list().unwrap(), [""; 0], "half a file is not left behind");
    }
}
