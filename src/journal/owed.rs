//! Reading back what is owed.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    Journal,
    live::LivePush,
    reader::Reader,
    record::{PushHead, RecordError, RecordOwed},
    scan::CHUNK_BYTES,
    segment,
};
use crate::{
    image::{RepositoryName, Tag},
    push::{EndpointId, Push, Sequence},
};

/// How much is read for one push: most have less.
pub(super) const READ_BYTES: usize = 4096;

/// A push that is still owed, as far as waiting for its turn takes. [`Journal::read`] has the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Its place in the order of all pushes.
    pub sequence: Sequence,
    /// What it takes on disk, bytes.
    pub bytes: u32,
    /// Where it was pushed.
    pub repository: RepositoryName,
    /// By which tag.
    pub tag: Option<Tag>,
    /// Who still owes it, each with its place among those who owed it at first. Nobody does, if all that is
    /// missing is the room on a full disk to commit so.
    pub owed: Vec<(u16, EndpointId)>,
}

/// A push that is owed, and can't be read back.
#[derive(Debug, thiserror::Error)]
#[error("push {sequence} in {}: {error}", file.display())]
pub struct Unreadable {
    /// Which.
    pub sequence: Sequence,
    /// The segment in which it stands.
    pub file: PathBuf,
    /// What is wrong.
    #[source]
    pub error: io::Error,
}

impl Journal {
    /// Reads pushes back, one for one, with all the endpoints that owed them at first. Blocks on the disk.
    ///
    /// # Errors
    /// In the place of a push that is not owed any more, or can't be read, or is not intact.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method's path holds for one lifetime of records, the closure for any"
    )]
    #[must_use]
    pub fn read(&self, sequences: &[Sequence]) -> Vec<io::Result<Push>> {
        let mut reader = self.reader(READ_BYTES);
        let read = |sequence: &Sequence| {
            let not_owed = || io::Error::new(io::ErrorKind::NotFound, "the push is not owed any more");
            let mut push = self.shared.live().find(*sequence).ok_or_else(not_owed)?;
            self.read_one(&mut reader, &mut push, |head| head.to_push())
        };
        sequences.iter().map(read).collect()
    }

    /// The pushes behind `after` that are still owed, in order, at most `count` of them; less those that ended
    /// meanwhile. Blocks on the disk.
    ///
    /// One that can't be read, or is not intact, is an error in its place: the others are told all the same.
    #[must_use]
    pub fn owed(&self, after: Option<Sequence>, count: usize) -> Vec<Result<Owed, Unreadable>> {
        let pushes: Vec<LivePush> = self.shared.live().owed_after(after).take(count).collect();
        let mut reader = self.reader(CHUNK_BYTES);
        let read = |push| self.owed_one(&mut reader, push).transpose();
        pushes.into_iter().filter_map(read).collect()
    }

    /// What is owed of a push; nothing once it has ended.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method's path holds for one lifetime of records, the closure for any"
    )]
    pub(super) fn owed_one(
        &self,
        reader: &mut Reader,
        mut push: LivePush,
    ) -> Result<Option<Owed>, Unreadable> {
        let read = self.read_one(reader, &mut push, |head| head.to_owed());
        let RecordOwed {
            repository,
            tag,
            owed,
        } = match read {
            Ok(read) => read,
            Err(_) if self.shared.live().find(push.sequence).is_none() => return Ok(None),
            Err(error) => return Err(self.unreadable(&push, error)),
        };
        let push = self.less_told(push);
        let is_owed = |(place, _): &(u16, EndpointId)| push.unsettled.contains(*place);
        Ok(Some(Owed {
            sequence: push.sequence,
            bytes: push.standing.bytes,
            repository,
            tag,
            owed: (0..).zip(owed).filter(is_owed).collect(),
        }))
    }

    /// The push without the pairs that were settled before the start, although no commit says so yet.
    pub(super) fn less_told(&self, mut push: LivePush) -> LivePush {
        self.shared
            .settling
            .strike_out(push.sequence, &mut push.unsettled);
        push
    }

    pub(super) fn unreadable(&self, push: &LivePush, error: io::Error) -> Unreadable {
        let file = segment::file_name(push.standing.segment);
        Unreadable {
            sequence: push.sequence,
            file: self.shared.storage.path(&file),
            error,
        }
    }

    pub(super) fn reader(&self, chunk_bytes: usize) -> Reader {
        Reader::new(Arc::clone(&self.shared.storage), self.shared.seed, chunk_bytes)
    }

    /// Reads a push where it stands, or where it stands by now, if it was carried forward meanwhile: `push` is
    /// brought up to date then.
    pub(super) fn read_one<T>(
        &self,
        reader: &mut Reader,
        push: &mut LivePush,
        mut take: impl FnMut(&PushHead<'_>) -> Result<T, RecordError>,
    ) -> io::Result<T> {
        loop {
            let error = match reader.push(push.standing, &mut take) {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            match self.shared.live().find(push.sequence) {
                Some(moved) if moved.standing != push.standing => *push = moved,
                _ => return Err(error),
            }
        }
    }
}
