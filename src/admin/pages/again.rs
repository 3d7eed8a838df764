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
            again::{AgainView, foreseen, redelivered},
            deliveries::{DeliveryQuery, moment},
            letters::{Foreseen, RefusedView, ReplayView},
        },
        problem::Problem,
    },
    deliveries::LIST,
    field, form,
    frame::{Frame, Visitor},
    given, page,
    search::Search,
};

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
    /// When they were counted.
    pub(super) at: String,
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
#[derive(Default)]
pub(super) struct Counted {
    matched: u64,
    /// Whether nothing else is known, because they are so many.
    is_rough: bool,
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

impl<T> From<Foreseen<T>> for Counted
where
    Self: From<T>,
{
    fn from(foreseen: Foreseen<T>) -> Self {
        match foreseen {
            Foreseen::Each(view) => view.into(),
            Foreseen::Many(matched) => Self {
                matched,
                is_rough: true,
                ..Self::default()
            },
        }
    }
}

impl From<ReplayView> for Counted {
    fn from(view: ReplayView) -> Self {
        Self {
            matched: view.matched,
            is_rough: false,
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
            is_rough: false,
            again: view.redelivered,
            passed_over: view.passed_over,
            under_way: view.under_way,
            unknown: view.unknown,
            refused: view.refused,
        }
    }
}

/// What is said on the list once a set is sent again.
pub(super) fn notice(sent: u64, of: Set) -> String {
    let goes = match of {
        Set::Letters => " Each goes from here once it is taken.",
        Set::Deliveries => "",
    };
    match sent {
        0 => "None was sent again.".to_owned(),
        1 => format!("One is sent again now.{goes}"),
        sent => {
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

/// The earlier of what a filter ends at and the moment at which it was counted: what comes after that is never meant.
pub(super) fn before(until: Option<String>, counted: String) -> Result<String, Problem> {
    let end = moment("until", until.as_deref())?;
    Ok(match (end, moment("counted", Some(&counted))?) {
        (Some(end), Some(at)) if end > at => counted,
        _ => until.unwrap_or(counted),
    })
}

/// Says what sending all deliveries again that a filter finds would come to.
pub(super) async fn confirm(
    State(admin): State<Admin>,
    visitor: Visitor,
    Params(query): Params<DeliveryQuery>,
) -> Result<Response, Problem> {
    let search = Search::of(query);
    let now = admin.parts().clock.now().to_string();
    let mut query = search.query.clone();
    query.until = Some(before(query.until, now.clone())?);
    query.force = None;
    let counted = foreseen(&admin, &visitor.who, &query).await?;
    Ok(page(
        StatusCode::OK,
        &AgainPage {
            frame: visitor.frame,
            set: Set::Deliveries,
            back: search.link(LIST, &[]),
            fields: search.typed().to_vec(),
            at: now,
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
    let search = Search::of(filled(&form));
    let mut query = search.query.clone();
    query.until = Some(before(query.until, counted_at(&admin, &form))?);
    query.force = Some(form.contains_key("force"));
    let done = redelivered(&admin, &visitor.who, &query).await?;
    let words = notice(done.redelivered, Set::Deliveries);
    let note = admin.parts().notes.leave(&visitor.who.name, LIST, words);
    Ok(Redirect::to(&search.link(LIST, &[("note", &note)])).into_response())
}

/// When it was counted; now, if the form doesn't say.
pub(super) fn counted_at(admin: &Admin, form: &HashMap<String, String>) -> String {
    let mut counted = Some(field(form, "counted"));
    given(&mut counted);
    counted.unwrap_or_else(|| admin.parts().clock.now().to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_it_was_counted_is_never_meant() {
        let counted = "2026-11-28T09:00:00.000Z";
        let end = |until: Option<&str>| before(until.map(ToOwned::to_owned), counted.to_owned());
        assert_eq!(end(None).unwrap(), counted);
        assert_eq!(end(Some("2099-01-01T00:00:00Z")).unwrap(), counted);
        for early in ["2026-11-28T08:59:59Z", "2026-11-28T09:30:00+01:00"] {
            assert_eq!(end(Some(early)).unwrap(), early);
        }
        assert!(end(Some("yesterday")).is_err());
    }
}
