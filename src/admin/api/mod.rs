//! The JSON API under `/api/v1`, and its description in `/openapi.json`.
//!
//! Handlers translate: from a request to a call of what knows, and from its answer to JSON. Errors are problem
//! documents. Lists take `limit` and `cursor`, and answer `{"items": […], "next": …}`.

use std::{error::Error as _, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequestParts, Query},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header, request};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        ContentBuilder, Ref, RefOr, ResponseBuilder, SecurityRequirement,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Admin,
    conditions::{Malformed, Named},
    cursors::{Cursors, List},
    problem::Problem,
    webhooks::ChangeError,
};
use crate::{
    catalog::Reader,
    dispatch::letters::Run,
    image::RepositoryName,
    json,
    settings::{Expected, Order},
};

pub(super) mod again;
mod configuration;
pub(super) mod deliveries;
pub(super) mod endpoints;
pub(super) mod letters;
pub(super) mod overview;
mod queue;
pub(super) mod repositories;
mod schemas;
pub(super) mod send;
pub(super) mod states;
mod strict;
pub(super) mod veiled;
pub(super) mod webhooks;
mod why;

/// So many items a list has, unless told, and at most.
pub(super) const LIMIT: u32 = 50;
const LIMIT_MAX: u32 = 1000;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "shipbell",
        description = "What a container registry says, as webhooks people can rely on. Errors are problem documents \
                       (RFC 9457). Times are RFC 3339 in UTC, sizes are bytes.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "This instance")),
    tags(
        (name = "overview", description = "How the whole is"),
        (name = "repositories", description = "What was pushed to, and its own webhook"),
        (name = "deliveries", description = "What was sent, and what came of it"),
        (name = "endpoints", description = "Where webhooks go, and how that is")
    )
)]
struct Description;

/// The API, and its description.
pub(super) fn router() -> (Router<Admin>, utoipa::openapi::OpenApi) {
    let (router, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(overview::overview))
        .routes(routes!(repositories::list))
        .routes(routes!(repositories::get))
        .routes(routes!(webhooks::get, webhooks::put, webhooks::delete))
        .routes(routes!(webhooks::rotate))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::one))
        .routes(routes!(endpoints::list))
        .routes(routes!(states::get))
        .routes(routes!(states::list))
        .routes(routes!(endpoints::enable))
        .routes(routes!(endpoints::disable))
        .routes(routes!(endpoints::hold))
        .routes(routes!(queue::list))
        .routes(routes!(letters::list))
        .routes(routes!(letters::replay))
        .routes(routes!(letters::discard))
        .routes(routes!(send::redeliver))
        .routes(routes!(again::redeliver))
        .routes(routes!(send::test))
        .routes(routes!(send::test_endpoint))
        .routes(routes!(why::why))
        .routes(routes!(configuration::get))
        .split_for_parts();
    refuse(&mut description);
    secure(&mut description);
    schemas::sharpen(&mut description);
    let served = Arc::new(description.clone());
    let calls = strict::calls(&description);
    let router = router
        .route_layer(from_fn_with_state(calls, strict::check))
        .route(
            "/openapi.json",
            get(move || {
                let served = Arc::clone(&served);
                async move { Json((*served).clone()) }
            }),
        );
    (router, description)
}

/// How the description names a token.
const TOKEN: &str = "token";

/// What any call may be answered with, besides what is its own.
const REFUSALS: [(&str, &str); 8] = [
    ("400", "What was sent can't be understood"),
    ("401", "Nobody who may come in"),
    ("403", "It is not allowed"),
    ("413", "The body is too large"),
    ("421", "Reached by a name that is not its own"),
    ("422", "It is well formed, and can't be so"),
    ("429", "Too much of it: see Retry-After"),
    ("503", "Not now: see Retry-After"),
];

/// Describes the refusals of every call.
fn refuse(description: &mut utoipa::openapi::OpenApi) {
    for item in description.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for (status, words) in REFUSALS {
                let problem = ContentBuilder::new()
                    .schema(Some(Ref::from_schema_name("Problem")))
                    .build();
                let response = ResponseBuilder::new()
                    .description(words)
                    .content(super::problem::MEDIA_TYPE, problem)
                    .build();
                let responses = &mut operation.responses.responses;
                responses
                    .entry(status.to_owned())
                    .or_insert_with(|| RefOr::T(response));
            }
        }
    }
}

/// Describes how to come in: with a token, or with nothing where `admin.auth` says so. Who a proxy says somebody is, no
/// caller says.
fn secure(description: &mut utoipa::openapi::OpenApi) {
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A token of the configuration, where `admin.auth` is `token`",
        ));
    let components = description.components.get_or_insert_default();
    components.add_security_scheme(TOKEN, SecurityScheme::Http(token.build()));
    description.security = Some(vec![
        SecurityRequirement::new(TOKEN, [""; 0]),
        SecurityRequirement::default(),
    ]);
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// What is on it.
    pub(super) items: Vec<T>,
    /// The cursor of the next page; null on the last.
    pub(super) next: Option<String>,
}

/// Which page of a list is wanted.
#[derive(Clone, Debug)]
pub(super) struct Paging {
    list: List,
    cursors: Cursors,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Paging {
    /// As a query says it.
    pub(super) fn new(admin: &Admin, list: List, limit: Option<u32>, cursor: Option<String>) -> Self {
        Self {
            list,
            cursors: admin.parts().cursors.clone(),
            limit,
            cursor,
        }
    }

    /// How many items are wanted.
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(LIMIT) {
            limit @ 1..=LIMIT_MAX => Ok(limit as usize),
            _ => Err(Problem::parameter("limit", format!("between 1 and {LIMIT_MAX}"))),
        }
    }

    /// Behind what the page begins; `None` is the first page.
    pub(super) fn after<T: DeserializeOwned>(&self) -> Result<Option<T>, Problem> {
        let Some(cursor) = self.cursor.as_deref().filter(|cursor| !cursor.is_empty()) else {
            return Ok(None);
        };
        self.cursors.open(self.list, cursor).map(Some).ok_or_else(|| {
            let detail = "cursor: it is none of this list's: take it whole, from `next` of the page before";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        })
    }

    /// The cursor of the page that begins behind `place`, if there is more.
    pub(super) fn next(&self, place: Option<&impl Serialize>) -> Option<String> {
        self.cursors.seal(self.list, place?)
    }
}

/// The query of a request.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::try_from_uri(&parts.uri);
        let Query(parameters) = query.map_err(|error| {
            // Which parameter it is, and what is wrong with it, without the library's own words around it.
            let detail = error
                .source()
                .map_or_else(|| error.body_text(), ToString::to_string);
            Problem::new(StatusCode::BAD_REQUEST, detail)
        })?;
        Ok(Self(parameters))
    }
}

/// A repository's name in a path.
pub(super) fn repository(name: &str) -> Result<RepositoryName, Problem> {
    name.parse()
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("{error}")))
}

/// What a body says, which is JSON.
pub(super) fn body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    json::read(body).map_err(|error| {
        let detail = format!("the body is not the JSON that is wanted here: {error}");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })
}

/// What `If-Match` and `If-None-Match` expect of what is changed.
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<Expected>, Problem> {
    let is_new = match known(headers)? {
        None => false,
        Some(Named::Any) => true,
        Some(Named::Tags(_)) => return Err(Problem::parameter("If-None-Match", "only * is known here")),
    };
    Ok(match matched(headers) {
        // It is there and it isn't.
        Some(_) if is_new => Some(Expected::OneOf(Vec::new())),
        None if is_new => Some(Expected::Absent),
        expected => expected,
    })
}

/// What `If-Match` expects. One that can't be read names nothing that is there.
fn matched(headers: &HeaderMap) -> Option<Expected> {
    let named = Named::of(headers, &header::IF_MATCH).unwrap_or(Some(Named::Tags(Vec::new())));
    named.map(|named| match named {
        Named::Any => Expected::Present,
        named @ Named::Tags(_) => Expected::OneOf(named.strong().filter_map(version).collect()),
    })
}

/// That who asks for what is there expects it so; and whether they don't know it already, and are to be told.
pub(super) fn is_wanted(headers: &HeaderMap, version: u64) -> Result<bool, Problem> {
    if matched(headers).is_some_and(|expected| !expected.is_met(Some(version))) {
        return Err(ChangeError::Changed.into());
    }
    Ok(!known(headers)?.is_some_and(|known| known.knows(&etag(version))))
}

/// What `If-None-Match` names.
fn known(headers: &HeaderMap) -> Result<Option<Named>, Problem> {
    let wanted = "an ETag, or several with commas between them, or *";
    Named::of(headers, &header::IF_NONE_MATCH)
        .map_err(|Malformed| Problem::parameter("If-None-Match", wanted))
}

/// The version that an `ETag` names, unless it is none of ours.
fn version(tag: &str) -> Option<u64> {
    let version = tag.trim_matches('"').parse().ok()?;
    (etag(version) == tag).then_some(version)
}

/// The `ETag` of a version.
pub(super) fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// Runs `read` on the history, where it may block. Before there is one, nothing is known: `T::default()`.
pub(super) async fn history<T: Default + Send + 'static>(
    admin: &Admin,
    read: impl FnOnce(&mut Reader) -> Result<T, crate::catalog::ReadError> + Send + 'static,
) -> Result<T, Problem> {
    let file = admin.parts().history_file.clone();
    let reading = spawn_blocking(move || match Reader::open(&file) {
        Ok(mut reader) => read(&mut reader),
        Err(crate::catalog::ReadError::Absent { .. }) => Ok(T::default()),
        Err(error) => Err(error),
    });
    let read = reading
        .await
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(read?)
}

/// For so long somebody waits for what happened just now: what is told to the history is written down a moment later, which
/// takes longer while much happens.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// The same, for what may have happened just now: what is not found is looked for again as long as there is something that
/// was told and isn't written down, and for two seconds at most.
pub(super) async fn history_just_now<T: Send + 'static>(
    admin: &Admin,
    read: impl Fn(&mut Reader) -> Result<Option<T>, crate::catalog::ReadError> + Clone + Send + 'static,
) -> Result<Option<T>, Problem> {
    let (told, until) = (&admin.parts().history, Instant::now() + TOLD_WITHIN);
    let mut written = told.changes();
    loop {
        if let Some(written) = &mut written {
            written.mark_unchanged();
        }
        let is_late = told.stats().waiting > 0;
        let found = history(admin, read.clone()).await?;
        let Some(written) = written.as_mut().filter(|_| found.is_none() && is_late) else {
            return Ok(found);
        };
        if !matches!(timeout_at(until, written.changed()).await, Ok(Ok(()))) {
            return Ok(None);
        }
    }
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    spawn_blocking(work)
        .await
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// Whether an older image may be sent after a newer one of its tag: only if that is forced.
pub(super) fn order(force: Option<bool>) -> Order {
    if force == Some(true) {
        Order::Force
    } else {
        Order::KeepNewest
    }
}

/// Whether something is done, or only counted.
pub(super) fn run(dry_run: Option<bool>) -> Run {
    if dry_run == Some(true) {
        Run::Dry
    } else {
        Run::Real
    }
}

/// Seconds, to the millisecond.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// What is not there.
pub(super) async fn absent() -> Response {
    Problem::absent("there is nothing here: /openapi.json describes what is").into_response()
}

/// What can't be done here.
pub(super) async fn no_method() -> Response {
    let detail = "that can't be done with this: /openapi.json describes what can";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response()
}

/// What people call it, or null.
pub(super) fn named(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
