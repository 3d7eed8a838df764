//! `/deliveries`: what was sent, and what came of it.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            Params,
            deliveries::{DeliveryQuery, STATES, found, sending_again},
            send::{Again, SentView, redelivered},
        },
        problem::Problem,
    },
    LiveQuery, Told,
    endpoint::address,
    frame::{Frame, Visitor},
    health::Health,
    href, page, refused,
    search::Search,
    segment, sentence,
    table::{DeliveriesPart, words},
    told,
    when::{When, span},
};
use crate::{
    catalog::{AttemptStory, DeliveryStory, PushStory},
    clock::Timestamp,
    push::EndpointId,
};

/// Where the list is.
pub(super) const LIST: &str = "/deliveries";

/// How long a page waits for the history to have what was sent just now.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesPage {
    frame: Frame,
    search: Search,
    states: [&'static str; 5],
    notice: String,
    problem: String,
    /// What was found, unless that can't be looked for.
    part: Option<DeliveriesPart>,
}

impl Told for DeliveriesPage {
    fn problem(&mut self) -> &mut String {
        &mut self.problem
    }
}

#[derive(Default, Deserialize)]
pub(super) struct ShowQuery {
    live: Option<String>,
    /// The number of what is said of what was done just now.
    note: Option<String>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    visitor: Visitor,
    Params(query): Params<DeliveryQuery>,
    Params(show): Params<ShowQuery>,
) -> Response {
    let search = Search::of(query);
    let mut frame = visitor.frame;
    if search.query.cursor.is_none() && search.query.limit.is_none() {
        let (here, stream) = (search.link(LIST, &[]), search.link("/live/deliveries", &[]));
        frame.keep_up(show.live.as_deref(), &here, stream);
    }
    let found = DeliveriesPart::of(&admin, &visitor.who, &search).await;
    let notes = &admin.parts().notes;
    let shown = DeliveriesPage {
        notice: notes.read(&visitor.who.name, LIST, show.note.as_deref()),
        frame,
        search,
        states: STATES,
        problem: String::new(),
        part: None,
    };
    told(shown, found, |shown, found| shown.part = Some(found))
}

#[derive(Template)]
#[template(path = "delivery.html")]
struct DeliveryPage {
    frame: Frame,
    may_edit: bool,
    id: String,
    image: String,
    repository: String,
    href: String,
    notice: String,
    problem: String,
    newer: bool,
    state: DeliveryState,
    attempts: Attempts,
}

/// How it is with a delivery.
#[derive(Template)]
#[template(path = "delivery_state.html")]
pub(super) struct DeliveryState {
    digest: String,
    actor: String,
    taken: Option<When>,
    ended: Option<When>,
    next: Option<When>,
    delivery: DeliveryStory,
    /// The page of its endpoint; empty for those who may not see it, and of one that is gone.
    endpoint: String,
    /// How its endpoint is, if it waits for one that is not healthy.
    health: Option<Health>,
    /// Whether it is sent again just now, whatever it was before.
    again: bool,
}

/// How many attempts a delivery had, as far as that is known.
fn counted(delivery: &DeliveryStory) -> String {
    match (delivery.attempts_made, delivery.may_have_had_more()) {
        (made, false) => made.to_string(),
        (0, true) => "not written down".to_owned(),
        (made, true) => format!("at least {made}"),
    }
}

/// What was tried.
#[derive(Template)]
#[template(path = "delivery_attempts.html")]
pub(super) struct Attempts {
    made: u64,
    attempts: Vec<Attempted>,
}

/// An attempt as it is shown.
pub(super) struct Attempted {
    pub(super) at: When,
    pub(super) took: String,
    pub(super) story: AttemptStory,
}

impl Attempted {
    pub(super) fn of(story: AttemptStory, now: Timestamp) -> Self {
        Self {
            at: When::at(story.at, now),
            took: match story.elapsed {
                short if short.as_secs() < 10 => format!("{} ms", short.as_millis()),
                long => span(long),
            },
            story,
        }
    }
}

/// What changes on a delivery's page, and what its push was.
pub(super) async fn parts(
    admin: &Admin,
    who: &Who,
    id: &str,
) -> Result<(PushStory, DeliveryState, Attempts), Problem> {
    let (push, mut delivery) = found(admin, who, id).await?;
    let again = sending_again(admin, &push, &delivery).await?;
    let now = admin.parts().clock.now();
    let attempts = std::mem::take(&mut delivery.attempts).into_iter();
    let attempts = Attempts {
        made: delivery.attempts_made,
        // The last one is what people come for.
        attempts: attempts.rev().map(|story| Attempted::of(story, now)).collect(),
    };
    let next = delivery.next_at.map(|at| When::at(at, now));
    let id = EndpointId::named(&delivery.endpoint);
    let has_page = who.may_locate(&id) && admin.parts().endpoints.get(&id).is_some();
    let waits = delivery.endpoint_health.is_some();
    let state = DeliveryState {
        digest: push.digest.clone().unwrap_or_default(),
        actor: push.actor.clone(),
        taken: push.taken_at.map(|at| When::at(at, now)),
        ended: delivery.ended_at.map(|at| When::at(at, now)),
        next: next.filter(When::is_ahead),
        endpoint: if has_page {
            address(&delivery.endpoint)
        } else {
            String::new()
        },
        health: waits.then(|| Health::of(admin, who, &id)),
        delivery,
        again,
    };
    Ok((push, state, attempts))
}

impl DeliveryPage {
    async fn of(admin: &Admin, visitor: &Visitor, id: &str) -> Result<Self, Problem> {
        let (push, state, attempts) = parts(admin, &visitor.who, id).await?;
        let image = match (push.tag.as_str(), state.digest.as_str()) {
            ("", "") => push.repository.clone(),
            ("", digest) => format!("{}@{digest}", push.repository),
            (tag, _) => format!("{}:{tag}", push.repository),
        };
        let mut frame = visitor.frame.clone();
        let id = state.delivery.webhook_id.clone();
        frame.keep_up_answer(format!("/live{LIST}/{}", segment(&id)));
        Ok(Self {
            frame,
            may_edit: visitor.who.may_edit(&push.repository),
            id,
            image,
            href: href(&push.repository),
            repository: push.repository,
            notice: String::new(),
            problem: String::new(),
            newer: false,
            state,
            attempts,
        })
    }

    /// With what was sent just now, once the history has it; it may not have it in time.
    async fn after(admin: &Admin, visitor: &Visitor, id: &str, sent: &SentView) -> Result<Self, Problem> {
        let deadline = Instant::now() + WRITTEN_WITHIN;
        let mut written = admin.parts().history.changes();
        loop {
            if let Some(written) = &mut written {
                written.mark_unchanged();
            }
            let shown = Self::of(admin, visitor, id).await?;
            let has_attempt = (shown.attempts.attempts.iter()).any(|one| one.story.at.to_string() == sent.at);
            let has_all = has_attempt && (!sent.delivered || shown.state.delivery.state == "delivered");
            let Some(written) = written.as_mut().filter(|_| !has_all) else {
                return Ok(shown);
            };
            if !matches!(timeout_at(deadline, written.changed()).await, Ok(Ok(()))) {
                return Ok(shown);
            }
        }
    }
}

/// What was sent or answered, as far as it is text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) async fn show(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
    Params(show): Params<LiveQuery>,
) -> Result<Response, Problem> {
    let mut shown = DeliveryPage::of(&admin, &visitor, &id).await?;
    let here = format!("{LIST}/{}", segment(&shown.id));
    let stream = format!("/live{here}");
    shown.frame = visitor.frame;
    shown.frame.keep_up(show.live.as_deref(), &here, stream);
    Ok(page(StatusCode::OK, &shown))
}

pub(super) async fn redeliver(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
    body: bytes::Bytes,
) -> Result<Response, Problem> {
    let force = super::form(&body).contains_key("force");
    Ok(match redelivered(&admin, &visitor.who, &id, force).await {
        Ok(Again::Due(due)) => {
            let mut shown = DeliveryPage::of(&admin, &visitor, &id).await?;
            shown.state.next = shown.state.next.filter(|_| due.next_attempt.is_some());
            shown.notice = due.detail;
            page(StatusCode::OK, &shown)
        }
        Ok(Again::Sent(sent)) => {
            let mut shown = DeliveryPage::after(&admin, &visitor, &id, &sent).await?;
            if sent.delivered {
                "Sent again, and taken.".clone_into(&mut shown.notice);
            } else {
                let reason = sent.reason.unwrap_or_default();
                shown.problem = sentence(&format!("Sent again, and not taken: {reason}"));
            }
            page(StatusCode::OK, &shown)
        }
        Err(error) => {
            let mut shown = DeliveryPage::of(&admin, &visitor, &id).await?;
            shown.newer = !force && error.status() == StatusCode::CONFLICT && error.detail.contains("newer");
            shown.problem = sentence(&error.detail);
            refused(&error, &shown)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_were_not_written_down_are_not_said_to_be_none() {
        let now = Timestamp::from_unix_millis(1_700_000_000_000);
        for (state, attempts_made, ended_at, said) in [
            ("pending", 0, None, "<dd>0</dd>"),
            ("superseded", 0, Some(now), "<dd>0</dd>"),
            ("delivered", 2, Some(now), "<dd>2</dd>"),
            ("delivered", 0, None, "<dd>not written down</dd>"),
            ("dead_letter", 2, None, "<dd>at least 2</dd>"),
        ] {
            let shown = DeliveryState {
                digest: String::new(),
                actor: String::new(),
                taken: None,
                ended: None,
                next: None,
                delivery: DeliveryStory {
                    endpoint: "ci".to_owned(),
                    webhook_id: "msg_1".to_owned(),
                    state: state.to_owned(),
                    ended_at,
                    next_at: None,
                    image_size: None,
                    layers: None,
                    repository_size: None,
                    reason: None,
                    endpoint_health: None,
                    attempts_made,
                    attempts: Vec::new(),
                },
                endpoint: String::new(),
                health: None,
                again: false,
            };
            let html = shown.render().unwrap();
            assert!(
                html.contains(&format!("<dt>Attempts</dt>{said}")),
                "{state}: {html}"
            );
        }
    }
}
