//! The event ids taken lately, so that a push that the registry sends again is not taken again.
//!
//! Remembered are the newest [`KEPT`] ids whatever their age, and any younger than [`KEPT_AGE`] up to
//! [`KEPT_MAX`]. Each has a *home*, the segment whose deletion would lose it on disk; before that segment
//! goes, its ids are written again and get a new home.
//!
//! A million ids take some 35 MiB: 24 bytes each in a ring, and 5 in a table of places within the ring.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

use hashbrown::HashTable;
use sha2::Digest as _;

use crate::clock::Timestamp;

/// So many ids are remembered whatever their age.
pub(super) const KEPT: usize = 100_000;

/// Ids younger than this are remembered beyond [`KEPT`].
pub(super) const KEPT_AGE: Duration = Duration::from_hours(1);

/// No more ids than this are remembered.
pub(super) const KEPT_MAX: usize = 1_000_000;

/// An event id's SHA-256, its first 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EventKey(pub(super) [u8; 16]);

impl EventKey {
    /// The key of an event id; none for the empty one, which is nobody's.
    pub(super) fn of(event_id: &str) -> Option<Self> {
        if event_id.is_empty() {
            return None;
        }
        let hash = sha2::Sha256::digest(event_id.as_bytes());
        hash.first_chunk().copied().map(Self)
    }

    /// The key is a hash already: any of its bits will do for the table.
    fn hash(self) -> u64 {
        self.0.first_chunk().copied().map_or(0, u64::from_le_bytes)
    }
}

/// An id's place in the order of all ids since the start.
pub(super) type Place = u64;

/// An id as recovery finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) key: EventKey,
    pub(super) taken_at: Timestamp,
    pub(super) segment: u64,
}

/// The ids, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ring: VecDeque<(EventKey, Timestamp)>,
    /// The place of the ring's first id.
    front: Place,
    /// The low 32 bits of the place of each id in the ring.
    table: HashTable<u32>,
    /// Which places have their home in which segment. Places in front of the ring are forgotten.
    homes: BTreeMap<u64, Vec<Range<Place>>>,
}

impl Recent {
    /// The place behind the newest id.
    pub(super) fn end(&self) -> Place {
        self.front + self.ring.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Where the id is, if it is remembered.
    pub(super) fn place(&self, key: EventKey) -> Option<Place> {
        let (ring, front) = (&self.ring, self.front);
        self.table
            .find(key.hash(), |place| {
                ring.get(index(*place, front))
                    .is_some_and(|(known, _)| *known == key)
            })
            .map(|place| front + index(*place, front) as u64)
    }

    /// Remembers an id that is not remembered yet.
    pub(super) fn push(&mut self, key: EventKey, taken_at: Timestamp) {
        let place = low(self.end());
        self.ring.push_back((key, taken_at));
        let (ring, front) = (&self.ring, self.front);
        self.table.insert_unique(key.hash(), place, |place| {
            ring.get(index(*place, front)).map_or(0, |(key, _)| key.hash())
        });
    }

    /// Takes back every id from that place on.
    pub(super) fn take_back(&mut self, end: Place) {
        while self.end() > end {
            let Some((key, _)) = self.ring.pop_back() else {
                break;
            };
            self.untable(key, low(self.end()));
        }
    }

    /// Says that the ids from that place on are in the segment now.
    pub(super) fn settle_in(&mut self, from: Place, segment: u64) {
        let end = self.end();
        if from < end {
            add(self.homes.entry(segment).or_default(), from..end);
        }
    }

    /// Forgets what need not be remembered any more.
    pub(super) fn forget(&mut self, now: Timestamp) {
        while let Some((key, taken_at)) = self.ring.front().copied() {
            let is_old = now.since(taken_at) >= KEPT_AGE;
            if self.ring.len() <= KEPT || (!is_old && self.ring.len() <= KEPT_MAX) {
                return;
            }
            self.ring.pop_front();
            self.untable(key, low(self.front));
            self.front += 1;
        }
    }

    /// How many ids would go with the segment.
    pub(super) fn count_in(&self, segment: u64) -> u64 {
        self.ranges_in(segment).map(|range| range.end - range.start).sum()
    }

    /// The ids that would go with the segment.
    pub(super) fn ids_in(&self, segment: u64) -> impl Iterator<Item = (EventKey, Timestamp)> {
        self.ranges_in(segment)
            .flatten()
            .filter_map(|place| self.ring.get(index(low(place), self.front)).copied())
    }

    /// Says that the ids of one segment were written again into another.
    pub(super) fn move_home(&mut self, from: u64, to: u64) {
        let moved: Vec<_> = self.ranges_in(from).collect();
        self.homes.remove(&from);
        if !moved.is_empty() {
            let ranges = self.homes.entry(to).or_default();
            for range in moved {
                add(ranges, range);
            }
        }
    }

    /// Remembers what recovery found, each id once, in the order in which they were taken.
    pub(super) fn restore(mut found: Vec<Found>, now: Timestamp) -> Self {
        newest_of_each(&mut found, KEPT_MAX);
        let mut recent = Self::default();
        for id in found {
            let place = recent.end();
            recent.push(id.key, id.taken_at);
            recent.settle_in(place, id.segment);
        }
        recent.forget(now);
        recent
    }

    fn ranges_in(&self, segment: u64) -> impl Iterator<Item = Range<Place>> {
        self.homes
            .get(&segment)
            .into_iter()
            .flatten()
            .map(|range| range.start.max(self.front)..range.end)
            .filter(|range| !range.is_empty())
    }

    fn untable(&mut self, key: EventKey, place: u32) {
        if let Ok(entry) = self.table.find_entry(key.hash(), |other| *other == place) {
            entry.remove();
        }
    }
}

/// Keeps the newest `count` of the ids, each once, with the youngest home it has, oldest first.
pub(super) fn newest_of_each(found: &mut Vec<Found>, count: usize) {
    found.sort_unstable_by_key(|id| (id.key, std::cmp::Reverse((id.taken_at, id.segment))));
    found.dedup_by_key(|id| id.key);
    found.sort_unstable_by_key(|id| (id.taken_at, id.segment));
    found.drain(..found.len().saturating_sub(count));
}

fn low(place: Place) -> u32 {
    let [a, b, c, d, ..] = place.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The index in the ring of a place known by its low bits: the ring is far shorter than 2^32.
fn index(place: u32, front: Place) -> usize {
    place.wrapping_sub(low(front)) as usize
}

fn add(ranges: &mut Vec<Range<Place>>, range: Range<Place>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> EventKey {
        // Spread like a hash, without the time a million hashes take.
        EventKey((number as u128 + 1).wrapping_mul(u128::MAX / 7 * 3).to_le_bytes())
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(millis)
    }

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn the_newest_are_kept_whatever_their_age_and_the_young_up_to_a_bound() {
        let mut recent = Recent::default();
        for number in 0..KEPT + 10 {
            recent.push(key(number), at(0));
        }
        recent.forget(at(HOUR_MS - 1));
        assert_eq!(recent.len(), KEPT + 10);
        recent.forget(at(HOUR_MS));
        assert_eq!(recent.len(), KEPT);
        assert_eq!(recent.place(key(9)), None);
        assert_eq!(recent.place(key(10)), Some(10));
        for number in recent.len() + 10..KEPT_MAX + 15 {
            recent.push(key(number), at(HOUR_MS));
        }
        recent.forget(at(HOUR_MS));
        assert!(recent.len() <= KEPT_MAX);
        assert_eq!(recent.place(key(14)), None);
        assert!(recent.place(key(KEPT_MAX + 14)).is_some());
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
            recent.settle_in(number as u64, 1 + number as u64 / 2);
        }
        assert_eq!(recent.count_in(1), 2);
        assert_eq!(
            recent.ids_in(2).map(|(key, _)| key).collect::<Vec<_>>(),
            [key(2), key(3)]
        );
        recent.move_home(1, 3);
        assert_eq!((recent.count_in(1), recent.count_in(3)), (0, 4));
    }

    #[test]
    fn what_recovery_found_twice_is_remembered_once_in_its_youngest_home() {
        let found = |number, taken_at, segment| Found {
            key: key(number),
            taken_at: at(taken_at),
            segment,
        };
        let recent = Recent::restore(
            vec![found(2, 20, 5), found(1, 10, 6), found(2, 20, 7), found(3, 30, 6)],
            at(0),
        );
        assert_eq!(recent.len(), 3);
        assert_eq!((recent.place(key(1)), recent.place(key(3))), (Some(0), Some(2)));
        assert_eq!(
            (recent.count_in(5), recent.count_in(6), recent.count_in(7)),
            (0, 2, 1)
        );
    }
}
