//! The next segment's file, zero-filled and synced off the writer's thread.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::{
    segment,
    storage::{Storage, StorageFile},
};

/// The file's name until it gets its header and its number.
pub(super) const SPARE: &str = "spare";

/// Who fills the spare file.
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
    BeingMade(JoinHandle<io::Result<Arc<dyn StorageFile>>>),
    Ready(Arc<dyn StorageFile>),
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
        let thread = thread::Builder::new()
            .name("journal-spare".to_owned())
            .spawn(move || segment::create_zeroed(&*storage, SPARE, bytes));
        if let Ok(thread) = thread {
            self.state = State::BeingMade(thread);
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
            State::BeingMade(thread) => thread.join().ok().and_then(Result::ok),
            State::Absent => None,
        };
        match made {
            Some(file) => Ok(file),
            None => segment::create_zeroed(&*self.storage, SPARE, self.bytes),
        }
    }

    /// Bytes that the file takes, or will.
    pub(super) fn bytes_used(&self) -> u64 {
        if matches!(self.state, State::Absent) {
            0
        } else {
            self.bytes
        }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        // Nobody writes into the directory once its lock is given up.
        if let State::BeingMade(thread) = std::mem::replace(&mut self.state, State::Absent) {
            let _ = thread.join();
        }
    }
}
