//! Where log lines go: to a file, and never in anybody's way.
//!
//! A terminal may be stopped, whoever reads a pipe may be busy or gone, and a disk may be full. A line that can be written
//! at once is; others wait, up to [`WAITING_MAX`], for a thread that may be held up. What has no room, or can't be written,
//! is left out and counted, and told of once lines go through again.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, fstat},
};
use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

use crate::locked::Locked as _;

/// Bytes of lines that may wait, those included that are being written.
const WAITING_MAX: usize = 1 << 20;

/// A pipe that takes anything takes so many bytes at once (`PIPE_BUF`).
const AT_ONCE_MAX: usize = 4096;

/// Lines that this process left out, of all logs.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// How many log lines this process has left out: they could not be written, or too many waited.
#[must_use]
pub fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// A log. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: File,
    /// Whether it can be asked if it takes a line at once. A file on a disk always says so, and hangs when the disk does.
    is_told: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines among them.
    lines: u64,
    /// Bytes that the thread has taken, and is not through with.
    writing: usize,
    /// Of how many lines that were left out has been told.
    told: u64,
    /// Lines go through again after some were left out.
    is_to_tell: bool,
}

impl State {
    /// Whether nothing waits.
    fn is_through(&self) -> bool {
        self.waiting.is_empty() && self.writing == 0
    }

    /// A line went through.
    fn went_through(&mut self) {
        self.is_to_tell = left_out() > self.told;
    }
}

impl Lines {
    /// A log in this file. Its thread lasts as long as the process.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let kind = fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let shared = Arc::new(Shared {
            file,
            is_told: matches!(kind, Ok(FileType::Fifo | FileType::CharacterDevice)),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self(shared))
    }

    /// Waits until all lines are written, but no longer than this.
    pub(super) fn flush(&self, within: Duration) {
        let state = self.0.state();
        let waited = self
            .0
            .changed
            .wait_timeout_while(state, within, |state| !state.is_through());
        drop(waited);
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// One line: each write is a whole one.
#[derive(Debug)]
pub(super) struct Line<'a>(&'a Shared);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }

    /// Writes a line, now or later, or leaves it out.
    fn line(&self, line: &[u8]) {
        let mut state = self.state();
        if state.is_through() && self.takes(line.len()) {
            // Nobody else writes there while this has the state.
            match self.write(line) {
                Ok(()) => state.went_through(),
                Err(_) => leave_out(1),
            }
        } else if state.writing + state.waiting.len() + line.len() <= WAITING_MAX {
            state.waiting.extend_from_slice(line);
            state.lines += 1;
        } else {
            leave_out(1);
        }
        let is_work = state.is_to_tell || !state.waiting.is_empty();
        drop(state);
        if is_work {
            self.changed.notify_all();
        }
    }

    /// Whether so many bytes can be written without any wait.
    fn takes(&self, bytes: usize) -> bool {
        self.is_told && bytes <= AT_ONCE_MAX && self.is_ready(Some(&Timespec::default()))
    }

    /// Whether something can be written, within that time.
    fn is_ready(&self, within: Option<&Timespec>) -> bool {
        let mut asked = [PollFd::new(&self.file, PollFlags::OUT)];
        let answered = poll(&mut asked, within);
        answered.is_ok() && asked.iter().any(|asked| asked.revents().contains(PollFlags::OUT))
    }

    /// Writes all of it. Whoever shares the file may have set it not to block.
    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.file).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.is_ready(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what waits.
    fn run(&self) {
        let mut state = self.state();
        loop {
            if !state.waiting.is_empty() {
                let bytes = std::mem::take(&mut state.waiting);
                let lines = std::mem::take(&mut state.lines);
                state.writing = bytes.len();
                drop(state);
                let written = self.write(&bytes);
                state = self.state();
                state.writing = 0;
                match written {
                    Ok(()) => state.went_through(),
                    Err(_) => leave_out(lines),
                }
                self.changed.notify_all();
            } else if std::mem::take(&mut state.is_to_tell) {
                let lines = left_out() - state.told;
                state.told += lines;
                drop(state);
                warn!(
                    lines,
                    "log lines were left out: they could not be written, or not in time"
                );
                state = self.state();
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Counts lines that are left out.
fn leave_out(lines: u64) {
    LEFT_OUT.fetch_add(lines, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::fd::OwnedFd, time::Instant};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn line(lines: &Lines, line: &str) {
        lines.make_writer().write_all(line.as_bytes()).unwrap();
    }

    /// A log whose reader does not read.
    fn stalled() -> (Lines, File) {
        let (reader, writer) = io::pipe().unwrap();
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        (Lines::new(writer.into()).unwrap(), reader.into())
    }

    #[test]
    fn a_line_that_can_be_written_is_written_at_once() {
        let (lines, mut reader) = stalled();
        for number in 0..3 {
            line(&lines, &format!("line {number}\n"));
            assert!(lines.0.state().is_through(), "nobody else has to write it");
            let mut read = [0; 7];
            reader.read_exact(&mut read).unwrap();
            assert_eq!(read, *format!("line {number}\n").as_bytes());
        }
    }

    #[test]
    fn into_a_file_the_thread_writes_for_its_disk_may_hang() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = Lines::new(file.reopen().unwrap()).unwrap();
        assert!(!lines.0.takes(1), "it is not asked");
        for number in 1..=3 {
            line(&lines, "a line\n");
            lines.flush(SOON);
            let written = std::fs::read_to_string(file.path()).unwrap();
            assert_eq!(written, "a line\n".repeat(number));
        }
    }

    #[test]
    fn a_reader_that_stalls_holds_nobody_up_and_gets_what_there_was_room_for_in_order() {
        let (lines, mut reader) = stalled();
        let mut numbers = 0..;
        let mut lines_of = |bytes: usize| {
            for number in numbers.by_ref().take(bytes / 100) {
                line(&lines, &format!("{number:099}\n"));
            }
            bytes / 100
        };
        // A pipe has room for 64 KiB.
        let mut told = lines_of(WAITING_MAX + (128 << 10));
        assert!(left_out() > 0);
        // What the thread has taken, and can't write, counts as well. How much that is at first is chance.
        let mut read = Vec::new();
        while lines.0.state().writing < WAITING_MAX / 2 {
            let mut some = [0; 4096];
            reader.read_exact(&mut some).unwrap();
            read.extend_from_slice(&some);
        }
        told += lines_of(256 << 10);
        let held = || {
            let state = lines.0.state();
            state.writing + state.waiting.len()
        };
        assert!(held() <= WAITING_MAX, "{}", held());
        let began = Instant::now();
        lines.flush(Duration::from_millis(10));
        assert!(began.elapsed() < SOON);
        let all = (told - usize::try_from(left_out()).unwrap()) * 100;
        let mut rest = vec![0; all - read.len()];
        reader.read_exact(&mut rest).unwrap();
        read.append(&mut rest);
        let text = String::from_utf8(read).unwrap();
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next));
        lines.flush(SOON);
        line(&lines, "at last\n");
        let mut last = [0; 8];
        reader.read_exact(&mut last).unwrap();
        assert_eq!(&last, b"at last\n");
    }

    #[test]
    fn a_full_disk_or_a_reader_that_is_gone_is_no_trouble_and_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (gone, reader) = stalled();
        drop(reader);
        for (number, lines) in (1..).zip([Lines::new(full).unwrap(), gone]) {
            line(&lines, "a line\n");
            lines.flush(SOON);
            assert_eq!(left_out(), number);
        }
    }

    #[test]
    fn what_was_left_out_is_told_once_lines_go_through_again() {
        let (lines, mut reader) = stalled();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(lines.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        leave_out(7);
        line(&lines, "it goes on\n");
        let mut text = String::new();
        while !text.contains("left out") {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            text.push(char::from(byte[0]));
        }
        assert!(text.starts_with("it goes on\n"), "{text}");
        lines.flush(SOON);
        let mut rest = [0; 512];
        let length = reader.read(&mut rest).unwrap();
        let rest = String::from_utf8_lossy(&rest[..length]).into_owned();
        assert!(rest.ends_with("lines=7\n"), "{text}{rest}");
    }
}
