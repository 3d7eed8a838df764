//! The pages: server-rendered, without a script, and nothing that the API can't do.

use std::{collections::HashMap, time::Duration};

use askama::Template;
use axum::{
    Router,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use url::form_urlencoded;

use super::{Admin, problem::Problem};

mod deliveries;
mod login;
mod repositories;
mod repository;

pub(super) use login::login;

const STYLE: &str = include_str!("style.css");

/// Where the login is, which needs nobody.
pub(super) const LOGIN: &str = "/login";

/// Where the style sheet is, which needs nobody either.
pub(super) const STYLE_PATH: &str = "/assets/style.css";

/// The pages' routes.
pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/", get(|| async { Redirect::to("/repositories") }))
        .route("/repositories", get(repositories::list))
        .route("/repository", get(repository::open))
        .route(
            "/repositories/{name}",
            get(repository::show).post(repository::save),
        )
        .route("/repositories/{name}/test", post(repository::test))
        .route("/repositories/{name}/rotate", post(repository::rotate))
        .route("/repositories/{name}/remove", post(repository::remove))
        .route("/deliveries", get(deliveries::list))
        .route("/deliveries/{id}", get(deliveries::show))
        .route("/deliveries/{id}/redeliver", post(deliveries::redeliver))
}

/// The style sheet.
pub(super) fn style() -> Response {
    let css = HeaderValue::from_static("text/css; charset=utf-8");
    ([(header::CONTENT_TYPE, css)], STYLE).into_response()
}

/// Whether somebody at a browser asks.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    title: String,
    detail: String,
}

/// A problem as a page.
pub(super) fn problem(problem: &Problem) -> Response {
    let status = problem.status();
    let title = status.canonical_reason().unwrap_or("Error").to_owned();
    let detail = problem.detail.clone();
    page(status, &ProblemPage { title, detail })
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

/// What a form says, by the names of its fields.
fn form(body: &Bytes) -> HashMap<String, String> {
    form_urlencoded::parse(body).into_owned().collect()
}

/// A link with these parameters, but for the empty ones.
fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters.iter().filter(|(_, value)| !value.is_empty()));
    format!("{path}?{}", query.finish())
}

/// Where a repository's page is.
fn href(name: &str) -> String {
    format!("/repositories/{}", name.replace('/', "%2F"))
}

/// A time as people read it.
fn age(seconds: f64) -> String {
    let age = Duration::try_from_secs_f64(seconds.floor()).unwrap_or_default();
    humantime::format_duration(age).to_string()
}
