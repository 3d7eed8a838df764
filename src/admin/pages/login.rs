//! `/login`: a token once, for a cookie. `/logout`: the cookie's end.

use std::net::SocketAddr;

use askama::Template;
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use url::form_urlencoded;

use super::{
    super::access::{Access, COOKIE, SESSION},
    LOGIN, form,
    frame::Frame,
    page, refused, sentence,
};

/// Where one gets to, unless it is said.
const HOME: &str = "/overview";

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    next: String,
    problem: String,
}

/// The page that a path of our own belongs to, and nothing else: nobody is led away from here, nor to what is only
/// posted to. What a browser would leave out or read as a slash makes a path none of ours.
fn local(next: &str) -> &str {
    let (path, _) = next.split_once('?').unwrap_or((next, ""));
    let is_plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if !is_plain || !path.starts_with('/') || path.contains("//") {
        return HOME;
    }
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts.as_slice() {
        ["login" | "logout" | "live" | "assets", ..] => HOME,
        [kind @ ("repositories" | "deliveries"), name, _, ..] => {
            path.get(..kind.len() + name.len() + 2).unwrap_or(HOME)
        }
        ["endpoints", _, "test"] => path.strip_suffix("/test").unwrap_or(HOME),
        ["endpoints", _, _, ..] => "/endpoints",
        ["dead-letters", "replay"] => "/dead-letters",
        ["deliveries", "redeliver"] => "/deliveries",
        _ => next,
    }
}

/// To the login, and from there to the page that was asked for.
pub(in super::super) fn to_login(asked: &Uri) -> Response {
    let next = asked.path_and_query().map_or(HOME, |asked| asked.as_str());
    let next: String = form_urlencoded::byte_serialize(local(next).as_bytes()).collect();
    Redirect::to(&format!("{LOGIN}?next={next}")).into_response()
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
        let next = next.as_ref().map_or(HOME, |(_, next)| local(next));
        let shown = LoginPage {
            frame: Frame::default(),
            next: next.to_owned(),
            problem: String::new(),
        };
        return page(StatusCode::OK, &shown);
    }
    let fields = form(body);
    let next = fields.get("next").map_or(HOME, |next| local(next));
    let token = fields.get("token").map(|token| token.trim()).unwrap_or_default();
    match access.log_in(token, peer) {
        Ok(session) => with_cookie(Redirect::to(next), &session, SESSION.as_secs(), is_secure),
        Err(error) => {
            let shown = LoginPage {
                frame: Frame::default(),
                next: next.to_owned(),
                problem: sentence(&error.detail),
            };
            refused(&error, &shown)
        }
    }
}

/// To the login, without the cookie.
pub(in super::super) fn logged_out(is_secure: bool) -> Response {
    with_cookie(Redirect::to(LOGIN), "", 0, is_secure)
}

fn with_cookie(to: Redirect, session: &str, max_age_s: u64, is_secure: bool) -> Response {
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age_s}{secure}");
    let mut answer = to.into_response();
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_away_from_here() {
        for next in [
            "/\t/evil.example",
            "/\n/evil.example",
            "\t//evil.example",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/a//evil.example",
            "https://evil.example/",
            "javascript:alert(1)",
            "evil.example",
            "/ü",
            "/ /evil.example",
            "",
        ] {
            assert_eq!(local(next), HOME, "{next:?}");
        }
    }

    #[test]
    fn a_path_that_is_only_posted_to_leads_to_its_page() {
        for (next, page) in [
            ("/repositories/acme%2Fapp?x=1", "/repositories/acme%2Fapp?x=1"),
            ("/repositories/acme%2Fapp/test", "/repositories/acme%2Fapp"),
            ("/repositories/test/test", "/repositories/test"),
            ("/repositories?q=//", "/repositories?q=//"),
            ("/deliveries/msg_1/redeliver", "/deliveries/msg_1"),
            ("/deliveries/redeliver", "/deliveries"),
            ("/endpoints/ci/hold", "/endpoints"),
            ("/endpoints/ci/test", "/endpoints/ci"),
            ("/endpoints/ci", "/endpoints/ci"),
            ("/dead-letters/replay?repository=acme", "/dead-letters"),
            ("/dead-letters/7", "/dead-letters/7"),
            ("/logout", HOME),
            ("/live/overview", HOME),
        ] {
            assert_eq!(local(next), page);
        }
    }
}
