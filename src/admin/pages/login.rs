//! `/login`: a token once, for a cookie.

use std::net::SocketAddr;

use askama::Template;
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use url::form_urlencoded;

use super::{
    super::access::{Access, COOKIE, SESSION},
    form, page,
};

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    next: String,
    problem: String,
}

/// A path of our own, and nothing else: nobody is led away from here.
fn local(next: Option<&str>) -> String {
    let is_local =
        |next: &&str| next.starts_with('/') && !next.starts_with("//") && !next.contains(['\\', '\r', '\n']);
    next.filter(is_local).unwrap_or("/repositories").to_owned()
}

/// The login's page, and what it is answered.
pub(in super::super) fn login(
    access: &Access,
    method: &Method,
    query: Option<&str>,
    body: &Bytes,
    peer: SocketAddr,
    is_secure: bool,
) -> Response {
    if method != Method::POST {
        let query = query.unwrap_or_default();
        let next = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "next");
        let next = local(next.as_ref().map(|(_, next)| next.as_ref()));
        let problem = String::new();
        return page(StatusCode::OK, &LoginPage { next, problem });
    }
    let fields = form(body);
    let next = local(fields.get("next").map(String::as_str));
    let token = fields.get("token").map(|token| token.trim()).unwrap_or_default();
    match access.log_in(token, peer) {
        Ok(session) => {
            let secure = if is_secure { "; Secure" } else { "" };
            let cookie = format!(
                "{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
                SESSION.as_secs()
            );
            let mut answer = Redirect::to(&next).into_response();
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                answer.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            answer
        }
        Err(error) => page(
            error.status(),
            &LoginPage {
                next,
                problem: error.detail,
            },
        ),
    }
}
