//! `/api/v1/deliveries/redeliver`: all deliveries that a filter finds, again.

use std::collections::{HashMap, hash_map::Entry};

use axum::{Extension, Json, extract::State};
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, problem::Problem, rate::Act},
    Params,
    deliveries::DeliveryQuery,
    history,
    letters::{FORESEEN_MAX, Foreseen, RefusedView, allowed},
    order, run,
};
use crate::{
    catalog::{DeliveryFilter, ReadError, Reader},
    dispatch::{
        again::{Past, WAITING_MAX},
        letters::Run,
        redeliver::SendAgainError,
    },
    push::{EndpointId, Sequence},
    settings::Order,
};

/// What sending a set of deliveries again comes to, or would.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct AgainView {
    /// Whether it was only counted.
    pub(in super::super) dry_run: bool,
    /// Deliveries that the filter finds.
    pub(in super::super) matched: u64,
    /// Those of them that are sent again.
    pub(in super::super) redelivered: u64,
    /// Those that are not, because there is a newer push of their tag; `force=true` sends them too.
    pub(in super::super) passed_over: u64,
    /// Those that are sent without that: they are not over yet, or are being sent again already.
    pub(in super::super) under_way: u64,
    /// Those of which it is not known any more what to send.
    pub(in super::super) unknown: u64,
    /// Those that are not, because nothing can be sent to their endpoints.
    pub(in super::super) refused: Vec<RefusedView>,
}

/// Sends all deliveries again that a filter finds, delivered ones and dead letters alike: at most 10,000.
///
/// They go in the order of their pushes, one at a time for each endpoint, at its pace, under the same `webhook-id`;
/// each once, whatever comes of it. A restart forgets those that were not sent yet. Whoever may not change everything
/// names one repository; what they send to an operator's endpoint waits while that is not healthy, does not count against
/// it when it fails, and is given up when the endpoint fails three times in a row.
#[utoipa::path(
    post, path = "/api/v1/deliveries/redeliver", tag = "deliveries", operation_id = "redeliver_deliveries",
    params(
        ("repository" = Option<String>, Query, description = "Of this repository alone"),
        ("endpoint" = Option<String>, Query, description = "For this endpoint alone"),
        ("state" = Option<String>, Query, description = "In this state alone"),
        ("since" = Option<String>, Query, description = "Of pushes taken then or later, RFC 3339"),
        ("until" = Option<String>, Query, description = "Of pushes taken before, RFC 3339"),
        ("dry_run" = Option<bool>, Query, description = "Count only"),
        ("force" = Option<bool>, Query, description = "Also those of which a newer push of the same tag is known"),
    ),
    responses(
        (status = 200, body = AgainView, description = "How many are sent again, or would be"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "These are too many"),
        (
            status = 429, body = Problem, content_type = "application/problem+json", description = "So many wait already, or one had 60 sets sent again (or 60 counted) within a minute",
            headers(("Retry-After" = u64, description = "In how many seconds it may go better")),
        ),
    )
)]
pub(super) async fn redeliver(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<DeliveryQuery>,
) -> Result<Json<AgainView>, Problem> {
    redelivered(&admin, &who, &query).await.map(Json)
}

/// Sends a set again, or counts it.
pub(in super::super) async fn redelivered(
    admin: &Admin,
    who: &Who,
    query: &DeliveryQuery,
) -> Result<AgainView, Problem> {
    let run = run(query.dry_run);
    let wanted = meant(admin, who, query, run).await?;
    redelivery_of(admin, who, query, wanted, run).await
}

/// What sending a set again would come to, unless so many are meant that somebody who waits for it is only told how many.
pub(in super::super) async fn foreseen(
    admin: &Admin,
    who: &Who,
    query: &DeliveryQuery,
) -> Result<Foreseen<AgainView>, Problem> {
    let wanted = meant(admin, who, query, Run::Dry).await?;
    let count = wanted.len() as u64;
    if count > FORESEEN_MAX {
        return Ok(Foreseen::Many(count));
    }
    let view = redelivery_of(admin, who, query, wanted, Run::Dry).await;
    view.map(Foreseen::Each)
}

/// The deliveries that somebody means who may have them sent again now.
async fn meant(admin: &Admin, who: &Who, query: &DeliveryQuery, run: Run) -> Result<Vec<Past>, Problem> {
    allowed(who, query.repository.as_deref())?;
    let filter = query.filter()?;
    admin.parts().rates.allow(Act::Set(who.name.clone(), run))?;
    let wanted = history(admin, move |reader| found(reader, &filter)).await?;
    if wanted.len() > WAITING_MAX {
        return Err(SendAgainError::TooMany.into());
    }
    Ok(wanted)
}

async fn redelivery_of(
    admin: &Admin,
    who: &Who,
    query: &DeliveryQuery,
    wanted: Vec<Past>,
    run: Run,
) -> Result<AgainView, Problem> {
    let order = order(query.force);
    let dispatcher = &admin.parts().dispatcher;
    let counted = dispatcher
        .redeliver_all(wanted, order, run, who.authority())
        .await?;
    if run == Run::Real {
        info!(
            target: "shipbell::audit", by = %who.name, deliveries = counted.again, repository = query.repository,
            endpoint = query.endpoint, state = query.state, since = query.since, until = query.until,
            force = order == Order::Force, "deliveries sent again by hand"
        );
    }
    Ok(AgainView {
        dry_run: run == Run::Dry,
        matched: counted.matched,
        redelivered: counted.again,
        passed_over: counted.passed_over,
        under_way: counted.under_way,
        unknown: counted.unknown,
        refused: counted.refused.into_iter().map(RefusedView::from).collect(),
    })
}

/// What a filter finds, one more than may be sent at once at most.
fn found(reader: &Reader, filter: &DeliveryFilter) -> Result<Vec<Past>, ReadError> {
    let mut journals = HashMap::new();
    let mut wanted = Vec::new();
    for listed in reader.deliveries(filter, None, WAITING_MAX + 1)? {
        let push = listed.place.push;
        let journal = match journals.entry(Reader::journal_number(push)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => *unknown.insert(reader.journal_of(push)?),
        };
        if let Some(sequence) = Sequence::new(Reader::sequence(push)) {
            wanted.push(Past {
                journal,
                sequence,
                endpoint: EndpointId::named(&listed.place.endpoint),
            });
        }
    }
    Ok(wanted)
}
