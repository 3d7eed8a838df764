//! Reading ahead: a start reads and checks commits on one thread, and keeps on another what they say.

use std::{
    io,
    sync::mpsc::{channel, sync_channel},
    thread,
};

use super::{TOGETHER, extract::Extract, record::RawRecord, scan::Commit, segment::SegmentHeader};

/// Extracts that wait, beside the two that are worked on.
const AHEAD: usize = 4;

/// What was read, in order.
#[derive(Debug)]
pub(super) enum Read {
    /// A segment begins.
    Segment(SegmentHeader),
    /// What records of it say.
    Records(Extract),
}

/// Nobody wants to know any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwanted;

/// What is done with something that was read: it may give back an empty extract to be used again.
type Hand<'a> = dyn FnMut(Read) -> Result<Option<Extract>, Unwanted> + 'a;

/// The end at which is read.
pub(super) struct Source<'a> {
    hand: &'a mut Hand<'a>,
    extract: Extract,
}

impl<'a> Source<'a> {
    fn new(hand: &'a mut Hand<'a>) -> Self {
        Self {
            hand,
            extract: Extract::default(),
        }
    }

    /// Begins a segment.
    pub(super) fn begin(&mut self, header: SegmentHeader) -> Result<(), Unwanted> {
        self.flush()?;
        (self.hand)(Read::Segment(header)).map(drop)
    }

    /// Adds a valid commit of that segment. Nothing is wanted behind a record that can't be taken.
    pub(super) fn commit(&mut self, commit: &Commit<'_>) -> Result<(), Unwanted> {
        let mut rest = commit.payload;
        let mut records = Vec::with_capacity(TOGETHER);
        while !rest.is_empty() {
            while !rest.is_empty() && records.len() < TOGETHER {
                let offset = commit.end() - rest.len() as u64;
                let split = RawRecord::split(rest);
                rest = split.as_ref().map_or(&[][..], |(_, behind)| behind);
                let record = split.and_then(|(raw, _)| Ok((raw.bytes(), raw.decode()?)));
                records.push((offset, record));
            }
            for (offset, record) in records.drain(..) {
                if let Err(error) = record.and_then(|(bytes, record)| self.extract.add(offset, bytes, record))
                {
                    self.extract.fail(offset, error);
                    self.flush()?;
                    return Err(Unwanted);
                }
                if self.extract.is_large() {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    /// Hands on what was added.
    fn flush(&mut self) -> Result<(), Unwanted> {
        if self.extract.is_empty() {
            return Ok(());
        }
        let extract = std::mem::take(&mut self.extract);
        self.extract = (self.hand)(Read::Records(extract))?.unwrap_or_default();
        Ok(())
    }
}

impl Read {
    fn into_extract(self) -> Option<Extract> {
        match self {
            Self::Segment(_) => None,
            Self::Records(extract) => Some(extract),
        }
    }
}

/// Has `read` add all it reads to a source, and hands on the rest of that whatever came of it: what is wrong before
/// is told first.
fn read_to_end<R>(read: impl FnOnce(&mut Source<'_>) -> R, hand: &mut Hand<'_>) -> R {
    let mut source = Source::new(hand);
    let result = read(&mut source);
    // Nobody wants it when something before it is wrong.
    let _ = source.flush();
    result
}

/// Has `read` run, and `take_in` in between for all that it hands on, up to the first error.
pub(super) fn read_here<R, E>(
    read: impl FnOnce(&mut Source<'_>) -> R,
    mut take_in: impl FnMut(&mut Read) -> Result<(), E>,
) -> (R, Result<(), E>) {
    let mut done = Ok(());
    let result = read_to_end(read, &mut |mut read| {
        if done.is_ok() {
            done = take_in(&mut read);
        }
        done.as_ref().map_err(|_| Unwanted)?;
        Ok(read.into_extract())
    });
    (result, done)
}

/// The same, but `read` runs on a thread of its own, ahead of `take_in`.
///
/// # Errors
/// The system gives no thread.
pub(super) fn read_ahead<R: Send, E>(
    read: impl FnOnce(&mut Source<'_>) -> R + Send,
    mut take_in: impl FnMut(&mut Read) -> Result<(), E>,
) -> io::Result<(R, Result<(), E>)> {
    let (sender, receiver) = sync_channel(AHEAD);
    let (spare_sender, spare_receiver) = channel();
    let run = move || {
        read_to_end(read, &mut |read| {
            sender.send(read).map_err(|_| Unwanted)?;
            Ok(spare_receiver.try_recv().ok())
        })
    };
    let take_all = move || {
        for mut read in receiver {
            take_in(&mut read)?;
            // At the end nobody wants them.
            let _ = read.into_extract().map(|extract| spare_sender.send(extract));
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
