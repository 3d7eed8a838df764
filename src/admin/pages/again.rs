//! Sending many again: it is counted, asked about, and done.

use std::collections::HashMap;

use askama::Template;
use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            Params,
            again::{AgainView, redelivered},
            deliveries::DeliveryQuery,
            letters::{RefusedView, ReplayView},
        },
        problem::Problem,
    },
    field, form,
    frame::{Frame, Visitor},
    given, link, page, tidy,
};

const DELIVERIES: &str = "/deliveries";

/// Says what sending a set again would come to, and asks whether that is meant.
#[derive(Template)]
#[template(path = "again.html")]
pub(super) struct AgainPage {
    pub(super) frame: Frame,
    pub(super) set: Set,
    /// The list that they were taken from.
    pub(super) back: String,
    /// What they are filtered by.
    pub(super) fields: Vec<(&'static str, String)>,
    /// Up to when they are meant: those that were counted.
    pub(super) until: String,
    pub(super) counted: Counted,
}

/// What is sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    Letters,
    Deliveries,
}

impl Set {
    /// What people call them.
    fn words(self) -> &'static str {
        match self {
            Self::Letters => "dead letters",
            Self::Deliveries => "deliveries",
        }
    }

    /// What the list is called.
    fn list(self) -> &'static str {
        match self {
            Self::Letters => "Dead letters",
            Self::Deliveries => "Deliveries",
        }
    }

    /// Where it is done.
    fn action(self) -> &'static str {
        match self {
            Self::Letters => "/dead-letters/replay",
            Self::Deliveries => "/deliveries/redeliver",
        }
    }
}

/// What it comes to.
pub(super) struct Counted {
    matched: u64,
    again: u64,
    passed_over: u64,
    under_way: u64,
    unknown: u64,
    refused: Vec<RefusedView>,
}

impl Counted {
    /// How many are sent again if those are as well of which a newer push is known.
    fn forced(&self) -> u64 {
        self.again + self.passed_over
    }
}

impl From<ReplayView> for Counted {
    fn from(view: ReplayView) -> Self {
        Self {
            matched: view.matched,
            again: view.replayed,
            passed_over: view.passed_over,
            under_way: 0,
            unknown: 0,
            refused: view.refused,
        }
    }
}

impl From<AgainView> for Counted {
    fn from(view: AgainView) -> Self {
        Self {
            matched: view.matched,
            again: view.redelivered,
            passed_over: view.passed_over,
            under_way: view.under_way,
            unknown: view.unknown,
            refused: view.refused,
        }
    }
}

/// What is said on the list once a set is sent again.
pub(super) fn notice(sent: Option<u64>, of: Set) -> String {
    let goes = match of {
        Set::Letters => " Each goes from here once it is taken.",
        Set::Deliveries => "",
    };
    match sent {
        None => String::new(),
        Some(0) => "None was sent again.".to_owned(),
        Some(1) => format!("One is sent again now.{goes}"),
        Some(sent) => {
            format!(
                "{sent} are sent again now, in the order of their pushes, at the pace of their endpoints.{goes}"
            )
        }
    }
}

/// Whether somebody may send again what a filter finds: whoever may not change everything names one repository.
pub(super) fn may_send(who: &Who, repository: &str) -> bool {
    let is_one = !repository.is_empty() && !repository.contains('*');
    who.may_administer() || is_one && who.may_edit(repository)
}

/// What deliveries are filtered by, as it was typed.
fn typed(query: &DeliveryQuery) -> Vec<(&'static str, String)> {
    let fields = [
        ("repository", &query.repository),
        ("endpoint", &query.endpoint),
        ("state", &query.state),
        ("since", &query.since),
        ("until", &query.until),
    ];
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    fields
        .into_iter()
        .map(|(name, field)| (name, text(field)))
        .collect()
}

fn list(fields: &[(&'static str, String)], more: &[(&str, &str)]) -> String {
    let fields = fields.iter().map(|(name, value)| (*name, value.as_str()));
    link(
        DELIVERIES,
        &fields.chain(more.iter().copied()).collect::<Vec<_>>(),
    )
}

/// Says what sending all deliveries again that a filter finds would come to.
pub(super) async fn confirm(
    State(admin): State<Admin>,
    visitor: Visitor,
    Params(query): Params<DeliveryQuery>,
) -> Result<Response, Problem> {
    let fields = typed(&query);
    let now = admin.parts().clock.now().to_string();
    let mut query = tidy(query);
    let until = query.until.get_or_insert(now).clone();
    (query.dry_run, query.force) = (Some(true), None);
    let counted = redelivered(&admin, &visitor.who, &query).await?;
    Ok(page(
        StatusCode::OK,
        &AgainPage {
            frame: visitor.frame,
            set: Set::Deliveries,
            back: list(&fields, &[]),
            fields,
            until,
            counted: counted.into(),
        },
    ))
}

/// Sends again what was counted.
pub(super) async fn redeliver(
    State(admin): State<Admin>,
    visitor: Visitor,
    body: Bytes,
) -> Result<Response, Problem> {
    let form = form(&body);
    let query = filled(&form);
    let fields = typed(&query);
    let mut query = tidy(query);
    let mut counted = Some(field(&form, "counted"));
    given(&mut counted);
    query.until = query.until.or(counted);
    query.force = Some(form.contains_key("force"));
    let done = redelivered(&admin, &visitor.who, &query).await?;
    let sent = done.redelivered.to_string();
    Ok(Redirect::to(&list(&fields, &[("sent", &sent)])).into_response())
}

fn filled(form: &HashMap<String, String>) -> DeliveryQuery {
    let text = |name| Some(field(form, name));
    DeliveryQuery {
        repository: text("repository"),
        endpoint: text("endpoint"),
        state: text("state"),
        since: text("since"),
        until: text("until"),
        ..DeliveryQuery::default()
    }
}
