//! Which lanes are at work: a bounded number of each endpoint's; the others wait in line for one of those, without
//! a task, a connection or a batch read back.

use std::collections::VecDeque;

use dashmap::{DashMap, mapref::entry::Entry};

use crate::{image::RepositoryName, push::EndpointId, queue::Lease};

/// Lanes of one endpoint that are at work at once. Far more than it is sent at once, so that batches are ready
/// when their turn comes.
const AT_WORK_MAX: usize = 128;

/// A lane with something to send.
pub(super) type Lane = (RepositoryName, Lease);

#[derive(Debug, Default)]
struct Line {
    at_work: usize,
    waiting: VecDeque<Lane>,
}

/// The lanes of all endpoints that are at work or wait in line.
#[derive(Debug, Default)]
pub(super) struct Lanes(DashMap<EndpointId, Line>);

impl Lanes {
    /// Lets the lane begin, and hands it back for that, or puts it in line.
    pub(super) fn enter(&self, repository: RepositoryName, lease: Lease) -> Option<Lane> {
        let mut line = self.0.entry((*lease.endpoint).clone()).or_default();
        if line.at_work < AT_WORK_MAX {
            line.at_work += 1;
            return Some((repository, lease));
        }
        line.waiting.push_back((repository, lease));
        None
    }

    /// A lane of that endpoint has ended: the next in line takes its place, if there is one.
    pub(super) fn leave(&self, endpoint: &EndpointId) -> Option<Lane> {
        let Entry::Occupied(mut entry) = self.0.entry(endpoint.clone()) else {
            return None;
        };
        let line = entry.get_mut();
        if let Some(next) = line.waiting.pop_front() {
            return Some(next);
        }
        line.at_work -= 1;
        if line.at_work == 0 {
            entry.remove();
        }
        None
    }
}
