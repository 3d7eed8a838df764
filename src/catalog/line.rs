//! The line between those who tell what happens and the thread that writes it down.
//!
//! Nobody who tells something waits, nor touches a disk. News stand in memory as the frames of an [`overflow`] file; when
//! the writer doesn't take them in time, another thread puts them into such a file, so that a burst that is faster than
//! the history ends in a history that is late, not in one with gaps. What the process leaves behind is read at the next
//! start.
//!
//! # Bounds
//! [`Bounds`]: bytes in memory, and bytes of the files. What fits into neither is left out and counted.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::oneshot;
use tracing::{error, warn};

use super::{
    chunk::Chunk,
    entry::Entry,
    history::Gauges,
    overflow::{self, Waiting},
};
use crate::journal::JournalId;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes in memory from which on they go into a file.
    pub(super) spill_at: usize,
    /// Bytes in memory that nobody has taken.
    pub(super) memory: usize,
    /// Bytes of all files.
    pub(super) files: u64,
}

/// After a file could not be written, none is for so long.
const SPILL_AGAIN: Duration = Duration::from_secs(1);

/// What the line's ends share.
pub(super) struct Line {
    folder: PathBuf,
    journal: JournalId,
    bounds: Bounds,
    pub(super) gauges: Arc<Gauges>,
    state: Mutex<State>,
    /// For the writer: there is something to take, or the end has come.
    news: Condvar,
    /// For who writes files: there is something to put into one, or room for one.
    spill: Condvar,
}

/// How far the end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    NotYet,
    /// Nothing is told any more.
    Closed,
    /// The writer is gone.
    Over,
}

#[derive(Default)]
struct State {
    /// Frames, older than none.
    memory: Vec<u8>,
    /// How many they are.
    entries: u64,
    /// Files that nobody has taken, the oldest first.
    files: VecDeque<Waiting>,
    /// Bytes of these and of the one that is being read.
    file_bytes: u64,
    /// Frames are on their way into a file: they are older than those in memory.
    is_spilling: bool,
    /// The writer waits for something to take.
    is_awaited: bool,
    next: u64,
    end: End,
    /// Hears when the writer is gone.
    close: Option<oneshot::Sender<()>>,
}

/// What there is to take.
#[derive(Debug)]
pub(super) enum Next {
    Chunk(Chunk),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    Closed,
}

impl Line {
    /// A line whose files are in `folder`, where some of an earlier process may be.
    pub(super) fn new(folder: &Path, journal: JournalId, bounds: Bounds, gauges: Arc<Gauges>) -> Self {
        let files: VecDeque<Waiting> = match overflow::list(folder) {
            Ok(files) => files.into(),
            Err(error) => {
                warn!(folder = %folder.display(), %error, "files in which news for the history may wait can't be listed");
                VecDeque::new()
            }
        };
        let file_bytes = files.iter().map(|file| file.bytes).sum();
        let next = files.back().map_or(0, |newest| newest.number.saturating_add(1));
        gauges.overflow.store(file_bytes, Ordering::Relaxed);
        Self {
            folder: folder.to_owned(),
            journal,
            bounds,
            gauges,
            state: Mutex::new(State {
                files,
                file_bytes,
                next,
                ..State::default()
            }),
            news: Condvar::new(),
            spill: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what happened into the line, or leaves it out.
    pub(super) fn tell(&self, entry: &Entry<'_>) {
        let frame = overflow::frame(entry);
        self.gauges.told.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        if state.is_closed() || state.memory.len() + frame.len() > self.bounds.memory {
            let why = if state.is_closed() {
                "the process ends"
            } else {
                "more happened than could be written down"
            };
            drop(state);
            self.gauges.lose(1, why);
            return;
        }
        state.memory.extend_from_slice(&frame);
        state.entries += 1;
        let is_awaited = std::mem::take(&mut state.is_awaited);
        let is_much = state.memory.len() >= self.bounds.spill_at && !state.is_spilling;
        drop(state);
        if is_awaited {
            self.news.notify_one();
        }
        if is_much {
            self.spill.notify_one();
        }
    }

    /// The end: what is told from now on is forgotten. `done` hears when the writer has ended.
    pub(super) fn close(&self, done: Option<oneshot::Sender<()>>) {
        let mut state = self.state();
        if state.end != End::Over {
            state.end = End::Closed;
            state.close = done;
        }
        drop(state);
        self.news.notify_one();
        self.spill.notify_one();
    }

    /// The writer has ended, in whatever way.
    pub(super) fn over(&self) {
        let mut state = self.state();
        state.end = End::Over;
        let done = state.close.take();
        drop(state);
        self.spill.notify_one();
        // Whoever asked may have given up waiting.
        let _ = done.map(|done| done.send(()));
    }

    /// Whether nobody tells anything any more.
    pub(super) fn is_closed(&self) -> bool {
        self.state().is_closed()
    }

    /// Whether nothing waits in files.
    pub(super) fn is_in_memory(&self) -> bool {
        let state = self.state();
        state.file_bytes == 0 && !state.is_spilling
    }

    /// Lets time pass, but for the end.
    pub(super) fn pause(&self, pause: Duration) {
        let state = self.state();
        // Whoever tells something wakes nobody meanwhile: nobody is said to wait for it.
        let wait = self
            .news
            .wait_timeout_while(state, pause, |state| !state.is_closed());
        drop(wait);
    }

    /// The oldest that waits; waits for it up to `wait`. News from memory gather for `gather` first, so that
    /// whoever tells something need not wake anybody each time.
    pub(super) fn next(&self, wait: Duration, gather: Duration) -> Next {
        let mut state = self.state();
        if state.is_empty() && !state.is_closed() {
            state.is_awaited = true;
            let waited = self
                .news
                .wait_timeout_while(state, wait, |state| state.is_empty() && !state.is_closed());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.is_awaited = false;
            if state.is_empty() && !state.is_closed() {
                return Next::Nothing;
            }
            if state.files.is_empty() && !state.is_closed() {
                drop(state);
                self.pause(gather);
                state = self.state();
            }
        }
        loop {
            while let Some(file) = state.files.pop_front() {
                drop(state);
                if let Some(chunk) = self.read(&file) {
                    return Next::Chunk(chunk);
                }
                state = self.state();
            }
            if !state.is_spilling {
                break;
            }
            // What is on its way is older than what is in memory.
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.memory.is_empty() {
            return if state.is_closed() {
                Next::Closed
            } else {
                Next::Nothing
            };
        }
        let (bytes, _) = state.take_memory();
        self.gauges.taken.store(bytes.len() as u64, Ordering::Relaxed);
        Next::Chunk(Chunk {
            journal: self.journal,
            number: state.number(),
            file: None,
            bytes,
            at: 0,
        })
    }

    /// What a file holds. One that can't be read is gone, loudly.
    fn read(&self, file: &Waiting) -> Option<Chunk> {
        let path = overflow::path(&self.folder, file.number);
        match overflow::read(&path, file.bytes) {
            Ok(content) => Some(Chunk {
                journal: content.journal,
                number: file.number,
                file: Some((content.id, file.bytes)),
                bytes: content.bytes,
                at: overflow::FIRST_FRAME,
            }),
            Err(error) => {
                error!(
                    file = %path.display(), %error,
                    "news for the history can't be read and are left out; deliveries are not affected"
                );
                self.gauges.lose(1, "a file in which it waited can't be read");
                self.forget(file.number, file.bytes);
                None
            }
        }
    }

    /// The chunk was read to its end.
    pub(super) fn done(&self, chunk: &Chunk) {
        match chunk.file {
            Some((_, bytes)) => self.forget(chunk.number, bytes),
            None => self.gauges.taken.store(0, Ordering::Relaxed),
        }
    }

    fn forget(&self, number: u64, bytes: u64) {
        let path = overflow::path(&self.folder, number);
        if let Err(error) = fs::remove_file(&path) {
            warn!(file = %path.display(), %error, "news that were written down can't be deleted");
        }
        let mut state = self.state();
        state.file_bytes = state.file_bytes.saturating_sub(bytes);
        self.gauges.overflow.store(state.file_bytes, Ordering::Relaxed);
        drop(state);
        self.spill.notify_one();
    }

    /// Puts news into files whenever too many stand in memory, until the end.
    pub(super) fn spill(&self) {
        let mut state = self.state();
        loop {
            let has_room = |state: &State| state.file_bytes + state.memory.len() as u64 <= self.bounds.files;
            let waited = self.spill.wait_while(state, |state| {
                !state.is_closed() && (state.memory.len() < self.bounds.spill_at || !has_room(state))
            });
            state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.is_closed() {
                return;
            }
            let number = state.number();
            let (frames, entries) = state.take_memory();
            state.is_spilling = true;
            drop(state);
            let written = self.write(number, &frames);
            if let Err(error) = &written {
                self.gauges
                    .lose(entries, &format!("it could not be put aside: {error}"));
            }
            drop(frames);
            state = self.state();
            state.is_spilling = false;
            match written {
                Ok(bytes) => self.add(&mut state, Waiting { number, bytes }),
                Err(_) if !state.is_closed() => {
                    let waited = self
                        .spill
                        .wait_timeout_while(state, SPILL_AGAIN, |state| !state.is_closed());
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(_) => {}
            }
            self.news.notify_one();
        }
    }

    fn write(&self, number: u64, frames: &[u8]) -> io::Result<u64> {
        overflow::write(&overflow::path(&self.folder, number), self.journal, frames)
    }

    fn add(&self, state: &mut State, file: Waiting) {
        state.file_bytes += file.bytes;
        self.gauges.overflow.store(state.file_bytes, Ordering::Relaxed);
        state.files.push_back(file);
    }

    /// Leaves for the next start what was not written down: what is left of `chunk`, and all that was told after it.
    /// Bytes that wait now. What no file can be written for is lost, and counted.
    pub(super) fn leave(&self, chunk: Option<&Chunk>) -> u64 {
        let mut state = self.state();
        while state.is_spilling {
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let rest = chunk.filter(|chunk| chunk.file.is_none());
        let rest = rest.map(|chunk| (chunk.number, chunk.rest().to_vec(), chunk.entries()));
        let (number, (frames, entries)) = (state.number(), state.take_memory());
        for (number, frames, entries) in rest.into_iter().chain([(number, frames, entries)]) {
            if frames.is_empty() {
                continue;
            }
            match self.write(number, &frames) {
                Ok(bytes) => self.add(&mut state, Waiting { number, bytes }),
                Err(error) => self
                    .gauges
                    .lose(entries, &format!("it could not be put aside: {error}")),
            }
        }
        state.file_bytes
    }

    /// Bytes of what stands in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.state().memory.len() as u64
    }
}

impl State {
    fn is_closed(&self) -> bool {
        self.end != End::NotYet
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.memory.is_empty() && !self.is_spilling
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        number
    }

    /// Frames and how many they are.
    fn take_memory(&mut self) -> (Vec<u8>, u64) {
        (
            std::mem::take(&mut self.memory),
            std::mem::take(&mut self.entries),
        )
    }
}
