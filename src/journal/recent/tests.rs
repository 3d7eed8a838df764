//! What is remembered, and for how long.

use super::*;

fn key(number: usize) -> EventKey {
    // Spread like a hash, without the time a million hashes take.
    let spread = (number as u128 + 1)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
        .to_be_bytes();
    EventKey(*spread.first_chunk().unwrap())
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(millis)
}

const HOUR_MS: i64 = 3_600_000;

#[test]
fn a_uuid_is_its_own_key_and_anything_like_it_is_hashed() {
    let id = "0198e6a4-7c1b-7f00-a1b2-c3d4e5f60718";
    let bits = 0x7d83_99a4_a1b2_c3d4_e5f6_0718_u128.to_be_bytes();
    assert_eq!(EventKey::of(id).unwrap().0, bits[4..]);
    for other in [
        id.to_uppercase(),
        id.replace('-', "0"),
        format!("{id} "),
        id.replace('a', "g"),
        // Of a version that tells the time, and of one that means what its maker likes.
        id.replace("-7f00-", "-1f00-"),
        id.replace("-7f00-", "-8f00-"),
        id.replace("-a1b2-", "-21b2-"),
    ] {
        let hash = sha2::Sha256::digest(other.as_bytes());
        assert_eq!(EventKey::of(&other).unwrap().0, hash[..KEY_BYTES], "{other}");
    }
    assert_eq!(EventKey::of(""), None);
}

#[test]
fn each_character_of_a_uuid_is_a_digit_in_lower_case_or_the_dash_that_belongs_there() {
    let id = *b"0123abcd-89ef-7f00-a1b2-c3d4e5f60718";
    for place in 0..id.len() {
        for character in 0..=255 {
            let mut text = id;
            text[place] = character;
            let digits: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'-').collect();
            let is_right = match place {
                8 | 13 | 18 | 23 => character == b'-',
                _ => character.is_ascii_digit() || (b'a'..=b'f').contains(&character),
            };
            let bits = is_right.then(|| {
                let digits = String::from_utf8(digits).unwrap();
                u128::from_str_radix(&digits, 16).unwrap().to_be_bytes()
            });
            assert_eq!(uuid(&text), bits, "{}", String::from_utf8_lossy(&text));
        }
    }
    assert_eq!(uuid(&id[1..]), None);
}

#[test]
fn ids_of_one_machine_that_differ_in_their_time_alone_are_not_taken_for_each_other() {
    let of = |time: u64| {
        let (low, middle, high) = (time & 0xffff_ffff, time >> 32 & 0xffff, time >> 48 & 0xfff);
        EventKey::of(format!("{low:08x}-{middle:04x}-1{high:03x}-9c7a-0242ac120002")).unwrap()
    };
    // Folded, the second would be the first.
    assert_ne!(of(1 << 32), of(1));
    let keys: std::collections::HashSet<[u8; KEY_BYTES]> = (0..20_000)
        .map(|number| of(0x1ef_a3b2_c4d5_e600 + number * 0x1_0000_0001).0)
        .collect();
    assert_eq!(keys.len(), 20_000);
}

#[test]
fn ids_that_only_count_up_are_spread_all_the_same() {
    // Of 2^17 places at most some 7 are hit so often by chance.
    for step in 0..24 {
        let mut hits = vec![0u8; 1 << 17];
        for number in 0..100_000u32 {
            let mut key = [0x5a; KEY_BYTES];
            let bytes = (u64::from(number) << step).to_be_bytes();
            for (byte, counted) in key[4..].iter_mut().zip(bytes) {
                *byte ^= counted;
            }
            hits[usize::try_from(EventKey(key).hash() % (1 << 17)).unwrap()] += 1;
        }
        let most = hits.iter().max().unwrap();
        assert!(*most <= 16, "{most} ids at one place, counted from bit {step} on");
    }
}

#[test]
fn the_newest_are_kept_whatever_their_age_and_the_young_up_to_a_bound() {
    let mut recent = Recent::default();
    for number in 0..KEPT + 10 {
        recent.push(key(number), at(0));
    }
    recent.forget(at(HOUR_MS - 1), recent.end());
    assert_eq!(recent.len(), KEPT + 10);
    recent.forget(at(HOUR_MS), recent.end());
    assert_eq!(recent.len(), KEPT);
    assert_eq!(recent.place(key(9)), None);
    assert_eq!(recent.place(key(10)), Some(10));
    for number in recent.len() + 10..KEPT_MAX + 15 {
        recent.push(key(number), at(HOUR_MS));
    }
    recent.forget(at(HOUR_MS), recent.end());
    assert!(recent.len() <= KEPT_MAX);
    assert_eq!(recent.place(key(14)), None);
    assert!(recent.place(key(KEPT_MAX + 14)).is_some());
}

#[test]
fn ids_that_may_be_taken_back_push_none_out() {
    let mut recent = Recent::default();
    for number in 0..KEPT {
        recent.push(key(number), at(0));
    }
    let durable = recent.end();
    for number in 0..10 {
        recent.push(key(KEPT + number), at(0));
    }
    recent.forget(at(HOUR_MS), durable);
    recent.take_back(durable);
    assert_eq!(recent.place(key(0)), Some(0));
    assert_eq!(recent.len(), KEPT);
}

#[test]
fn ids_of_a_failed_commit_are_taken_back() {
    let mut recent = Recent::default();
    recent.push(key(1), at(0));
    let mark = recent.end();
    recent.push(key(2), at(0));
    recent.push(key(3), at(0));
    recent.take_back(mark);
    assert_eq!((recent.place(key(1)), recent.place(key(2))), (Some(0), None));
    recent.push(key(2), at(0));
    assert_eq!(recent.place(key(2)), Some(1));
}

#[test]
fn ids_know_the_segment_that_holds_them() {
    let mut recent = Recent::default();
    for number in 0..6 {
        recent.push(key(number), at(0));
        let place = number as u64;
        recent.settle_in(place..place + 1, 1 + place / 2);
    }
    assert_eq!(recent.count_in(1), 2);
    assert_eq!(
        recent.ids_in(2).map(|(key, _)| key).collect::<Vec<_>>(),
        [key(2), key(3)]
    );
    recent.move_home(1, 1, 3);
    assert_eq!((recent.count_in(1), recent.count_in(3)), (1, 3));
    recent.move_home(1, 5, 3);
    assert_eq!((recent.count_in(1), recent.count_in(3)), (0, 4));
}
