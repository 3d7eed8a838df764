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
        api::{
            Params,
            deliveries::{DeliveryQuery, STATES, found, sending_again},
            send::{Again, SentView, redelivered},
        },
        problem::Problem,
    },
    frame::{Frame, Visitor},
    href, page, refused,
    search::Search,
    sentence,
    table::{DeliveriesPart, words},
    when::{When, span},
};
use crate::{
    catalog::{AttemptStory, DeliveryStory},
    clock::Timestamp,
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
    let mut shown = DeliveriesPage {
        notice: notes.read(&visitor.who.name, LIST, show.note.as_deref()),
        frame,
        search,
        states: STATES,
        problem: String::new(),
        part: None,
    };
    match found {
        Ok(found) => {
            shown.part = Some(found);
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
    /// Whether it is sent again just now, whatever it was before.
    again: bool,
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
        let again = sending_again(admin, &push, &delivery).await?;
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
            again,
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
            let has_attempt = (shown.attempts.iter()).any(|one| one.story.at.to_string() == sent.at);
            let has_all = has_attempt && (!sent.delivered || shown.delivery.state == "delivered");
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
    Ok(match redelivered(&admin, &visitor.who, &id, force).await {
        Ok(Again::Due(due)) => {
            let mut shown = DeliveryPage::of(&admin, &visitor, &id).await?;
            shown.next = shown.next.filter(|_| due.next_attempt.is_some());
            shown.notice = due.detail;
            page(StatusCode::OK, &shown)
        }
        Ok(Again::Sent(sent)) => {
            let mut shown = DeliveryPage::after(&admin, &visitor, &id, &sent).await?;
            if sent.delivered {
                "Sent again, and taken.".clone_into(&mut shown.notice);
            } else {
                let reason = sent.reason.unwrap_or_default();
                shown.problem = format!("Sent again, and not taken: {reason}");
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
