//! `/endpoints/{id}`: one endpoint, and how it came to be as it is.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            Params,
            send::{SentView, endpoint_tested},
            states::{TransitionQuery, TransitionView, listed, one},
        },
        problem::Problem,
    },
    LiveQuery, Told,
    endpoints::Row,
    frame::{Frame, Visitor},
    link, page, segment, sentence, told,
    when::When,
};
use crate::clock::Timestamp;

/// A change of a state in a table.
pub(super) struct Transition {
    pub(super) at: Option<When>,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) failures: u64,
    pub(super) reason: String,
}

impl Transition {
    fn of(view: TransitionView, now: Timestamp) -> Self {
        Self {
            at: When::read(Some(&view.at), now),
            from: view.from,
            to: view.to,
            failures: view.failures,
            reason: view.reason.unwrap_or_default(),
        }
    }
}

/// Where an endpoint's page is.
pub(super) fn address(id: &str) -> String {
    format!("/endpoints/{}", segment(id))
}

/// An endpoint's changes, the newest first, and the cursor of those behind them.
pub(super) async fn transitions(
    admin: &Admin,
    who: &Who,
    id: &str,
    query: TransitionQuery,
) -> Result<(Vec<Transition>, Option<String>), Problem> {
    let found = listed(admin, who, id, query).await?;
    let now = admin.parts().clock.now();
    let items = found.items.into_iter();
    Ok((items.map(|one| Transition::of(one, now)).collect(), found.next))
}

#[derive(Template)]
#[template(path = "endpoint.html")]
struct EndpointPage {
    frame: Frame,
    id: String,
    problem: String,
    sent: Option<SentView>,
    state: StatePart,
    changes: ChangesPart,
}

/// How it is, and what can be done about it.
#[derive(Template)]
#[template(path = "endpoint_state.html")]
pub(super) struct StatePart {
    row: Row,
}

impl StatePart {
    pub(super) async fn of(admin: &Admin, who: &Who, id: &str) -> Result<Self, Problem> {
        let view = one(admin, who, id).await?;
        Ok(Self {
            row: Row::of(view, who, admin.parts().clock.now()),
        })
    }
}

/// How it came to be so.
#[derive(Template)]
#[template(path = "endpoint_changes.html")]
pub(super) struct ChangesPart {
    /// Where the first of them are.
    first: String,
    /// Why the history can't be read; empty when it can.
    unread: String,
    transitions: Vec<Transition>,
    later: bool,
    next: Option<String>,
}

impl ChangesPart {
    pub(super) async fn of(
        admin: &Admin,
        who: &Who,
        id: &str,
        query: TransitionQuery,
    ) -> Result<Self, Problem> {
        let (first, later) = (address(id), query.cursor.is_some());
        let mut unread = String::new();
        let (transitions, next) = match transitions(admin, who, id, query).await {
            // The endpoint can be changed all the same.
            Err(error) if error.status().is_server_error() => {
                unread = sentence(&error.detail);
                Default::default()
            }
            found => found?,
        };
        Ok(Self {
            next: next.map(|next| link(&first, &[("cursor", &next)])),
            first,
            unread,
            transitions,
            later,
        })
    }
}

impl Told for EndpointPage {
    fn problem(&mut self) -> &mut String {
        &mut self.problem
    }
}

impl EndpointPage {
    async fn of(admin: &Admin, visitor: &Visitor, id: &str, query: TransitionQuery) -> Result<Self, Problem> {
        let state = StatePart::of(admin, &visitor.who, id).await?;
        let changes = ChangesPart::of(admin, &visitor.who, id, query).await?;
        Ok(Self {
            frame: visitor.frame.clone(),
            id: state.row.id.clone(),
            problem: String::new(),
            sent: None,
            state,
            changes,
        })
    }
}

pub(super) async fn show(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
    Params(query): Params<TransitionQuery>,
    Params(show): Params<LiveQuery>,
) -> Result<Response, Problem> {
    let is_live = query.cursor.is_none() && query.limit.is_none();
    let mut shown = EndpointPage::of(&admin, &visitor, &id, query).await?;
    if is_live {
        let here = address(&id);
        let stream = format!("/live{here}");
        shown.frame.keep_up(show.live.as_deref(), &here, stream);
    }
    Ok(page(StatusCode::OK, &shown))
}

/// Sends a test there, and shows what came of it.
pub(super) async fn test(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let sent = endpoint_tested(&admin, &visitor.who, &id).await;
    let mut shown = EndpointPage::of(&admin, &visitor, &id, TransitionQuery::default()).await?;
    shown.frame.keep_up_answer(format!("/live{}", address(&id)));
    Ok(told(shown, sent, |shown, sent| shown.sent = Some(sent)))
}
