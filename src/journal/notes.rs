//! What a start notes of each new push while it checks the journal, so that the queues are rebuilt without
//! reading it a second time.
//!
//! A note says which push it is, who owed it and by which tag: some 4 bytes and the tag. Notes stand by repository, as
//! the queues take them. Lists of endpoints are held once and known by numbers. A push has no note if it was carried
//! forward and its first record is gone, or if its record is malformed under a right checksum: it is read where it
//! stands, and what is wrong with it comes out then.

use std::{collections::HashMap, hash::BuildHasher};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{
    codec::{Decoder, put_sized, put_varint},
    delivered::Delivered,
    ended::EndedLately,
    live::Standing,
    record::{self, Addresses, RecordError},
    strands::{Strand, Strands},
};
use crate::{
    image::{RepositoryName, Tag},
    push::{EndpointId, Pair, Sequence, Settlement},
};

/// Repositories are kept in so many groups, by number: what a group has takes no memory once it is handed over, and
/// threads that hand groups over are done at almost the same time.
const GROUPS: u32 = 32;

/// The notes of one start.
#[derive(Debug, Default)]
pub struct Notes {
    pub(super) names: Names,
    pub(super) new: Gathered,
    /// The first new push of all. Those before it were carried forward.
    pub(super) first: Option<Sequence>,
    /// New pushes without a note, in order.
    pub(super) without: Vec<Sequence>,
    /// Which of them were delivered.
    pub(super) delivered: Delivered,
    ended: EndedLately,
    bytes: Vec<u8>,
}

/// A push that was delivered to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveredPush {
    /// Its place in the order of all pushes.
    pub sequence: Sequence,
    /// Where it was pushed.
    pub repository: RepositoryName,
    /// By which tag.
    pub tag: Tag,
    /// To whom.
    pub endpoint: EndpointId,
}

/// Notes by repository.
#[derive(Debug, Default)]
pub(super) struct Gathered([Group; GROUPS as usize]);

/// The notes of some repositories.
#[derive(Debug, Default)]
pub(super) struct Group {
    repositories: Vec<Repository>,
    notes: Strands,
}

/// What a group has of one repository.
#[derive(Clone, Copy, Debug, Default)]
struct Repository {
    /// The number of the last push; 0 before there is one.
    last: u64,
    /// The notes of its pushes, in order.
    notes: Strand,
}

/// One push's note.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note<'a> {
    /// The number of the list of those who owed it.
    pub(super) owing: u32,
    /// A valid one; empty for none.
    pub(super) tag: &'a [u8],
}

impl Notes {
    /// Notes the next new push, which goes there, if that could be told.
    pub(super) fn add(&mut self, sequence: Sequence, addresses: Option<Addresses<'_>>) {
        self.first.get_or_insert(sequence);
        match addresses.map(|addresses| self.names.note(addresses)) {
            Some(Ok((repository, note))) => self.new.add(repository, sequence, note, &mut self.bytes),
            _ => self.without.push(sequence),
        }
    }

    /// The newest pushes that were delivered, and to whom: some `count`, of those with a tag.
    #[must_use]
    pub fn delivered_lately(&self, count: u64) -> Vec<DeliveredPush> {
        let Some(from) = self.delivered.newest_from(count) else {
            return Vec::new();
        };
        let (mut delivered, mut notes) = (Vec::new(), Vec::new());
        for (place, group) in (0..).zip(&self.new.0) {
            for (number, repository) in Group::numbers(place, [group, group]) {
                let Some(name) = self.names.name(repository) else {
                    continue;
                };
                group.copy(number, &mut notes);
                for (sequence, note) in all(&notes).filter(|(sequence, _)| *sequence >= from) {
                    let tag = std::str::from_utf8(note.tag)
                        .ok()
                        .and_then(|tag| tag.parse::<Tag>().ok());
                    let mut places = self.delivered.places(sequence).peekable();
                    let Some(tag) = tag.filter(|_| places.peek().is_some()) else {
                        continue;
                    };
                    let endpoints = self.names.endpoints(note.owing, name);
                    delivered.extend(places.filter_map(|place| {
                        Some(DeliveredPush {
                            sequence,
                            repository: name.clone(),
                            tag: tag.clone(),
                            endpoint: endpoints.get(usize::from(place))?.clone(),
                        })
                    }));
                }
            }
        }
        delivered.sort_by_key(|delivered| delivered.sequence);
        delivered
    }

    /// Takes what is noted of how pushes ended last.
    #[must_use]
    pub fn take_ended(&mut self) -> EndedLately {
        std::mem::take(&mut self.ended)
    }

    /// Notes how a pair ended, and where its push stands, if that was owed until then.
    pub(super) fn settled(&mut self, pair: Pair, how: Settlement, standing: Option<Standing>) {
        if how == Settlement::Delivered {
            self.delivered.add(pair, self.first);
        }
        if let Some(standing) = standing {
            self.ended.add(pair, how, standing);
        }
    }
}

impl Gathered {
    /// Adds the note of a push to that repository. `bytes` is to work with.
    pub(super) fn add(&mut self, repository: u32, sequence: Sequence, note: Note<'_>, bytes: &mut Vec<u8>) {
        let index = (repository / GROUPS) as usize;
        let Some(group) = self.0.get_mut((repository % GROUPS) as usize) else {
            return;
        };
        if index >= group.repositories.len() {
            group.repositories.resize(index + 1, Repository::default());
        }
        let Some(Repository { last, notes }) = group.repositories.get_mut(index) else {
            return;
        };
        bytes.clear();
        put_varint(bytes, sequence.get() - *last);
        put_varint(bytes, note.owing.into());
        put_sized(bytes, note.tag);
        group.notes.extend(notes, bytes);
        *last = sequence.get();
    }

    /// The groups.
    pub(super) fn into_groups(self) -> impl ExactSizeIterator<Item = Group> {
        self.0.into_iter()
    }
}

impl Group {
    /// The repositories of the group with that place among the groups: by which numbers they are known in the group
    /// and outside.
    pub(super) fn numbers(place: u32, groups: [&Self; 2]) -> impl Iterator<Item = (usize, u32)> + use<> {
        let count = groups.map(|group| group.repositories.len()).into_iter().max();
        (0..count.unwrap_or_default()).zip((place..).step_by(GROUPS as usize))
    }

    /// Puts a repository's notes into `out`, in place of what is there, for [`all`].
    pub(super) fn copy(&self, number: usize, out: &mut Vec<u8>) {
        let notes = self.repositories.get(number).map(|repository| repository.notes);
        self.notes.copy(&notes.unwrap_or_default(), out);
    }
}

/// One repository's notes, in order.
pub(super) fn all(notes: &[u8]) -> impl Iterator<Item = (Sequence, Note<'_>)> {
    let (mut decoder, mut last) = (Decoder::new(notes), 0);
    std::iter::from_fn(move || {
        last += decoder.varint().ok()?;
        let owing = u32::try_from(decoder.varint().ok()?).ok()?;
        let tag = decoder.sized().ok()?;
        Some((Sequence::new(last)?, Note { owing, tag }))
    })
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
    /// The number of the repository to which a push goes, and what is to be noted of it.
    pub(super) fn note<'a>(&mut self, addresses: Addresses<'a>) -> Result<(u32, Note<'a>), RecordError> {
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
        let owing = self.list(endpoints, owed, repository)?;
        Ok((repository, Note { owing, tag }))
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
