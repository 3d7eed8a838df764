//! What a start notes of each new push while it checks the journal, so that the queues are rebuilt without
//! reading it a second time.
//!
//! A note says where the push goes, who owed it and by which tag: some 6 bytes and the tag. Names of
//! repositories, and lists of endpoints, are held once and known by numbers. A push has no note if it was carried
//! forward and its first record is gone, or if its record is malformed under a right checksum: it is read where it
//! stands, and what is wrong with it comes out then.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{
    codec::{Decoder, put_sized, put_varint},
    record::{self, Addresses, RecordError},
};
use crate::{
    image::{RepositoryName, Tag},
    push::{EndpointId, Sequence},
};

/// The notes of one start, in the order of the sequence numbers.
#[derive(Debug, Default)]
pub struct Notes {
    segments: VecDeque<SegmentNotes>,
    pub(super) names: Names,
}

/// The notes of one segment's new pushes, end to end. An empty one stands for a push without.
#[derive(Debug)]
struct SegmentNotes {
    /// The push that the first of them is about.
    next: Sequence,
    /// How many of the bytes were taken.
    taken: usize,
    bytes: Vec<u8>,
}

/// One push's note.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note<'a> {
    /// Numbers of its repository, and of the list of those who owed it.
    pub(super) repository: u32,
    pub(super) owing: u32,
    /// A valid one; empty for none.
    pub(super) tag: &'a [u8],
}

impl Notes {
    /// Takes up the next segment, whose first new push has this number.
    pub(super) fn begin(&mut self, first: Sequence) {
        if let Some(last) = self.segments.back_mut() {
            last.bytes.shrink_to_fit();
        }
        self.segments.push_back(SegmentNotes {
            next: first,
            taken: 0,
            bytes: Vec::new(),
        });
    }

    /// Notes the segment's next new push, which goes there, if that could be told.
    pub(super) fn add(&mut self, addresses: Option<Addresses<'_>>) {
        let Some(SegmentNotes { bytes, .. }) = self.segments.back_mut() else {
            return;
        };
        let Some(Ok(note)) = addresses.map(|addresses| self.names.note(addresses)) else {
            put_varint(bytes, 0);
            return;
        };
        put_varint(bytes, u64::from(note.repository) + 1);
        put_varint(bytes, note.owing.into());
        put_sized(bytes, note.tag);
    }

    /// The note of a push. To be asked for in the order of the sequence numbers: what comes before is let go.
    pub(super) fn take(&mut self, sequence: Sequence) -> Option<Note<'_>> {
        let segments = &mut self.segments;
        while segments.get(1).is_some_and(|next| next.next <= sequence) {
            segments.pop_front();
        }
        let SegmentNotes { next, taken, bytes } = segments.front_mut()?;
        while *next <= sequence {
            let is_asked_for = *next == sequence;
            let mut decoder = Decoder::new(bytes.get(*taken..)?);
            let note = decode(&mut decoder)?;
            *taken = bytes.len() - decoder.rest().len();
            *next = next.next();
            if is_asked_for {
                return note;
            }
        }
        None
    }
}

/// The note in front, if there is one: none of a push without.
#[expect(clippy::option_option, reason = "an end, or a push without a note")]
fn decode<'a>(decoder: &mut Decoder<'a>) -> Option<Option<Note<'a>>> {
    let Some(repository) = decoder.varint().ok()?.checked_sub(1) else {
        return Some(None);
    };
    Some(Some(Note {
        repository: u32::try_from(repository).ok()?,
        owing: u32::try_from(decoder.varint().ok()?).ok()?,
        tag: decoder.sized().ok()?,
    }))
}

/// Repositories, and lists of endpoints, by number.
#[derive(Debug, Default)]
pub(super) struct Names {
    hasher: DefaultHashBuilder,
    repositories: Vec<RepositoryName>,
    by_name: HashTable<u32>,
    /// Lists as they stand in records, and how many endpoints each has.
    lists: Vec<(Box<[u8]>, u16)>,
    by_list: HashMap<(Box<[u8]>, u16), u32>,
    /// The list that was met last.
    last: u32,
}

impl Names {
    /// What is to be noted of a push that goes there.
    pub(super) fn note<'a>(&mut self, addresses: Addresses<'a>) -> Result<Note<'a>, RecordError> {
        let Addresses {
            repository,
            endpoints,
            owed,
            tag,
        } = addresses;
        if !tag.is_empty() && !Tag::is_valid(tag) {
            return Err(RecordError::Malformed("a tag is not valid"));
        }
        let repository = self.repository(repository)?;
        Ok(Note {
            repository,
            owing: self.list(endpoints, owed, repository)?,
            tag,
        })
    }

    /// The repository's name.
    pub(super) fn name(&self, repository: u32) -> Option<&RepositoryName> {
        self.repositories.get(repository as usize)
    }

    /// The endpoints on a list, for a push to that repository.
    pub(super) fn endpoints(&self, list: u32, repository: &RepositoryName) -> Vec<EndpointId> {
        let list = self.lists.get(list as usize);
        // It was decoded before it got its number.
        list.and_then(|(list, count)| {
            record::decode_endpoints(&mut Decoder::new(list), *count, repository).ok()
        })
        .unwrap_or_default()
    }

    fn repository(&mut self, name: &[u8]) -> Result<u32, RecordError> {
        let Self {
            hasher,
            repositories,
            by_name,
            ..
        } = self;
        let hash = hasher.hash_one(name);
        let is_it = |number: &u32| {
            let known = repositories.get(*number as usize);
            known.is_some_and(|known| known.as_str().as_bytes() == name)
        };
        if let Some(known) = by_name.find(hash, is_it) {
            return Ok(*known);
        }
        let parsed = record::parse_repository(name)?;
        let number = number(repositories.len())?;
        repositories.push(parsed);
        by_name.insert_unique(hash, number, |number| {
            let known = repositories.get(*number as usize);
            known.map_or(0, |known| hasher.hash_one(known.as_str().as_bytes()))
        });
        Ok(number)
    }

    fn list(&mut self, list: &[u8], count: u16, repository: u32) -> Result<u32, RecordError> {
        let is_it = |(known, of): &(Box<[u8]>, u16)| **known == *list && *of == count;
        if self.lists.get(self.last as usize).is_some_and(is_it) {
            return Ok(self.last);
        }
        let key = (Box::from(list), count);
        self.last = if let Some(known) = self.by_list.get(&key) {
            *known
        } else {
            if let Some(repository) = self.name(repository) {
                record::decode_endpoints(&mut Decoder::new(list), count, repository)?;
            }
            let number = number(self.lists.len())?;
            self.lists.push(key.clone());
            self.by_list.insert(key, number);
            number
        };
        Ok(self.last)
    }
}

fn number(count: usize) -> Result<u32, RecordError> {
    u32::try_from(count).map_err(|_| RecordError::Malformed("there are more names than can be numbered"))
}
