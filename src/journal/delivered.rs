//! What a start notes of pushes that were delivered, to tell what was given up before them.
//!
//! A lane sends its pushes in order. So what is owed still of a lane that delivered a newer one had been given up when
//! that was sent, although no settlement says so yet: its dead letter was not written in time.

use std::collections::HashMap;

use super::notes::{Names, Note};
use crate::{
    image::RepositoryName,
    push::{EndpointId, Pair, Sequence},
};

/// Which pairs of new pushes were delivered: for each place a bit for each push since the first new one.
#[derive(Debug, Default)]
pub(super) struct Delivered(HashMap<u16, Vec<u64>>);

impl Delivered {
    /// Notes that a pair was delivered; `first` is the first new push.
    pub(super) fn add(&mut self, pair: Pair, first: Option<Sequence>) {
        let Some((word, bit)) = place(pair.sequence, first) else {
            return;
        };
        let words = self.0.entry(pair.place).or_default();
        if word >= words.len() {
            words.resize(word + 1, 0);
        }
        if let Some(word) = words.get_mut(word) {
            *word |= bit;
        }
    }

    /// The places at which a push was delivered.
    fn places(&self, sequence: Sequence, first: Option<Sequence>) -> impl Iterator<Item = u16> {
        let at = place(sequence, first);
        let is_set = move |words: &Vec<u64>| {
            at.and_then(|(word, bit)| Some(words.get(word)? & bit != 0))
                .unwrap_or_default()
        };
        let set = self.0.iter().filter(move |(_, words)| is_set(words));
        set.map(|(place, _)| *place)
    }

    /// The newest push of a repository that was delivered to each endpoint, of those that have a note.
    pub(super) fn newest<'a>(
        &self,
        first: Option<Sequence>,
        notes: impl Iterator<Item = (Sequence, Note<'a>)>,
        names: &Names,
        repository: &RepositoryName,
    ) -> HashMap<EndpointId, Sequence> {
        let mut newest = HashMap::new();
        if self.0.is_empty() {
            return newest;
        }
        let mut list: Option<(u32, Vec<EndpointId>)> = None;
        for (sequence, note) in notes {
            for place in self.places(sequence, first) {
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

/// The word and the bit of a push; `None` for one that is not new.
fn place(sequence: Sequence, first: Option<Sequence>) -> Option<(usize, u64)> {
    let index = sequence.get().checked_sub(first?.get())?;
    Some((usize::try_from(index / 64).ok()?, 1 << (index % 64)))
}
