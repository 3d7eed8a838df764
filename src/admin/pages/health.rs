//! How an endpoint is, as it stands on the pages about it and about what waits for it.

use askama::Template;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            endpoints::{EndpointView, next_attempt},
            veiled,
        },
    },
    when::When,
};
use crate::{clock::Timestamp, push::EndpointId};

/// An endpoint's state, and why it is so.
#[derive(Template)]
#[template(path = "health.html")]
pub(super) struct Health {
    pub(super) state: String,
    pub(super) since: Option<When>,
    pub(super) reason: String,
    pub(super) next: Option<When>,
    /// Whether an attempt may be made, and there is nothing to make it with.
    pub(super) is_due: bool,
}

impl Health {
    /// As it is now, without what somebody may not know.
    pub(super) fn of(admin: &Admin, who: &Who, id: &EndpointId) -> Self {
        let view = admin.parts().states.view(id);
        let now = admin.parts().clock.now();
        let next = next_attempt(admin, id, view.next_attempt);
        Self {
            is_due: next.is_none() && view.next_attempt.is_some(),
            state: view.state.as_str().to_owned(),
            since: view.since.map(|at| When::at(at, now)),
            reason: veiled::reason(who, id, view.reason),
            next: next.map(|at| When::at(at, now)),
        }
    }

    /// As the API tells it.
    pub(super) fn read(view: &EndpointView, now: Timestamp) -> Self {
        Self {
            state: view.state.clone(),
            since: When::read(view.since.as_deref(), now),
            reason: view.reason.clone().unwrap_or_default(),
            next: When::read(view.next_attempt.as_deref(), now),
            is_due: view.next_attempt.is_none() && matches!(&*view.state, "failing" | "paused"),
        }
    }

    /// Whether it can be enabled: it is not sent to as usual.
    pub(super) fn can_enable(&self) -> bool {
        self.state != "healthy" && self.state != "failing"
    }

    pub(super) fn can_hold(&self) -> bool {
        self.state != "held" && self.state != "disabled"
    }

    pub(super) fn can_disable(&self) -> bool {
        self.state != "disabled"
    }
}
