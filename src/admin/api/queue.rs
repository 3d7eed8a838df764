//! `/api/v1/queue`: what is owed.

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, cursors::List, problem::Problem},
    Page, Paging, Params, blocking, named, seconds, veiled,
};
use crate::image::RepositoryName;

/// What one endpoint owes one repository.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Owed {
    /// The repository.
    pub(in super::super) repository: String,
    /// The endpoint.
    pub(in super::super) endpoint: String,
    /// How many pushes.
    pub(in super::super) pushes: u32,
    /// When the oldest of them was taken; null if that can't be read, or it was settled just now.
    pub(in super::super) oldest_at: Option<String>,
    /// How long ago that is, seconds.
    pub(in super::super) oldest_age_s: Option<f64>,
    /// How the endpoint is.
    pub(in super::super) state: String,
    /// Why, unless it is healthy.
    pub(in super::super) reason: Option<String>,
    /// When the next attempt may be made, if it is waited for.
    pub(in super::super) next_attempt: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct QueueQuery {
    repository: Option<String>,
    endpoint: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// What is owed now, by repository and endpoint, in the order of their names.
#[utoipa::path(
    get, path = "/api/v1/queue", tag = "deliveries", operation_id = "queue",
    params(
        ("repository" = Option<String>, Query, description = "Of this repository alone"),
        ("endpoint" = Option<String>, Query, description = "For this endpoint alone"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page, 50 unless told"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<Owed>, description = "A page of what is owed"))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<QueueQuery>,
) -> Result<Json<Page<Owed>>, Problem> {
    let paging = Paging::new(&admin, List::Queue, query.limit, query.cursor);
    let only = query.repository.as_deref().map(super::repository).transpose()?;
    let endpoint = query
        .endpoint
        .as_deref()
        .map(super::endpoints::named)
        .transpose()?;
    let endpoint = endpoint.map(|id| id.to_string());
    blocking(move || listed(&admin, &who, only, endpoint.as_deref(), &paging))
        .await?
        .map(Json)
}

fn listed(
    admin: &Admin,
    who: &Who,
    only: Option<RepositoryName>,
    endpoint: Option<&str>,
    paging: &Paging,
) -> Result<Page<Owed>, Problem> {
    let (limit, after) = (paging.limit()?, paging.after::<(String, String)>()?);
    let after = after.as_ref();
    let queue = &admin.parts().queue;
    let mut names = match only {
        Some(name) => vec![name],
        None => queue.names(),
    };
    names.retain(|name| who.may_see(name.as_str()));
    names.sort_unstable();
    let begin = after.map(|(name, _)| name.as_str()).unwrap_or_default();
    names.drain(..names.partition_point(|name| name.as_str() < begin));
    let mut items: Vec<Owed> = Vec::new();
    for name in names {
        let mut waiting = queue.waiting(&name);
        // As the cursor compares them.
        waiting.sort_by_cached_key(|waiting| waiting.endpoint.to_string());
        for waiting in waiting {
            let id = waiting.endpoint.to_string();
            let is_behind = after
                .is_none_or(|(repository, endpoint)| name.as_str() > repository.as_str() || id > *endpoint);
            if !is_behind || endpoint.is_some_and(|endpoint| endpoint != id) {
                continue;
            }
            if items.len() == limit {
                let place = items.last().map(|last| (&last.repository, &last.endpoint));
                let next = paging.next(place.as_ref());
                return Ok(Page { items, next });
            }
            items.push(owed(admin, who, &name, &waiting));
        }
    }
    Ok(Page { items, next: None })
}

/// What a person wants to know of it. Blocks on the disk.
fn owed(admin: &Admin, who: &Who, name: &RepositoryName, waiting: &crate::queue::Waiting) -> Owed {
    let parts = admin.parts();
    let taken_at = parts.journal.taken_at(waiting.oldest).ok().flatten();
    let view = parts.states.view(&waiting.endpoint);
    let now = parts.clock.now();
    Owed {
        repository: name.to_string(),
        endpoint: waiting.endpoint.to_string(),
        pushes: waiting.pushes,
        oldest_at: taken_at.map(|at| at.to_string()),
        oldest_age_s: taken_at.map(|at| seconds(now.since(at))),
        state: view.state.as_str().to_owned(),
        reason: named(&veiled::reason(who, &waiting.endpoint, view.reason)),
        next_attempt: view.next_attempt.map(|at| at.to_string()),
    }
}
