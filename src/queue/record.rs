//! A push as it stands in a backlog: a record of some 20 bytes, its tag among them.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | marks |
//! | 1 | the tag's length; 0 when there is none |
//! | | the tag |
//! | varint | the sequence number, less that of the record before |
//! | varint | what the push takes on disk, bytes |
//! | varint | the endpoint's place among those that owed the push at first |

use crate::{image::Tag, push::Sequence};

/// It is owed no more.
pub(super) const DEAD: u8 = 1;
/// It is the first of its batch.
pub(super) const FIRST: u8 = 2;
/// It is sealed, and a newer push of its tag takes its place.
pub(super) const COALESCES: u8 = 4;
/// It was owed at the start already: how often it was sent before that, nobody knows.
pub(super) const RESTORED: u8 = 8;

/// What there is to know of a push that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// Its place in the order.
    pub(super) sequence: Sequence,
    /// What it takes on disk, bytes.
    pub(super) bytes: u32,
    /// The endpoint's place among those that owed it at first.
    pub(super) place: u16,
    /// Its tag; empty when there is none.
    pub(super) tag: &'a [u8],
    /// What is marked of it.
    pub(super) marks: u8,
}

impl Record<'_> {
    pub(super) fn is_live(&self) -> bool {
        self.marks & DEAD == 0
    }

    pub(super) fn is_restored(&self) -> bool {
        self.marks & RESTORED != 0
    }

    pub(super) fn is_first(&self) -> bool {
        self.marks & FIRST != 0
    }

    /// Whether it is the one that a newer push of this tag would supersede, or an older one of it.
    pub(super) fn coalesces(&self, tag: &[u8]) -> bool {
        self.marks & (COALESCES | DEAD) == COALESCES && self.tag == tag
    }

    /// Its tag as a value.
    pub(super) fn to_tag(self) -> Option<Tag> {
        std::str::from_utf8(self.tag).ok()?.parse().ok()
    }

    /// So many bytes [`Record::put`] adds.
    pub(super) fn len(&self, before: u64) -> usize {
        let varints = [self.gap(before), self.bytes.into(), self.place.into()];
        2 + self.short_tag().len() + varints.map(varint_len).iter().sum::<usize>()
    }

    /// A tag has at most 128 bytes.
    fn short_tag(&self) -> &[u8] {
        u8::try_from(self.tag.len()).map_or(&[], |_| self.tag)
    }

    fn gap(&self, before: u64) -> u64 {
        self.sequence.get().saturating_sub(before)
    }

    /// Adds it behind the record of the push `before`; 0 for none.
    pub(super) fn put(&self, before: u64, out: &mut Vec<u8>) {
        let tag = self.short_tag();
        out.push(self.marks);
        out.extend(u8::try_from(tag.len()));
        out.extend_from_slice(tag);
        put_varint(out, self.gap(before));
        put_varint(out, self.bytes.into());
        put_varint(out, self.place.into());
    }
}

/// Records one after the other.
#[derive(Clone, Debug)]
pub(super) struct Records<'a> {
    all: &'a [u8],
    /// Where the next one begins.
    at: usize,
    /// The sequence number of the one before that.
    before: u64,
}

impl<'a> Records<'a> {
    /// From the record at `at` on; `before` is the sequence number of the one ahead of it.
    pub(super) fn new(all: &'a [u8], at: usize, before: u64) -> Self {
        Self { all, at, before }
    }

    /// Where the next record begins.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The sequence number of the record ahead of that.
    pub(super) fn before(&self) -> u64 {
        self.before
    }
}

/// With where each begins.
impl<'a> Iterator for Records<'a> {
    type Item = (usize, Record<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut rest = self.all.get(self.at..)?;
        let marks = take_byte(&mut rest)?;
        let tag = take_byte(&mut rest)?;
        let (tag, mut rest) = rest.split_at_checked(tag.into())?;
        let sequence = self.before + take_varint(&mut rest)?;
        let record = Record {
            sequence: Sequence::new(sequence)?,
            bytes: u32::try_from(take_varint(&mut rest)?).ok()?,
            place: u16::try_from(take_varint(&mut rest)?).ok()?,
            tag,
            marks,
        };
        let at = std::mem::replace(&mut self.at, self.all.len() - rest.len());
        self.before = sequence;
        Some((at, record))
    }
}

/// The tag of the record at `at`, wherever in the order that is.
pub(super) fn tag_at(all: &[u8], at: usize) -> &[u8] {
    let found = || {
        let rest = all.get(at..)?.get(1..)?;
        let (length, rest) = rest.split_first()?;
        rest.get(..usize::from(*length))
    };
    found().unwrap_or_default()
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    Some(*first)
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = take_byte(rest)?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}

fn varint_len(value: u64) -> usize {
    let bits = (value | 1).ilog2() + 1;
    bits.div_ceil(7) as usize
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_put() {
        let longest = "t".repeat(128);
        let records = [
            (1, 0, 0, ""),
            (2, 127, 1, "v1"),
            (u64::MAX - 1, u32::MAX, u16::MAX, longest.as_str()),
            (u64::MAX, 128, 300, "1.14.2"),
        ];
        let (mut bytes, mut before) = (Vec::new(), 0);
        for (number, size, place, tag) in records {
            let record = Record {
                sequence: Sequence::new(number).unwrap(),
                bytes: size,
                place,
                tag: tag.as_bytes(),
                marks: FIRST,
            };
            let length = bytes.len();
            record.put(before, &mut bytes);
            assert_eq!(bytes.len() - length, record.len(before));
            before = number;
        }
        let found: Vec<_> = Records::new(&bytes, 0, 0)
            .map(|(at, record)| {
                assert_eq!(tag_at(&bytes, at), record.tag);
                let tag = std::str::from_utf8(record.tag).unwrap();
                (record.sequence.get(), record.bytes, record.place, tag)
            })
            .collect();
        assert_eq!(found, records);
    }
}
