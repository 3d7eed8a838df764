//! `/api/v1/repositories`: what was pushed to, or has a webhook of its own.

use std::ops::ControlFlow;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, cursors::List, problem::Problem},
    Page, Paging, Params, blocking, history, named, seconds,
};
use crate::{
    catalog::{ListedRepository, RepositoryOrder, RepositoryPlace},
    dispatch::health::State as Health,
    image::RepositoryName,
    push::EndpointId,
};

/// Longest text that is looked for in names, characters.
pub(super) const PART_MAX: usize = 255;

/// In which orders they come.
pub(super) const ORDERS: [&str; 3] = ["name", "last_push", "size"];

/// How many repositories are gone through for one page, when most of them may not be seen.
const UNSEEN_MAX: usize = 25_000;

/// Whoever may see so many at most is told of them without a look at the others.
const NAMES_MAX: usize = 2_000;

/// A repository in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct RepositoryView {
    /// Its name.
    #[schema(example = "acme/app")]
    pub(in super::super) name: String,
    /// Bytes, as was last found: for a webhook, or after a change that none tells of; null while it is not known.
    pub(in super::super) size: Option<u64>,
    /// How many tags it has; null while that is not known.
    pub(in super::super) tags: Option<u64>,
    /// When it was last pushed to, and by which tag.
    pub(in super::super) last_push: Option<LastPush>,
    /// How many pushes wait for their webhooks: of the endpoint that is furthest behind.
    pub(in super::super) queued_pushes: u32,
    /// How old the oldest of them is, seconds.
    pub(in super::super) oldest_age_s: Option<f64>,
    /// Whether it has a webhook of its own.
    pub(in super::super) has_webhook: bool,
    /// How its endpoints are, the worst of them; null without any.
    #[schema(example = "healthy")]
    pub(in super::super) endpoint_state: Option<String>,
}

/// A repository's last push.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct LastPush {
    /// When it was taken.
    pub(in super::super) at: String,
    /// By which tag; null when by digest.
    pub(in super::super) tag: Option<String>,
}

/// Which repositories are wanted.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in super::super) struct RepositoryQuery {
    pub(in super::super) q: Option<String>,
    pub(in super::super) sort: Option<String>,
    pub(in super::super) limit: Option<u32>,
    pub(in super::super) cursor: Option<String>,
}

/// Repositories that were pushed to, or have a webhook of their own.
#[utoipa::path(
    get, path = "/api/v1/repositories", tag = "repositories", operation_id = "repositories",
    params(
        ("q" = Option<String>, Query, description = "Only those with this in their names"),
        ("sort" = Option<String>, Query, description = "`name` (unless told), `last_push` or `size`: newest, largest first"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page, 50 unless told"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<RepositoryView>, description = "A page of repositories"))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<RepositoryQuery>,
) -> Result<Json<Page<RepositoryView>>, Problem> {
    listed(&admin, &who, query).await.map(Json)
}

/// One page of repositories.
pub(in super::super) async fn listed(
    admin: &Admin,
    who: &Who,
    query: RepositoryQuery,
) -> Result<Page<RepositoryView>, Problem> {
    let order = match query.sort.as_deref() {
        None | Some("name") => RepositoryOrder::Name,
        Some("last_push") => RepositoryOrder::LastPush,
        Some("size") => RepositoryOrder::Size,
        Some(_) => {
            return Err(Problem::parameter(
                "sort",
                format!("one of {}", ORDERS.join(", ")),
            ));
        }
    };
    let part = query.q.unwrap_or_default();
    if part.chars().count() > PART_MAX {
        return Err(Problem::parameter("q", "a name has at most 255 characters"));
    }
    let paging = Paging::new(admin, List::Repositories(order), query.limit, query.cursor);
    let (limit, after) = (paging.limit()?, paging.after::<(i64, String)>()?);
    let after = after.map(|(value, name)| RepositoryPlace { value, name });
    let seer = who.clone();
    let found = history(admin, move |reader| {
        let names = seer
            .seen()
            .map(|seen| reader.names(&seen, NAMES_MAX))
            .transpose()?;
        if let Some(names) = names.flatten() {
            let mut found = reader.repositories_among(&names, &part, order, after.as_ref())?;
            let is_all = found.len() <= limit;
            found.truncate(limit);
            let last = found.last().filter(|_| !is_all).map(|last| last.place(order));
            return Ok((found, last));
        }
        let rows = if seer.sees_all() { limit + 1 } else { UNSEEN_MAX };
        let (mut found, mut passed, mut last) = (Vec::new(), 0, None);
        reader.repositories(&part, order, after.as_ref(), rows, |repository| {
            passed += 1;
            last = Some(repository.place(order));
            if seer.may_see(&repository.name) {
                found.push(repository);
            }
            if found.len() > limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if found.len() > limit {
            found.truncate(limit);
            last = found.last().map(|last| last.place(order));
        } else if passed < rows {
            last = None;
        }
        // A page may be shorter than it might be, with what comes behind it still to be asked for.
        Ok((found, last))
    });
    let (found, next) = found.await?;
    let desk = admin.clone();
    let items = blocking(move || found.into_iter().map(|listed| view(&desk, listed)).collect());
    Ok(Page {
        items: items.await?,
        next: paging.next(next.map(|place| (place.value, place.name)).as_ref()),
    })
}

/// One repository, which need not have been pushed to.
#[utoipa::path(
    get, path = "/api/v1/repositories/{name}", tag = "repositories", operation_id = "repository",
    params(("name" = String, Path, description = "The repository; in the path it is percent-encoded, as in acme%2Fapp", example = "acme/app")),
    responses((status = 200, body = RepositoryView, description = "The repository"))
)]
pub(super) async fn get(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<RepositoryView>, Problem> {
    let name = super::repository(&name)?;
    who.see(&name)?;
    one(&admin, &name).await.map(Json)
}

/// What is known of one repository, which need not have been pushed to.
pub(in super::super) async fn one(admin: &Admin, name: &RepositoryName) -> Result<RepositoryView, Problem> {
    let wanted = name.to_string();
    let listed = history(admin, move |reader| reader.repository(&wanted)).await?;
    let listed = listed.unwrap_or_else(|| ListedRepository {
        name: name.to_string(),
        ..ListedRepository::default()
    });
    let desk = admin.clone();
    blocking(move || view(&desk, listed)).await
}

/// With what waits, and how its endpoints are. Blocks on the disk.
fn view(admin: &Admin, listed: ListedRepository) -> RepositoryView {
    let parts = admin.parts();
    let name: Option<RepositoryName> = listed.name.parse().ok();
    let waiting = name
        .as_ref()
        .map(|name| parts.queue.waiting(name))
        .unwrap_or_default();
    let oldest = waiting.iter().map(|waiting| waiting.oldest).min();
    let oldest_at = oldest.and_then(|oldest| parts.journal.taken_at(oldest).ok().flatten());
    let owing = name
        .as_ref()
        .map(|name| parts.endpoints.concerned(name))
        .unwrap_or_default();
    let worst = owing
        .iter()
        .map(|id| parts.states.view(id).state)
        .max_by_key(|state| badness(*state));
    let is_own = |id: &EndpointId| matches!(id, EndpointId::Repository(_));
    RepositoryView {
        size: listed.size,
        tags: name.as_ref().and_then(|name| parts.sizing.tags(name)),
        last_push: listed.last_push_at.map(|at| LastPush {
            at: at.to_string(),
            tag: named(&listed.last_tag),
        }),
        queued_pushes: waiting
            .iter()
            .map(|waiting| waiting.pushes)
            .max()
            .unwrap_or_default(),
        oldest_age_s: oldest_at.map(|at| seconds(parts.clock.now().since(at))),
        has_webhook: owing.iter().any(is_own),
        endpoint_state: worst.map(|state| state.as_str().to_owned()),
        name: listed.name,
    }
}

/// The larger, the more somebody should look at it.
fn badness(state: Health) -> u8 {
    match state {
        Health::Healthy => 0,
        Health::Held => 1,
        Health::Disabled => 2,
        Health::Failing => 3,
        Health::Paused => 4,
        Health::Ignored => 5,
    }
}
