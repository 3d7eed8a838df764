//! The pages: server-rendered, all of them usable without a script, and nothing that the API can't do.
//!
//! A handler answers with its page or with a [`Problem`]; what the latter looks like is decided at the door, by who
//! asks ([`humane`]): people get a page, programs a problem document.

use std::collections::HashMap;

use askama::Template;
use axum::{
    Router,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use serde::Deserialize;
use url::form_urlencoded;

use super::{Admin, Asked, access::host_name, paths::segment, problem::Problem};

mod again;
mod assets;
mod deliveries;
mod endpoint;
mod endpoints;
mod frame;
mod health;
mod letter;
mod letters;
mod live;
mod login;
mod overview;
mod repositories;
mod repository;
mod search;
mod table;
mod typed_url;
mod webhook_form;
mod when;

pub(super) use assets::{asset, is_asset};
use frame::Frame;
pub(super) use login::{logged_out, login, to_login};

/// Where the login is, which needs nobody.
pub(super) const LOGIN: &str = "/login";

/// Where one logs out.
pub(super) const LOGOUT: &str = "/logout";

/// The pages' routes.
pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/", get(|| async { Redirect::to("/overview") }))
        .route("/overview", get(overview::show))
        .route("/live/overview", get(live::overview))
        .route("/live/deliveries", get(live::all_deliveries))
        .route("/live/deliveries/{id}", get(live::delivery))
        .route("/live/repositories", get(live::repositories))
        .route("/live/repositories/{name}", get(live::repository))
        .route("/live/endpoints", get(live::endpoints))
        .route("/live/endpoints/{id}", get(live::endpoint))
        .route("/live/dead-letters", get(live::letters))
        .route("/live/dead-letters/{id}", get(live::letter))
        .route("/repositories", get(repositories::list))
        .route("/repository", get(repository::open))
        .route(
            "/repositories/{name}",
            get(repository::show).post(repository::save),
        )
        .route("/repositories/{name}/test", post(repository::test))
        .route("/repositories/{name}/rotate", post(repository::rotate))
        .route("/repositories/{name}/enable", post(repository::enable))
        .route("/repositories/{name}/hold", post(repository::hold))
        .route(
            "/repositories/{name}/remove",
            get(repository::confirm).post(repository::remove),
        )
        .route("/deliveries", get(deliveries::list))
        .route(
            "/deliveries/redeliver",
            get(again::confirm).post(again::redeliver),
        )
        .route("/deliveries/{id}", get(deliveries::show))
        .route("/deliveries/{id}/redeliver", post(deliveries::redeliver))
        .route("/endpoints", get(endpoints::list))
        .route("/endpoints/{id}", get(endpoint::show))
        .route("/endpoints/{id}/enable", post(endpoints::enable))
        .route("/endpoints/{id}/hold", post(endpoints::hold))
        .route("/endpoints/{id}/test", post(endpoint::test))
        .route(
            "/endpoints/{id}/disable",
            get(endpoints::confirm).post(endpoints::disable),
        )
        .route("/dead-letters", get(letters::list))
        .route("/dead-letters/{id}", get(letter::show))
        .route(
            "/dead-letters/replay",
            get(letters::confirm).post(letters::replay),
        )
}

/// Whether somebody at a browser asks for a page.
pub(super) fn wants_page<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    let accept = request.headers().get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
        && !(path == "/api" || path.starts_with("/api/") || path == "/openapi.json")
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    frame: Frame,
    title: String,
    detail: String,
}

/// An answer as a person gets it: a problem becomes a page, whoever found it.
pub(super) fn humane(answer: Response, asked: &Asked) -> Response {
    let status = answer.status();
    let is_html = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/html");
    let is_page = answer.headers().get(header::CONTENT_TYPE).is_some_and(is_html);
    if is_page || !(status.is_client_error() || status.is_server_error()) {
        return answer;
    }
    let problem = answer.extensions().get::<Problem>();
    let detail = problem.map_or("this can't be understood", |problem| problem.detail.as_str());
    let shown = ProblemPage {
        frame: Frame::of(asked),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        detail: sentence(detail),
    };
    let mut page = page(status, &shown);
    for name in [header::ALLOW, header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
        if let Some(value) = answer.headers().get(&name) {
            page.headers_mut().insert(name, value.clone());
        }
    }
    page
}

/// A page, written out.
fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => {
            let html_type = HeaderValue::from_static("text/html; charset=utf-8");
            (status, [(header::CONTENT_TYPE, html_type)], html).into_response()
        }
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A page that says what was refused, with the status and the wait of the refusal.
fn refused(problem: &Problem, template: &impl Template) -> Response {
    let mut page = page(problem.status(), template);
    let refusal = problem.clone().into_response();
    if let Some(wait) = refusal.headers().get(header::RETRY_AFTER) {
        page.headers_mut().insert(header::RETRY_AFTER, wait.clone());
    }
    page
}

/// A page that has a place for what went wrong.
trait Told: Template {
    fn problem(&mut self) -> &mut String;
}

/// A page on which stands what came of something, as `tell` puts it there, or what went wrong.
fn told<P: Told, T>(mut shown: P, came: Result<T, Problem>, tell: impl FnOnce(&mut P, T)) -> Response {
    match came {
        Ok(done) => {
            tell(&mut shown, done);
            page(StatusCode::OK, &shown)
        }
        Err(error) => {
            *shown.problem() = sentence(&error.detail);
            refused(&error, &shown)
        }
    }
}

/// What a form says, by the names of its fields.
fn form(body: &Bytes) -> HashMap<String, String> {
    form_urlencoded::parse(body).into_owned().collect()
}

/// A field of a form, without what surrounds it; empty when it isn't there.
fn field(fields: &HashMap<String, String>, name: &str) -> String {
    fields
        .get(name)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// A field of a search form; one that is empty is none.
fn given(field: &mut Option<String>) {
    *field = field
        .take()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty());
}

/// Whether a page is to be kept up to date.
#[derive(Default, Deserialize)]
struct LiveQuery {
    live: Option<String>,
}

/// A link with these parameters, but for the empty ones.
fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters.iter().filter(|(_, value)| !value.is_empty()));
    let query = query.finish();
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    }
}

/// Where a repository's page is.
fn href(name: &str) -> String {
    format!("/repositories/{}", segment(name))
}

/// The host by which a browser came here, if it is one.
fn host(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let name = host_name(host);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'_');
    (!name.is_empty() && name.bytes().all(is_name)).then(|| name.to_owned())
}

/// Words that begin and end as a sentence does.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let mut sentence: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    sentence.push_str(letters.as_str());
    if !sentence.ends_with(['.', '!', '?']) && !sentence.is_empty() {
        sentence.push('.');
    }
    sentence
}
