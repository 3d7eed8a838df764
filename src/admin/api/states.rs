//! `/api/v1/endpoints/{id}` and `…/states`: one endpoint, and how it came to be as it is.

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, cursors::List, problem::Problem},
    Page, Paging, Params, blocking,
    endpoints::{EndpointView, visible},
    history, named,
    schemas::EndpointState,
    veiled,
};
use crate::catalog::ListedTransition;

/// A change of an endpoint's state.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct TransitionView {
    /// When it was.
    #[schema(format = DateTime)]
    pub(in super::super) at: String,
    /// How the endpoint was before.
    #[schema(value_type = EndpointState)]
    pub(in super::super) from: String,
    /// How it was since.
    #[schema(value_type = EndpointState)]
    pub(in super::super) to: String,
    /// Failures in a row that counted, until then.
    pub(in super::super) failures: u64,
    /// What happened, or who did it.
    pub(in super::super) reason: Option<String>,
}

/// Which changes are wanted.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in super::super) struct TransitionQuery {
    pub(in super::super) limit: Option<u32>,
    pub(in super::super) cursor: Option<String>,
}

/// One endpoint with its state.
#[utoipa::path(
    get, path = "/api/v1/endpoints/{id}", tag = "endpoints", operation_id = "endpoint",
    params(("id" = String, Path, description = "Its identity, percent-encoded", example = "ci")),
    responses(
        (status = 200, body = EndpointView, description = "The endpoint"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no such endpoint, or not for who asks"),
    )
)]
pub(super) async fn get(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<EndpointView>, Problem> {
    one(&admin, &who, &id).await.map(Json)
}

/// One endpoint.
pub(in super::super) async fn one(admin: &Admin, who: &Who, id: &str) -> Result<EndpointView, Problem> {
    let (_, endpoint) = visible(admin, who, id)?;
    let (admin, who) = (admin.clone(), who.clone());
    blocking(move || EndpointView::of(&admin, &who, &endpoint)).await
}

/// How the endpoint came to be as it is: each change of its state, the newest first.
///
/// They are kept as long as the history is (`delivery.history`), the newest 200 of each endpoint.
#[utoipa::path(
    get, path = "/api/v1/endpoints/{id}/states", tag = "endpoints", operation_id = "endpoint_states",
    params(
        ("id" = String, Path, description = "Its identity, percent-encoded", example = "ci"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page, 50 unless told"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = Page<TransitionView>, description = "A page of its states, the newest first"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no such endpoint, or not for who asks"),
    )
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Params(query): Params<TransitionQuery>,
) -> Result<Json<Page<TransitionView>>, Problem> {
    listed(&admin, &who, &id, query).await.map(Json)
}

/// One page of an endpoint's changes.
pub(in super::super) async fn listed(
    admin: &Admin,
    who: &Who,
    id: &str,
    query: TransitionQuery,
) -> Result<Page<TransitionView>, Problem> {
    let (id, _) = visible(admin, who, id)?;
    let paging = Paging::new(admin, List::EndpointStates, query.limit, query.cursor);
    let (limit, after) = (paging.limit()?, paging.after::<i64>()?);
    let endpoint = id.clone();
    let mut found = history(admin, move |reader| {
        reader.transitions(&endpoint, after, limit + 1)
    })
    .await?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().map(|last| last.id).filter(|_| has_more);
    let view = |one: ListedTransition| TransitionView {
        at: one.at.to_string(),
        from: one.before,
        to: one.after,
        failures: one.failures,
        reason: named(&veiled::reason(who, &id, one.reason)),
    };
    Ok(Page {
        items: found.into_iter().map(view).collect(),
        next: paging.next(last.as_ref()),
    })
}
