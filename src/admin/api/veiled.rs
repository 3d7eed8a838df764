//! What is left out for those who may not know where an endpoint is.
//!
//! Whoever may see a repository sees which endpoints get its pushes, how they are, and what became of each delivery.
//! Where the operator's endpoints are is for those who may see every repository.

use super::{
    super::{Admin, access::Who},
    send::SentView,
};
use crate::{
    catalog::{DeliveryStory, EndpointHealth},
    clock::Timestamp,
    push::EndpointId,
    webhook::judge::without_place,
};

/// Leaves out of a reason where the endpoint is, or was when that was written down.
pub(in super::super) fn reason(who: &Who, endpoint: &EndpointId, reason: String) -> String {
    if who.may_locate(endpoint) {
        return reason;
    }
    without_place(&reason).into_owned()
}

/// How the endpoint is of a delivery in that state, if that holds it up; then `next_at` is when it is sent at the earliest.
pub(super) fn hold_up(
    admin: &Admin,
    endpoint: &EndpointId,
    state: &str,
    next_at: &mut Option<Timestamp>,
) -> Option<EndpointHealth> {
    if state != "pending" {
        return None;
    }
    let health = admin.parts().states.view(endpoint).told()?;
    *next_at = health.waits_until(*next_at);
    Some(health)
}

/// Tells how the endpoint of a pending delivery is and until when that is waited for, and leaves out of a delivery where
/// it went.
pub(super) fn delivery(admin: &Admin, who: &Who, story: &mut DeliveryStory) {
    let endpoint = EndpointId::named(&story.endpoint);
    story.endpoint_health = hold_up(admin, &endpoint, &story.state, &mut story.next_at);
    let given_up = story.reason.take();
    story.reason = given_up.map(|told| reason(who, &endpoint, told));
    if who.may_locate(&endpoint) {
        return;
    }
    for attempt in &mut story.attempts {
        attempt.url = None;
        // It may name the host it came from, and repeat what it was asked for.
        attempt.answer = None;
        attempt.headers = attempt.headers.take().map(|headers| {
            let kept: Vec<&str> = headers.lines().filter(|line| !is_host(line)).collect();
            kept.join("\n")
        });
        attempt.reason = attempt.reason.take().map(|told| reason(who, &endpoint, told));
    }
}

/// Leaves out of an attempt by hand where it went.
pub(super) fn sent(who: &Who, endpoint: &EndpointId, sent: &mut SentView) {
    if who.may_locate(endpoint) {
        return;
    }
    sent.url = None;
    sent.answer = None;
    sent.request_headers.retain(|line| !is_host(line));
    sent.reason = sent.reason.take().map(|told| reason(who, endpoint, told));
}

fn is_host(line: &str) -> bool {
    let name = line.split_once(':').map(|(name, _)| name);
    name.is_some_and(|name| name.eq_ignore_ascii_case("host"))
}
