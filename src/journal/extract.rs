//! What a start takes of the records: what they say, without what it does not look at, which is most of their bytes.
//!
//! The thread that reads and checks commits takes it out at once, while they are in its processor's caches; what goes
//! on to the thread that keeps it is a fifth as much.

use super::{
    recent::EventKey,
    record::{Addresses, PushHead, Record, RecordError},
    unsettled::Unsettled,
};
use crate::{
    clock::Timestamp,
    push::{Pair, Sequence, Settlement},
};

/// Once there are so many of what records say, or bytes of texts, they go on together: about as much as a processor's
/// caches hold. One record may be more: of event ids there are many in it.
const RECORDS: usize = 4096;
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
    /// A push, and the lengths of its addresses' texts.
    Push(ToldPush, Option<Lengths>),
    Settled(Pair, Settlement),
    EventId(EventKey, Timestamp),
}

/// What a record says.
#[derive(Debug)]
pub(super) enum Told<'a> {
    /// A push, and where it goes, if that can be told and it is a new one.
    Push(ToldPush, Option<Addresses<'a>>),
    /// A settlement.
    Settled(Pair, Settlement),
    /// An event id that was written again; of one record there can be many.
    EventId(EventKey, Timestamp),
}

/// A push, as far as a start looks at it.
#[derive(Debug)]
pub(super) struct ToldPush {
    pub(super) sequence: Sequence,
    pub(super) taken_at: Timestamp,
    /// By which its event id is known, if it has one.
    pub(super) key: Option<EventKey>,
    /// Where in the segment its record stands, and its length in bytes.
    pub(super) offset: u32,
    pub(super) bytes: u32,
    /// How many endpoints owed it when it was taken.
    pub(super) owed: u16,
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
    /// Adds what a record of so many bytes says that stands at that offset.
    pub(super) fn add(&mut self, offset: u64, bytes: usize, record: Record<'_>) -> Result<(), RecordError> {
        match record {
            Record::Push(push) => self.add_push(offset, bytes, push)?,
            Record::Settled(pair, how) => self.said.push(Said::Settled(pair, how)),
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
            key: EventKey::of(push.event_id),
            offset,
            bytes,
            owed: push.owed,
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

    /// Shows what the records say, one after the other, and is empty then, unless there was an error, which tells the
    /// offset of the record it is about.
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
                Said::Settled(pair, how) => Told::Settled(pair, how),
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
        Some(Addresses {
            repository: split(texts, self.repository)?,
            endpoints: split(texts, self.endpoints)?,
            owed,
            tag: split(texts, self.tag)?,
        })
    }
}

/// Takes a text off the front of all that are left.
fn split<'a>(texts: &mut &'a [u8], length: u32) -> Option<&'a [u8]> {
    let (text, behind) = texts.split_at_checked(length as usize)?;
    *texts = behind;
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{
        super::{
            JournalId,
            frame::Seed,
            record::{self, RawRecord, tests::pushes},
        },
        *,
    };
    use crate::push::{Push, Settlement};

    const IDS: [(EventKey, Timestamp); 2] = [
        (EventKey([1; 12]), Timestamp::from_unix_millis(1)),
        (EventKey([2; 12]), Timestamp::from_unix_millis(2)),
    ];

    fn seed() -> Seed {
        Seed::of(JournalId([3; 16]))
    }

    fn sequence(number: usize) -> Sequence {
        Sequence::new(number as u64 + 1).unwrap()
    }

    /// The records of a push: a new one, one that was carried, a settlement, and event ids.
    fn records(number: usize, push: &Push) -> Vec<Vec<u8>> {
        let mut all = vec![Vec::new(); 4];
        record::put_push(&mut all[0], seed(), push);
        record::number_push(&mut all[0], seed(), sequence(number));
        let (raw, _) = RawRecord::split(&all[0]).unwrap();
        let owed = u16::try_from(push.owed.len()).unwrap();
        let mut carried = Vec::new();
        record::put_carried(&mut carried, seed(), &raw, &Unsettled::all(owed)).unwrap();
        all[1] = carried;
        let pair = Pair {
            sequence: sequence(number),
            place: 7,
        };
        record::put_settled(&mut all[2], seed(), pair, Settlement::Delivered);
        record::put_event_ids(&mut all[3], seed(), &IDS);
        all
    }

    /// What the record says, read where it stands.
    fn in_place(offset: u64, bytes: &[u8]) -> Vec<String> {
        let (raw, _) = RawRecord::split(bytes).unwrap();
        match raw.decode().unwrap() {
            Record::Push(head) => {
                let addresses = head.carried.is_none().then(|| head.addresses().unwrap());
                vec![format!(
                    "{} {:?} {offset} {} {} {:?} {:?} {addresses:?}",
                    head.sequence,
                    head.taken_at,
                    bytes.len(),
                    head.owed,
                    head.carried,
                    EventKey::of(head.event_id)
                )]
            }
            Record::Settled(pair, how) => vec![format!("{pair:?} {how:?}")],
            Record::EventIds(_) => IDS.map(|id| format!("{id:?}")).to_vec(),
        }
    }

    fn told(told: Told<'_>) -> String {
        match told {
            Told::Push(push, addresses) => format!(
                "{} {:?} {} {} {} {:?} {:?} {addresses:?}",
                push.sequence, push.taken_at, push.offset, push.bytes, push.owed, push.carried, push.key
            ),
            Told::Settled(pair, how) => format!("{pair:?} {how:?}"),
            Told::EventId(key, taken_at) => format!("{:?}", (key, taken_at)),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_told_is_what_stands_there_and_what_is_wrong_comes_last(
            pushes in vec(pushes(), 1..6), is_failing in any::<bool>(),
        ) {
            let all = pushes.iter().enumerate().flat_map(|(number, push)| records(number, push));
            let (mut extract, mut wanted) = (Extract::default(), Vec::new());
            for (offset, bytes) in (100..).zip(all) {
                let record = RawRecord::split(&bytes).unwrap().0.decode().unwrap();
                extract.add(offset, bytes.len(), record).unwrap();
                wanted.extend(in_place(offset, &bytes));
            }
            let error = (9, RecordError::Malformed("a test"));
            if is_failing {
                extract.fail(error.0, error.1);
            }
            let mut found = Vec::new();
            let all = extract.tell(|said| {
                found.push(told(said));
                Ok(())
            });
            prop_assert_eq!(found, wanted);
            prop_assert_eq!(all, if is_failing { Err(error) } else { Ok(()) });
            prop_assert!(extract.is_empty(), "it is used again");
            prop_assert!(extract.texts.is_empty());
        }
    }
}
