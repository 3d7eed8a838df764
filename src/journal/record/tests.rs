//! Records round trip, and nothing else passes for one.

use proptest::{collection::vec, option, prelude::*};

use super::{write::put_record, *};
use crate::journal::JournalId;

fn seed() -> Seed {
    Seed::of(JournalId([3; 16]))
}

fn digests() -> impl Strategy<Value = Digest> {
    prop_oneof![vec(any::<u8>(), 32), vec(any::<u8>(), 48), vec(any::<u8>(), 64)]
        .prop_map(|bytes| Digest::from_bytes(&bytes).unwrap())
}

fn endpoints() -> impl Strategy<Value = EndpointId> {
    prop_oneof![
        "[a-z]{1,9}".prop_map(|name| EndpointId::Named(name.into())),
        "[a-b]{1,2}".prop_map(|name| EndpointId::Repository(name.parse().unwrap())),
    ]
}

fn references() -> impl Strategy<Value = Reference> {
    (".{0,20}", any::<u64>(), digests(), any::<bool>()).prop_map(|(media_type, size, digest, has_urls)| {
        Reference {
            media_type: media_type.into(),
            size,
            digest,
            has_urls,
        }
    })
}

pub(in crate::journal) fn pushes() -> impl Strategy<Value = Push> {
    let names = (".{0,40}", "[a-b]{1,2}", option::of("[a-z]{1,9}"), ".{0,20}");
    let kind = (digests(), 0..MediaType::ALL.len(), any::<u64>(), any::<i64>());
    let lists = (vec(references(), 0..4), vec(endpoints(), 0..4));
    (names, kind, lists).prop_map(
        |(
            (event_id, repository, tag, actor),
            (digest, media_type, manifest_size, taken_at),
            (references, owed),
        )| Push {
            event_id,
            repository: repository.parse().unwrap(),
            tag: tag.map(|tag| tag.parse().unwrap()),
            digest,
            media_type: MediaType::ALL[media_type],
            manifest_size,
            references,
            actor,
            taken_at: Timestamp::from_unix_millis(taken_at),
            owed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pushes_round_trip(push in pushes(), sequence in 1u64..) {
        let mut bytes = Vec::new();
        put_push(&mut bytes, seed(), &push);
        number_push(&mut bytes, seed(), Sequence::new(sequence).unwrap());
        let (raw, rest) = RawRecord::split(&bytes).unwrap();
        prop_assert!(rest.is_empty() && raw.is_intact(seed()));
        let Record::Push(head) = raw.decode().unwrap() else { panic!("no push") };
        prop_assert_eq!(head.sequence.get(), sequence);
        prop_assert_eq!(usize::from(head.owed), push.owed.len());
        let owed = head.to_owed().unwrap();
        prop_assert_eq!((&owed.repository, &owed.tag, &owed.owed), (&push.repository, &push.tag, &push.owed));
        prop_assert_eq!(head.to_push().unwrap(), push);
    }

    #[test]
    fn a_push_carried_twice_is_the_same_push_with_other_pairs(push in pushes(), first: u8, second: u8) {
        let mut bytes = Vec::new();
        put_push(&mut bytes, seed(), &push);
        number_push(&mut bytes, seed(), Sequence::FIRST);
        let owed = u16::try_from(push.owed.len()).unwrap();
        for bits in [first, second] {
            let Unsettled::Few(all) = Unsettled::all(owed) else { panic!("few") };
            let unsettled = Unsettled::Few(u32::from(bits) & all);
            let mut carried = Vec::new();
            put_carried(&mut carried, seed(), &RawRecord::split(&bytes).unwrap().0, &unsettled).unwrap();
            let (raw, rest) = RawRecord::split(&carried).unwrap();
            prop_assert!(rest.is_empty() && raw.is_intact(seed()));
            let Record::Push(head) = raw.decode().unwrap() else { panic!("no push") };
            prop_assert_eq!(head.carried.as_ref(), Some(&unsettled));
            prop_assert_eq!(head.to_push().unwrap(), push.clone());
            bytes = carried;
        }
    }

    #[test]
    fn settlements_round_trip(place: u16, sequence in 1u64.., how in 0usize..3) {
        let how = [Settlement::Delivered, Settlement::Superseded, Settlement::DeadLetter][how];
        let pair = Pair { sequence: Sequence::new(sequence).unwrap(), place };
        let mut bytes = Vec::new();
        put_settled(&mut bytes, seed(), pair, how);
        let (raw, rest) = RawRecord::split(&bytes).unwrap();
        prop_assert!(rest.is_empty() && raw.is_intact(seed()));
        let Record::Settled(got, kind) = raw.decode().unwrap() else {
            panic!("no settlement")
        };
        prop_assert_eq!((got, kind), (pair, how));
    }

    #[test]
    fn any_bytes_are_refused_or_decoded_but_never_panic(kind in 0u8..6, body in vec(any::<u8>(), 0..200)) {
        let mut bytes = Vec::new();
        put_record(&mut bytes, kind, |out| out.extend_from_slice(&body));
        let (raw, _) = RawRecord::split(&bytes).unwrap();
        match raw.decode() {
            Ok(Record::Push(head)) => drop((head.to_push(), head.to_owed())),
            Ok(Record::EventIds(ids)) => drop(ids.take(100).collect::<Vec<_>>()),
            Ok(Record::Settled(..)) | Err(_) => {}
        }
        let _ = RawRecord::split(&body);
    }
}

#[test]
fn event_ids_round_trip_and_half_an_id_is_refused() {
    let ids = [
        (EventKey([1; KEY_BYTES]), Timestamp::from_unix_millis(-5)),
        (EventKey([2; KEY_BYTES]), Timestamp::from_unix_millis(7)),
    ];
    let mut bytes = Vec::new();
    put_event_ids(&mut bytes, seed(), &ids);
    let (raw, _) = RawRecord::split(&bytes).unwrap();
    let Record::EventIds(got) = raw.decode().unwrap() else {
        panic!("no event ids")
    };
    assert_eq!(got.collect::<Result<Vec<_>, _>>().unwrap(), ids);
    let mut half = Vec::new();
    put_record(&mut half, EVENT_IDS, |out| out.extend_from_slice(&[0; 10]));
    let Record::EventIds(mut got) = RawRecord::split(&half).unwrap().0.decode().unwrap() else {
        panic!("no event ids")
    };
    assert!(got.next().unwrap().is_err());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let mut bytes = Vec::new();
    let pair = Pair {
        sequence: Sequence::FIRST,
        place: 7,
    };
    put_settled(&mut bytes, seed(), pair, Settlement::Delivered);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!RawRecord::split(&flipped).is_ok_and(|(raw, _)| raw.is_intact(seed())));
    }
}

#[test]
fn an_unknown_kind_is_a_newer_versions() {
    let mut bytes = Vec::new();
    put_record(&mut bytes, 9, |_| {});
    let (raw, _) = RawRecord::split(&bytes).unwrap();
    assert_eq!(raw.decode().unwrap_err(), RecordError::Newer(9));
}
