//! `/deliveries`: what was sent, and what came of it.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use serde::Deserialize;

use super::{
    super::{
        Admin,
        api::{
            Params,
            deliveries::{DeliveryQuery, DeliveryView, STATES, found, listed},
            send::redelivered,
        },
        problem::Problem,
    },
    again::{Set, may_send, notice},
    frame::{Frame, Visitor},
    given, href, link, page, refused, sentence, tidy,
    when::{When, span},
};
use crate::{
    catalog::{AttemptStory, DeliveryStory},
    clock::Timestamp,
};

/// A delivery in a table.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) image: String,
    pub(super) state: String,
    pub(super) words: String,
    pub(super) endpoint: String,
    pub(super) taken: Option<When>,
    pub(super) next: Option<When>,
    pub(super) answer: String,
}

impl Row {
    pub(super) fn of(view: DeliveryView, now: Timestamp) -> Self {
        let status = view.status.map(|status| status.to_string());
        let image = match (view.tag, view.digest) {
            (Some(tag), _) => format!("{}:{tag}", view.repository),
            (None, Some(digest)) => format!("{}@{digest}", view.repository),
            (None, None) => view.repository,
        };
        Self {
            image,
            words: words(&view.state),
            taken: When::read(view.taken_at.as_deref(), now),
            next: When::read(view.next_attempt.as_deref(), now).filter(When::is_ahead),
            answer: view.reason.or(status).unwrap_or_default(),
            id: view.id,
            state: view.state,
            endpoint: view.endpoint,
        }
    }
}

/// What a state is called by people.
pub(super) fn words(state: &str) -> String {
    state.replace('_', " ")
}

#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesPage {
    frame: Frame,
    repository: String,
    endpoint: String,
    state: String,
    since: String,
    until: String,
    states: [&'static str; 5],
    notice: String,
    problem: String,
    deliveries: Vec<Row>,
    /// Where those that were found can be sent again; empty for those who may not.
    again: String,
    only_looks: bool,
    filtered: bool,
    later: bool,
    next: Option<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct ShowQuery {
    live: Option<String>,
    /// How many were sent again just now.
    sent: Option<u64>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    visitor: Visitor,
    Params(mut query): Params<DeliveryQuery>,
    Params(show): Params<ShowQuery>,
) -> Response {
    given(&mut query.since);
    given(&mut query.until);
    let typed = (query.since.clone(), query.until.clone());
    let query = tidy(query);
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let mut shown = DeliveriesPage {
        only_looks: visitor.only_looks(),
        notice: notice(show.sent, Set::Deliveries),
        frame: visitor.frame,
        repository: text(&query.repository),
        endpoint: text(&query.endpoint),
        state: text(&query.state),
        since: text(&typed.0),
        until: text(&typed.1),
        states: STATES,
        problem: String::new(),
        deliveries: Vec::new(),
        again: String::new(),
        filtered: false,
        later: query.cursor.is_some(),
        next: None,
    };
    let parameters = [
        ("repository", shown.repository.clone()),
        ("endpoint", shown.endpoint.clone()),
        ("state", shown.state.clone()),
        ("since", shown.since.clone()),
        ("until", shown.until.clone()),
    ];
    if may_send(&visitor.who, &shown.repository) {
        let filter = parameters.each_ref().map(|(name, value)| (*name, value.as_str()));
        shown.again = link("/deliveries/redeliver", &filter);
    }
    shown.filtered = parameters.iter().any(|(_, value)| !value.is_empty());
    if !shown.later && query.limit.is_none() {
        let filter = parameters.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (here, stream) = (link("/deliveries", &filter), link("/live/deliveries", &filter));
        shown.frame.keep_up(show.live.as_deref(), &here, stream);
    }
    match listed(&admin, &visitor.who, query).await {
        Ok(found) => {
            let now = admin.parts().clock.now();
            shown.deliveries = found.items.into_iter().map(|one| Row::of(one, now)).collect();
            shown.next = found.next.map(|next| {
                let filter = parameters.iter().map(|(name, value)| (*name, value.as_str()));
                link(
                    "/deliveries",
                    &filter.chain([("cursor", next.as_str())]).collect::<Vec<_>>(),
                )
            });
            page(StatusCode::OK, &shown)
        }
        Err(error) => {
            shown.problem = sentence(&error.detail);
            refused(&error, &shown)
        }
    }
}

#[derive(Template)]
#[template(path = "delivery.html")]
struct DeliveryPage {
    frame: Frame,
    may_edit: bool,
    image: String,
    digest: String,
    actor: String,
    repository: String,
    href: String,
    notice: String,
    problem: String,
    newer: bool,
    taken: Option<When>,
    ended: Option<When>,
    next: Option<When>,
    delivery: DeliveryStory,
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

impl DeliveryPage {
    async fn of(admin: &Admin, visitor: &Visitor, id: &str) -> Result<Self, Problem> {
        let (push, mut delivery) = found(admin, &visitor.who, id).await?;
        let now = admin.parts().clock.now();
        let digest = push.digest.unwrap_or_default();
        let image = match (push.tag.as_str(), digest.as_str()) {
            ("", "") => push.repository.clone(),
            ("", digest) => format!("{}@{digest}", push.repository),
            (tag, _) => format!("{}:{tag}", push.repository),
        };
        let attempts = std::mem::take(&mut delivery.attempts).into_iter();
        Ok(Self {
            frame: visitor.frame.clone(),
            may_edit: visitor.who.may_edit(&push.repository),
            image,
            digest,
            actor: push.actor,
            href: href(&push.repository),
            repository: push.repository,
            notice: String::new(),
            problem: String::new(),
            newer: false,
            taken: push.taken_at.map(|at| When::at(at, now)),
            ended: delivery.ended_at.map(|at| When::at(at, now)),
            next: delivery
                .next_at
                .map(|at| When::at(at, now))
                .filter(When::is_ahead),
            // The last one is what people come for.
            attempts: attempts.rev().map(|story| Attempted::of(story, now)).collect(),
            delivery,
        })
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
) -> Result<Response, Problem> {
    let shown = DeliveryPage::of(&admin, &visitor, &id).await?;
    Ok(page(StatusCode::OK, &shown))
}

pub(super) async fn redeliver(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
    body: bytes::Bytes,
) -> Result<Response, Problem> {
    let force = super::form(&body).contains_key("force");
    let sent = redelivered(&admin, &visitor.who, &id, force).await;
    let mut shown = DeliveryPage::of(&admin, &visitor, &id).await?;
    Ok(match sent {
        Ok(None) => {
            "It waited for its next attempt, which is made now.".clone_into(&mut shown.notice);
            page(StatusCode::OK, &shown)
        }
        Ok(Some(sent)) => {
            if sent.delivered {
                "Sent again, and taken.".clone_into(&mut shown.notice);
            } else {
                let reason = sent.reason.unwrap_or_default();
                shown.problem = format!("Sent again, and not taken: {reason}");
            }
            page(StatusCode::OK, &shown)
        }
        Err(error) => {
            shown.newer = !force && error.status() == StatusCode::CONFLICT && error.detail.contains("newer");
            shown.problem = sentence(&error.detail);
            refused(&error, &shown)
        }
    })
}
