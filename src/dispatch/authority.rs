//! On whose authority, and on whose behalf, something is sent again.

use std::time::Duration;

use super::replay::Leave;
use crate::push::EndpointId;

/// What somebody who has something sent again may decide. An operator's endpoint is shared: with how it is, and when it is
/// tried, whoever may edit some of its repositories would decide for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// How the endpoint is: one that fails is tried at once for them, and a failure counts against it.
    Endpoint,
    /// Their repositories alone: one that fails is waited for, and a failure of what it isn't owed says nothing of it. A
    /// success heals it all the same.
    Repositories,
}

impl Authority {
    /// Over this endpoint: whoever may edit a repository decides over its own.
    #[must_use]
    pub fn over(self, endpoint: &EndpointId) -> Self {
        match endpoint {
            EndpointId::Named(_) => self,
            EndpointId::Repository(_) => Self::Endpoint,
        }
    }
}

/// On whose behalf something is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Of somebody who waits for what comes of it.
    Hand(Authority),
    /// Of a set, by this leave.
    Set(Authority, Leave),
}

impl By {
    /// How long its turn is waited for among what the endpoint's lanes send: there are rates of few in an hour, and sizes
    /// grow old.
    pub(super) fn turn_within(self) -> Duration {
        match self {
            Self::Hand(_) => Duration::from_secs(30),
            Self::Set(..) => Duration::from_mins(10),
        }
    }

    pub(super) fn authority(self) -> Authority {
        match self {
            Self::Hand(authority) | Self::Set(authority, _) => authority,
        }
    }
}
