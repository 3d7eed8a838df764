//! Where a request comes from: a browser acts on behalf of any page that it shows.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{super::problem::Problem, text};

/// The host of a `Host` header, without its port.
pub(in super::super) fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, _)) => ip,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

pub(super) fn host_is_loopback(headers: &HeaderMap) -> Result<(), Problem> {
    let is_loopback = |host: &HeaderValue| {
        let name = host_name(host.to_str().unwrap_or_default());
        let ip = name.parse::<IpAddr>();
        name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
    };
    // One, as HTTP has it (RFC 9112, section 3.2): of several, others might go by another.
    let mut hosts = headers.get_all(header::HOST).into_iter();
    if hosts.next().is_some_and(is_loopback) && hosts.next().is_none() {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "without a login (admin.auth = \"none\") this is reached as localhost or 127.0.0.1 only",
    ))
}

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

fn all(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values.map(|value| value.to_str().unwrap_or_default())
}

/// That another site's page does not have something looked for, which it would not get to see, unless somebody follows
/// its link.
pub(super) fn is_not_fetched(headers: &HeaderMap) -> Result<(), Problem> {
    let is_followed = all(headers, MODE).eq(["navigate"]);
    if is_followed || all(headers, SITE).all(|site| site != "cross-site") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "another site's page asked for this, which gets nothing here: follow a link, or open the page",
    ))
}

/// That what changes something comes from one of our own pages, if it comes from a browser.
pub(in super::super) fn same_origin(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let all = |name: HeaderName| all(headers, name);
    let sites = || all(SITE);
    let host = text(headers, &header::HOST).unwrap_or_default();
    let is_ours = if sites().next().is_some() {
        sites().all(|site| matches!(site, "same-origin" | "none"))
    } else {
        all(header::ORIGIN).all(|origin| origin.split_once("://").is_some_and(|(_, origin)| origin == host))
    };
    if is_ours {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "another site's page asked for this: changes are made from shipbell's own pages",
    ))
}
