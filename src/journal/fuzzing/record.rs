//! Any bytes as a record.

use crate::{
    journal::{
        JournalId,
        frame::Seed,
        record::{
            EVENT_ID_BYTES, EventIds, PushHead, RawRecord, Record, number_push, put_carried, put_event_ids,
            put_push, put_settled,
        },
        unsettled::Unsettled,
    },
    push::{Pair, Push, Sequence, Settlement},
};

fn seed() -> Seed {
    Seed::of(JournalId([7; 16]))
}

pub(crate) fn record(bytes: &[u8]) {
    let Ok((raw, rest)) = RawRecord::split(bytes) else {
        return;
    };
    assert_eq!(raw.bytes() + rest.len(), bytes.len());
    match raw.decode() {
        Ok(Record::Push(head)) => check_push(&raw, &head),
        Ok(Record::Settled(pair, how)) => check_settled(&raw, pair, how),
        Ok(Record::EventIds(ids)) => check_event_ids(&raw, ids),
        Err(_) => {}
    }
}

/// A push survives being written and read.
pub(crate) fn keeps(push: &Push) {
    let mut bytes = Vec::new();
    put_push(&mut bytes, seed(), push);
    number_push(&mut bytes, seed(), Sequence::FIRST);
    let head = pushed(&bytes);
    assert_eq!((head.sequence, &head.carried), (Sequence::FIRST, &None));
    assert_eq!(
        head.to_push().as_ref(),
        Ok(push),
        "written, a push reads differently"
    );
}

/// The push in `bytes`, which is one intact record.
fn pushed(bytes: &[u8]) -> PushHead<'_> {
    let intact = RawRecord::split(bytes)
        .ok()
        .filter(|(raw, rest)| rest.is_empty() && raw.is_intact(seed()));
    match intact.map(|(raw, _)| raw.decode()) {
        Some(Ok(Record::Push(head))) => head,
        other => panic!("written, a push reads as {other:?}"),
    }
}

fn check_push(raw: &RawRecord<'_>, head: &PushHead<'_>) {
    let owed = head.to_owed();
    if let Ok(owed) = &owed {
        assert_eq!(owed.owed.len(), usize::from(head.owed));
    }
    if let Ok(push) = head.to_push() {
        let Ok(owed) = owed else {
            panic!("a push can be read, but not who owes it")
        };
        assert_eq!((&owed.repository, &owed.tag), (&push.repository, &push.tag));
        assert_eq!(owed.owed, push.owed);
        check_size(raw, &push);
        keeps(&push);
    }
    check_carried(raw, head);
}

/// What was set aside for a push is in proportion to its record.
fn check_size(raw: &RawRecord<'_>, push: &Push) {
    let text: usize = push.references.iter().map(|it| it.media_type.len()).sum();
    let counted = push.owed.len() + push.references.len() + text + push.actor.len() + push.event_id.len();
    assert!(
        counted <= raw.bytes(),
        "{counted} bytes were read from {}",
        raw.bytes()
    );
    assert!(push.references.capacity() <= 4 + 2 * push.references.len());
    assert!(push.owed.capacity() <= 4 + 2 * push.owed.len());
}

/// A copy that is carried forward is the same push, and owes what it is told to.
fn check_carried(raw: &RawRecord<'_>, head: &PushHead<'_>) {
    let all = Unsettled::all(head.owed);
    for unsettled in [head.carried.clone().unwrap_or_else(|| all.clone()), all] {
        let mut bytes = Vec::new();
        assert_eq!(put_carried(&mut bytes, seed(), raw, &unsettled), Ok(()));
        let copy = pushed(&bytes);
        assert_eq!((copy.sequence, copy.owed), (head.sequence, head.owed));
        assert_eq!((copy.taken_at, copy.event_id), (head.taken_at, head.event_id));
        assert_eq!((copy.to_push(), copy.to_owed()), (head.to_push(), head.to_owed()));
        assert_eq!(copy.carried, Some(unsettled));
    }
}

fn check_settled(raw: &RawRecord<'_>, pair: Pair, how: Settlement) {
    let mut bytes = Vec::new();
    put_settled(&mut bytes, seed(), pair, how);
    assert_eq!(bytes.len(), raw.bytes());
    match RawRecord::split(&bytes).and_then(|(raw, _)| raw.decode()) {
        Ok(Record::Settled(again, kind)) => assert_eq!((again, kind), (pair, how)),
        other => panic!("written, a settlement reads as {other:?}"),
    }
}

fn check_event_ids(raw: &RawRecord<'_>, ids: EventIds<'_>) {
    // Half an id at the end is an error, and so is every look behind it.
    let ids: Vec<_> = ids.map_while(Result::ok).collect();
    assert!(ids.len() * EVENT_ID_BYTES <= raw.bytes());
    let mut bytes = Vec::new();
    put_event_ids(&mut bytes, seed(), &ids);
    match RawRecord::split(&bytes).and_then(|(raw, _)| raw.decode()) {
        Ok(Record::EventIds(again)) => assert_eq!(again.collect::<Result<Vec<_>, _>>(), Ok(ids)),
        other => panic!("written, event ids read as {other:?}"),
    }
}

/// The records of the journals that [`super::journals`] makes.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use super::script::{frames, records};
    let journals = super::journals::all().iter();
    let segments = journals
        .flat_map(|journal| &journal.files)
        .map(|(_, bytes)| bytes);
    let mut seeds: Vec<Vec<u8>> = segments
        .flat_map(|bytes| frames(bytes).into_iter().map(|frame| &bytes[frame]))
        .flat_map(|frame| records(frame).into_iter().map(|record| frame[record].to_vec()))
        .collect();
    seeds.sort();
    seeds.dedup();
    seeds
}
