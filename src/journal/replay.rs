//! What the records of all segments amount to: who still owes what, and which event ids are remembered.
//!
//! Segments are read twice. The first reading checks every byte and keeps, of each unsettled pair, no more
//! than two numbers; so a journal that held far more pushes than are pending now doesn't need memory for all
//! of them. The second reading decodes the pending pushes, and skips the segments that have none.

use std::collections::{HashMap, HashSet};

use super::{
    Durable, Position,
    recent::{EventKey, Found, KEPT_MAX, newest_of_each},
    record::{EndpointRef, PushHead, RawRecord, Record, RecordError},
    scan::Commit,
};
use crate::push::{EndpointId, Sequence, Settlement};

/// Found ids are thinned out when there are this many.
const FOUND_MAX: usize = KEPT_MAX + KEPT_MAX / 4;

/// Endpoints seen so far, each known by a number.
#[derive(Debug, Default)]
struct Endpoints {
    ids: Vec<EndpointId>,
    named: HashMap<String, u32>,
    repositories: HashMap<String, u32>,
}

impl Endpoints {
    fn number(&mut self, endpoint: EndpointRef<'_>) -> Result<u32, RecordError> {
        let (known, name) = match endpoint {
            EndpointRef::Named(name) => (&mut self.named, name),
            EndpointRef::Repository(name) => (&mut self.repositories, name),
        };
        if let Some(number) = known.get(name) {
            return Ok(*number);
        }
        let number = u32::try_from(self.ids.len())
            .map_err(|_| RecordError::Malformed("there are more endpoints than can be"))?;
        self.ids.push(endpoint.to_id()?);
        known.insert(name.to_owned(), number);
        Ok(number)
    }

    fn id(&mut self, endpoint: EndpointRef<'_>) -> Result<EndpointId, RecordError> {
        let number = self.number(endpoint)?;
        let id = usize::try_from(number).ok().and_then(|index| self.ids.get(index));
        // The number was given out just now or before.
        id.cloned()
            .ok_or(RecordError::Malformed("an endpoint has no number"))
    }
}

/// The state of the journal after the commits replayed so far.
#[derive(Debug)]
pub(super) struct Replay {
    endpoints: Endpoints,
    /// The unsettled pairs, and the segment in which each one's push was seen last.
    unsettled: HashMap<(Sequence, u32), u64>,
    found: Vec<Found>,
    pub(super) next_sequence: Sequence,
}

impl Replay {
    pub(super) fn new(next_sequence: Sequence) -> Self {
        Self {
            endpoints: Endpoints::default(),
            unsettled: HashMap::new(),
            found: Vec::new(),
            next_sequence,
        }
    }

    /// First reading: takes in one commit. An error tells the offset of the record it is about.
    pub(super) fn take(&mut self, segment: u64, commit: &Commit<'_>) -> Result<(), (u64, RecordError)> {
        for_each_record(commit, |_, record| match record {
            Record::Push(push) => self.take_push(segment, &push),
            Record::Settled {
                sequence, endpoint, ..
            } => self.take_settled(sequence, endpoint).map(drop),
            Record::EventIds(ids) => {
                for id in ids {
                    let (key, taken_at) = id?;
                    self.find(Found {
                        key,
                        taken_at,
                        segment,
                    });
                }
                Ok(())
            }
        })
    }

    fn take_push(&mut self, segment: u64, push: &PushHead<'_>) -> Result<(), RecordError> {
        if push.sequence > self.next_sequence {
            return Err(RecordError::Malformed(
                "sequence numbers are missing before this push",
            ));
        }
        if push.sequence == self.next_sequence {
            self.next_sequence = push.sequence.next();
        }
        for endpoint in &push.owed {
            let endpoint = self.endpoints.number(*endpoint)?;
            self.unsettled.insert((push.sequence, endpoint), segment);
        }
        if let Some(key) = EventKey::of(push.event_id) {
            self.find(Found {
                key,
                taken_at: push.taken_at,
                segment,
            });
        }
        Ok(())
    }

    fn find(&mut self, found: Found) {
        if self.found.len() >= FOUND_MAX {
            newest_of_each(&mut self.found, KEPT_MAX);
        }
        self.found.push(found);
    }

    fn take_settled(
        &mut self,
        sequence: Sequence,
        endpoint: EndpointRef<'_>,
    ) -> Result<Option<u64>, RecordError> {
        let endpoint = self.endpoints.number(endpoint)?;
        // A settlement outlives its push: then there is nothing to remove.
        Ok(self.unsettled.remove(&(sequence, endpoint)))
    }

    /// Takes in a settlement that was told but not committed; tells whether it settled anything.
    pub(super) fn take_uncommitted(
        &mut self,
        record: &RawRecord<'_>,
    ) -> Option<(Sequence, EndpointId, Settlement, u64)> {
        let Ok(Record::Settled {
            sequence,
            endpoint,
            how,
        }) = record.decode()
        else {
            return None;
        };
        let segment = self.take_settled(sequence, endpoint).ok()??;
        Some((sequence, endpoint.to_id().ok()?, how, segment))
    }

    /// The segments in which there is a pending push.
    pub(super) fn pending_segments(&self) -> HashSet<u64> {
        self.unsettled.values().copied().collect()
    }

    /// Second reading: adds the pending pushes of one commit.
    pub(super) fn collect(
        &mut self,
        segment: u64,
        commit: &Commit<'_>,
        pending: &mut Vec<Durable>,
    ) -> Result<(), (u64, RecordError)> {
        for_each_record(commit, |offset, record| {
            let Record::Push(mut push) = record else {
                return Ok(());
            };
            push.owed.retain(|endpoint| {
                self.endpoints
                    .number(*endpoint)
                    .is_ok_and(|endpoint| self.unsettled.contains_key(&(push.sequence, endpoint)))
            });
            if push.owed.is_empty() {
                return Ok(());
            }
            pending.push(Durable {
                sequence: push.sequence,
                position: Position {
                    segment,
                    offset: u32::try_from(offset)
                        .map_err(|_| RecordError::Malformed("a segment is larger than 4 GiB"))?,
                },
                push: push.to_push(|endpoint| self.endpoints.id(endpoint))?,
            });
            Ok(())
        })
    }

    /// What was found of event ids.
    pub(super) fn into_found(self) -> Vec<Found> {
        self.found
    }
}

/// Sorts by sequence number; of a push that was carried forward, the last copy counts.
pub(super) fn in_order(pending: &mut Vec<Durable>) {
    pending.sort_by_key(|durable| durable.sequence);
    pending.dedup_by(|later, earlier| {
        let is_same = later.sequence == earlier.sequence;
        if is_same {
            std::mem::swap(later, earlier);
        }
        is_same
    });
}

fn for_each_record(
    commit: &Commit<'_>,
    mut take: impl FnMut(u64, Record<'_>) -> Result<(), RecordError>,
) -> Result<(), (u64, RecordError)> {
    let mut rest = commit.payload;
    while !rest.is_empty() {
        let offset = commit.end() - rest.len() as u64;
        let here = |error| (offset, error);
        let (raw, behind) = RawRecord::split(rest).map_err(here)?;
        take(offset, raw.decode().map_err(here)?).map_err(here)?;
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        clock::Timestamp,
        image::{Digest, MediaType},
        journal::{JournalId, frame::Seed, record},
        push::Push,
    };

    fn seed() -> Seed {
        Seed::of(JournalId([1; 16]))
    }

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    fn named(name: &str) -> EndpointId {
        EndpointId::Named(Arc::from(name))
    }

    fn put_push(out: &mut Vec<u8>, number: u64, owed: &[&str]) {
        let push = Push {
            event_id: number.to_string(),
            repository: "acme/app".parse().unwrap(),
            tag: None,
            digest: Digest::sha256(b""),
            media_type: MediaType::OciIndex,
            manifest_size: 0,
            references: Vec::new(),
            actor: String::new(),
            taken_at: Timestamp::from_unix_millis(0),
            owed: owed.iter().copied().map(named).collect(),
        };
        let start = out.len();
        record::put_push(out, &push);
        record::number_push(&mut out[start..], seed(), sequence(number));
    }

    fn put_settled(out: &mut Vec<u8>, number: u64, endpoint: &str) {
        let how = Settlement::Delivered;
        record::put_settled(out, seed(), sequence(number), &named(endpoint), how);
    }

    fn commit(payload: &[u8]) -> Commit<'_> {
        Commit {
            number: 1,
            payload_at: 156,
            payload,
        }
    }

    /// The pending pushes, each as sequence number, segment and endpoints.
    fn replayed(first: u64, segments: &[(u64, Vec<u8>)]) -> Vec<(u64, u64, Vec<EndpointId>)> {
        let mut replay = Replay::new(sequence(first));
        for (segment, payload) in segments {
            replay.take(*segment, &commit(payload)).unwrap();
        }
        let pending_segments = replay.pending_segments();
        let mut pending = Vec::new();
        for (segment, payload) in segments {
            if pending_segments.contains(segment) {
                replay.collect(*segment, &commit(payload), &mut pending).unwrap();
            }
        }
        in_order(&mut pending);
        let short = |durable: Durable| {
            (
                durable.sequence.get(),
                durable.position.segment,
                durable.push.owed,
            )
        };
        pending.into_iter().map(short).collect()
    }

    #[test]
    fn a_push_carried_forward_keeps_its_place_and_owes_once() {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        put_push(&mut old, 1, &["a", "b", "c"]);
        put_push(&mut old, 2, &["a"]);
        put_settled(&mut new, 1, "a");
        put_push(&mut new, 1, &["b", "c"]);
        put_settled(&mut new, 1, "b");
        put_push(&mut new, 3, &["a"]);
        let expected = [
            (1, 2, vec![named("c")]),
            (2, 1, vec![named("a")]),
            (3, 2, vec![named("a")]),
        ];
        assert_eq!(replayed(1, &[(1, old), (2, new.clone())]), expected);
        // Once the old segment is gone, settlements of its pushes mean nothing any more.
        assert_eq!(
            replayed(3, &[(2, new)]),
            [(1, 2, vec![named("c")]), (3, 2, vec![named("a")])]
        );
    }

    #[test]
    fn a_gap_in_the_sequence_is_damage() {
        let mut payload = Vec::new();
        put_push(&mut payload, 3, &["a"]);
        let mut replay = Replay::new(sequence(2));
        assert_eq!(replay.take(1, &commit(&payload)).unwrap_err().0, 156);
    }
}
