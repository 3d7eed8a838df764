//! What a start notes of pushes that were delivered, to tell what was given up before them.
//!
//! A lane sends its pushes in order. So what is owed still of a lane that delivered a newer one had been given up when
//! that was sent, although no settlement says so yet: its dead letter was not written in time.

use std::collections::{BTreeSet, HashMap};

use super::notes::{Names, Note};
use crate::{
    image::RepositoryName,
    push::{EndpointId, Pair, Sequence},
};

/// Which pairs of new pushes were delivered: a bit for each, 64 pushes that follow each other in a word, by place. Numbers
/// that were passed over take nothing, however many there are.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    words: HashMap<(u64, u16), u64>,
    /// All places there are.
    places: BTreeSet<u16>,
}

impl Delivered {
    /// Notes that a pair was delivered; `first` is the first new push.
    pub(super) fn add(&mut self, pair: Pair, first: Option<Sequence>) {
        let Pair { sequence, place } = pair;
        if first.is_none_or(|first| sequence < first) {
            return;
        }
        let (word, bit) = bit(sequence);
        *self.words.entry((word, place)).or_default() |= bit;
        self.places.insert(place);
    }

    /// From which push on some `count` pairs were delivered, or a few more; `None` if none was.
    pub(super) fn newest_from(&self, count: u64) -> Option<Sequence> {
        let mut words: Vec<_> = self
            .words
            .iter()
            .map(|((word, _), bits)| (*word, bits.count_ones()))
            .collect();
        words.sort_unstable_by_key(|(word, _)| std::cmp::Reverse(*word));
        let (mut from, mut counted) = (None, 0);
        for (word, bits) in words {
            if counted >= count && from != Some(word) {
                break;
            }
            (from, counted) = (Some(word), counted + u64::from(bits));
        }
        Sequence::new((from? * 64).max(1))
    }

    /// The places at which a push was delivered.
    pub(super) fn places(&self, sequence: Sequence) -> impl Iterator<Item = u16> {
        let (word, bit) = bit(sequence);
        let is_set = move |place: &u16| {
            let word = self.words.get(&(word, *place));
            word.is_some_and(|word| word & bit != 0)
        };
        self.places.iter().copied().filter(is_set)
    }

    /// The newest push of a repository that was delivered to each endpoint, of those that have a note.
    pub(super) fn newest<'a>(
        &self,
        notes: impl Iterator<Item = (Sequence, Note<'a>)>,
        names: &Names,
        repository: &RepositoryName,
    ) -> HashMap<EndpointId, Sequence> {
        let mut newest = HashMap::new();
        if self.places.is_empty() {
            return newest;
        }
        let mut list: Option<(u32, Vec<EndpointId>)> = None;
        for (sequence, note) in notes {
            for place in self.places(sequence) {
                let is_known = list.as_ref().is_some_and(|(number, _)| *number == note.owing);
                if !is_known {
                    list = Some((note.owing, names.endpoints(note.owing, repository)));
                }
                let endpoint = list.as_ref().and_then(|(_, all)| all.get(usize::from(place)));
                if let Some(endpoint) = endpoint {
                    newest.insert(endpoint.clone(), sequence);
                }
            }
        }
        newest
    }
}

/// The word and the bit of a push.
fn bit(sequence: Sequence) -> (u64, u64) {
    (sequence.get() / 64, 1 << (sequence.get() % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_were_passed_over_take_nothing() {
        let sequence = |number| Sequence::new(number).unwrap();
        let mut delivered = Delivered::default();
        for number in [6, 7, 8, u64::MAX >> 1] {
            let sequence = sequence(number);
            delivered.add(Pair { sequence, place: 3 }, Sequence::new(7));
        }
        assert_eq!(delivered.words.len(), 2);
        for (number, is) in [
            (6, false),
            (7, true),
            (8, true),
            (9, false),
            (u64::MAX >> 1, true),
        ] {
            assert_eq!(
                delivered.places(sequence(number)).count(),
                usize::from(is),
                "{number}"
            );
        }
    }
}
