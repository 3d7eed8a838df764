//! Settlements that wait for a commit, encoded as it will have them.

use std::collections::VecDeque;

use super::{Pair, Seed, Settlement, record};

/// One encoded settlement.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Mark {
    pub(in super::super) pair: Pair,
    /// Length of its record.
    pub(in super::super) bytes: usize,
}

/// Encoded settlements, in order.
#[derive(Debug, Default)]
pub(in super::super) struct Backlog {
    pub(in super::super) bytes: Vec<u8>,
    pub(in super::super) marks: VecDeque<Mark>,
}

impl Backlog {
    pub(in super::super) fn push(&mut self, seed: Seed, pair: Pair, how: Settlement) {
        let start = self.bytes.len();
        record::put_settled(&mut self.bytes, seed, pair, how);
        let bytes = self.bytes.len() - start;
        self.marks.push_back(Mark { pair, bytes });
    }

    /// How many settlements, and how many bytes of them, fit into `room` bytes.
    pub(in super::super) fn fitting(&self, room: usize) -> Fitting {
        let mut fitting = Fitting::default();
        for mark in &self.marks {
            if fitting.bytes + mark.bytes > room {
                break;
            }
            fitting.bytes += mark.bytes;
            fitting.count += 1;
        }
        fitting.is_all = fitting.count == self.marks.len();
        fitting
    }
}

/// The first settlements of the backlog.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Fitting {
    pub(in super::super) count: usize,
    /// Bytes of their records.
    pub(in super::super) bytes: usize,
    /// Whether there were no others.
    pub(super) is_all: bool,
}
