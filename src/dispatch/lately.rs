//! What was delivered lately: the history is written a second later, or so, and knows of it only then. After a kill it
//! may never: what a start finds in the journal is known here as well.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use crate::{
    catalog::Which,
    image::{RepositoryName, Tag},
    locked::Locked as _,
    push::{EndpointId, Sequence},
    settings::Letter,
};

/// So many images are known, those that were delivered last.
pub(super) const LATELY_MAX: usize = 10_000;

/// What is newer or older than another: pushes of one tag for one endpoint.
pub(super) type Key = (RepositoryName, Tag, EndpointId);

/// The newest push of each tag that was delivered lately.
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// With when it was delivered last, by the count of deliveries.
    newest: HashMap<Arc<Key>, (Sequence, u64)>,
    in_order: BTreeMap<u64, Arc<Key>>,
    deliveries: u64,
}

impl Lately {
    /// A push of this journal's was delivered.
    pub(super) fn add(&self, which: &Which) {
        let Some(tag) = which.tag.clone() else { return };
        let key = (which.repository.clone(), tag, which.endpoint.clone());
        let mut lately = self.0.locked();
        let Inner {
            newest,
            in_order,
            deliveries,
        } = &mut *lately;
        *deliveries += 1;
        let key = if let Some((sequence, at)) = newest.get_mut(&key) {
            *sequence = which.sequence.max(*sequence);
            in_order.remove(&std::mem::replace(at, *deliveries))
        } else {
            let key = Arc::new(key);
            newest.insert(Arc::clone(&key), (which.sequence, *deliveries));
            Some(key)
        };
        in_order.extend(key.map(|key| (*deliveries, key)));
        if in_order.len() > LATELY_MAX
            && let Some((_, oldest)) = in_order.pop_first()
        {
            newest.remove(&oldest);
        }
    }

    /// Whether a push of the letter's tag that is newer than `than` was.
    pub(super) fn has_newer(&self, letter: &Letter, tag: &Tag, than: Option<Sequence>) -> bool {
        let key = (letter.repository.clone(), tag.clone(), letter.endpoint.clone());
        let lately = self.0.locked();
        let newest = lately.newest.get(&key);
        newest.is_some_and(|(newest, _)| than.is_none_or(|than| *newest > than))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::which;

    fn push(number: u64, tag: &str) -> Which {
        let (repository, tag) = ("acme/app".parse().unwrap(), tag.parse().unwrap());
        let endpoint = EndpointId::Named("ci".into());
        which(&repository, Sequence::new(number).unwrap(), &endpoint, Some(&tag))
    }

    #[test]
    fn an_image_is_forgotten_when_it_was_not_delivered_for_longest() {
        let lately = Lately::default();
        let newest = |tag: &str| {
            let Which {
                repository,
                tag,
                endpoint,
                ..
            } = push(1, tag);
            let inner = lately.0.lock().unwrap();
            assert_eq!(inner.newest.len(), inner.in_order.len());
            let newest = inner.newest.get(&(repository, tag.unwrap(), endpoint));
            newest.map(|(sequence, _)| sequence.get())
        };
        lately.add(&push(1, "first"));
        lately.add(&push(2, "second"));
        for number in 3..=LATELY_MAX as u64 {
            lately.add(&push(number, &format!("v{number}")));
        }
        let next = LATELY_MAX as u64 + 1;
        lately.add(&push(next, "first"));
        // One that was in flight for longer.
        lately.add(&push(next - 1, "first"));
        assert_eq!((newest("first"), newest("second")), (Some(next), Some(2)));
        lately.add(&push(next + 1, "more"));
        assert_eq!((newest("first"), newest("second")), (Some(next), None));
    }
}
