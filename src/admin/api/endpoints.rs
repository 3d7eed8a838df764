//! `/api/v1/endpoints`: where webhooks go, and how that is.

use std::collections::HashSet;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, cursors::List, draft::MASK, problem::Problem},
    Page, Paging, Params, blocking,
    schemas::EndpointState,
    seconds, veiled,
};
use crate::{
    clock::Timestamp,
    config::endpoint_name,
    dispatch::health::{Event, State as Health},
    image::RepositoryName,
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
    /// Where it goes, without user-info, its query masked; null for those who may not know.
    pub(in super::super) url: Option<String>,
    /// How it is.
    #[schema(value_type = EndpointState, example = "healthy")]
    pub(in super::super) state: String,
    /// Since when; null for a healthy one.
    pub(in super::super) since: Option<String>,
    /// Why it is so.
    pub(in super::super) reason: Option<String>,
    /// Failures in a row that count.
    pub(in super::super) failures: u32,
    /// When the next attempt may be made, if it is waited for; null, too, once that moment is over and nothing waits for it:
    /// then it is made with the next push.
    pub(in super::super) next_attempt: Option<String>,
    /// How many pushes it is owed, as of a second ago; null for those who may not know where it is.
    pub(in super::super) queued_pushes: Option<u64>,
    /// How old the oldest of them is, seconds.
    pub(in super::super) oldest_age_s: Option<f64>,
}

impl EndpointView {
    /// An endpoint as somebody may see it. Blocks on the disk.
    pub(in super::super) fn of(admin: &Admin, who: &Who, endpoint: &Endpoint) -> Self {
        let parts = admin.parts();
        let view = parts.states.view(&endpoint.id);
        let owed = who
            .may_locate(&endpoint.id)
            .then(|| parts.owed.by(&parts.queue, &endpoint.id));
        let oldest = owed.flatten().map(|owed| owed.oldest);
        let oldest_at = oldest.and_then(|oldest| parts.journal.taken_at(oldest).ok().flatten());
        let reason = veiled::reason(who, &endpoint.id, view.reason);
        Self {
            id: endpoint.id.to_string(),
            repository: match &endpoint.id {
                EndpointId::Named(_) => None,
                EndpointId::Repository(name) => Some(name.to_string()),
            },
            url: who.may_locate(&endpoint.id).then(|| shown_url(endpoint)),
            state: view.state.as_str().to_owned(),
            since: view.since.map(|since| since.to_string()),
            reason: super::named(&reason),
            failures: view.failures,
            next_attempt: next_attempt(admin, &endpoint.id, view.next_attempt).map(|at| at.to_string()),
            queued_pushes: owed.map(|owed| owed.map_or(0, |owed| owed.pushes)),
            oldest_age_s: oldest_at.map(|at| seconds(parts.clock.now().since(at))),
        }
    }
}

/// When an endpoint's next attempt may be made, if that is ahead, or something waits for it: else it is made with the next
/// push, whenever that comes.
pub(in super::super) fn next_attempt(
    admin: &Admin,
    id: &EndpointId,
    planned: Option<Timestamp>,
) -> Option<Timestamp> {
    let parts = admin.parts();
    planned.filter(|at| *at > parts.clock.now() || parts.owed.by(&parts.queue, id).is_some())
}

/// An endpoint's URL as it may be shown.
fn shown_url(endpoint: &Endpoint) -> String {
    let url = endpoint.url.get().ok();
    let target = url.and_then(|url| Target::parse(url.expose_secret()).ok());
    target.map_or_else(|| MASK.to_owned(), |target| target.to_string())
}

/// Which endpoints are wanted.
#[derive(Debug, Default, Deserialize)]
pub(in super::super) struct EndpointQuery {
    pub(in super::super) state: Option<String>,
    pub(in super::super) repository: Option<String>,
    pub(in super::super) limit: Option<u32>,
    pub(in super::super) cursor: Option<String>,
}

/// Endpoints with their states: the operator's in their order, then the repositories' by name.
///
/// The operator's are there for those who may see every repository. With `repository`, those that get its pushes are
/// there for whoever may see it, by name and state; where they are is left out.
#[utoipa::path(
    get, path = "/api/v1/endpoints", tag = "endpoints", operation_id = "endpoints",
    params(
        ("state" = Option<String>, Query, description = "Only those in this state"),
        ("repository" = Option<String>, Query, description = "Only those that get this repository's pushes"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page, 50 unless told"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, body = Page<EndpointView>, description = "A page of endpoints"),
    )
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<EndpointQuery>,
) -> Result<Json<Page<EndpointView>>, Problem> {
    listed(&admin, &who, query).await.map(Json)
}

/// The endpoints that get a repository's pushes, its own last, as somebody may see them who may see it.
pub(in super::super) async fn concerned(
    admin: &Admin,
    who: &Who,
    name: &RepositoryName,
) -> Result<Vec<EndpointView>, Problem> {
    let (admin, who, name) = (admin.clone(), who.clone(), name.clone());
    blocking(move || {
        let endpoints = &admin.parts().endpoints;
        let concerned = endpoints.concerned(&name).into_iter();
        concerned
            .filter_map(|id| endpoints.get(&id))
            .map(|endpoint| EndpointView::of(&admin, &who, &endpoint))
            .collect()
    })
    .await
}

/// One page of endpoints.
pub(in super::super) async fn listed(
    admin: &Admin,
    who: &Who,
    query: EndpointQuery,
) -> Result<Page<EndpointView>, Problem> {
    let (admin, who) = (admin.clone(), who.clone());
    blocking(move || page(&admin, &who, query)).await?
}

fn page(admin: &Admin, who: &Who, query: EndpointQuery) -> Result<Page<EndpointView>, Problem> {
    let state = query.state.as_deref().map(|state| {
        let one_of = "one of healthy, failing, paused, ignored, disabled, held";
        Health::parse(state).ok_or_else(|| Problem::parameter("state", one_of))
    });
    let state = state.transpose()?;
    let paging = Paging::new(admin, List::Endpoints, query.limit, query.cursor);
    let (limit, after) = (paging.limit()?, paging.after::<(bool, String)>()?);
    let endpoints = &admin.parts().endpoints;
    let is_meant = |id: &EndpointId| state.is_none_or(|state| admin.parts().states.view(id).state == state);
    let (all, is_cut) = if let Some(name) = &query.repository {
        let name = super::repository(name)?;
        who.see(&name)?;
        (endpoints.concerned(&name), false)
    } else {
        let behind = after.as_ref().filter(|after| after.0).map(|after| &*after.1);
        seen(admin, who, behind, state, limit + 1)
    };
    let end = all.last().cloned();
    let place = |id: &EndpointId| (matches!(id, EndpointId::Repository(_)), id.to_string());
    let mut places = all.iter().map(place);
    let begin = match &after {
        None => 0,
        // The repositories' are in order. Of the operator's, who has gone may have stood anywhere: rather one twice
        // than one left out.
        Some(after) if after.0 => places.position(|place| place > *after).unwrap_or(all.len()),
        Some(after) => places
            .position(|place| place == *after)
            .map_or(0, |index| index + 1),
    };
    let (mut items, mut last) = (Vec::new(), None);
    for id in all.into_iter().skip(begin) {
        if !is_meant(&id) {
            continue;
        }
        let Some(endpoint) = endpoints.get(&id) else {
            continue;
        };
        if items.len() == limit {
            return Ok(Page {
                items,
                next: paging.next(last.as_ref()),
            });
        }
        items.push(EndpointView::of(admin, who, &endpoint));
        last = Some(place(&id));
    }
    // Where there are more, some have come into another state since they were chosen.
    let next = is_cut.then(|| end.as_ref().map(place)).flatten();
    Ok(Page {
        items,
        next: paging.next(next.as_ref()),
    })
}

/// The endpoints that somebody sees without naming a repository, in their order; of the repositories' only those behind
/// the one of the name `behind` that are in the state, so many at most, for they may be very many: whether there are more.
fn seen(
    admin: &Admin,
    who: &Who,
    behind: Option<&str>,
    state: Option<Health>,
    most: usize,
) -> (Vec<EndpointId>, bool) {
    let endpoints = &admin.parts().endpoints;
    let behind = behind.map(|behind| behind.strip_prefix("repository:").unwrap_or(behind));
    let is_seen = |id: &EndpointId| match id {
        EndpointId::Named(_) => false,
        EndpointId::Repository(name) => {
            behind.is_none_or(|behind| name.as_str() > behind) && who.may_see(name.as_str())
        }
    };
    let troubled = || admin.parts().states.troubled();
    let mut own = match state {
        None => endpoints.first_own(most + 1, is_seen),
        Some(Health::Healthy) => {
            let troubled: HashSet<EndpointId> = troubled().into_iter().map(|(id, _)| id).collect();
            endpoints.first_own(most + 1, |id| is_seen(id) && !troubled.contains(id))
        }
        Some(state) => {
            let mut own: Vec<EndpointId> = troubled()
                .into_iter()
                .filter_map(|(id, now)| (now == state && is_seen(&id)).then_some(id))
                .collect();
            own.retain(|id| endpoints.get(id).is_some());
            own.sort_unstable();
            own
        }
    };
    let is_cut = own.len() > most;
    own.truncate(most);
    let named = endpoints.named();
    let named = named.iter().map(|endpoint| endpoint.id.clone());
    let all = named.filter(|id| who.may_locate(id)).chain(own).collect();
    (all, is_cut)
}

/// The endpoints that are not healthy, of those that somebody sees: first those that get nothing although they should,
/// last those that a hand stopped.
pub(super) fn troubled(admin: &Admin, who: &Who) -> Vec<EndpointId> {
    let mut all = admin.parts().states.troubled();
    all.retain(|(id, _)| who.may_locate(id));
    all.sort_unstable_by(|(a, a_state), (b, b_state)| (a_state.gravity(), a).cmp(&(b_state.gravity(), b)));
    all.into_iter().map(|(id, _)| id).collect()
}

/// An endpoint that somebody may change.
pub(in super::super) fn changeable(
    admin: &Admin,
    who: &Who,
    text: &str,
) -> Result<(EndpointId, std::sync::Arc<Endpoint>), Problem> {
    let id = named(text)?;
    match &id {
        EndpointId::Named(_) => who.administer()?,
        EndpointId::Repository(name) => who.edit(name)?,
    }
    let endpoint = there(admin, &id)?;
    Ok((id, endpoint))
}

/// An endpoint that somebody may know all of.
pub(super) fn visible(
    admin: &Admin,
    who: &Who,
    text: &str,
) -> Result<(EndpointId, std::sync::Arc<Endpoint>), Problem> {
    let id = named(text)?;
    match &id {
        EndpointId::Named(_) if !who.may_locate(&id) => {
            let detail = "the operator's endpoints are for those who see every repository";
            return Err(Problem::new(http::StatusCode::FORBIDDEN, detail));
        }
        EndpointId::Named(_) => {}
        EndpointId::Repository(name) => who.see(name)?,
    }
    let endpoint = there(admin, &id)?;
    Ok((id, endpoint))
}

/// The identity that a text is, as lists and paths have it.
pub(super) fn named(text: &str) -> Result<EndpointId, Problem> {
    Ok(match text.strip_prefix("repository:") {
        None => EndpointId::Named(endpoint_name(text).map_err(|error| {
            let detail = format!("{error}; a repository's own webhook is named repository:acme/app");
            Problem::parameter("endpoint", detail)
        })?),
        Some(name) => EndpointId::Repository(super::repository(name)?),
    })
}

fn there(admin: &Admin, id: &EndpointId) -> Result<std::sync::Arc<Endpoint>, Problem> {
    let endpoint = admin.parts().endpoints.get(id);
    endpoint.ok_or_else(|| Problem::absent(format!("there is no endpoint {id}")))
}

/// Sets an endpoint's state by hand; durable when it returns.
pub(in super::super) async fn set(
    admin: &Admin,
    who: &Who,
    id: &str,
    event: Event,
) -> Result<EndpointView, Problem> {
    let (id, endpoint) = changeable(admin, who, id)?;
    super::webhooks::may_save(admin, who)?;
    let states = &admin.parts().states;
    let reason = format!("by {}", who.name);
    let was_disabled = states.is_disabled(&id);
    states.happen(&id, event, &reason);
    if let (EndpointId::Repository(name), true) = (&id, states.is_disabled(&id) != was_disabled) {
        admin.parts().webhooks.switched(name).await;
    }
    let saved = states.save().await;
    // It is in effect, saved or not.
    info!(
        target: "shipbell::audit",
        endpoint = %id,
        by = %who.name,
        state = states.view(&id).state.as_str(),
        saved = saved.is_ok(),
        "endpoint set by hand"
    );
    saved.map_err(|error| {
        let detail = format!("it is so from now on, but could not be saved yet: {error}");
        Problem::new(http::StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
    })?;
    let (admin, who) = (admin.clone(), who.clone());
    blocking(move || EndpointView::of(&admin, &who, &endpoint)).await
}

/// Heals the endpoint: it is sent to again.
#[utoipa::path(
    post, path = "/api/v1/endpoints/{id}/enable", tag = "endpoints", operation_id = "enable_endpoint",
    params(("id" = String, Path, description = "Its identity, percent-encoded", example = "ci")),
    responses(
        (status = 200, body = EndpointView, description = "The endpoint as it is now"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no such endpoint, or not for who asks"),
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
        (status = 200, body = EndpointView, description = "The endpoint as it is now"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no such endpoint, or not for who asks"),
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
        (status = 200, body = EndpointView, description = "The endpoint as it is now"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no such endpoint, or not for who asks"),
    )
)]
pub(super) async fn hold(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<EndpointView>, Problem> {
    set(&admin, &who, &id, Event::Held).await.map(Json)
}
