//! Sending by hand: a delivery again, or a test.

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, problem::Problem, rate::Act},
    Params, history_just_now, named, order,
    schemas::EndpointState,
    seconds, veiled,
};
use crate::{
    clock::Timestamp,
    dispatch::{
        health::State as Health,
        redeliver::{Redelivered, SendAgainError, Sent},
    },
    image::RepositoryName,
    push::{EndpointId, Sequence},
    webhook::Outcome,
};

/// An attempt that was made by hand.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct SentView {
    /// Its `webhook-id`.
    pub(in super::super) id: String,
    /// Whether it was answered with 2xx.
    pub(in super::super) delivered: bool,
    /// When it began.
    pub(in super::super) at: String,
    /// How long it took, seconds.
    pub(in super::super) elapsed_s: f64,
    /// What was answered, if anything was.
    pub(in super::super) status: Option<u16>,
    /// Whose fault a failure was: `endpoint`, `push`, `gone` (the endpoint's, for good) or `shipbell` (this
    /// machine had nothing left to connect with).
    pub(in super::super) fault: Option<String>,
    /// What went wrong, if anything did.
    pub(in super::super) reason: Option<String>,
    /// Whether there was a connection to send it by; if not, the request is the one that was to be sent.
    pub(in super::super) connected: bool,
    /// Where it went, its query masked; null when no request could be made.
    pub(in super::super) url: Option<String>,
    /// The headers that were sent, a line each, credentials masked.
    pub(in super::super) request_headers: Vec<String>,
    /// The body that was sent.
    pub(in super::super) request_body: Option<String>,
    /// The first 4 KiB of the answer; null to whoever may not know where it came from.
    pub(in super::super) answer: Option<String>,
    /// How much of the answer was read, bytes.
    pub(in super::super) answer_bytes: usize,
}

impl From<Sent> for SentView {
    fn from(sent: Sent) -> Self {
        let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
        let (delivered, status, fault, reason) = match &sent.outcome {
            Outcome::Delivered { status } => (true, Some(*status), None, None),
            Outcome::Failed {
                fault,
                status,
                reason,
                ..
            } => (false, *status, Some(fault.to_string()), named(reason)),
        };
        Self {
            id: sent.webhook_id,
            delivered,
            at: sent.at.to_string(),
            elapsed_s: seconds(sent.elapsed),
            status,
            fault,
            reason,
            connected: sent.is_connected,
            url: sent.url,
            request_headers: sent.headers.lines().map(ToOwned::to_owned).collect(),
            request_body: (!sent.body.is_empty()).then(|| text(&sent.body)),
            answer: sent.answer.as_ref().map(text),
            answer_bytes: sent.answer_bytes,
        }
    }
}

impl From<SendAgainError> for Problem {
    fn from(error: SendAgainError) -> Self {
        let detail = error.to_string();
        match error {
            SendAgainError::Refused(_)
            | SendAgainError::Owed
            | SendAgainError::Replaying
            | SendAgainError::Newer => Self::new(StatusCode::CONFLICT, detail),
            SendAgainError::Unknown => Self::absent(detail),
            SendAgainError::Busy => Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1),
            SendAgainError::TooMany => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
            SendAgainError::Full { .. } => Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(60),
            SendAgainError::Letters(error) => error.into(),
            SendAgainError::History(error) => error.into(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct SendQuery {
    force: Option<bool>,
}

/// Sends a delivery again, now: the same `webhook-id`, sizes anew. A dead letter that is taken this time goes.
///
/// One that is taken heals its endpoint. One that fails counts against an operator's endpoint only when an admin of all
/// repositories sent it.
#[utoipa::path(
    post, path = "/api/v1/deliveries/{id}/redeliver", tag = "deliveries", operation_id = "redeliver",
    params(
        ("id" = String, Path, description = "Its `webhook-id`"),
        ("force" = Option<bool>, Query, description = "Also if a newer push of the same tag is known"),
    ),
    responses(
        (status = 200, body = SentView, description = "The attempt, whatever came of it"),
        (status = 202, body = DueView, description = "It was not over, and waits for its own next attempt no longer"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no such delivery, or not for who asks"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "It can't be sent again"),
        (
            status = 429, body = Problem, content_type = "application/problem+json", description = "The endpoint was sent 60 deliveries again within a minute, or 30 by one who is no admin of all repositories, or is busy",
            headers(("Retry-After" = u64, description = "In how many seconds it may go better")),
        ),
    )
)]
pub(super) async fn redeliver(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
    Params(query): Params<SendQuery>,
) -> Result<Response, Problem> {
    Ok(
        match redelivered(&admin, &who, &id, query.force == Some(true)).await? {
            Again::Sent(sent) => Json(sent).into_response(),
            Again::Due(due) => (StatusCode::ACCEPTED, Json(due)).into_response(),
        },
    )
}

/// What came of sending a delivery again.
pub(in super::super) enum Again {
    /// It was sent.
    Sent(Box<SentView>),
    /// It was not over yet, and waits for its own next attempt no longer.
    Due(DueView),
}

/// A delivery that was not over yet, and waits no longer for its own sake.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct DueView {
    /// What happens now.
    #[schema(example = "It waited for its next attempt, which is made now.")]
    pub(in super::super) detail: String,
    /// How its endpoint is.
    #[schema(value_type = EndpointState, example = "healthy")]
    pub(in super::super) state: String,
    /// When the endpoint may be sent something again, if that is waited for; null if the delivery is due now.
    #[schema(format = DateTime)]
    pub(in super::super) next_attempt: Option<String>,
}

impl DueView {
    fn of(admin: &Admin, endpoint: &EndpointId) -> Self {
        let parts = admin.parts();
        let view = parts.states.view(endpoint);
        let (state, next) = (view.state, view.next_attempt.filter(|at| *at > parts.clock.now()));
        let detail = match next {
            None => "It waited for its next attempt, which is made now.".to_owned(),
            Some(at) => format!("It waits for its endpoint: {}", waits_until(state, at)),
        };
        Self {
            detail,
            state: state.as_str().to_owned(),
            next_attempt: next.map(|at| at.to_string()),
        }
    }
}

/// What is said of an endpoint that is waited for.
fn waits_until(state: Health, at: Timestamp) -> String {
    format!(
        "that is {state}, and nothing is sent there before {at}, unless the endpoint is enabled or takes a test."
    )
}

/// Why a delivery was not sent again; of one that is not over, also what it waits for.
fn refusal(admin: &Admin, endpoint: &EndpointId, error: SendAgainError) -> Problem {
    let view = admin.parts().states.view(endpoint);
    match (&error, view.next_attempt) {
        (SendAgainError::Owed, Some(at)) if at > admin.parts().clock.now() => Problem::new(
            StatusCode::CONFLICT,
            format!(
                "This delivery is not over yet. It waits for its endpoint: {}",
                waits_until(view.state, at)
            ),
        ),
        _ => error.into(),
    }
}

/// Whether somebody may have an endpoint sent another delivery again so soon. Whoever may not administer takes from
/// nobody who may, and no more than a part from others.
fn may_send(admin: &Admin, who: &Who, endpoint: &EndpointId) -> Result<(), Problem> {
    let rates = &admin.parts().rates;
    if !who.may_administer() {
        rates.allow(Act::OwnRedelivery(endpoint.clone(), who.name.clone()))?;
    }
    rates.allow(Act::Redelivery(endpoint.clone(), who.authority()))
}

/// Sends a delivery again, or has it wait no longer if it was not over.
pub(in super::super) async fn redelivered(
    admin: &Admin,
    who: &Who,
    id: &str,
    force: bool,
) -> Result<Again, Problem> {
    let wanted = id.to_owned();
    let found = history_just_now(admin, move |reader| {
        let Some((push, delivery)) = reader.delivery_of(&wanted)? else {
            return Ok(None);
        };
        let journal = reader.journal_of(push.id)?;
        Ok(Some((push, delivery, journal)))
    });
    let found = found.await?.filter(|(push, ..)| who.may_see(&push.repository));
    let (push, delivery, journal) =
        found.ok_or_else(|| Problem::absent(format!("the history knows of no delivery with the id {id}")))?;
    who.edit(&super::repository(&push.repository)?)?;
    let endpoint = EndpointId::named(&delivery.endpoint);
    let unknown = || Problem::absent("There is nothing known of this delivery any more that could be sent.");
    let sequence = Sequence::new(push.sequence).ok_or_else(unknown)?;
    may_send(admin, who, &endpoint)?;
    let dispatcher = &admin.parts().dispatcher;
    let again = dispatcher
        .redeliver(journal, sequence, &endpoint, order(Some(force)), who.authority())
        .await;
    let sent = match again.map_err(|error| refusal(admin, &endpoint, error))? {
        Redelivered::Sent(sent) => *sent,
        Redelivered::Due => {
            info!(
                target: "shipbell::audit", by = %who.name, repository = push.repository, delivery_id = id, %endpoint,
                "not waited for any longer"
            );
            return Ok(Again::Due(DueView::of(admin, &endpoint)));
        }
    };
    info!(
        target: "shipbell::audit", by = %who.name, repository = push.repository, delivery_id = id, %endpoint,
        outcome = ?sent.outcome, "sent again by hand"
    );
    let mut sent = SentView::from(sent);
    veiled::sent(who, &endpoint, &mut sent);
    Ok(Again::Sent(Box::new(sent)))
}

/// Sends a test to the repository's own webhook, now. One that is taken heals its endpoint.
#[utoipa::path(
    post, path = "/api/v1/repositories/{name}/webhook/test", tag = "repositories", operation_id = "test_webhook",
    params(("name" = String, Path, description = "The repository; in the path it is percent-encoded, as in acme%2Fapp", example = "acme/app")),
    responses(
        (status = 200, body = SentView, description = "The attempt, whatever came of it"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "The repository has no webhook of its own, or not for who asks"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "It can't be sent to"),
        (
            status = 429, body = Problem, content_type = "application/problem+json", description = "The endpoint was sent 10 tests within a minute, or is busy",
            headers(("Retry-After" = u64, description = "In how many seconds it may go better")),
        ),
    )
)]
pub(super) async fn test(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Json<SentView>, Problem> {
    tested(&admin, &who, &super::repository(&name)?).await.map(Json)
}

/// Sends a test to a repository's own webhook.
pub(in super::super) async fn tested(
    admin: &Admin,
    who: &Who,
    name: &RepositoryName,
) -> Result<SentView, Problem> {
    who.edit(name)?;
    let id = EndpointId::Repository(name.clone());
    if admin.parts().endpoints.get(&id).is_none() {
        return Err(Problem::absent(format!("{name} has no webhook of its own")));
    }
    send_test(admin, who, &id).await
}

/// Sends a test to an endpoint, now. One that is taken heals it.
#[utoipa::path(
    post, path = "/api/v1/endpoints/{id}/test", tag = "endpoints", operation_id = "test_endpoint",
    params(("id" = String, Path, description = "Its identity, percent-encoded", example = "ci")),
    responses(
        (status = 200, body = SentView, description = "The attempt, whatever came of it"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "There is no such endpoint, or not for who asks"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "It can't be sent to"),
        (
            status = 429, body = Problem, content_type = "application/problem+json", description = "The endpoint was sent 10 tests within a minute, or is busy",
            headers(("Retry-After" = u64, description = "In how many seconds it may go better")),
        ),
    )
)]
pub(super) async fn test_endpoint(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Json<SentView>, Problem> {
    endpoint_tested(&admin, &who, &id).await.map(Json)
}

/// Sends a test to an endpoint that somebody may change.
pub(in super::super) async fn endpoint_tested(
    admin: &Admin,
    who: &Who,
    id: &str,
) -> Result<SentView, Problem> {
    let (id, _) = super::endpoints::changeable(admin, who, id)?;
    send_test(admin, who, &id).await
}

async fn send_test(admin: &Admin, who: &Who, id: &EndpointId) -> Result<SentView, Problem> {
    admin.parts().rates.allow(Act::Test(id.clone()))?;
    let sent = admin.parts().dispatcher.test(id, None).await?;
    info!(target: "shipbell::audit", by = %who.name, endpoint = %id, outcome = ?sent.outcome, "test sent by hand");
    Ok(sent.into())
}
