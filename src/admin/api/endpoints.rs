//! `/api/v1/endpoints`: where webhooks go, and how that is.

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, draft::MASK, problem::Problem},
    Page, Paging, Params, cursor,
};
use crate::{
    dispatch::health::Event,
    push::EndpointId,
    webhook::{Endpoint, target::Target},
};

/// One endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct EndpointView {
    /// Its identity: its name in the configuration, or `repository:` and the repository's name.
    #[schema(example = "ci")]
    pub(in super::super) id: String,
    /// The repository whose own it is; null for the operator's.
    pub(in super::super) repository: Option<String>,
    /// Where it goes, without user-info, its query masked.
    pub(in super::super) url: String,
    /// `healthy`, `failing`, `paused`, `ignored`, `disabled`, or `held`.
    #[schema(example = "healthy")]
    pub(in super::super) state: String,
    /// Since when; null for a healthy one.
    pub(in super::super) since: Option<String>,
    /// Why it is so.
    pub(in super::super) reason: Option<String>,
    /// Failures in a row that count.
    pub(in super::super) failures: u32,
    /// When the next attempt may be made, if it is waited for.
    pub(in super::super) next_attempt: Option<String>,
}

impl EndpointView {
    pub(in super::super) fn of(admin: &Admin, endpoint: &Endpoint) -> Self {
        let view = admin.parts().states.view(&endpoint.id);
        Self {
            id: endpoint.id.to_string(),
            repository: match &endpoint.id {
                EndpointId::Named(_) => None,
                EndpointId::Repository(name) => Some(name.to_string()),
            },
            url: shown_url(endpoint),
            state: view.state.as_str().to_owned(),
            since: view.since.map(|since| since.to_string()),
            reason: super::named(&view.reason),
            failures: view.failures,
            next_attempt: view.next_attempt.map(|at| at.to_string()),
        }
    }
}

/// An endpoint's URL as it may be shown.
fn shown_url(endpoint: &Endpoint) -> String {
    let url = endpoint.url.get().ok();
    let target = url.and_then(|url| Target::parse(url.expose_secret()).ok());
    target.map_or_else(|| MASK.to_owned(), |target| target.to_string())
}

#[derive(Debug, Deserialize)]
pub(super) struct ListQuery {
    state: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// All endpoints with their states: the operator's in their order, then the repositories' by name.
#[utoipa::path(
    get, path = "/api/v1/endpoints", tag = "endpoints", operation_id = "endpoints",
    params(
        ("state" = Option<String>, Query, description = "Only those in this state"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page, 50 unless told"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = Page<EndpointView>),
    )
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<EndpointView>>, Problem> {
    let paging = Paging::new(query.limit, query.cursor);
    if let Some(state) = &query.state
        && crate::dispatch::health::State::parse(state).is_none()
    {
        return Err(Problem::parameter(
            "state",
            "one of healthy, failing, paused, ignored, disabled, held",
        ));
    }
    listed(&admin, &who, query.state.as_deref(), &paging).map(Json)
}

/// One page of endpoints.
pub(in super::super) fn listed(
    admin: &Admin,
    who: &Who,
    state: Option<&str>,
    paging: &Paging,
) -> Result<Page<EndpointView>, Problem> {
    let (limit, after) = (paging.limit()?, paging.after::<(bool, String)>()?);
    let endpoints = &admin.parts().endpoints;
    let is_seen = |id: &EndpointId| match id {
        EndpointId::Named(_) => who.repositories.is_none(),
        EndpointId::Repository(name) => who.may_see(name.as_str()),
    };
    let named = endpoints.named();
    let mut ids: Vec<EndpointId> = endpoints.ids();
    ids.retain(|id| matches!(id, EndpointId::Repository(_)));
    ids.sort_unstable();
    let all = named
        .iter()
        .map(|endpoint| endpoint.id.clone())
        .chain(ids)
        .filter(is_seen);
    let place = |id: &EndpointId| (matches!(id, EndpointId::Repository(_)), id.to_string());
    let mut skipping = after.is_some();
    let (mut items, mut last) = (Vec::new(), None);
    for id in all {
        if skipping {
            skipping = after.as_ref() != Some(&place(&id));
            continue;
        }
        if state.is_some_and(|state| admin.parts().states.view(&id).state.as_str() != state) {
            continue;
        }
        let Some(endpoint) = endpoints.get(&id) else {
            continue;
        };
        if items.len() == limit {
            return Ok(Page {
                items,
                next: last.as_ref().and_then(cursor),
            });
        }
        items.push(EndpointView::of(admin, &endpoint));
        last = Some(place(&id));
    }
    Ok(Page { items, next: None })
}

/// An endpoint that somebody may change.
pub(super) fn changeable(
    admin: &Admin,
    who: &Who,
    text: &str,
) -> Result<(EndpointId, std::sync::Arc<Endpoint>), Problem> {
    let id = match text.strip_prefix("repository:") {
        None => EndpointId::Named(text.into()),
        Some(name) => EndpointId::Repository(super::repository(name)?),
    };
    match &id {
        EndpointId::Named(_) => who.administer()?,
        EndpointId::Repository(name) => who.edit(name)?,
    }
    let endpoint = admin.parts().endpoints.get(&id);
    let endpoint = endpoint.ok_or_else(|| Problem::absent(format!("there is no endpoint {text}")))?;
    Ok((id, endpoint))
}

/// Sets an endpoint's state by hand; durable when it returns.
pub(in super::super) async fn set(
    admin: &Admin,
    who: &Who,
    id: &str,
    event: Event,
) -> Result<EndpointView, Problem> {
    let (id, endpoint) = changeable(admin, who, id)?;
    let states = &admin.parts().states;
    let reason = format!("by {}", who.name);
    states.happen(&id, event, &reason);
    states.save().await.map_err(|error| {
        let detail = format!("it is so from now on, but could not be saved yet: {error}");
        Problem::new(http::StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
    })?;
    let view = EndpointView::of(admin, &endpoint);
    info!(target: "shipbell::audit", endpoint = %id, by = %who.name, state = view.state, "endpoint set by hand");
    Ok(view)
}

/// Heals the endpoint: it is sent to again.
#[utoipa::path(
    post, path = "/api/v1/endpoints/{id}/enable", tag = "endpoints", operation_id = "enable_endpoint",
    params(("id" = String, Path, description = "Its identity, percent-encoded", example = "ci")),
    responses(
        (status = 200, body = EndpointView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn enable(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<EndpointView>, Problem> {
    set(&admin, &who, &id, Event::Enabled).await.map(Json)
}

/// Switches the endpoint off: it owes nothing, and what it owed becomes dead letters.
#[utoipa::path(
    post, path = "/api/v1/endpoints/{id}/disable", tag = "endpoints", operation_id = "disable_endpoint",
    params(("id" = String, Path, description = "Its identity, percent-encoded", example = "ci")),
    responses(
        (status = 200, body = EndpointView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn disable(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<EndpointView>, Problem> {
    set(&admin, &who, &id, Event::Disabled).await.map(Json)
}

/// Holds the endpoint: it owes, and is sent nothing until it is enabled.
#[utoipa::path(
    post, path = "/api/v1/endpoints/{id}/hold", tag = "endpoints", operation_id = "hold_endpoint",
    params(("id" = String, Path, description = "Its identity, percent-encoded", example = "ci")),
    responses(
        (status = 200, body = EndpointView),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn hold(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<EndpointView>, Problem> {
    set(&admin, &who, &id, Event::Held).await.map(Json)
}
