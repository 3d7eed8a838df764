//! `/live/…`: the parts of pages that change, as server-sent events.
//!
//! A stream sends its part at once, whenever something was written down or an endpoint changed, though at most once a
//! second, and in any case now and then: what was a moment ago is a minute ago now. Each time it is looked who it is
//! and what may be seen. It ends with the login, by an event `ended`; when the process drains it just ends, and the
//! browser asks again.

use std::{convert::Infallible, time::Duration};

use askama::Template;
use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderName, HeaderValue, header};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until},
};

use super::{
    super::{
        Admin, Asked,
        access::Who,
        api::{
            self, Params,
            deliveries::{DeliveryQuery, listed},
        },
        live::Pass,
        problem::Problem,
    },
    overview::OverviewParts,
    repository,
    search::Search,
    table::{DeliveriesPart, Table},
};
use crate::image::RepositoryName;

/// No part is sent more often than this.
const PAUSE: Duration = Duration::from_secs(1);

/// Nor less often, so that everybody on the way knows that it is alive, and whoever looks at the page too: the style
/// sheet takes 15 s without an event for an end.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long a browser waits before it asks again, milliseconds.
const RETRY_MS: u32 = 5_000;

/// Which part of which page.
#[derive(Clone, Debug)]
enum Part {
    Overview,
    /// Those that are looked for.
    Deliveries(Box<Search>),
    /// The last ones of a repository.
    Repository(RepositoryName),
}

/// Said with every event: that the page is kept up to date, and what holds once none comes any more.
const ALIVE: &str = "event: alive\ndata: <span class=\"alive\">Kept up to date as things happen.</span>\
                     <span class=\"stale\">Not kept up to date any more: load the page again.</span>\n\n";

impl Part {
    async fn render(&self, admin: &Admin, who: &Who) -> Result<String, Problem> {
        let rendered = match self {
            Self::Overview => OverviewParts::of(admin, who).await?.render(),
            Self::Deliveries(search) => DeliveriesPart::of(admin, who, search).await?.render(),
            Self::Repository(name) => {
                who.see(name)?;
                let (table, _) = Table::of(admin, who, repository::recent(name), false).await?;
                table.render()
            }
        };
        rendered.map_err(|error| Problem::new(http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
}

/// Where a stream is.
struct Feed {
    admin: Admin,
    pass: Pass,
    part: Part,
    written: Option<watch::Receiver<()>>,
    states: watch::Receiver<()>,
    departures: watch::Receiver<()>,
    sent: Option<(Instant, String)>,
    has_ended: bool,
    _room: OwnedSemaphorePermit,
}

/// Why something is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Change,
    Heartbeat,
    Stop,
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
                Some((at, _)) => {
                    let at = *at;
                    self.wait(at).await
                }
            };
            if cause == Cause::Stop {
                return None;
            }
            let Ok(who) = self.pass.who() else {
                return Some(self.end());
            };
            let now = Instant::now();
            let bytes = match self.part.render(&self.admin, &who).await {
                Ok(html) => match &mut self.sent {
                    Some((at, before)) if *before == html => {
                        *at = now;
                        if cause == Cause::Change {
                            continue;
                        }
                        Bytes::from_static(ALIVE.as_bytes())
                    }
                    sent => {
                        let event = event(&html, sent.is_none());
                        *sent = Some((now, html));
                        event
                    }
                },
                // What can't be had at the moment can be later; what may not be seen, not.
                Err(problem) if problem.status().is_server_error() => {
                    self.sent = Some((now, String::new()));
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

    /// Waits until there is something to look at.
    async fn wait(&mut self, sent_at: Instant) -> Cause {
        let stop = self.pass.stop().clone();
        let (states, departures) = (&mut self.states, &mut self.departures);
        let mut written = self.written.as_mut();
        let change = async {
            let written = async {
                let is_written = match written.as_mut() {
                    Some(written) => written.changed().await.is_ok(),
                    None => false,
                };
                if !is_written {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = written => {}
                _ = states.changed() => {}
                _ = departures.changed() => return,
            }
            sleep_until(sent_at + PAUSE).await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Cause::Stop,
            () = change => Cause::Change,
            () = sleep_until(sent_at + HEARTBEAT) => Cause::Heartbeat,
        }
    }
}

/// A part as an event, and that it is alive; the first says how long to wait should the stream break.
fn event(html: &str, is_first: bool) -> Bytes {
    let mut text = String::with_capacity(html.len() + html.len() / 8);
    if is_first {
        text.push_str("retry: ");
        text.push_str(&RETRY_MS.to_string());
        text.push('\n');
    }
    text.push_str("event: part\n");
    for line in html.lines().filter(|line| !line.is_empty()) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text.push_str(ALIVE);
    text.into()
}

fn stream(admin: Admin, asked: Asked, part: Part) -> Result<Response, Problem> {
    let pass = asked
        .pass
        .ok_or_else(|| Problem::absent("streams are for the pages"))?;
    pass.is_ours()?;
    let room = admin.parts().streams.room()?;
    let feed = Feed {
        written: admin.parts().history.changes(),
        states: admin.parts().states.changes(),
        departures: pass.departures(),
        admin,
        pass,
        part,
        sent: None,
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
    Ok((headers, Body::from_stream(unfold(feed, Feed::next))).into_response())
}

pub(super) async fn overview(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
) -> Result<Response, Problem> {
    stream(admin, asked, Part::Overview)
}

pub(super) async fn deliveries(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    Extension(who): Extension<Who>,
    Params(query): Params<DeliveryQuery>,
) -> Result<Response, Problem> {
    let search = Search::of(query);
    // What is wrong with it is said at once.
    listed(&admin, &who, search.query.clone()).await?;
    stream(admin, asked, Part::Deliveries(Box::new(search)))
}

pub(super) async fn repository(
    State(admin): State<Admin>,
    Extension(asked): Extension<Asked>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let name = api::repository(&name)?;
    who.see(&name)?;
    stream(admin, asked, Part::Repository(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_data_and_an_empty_one_ends_no_event() {
        let text = event("<p>\n\n a</p>\n", true);
        assert_eq!(
            text,
            format!("retry: 5000\nevent: part\ndata: <p>\ndata:  a</p>\n\n{ALIVE}")
        );
        assert!(event("", false).starts_with(b"event: part\n\nevent: alive\ndata: "));
    }
}
