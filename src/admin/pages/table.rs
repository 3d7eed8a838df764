//! A table of deliveries, as it stands in several pages and comes by their streams.

use askama::Template;

use super::{
    super::{
        Admin,
        access::{Role, Who},
        api::deliveries::{DeliveryQuery, DeliveryView, listed},
        problem::Problem,
    },
    again::may_send,
    search::Search,
    sentence,
    when::When,
};
use crate::clock::Timestamp;

/// A delivery in a table.
pub(super) struct Row {
    id: String,
    image: String,
    state: String,
    words: String,
    /// Whether it is sent again just now, whatever it was before.
    again: bool,
    endpoint: String,
    taken: Option<When>,
    next: Option<When>,
    answer: String,
}

impl Row {
    fn of(view: DeliveryView, now: Timestamp) -> Self {
        let status = view.status.map(|status| status.to_string());
        let image = match (view.tag, view.digest) {
            (Some(tag), _) => format!("{}:{tag}", view.repository),
            (None, Some(digest)) => format!("{}@{digest}", view.repository),
            (None, None) => view.repository,
        };
        Self {
            image,
            words: words(&view.state),
            again: view.sending_again,
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

/// Deliveries, or why there are none.
#[derive(Template)]
#[template(path = "deliveries_table.html")]
pub(super) struct Table {
    rows: Vec<Row>,
    filtered: bool,
    /// Why the history can't be read; empty when it can.
    unread: String,
    /// Whether there is more behind these.
    has_more: bool,
    /// Whether there is something before these.
    later: bool,
}

impl Table {
    /// One page of what a query finds, and the cursor of the next. A history that can't be read just now is no reason
    /// to show nothing else either.
    pub(super) async fn of(
        admin: &Admin,
        who: &Who,
        query: DeliveryQuery,
        filtered: bool,
    ) -> Result<(Self, Option<String>), Problem> {
        let later = query.cursor.is_some();
        let (items, next, unread) = match listed(admin, who, query).await {
            Ok(page) => (page.items, page.next, String::new()),
            Err(error) if error.status().is_server_error() => (Vec::new(), None, sentence(&error.detail)),
            Err(error) => return Err(error),
        };
        let now = admin.parts().clock.now();
        let table = Self {
            rows: items.into_iter().map(|one| Row::of(one, now)).collect(),
            filtered,
            unread,
            has_more: next.is_some(),
            later,
        };
        Ok((table, next))
    }
}

/// What changes on the page of deliveries: the table, and what can be done with what is in it.
#[derive(Template)]
#[template(path = "deliveries_part.html")]
pub(super) struct DeliveriesPart {
    table: Table,
    filtered: bool,
    /// Where those that were found can be sent again; empty for those who may not.
    again: String,
    only_looks: bool,
    later: bool,
    /// Where the first page of them is.
    first: String,
    next: Option<String>,
}

impl DeliveriesPart {
    pub(super) async fn of(admin: &Admin, who: &Who, search: &Search) -> Result<Self, Problem> {
        let filtered = search.is_filtered();
        let (table, next) = Table::of(admin, who, search.query.clone(), filtered).await?;
        Ok(Self {
            again: if may_send(who, search.get("repository")) {
                search.link("/deliveries/redeliver", &[])
            } else {
                String::new()
            },
            table,
            filtered,
            only_looks: who.role() < Role::Editor,
            later: search.query.cursor.is_some(),
            first: search.link("/deliveries", &[]),
            next: next.map(|next| search.link("/deliveries", &[("cursor", &next)])),
        })
    }
}
