//! `/api/v1/deliveries`: what was sent, and what came of it.

use std::collections::{HashMap, hash_map::Entry};

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, cursors::List, problem::Problem},
    Page, Paging, Params, history, history_just_now, named, veiled,
};
pub(in super::super) use crate::catalog::DELIVERY_STATES as STATES;
use crate::{
    catalog::{
        DeliveryFilter, DeliveryPlace, DeliveryStory, ListedDelivery, PushStory, Reader,
        json::{DeliveryDocument, PushDocument},
    },
    clock::Timestamp,
    journal::JournalId,
    push::{EndpointId, Sequence},
};

/// Repositories that may be seen whose deliveries are looked for alone. If they are more, the history is asked for all,
/// most of which may not be seen: so often for one page, and each time for so many, in all and for each that is wanted.
const NAMES_MAX: usize = 32;
const READS_MAX: usize = 20;
const UNSEEN_READ: usize = 200;
const UNSEEN_EACH: usize = 25;

/// A delivery in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct DeliveryView {
    /// Its `webhook-id`.
    pub(in super::super) id: String,
    /// The repository.
    pub(in super::super) repository: String,
    /// The tag; null when it was pushed by digest.
    pub(in super::super) tag: Option<String>,
    /// What was pushed, if that was written down.
    pub(in super::super) digest: Option<String>,
    /// The endpoint.
    pub(in super::super) endpoint: String,
    /// `pending`, `delivered`, `superseded`, `dead_letter`, or `unknown`.
    #[schema(example = "delivered")]
    pub(in super::super) state: String,
    /// When the push was taken, if that was written down.
    pub(in super::super) taken_at: Option<String>,
    /// When the delivery ended.
    pub(in super::super) ended_at: Option<String>,
    /// The earliest moment of the next attempt, if it waits for one and it is known when: for its own sake or its
    /// endpoint's, which may be waited for longer.
    pub(in super::super) next_attempt: Option<String>,
    /// How many attempts there were.
    pub(in super::super) attempts: u64,
    /// What was answered last, if anything was.
    pub(in super::super) status: Option<u16>,
    /// What went wrong last, if anything did.
    pub(in super::super) reason: Option<String>,
    /// Whether it is being sent again, whatever it came to before: it waits for that, or is on its way.
    pub(in super::super) sending_again: bool,
}

impl DeliveryView {
    fn of(listed: ListedDelivery, sending_again: bool) -> Self {
        let moment = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            id: listed.webhook_id,
            repository: listed.repository,
            tag: named(&listed.tag),
            digest: listed.digest,
            endpoint: listed.place.endpoint,
            state: listed.state,
            taken_at: moment(listed.taken_at),
            ended_at: moment(listed.ended_at),
            next_attempt: moment(listed.next_at),
            attempts: listed.attempts,
            status: listed.status,
            reason: listed.reason,
            sending_again,
        }
    }
}

/// Which deliveries are wanted.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in super::super) struct DeliveryQuery {
    pub(in super::super) repository: Option<String>,
    pub(in super::super) endpoint: Option<String>,
    pub(in super::super) state: Option<String>,
    pub(in super::super) since: Option<String>,
    pub(in super::super) until: Option<String>,
    pub(in super::super) limit: Option<u32>,
    pub(in super::super) cursor: Option<String>,
    pub(in super::super) dry_run: Option<bool>,
    pub(in super::super) force: Option<bool>,
}

impl DeliveryQuery {
    /// What is asked for.
    pub(super) fn filter(&self) -> Result<DeliveryFilter, Problem> {
        if let Some(state) = &self.state
            && !STATES.contains(&state.as_str())
        {
            let states = STATES.join(", ");
            return Err(Problem::parameter("state", format!("one of {states}")));
        }
        let repository = self.repository.as_deref().map(super::repository).transpose()?;
        Ok(DeliveryFilter {
            repository: repository.map(|name| name.to_string()),
            among: None,
            endpoint: self.endpoint.as_deref().map(endpoint_of).transpose()?,
            state: self.state.clone(),
            since: moment("since", self.since.as_deref())?,
            until: moment("until", self.until.as_deref())?,
        })
    }
}

fn endpoint_of(text: &str) -> Result<String, Problem> {
    super::endpoints::named(text).map(|id| id.to_string())
}

/// Deliveries, the newest push first.
///
/// For somebody who may see but some repositories a page may have fewer than were asked for, or none, and a `next` all
/// the same.
#[utoipa::path(
    get, path = "/api/v1/deliveries", tag = "deliveries", operation_id = "deliveries",
    params(
        ("repository" = Option<String>, Query, description = "Of this repository alone"),
        ("endpoint" = Option<String>, Query, description = "For this endpoint alone"),
        ("state" = Option<String>, Query, description = "In this state alone"),
        ("since" = Option<String>, Query, description = "Of pushes taken then or later, RFC 3339"),
        ("until" = Option<String>, Query, description = "Of pushes taken before, RFC 3339"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Items of a page, 50 unless told"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = Page<DeliveryView>, description = "A page of deliveries"))
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Params(query): Params<DeliveryQuery>,
) -> Result<Json<Page<DeliveryView>>, Problem> {
    listed(&admin, &who, query).await.map(Json)
}

/// One page of deliveries.
pub(in super::super) async fn listed(
    admin: &Admin,
    who: &Who,
    query: DeliveryQuery,
) -> Result<Page<DeliveryView>, Problem> {
    let mut filter = query.filter()?;
    if let Some(repository) = &filter.repository {
        who.see(&super::repository(repository)?)?;
    }
    let paging = Paging::new(admin, List::Deliveries, query.limit, query.cursor);
    let (limit, after) = (paging.limit()?, paging.after::<(i64, String)>()?);
    let mut after = after.map(|(push, endpoint)| DeliveryPlace { push, endpoint });
    let (who, desk) = (who.clone(), admin.clone());
    history(admin, move |reader| {
        let (mut items, mut journals) = (Vec::<DeliveryView>::new(), HashMap::new());
        if let (None, Some(seen)) = (&filter.repository, who.seen()) {
            filter.among = reader.names(&seen, NAMES_MAX)?;
        }
        let is_exact = who.sees_all() || filter.repository.is_some() || filter.among.is_some();
        let unseen = UNSEEN_READ.min(UNSEEN_EACH * (limit + 1));
        let mut left = READS_MAX * unseen;
        while left > 0 {
            let missing = limit + 1 - items.len();
            let wanted = if is_exact {
                missing
            } else {
                missing.max(unseen).min(left)
            };
            left = left.saturating_sub(wanted);
            let found = reader.deliveries(&filter, after.as_ref(), wanted)?;
            let is_end = found.len() < wanted;
            for mut delivery in found {
                if items.len() == limit {
                    let next = after.map(|place| (place.push, place.endpoint));
                    return Ok(Some((items, next)));
                }
                after = Some(delivery.place.clone());
                if who.may_see(&delivery.repository) {
                    let endpoint = EndpointId::named(&delivery.place.endpoint);
                    let push = delivery.place.push;
                    let number = Reader::journal_number(push);
                    let journal = match journals.entry(number) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => *new.insert(reader.journal_of(push)?),
                    };
                    let again = is_sent_again(&desk, journal, Reader::sequence(push), &endpoint);
                    veiled::hold_up(&desk, &endpoint, &delivery.state, &mut delivery.next_at);
                    let mut view = DeliveryView::of(delivery, again);
                    view.reason = view.reason.map(|reason| veiled::reason(&who, &endpoint, reason));
                    items.push(view);
                }
            }
            if is_end {
                return Ok(Some((items, None)));
            }
        }
        // A page that is shorter than it might be, with what comes behind it still to be asked for.
        let next = after.map(|place| (place.push, place.endpoint));
        Ok(Some((items, next)))
    })
    .await
    .map(|found| {
        let (items, next) = found.unwrap_or_default();
        Page {
            items,
            next: paging.next(next.as_ref()),
        }
    })
}

/// Whether a delivery of a push is being sent again. Blocks on the disk.
fn is_sent_again(admin: &Admin, journal: Option<JournalId>, sequence: u64, endpoint: &EndpointId) -> bool {
    let sequence = Sequence::new(sequence);
    let dispatcher = &admin.parts().dispatcher;
    sequence.is_some_and(|sequence| dispatcher.is_sent_again(journal, sequence, endpoint))
}

/// Whether a delivery is being sent again, whatever it came to before.
pub(in super::super) async fn sending_again(
    admin: &Admin,
    push: &PushStory,
    delivery: &DeliveryStory,
) -> Result<bool, Problem> {
    let (id, sequence, endpoint) = (push.id, push.sequence, EndpointId::named(&delivery.endpoint));
    let desk = admin.clone();
    history(admin, move |reader| {
        let journal = reader.journal_of(id)?;
        Ok(is_sent_again(&desk, journal, sequence, &endpoint))
    })
    .await
}

/// A moment in a query.
pub(in super::super) fn moment(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text else {
        return Ok(None);
    };
    let parsed = DateTime::parse_from_rfc3339(text);
    let at = parsed
        .map_err(|_| Problem::parameter(name, "a time as RFC 3339 has it, such as 2026-11-24T09:00:00Z"))?;
    Ok(Some(Timestamp::from_unix_millis(at.timestamp_millis())))
}

/// The delivery of that `webhook-id`, and its push.
pub(in super::super) async fn found(
    admin: &Admin,
    who: &Who,
    id: &str,
) -> Result<(PushStory, DeliveryStory), Problem> {
    let wanted = id.to_owned();
    let found = history_just_now(admin, move |reader| reader.delivery_of(&wanted)).await?;
    let found = found.filter(|(push, _)| who.may_see(&push.repository));
    let (push, mut delivery) =
        found.ok_or_else(|| Problem::absent(format!("the history knows of no delivery with the id {id}")))?;
    veiled::delivery(admin, who, &mut delivery);
    Ok((push, delivery))
}

/// A delivery with each attempt, and the push it is about.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryPage {
    /// Its `webhook-id`.
    id: String,
    #[serde(flatten)]
    delivery: DeliveryDocument,
    /// Whether it is being sent again, whatever it came to before: it waits for that, or is on its way.
    sending_again: bool,
    /// What it is about.
    push: PushDocument,
}

/// A delivery with each attempt: when, what was sent and answered, what comes next.
#[utoipa::path(
    get, path = "/api/v1/deliveries/{id}", tag = "deliveries", operation_id = "delivery",
    params(("id" = String, Path, description = "Its `webhook-id`")),
    responses(
        (status = 200, body = DeliveryPage, description = "The delivery, with `attempts` and the `push` it is about"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no such delivery, or not for who asks"),
    )
)]
pub(super) async fn one(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<DeliveryPage>, Problem> {
    let (push, delivery) = found(&admin, &who, &id).await?;
    let sending_again = sending_again(&admin, &push, &delivery).await?;
    Ok(Json(DeliveryPage {
        id: delivery.webhook_id.clone(),
        delivery: (&delivery).into(),
        sending_again,
        push: (&push).into(),
    }))
}
