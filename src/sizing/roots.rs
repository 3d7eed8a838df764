//! What a repository's tags name, so that whoever sums it up can go on while it changes. Pure.
//!
//! It is kept in parts that are shared with its clones: a clone is some pointers, and what changes afterwards is one part,
//! which is copied then. The journal's thread waits for neither, however many tags there are.

use std::{collections::HashMap, iter, sync::Arc};

use crate::image::Digest;

/// How many digests a part has, about; at most twice as many, but for a moment's luck.
const PART_ROOTS: usize = 256;

/// By how much there are more parts when they have grown too large.
const GROWTH: usize = 4;

/// Digests, each with how many tags name it.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots {
    /// As many as a power of two; none before the first digest.
    parts: Vec<Arc<HashMap<Digest, usize>>>,
    digests: usize,
    tags: usize,
}

impl Roots {
    /// How many digests there are.
    pub(super) fn len(&self) -> usize {
        self.digests
    }

    /// How many tags name them.
    pub(super) fn tags(&self) -> usize {
        self.tags
    }

    /// Each digest once.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Digest> {
        self.parts.iter().flat_map(|part| part.keys())
    }

    /// A tag more names it.
    pub(super) fn add(&mut self, digest: &Digest) {
        self.insert(digest, 1);
        if self.digests > 2 * PART_ROOTS * self.parts.len() {
            let parts = iter::repeat_with(Arc::default)
                .take(self.parts.len() * GROWTH)
                .collect();
            let before = std::mem::take(self);
            self.parts = parts;
            for (digest, tags) in before.parts.iter().flat_map(|part| part.iter()) {
                self.insert(digest, *tags);
            }
        }
    }

    /// A tag less names it.
    pub(super) fn remove(&mut self, digest: &Digest) {
        let Some(part) = self.part(digest) else { return };
        let Some(tags) = part.get_mut(digest) else { return };
        *tags -= 1;
        if *tags == 0 {
            part.remove(digest);
            self.digests -= 1;
        }
        self.tags -= 1;
    }

    /// None names it any more.
    pub(super) fn remove_all(&mut self, digest: &Digest) {
        if let Some(tags) = self.part(digest).and_then(|part| part.remove(digest)) {
            self.digests -= 1;
            self.tags -= tags;
        }
    }

    fn insert(&mut self, digest: &Digest, tags: usize) {
        if self.parts.is_empty() {
            self.parts.push(Arc::default());
        }
        let Some(part) = self.part(digest) else { return };
        let named = part.entry(digest.clone()).or_default();
        let is_new = *named == 0;
        *named += tags;
        self.digests += usize::from(is_new);
        self.tags += tags;
    }

    /// The part in which the digest has its place, if there are any.
    fn part(&mut self, digest: &Digest) -> Option<&mut HashMap<Digest, usize>> {
        // It is a hash already.
        let bits = digest
            .bytes()
            .first_chunk()
            .copied()
            .map_or(0, u64::from_le_bytes);
        let mask = (self.parts.len() as u64).checked_sub(1)?;
        let part = usize::try_from(bits & mask).ok()?;
        self.parts.get_mut(part).map(Arc::make_mut)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(number: usize) -> Digest {
        Digest::sha256(&number.to_le_bytes())
    }

    #[test]
    fn a_clone_shares_all_that_does_not_change_afterwards() {
        let mut roots = Roots::default();
        for number in 0..100_000 {
            roots.add(&digest(number));
        }
        let clone = roots.clone();
        assert!(clone.parts.len() > 100, "{}", clone.parts.len());
        roots.add(&digest(100_000));
        roots.remove(&digest(100_000));
        roots.remove(&digest(7));
        let pairs = clone.parts.iter().zip(&roots.parts);
        let copied = pairs.filter(|(before, after)| !Arc::ptr_eq(before, after));
        assert!((1..=2).contains(&copied.count()));
        assert_eq!((clone.len(), roots.len()), (100_000, 99_999));
        let largest = roots.parts.iter().map(|part| part.len()).max().unwrap();
        assert!(largest < 4 * PART_ROOTS, "{largest}");
    }

    proptest! {
        #[test]
        fn it_is_what_a_plain_count_of_tags_is(
            steps in proptest::collection::vec((0..3_u8, 0..2_000_usize), 0..4_000)
        ) {
            let (mut roots, mut model) = (Roots::default(), HashMap::<usize, usize>::new());
            for (step, number) in steps {
                match step {
                    0 => {
                        roots.add(&digest(number));
                        *model.entry(number).or_default() += 1;
                    }
                    1 => {
                        roots.remove(&digest(number));
                        model.entry(number).and_modify(|tags| *tags -= 1);
                        model.retain(|_, tags| *tags > 0);
                    }
                    _ => {
                        roots.remove_all(&digest(number));
                        model.remove(&number);
                    }
                }
            }
            prop_assert_eq!((roots.len(), roots.tags()), (model.len(), model.values().sum()));
            let mut kept: Vec<_> = roots.iter().cloned().collect();
            let mut expected: Vec<_> = model.keys().map(|number| digest(*number)).collect();
            kept.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(kept, expected);
        }
    }
}
