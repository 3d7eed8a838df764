//! A push that was given up, and why.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    push::{EndpointId, Pair},
    queue::Settled,
};

/// Why a push was given up.
#[derive(Clone, Debug)]
pub(in super::super) enum Reason {
    /// In words that are always the same.
    Fixed(&'static str),
    /// In words of the moment, without any secret.
    Said(Arc<str>),
}

impl Reason {
    /// There is no such endpoint any more.
    pub(in super::super) fn gone(endpoint: &EndpointId) -> Self {
        Self::Fixed(match endpoint {
            EndpointId::Named(_) => "its endpoint is gone from the configuration",
            EndpointId::Repository(_) => "its repository's webhook was removed",
        })
    }

    pub(in super::super) fn as_str(&self) -> &str {
        match self {
            Self::Fixed(text) => text,
            Self::Said(text) => text,
        }
    }
}

/// A push that waits for its letter.
#[derive(Clone, Debug)]
pub(in super::super) struct Waiting {
    pub(in super::super) pair: Pair,
    pub(in super::super) endpoint: Arc<EndpointId>,
    pub(in super::super) at: Timestamp,
    pub(in super::super) reason: Reason,
    /// How many attempts there were, if that is known.
    pub(in super::super) attempts: Option<u32>,
    /// Its endpoint was gone, or it had been given up, when it was found: there is no bound on those.
    pub(in super::super) is_found: bool,
}

impl Waiting {
    pub(in super::super) fn new(settled: &Settled, at: Timestamp, reason: Reason) -> Self {
        Self {
            pair: settled.pair(),
            endpoint: Arc::clone(&settled.endpoint),
            at,
            reason,
            attempts: settled.attempts,
            is_found: false,
        }
    }
}

/// How many of these were found.
pub(super) fn found(waiting: &[Waiting]) -> usize {
    waiting.iter().filter(|waiting| waiting.is_found).count()
}
