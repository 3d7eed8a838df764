//! Writing records: the other half of what [`record`](super) reads.

use super::{
    super::{
        codec::{Decoder, put_sized, put_varint},
        frame::Seed,
        recent::EventKey,
        sum,
        unsettled::Unsettled,
    },
    CARRIED, ENDPOINT_NAMED, ENDPOINT_OWN, ENDPOINT_REPOSITORY, EVENT_IDS, PUSH, RECORD_HEADER_BYTES,
    RawRecord, Record, RecordError, SEQUENCE_BYTES, SETTLED,
};
use crate::{
    clock::Timestamp,
    image::MediaType,
    push::{EndpointId, Pair, Push, Sequence, Settlement},
};

/// About how many bytes the push's record has, and hardly ever less: to set room aside.
pub(in crate::journal) fn push_bytes_about(push: &Push) -> usize {
    /// Of what every push has: the record's header, numbers, a digest, and the lengths of texts.
    const FIXED: usize = 96;
    /// The same of an endpoint.
    const ENDPOINT: usize = 4;
    /// The same of a reference.
    const REFERENCE: usize = 48;
    let owed = push.owed.iter().map(|endpoint| match endpoint {
        EndpointId::Named(name) => ENDPOINT + name.len(),
        EndpointId::Repository(name) => ENDPOINT + name.as_str().len(),
    });
    let references = push.references.iter();
    let references = references.map(|reference| REFERENCE + reference.media_type.len());
    let texts = push.event_id.len() + push.repository.as_str().len() + push.actor.len();
    let tag = push.tag.as_ref().map_or(0, |tag| tag.as_str().len());
    FIXED + texts + tag + owed.sum::<usize>() + references.sum::<usize>()
}

/// Appends a push's record, with 0 for its sequence number: [`number_push`] gives it one.
pub(in crate::journal) fn put_push(out: &mut Vec<u8>, seed: Seed, push: &Push) {
    let start = out.len();
    put_record(out, PUSH, |out| {
        out.extend_from_slice(&[0; SEQUENCE_BYTES]);
        out.extend_from_slice(&push.taken_at.unix_millis().to_le_bytes());
        put_sized(out, push.event_id.as_bytes());
        put_sized(out, push.repository.as_str().as_bytes());
        put_varint(out, push.owed.len() as u64);
        for endpoint in &push.owed {
            match endpoint {
                EndpointId::Repository(name) if *name == push.repository => out.push(ENDPOINT_OWN),
                _ => put_endpoint(out, endpoint),
            }
        }
        let media_type = MediaType::ALL
            .iter()
            .zip(1u8..)
            .find_map(|(media_type, number)| (*media_type == push.media_type).then_some(number));
        out.push(media_type.unwrap_or_default());
        put_varint(out, push.manifest_size);
        put_sized(out, push.tag.as_ref().map_or("", |tag| tag.as_str()).as_bytes());
        put_sized(out, push.digest.bytes());
        put_sized(out, push.actor.as_bytes());
        put_varint(out, push.references.len() as u64);
        for reference in &push.references {
            put_sized(out, reference.media_type.as_bytes());
            put_varint(out, reference.size);
            put_sized(out, reference.digest.bytes());
            out.push(u8::from(reference.has_urls));
        }
    });
    close(out.get_mut(start..).unwrap_or_default(), seed);
}

/// Gives a record that [`put_push`] made its sequence number.
pub(in crate::journal) fn number_push(record: &mut [u8], seed: Seed, sequence: Sequence) {
    let Some((header, body)) = record.split_first_chunk_mut::<RECORD_HEADER_BYTES>() else {
        return;
    };
    let Some((place, behind)) = body.split_first_chunk_mut::<SEQUENCE_BYTES>() else {
        return;
    };
    *place = sequence.get().to_le_bytes();
    // Where there were zeros, the difference is the number itself.
    let Some(change) = sum::change(place, behind.len()) else {
        return close(record, seed);
    };
    let [.., a, b, c, d] = *header;
    let sum = u32::from_le_bytes([a, b, c, d]) ^ change;
    header[8..].copy_from_slice(&sum.to_le_bytes());
}

/// Appends a settlement's record.
pub(in crate::journal) fn put_settled(out: &mut Vec<u8>, seed: Seed, pair: Pair, how: Settlement) {
    let start = out.len();
    put_record(out, SETTLED, |out| {
        out.extend_from_slice(&pair.sequence.get().to_le_bytes());
        out.push(match how {
            Settlement::Delivered => 1,
            Settlement::Superseded => 2,
            Settlement::DeadLetter => 3,
        });
        out.extend_from_slice(&pair.place.to_le_bytes());
    });
    close(out.get_mut(start..).unwrap_or_default(), seed);
}

/// Appends the record of a push that is carried forward, made of the one that it has.
///
/// # Errors
/// `raw` is no push's record.
pub(in crate::journal) fn put_carried(
    out: &mut Vec<u8>,
    seed: Seed,
    raw: &RawRecord<'_>,
    unsettled: &Unsettled,
) -> Result<(), RecordError> {
    let Record::Push(head) = raw.decode()? else {
        return Err(RecordError::Malformed("there is no push's record"));
    };
    let mut decoder = Decoder::new(raw.body);
    let sequence: [u8; SEQUENCE_BYTES] = decoder.array()?;
    if head.carried.is_some() {
        decoder.sized()?;
    }
    let start = out.len();
    put_record(out, CARRIED, |out| {
        out.extend_from_slice(&sequence);
        put_sized(out, &unsettled.to_bytes(head.owed));
        out.extend_from_slice(decoder.rest());
    });
    close(out.get_mut(start..).unwrap_or_default(), seed);
    Ok(())
}

/// Appends a record of remembered event ids.
pub(in crate::journal) fn put_event_ids(out: &mut Vec<u8>, seed: Seed, ids: &[(EventKey, Timestamp)]) {
    let start = out.len();
    put_record(out, EVENT_IDS, |out| {
        for (key, taken_at) in ids {
            out.extend_from_slice(&key.0);
            out.extend_from_slice(&taken_at.unix_millis().to_le_bytes());
        }
    });
    close(out.get_mut(start..).unwrap_or_default(), seed);
}

fn put_endpoint(out: &mut Vec<u8>, endpoint: &EndpointId) {
    match endpoint {
        EndpointId::Named(name) => {
            out.push(ENDPOINT_NAMED);
            put_sized(out, name.as_bytes());
        }
        EndpointId::Repository(name) => {
            out.push(ENDPOINT_REPOSITORY);
            put_sized(out, name.as_str().as_bytes());
        }
    }
}

/// Appends a record's header and the body that `body` writes; its crc is left open.
pub(super) fn put_record(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind, 0, 0, 0, 0, 0, 0, 0]);
    body(out);
    let body_bytes = out.len() - start - RECORD_HEADER_BYTES;
    // Longer than this, an append is refused before it gets anywhere near the disk.
    let body_bytes = u32::try_from(body_bytes).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&body_bytes.to_le_bytes());
    }
}

/// Sets the crc of a record that is otherwise complete.
pub(in crate::journal) fn close(record: &mut [u8], seed: Seed) {
    let Some((header, body)) = record.split_first_chunk_mut::<RECORD_HEADER_BYTES>() else {
        return;
    };
    let sum = seed.sum(&[&header[0..8], body]);
    header[8..].copy_from_slice(&sum.to_le_bytes());
}
