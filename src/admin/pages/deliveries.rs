//! `/deliveries`: what was sent, and what came of it.

use askama::Template;
use axum::{
    Extension,
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
            deliveries::{DeliveryQuery, DeliveryView, STATES, found, listed},
            send::redelivered,
        },
        problem::Problem,
    },
    href, link, page, problem,
};
use crate::catalog::DeliveryStory;

#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesPage {
    repository: String,
    endpoint: String,
    state: String,
    states: [&'static str; 5],
    problem: String,
    deliveries: Vec<DeliveryView>,
    next: Option<String>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(mut query): Params<DeliveryQuery>,
) -> Response {
    // An empty field of the form is none.
    for field in [&mut query.repository, &mut query.endpoint, &mut query.state] {
        *field = field.take().filter(|text| !text.trim().is_empty());
    }
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let mut shown = DeliveriesPage {
        repository: text(&query.repository),
        endpoint: text(&query.endpoint),
        state: text(&query.state),
        states: STATES,
        problem: String::new(),
        deliveries: Vec::new(),
        next: None,
    };
    match listed(&admin, &who, query).await {
        Ok(found) => {
            shown.deliveries = found.items;
            shown.next = found.next.map(|next| {
                let parameters = [
                    ("repository", shown.repository.as_str()),
                    ("endpoint", shown.endpoint.as_str()),
                    ("state", shown.state.as_str()),
                    ("cursor", next.as_str()),
                ];
                link("/deliveries", &parameters)
            });
            page(StatusCode::OK, &shown)
        }
        Err(error) => {
            shown.problem.clone_from(&error.detail);
            page(error.status(), &shown)
        }
    }
}

#[derive(Template)]
#[template(path = "delivery.html")]
struct DeliveryPage {
    image: String,
    repository: String,
    href: String,
    notice: String,
    problem: String,
    delivery: DeliveryStory,
}

impl DeliveryPage {
    async fn of(admin: &Admin, who: &Who, id: &str) -> Result<Self, Problem> {
        let (push, delivery) = found(admin, who, id).await?;
        let image = match (push.tag.as_str(), push.digest) {
            ("", Some(digest)) => format!("{}@{digest}", push.repository),
            ("", None) => push.repository.clone(),
            (tag, _) => format!("{}:{tag}", push.repository),
        };
        Ok(Self {
            image,
            href: href(&push.repository),
            repository: push.repository,
            notice: String::new(),
            problem: String::new(),
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
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Response {
    match DeliveryPage::of(&admin, &who, &id).await {
        Ok(shown) => page(StatusCode::OK, &shown),
        Err(error) => problem(&error),
    }
}

pub(super) async fn redeliver(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Response {
    let sent = redelivered(&admin, &who, &id, false).await;
    match DeliveryPage::of(&admin, &who, &id).await {
        Ok(mut shown) => {
            match sent {
                Ok(sent) if sent.delivered => "Sent again, and taken.".clone_into(&mut shown.notice),
                Ok(sent) => {
                    shown.problem = format!("Sent again, and not taken: {}", sent.reason.unwrap_or_default());
                }
                Err(error) => shown.problem = error.detail,
            }
            page(StatusCode::OK, &shown)
        }
        Err(error) => problem(&error),
    }
}
