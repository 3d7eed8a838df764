//! `/endpoints`: where webhooks go, how that is, and what a hand can do about it.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use serde::Deserialize;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            Params, blocking,
            endpoints::{EndpointQuery, EndpointView, changeable, listed, set},
        },
        problem::Problem,
    },
    endpoint::address,
    frame::{Frame, Visitor},
    given,
    health::Health,
    href, link, page, refused, sentence,
    when::span,
};
use crate::{clock::Timestamp, dispatch::health, push::EndpointId};

/// Where the list is.
const LIST: &str = "/endpoints";

/// An endpoint in a table.
pub(super) struct Row {
    pub(super) id: String,
    /// The page of the repository whose own it is; empty for the operator's.
    pub(super) page: String,
    /// Its own page, with the history of its states.
    pub(super) own: String,
    /// Where it is changed; empty for those who may not.
    pub(super) href: String,
    pub(super) url: String,
    pub(super) health: Health,
    pub(super) failures: u32,
    pub(super) queued: String,
    pub(super) deliveries: String,
}

impl Row {
    pub(super) fn of(view: EndpointView, who: &Who, now: Timestamp) -> Self {
        let may_change = who.may_change(&EndpointId::named(&view.id));
        let queued = match (view.queued_pushes, view.oldest_age_s) {
            (None, _) => String::new(),
            (Some(0), _) => "nothing".to_owned(),
            (Some(pushes), Some(oldest)) => {
                let oldest = Duration::try_from_secs_f64(oldest).unwrap_or_default();
                format!("{pushes}, for {}", span(oldest))
            }
            (Some(pushes), None) => pushes.to_string(),
        };
        Self {
            page: view.repository.as_deref().map(href).unwrap_or_default(),
            href: if may_change {
                address(&view.id)
            } else {
                String::new()
            },
            own: address(&view.id),
            health: Health::read(&view, now),
            url: view.url.unwrap_or_default(),
            failures: view.failures,
            queued,
            deliveries: link("/deliveries", &[("endpoint", &view.id)]),
            id: view.id,
        }
    }
}

#[derive(Template)]
#[template(path = "endpoints.html")]
struct EndpointsPage {
    frame: Frame,
    state: String,
    states: [&'static str; 6],
    notice: String,
    problem: String,
    part: EndpointsPart,
}

/// Those that are there, and what can be done about them.
#[derive(Template)]
#[template(path = "endpoints_part.html")]
pub(super) struct EndpointsPart {
    state: String,
    rows: Vec<Row>,
    restricted: bool,
    later: bool,
    /// Where the first page of them is.
    first: String,
    next: Option<String>,
}

#[derive(Default, Deserialize)]
pub(super) struct ShowQuery {
    state: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
    /// Which one was changed just now.
    done: Option<String>,
    live: Option<String>,
}

impl EndpointsPart {
    /// Those in a state; in any, if that is empty.
    pub(super) async fn of(admin: &Admin, who: &Who, state: &str) -> Result<Self, Problem> {
        let query = EndpointQuery {
            state: Some(state.to_owned()),
            ..EndpointQuery::default()
        };
        Self::found(admin, who, query).await
    }

    async fn found(admin: &Admin, who: &Who, mut query: EndpointQuery) -> Result<Self, Problem> {
        given(&mut query.state);
        let state = query.state.clone().unwrap_or_default();
        let later = query.cursor.is_some();
        let found = listed(admin, who, query).await?;
        let now = admin.parts().clock.now();
        let next = found.next.map(|next| {
            let filter = [("state", state.as_str()), ("cursor", next.as_str())];
            link(LIST, &filter)
        });
        let row = |view| Row::of(view, who, now);
        Ok(Self {
            first: link(LIST, &[("state", &state)]),
            state,
            rows: found.items.into_iter().map(row).collect(),
            restricted: !who.sees_all(),
            later,
            next,
        })
    }
}

impl EndpointsPage {
    async fn of(admin: &Admin, visitor: &Visitor, query: ShowQuery) -> Result<Self, Problem> {
        let is_live = query.cursor.is_none() && query.limit.is_none();
        let listing = EndpointQuery {
            state: query.state,
            limit: query.limit,
            cursor: query.cursor,
            ..EndpointQuery::default()
        };
        let part = EndpointsPart::found(admin, &visitor.who, listing).await?;
        let mut frame = visitor.frame.clone();
        if is_live {
            let filter = [("state", part.state.as_str())];
            let stream = link("/live/endpoints", &filter);
            frame.keep_up(query.live.as_deref(), &link(LIST, &filter), stream);
        }
        let changed = query.done.as_deref().map(EndpointId::named);
        let changed = changed.filter(|id| visitor.who.may_change(id));
        let changed = changed.filter(|id| admin.parts().endpoints.get(id).is_some());
        Ok(Self {
            frame,
            state: part.state.clone(),
            states: health::State::ALL.map(health::State::as_str),
            notice: changed
                .map(|id| format!("{id} is {} now.", admin.parts().states.state(&id)))
                .unwrap_or_default(),
            problem: String::new(),
            part,
        })
    }
}

pub(super) async fn list(
    State(admin): State<Admin>,
    visitor: Visitor,
    Params(query): Params<ShowQuery>,
) -> Result<Response, Problem> {
    let shown = EndpointsPage::of(&admin, &visitor, query).await?;
    Ok(page(StatusCode::OK, &shown))
}

/// Sets a state by hand, and shows the list again.
async fn change(
    admin: &Admin,
    visitor: &Visitor,
    id: &str,
    event: health::Event,
) -> Result<Response, Problem> {
    let Err(error) = set(admin, &visitor.who, id, event).await else {
        let list = link(LIST, &[("done", id)]);
        return Ok(Redirect::to(&list).into_response());
    };
    let mut shown = EndpointsPage::of(admin, visitor, ShowQuery::default()).await?;
    shown.problem = sentence(&error.detail);
    Ok(refused(&error, &shown))
}

pub(super) async fn enable(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    change(&admin, &visitor, &id, health::Event::Enabled).await
}

pub(super) async fn hold(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    change(&admin, &visitor, &id, health::Event::Held).await
}

pub(super) async fn disable(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    change(&admin, &visitor, &id, health::Event::Disabled).await
}

#[derive(Template)]
#[template(path = "disable.html")]
struct DisablePage {
    frame: Frame,
    id: String,
    href: String,
    owed: u64,
}

/// Asks whether an endpoint is really to be disabled.
pub(super) async fn confirm(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (identity, _) = changeable(&admin, &visitor.who, &id)?;
    // It may look at all repositories.
    let desk = admin.clone();
    let owed = blocking(move || desk.parts().owed.by(&desk.parts().queue, &identity)).await?;
    Ok(page(
        StatusCode::OK,
        &DisablePage {
            frame: visitor.frame,
            href: address(&id),
            id,
            owed: owed.map_or(0, |owed| owed.pushes),
        },
    ))
}
