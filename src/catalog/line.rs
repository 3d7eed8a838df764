//! The line between those who tell what happens and the thread that writes it down.
//!
//! Nobody who tells something waits, nor touches a disk. News stand in memory as the frames of an [`overflow`] file; when
//! the writer doesn't take them in time, another thread puts them into such a file ([`aside`](super::aside)), so that a
//! burst that is faster than the history ends in a history that is late, not in one with gaps. What the process leaves
//! behind is read at the next start.
//!
//! # Bounds
//! [`Bounds`]: bytes in memory, and bytes of the files. What fits into neither is left out and counted.
//!
//! # Files that fail
//! One that can't be read now is tried again, with all behind it waiting: the cause may pass, such as too many open files.
//! One that was read and can't be deleted is waited for as well: with the next one being read, nobody would know that it
//! was. What is no such file, or was deleted, is left out and counted. One of another version stays for that version.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{error, warn};

use super::{
    chunk::Chunk,
    entry::Entry,
    history::Gauges,
    overflow::{self, Waiting},
};
use crate::{journal::JournalId, locked::Locked as _};

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes in memory from which on they go into a file.
    pub(super) spill_at: usize,
    /// Bytes in memory that nobody has taken, and of those on their way into a file.
    pub(super) memory: usize,
    /// Bytes of all files.
    pub(super) files: u64,
}

/// What the line's ends share.
pub(super) struct Line {
    folder: PathBuf,
    journal: JournalId,
    pub(super) bounds: Bounds,
    pub(super) gauges: Arc<Gauges>,
    state: Mutex<State>,
    /// For the writer: there is something to take, or the end has come.
    pub(super) news: Condvar,
    /// For who writes files: there is something to put into one, or room for one.
    pub(super) spill: Condvar,
}

/// How far the end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    NotYet,
    /// Nothing is told any more.
    Closed,
    /// The writer is gone.
    Over,
}

#[derive(Default)]
pub(super) struct State {
    /// Frames, older than none.
    pub(super) memory: Vec<u8>,
    /// How many they are.
    entries: u64,
    /// When the oldest of them was told.
    pub(super) since: Option<Instant>,
    /// Bytes of frames that are on their way into a file: they are older than those in memory.
    pub(super) spilling: usize,
    /// Files that nobody has taken, the oldest first.
    pub(super) files: VecDeque<Waiting>,
    /// One more is being read.
    is_reading: bool,
    /// Bytes of these, and of those that stay.
    pub(super) file_bytes: u64,
    /// The writer waits for something to take.
    is_awaited: bool,
    next: u64,
    pub(super) end: End,
    /// Hears when the writer is gone.
    close: Option<oneshot::Sender<()>>,
}

/// What there is to take.
#[derive(Debug)]
pub(super) enum Next {
    Chunk(Chunk),
    /// Nothing yet.
    Nothing,
    /// The oldest file can't be read now.
    Unreadable(io::Error),
    /// Nothing any more.
    Closed,
}

impl Line {
    /// A line whose files are in `folder`, where some of an earlier process may be.
    pub(super) fn new(folder: &Path, journal: JournalId, bounds: Bounds, gauges: Arc<Gauges>) -> Self {
        let files: VecDeque<Waiting> = overflow::list(folder).into();
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

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }

    /// Puts what happened into the line, or leaves it out.
    pub(super) fn tell(&self, entry: &Entry<'_>) {
        let frame = overflow::frame(entry);
        if matches!(entry, Entry::Taken(_) | Entry::Dropped(_)) {
            self.gauges.pushes.fetch_add(1, Ordering::Relaxed);
        }
        let mut state = self.state();
        if state.is_closed() || state.memory_bytes() + frame.len() > self.bounds.memory {
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
        state.since.get_or_insert_with(Instant::now);
        let is_awaited = std::mem::take(&mut state.is_awaited);
        let is_much = state.memory.len() >= self.bounds.spill_at && state.spilling == 0;
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
        state.files.is_empty() && !state.is_reading && state.spilling == 0
    }

    /// Whether nothing waits at all.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.is_empty() && !state.is_reading
    }

    /// Whether the files are so full that it is time to empty them.
    pub(super) fn is_filling(&self) -> bool {
        self.state().file_bytes > self.bounds.files / 2
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

    /// The oldest that waits; waits for it up to `wait`. Then news in memory gather for `gather` first, so that
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
            while let Some(file) = state.files.front().cloned() {
                drop(state);
                let read = match self.read(&file) {
                    Ok(read) => read,
                    Err(error) => return Next::Unreadable(error),
                };
                state = self.state();
                state.files.pop_front();
                if let Some(chunk) = read {
                    state.is_reading = true;
                    return Next::Chunk(chunk);
                }
            }
            if state.spilling == 0 {
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

    /// What a file holds; `None` if it is nothing that can be read, which is told.
    ///
    /// # Errors
    /// It can't be read now, or not be deleted.
    fn read(&self, file: &Waiting) -> io::Result<Option<Chunk>> {
        let path = overflow::path(&self.folder, file.number);
        let error = match overflow::read(&path, file.bytes) {
            Ok(content) => {
                return Ok(Some(Chunk {
                    journal: content.journal,
                    number: file.number,
                    file: Some((content.id, file.bytes)),
                    bytes: content.bytes,
                    at: overflow::FIRST_FRAME,
                }));
            }
            Err(error) => error,
        };
        let (file, bytes) = (path.display(), file.bytes);
        match error.kind() {
            io::ErrorKind::Unsupported => {
                warn!(%file, bytes, %error, "news for the history stay where they are, for the version that wrote them");
            }
            io::ErrorKind::InvalidData | io::ErrorKind::NotFound => {
                error!(
                    %file, bytes, %error,
                    "news for the history can't be read and are left out; deliveries are not affected"
                );
                self.forget(&path, bytes)?;
                self.gauges.lose(1, "a file in which it waited can't be read");
            }
            _ => return Err(error),
        }
        Ok(None)
    }

    /// Has the oldest file wait for the next start, for it can't be read.
    pub(super) fn pass_over(&self) {
        if let Some(file) = self.state().files.pop_front() {
            let path = overflow::path(&self.folder, file.number);
            error!(
                file = %path.display(), bytes = file.bytes,
                "news for the history could not be read again and again: the next start tries it once more"
            );
            self.gauges.lose(1, "a file in which it waits can't be read");
        }
    }

    /// The chunk was read to its end.
    ///
    /// # Errors
    /// The file that it comes from can't be deleted.
    pub(super) fn done(&self, chunk: &Chunk) -> io::Result<()> {
        let Some((_, bytes)) = chunk.file else {
            self.gauges.taken.store(0, Ordering::Relaxed);
            return Ok(());
        };
        self.forget(&overflow::path(&self.folder, chunk.number), bytes)?;
        self.state().is_reading = false;
        Ok(())
    }

    fn forget(&self, path: &Path, bytes: u64) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut state = self.state();
        state.file_bytes = state.file_bytes.saturating_sub(bytes);
        self.gauges.overflow.store(state.file_bytes, Ordering::Relaxed);
        drop(state);
        self.spill.notify_one();
        Ok(())
    }

    pub(super) fn write(&self, number: u64, frames: &[u8]) -> io::Result<u64> {
        overflow::write(&overflow::path(&self.folder, number), self.journal, frames)
    }

    pub(super) fn add(&self, state: &mut State, file: Waiting) {
        self.grow(state, file.bytes);
        state.files.push_back(file);
    }

    fn grow(&self, state: &mut State, bytes: u64) {
        state.file_bytes += bytes;
        self.gauges.overflow.store(state.file_bytes, Ordering::Relaxed);
    }

    /// Puts what is left of a chunk from memory aside, in front of all that waits: it may be long until it can be written
    /// down. Returns the chunk if that can't be done, or it comes from a file.
    pub(super) fn give_back(&self, chunk: Chunk) -> Option<Chunk> {
        let needed = overflow::file_bytes(chunk.rest().len());
        if chunk.file.is_some() || self.state().file_bytes + needed > self.bounds.files {
            return Some(chunk);
        }
        let number = chunk.number;
        match self.write(number, chunk.rest()) {
            Ok(bytes) => {
                let mut state = self.state();
                self.grow(&mut state, bytes);
                state.files.push_front(Waiting { number, bytes });
                self.gauges.taken.store(0, Ordering::Relaxed);
                None
            }
            Err(error) => {
                self.gauges.stays_in_memory(&error);
                Some(chunk)
            }
        }
    }

    /// Leaves for the next start what was not written down: what is left of `chunk`, and all that was told after it.
    /// Bytes that wait now. What no file can be written for, or has room, is lost, and counted.
    pub(super) fn leave(&self, chunk: Option<&Chunk>) -> u64 {
        let mut state = self.state();
        while state.spilling > 0 {
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let (number, (frames, entries)) = (state.number(), state.take_memory());
        let mut room = self.bounds.files.saturating_sub(state.file_bytes);
        drop(state);
        let rest = chunk.filter(|chunk| chunk.file.is_none());
        let rest = rest.map(|chunk| (chunk.number, chunk.rest().to_vec(), chunk.entries()));
        for (number, frames, entries) in rest.into_iter().chain([(number, frames, entries)]) {
            if frames.is_empty() {
                continue;
            }
            let needed = overflow::file_bytes(frames.len());
            let written = if needed <= room {
                self.write(number, &frames)
            } else {
                Err(io::Error::other("too much waits already"))
            };
            match written {
                Ok(bytes) => {
                    room = room.saturating_sub(bytes);
                    self.add(&mut self.state(), Waiting { number, bytes });
                }
                Err(error) => self
                    .gauges
                    .lose(entries, &format!("it could not be put aside: {error}")),
            }
        }
        self.state().file_bytes
    }

    /// Bytes of what stands in memory, or is on its way into a file.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.state().memory_bytes() as u64
    }
}

impl State {
    pub(super) fn is_closed(&self) -> bool {
        self.end != End::NotYet
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.memory_bytes() == 0
    }

    fn memory_bytes(&self) -> usize {
        self.memory.len() + self.spilling
    }

    pub(super) fn number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        number
    }

    /// Frames and how many they are.
    pub(super) fn take_memory(&mut self) -> (Vec<u8>, u64) {
        self.since = None;
        (
            std::mem::take(&mut self.memory),
            std::mem::take(&mut self.entries),
        )
    }

    /// Takes frames back that are older than those in memory, the oldest of which was told then.
    pub(super) fn take_back(&mut self, mut frames: Vec<u8>, entries: u64, since: Option<Instant>) {
        frames.append(&mut self.memory);
        self.memory = frames;
        self.entries += entries;
        self.since = since.or(self.since);
    }
}
