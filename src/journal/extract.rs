//! What a start takes of the records: what they say, without what it does not look at, which is most of their bytes.
//!
//! The thread that reads and checks commits takes it out at once, while they are in its processor's caches; what goes
//! on to the thread that keeps it is a fifth as much.

use super::{
    recent::EventKey,
    record::{Addresses, PushHead, RawRecord, Record, RecordError},
    unsettled::Unsettled,
};
use crate::{
    clock::Timestamp,
    push::{Pair, Sequence},
};

/// Records, or bytes of texts, that go on together: about as much as a processor's caches hold.
const RECORDS: usize = 2048;
const TEXT_BYTES: usize = 256 * 1024;

/// What some records of one segment say, in their order.
#[derive(Debug, Default)]
pub(super) struct Extract {
    said: Vec<Said>,
    /// The texts of the pushes' addresses, end to end.
    texts: Vec<u8>,
    /// What is wrong with the record behind them, and at which offset it stands.
    error: Option<(u64, RecordError)>,
}

#[derive(Debug)]
enum Said {
    Push(ToldPush, Option<Lengths>),
    Settled(Pair),
    EventId(EventKey, Timestamp),
}

/// What a record says.
#[derive(Debug)]
pub(super) enum Told<'a> {
    /// A push, and where it goes if that can be told.
    Push(ToldPush, Option<Addresses<'a>>),
    /// A settlement.
    Settled(Pair),
    /// An event id that was written again; of one record there can be many.
    EventId(EventKey, Timestamp),
}

/// A push, as far as a start looks at it.
#[derive(Debug)]
pub(super) struct ToldPush {
    pub(super) sequence: Sequence,
    pub(super) taken_at: Timestamp,
    /// Where in the segment its record stands, and its length in bytes.
    pub(super) offset: u32,
    pub(super) bytes: u32,
    /// How many endpoints owed it when it was taken.
    pub(super) owed: u16,
    pub(super) key: Option<EventKey>,
    /// In a copy that was carried forward: which pairs were unsettled then.
    pub(super) carried: Option<Unsettled>,
}

/// Of a push's texts, in the order in which they stand.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    repository: u32,
    endpoints: u32,
    tag: u32,
}

impl Extract {
    /// Adds what a record says that stands at that offset.
    pub(super) fn add(&mut self, offset: u64, raw: &RawRecord<'_>) -> Result<(), RecordError> {
        match raw.decode()? {
            Record::Push(push) => self.add_push(offset, raw.bytes(), push)?,
            Record::Settled(pair, _) => self.said.push(Said::Settled(pair)),
            Record::EventIds(ids) => {
                for id in ids {
                    let (key, taken_at) = id?;
                    self.said.push(Said::EventId(key, taken_at));
                }
            }
        }
        Ok(())
    }

    fn add_push(&mut self, offset: u64, bytes: usize, push: PushHead<'_>) -> Result<(), RecordError> {
        let too_large = |_| RecordError::Malformed("a segment is larger than 4 GiB");
        let (offset, bytes) = (
            u32::try_from(offset).map_err(too_large)?,
            u32::try_from(bytes).map_err(too_large)?,
        );
        // Of one that was carried forward, they are read where it stands.
        let addresses = push.addresses().ok().filter(|_| push.carried.is_none());
        let lengths = addresses.and_then(|addresses| self.add_texts(&addresses));
        let told = ToldPush {
            sequence: push.sequence,
            taken_at: push.taken_at,
            offset,
            bytes,
            owed: push.owed,
            key: EventKey::of(push.event_id),
            carried: push.carried,
        };
        self.said.push(Said::Push(told, lengths));
        Ok(())
    }

    fn add_texts(&mut self, addresses: &Addresses<'_>) -> Option<Lengths> {
        let length = |text: &[u8]| u32::try_from(text.len()).ok();
        let lengths = Lengths {
            repository: length(addresses.repository)?,
            endpoints: length(addresses.endpoints)?,
            tag: length(addresses.tag)?,
        };
        for text in [addresses.repository, addresses.endpoints, addresses.tag] {
            self.texts.extend_from_slice(text);
        }
        Some(lengths)
    }

    /// Says that the record behind those added can't be taken.
    pub(super) fn fail(&mut self, offset: u64, error: RecordError) {
        self.error = Some((offset, error));
    }

    /// Whether there is nothing to hand on.
    pub(super) fn is_empty(&self) -> bool {
        self.said.is_empty() && self.error.is_none()
    }

    /// Whether it is enough to be handed on.
    pub(super) fn is_large(&self) -> bool {
        self.said.len() >= RECORDS || self.texts.len() >= TEXT_BYTES
    }

    /// Shows what the records say, one after the other, and is empty then. An error tells the offset of the record it
    /// is about, as far as that is known.
    pub(super) fn tell(
        &mut self,
        mut take: impl FnMut(Told<'_>) -> Result<(), (u64, RecordError)>,
    ) -> Result<(), (u64, RecordError)> {
        let mut texts = self.texts.as_slice();
        for said in self.said.drain(..) {
            take(match said {
                Said::Push(push, lengths) => {
                    let addresses = lengths.and_then(|lengths| lengths.split(&mut texts, push.owed));
                    Told::Push(push, addresses)
                }
                Said::Settled(pair) => Told::Settled(pair),
                Said::EventId(key, taken_at) => Told::EventId(key, taken_at),
            })?;
        }
        self.texts.clear();
        self.error.take().map_or(Ok(()), Err)
    }
}

impl Lengths {
    /// Takes the texts off the front of all that are left.
    fn split<'a>(self, texts: &mut &'a [u8], owed: u16) -> Option<Addresses<'a>> {
        let mut take = |length: u32| {
            let (text, behind) = texts.split_at_checked(length as usize)?;
            *texts = behind;
            Some(text)
        };
        Some(Addresses {
            repository: take(self.repository)?,
            endpoints: take(self.endpoints)?,
            owed,
            tag: take(self.tag)?,
        })
    }
}
