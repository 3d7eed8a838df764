//! What changes on a repository's page: how its own webhook is, who else gets its pushes, and what was sent.

use askama::Template;
use http::StatusCode;

use super::super::{
    super::{
        Admin,
        access::Who,
        api::{
            deliveries::DeliveryQuery,
            endpoints::{EndpointView, concerned},
            states::TransitionQuery,
        },
        problem::Problem,
        webhooks::WebhookView,
    },
    endpoint::{Transition, address, transitions},
    health::Health,
    href, sentence,
    table::Table,
    when::When,
};
use crate::{image::RepositoryName, push::EndpointId};

/// So many deliveries stand on the page.
const DELIVERIES: u32 = 20;

/// And so many changes of its webhook's state.
const TRANSITIONS: u32 = 5;

/// How the repository's own webhook is.
#[derive(Template)]
#[template(path = "repository_state.html")]
pub(in super::super) struct StatePart {
    href: String,
    there: Option<There>,
    may_edit: bool,
    /// Why nothing is sent, whatever the webhook is.
    left_out: Option<String>,
    /// Whether the page has another one in its form.
    is_another: bool,
}

/// The newest changes of its state.
#[derive(Template)]
#[template(path = "repository_changes.html")]
pub(in super::super) struct ChangesPart {
    transitions: Vec<Transition>,
    /// Where all of them are, if these are not all.
    history: Option<String>,
}

/// The operator's endpoints that get its pushes too.
#[derive(Template)]
#[template(path = "operators.html")]
pub(in super::super) struct Operators {
    operators: Vec<Operator>,
}

/// What changes on a repository's page.
pub(in super::super) struct RepositoryParts {
    pub(in super::super) state: StatePart,
    pub(in super::super) changes: ChangesPart,
    pub(in super::super) operators: Operators,
    pub(in super::super) table: Table,
    pub(super) there: Option<WebhookView>,
}

/// The webhook that is there.
struct There {
    health: Health,
    /// Where its page as an endpoint is.
    endpoint: String,
    has_secret: bool,
    previous_until: Option<When>,
    saved: Option<When>,
    saved_by: String,
}

/// An operator's endpoint that gets the repository's pushes too.
struct Operator {
    id: String,
    state: String,
    since: Option<When>,
}

/// The deliveries that stand on the page.
fn recent(name: &RepositoryName) -> DeliveryQuery {
    DeliveryQuery {
        repository: Some(name.to_string()),
        limit: Some(DELIVERIES),
        ..DeliveryQuery::default()
    }
}

impl RepositoryParts {
    /// As they are now, on a page that has a `version` of the webhook; on one that is made just now, if it isn't said.
    pub(in super::super) async fn of(
        admin: &Admin,
        who: &Who,
        name: &RepositoryName,
        version: Option<&str>,
    ) -> Result<Self, Problem> {
        who.see(name)?;
        let now = admin.parts().clock.now();
        let there = admin.parts().webhooks.get(name).await?;
        let (table, _) = Table::of(admin, who, recent(name), false).await?;
        let operators = concerned(admin, who, name).await?;
        let operators = operators.into_iter().filter(|view| view.repository.is_none());
        let operator = |view: EndpointView| Operator {
            since: When::read(view.since.as_deref(), now),
            id: view.id,
            state: view.state,
        };
        let current = there.as_ref().map(|there| there.version.to_string());
        let current = current.unwrap_or_default();
        Ok(Self {
            state: StatePart {
                href: href(name.as_str()),
                there: there.as_ref().map(|webhook| There::of(admin, who, name, webhook)),
                may_edit: who.may_edit(name.as_str()),
                left_out: (admin.parts().webhooks.left_out(name)).map(|left_out| sentence(&left_out.detail)),
                is_another: version.is_some_and(|version| version != current),
            },
            changes: match &there {
                Some(_) => ChangesPart::of(admin, who, name).await?,
                None => ChangesPart {
                    transitions: Vec::new(),
                    history: None,
                },
            },
            operators: Operators {
                operators: operators.map(operator).collect(),
            },
            table,
            there,
        })
    }
}

impl ChangesPart {
    async fn of(admin: &Admin, who: &Who, name: &RepositoryName) -> Result<Self, Problem> {
        let id = EndpointId::Repository(name.clone()).to_string();
        let query = TransitionQuery {
            limit: Some(TRANSITIONS),
            ..TransitionQuery::default()
        };
        let (transitions, more) = match transitions(admin, who, &id, query).await {
            // That the history can't be read is told where the deliveries are; and one that goes just now has none.
            Err(error) if error.status().is_server_error() || error.status() == StatusCode::NOT_FOUND => {
                Default::default()
            }
            found => found?,
        };
        Ok(Self {
            transitions,
            history: more.map(|_| address(&id)),
        })
    }
}

impl There {
    fn of(admin: &Admin, who: &Who, name: &RepositoryName, webhook: &WebhookView) -> Self {
        let now = admin.parts().clock.now();
        let id = EndpointId::Repository(name.clone());
        Self {
            health: Health::of(admin, who, &id),
            endpoint: address(&id.to_string()),
            has_secret: webhook.has_secret,
            previous_until: When::read(webhook.previous_secret_until.as_deref(), now),
            saved: When::read(Some(&webhook.saved_at), now),
            saved_by: webhook.saved_by.clone(),
        }
    }
}
