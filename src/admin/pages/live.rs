//! `/live/…`: the parts of pages that change, as server-sent events.
//!
//! A stream sends its parts at once. Whenever something was written down or an endpoint changed it looks at them again,
//! though at most once a second, and sends those that are other ones; and in any case now and then: what was a moment
//! ago is a minute ago now. Each time it is looked who it is and what may be seen. It ends with the login, by an event
//! `ended`; when the process drains, and after some minutes where a proxy says who somebody is, it just ends, and the
//! browser asks again.

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::unfold};
use http::{HeaderName, HeaderValue, header};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::{
    super::{
        Admin, Asked,
        access::Who,
        api::{
            self, LIMIT, Params,
            deliveries::{DeliveryQuery, listed},
            repositories::RepositoryQuery,
        },
        live::{Pass, Room},
        problem::Problem,
    },
    deliveries,
    endpoint::StatePart,
    endpoints::EndpointsPart,
    frame::Visitor,
    letter,
    letters::{Filter, LettersPart},
    repositories::{RepositoriesPart, Wanted},
    search::Search,
};

mod news;
mod part;

use news::{Cause, News};
use part::Part;

/// No part is sent more often than this.
const PAUSE: Duration = Duration::from_secs(1);

/// Nor less often, so that everybody on the way knows that it is alive, and whoever looks at the page too: the style
/// sheet takes 15 s without an event for an end.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long a browser waits before it asks again, milliseconds.
const RETRY_MS: u32 = 5_000;

/// Said with every event: that the page is kept up to date, and what holds once none comes any more.
const ALIVE: &str = "event: alive\ndata: <span class=\"alive\">Kept up to date as things happen.</span>\
                     <span class=\"stale\">Not kept up to date any more: load the page again.</span>\n\n";

/// Where a stream is.
struct Feed {
    admin: Admin,
    pass: Pass,
    part: Part,
    news: News,
    sent: Option<Sent>,
    known_by: RandomState,
    has_ended: bool,
    _room: Room,
}

/// What the page has.
struct Sent {
    /// When that was last looked at.
    looked_at: Instant,
    /// When something was last sent, so that the page knows that it is kept up to date.
    at: Instant,
    /// By what the parts are known again: they themselves may be long.
    marks: Vec<u64>,
}

impl Feed {
    /// What is sent next; `None` at the end.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if self.has_ended {
                return None;
            }
            let cause = match &self.sent {
                None => Cause::Change,
                Some(sent) => {
                    let (looked_at, at) = (sent.looked_at, sent.at);
                    self.news.wait(looked_at, at).await
                }
            };
            // Before it is looked who it is, for it may take a while.
            let turn = match cause {
                Cause::Stop => return None,
                Cause::Departure => None,
                Cause::Change | Cause::Heartbeat => tokio::select! {
                    biased;
                    () = self.pass.stop().cancelled() => return None,
                    turn = self.admin.parts().streams.turn() => turn,
                },
            };
            let Ok(who) = self.pass.who() else {
                return Some(self.end());
            };
            if cause == Cause::Departure {
                continue;
            }
            let now = Instant::now();
            let rendered = self.part.render(&self.admin, &who).await;
            drop(turn);
            let bytes = match rendered {
                Ok(parts) => {
                    let sent = self.sent.take();
                    let is_first = sent.is_none();
                    let (sent_at, before) = sent.map_or((now, Vec::new()), |sent| (sent.at, sent.marks));
                    let marks: Vec<_> = parts.iter().map(|part| self.known_by.hash_one(part)).collect();
                    let is_new = |(_, mark): &(_, &u64)| !before.contains(mark);
                    let changed: Vec<_> = parts
                        .iter()
                        .zip(&marks)
                        .filter(is_new)
                        .map(|(part, _)| part)
                        .collect();
                    let is_same = !is_first && changed.is_empty();
                    let event = events(&changed, is_first);
                    let is_silent = is_same && cause == Cause::Change;
                    self.sent = Some(Sent {
                        looked_at: now,
                        at: if is_silent { sent_at } else { now },
                        marks,
                    });
                    if is_silent {
                        continue;
                    }
                    event
                }
                // What can't be had at the moment can be later; what may not be seen, not.
                Err(problem) if problem.status().is_server_error() => {
                    self.sent = Some(Sent {
                        looked_at: now,
                        at: now,
                        marks: Vec::new(),
                    });
                    Bytes::from_static(b":\n\n")
                }
                Err(_) => return Some(self.end()),
            };
            return Some((Ok(bytes), self));
        }
    }

    /// Says that nothing more comes, and that it need not be asked again.
    fn end(mut self) -> (Result<Bytes, Infallible>, Self) {
        self.has_ended = true;
        (Ok(Bytes::from_static(b"event: ended\ndata:\n\n")), self)
    }
}

/// Parts as events, and that the page is alive; the first of all says how long to wait should the stream break.
///
/// A carriage return ends a line as well, and what receivers answered may have some: it is no way to write events.
fn events(parts: &[&(&'static str, String)], is_first: bool) -> Bytes {
    let length: usize = parts.iter().map(|(_, html)| html.len()).sum();
    let mut text = String::with_capacity(length + length / 8 + ALIVE.len());
    if is_first {
        text.push_str("retry: ");
        text.push_str(&RETRY_MS.to_string());
        text.push('\n');
    }
    for (name, html) in parts {
        text.push_str("event: ");
        text.push_str(name);
        text.push('\n');
        for line in html.replace("\r\n", "\n").trim_matches('\n').split(['\n', '\r']) {
            text.push_str("data: ");
            text.push_str(line);
            text.push('\n');
        }
        text.push('\n');
    }
    text.push_str(ALIVE);
    text.into()
}

fn stream(admin: Admin, asked: Asked, part: Part) -> Result<Response, Problem> {
    let pass = asked
        .pass
        .ok_or_else(|| Problem::absent("streams are for the pages"))?;
    pass.is_ours()?;
    let room = admin.parts().streams.room(&pass.who()?.name)?;
    let until = pass.until();
    let feed = Feed {
        news: News {
            written: admin.parts().history.changes(),
            states: admin.parts().states.changes(),
            departures: pass.departures(),
            stop: pass.stop().clone(),
        },
        admin,
        pass,
        part,
        sent: None,
        known_by: RandomState::new(),
        has_ended: false,
        _room: room,
    };
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        // A proxy that collects what it passes on would hold it back.
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    let events = ended_at(unfold(feed, Feed::next), until);
    Ok((headers, Body::from_stream(events)).into_response())
}

/// That no more is asked for than a page shows by itself: each stream has it written anew whenever anything happens.
fn is_a_page(limit: Option<u32>) -> Result<(), Problem> {
    if limit.is_none_or(|limit| limit <= LIMIT) {
        return Ok(());
    }
    let detail = format!("at most {LIMIT} for what is kept up to date");
    Err(Problem::parameter("limit", detail))
}

/// A stream that ends at a moment, if not before.
fn ended_at<T>(events: impl Stream<Item = T>, until: Option<Instant>) -> impl Stream<Item = T> {
    events.take_until(async move {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    })
}

pub(super) async fn overview(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
) -> Result<Response, Problem> {
    stream(admin, asked, Part::Overview)
}

pub(super) async fn all_deliveries(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    Extension(who): Extension<Who>,
    Params(query): Params<DeliveryQuery>,
) -> Result<Response, Problem> {
    is_a_page(query.limit)?;
    let search = Search::of(query);
    // What is wrong with it is said at once.
    listed(&admin, &who, search.query.clone()).await?;
    stream(admin, asked, Part::Deliveries(Box::new(search)))
}

pub(super) async fn delivery(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    deliveries::parts(&admin, &who, &id).await?;
    stream(admin, asked, Part::Delivery(id))
}

pub(super) async fn repositories(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    visitor: Visitor,
    Params(query): Params<RepositoryQuery>,
) -> Result<Response, Problem> {
    is_a_page(query.limit)?;
    let wanted = Wanted::by(&visitor, query);
    RepositoriesPart::of(&admin, &visitor.who, &wanted).await?;
    stream(admin, asked, Part::Repositories(Box::new(wanted)))
}

#[derive(Deserialize)]
pub(super) struct VersionQuery {
    version: Option<String>,
}

pub(super) async fn repository(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Params(query): Params<VersionQuery>,
) -> Result<Response, Problem> {
    let name = api::repository(&name)?;
    who.see(&name)?;
    let version = query.version.unwrap_or_default();
    stream(admin, asked, Part::Repository(name, version))
}

#[derive(Deserialize)]
pub(super) struct StateQuery {
    state: Option<String>,
}

pub(super) async fn endpoints(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    Extension(who): Extension<Who>,
    Params(query): Params<StateQuery>,
) -> Result<Response, Problem> {
    let state = query.state.unwrap_or_default();
    EndpointsPart::of(&admin, &who, &state).await?;
    stream(admin, asked, Part::Endpoints(state))
}

pub(super) async fn endpoint(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    StatePart::of(&admin, &who, &id).await?;
    stream(admin, asked, Part::Endpoint(id))
}

pub(super) async fn letters(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    Extension(who): Extension<Who>,
    Params(filter): Params<Filter>,
) -> Result<Response, Problem> {
    is_a_page(filter.limit)?;
    let filter = filter.tidy();
    LettersPart::of(&admin, &who, &filter).await?;
    stream(admin, asked, Part::Letters(Box::new(filter)))
}

pub(super) async fn letter(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    Extension(who): Extension<Who>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let (known, _) = letter::known(&admin, &who, &id).await?;
    stream(admin, asked, Part::Letter(known))
}

#[cfg(test)]
mod tests {
    use super::{part::PART, *};

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_in_the_middle_of_a_wait_when_its_time_is_over() {
        let beats = || {
            unfold((), |()| async {
                tokio::time::sleep(HEARTBEAT).await;
                Some(((), ()))
            })
        };
        let until = Instant::now() + HEARTBEAT * 3 + PAUSE;
        assert_eq!(ended_at(beats(), Some(until)).count().await, 3);
        assert_eq!(Instant::now(), until);
        let endless = ended_at(beats(), None).take(1_000).count();
        assert_eq!(endless.await, 1_000);
    }

    #[test]
    fn each_line_is_data_and_an_empty_one_ends_no_event() {
        let part = (PART, "<p>\n\n a</p>\n".to_owned());
        assert_eq!(
            events(&[&part], true),
            format!("retry: 5000\nevent: part\ndata: <p>\ndata: \ndata:  a</p>\n\n{ALIVE}")
        );
        assert_eq!(events(&[], false), ALIVE);
        let empty = ("state", String::new());
        assert_eq!(
            events(&[&empty], false),
            format!("event: state\ndata: \n\n{ALIVE}")
        );
    }

    #[test]
    fn a_receivers_carriage_returns_write_no_events() {
        let part = (PART, "<pre>a\revent: ended\r\r\nb</pre>".to_owned());
        let text = events(&[&part], false);
        assert_eq!(
            text,
            format!("event: part\ndata: <pre>a\ndata: event: ended\ndata: \ndata: b</pre>\n\n{ALIVE}")
        );
    }
}
