//! The journal: every unsettled push, durable before it is acknowledged.

use std::{future::Future, io};

use crate::push::{Change, EndpointId, Item, Push, Sequence, Settlement};

/// The random identity a journal got when it was made: 128 bits, part of every `webhook-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JournalId(pub [u8; 16]);

/// Where a push's record stands: segment number and byte offset within that segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// Byte offset of the record in the segment's file.
    pub offset: u32,
}

/// A push that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Its place in the order of all pushes.
    pub sequence: Sequence,
    /// Where to read it back.
    pub position: Position,
    /// The push; at recovery, `owed` holds only the endpoints that are not settled.
    pub push: Push,
}

/// What the applier is given, in order: what became durable, and the changes that came between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A push became durable.
    Push(Durable),
    /// A change's turn has come.
    Change(Change),
}

/// Why an append was not acknowledged. None of its pushes counts as taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The journal is at `journal.max_size`.
    #[error("the journal is full: {bytes} of at most {bytes_max} bytes")]
    Full {
        /// Bytes in use.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// The disk refused.
    #[error("the journal can't be written: {0}")]
    Io(String),
    /// The journal is closing.
    #[error("the journal is closing")]
    Closed,
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal;

impl Journal {
    /// This journal's identity.
    #[must_use]
    pub fn id(&self) -> JournalId {
        JournalId([0; 16])
    }

    /// Makes the pushes durable, in order, all or none; resolves once they are, and were applied.
    ///
    /// # Errors
    /// See [`AppendError`].
    #[expect(clippy::unused_self, clippy::needless_pass_by_value, reason = "stub")]
    pub fn append(&self, items: Vec<Item>) -> impl Future<Output = Result<(), AppendError>> + Send + 'static {
        let _ = items;
        async { Err(AppendError::Closed) }
    }

    /// Records that `endpoint` owes the push no longer. Written at once, synced within 100 ms.
    #[expect(clippy::unused_self, reason = "stub")]
    pub fn settle(&self, sequence: Sequence, position: Position, endpoint: &EndpointId, how: Settlement) {
        let _ = (sequence, position, endpoint, how);
    }

    /// Reads pushes back. Blocks on the disk.
    ///
    /// # Errors
    /// The record can't be read.
    #[expect(clippy::unused_self, reason = "stub")]
    pub fn read(&self, positions: &[Position]) -> io::Result<Vec<Push>> {
        let _ = positions;
        Ok(Vec::new())
    }
}
