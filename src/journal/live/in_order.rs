//! Many pushes found in the index, as a start hands them over: in order, repository after repository.

use super::{Live, LivePush, Slot};
use crate::push::Sequence;

/// Finds many pushes: each in the table of the one before, or in one behind that, as a rule.
#[derive(Debug)]
pub(in super::super) struct InOrder<'a> {
    live: &'a Live,
    segment: usize,
    looked_up: Vec<Option<(u64, Slot)>>,
}

impl<'a> InOrder<'a> {
    pub(super) fn new(live: &'a Live) -> Self {
        Self {
            live,
            segment: 0,
            looked_up: Vec::new(),
        }
    }

    /// The same as [`Live::find`] for each of these. What stands in the tables is all looked up first: each stands somewhere
    /// else in memory, for which a processor waits once if it has nothing else to do in between.
    pub(in super::super) fn find_all(
        &mut self,
        sequences: impl Iterator<Item = Sequence> + Clone,
    ) -> impl Iterator<Item = Option<LivePush>> {
        let mut looked_up = std::mem::take(&mut self.looked_up);
        looked_up.clear();
        looked_up.extend(sequences.clone().map(|sequence| self.slot(sequence)));
        self.looked_up = looked_up;
        let looked_up = self.looked_up.iter().copied();
        sequences
            .zip(looked_up)
            .map(|(sequence, slot)| self.live.found(sequence, slot))
    }

    fn slot(&mut self, sequence: Sequence) -> Option<(u64, Slot)> {
        let segments = &self.live.segments;
        let begins_behind = |segment: usize| {
            segments
                .get(segment)
                .is_none_or(|segment| segment.first > sequence)
        };
        if begins_behind(self.segment) {
            self.segment = 0;
        }
        while !begins_behind(self.segment + 1) {
            self.segment += 1;
        }
        self.live.slot(self.segment, sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{journal::unsettled::Unsettled, push::Pair};

    #[test]
    fn many_are_found_as_each_is_whatever_their_order() {
        let sequence = |number| Sequence::new(number).unwrap();
        let mut live = Live::default();
        for (segment, first) in [(1, 10), (2, 20), (3, 20), (4, 30)] {
            live.begin(segment, sequence(first));
            let newest = if segment == 2 { first } else { first + 10 };
            for number in first..newest {
                live.push(sequence(number), 7, 100, 2);
            }
        }
        live.carry(sequence(12), 9, 100, Unsettled::all(1));
        for (number, places) in [(13, 0..1), (21, 0..2)] {
            for place in places {
                let sequence = sequence(number);
                assert!(live.settle(Pair { sequence, place }));
            }
        }
        let mut in_order = live.in_order();
        for asked in [
            (1..45).collect::<Vec<_>>(),
            (1..45).rev().collect(),
            vec![35, 5, 12, 39, 11],
        ] {
            let asked = asked.into_iter().map(sequence);
            let found: Vec<_> = in_order.find_all(asked.clone()).collect();
            let each: Vec<_> = asked.map(|sequence| live.find(sequence)).collect();
            assert_eq!(found, each);
            assert!(found.iter().any(Option::is_some) && found.iter().any(Option::is_none));
        }
    }
}
