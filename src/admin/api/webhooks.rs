//! `/api/v1/repositories/{name}/webhook`: a repository's own.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, draft::WebhookDraft, problem::Problem, rate::Act, webhooks::WebhookView},
    Params, body, etag, expected, is_wanted, repository,
};
use crate::settings::Expected;

/// Bytes of a secret that is made here.
const SECRET_BYTES: usize = 32;

fn answer(status: StatusCode, view: WebhookView) -> Response {
    (status, [(header::ETAG, etag(view.version))], Json(view)).into_response()
}

/// The repository's own webhook.
#[utoipa::path(
    get, path = "/api/v1/repositories/{name}/webhook", tag = "repositories", operation_id = "webhook",
    params(
        ("name" = String, Path, description = "The repository; in the path it is percent-encoded, as in acme%2Fapp", example = "acme/app"),
        ("If-Match" = Option<String>, Header, description = "The ETag that it should have, or several"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag that is known already, or several"),
    ),
    responses(
        (status = 200, body = WebhookView, description = "The webhook as it is", headers(("ETag" = String, description = "What to send as If-Match"))),
        (status = 304, description = "It is as it is known", headers(("ETag" = String, description = "The one of it"))),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "It has none"),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "It was changed"),
    )
)]
pub(super) async fn get(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = repository(&name)?;
    who.see(&name)?;
    let view = admin.parts().webhooks.get(&name).await?;
    let view = view.ok_or_else(|| Problem::absent(format!("{name} has no webhook of its own")))?;
    if is_wanted(&headers, view.version)? {
        Ok(answer(StatusCode::OK, view))
    } else {
        let tag = [(header::ETAG, etag(view.version))];
        Ok((StatusCode::NOT_MODIFIED, tag).into_response())
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct PutQuery {
    dry_run: Option<bool>,
}

/// Sets the repository's own webhook; what is left out stays as it is.
#[utoipa::path(
    put, path = "/api/v1/repositories/{name}/webhook", tag = "repositories", operation_id = "set_webhook",
    params(
        ("name" = String, Path, description = "The repository; in the path it is percent-encoded, as in acme%2Fapp", example = "acme/app"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the one that is changed, or several"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if it has none yet"),
        ("dry_run" = Option<bool>, Query, description = "Check it and say what it would be, without saving it"),
    ),
    request_body = WebhookDraft,
    responses(
        (status = 200, body = WebhookView, description = "The webhook as it is now", headers(("ETag" = String, description = "What to send as If-Match"))),
        (
            status = 201, body = WebhookView, description = "It had none before",
            headers(("ETag" = String, description = "What to send as If-Match")),
        ),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "There is no room for another: 200,000 webhooks, or 256 MiB of them"),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "It was changed"),
        (status = 413, body = Problem, content_type = "application/problem+json", description = "The body is too large"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "It can't be used"),
        (status = 428, body = Problem, content_type = "application/problem+json", description = "If-Match is missing"),
        (
            status = 429, body = Problem, content_type = "application/problem+json", description = "One who is no admin of all repositories saved 120 webhooks within a minute, or had them checked, or switched endpoints",
            headers(("Retry-After" = u64, description = "In how many seconds it may go better")),
        ),
    )
)]
pub(super) async fn put(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Params(query): Params<PutQuery>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let name = repository(&name)?;
    who.edit(&name)?;
    let draft: WebhookDraft = body(&bytes)?;
    let expected = expected(&headers)?;
    may_save(&admin, &who)?;
    let webhooks = &admin.parts().webhooks;
    if query.dry_run.unwrap_or_default() {
        let (view, _) = webhooks.try_out(&name, draft, expected, &who.name).await?;
        return Ok(Json(view).into_response());
    }
    let (view, is_new) = webhooks.put(&name, draft, expected, &who.name).await?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(answer(status, view))
}

/// Whether somebody may save or switch another webhook so soon. Whoever may administer moves as many as there are.
pub(in super::super) fn may_save(admin: &Admin, who: &Who) -> Result<(), Problem> {
    if who.may_administer() {
        return Ok(());
    }
    admin.parts().rates.allow(Act::Save(who.name.clone()))
}

/// Takes the repository's own webhook away. What it still owes becomes dead letters.
#[utoipa::path(
    delete, path = "/api/v1/repositories/{name}/webhook", tag = "repositories", operation_id = "remove_webhook",
    params(
        ("name" = String, Path, description = "The repository; in the path it is percent-encoded, as in acme%2Fapp", example = "acme/app"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the one that is meant, or several"),
    ),
    responses(
        (status = 204, description = "The repository has no webhook of its own any more"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "It has none, or not for who asks"),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "It is not the one that `If-Match` means"),
    )
)]
pub(super) async fn delete(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let name = repository(&name)?;
    who.edit(&name)?;
    let webhooks = &admin.parts().webhooks;
    webhooks.remove(&name, expected(&headers)?, &who.name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A secret that was made, shown this once.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct NewSecret {
    /// The secret, `whsec_` and base64. It is shown nowhere again.
    pub(in super::super) secret: String,
    /// The webhook that has it.
    pub(in super::super) webhook: WebhookView,
}

/// Makes a new secret for the repository's webhook; the one before signs too for a day.
#[utoipa::path(
    post, path = "/api/v1/repositories/{name}/webhook/rotate-secret", tag = "repositories",
    operation_id = "rotate_secret",
    params(
        ("name" = String, Path, description = "The repository; in the path it is percent-encoded, as in acme%2Fapp", example = "acme/app"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the one that is meant, or several"),
    ),
    responses(
        (status = 200, body = NewSecret, description = "The new secret, this once", headers(("ETag" = String, description = "What to send as If-Match"))),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "The repository has no webhook of its own, or not for who asks"),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "It is not the one that `If-Match` means"),
        (
            status = 429, body = Problem, content_type = "application/problem+json", description = "One who is no admin of all repositories saved 120 webhooks within a minute, or switched endpoints",
            headers(("Retry-After" = u64, description = "In how many seconds it may go better")),
        ),
    )
)]
pub(super) async fn rotate(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = repository(&name)?;
    who.edit(&name)?;
    let made = rotated(&admin, &who, &name, expected(&headers)?).await?;
    let tag = [(header::ETAG, etag(made.webhook.version))];
    Ok((tag, Json(made)).into_response())
}

/// Gives the repository's webhook a new secret.
pub(in super::super) async fn rotated(
    admin: &Admin,
    who: &Who,
    name: &crate::image::RepositoryName,
    expected: Option<Expected>,
) -> Result<NewSecret, Problem> {
    may_save(admin, who)?;
    let webhooks = &admin.parts().webhooks;
    let there = webhooks.get(name).await?;
    let there = there.ok_or_else(|| Problem::absent(format!("{name} has no webhook of its own")))?;
    let secret = format!(
        "whsec_{}",
        BASE64_STANDARD.encode(rand::random::<[u8; SECRET_BYTES]>())
    );
    let draft = WebhookDraft {
        secret: Some(Some(secret.clone())),
        ..WebhookDraft::default()
    };
    let expected = expected.or(Some(Expected::Version(there.version)));
    let (webhook, _) = webhooks.put(name, draft, expected, &who.name).await?;
    Ok(NewSecret { secret, webhook })
}
