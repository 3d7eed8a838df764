//! The ids that a start finds, on their way to being remembered.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use super::{EventKey, KEPT_MAX, Recent, add};
use crate::clock::Timestamp;

/// Found ids are thinned out when there are this many.
const FOUND_MAX: usize = KEPT_MAX + KEPT_MAX / 4;

/// An id that is late by no more counts as taken along with the one before: pushes that come at once are timed in
/// another order than they are written, and an id may be remembered too long.
const LATE_MAX: Duration = Duration::from_mins(1);

/// Ids that recovery finds, in the order of the records.
#[derive(Debug, Default)]
pub(in crate::journal) struct Found(Vec<FoundId>);

#[derive(Clone, Copy, Debug)]
struct FoundId {
    key: EventKey,
    taken_at: Timestamp,
    segment: u64,
    /// Whether nothing was to be known of it when it was written.
    is_new: bool,
}

impl Found {
    /// Adds the id of a push where it was taken.
    pub(in crate::journal) fn add_new(&mut self, key: EventKey, taken_at: Timestamp, segment: u64) {
        self.put(FoundId {
            key,
            taken_at,
            segment,
            is_new: true,
        });
    }

    /// Adds an id that may be known: one that was written again.
    pub(in crate::journal) fn add(&mut self, key: EventKey, taken_at: Timestamp, segment: u64) {
        self.put(FoundId {
            key,
            taken_at,
            segment,
            is_new: false,
        });
    }

    fn put(&mut self, id: FoundId) {
        if self.0.len() >= FOUND_MAX {
            self.thin_out();
        }
        self.0.push(id);
    }

    /// Keeps the newest [`KEPT_MAX`] of the ids, each once, with the youngest home it has.
    fn thin_out(&mut self) {
        let ids = &mut self.0;
        ids.sort_unstable_by_key(|id| (id.key, std::cmp::Reverse((id.taken_at, id.segment))));
        ids.dedup_by_key(|id| id.key);
        ids.sort_unstable_by_key(|id| (id.taken_at, id.segment));
        ids.drain(..ids.len().saturating_sub(KEPT_MAX));
    }
}

/// All that recovery finds, while it does. As long as ids come in the order in which they were taken, which they do
/// but for what was written again, each is remembered at once.
#[derive(Debug)]
pub(in crate::journal) enum Gathering {
    InOrder(InOrder),
    /// An id came late, or there are too many.
    Unordered(Found),
}

impl Gathering {
    /// For about so many ids.
    pub(in crate::journal) fn new(ids: usize) -> Self {
        Self::InOrder(InOrder::new(ids.min(KEPT_MAX)))
    }

    pub(in crate::journal) fn add(&mut self, found: Found) {
        for id in found.0 {
            if let Self::InOrder(in_order) = self
                && !in_order.takes(id)
            {
                *self = Self::Unordered(in_order.take_back());
            }
            match self {
                Self::InOrder(in_order) => in_order.add(id),
                Self::Unordered(found) => found.put(id),
            }
        }
    }

    /// Remembers what was found, each id once, in the order in which they were taken.
    pub(in crate::journal) fn finish(self, now: Timestamp) -> Recent {
        match self {
            Self::InOrder(in_order) => in_order.finish(now),
            Self::Unordered(found) => Recent::restore(found, now),
        }
    }
}

/// So many ids come into the table together.
const TABLED_TOGETHER: usize = 128 * 1024;

/// Ids in the order in which they were taken. Many come into the table together, or when one is looked for: that takes a
/// fraction of what one after the other does.
#[derive(Debug)]
pub(in crate::journal) struct InOrder {
    recent: Recent,
    /// How many of them are in the table.
    tabled: usize,
    homes: Homes,
    last: Timestamp,
}

/// Where each has its home: of those that follow each other and have the same, the first.
#[derive(Debug, Default)]
struct Homes {
    runs: BTreeMap<usize, u64>,
    len: usize,
}

impl Homes {
    fn len(&self) -> usize {
        self.len
    }

    /// Adds the next one's.
    fn push(&mut self, segment: u64) {
        if self
            .runs
            .last_key_value()
            .is_none_or(|(_, last)| *last != segment)
        {
            self.runs.insert(self.len, segment);
        }
        self.len += 1;
    }

    /// Says that one has its home there, unless that is in a younger segment.
    fn move_on(&mut self, place: usize, segment: u64) {
        let Some((_, &before)) = self.runs.range(..=place).next_back() else {
            return;
        };
        if before >= segment {
            return;
        }
        let behind = place + 1;
        if behind < self.len {
            self.runs.entry(behind).or_insert(before);
        }
        self.runs.insert(place, segment);
        // One run with those beside it that have the same.
        if self.runs.get(&behind) == Some(&segment) {
            self.runs.remove(&behind);
        }
        if self.runs.range(..place).next_back().map(|(_, home)| *home) == Some(segment) {
            self.runs.remove(&place);
        }
    }

    fn runs(&self) -> impl Iterator<Item = (Range<usize>, u64)> {
        let ends = self.runs.keys().skip(1).copied().chain([self.len]);
        let runs = self.runs.iter().zip(ends);
        runs.map(|((start, segment), end)| (*start..end, *segment))
    }

    fn each(&self) -> impl Iterator<Item = u64> {
        self.runs()
            .flat_map(|(places, segment)| places.map(move |_| segment))
    }
}

impl InOrder {
    fn new(ids: usize) -> Self {
        let mut recent = Recent::default();
        recent.ring.reserve(ids);
        // It is empty.
        recent.table.reserve(ids, |_| 0);
        Self {
            recent,
            tabled: 0,
            homes: Homes::default(),
            last: Timestamp::from_unix_millis(i64::MIN),
        }
    }

    fn takes(&self, id: FoundId) -> bool {
        self.last.since(id.taken_at) <= LATE_MAX && self.homes.len() < FOUND_MAX
    }

    /// The ids again as they were found, but that some are said to be a little younger, see [`Recent::taken_at`].
    fn take_back(&mut self) -> Found {
        let recent = std::mem::take(&mut self.recent);
        let homes = std::mem::take(&mut self.homes);
        let ids = recent.ring.iter().zip(homes.each()).zip(recent.front..);
        let ids = ids.map(|((key, segment), place)| FoundId {
            key: *key,
            taken_at: recent.taken_at(place),
            segment,
            is_new: false,
        });
        Found(ids.collect())
    }

    fn add(&mut self, id: FoundId) {
        self.last = id.taken_at.max(self.last);
        // One that was new then is new here, or remembered twice for a while, which does no harm.
        let known = if id.is_new { None } else { self.place(id.key) };
        if let Some(place) = known {
            self.homes.move_on(place, id.segment);
        } else {
            self.recent.add_untabled(id.key, self.last);
            self.homes.push(id.segment);
            if self.recent.len() - self.tabled >= TABLED_TOGETHER {
                self.table_all();
            }
        }
    }

    fn place(&mut self, key: EventKey) -> Option<usize> {
        self.table_all();
        let place = self.recent.place(key);
        place.and_then(|place| usize::try_from(place).ok())
    }

    fn table_all(&mut self) {
        self.recent.table_from(self.tabled);
        self.tabled = self.recent.len();
    }

    fn finish(mut self, now: Timestamp) -> Recent {
        self.table_all();
        let mut recent = self.recent;
        for (places, segment) in self.homes.runs() {
            let places = places.start as u64..places.end as u64;
            add(recent.homes.entry(segment).or_default(), places);
        }
        recent.forget(now, recent.end());
        recent
    }
}

impl Recent {
    /// Remembers what was found, each id once, in the order in which they were taken.
    pub(in crate::journal) fn restore(Found(mut found): Found, now: Timestamp) -> Self {
        found.sort_by_key(|id| id.taken_at);
        let mut in_order = InOrder::new(found.len());
        for id in found {
            // In another order than they were written: each may be there.
            in_order.add(FoundId { is_new: false, ..id });
        }
        in_order.finish(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn key(number: u8) -> EventKey {
        EventKey([number; super::super::KEY_BYTES])
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(millis)
    }

    fn gather(ids: &[(u8, i64, u64)]) -> Recent {
        let mut gathering = Gathering::new(0);
        for (number, taken_at, segment) in ids {
            let mut found = Found::default();
            found.add(key(*number), at(*taken_at), *segment);
            gathering.add(found);
        }
        gathering.finish(at(0))
    }

    #[test]
    fn what_recovery_found_twice_is_remembered_once_in_its_youngest_home() {
        let in_order = [(1, 10, 6), (2, 20, 5), (2, 20, 7), (3, 30, 6)];
        let one_late = [(2, 120_000, 5), (1, 10, 6), (2, 120_000, 7), (3, 130_000, 6)];
        for ids in [in_order, one_late] {
            let recent = gather(&ids);
            assert_eq!(recent.len(), 3);
            assert_eq!((recent.place(key(1)), recent.place(key(3))), (Some(0), Some(2)));
            assert_eq!(
                (recent.count_in(5), recent.count_in(6), recent.count_in(7)),
                (0, 2, 1)
            );
        }
    }

    #[test]
    fn many_new_ids_are_all_known_and_one_written_again_moves_its_home() {
        let ids = u32::try_from(3 * super::super::PARTED_MIN).unwrap();
        let key = |number: u32| EventKey::of(format!("event-{number}")).unwrap();
        let mut gathering = Gathering::new(0);
        // Some are looked for on the way, so that they come into the table in parts of their own.
        for numbers in [0..ids / 3, ids / 3..ids / 3 + 5, ids / 3 + 5..ids] {
            let mut found = Found::default();
            for number in numbers.clone() {
                found.add_new(key(number), at(i64::from(number)), 1);
            }
            found.add(key(numbers.start), at(i64::from(numbers.start)), 2);
            gathering.add(found);
        }
        let recent = gathering.finish(at(0));
        for number in 0..ids {
            assert_eq!(recent.place(key(number)), Some(u64::from(number)));
        }
        assert_eq!(recent.place(key(ids)), None);
        assert_eq!((recent.count_in(1), recent.count_in(2)), (u64::from(ids) - 3, 3));
    }

    #[test]
    fn as_many_ids_as_are_kept_are_found_again_after_they_were_written_again() {
        // One look at each, or this takes minutes.
        let kept = u32::try_from(super::super::KEPT).unwrap();
        let key = |number: u32| EventKey::of(number.to_string()).unwrap();
        let mut found = Found::default();
        for number in 0..kept {
            found.add(key(number), at(i64::from(kept - number)), 1);
        }
        let recent = Recent::restore(found, at(0));
        assert_eq!(
            (recent.len(), recent.count_in(1)),
            (super::super::KEPT, u64::from(kept))
        );
        assert_eq!(recent.place(key(0)), Some(u64::from(kept) - 1));
    }

    #[test]
    fn an_id_that_was_new_twice_is_known_until_the_younger_is_forgotten() {
        const HOUR_MS: i64 = 3_600_000;
        let mut gathering = Gathering::new(0);
        let mut found = Found::default();
        found.add_new(key(1), at(0), 1);
        for number in 0..super::super::KEPT {
            found.add_new(EventKey::of(format!("{number}")).unwrap(), at(1), 1);
        }
        found.add_new(key(1), at(2), 2);
        gathering.add(found);
        let mut recent = gathering.finish(at(0));
        assert!(recent.place(key(1)).is_some());
        recent.forget(at(HOUR_MS + 2), recent.end());
        assert_eq!(recent.len(), super::super::KEPT);
        assert_eq!(recent.place(key(1)), Some(super::super::KEPT as u64 + 1));
    }

    proptest! {
        #[test]
        fn homes_are_those_of_a_list_that_has_each_in_as_few_runs_as_there_are(
            steps in vec((any::<bool>(), 0..40_usize, 0..6_u64), 0..80),
        ) {
            let (mut homes, mut list) = (Homes::default(), Vec::new());
            for (is_new, place, segment) in steps {
                if is_new {
                    homes.push(segment);
                    list.push(segment);
                } else if let Some(home) = list.get_mut(place) {
                    homes.move_on(place, segment);
                    *home = segment.max(*home);
                }
                prop_assert_eq!(homes.len(), list.len());
                prop_assert_eq!(homes.each().collect::<Vec<_>>(), list.clone());
                let runs = list.chunk_by(|one, next| one == next).count();
                prop_assert_eq!(homes.runs().count(), runs);
            }
        }
    }
}
