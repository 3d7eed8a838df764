//! Records: what a commit holds.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | body length in bytes |
//! | 4 | 1 | kind |
//! | 5 | 3 | zero |
//! | 8 | 4 | crc32c of bytes 0..8 and the body, begun with the journal's seed |
//! | 12 | … | body |
//!
//! Numbers are little-endian; *var* is a varint (seven bits a byte, lowest first); *text* and *bytes* say
//! their length first, as var. Bodies, by kind:
//!
//! 1. **Push**: sequence u64 · taken at, Unix ms, i64 · event id text · repository text · owed: count var, at
//!    most 65,535, each an endpoint · media type u8 · manifest size var · tag text, empty for none · digest ·
//!    actor text · references: count var, each media type text · size var · digest · has urls u8. A push in a
//!    record of this kind is new: its sequence number is the next one.
//! 2. **Settled**: sequence u64 · how u8 (1 delivered, 2 superseded, 3 dead letter) · place u16: which of the
//!    push's endpoints owes it no longer, counted from 0.
//! 3. **Event ids**: any number of key, 12 bytes · taken at, Unix ms, i64.
//! 4. **Carried**: a push that was written before, carried forward: sequence u64 · unsettled bytes, a bit for
//!    each of its endpoints, the first one lowest, set where it still owes · the rest as in a push.
//!
//! An endpoint is a u8 and what belongs to it: 1 an operator's, its name as text; 2 a repository's own, the
//! repository as text; 3 that of the push's own repository. A digest is bytes; its algorithm is told by its
//! length. Media types, as u8, are numbered in the order of [`MediaType::ALL`] from 1 on. An event id's key
//! is told in [`super::recent`].
//!
//! A kind that this version doesn't know comes from a newer one: then the journal is left alone.

use std::sync::Arc;

use super::{
    codec::{Decoder, Malformed},
    frame::Seed,
    recent::{EventKey, KEY_BYTES},
    unsettled::Unsettled,
};
use crate::{
    clock::Timestamp,
    image::{Digest, MediaType, RepositoryName, Tag},
    push::{EndpointId, Pair, Push, Reference, Sequence, Settlement},
};

mod write;

#[cfg(test)]
pub(super) use write::close;
pub(super) use write::{number_push, push_bytes_about, put_carried, put_event_ids, put_push, put_settled};

pub(super) const RECORD_HEADER_BYTES: usize = 12;

/// Where in a push's body its sequence number stands.
const SEQUENCE_BYTES: usize = 8;

/// Bytes of one remembered event id.
pub(super) const EVENT_ID_BYTES: usize = KEY_BYTES + 8;

const PUSH: u8 = 1;
const SETTLED: u8 = 2;
const EVENT_IDS: u8 = 3;
const CARRIED: u8 = 4;

const ENDPOINT_NAMED: u8 = 1;
const ENDPOINT_REPOSITORY: u8 = 2;
const ENDPOINT_OWN: u8 = 3;

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordError {
    /// They are not what was written.
    Malformed(&'static str),
    /// They are of a kind that only a newer version writes.
    Newer(u8),
}

impl From<Malformed> for RecordError {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::Malformed(reason)
    }
}

/// One record, its body not yet looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawRecord<'a> {
    kind: u8,
    head: &'a [u8],
    sum: u32,
    body: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Takes the record at the front of `bytes`, and returns it with what follows.
    pub(super) fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), RecordError> {
        let body_bytes = body_bytes(bytes)?;
        let (head, rest) = bytes
            .split_at_checked(RECORD_HEADER_BYTES)
            .ok_or(RecordError::Malformed("a record ends too early"))?;
        let (body, rest) = rest
            .split_at_checked(body_bytes)
            .ok_or(RecordError::Malformed("a record ends too early"))?;
        let mut decoder = Decoder::new(head);
        let head = decoder.bytes(8)?;
        let sum = decoder.u32()?;
        let kind = head.get(4).copied().unwrap_or_default();
        Ok((
            Self {
                kind,
                head,
                sum,
                body,
            },
            rest,
        ))
    }

    /// Whether it is as it was written. A record in a valid commit is.
    pub(super) fn is_intact(&self, seed: Seed) -> bool {
        seed.sum(&[self.head, self.body]) == self.sum
    }

    /// Its length in bytes, with its header.
    pub(super) fn bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.body.len()
    }

    pub(super) fn decode(&self) -> Result<Record<'a>, RecordError> {
        let mut decoder = Decoder::new(self.body);
        match self.kind {
            PUSH => Ok(Record::Push(PushHead::decode(decoder, Origin::New)?)),
            CARRIED => Ok(Record::Push(PushHead::decode(decoder, Origin::Carried)?)),
            SETTLED => {
                let sequence = decode_sequence(&mut decoder)?;
                let how = match decoder.u8()? {
                    1 => Settlement::Delivered,
                    2 => Settlement::Superseded,
                    3 => Settlement::DeadLetter,
                    _ => return Err(RecordError::Malformed("a settlement of no known kind")),
                };
                let place = u16::from_le_bytes(decoder.array()?);
                end(decoder)?;
                Ok(Record::Settled(Pair { sequence, place }, how))
            }
            EVENT_IDS => Ok(Record::EventIds(EventIds(decoder))),
            kind => Err(RecordError::Newer(kind)),
        }
    }
}

/// How long the body of the record at the front of `bytes` is.
pub(super) fn body_bytes(bytes: &[u8]) -> Result<usize, RecordError> {
    let bytes = Decoder::new(bytes).u32()?;
    usize::try_from(bytes).map_err(|_| RecordError::Malformed("a record is too long"))
}

/// One record.
#[derive(Clone, Debug)]
pub(super) enum Record<'a> {
    Push(PushHead<'a>),
    Settled(Pair, Settlement),
    EventIds(EventIds<'a>),
}

/// Whether a push in a record is a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    New,
    Carried,
}

/// The part of a push that recovery looks at in every push, with the rest not yet looked at. Its texts are not looked
/// into either.
#[derive(Clone, Debug)]
pub(super) struct PushHead<'a> {
    pub(super) sequence: Sequence,
    pub(super) taken_at: Timestamp,
    pub(super) event_id: &'a [u8],
    pub(super) repository: &'a [u8],
    /// How many endpoints owed it when it was taken.
    pub(super) owed: u16,
    /// In a copy that was carried forward: which pairs were unsettled then.
    pub(super) carried: Option<Unsettled>,
    /// From the endpoints on.
    rest: Decoder<'a>,
}

/// Where a push goes, as it stands in its record: the names in it are not looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses<'a> {
    pub(super) repository: &'a [u8],
    /// The endpoints that owed it when it was taken, and how many they are.
    pub(super) endpoints: &'a [u8],
    pub(super) owed: u16,
    /// By which tag it was pushed; empty for none.
    pub(super) tag: &'a [u8],
}

/// A push that is owed, as far as waiting for its turn takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordOwed {
    pub(super) repository: RepositoryName,
    pub(super) tag: Option<Tag>,
    pub(super) owed: Vec<EndpointId>,
}

impl<'a> PushHead<'a> {
    fn decode(mut decoder: Decoder<'a>, origin: Origin) -> Result<Self, RecordError> {
        let sequence = decode_sequence(&mut decoder)?;
        let unsettled = match origin {
            Origin::New => None,
            Origin::Carried => Some(decoder.sized()?),
        };
        let taken_at = Timestamp::from_unix_millis(decoder.i64()?);
        let event_id = decoder.sized()?;
        let repository = decoder.sized()?;
        let owed = u16::try_from(decoder.count()?)
            .map_err(|_| RecordError::Malformed("more endpoints owe a push than can be"))?;
        let carried = unsettled
            .map(|bytes| {
                Unsettled::from_bytes(bytes, owed).ok_or(RecordError::Malformed(
                    "the pairs of a push that was carried forward are not its own",
                ))
            })
            .transpose()?;
        Ok(Self {
            sequence,
            taken_at,
            event_id,
            repository,
            owed,
            carried,
            rest: decoder,
        })
    }

    /// Where it goes.
    pub(super) fn addresses(&self) -> Result<Addresses<'a>, RecordError> {
        let (mut decoder, rest) = (self.rest, self.rest.rest());
        for _ in 0..self.owed {
            skip_endpoint(&mut decoder)?;
        }
        let endpoints = rest.get(..rest.len() - decoder.rest().len());
        decoder.u8()?;
        decoder.varint()?;
        Ok(Addresses {
            repository: self.repository,
            endpoints: endpoints.unwrap_or_default(),
            owed: self.owed,
            tag: decoder.sized()?,
        })
    }

    /// Who owes it, and by which tag it was pushed.
    pub(super) fn to_owed(&self) -> Result<RecordOwed, RecordError> {
        let addresses = self.addresses()?;
        let repository = parse_repository(self.repository)?;
        Ok(RecordOwed {
            owed: decode_endpoints(&mut Decoder::new(addresses.endpoints), self.owed, &repository)?,
            tag: parse_tag(addresses.tag)?,
            repository,
        })
    }

    /// The whole push.
    pub(super) fn to_push(&self) -> Result<Push, RecordError> {
        let mut decoder = self.rest;
        let repository = parse_repository(self.repository)?;
        let owed = decode_endpoints(&mut decoder, self.owed, &repository)?;
        let media_type = decoder
            .u8()?
            .checked_sub(1)
            .and_then(|index| MediaType::ALL.get(usize::from(index)).copied())
            .ok_or(RecordError::Malformed("a media type of no known number"))?;
        let manifest_size = decoder.varint()?;
        let tag = parse_tag(decoder.sized()?)?;
        let digest = decode_digest(&mut decoder)?;
        let actor = decoder.text()?.to_owned();
        let references = (0..decoder.count()?)
            .map(|_| decode_reference(&mut decoder))
            .collect::<Result<_, _>>()?;
        end(decoder)?;
        Ok(Push {
            event_id: text(self.event_id)?.to_owned(),
            repository,
            tag,
            digest,
            media_type,
            manifest_size,
            references,
            actor,
            taken_at: self.taken_at,
            owed,
        })
    }
}

/// Remembered event ids.
#[derive(Clone, Debug)]
pub(super) struct EventIds<'a>(Decoder<'a>);

impl Iterator for EventIds<'_> {
    type Item = Result<(EventKey, Timestamp), RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut one = || -> Result<_, Malformed> {
            let key = EventKey(self.0.array()?);
            Ok((key, Timestamp::from_unix_millis(self.0.i64()?)))
        };
        Some(one().map_err(RecordError::from))
    }
}

fn text(bytes: &[u8]) -> Result<&str, RecordError> {
    std::str::from_utf8(bytes).map_err(|_| RecordError::Malformed("a text is not UTF-8"))
}

fn end(decoder: Decoder<'_>) -> Result<(), RecordError> {
    if decoder.is_empty() {
        Ok(())
    } else {
        Err(RecordError::Malformed("a record is longer than its content"))
    }
}

fn decode_sequence(decoder: &mut Decoder<'_>) -> Result<Sequence, RecordError> {
    Sequence::new(decoder.u64()?).ok_or(RecordError::Malformed("a sequence number is 0"))
}

/// So many endpoints, of which one may be that of the push's own repository.
pub(super) fn decode_endpoints(
    decoder: &mut Decoder<'_>,
    count: u16,
    own: &RepositoryName,
) -> Result<Vec<EndpointId>, RecordError> {
    (0..count).map(|_| decode_endpoint(decoder, own)).collect()
}

fn skip_endpoint(decoder: &mut Decoder<'_>) -> Result<(), RecordError> {
    match decoder.u8()? {
        ENDPOINT_NAMED | ENDPOINT_REPOSITORY => decoder.sized().map(drop)?,
        ENDPOINT_OWN => {}
        _ => return Err(RecordError::Malformed("an endpoint of no known kind")),
    }
    Ok(())
}

fn decode_endpoint(decoder: &mut Decoder<'_>, own: &RepositoryName) -> Result<EndpointId, RecordError> {
    match decoder.u8()? {
        ENDPOINT_NAMED => Ok(EndpointId::Named(Arc::from(decoder.text()?))),
        ENDPOINT_REPOSITORY => {
            Ok(EndpointId::Repository(decoder.text()?.parse().map_err(|_| {
                RecordError::Malformed("an endpoint's repository has no valid name")
            })?))
        }
        ENDPOINT_OWN => Ok(EndpointId::Repository(own.clone())),
        _ => Err(RecordError::Malformed("an endpoint of no known kind")),
    }
}

pub(super) fn parse_repository(name: &[u8]) -> Result<RepositoryName, RecordError> {
    let malformed = |_| RecordError::Malformed("a repository's name is not valid");
    text(name)?.parse().map_err(malformed)
}

fn parse_tag(tag: &[u8]) -> Result<Option<Tag>, RecordError> {
    let tag = (!tag.is_empty()).then(|| text(tag).map(str::parse)).transpose()?;
    tag.transpose()
        .map_err(|_| RecordError::Malformed("a tag is not valid"))
}

fn decode_digest(decoder: &mut Decoder<'_>) -> Result<Digest, RecordError> {
    Digest::from_bytes(decoder.sized()?).ok_or(RecordError::Malformed("a digest of no known length"))
}

fn decode_reference(decoder: &mut Decoder<'_>) -> Result<Reference, RecordError> {
    Ok(Reference {
        media_type: decoder.text()?.into(),
        size: decoder.varint()?,
        digest: decode_digest(decoder)?,
        has_urls: match decoder.u8()? {
            0 => false,
            1 => true,
            _ => return Err(RecordError::Malformed("a flag is neither 0 nor 1")),
        },
    })
}

#[cfg(test)]
pub(super) mod tests;
