//! Commands that ask a running server, by the socket in its data directory: what is owed, where it goes, what was given
//! up on. They take what the API takes, and say what it says.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use http::{HeaderName, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use super::{Exit, Failure, Output, print};
use crate::{
    admin::{paths::segment, socket},
    config::{Config, Problems},
};

pub mod endpoints;
pub mod exchange;
pub mod letters;
pub mod queue;
pub mod repositories;
pub mod test;

/// How long an answer may take: a test waits for its receiver.
const ANSWER_MAX: Duration = Duration::from_mins(2);

/// The largest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the identities of repositories' own webhooks begin with.
const OWN: &str = "repository:";

/// Items of a page, and of a list unless told.
const PAGE: usize = 1000;

/// Which server is asked.
#[derive(Debug, Args)]
pub struct Server {
    /// The data directory of the server; no configuration is read then
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

/// How much of a list is printed, and how.
#[derive(Debug, Args)]
pub struct Listing {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// A query, without what was left out.
#[derive(Clone, Debug, Default)]
struct Query(Vec<(&'static str, String)>);

impl Query {
    fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.0.extend(value.map(|value| (name, value.to_string())));
        self
    }

    fn after(&self, path: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.0);
        match query.finish().as_str() {
            "" => path.to_owned(),
            query => format!("{path}?{query}"),
        }
    }
}

/// The path of something that has a name.
fn path_of(before: &str, name: &str, behind: &str) -> String {
    format!("{before}{}{behind}", segment(name))
}

/// A column of a table: its head, and an item's cell.
type Column = (&'static str, fn(&Value) -> String);

impl Server {
    fn data_dir(&self, load: impl FnOnce() -> Result<Config, Problems>) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(data_dir) => Ok(data_dir.clone()),
            None => Ok(load()?.data_dir),
        }
    }
}

/// What a server answered.
struct Asked {
    status: StatusCode,
    etag: Option<String>,
    /// Null if it was no JSON.
    body: Value,
}

/// A server that answers.
struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
    /// Cancelled by an interrupt, once those are heeded.
    interrupted: CancellationToken,
}

impl Client {
    fn of(server: &Server, load: impl FnOnce() -> Result<Config, Problems>) -> Result<Self, Failure> {
        let data_dir = server.data_dir(load)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            socket: data_dir.join(socket::FILE),
            runtime,
            interrupted: CancellationToken::new(),
        })
    }

    /// From now on an interrupt ends what is being asked with a failure, and not the process at once.
    fn heed_interrupts(&mut self) -> Result<(), Failure> {
        let _entered = self.runtime.enter();
        let (mut interrupts, token) = (signal(SignalKind::interrupt())?, self.interrupted.clone());
        self.runtime.spawn(async move {
            interrupts.recv().await;
            token.cancel();
        });
        Ok(())
    }

    /// What the server answers, whatever that is.
    fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Asked, Failure> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.header(header::HOST, "localhost").body(Full::new(body));
        let request = request.map_err(anyhow::Error::from)?;
        self.runtime.block_on(async {
            let asked = tokio::select! {
                biased;
                () = self.interrupted.cancelled() => {
                    return Err(Failure::new(Exit::TryAgain, anyhow!("interrupted")));
                }
                asked = timeout(ANSWER_MAX, ask(&self.socket, request)) => asked,
            };
            asked.unwrap_or_else(|_| {
                Err(Failure::new(
                    Exit::Unreachable,
                    anyhow!("no answer from {} within {ANSWER_MAX:?}", self.socket.display()),
                ))
            })
        })
    }

    /// What the server answers, which is JSON.
    fn ask(&self, method: Method, path: &str) -> Result<Value, Failure> {
        self.send(method, path, &[], Bytes::new())?.success()
    }
}

impl Asked {
    /// What was answered, if that was what was asked for.
    fn success(self) -> Result<Value, Failure> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        Err(self.failure())
    }

    /// Whether it may be what was asked for later.
    fn is_not_now(&self) -> bool {
        matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        )
    }

    /// What it says that was not asked for.
    fn failure(&self) -> Failure {
        let detail = self.body.get("detail").and_then(Value::as_str);
        let detail = detail.unwrap_or(self.status.as_str()).to_owned();
        let exit = match self.status {
            _ if self.is_not_now() => Exit::TryAgain,
            // What was asked for can't be.
            StatusCode::BAD_REQUEST => Exit::Usage,
            _ => Exit::Failure,
        };
        Failure::new(exit, anyhow!(detail))
    }
}

impl Client {
    /// The identity of the endpoint that somebody calls so: by its identity, or by a repository's plain name. A name
    /// that is one of the configuration's means that one.
    fn identity(&self, called: &str) -> Result<String, Failure> {
        if called.starts_with(OWN) {
            return Ok(called.to_owned());
        }
        let own = format!("{OWN}{called}");
        // The configuration's names have no slash.
        if called.contains('/') {
            return Ok(own);
        }
        for id in [called, &own] {
            let path = path_of("/api/v1/endpoints/", id, "");
            // The name of a repository may be none of the configuration's.
            let status = self.send(Method::GET, &path, &[], Bytes::new())?.status;
            if !matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST) {
                return Ok(id.to_owned());
            }
        }
        Ok(called.to_owned())
    }

    /// The items of a list, page after page, at most `limit`; and whether there are more.
    fn list(&self, path: &str, query: &Query, limit: usize) -> Result<(Vec<Value>, bool), Failure> {
        let mut items: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let wanted = (limit - items.len()).min(PAGE);
            let query = query
                .clone()
                .with("limit", Some(wanted))
                .with("cursor", cursor.as_ref());
            let mut page = self.ask(Method::GET, &query.after(path))?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() || items.len() >= limit {
                return Ok((items, cursor.is_some()));
            }
        }
    }

    /// Prints a list, as a table of these columns or as JSON.
    fn print_list(
        &self,
        path: &str,
        query: &Query,
        listing: &Listing,
        columns: &[Column],
    ) -> Result<(), Failure> {
        let limit = usize::try_from(listing.limit).unwrap_or(usize::MAX);
        let (items, has_more) = self.list(path, query, limit)?;
        match listing.output {
            Output::Json => print(&format!("{:#}\n", json!({"items": items})))?,
            Output::Text => {
                let head = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
                let line = |item: &Value| columns.iter().map(|(_, cell)| cell(item)).collect();
                let lines: Vec<Vec<String>> = std::iter::once(head).chain(items.iter().map(line)).collect();
                print(&super::table::left(&lines))?;
            }
        }
        if has_more {
            super::complain(
                "note",
                &format!("there are more than {limit}: --limit shows more of them"),
            );
        }
        Ok(())
    }
}

async fn ask(socket: &Path, request: Request<Full<Bytes>>) -> Result<Asked, Failure> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| unreachable(socket, &error))?;
    let failed = |error: anyhow::Error| Failure::new(Exit::Unreachable, error);
    let asked = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It takes the sender along: the connection ends with it.
        let answered = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let etag = response.headers().get(header::ETAG);
            let etag = etag.and_then(|etag| etag.to_str().ok()).map(str::to_owned);
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await;
            let body = body.map_err(|error| anyhow!("the answer did not come whole: {error}"))?;
            let body = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
            anyhow::Ok(Asked { status, etag, body })
        };
        let (answered, _) = tokio::join!(answered, connection);
        answered
    };
    asked
        .await
        .with_context(|| format!("the server at {} does not answer", socket.display()))
        .map_err(failed)
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let shown = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Permission,
            anyhow!("no permission to use {shown}: it is for the user that the server runs as"),
        ),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::Unreachable,
            anyhow!("no server is running on this data directory ({shown}): start it with `shipbell serve`"),
        ),
        _ => Failure::new(Exit::Unreachable, anyhow!("{shown} can't be reached: {error}")),
    }
}

/// A time as somebody types it, for clap.
fn moment(text: &str) -> Result<String, String> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|_| text.to_owned())
        .map_err(|_| "write a time as RFC 3339 has it, such as 2026-11-24T09:00:00Z".to_owned())
}

/// A text of an item; a dash without one.
fn text(item: &Value, name: &str) -> String {
    match item.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// A number of seconds of an item, as people say it.
fn age(item: &Value, name: &str) -> String {
    let seconds = item.get(name).and_then(Value::as_f64);
    let age = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.floor()).ok());
    age.map_or_else(
        || "-".to_owned(),
        |age| humantime::format_duration(age).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_are_encoded_and_what_is_left_out_of_a_query_too() {
        assert_eq!(
            path_of("/api/v1/endpoints/", "repository:acme/a b", "/enable"),
            "/api/v1/endpoints/repository%3Aacme%2Fa%20b/enable"
        );
        let query = Query::default()
            .with("tag", Some("1 2"))
            .with("id", None::<u64>)
            .with("force", Some(true));
        assert_eq!(query.after("/x"), "/x?tag=1+2&force=true");
        assert_eq!(Query::default().after("/x"), "/x");
    }
}
