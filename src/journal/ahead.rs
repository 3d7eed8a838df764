//! Reading ahead: a start reads and checks commits on one thread, and takes in on another what they say.

use std::{
    io,
    sync::mpsc::{channel, sync_channel},
    thread,
};

use super::{
    frame::{FRAME_HEADER_BYTES, FrameHeader},
    scan::{Commit, Taken, Window},
    segment::SegmentHeader,
};

/// Stretches that are read ahead, of a read's length or a commit's, beside the two that are worked on.
const AHEAD: usize = 2;

/// What was read, in order.
#[derive(Debug)]
pub(super) enum Read {
    /// A segment begins.
    Segment(SegmentHeader),
    /// Commits of it.
    Stretch(Stretch),
}

/// Valid commits, one behind the other.
#[derive(Debug)]
pub(super) struct Stretch {
    /// The offset of the first.
    offset: u64,
    taken: Taken,
}

impl Stretch {
    pub(super) fn commits(&self) -> impl Iterator<Item = Commit<'_>> {
        let mut rest = self.taken.bytes.get(self.taken.range.clone()).unwrap_or_default();
        let mut offset = self.offset;
        std::iter::from_fn(move || {
            let (header, behind) = rest.split_first_chunk::<FRAME_HEADER_BYTES>()?;
            let header = FrameHeader::parse(header)?;
            let payload_bytes = usize::try_from(header.payload_bytes).ok()?;
            let (payload, behind) = behind.split_at_checked(payload_bytes)?;
            let commit = Commit {
                number: header.commit,
                payload_at: offset + FRAME_HEADER_BYTES as u64,
                payload,
            };
            (rest, offset) = (behind, commit.end());
            Some(commit)
        })
    }
}

/// Nobody wants to know any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwanted;

/// What is done with something that was read: it may give back a buffer to be used again.
type Hand<'a> = dyn FnMut(Read) -> Result<Option<Vec<u8>>, Unwanted> + 'a;

/// The end at which is read.
pub(super) struct Source<'a> {
    hand: &'a mut Hand<'a>,
    spare: Option<Vec<u8>>,
}

impl<'a> Source<'a> {
    fn new(hand: &'a mut Hand<'a>) -> Self {
        Self { hand, spare: None }
    }

    pub(super) fn begin(&mut self, header: SegmentHeader) -> Result<(), Unwanted> {
        self.hand_on(Read::Segment(header))
    }

    /// Hands on the commits from one offset up to another, which the window holds.
    pub(super) fn stretch(&mut self, window: &mut Window, from: u64, to: u64) -> Result<(), Unwanted> {
        if from == to {
            return Ok(());
        }
        let taken = window.take(from, to, self.spare.take().unwrap_or_default());
        self.hand_on(Read::Stretch(Stretch { offset: from, taken }))
    }

    fn hand_on(&mut self, read: Read) -> Result<(), Unwanted> {
        let spare = (self.hand)(read)?;
        self.spare = spare.or_else(|| self.spare.take());
        Ok(())
    }
}

impl Read {
    fn into_buffer(self) -> Option<Vec<u8>> {
        match self {
            Self::Segment(_) => None,
            Self::Stretch(stretch) => Some(stretch.taken.bytes),
        }
    }
}

/// Has `read` run, and `take_in` in between for all that it hands on, up to the first error.
pub(super) fn read_here<R, E>(
    read: impl FnOnce(&mut Source<'_>) -> R,
    mut take_in: impl FnMut(&Read) -> Result<(), E>,
) -> (R, Result<(), E>) {
    let mut done = Ok(());
    let result = read(&mut Source::new(&mut |read| {
        done = take_in(&read);
        done.as_ref().map_err(|_| Unwanted)?;
        Ok(read.into_buffer())
    }));
    (result, done)
}

/// The same, but `read` runs on a thread of its own, ahead of `take_in`.
///
/// # Errors
/// The system gives no thread.
pub(super) fn read_ahead<R: Send, E>(
    read: impl FnOnce(&mut Source<'_>) -> R + Send,
    mut take_in: impl FnMut(&Read) -> Result<(), E>,
) -> io::Result<(R, Result<(), E>)> {
    let (sender, receiver) = sync_channel(AHEAD);
    let (spare_sender, spare_receiver) = channel();
    let run = move || {
        read(&mut Source::new(&mut |read| {
            sender.send(read).map_err(|_| Unwanted)?;
            Ok(spare_receiver.try_recv().ok())
        }))
    };
    let take_all = move || {
        for read in receiver {
            take_in(&read)?;
            // At the end nobody wants them.
            let _ = read.into_buffer().map(|buffer| spare_sender.send(buffer));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let reading = thread::Builder::new().name("journal-reader".to_owned());
        let reading = reading.spawn_scoped(scope, run)?;
        let done = take_all();
        match reading.join() {
            Ok(result) => Ok((result, done)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
