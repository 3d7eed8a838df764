//! `/assets/…`: the style sheet, the icon, and the scripts that keep pages up to date. They need nobody to look at them.
//!
//! `live.js` lets go of a page's stream while it can't be seen, and keeps what somebody does with a part of it.
//! `htmx.min.js` is [htmx](https://htmx.org) 2.0.11, `htmx-ext-sse.min.js` its extension for server-sent events, 2.2.4:
//! the minified files of their npm packages, unchanged. Both are under the Zero-Clause BSD licence, which asks for nothing.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderValue, Method, Request, StatusCode, header};
use sha2::{Digest, Sha256};

use super::super::{conditions::Named, problem::Problem};

const SCRIPT: &str = "text/javascript; charset=utf-8";

const ASSETS: [(&str, &str, &str); 5] = [
    (
        "/assets/style.css",
        "text/css; charset=utf-8",
        include_str!("assets/style.css"),
    ),
    (
        "/assets/icon.svg",
        "image/svg+xml",
        include_str!("assets/icon.svg"),
    ),
    ("/assets/live.js", SCRIPT, include_str!("assets/live.js")),
    ("/assets/htmx.min.js", SCRIPT, include_str!("assets/htmx.min.js")),
    (
        "/assets/htmx-ext-sse.min.js",
        SCRIPT,
        include_str!("assets/htmx-ext-sse.min.js"),
    ),
];

/// Whether the path is one of an asset's.
pub(in super::super) fn is_asset(path: &str) -> bool {
    ASSETS.iter().any(|(known, ..)| *known == path)
}

/// The asset that is asked for; a browser that has it already is told so.
pub(in super::super) fn asset<B>(request: &Request<B>) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this can only be read");
        return ([(header::ALLOW, "GET, HEAD")], problem).into_response();
    }
    let path = request.uri().path();
    let Some((_, media_type, content)) = ASSETS.iter().find(|(known, ..)| *known == path) else {
        return Problem::absent("there is no such file").into_response();
    };
    let tag = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(content)));
    let known = Named::of(request.headers(), &header::IF_NONE_MATCH);
    let is_known = known.is_ok_and(|known| known.is_some_and(|known| known.knows(&tag)));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    let mut answer = if is_known {
        (StatusCode::NOT_MODIFIED, headers, Body::empty()).into_response()
    } else {
        (headers, *content).into_response()
    };
    if let Ok(tag) = HeaderValue::try_from(tag) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    answer
}
