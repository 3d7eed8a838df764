//! `/repositories`: all of them.

use std::net::SocketAddr;

use askama::Template;
use axum::{extract::State, response::Response};
use bytesize::ByteSize;
use http::StatusCode;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            Params,
            repositories::{RepositoryQuery, RepositoryView, listed},
        },
        configuration::IngestAddress,
        problem::Problem,
    },
    LiveQuery,
    frame::{Frame, Visitor},
    given, href, link, page,
    when::{When, span},
};
use crate::clock::Timestamp;

/// Where the list is.
const LIST: &str = "/repositories";

#[derive(Template)]
#[template(path = "repositories.html")]
struct RepositoriesPage {
    frame: Frame,
    only_looks: bool,
    part: RepositoriesPart,
}

/// Those that were found, or what is to be done so that there are some.
#[derive(Template)]
#[template(path = "repositories_part.html")]
pub(super) struct RepositoriesPart {
    q: String,
    sort: String,
    rows: Vec<Line>,
    later: bool,
    /// Where the first page of them is.
    first: String,
    next: Option<String>,
    ingest: Notified,
    restricted: bool,
}

/// What the registry has to be told, so that it notifies shipbell.
struct Notified {
    url: String,
    /// Whether the host stands for one that is not known here.
    placeholder: bool,
    has_tokens: bool,
}

struct Line {
    name: String,
    href: String,
    state: String,
    size: String,
    bytes: String,
    tags: String,
    last_tag: String,
    last_push: Option<When>,
    queued: String,
}

impl Line {
    fn of(view: RepositoryView, now: Timestamp) -> Self {
        let (last_tag, last_push) = match view.last_push {
            Some(last) => (
                last.tag.unwrap_or_default(),
                When::read(Some(last.at.as_str()), now),
            ),
            None => Default::default(),
        };
        let oldest = |seconds: f64| {
            let age = std::time::Duration::try_from_secs_f64(seconds);
            span(age.unwrap_or_default())
        };
        Self {
            href: href(&view.name),
            state: view.endpoint_state.unwrap_or_default(),
            size: view
                .size
                .map_or_else(String::new, |size| ByteSize::b(size).to_string()),
            bytes: view.size.map_or_else(String::new, |size| format!("{size} bytes")),
            tags: view.tags.map_or_else(String::new, |tags| tags.to_string()),
            last_tag,
            last_push,
            queued: match (view.queued_pushes, view.oldest_age_s) {
                (0, _) => String::new(),
                (pushes, Some(age)) => format!("{pushes}, for {}", oldest(age)),
                (pushes, None) => pushes.to_string(),
            },
            name: view.name,
        }
    }
}

impl Notified {
    /// Where the registry finds shipbell, seen from the host by which a browser found it.
    fn seen_from(ingest: &IngestAddress, host: Option<&str>) -> Self {
        let IngestAddress {
            listen,
            path,
            is_secure,
            has_tokens,
        } = ingest;
        let scheme = if *is_secure { "https" } else { "http" };
        let bracketed = |host: &str| {
            if host.contains(':') {
                format!("[{host}]:{}", listen.port())
            } else {
                format!("{host}:{}", listen.port())
            }
        };
        let known = match (listen.ip().is_unspecified(), host) {
            (false, _) => Some(SocketAddr::to_string(listen)),
            (true, Some(host)) => Some(bracketed(host)),
            (true, None) => None,
        };
        let placeholder = known.is_none();
        let authority = known.unwrap_or_else(|| bracketed("<this host>"));
        Self {
            url: format!("{scheme}://{authority}{path}"),
            placeholder,
            has_tokens: *has_tokens,
        }
    }
}

/// A list that somebody wants to see.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    query: RepositoryQuery,
    /// The host by which their browser came here, as far as it said one.
    host: Option<String>,
}

impl Wanted {
    pub(super) fn by(visitor: &Visitor, mut query: RepositoryQuery) -> Self {
        [&mut query.q, &mut query.sort].into_iter().for_each(given);
        Self {
            query,
            host: visitor.host.clone(),
        }
    }
}

impl RepositoriesPart {
    pub(super) async fn of(admin: &Admin, who: &Who, wanted: &Wanted) -> Result<Self, Problem> {
        let Wanted { query, host } = wanted;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (q, sort) = (text(&query.q), text(&query.sort));
        let found = listed(admin, who, query.clone()).await?;
        let now = admin.parts().clock.now();
        let there = |cursor: &str| link(LIST, &[("q", &q), ("sort", &sort), ("cursor", cursor)]);
        Ok(Self {
            later: query.cursor.is_some(),
            first: there(""),
            next: found.next.map(|next| there(&next)),
            q,
            sort,
            rows: found.items.into_iter().map(|one| Line::of(one, now)).collect(),
            ingest: Notified::seen_from(&admin.parts().configuration.view().ingest, host.as_deref()),
            restricted: !who.sees_all(),
        })
    }
}

pub(super) async fn list(
    State(admin): State<Admin>,
    visitor: Visitor,
    Params(query): Params<RepositoryQuery>,
    Params(show): Params<LiveQuery>,
) -> Result<Response, Problem> {
    let is_live = query.cursor.is_none() && query.limit.is_none();
    let wanted = Wanted::by(&visitor, query);
    let part = RepositoriesPart::of(&admin, &visitor.who, &wanted).await?;
    let only_looks = visitor.only_looks();
    let mut frame = visitor.frame;
    if is_live {
        let stream = link("/live/repositories", &[("q", &part.q), ("sort", &part.sort)]);
        frame.keep_up(show.live.as_deref(), &part.first, stream);
    }
    let shown = RepositoriesPage {
        frame,
        only_looks,
        part,
    };
    Ok(page(StatusCode::OK, &shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_told_an_address_that_it_can_reach() {
        let url = |listen: &str, host: Option<&str>| {
            let ingest = IngestAddress {
                listen: listen.parse().unwrap(),
                path: "/events".to_owned(),
                is_secure: false,
                has_tokens: true,
            };
            Notified::seen_from(&ingest, host).url
        };
        for (listen, host, expected) in [
            (
                "127.0.0.1:8580",
                Some("hub.example"),
                "http://127.0.0.1:8580/events",
            ),
            (
                "0.0.0.0:8580",
                Some("hub.example"),
                "http://hub.example:8580/events",
            ),
            (
                "[::]:8580",
                Some("2001:db8::1"),
                "http://[2001:db8::1]:8580/events",
            ),
            ("[::]:8580", None, "http://<this host>:8580/events"),
        ] {
            assert_eq!(url(listen, host), expected);
        }
    }
}
