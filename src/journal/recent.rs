//! The event ids taken lately, so that a push that the registry sends again is not taken again.
//!
//! Remembered are the newest [`KEPT`] ids whatever their age, and any younger than [`KEPT_AGE`] up to
//! [`KEPT_MAX`]; in a small journal so many fewer that they take an eighth of it at most ([`Bounds`]). Each has a
//! *home*, the segment whose deletion would lose it on disk; before that segment goes, its ids are written again and
//! get a new home.
//!
//! A million ids take some 22 MiB: 12 bytes each in a ring, and 5 in a table of places within the ring, which
//! is half empty. Their times are kept for runs of ids, not for each.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::Duration,
};

use hashbrown::{HashTable, hash_table::Entry};
use sha2::Digest as _;

use crate::clock::Timestamp;

mod found;

pub(super) use found::{Found, Gathering};

/// So many ids are remembered whatever their age.
pub(super) const KEPT: usize = 100_000;

/// Ids younger than this are remembered beyond [`KEPT`].
pub(super) const KEPT_AGE: Duration = Duration::from_hours(1);

/// No more ids than this are remembered.
pub(super) const KEPT_MAX: usize = 1_000_000;

/// The part of the journal that remembered ids may take: nobody can settle them, so they must not close it.
const JOURNAL_PART: u64 = 8;

/// How many ids are remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Whatever their age.
    kept: usize,
    /// Of the young.
    kept_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            kept: KEPT,
            kept_max: KEPT_MAX,
        }
    }
}

impl Bounds {
    /// In a journal that may take so many bytes, of which an id takes `id_bytes`.
    pub(super) fn within(max_size: u64, id_bytes: usize) -> Self {
        let most = max_size / JOURNAL_PART / (id_bytes as u64).max(1);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Self {
            kept: KEPT.min(most),
            kept_max: KEPT_MAX.min(most),
        }
    }
}

/// What an event id is known by, 96 bits: of a UUID as the registry writes it (RFC 9562, lower case, version 4 or 7) its
/// 128 bits, the first four bytes folded into the next four; of anything else the first bits of its SHA-256. Two of
/// a million ids that differ have the same key once in 10^17 times, with version 7, of which fewer bits are random, once in
/// 10^10. A UUID of another version has most of its bits in common with others of its machine: folded, it would be taken
/// for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EventKey(pub(super) [u8; KEY_BYTES]);

/// Length of a key.
pub(super) const KEY_BYTES: usize = 12;

impl EventKey {
    /// The key of an event id; none for the empty one, which is nobody's.
    pub(super) fn of(event_id: impl AsRef<[u8]>) -> Option<Self> {
        let event_id = event_id.as_ref();
        if event_id.is_empty() {
            return None;
        }
        if let Some([a, b, c, d, rest @ ..]) = uuid(event_id).filter(is_random) {
            let mut key = rest;
            for (byte, folded) in key.iter_mut().zip([a, b, c, d]) {
                *byte ^= folded;
            }
            return Some(Self(key));
        }
        let hash = sha2::Sha256::digest(event_id);
        hash.first_chunk().copied().map(Self)
    }

    /// For the table. A UUID has bits that are always the same, or a time, or a counter: every bit of it counts
    /// for every bit of the hash.
    fn hash(self) -> u64 {
        let [a, b, c, d, low @ ..] = self.0;
        let bits = u64::from_le_bytes(low) ^ u64::from(u32::from_le_bytes([a, b, c, d])) << 16;
        let product = u128::from(bits) * u128::from(0x9E37_79B9_7F4A_7C15_u64);
        let [low, high] = [product, product >> 64].map(|half| half & u128::from(u64::MAX));
        u64::try_from(low ^ high).unwrap_or_default()
    }
}

/// Whether a UUID is of a version whose lower half is random: 62 bits of it.
fn is_random(uuid: &[u8; 16]) -> bool {
    let [_, _, _, _, _, _, version, _, variant, ..] = uuid;
    matches!(version >> 4, 4 | 7) && variant >> 6 == 0b10
}

/// The bits of a UUID in its usual form of 36 characters. Only in lower case: two different texts must not
/// come to the same bits. A start reads one for each push: eight digits at a time take less than half of what one after
/// the other do.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.try_into().ok()?;
    let mut digits = [0; 32];
    for (group, place) in [(0..8, 0), (9..13, 8), (14..18, 12), (19..23, 16), (24..36, 20)] {
        if place > 0 && text.get(group.start - 1) != Some(&b'-') {
            return None;
        }
        let into = digits.get_mut(place..place + group.len())?;
        into.copy_from_slice(text.get(group)?);
    }
    let mut bits = [0; 16];
    for (into, digits) in bits.as_chunks_mut().0.iter_mut().zip(digits.as_chunks().0) {
        *into = four_bytes(*digits)?;
    }
    Some(bits)
}

/// What eight hexadecimal digits in lower case say; each is a byte of one number, on which all steps are taken at once.
fn four_bytes(digits: [u8; 8]) -> Option<[u8; 4]> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let text = u64::from_le_bytes(digits);
    // The low bits of `1` to `9` are what it says, those of `a` to `f` nine less.
    let said = (text & (EACH * 0xf)) + (text >> 6 & EACH) * 9;
    let is_letter = (said + EACH * 6) >> 4 & EACH;
    // Written again, it is the same if it was digits.
    let again = said + EACH * u64::from(b'0') + is_letter * u64::from(b'a' - b'9' - 1);
    if said & (EACH * 0xf0) != 0 || again != text {
        return None;
    }
    let [a, _, b, _, c, _, d, _] = (said << 4 | said >> 8).to_le_bytes();
    Some([a, b, c, d])
}

/// An id's place in the order of all ids since the start.
pub(super) type Place = u64;

/// Ids of which only the last one's time is kept. An id is remembered too long rather than too short.
const RUN_LENGTH_MAX: u64 = 64;

/// Ids that are put into the table together are parted by where in it they go, if they are so many.
const PARTED_MIN: usize = 10_000;
const PARTS_BITS: u32 = 8;
const PARTS: usize = 1 << PARTS_BITS;

/// The ids, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    bounds: Bounds,
    ring: VecDeque<EventKey>,
    /// When they were taken: of ids that follow each other, the place of the first and the time of the last.
    times: VecDeque<(Place, Timestamp)>,
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

    /// Remembers no more than so many from now on.
    pub(super) fn bound(&mut self, bounds: Bounds, now: Timestamp) {
        self.bounds = bounds;
        self.forget(now, self.end());
    }

    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Where the id is, if it is remembered.
    pub(super) fn place(&self, key: EventKey) -> Option<Place> {
        let (ring, front) = (&self.ring, self.front);
        self.table
            .find(key.hash(), |place| ring.get(index(*place, front)) == Some(&key))
            .map(|place| front + index(*place, front) as u64)
    }

    /// How many of these are remembered. Many are looked up sooner after it: their places in the table, which is far
    /// larger than the processor's caches, are fetched at the same time here, and not one after the other.
    pub(super) fn count(&self, keys: impl Iterator<Item = EventKey>) -> usize {
        keys.filter(|key| self.place(*key).is_some()).count()
    }

    /// Remembers an id, unless it is remembered: then tells where it is.
    pub(super) fn push(&mut self, key: EventKey, taken_at: Timestamp) -> Option<Place> {
        let (ring, front) = (&self.ring, self.front);
        let entry = self.table.entry(
            key.hash(),
            |place| ring.get(index(*place, front)) == Some(&key),
            |place| ring.get(index(*place, front)).map_or(0, |key| key.hash()),
        );
        match entry {
            Entry::Occupied(known) => Some(front + index(*known.get(), front) as u64),
            Entry::Vacant(free) => {
                free.insert(low(front + ring.len() as u64));
                self.add_untabled(key, taken_at);
                None
            }
        }
    }

    /// The same, but it is not found before [`Recent::table_from`].
    fn add_untabled(&mut self, key: EventKey, taken_at: Timestamp) {
        let end = self.end();
        match self.times.back_mut() {
            Some((first, time)) if end - *first < RUN_LENGTH_MAX => *time = taken_at.max(*time),
            _ => self.times.push_back((end, taken_at)),
        }
        self.ring.push_back(key);
    }

    /// Has all ids from this one of the ring on found. Many are put in by where in the table they go, so that it is
    /// walked through once, and not missed in the processor's caches for each.
    fn table_from(&mut self, index_from: usize) {
        let (ring, front) = (&self.ring, self.front);
        let hash_of = |place: &u32| ring.get(index(*place, front)).map_or(0, |key| key.hash());
        let new = ring.len().saturating_sub(index_from);
        if new == 0 {
            return;
        }
        self.table.reserve(new, hash_of);
        // The table takes a hash's lowest bits for the place to begin at.
        let bits = self.table.capacity().next_power_of_two().trailing_zeros();
        let shift = bits.saturating_sub(PARTS_BITS);
        let part = |hash: u64| usize::try_from(hash >> shift).unwrap_or_default() % PARTS;
        let places = (front + index_from as u64..)
            .map(low)
            .zip(ring.iter().skip(index_from));
        if new < PARTED_MIN {
            for (place, key) in places {
                self.table.insert_unique(key.hash(), place, hash_of);
            }
            return;
        }
        let mut ends = [0; PARTS];
        for (_, key) in places.clone() {
            if let Some(count) = ends.get_mut(part(key.hash())) {
                *count += 1;
            }
        }
        let mut end = 0;
        for count in &mut ends {
            // Where the part begins; it moves to its end as the part fills.
            end += std::mem::replace(count, end);
        }
        let mut parted = vec![(0, 0); new];
        for (place, key) in places {
            let hash = key.hash();
            let at = ends.get_mut(part(hash)).map(|at| {
                *at += 1;
                *at - 1
            });
            if let Some(slot) = at.and_then(|at| parted.get_mut(at)) {
                *slot = (hash, place);
            }
        }
        for (hash, place) in parted {
            self.table.insert_unique(hash, place, hash_of);
        }
    }

    /// Takes back every id from that place on.
    pub(super) fn take_back(&mut self, end: Place) {
        while self.end() > end {
            let Some(key) = self.ring.pop_back() else {
                break;
            };
            self.untable(key, low(self.end()));
        }
        while self.times.back().is_some_and(|(first, _)| *first >= end) {
            self.times.pop_back();
        }
    }

    /// Says that these ids are in the segment now.
    pub(super) fn settle_in(&mut self, places: Range<Place>, segment: u64) {
        if !places.is_empty() {
            add(self.homes.entry(segment).or_default(), places);
        }
    }

    /// Forgets what need not be remembered any more. The ids before `durable` count; those behind it may be taken back.
    pub(super) fn forget(&mut self, now: Timestamp, durable: Place) {
        self.forget_ids(now, durable);
        // What was in the oldest segments is forgotten first.
        while let Some(oldest) = self.homes.first_entry()
            && oldest.get().iter().all(|range| range.end <= self.front)
        {
            oldest.remove();
        }
    }

    fn forget_ids(&mut self, now: Timestamp, durable: Place) {
        while let Some(key) = self.ring.front().copied() {
            let is_old = now.since(self.taken_at(self.front)) >= KEPT_AGE;
            let count = usize::try_from(durable.saturating_sub(self.front)).unwrap_or(usize::MAX);
            if count <= self.bounds.kept || (!is_old && count <= self.bounds.kept_max) {
                return;
            }
            self.ring.pop_front();
            self.untable(key, low(self.front));
            self.front += 1;
            if self.times.get(1).is_some_and(|(first, _)| *first <= self.front) {
                self.times.pop_front();
            }
        }
    }

    /// When the id at that place was taken, or one soon after it.
    fn taken_at(&self, place: Place) -> Timestamp {
        let run = self.times.partition_point(|(first, _)| *first <= place);
        let run = run.checked_sub(1).and_then(|run| self.times.get(run));
        run.map(|(_, time)| *time).unwrap_or_default()
    }

    /// How many ids would go with the segment.
    pub(super) fn count_in(&self, segment: u64) -> u64 {
        self.ranges_in(segment).map(|range| range.end - range.start).sum()
    }

    /// The ids that would go with the segment.
    pub(super) fn ids_in(&self, segment: u64) -> impl Iterator<Item = (EventKey, Timestamp)> {
        self.ranges_in(segment).flatten().filter_map(|place| {
            let key = self.ring.get(index(low(place), self.front))?;
            Some((*key, self.taken_at(place)))
        })
    }

    /// Says that the first `count` ids of one segment were written again into another.
    pub(super) fn move_home(&mut self, from: u64, count: usize, to: u64) {
        let mut left = count as u64;
        let (mut moved, mut kept) = (Vec::new(), Vec::new());
        for range in self.ranges_in(from) {
            let split = range.start + left.min(range.end - range.start);
            left -= split - range.start;
            moved.push(range.start..split);
            kept.push(split..range.end);
        }
        kept.retain(|range| !range.is_empty());
        if kept.is_empty() {
            self.homes.remove(&from);
        } else {
            self.homes.insert(from, kept);
        }
        for range in moved {
            if !range.is_empty() {
                add(self.homes.entry(to).or_default(), range);
            }
        }
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
mod tests;
