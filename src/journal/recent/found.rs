//! The ids that a start finds, on their way to being remembered.

use std::time::Duration;

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
}

impl Found {
    pub(in crate::journal) fn add(&mut self, key: EventKey, taken_at: Timestamp, segment: u64) {
        self.put(FoundId {
            key,
            taken_at,
            segment,
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

/// Ids in the order in which they were taken.
#[derive(Debug)]
pub(in crate::journal) struct InOrder {
    recent: Recent,
    /// Where each has its home.
    homes: Vec<u64>,
    last: Timestamp,
}

impl InOrder {
    fn new(ids: usize) -> Self {
        let mut recent = Recent::default();
        recent.ring.reserve(ids);
        recent.table.reserve(ids, |_| 0);
        Self {
            recent,
            homes: Vec::with_capacity(ids),
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
        let ids = recent.ring.iter().zip(homes).zip(recent.front..);
        let ids = ids.map(|((key, segment), place)| FoundId {
            key: *key,
            taken_at: recent.taken_at(place),
            segment,
        });
        Found(ids.collect())
    }

    fn add(&mut self, id: FoundId) {
        self.last = id.taken_at.max(self.last);
        let known = self.recent.place(id.key);
        let known = known.and_then(|place| usize::try_from(place).ok());
        if let Some(home) = known.and_then(|place| self.homes.get_mut(place)) {
            *home = id.segment.max(*home);
        } else {
            self.recent.push(id.key, self.last);
            self.homes.push(id.segment);
        }
    }

    fn finish(self, now: Timestamp) -> Recent {
        let mut recent = self.recent;
        for (place, segment) in (0..).zip(self.homes) {
            add(recent.homes.entry(segment).or_default(), place..place + 1);
        }
        recent.forget(now);
        recent
    }
}

impl Recent {
    /// Remembers what was found, each id once, in the order in which they were taken.
    pub(in crate::journal) fn restore(Found(mut found): Found, now: Timestamp) -> Self {
        found.sort_by_key(|id| id.taken_at);
        let mut in_order = InOrder::new(found.len());
        for id in found {
            in_order.add(id);
        }
        in_order.finish(now)
    }
}

#[cfg(test)]
mod tests {
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
}
