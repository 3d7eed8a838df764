//! What a start notes of how pushes ended last: whoever tells people of it may have lost what it was told shortly before
//! the process ended.

use std::collections::{BTreeMap, VecDeque};

use super::{Durable, Journal, live::Standing, owed::READ_BYTES};
use crate::push::{EndpointId, Pair, Sequence, Settlement};

/// So many pairs are noted, those that were settled last: more than are told of within the second that may be lost.
const ENDED_MAX: usize = 20_000;

/// The pairs that were settled last before the start. It is of use until the writer is started: then what is settled may be
/// deleted.
#[derive(Debug, Default)]
pub struct EndedLately(VecDeque<(Pair, Settlement, Standing)>);

/// A push that ended for some of those who owed it, as far as that was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedPush {
    /// The push, with all the endpoints that owed it at first.
    pub durable: Durable,
    /// How it ended, for whom.
    pub ends: Vec<(EndpointId, Settlement)>,
    /// Who owes it still.
    pub left: Vec<EndpointId>,
}

impl EndedLately {
    /// Notes how a pair ended whose push stands there.
    pub(super) fn add(&mut self, pair: Pair, how: Settlement, standing: Standing) {
        if self.0.len() == ENDED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((pair, how, standing));
    }

    /// Reads the pushes back that ended, in order, but for those that are not `wanted`. Blocks on the disk.
    ///
    /// One that can't be read, or is not intact, is left out: it is owed no more.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method's path holds for one lifetime of records, the closure for any"
    )]
    pub fn pushes(
        &self,
        journal: &Journal,
        mut wanted: impl FnMut(Sequence) -> bool,
    ) -> impl Iterator<Item = EndedPush> {
        let mut ended: BTreeMap<Sequence, (Standing, Vec<(u16, Settlement)>)> = BTreeMap::new();
        for (pair, how, standing) in &self.0 {
            let (_, ends) = ended.entry(pair.sequence).or_insert((*standing, Vec::new()));
            ends.push((pair.place, *how));
        }
        let mut reader = journal.reader(READ_BYTES);
        ended.into_iter().filter_map(move |(sequence, (standing, ends))| {
            if !wanted(sequence) {
                return None;
            }
            let push = reader.push(standing, |head| head.to_push()).ok()?;
            let ends = ends.into_iter().filter_map(|(place, how)| {
                let endpoint = push.owed.get(usize::from(place))?;
                Some((endpoint.clone(), how))
            });
            let ends = ends.collect();
            let left = journal
                .shared
                .live()
                .find(sequence)
                .map(|push| journal.less_told(push));
            let is_left = |(place, _): &(u16, &EndpointId)| {
                let left = left.as_ref();
                left.is_some_and(|push| push.unsettled.contains(*place))
            };
            let left = (0..).zip(&push.owed).filter(is_left);
            let left = left.map(|(_, endpoint)| endpoint.clone()).collect();
            let bytes = standing.bytes;
            let durable = Durable {
                sequence,
                bytes,
                push,
            };
            Some(EndedPush { durable, ends, left })
        })
    }
}
