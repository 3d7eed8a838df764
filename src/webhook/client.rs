//! Sends webhooks: HTTP/1.1, exact headers, one time limit for the whole attempt, capped answers.
//!
//! Redirects are not followed and proxies not used. Connections are kept for a while and used again.
//! A request goes out a second time by itself only when nothing of it was written, because the receiver
//! had closed the kept connection before; one that may have been processed fails the attempt, and
//! whether there is another is the dispatcher's decision.

use std::{error::Error as StdError, io, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Version};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{self, connect::capture_connection},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::{Instant, timeout_at};

use super::{
    Endpoint,
    answer::Answer,
    connect::{ConnectError, Connector, Gate, InvalidRoots, causes, io_words, lookup},
    format::Message,
    guard::{Author, Guard},
    request::{Common, Request},
    sign::InvalidSecret,
    target::InvalidUrl,
};
use crate::{clock::Timestamp, secret::Secret};

/// The most bytes that an answer's status line and headers may have.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most headers that an answer may have.
const HEADERS_MAX: usize = 100;

/// How a client sends.
#[derive(Clone, Debug)]
pub struct Options {
    /// The whole attempt: connecting, sending, and reading what is kept of the answer.
    pub timeout: Duration,
    /// Of that, resolving the name, TCP and TLS.
    pub connect_timeout: Duration,
    /// `User-Agent`.
    pub user_agent: HeaderValue,
    /// The name of the header that names the image.
    pub header_name: HeaderName,
    /// Where webhooks may go.
    pub guard: Guard,
    /// Certificates of authorities to trust besides the web's, as PEM.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// The most connections to one host that are kept while nothing is sent.
    pub idle_per_host_max: usize,
    /// How long a connection is kept while nothing is sent. Shorter than what servers allow (5 s with
    /// Node.js), so that it is we who close it, and no request meets one that is just closing.
    pub idle_timeout: Duration,
}

/// Why there is no answer. All of them are the endpoint's fault, and none holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The file that holds the URL or a secret can't be read.
    #[error("the endpoint's {what} can't be read: {reason}")]
    Unreadable {
        /// The URL, or the webhook secret.
        what: &'static str,
        /// What the file system said.
        reason: String,
    },
    /// The URL can't be sent to.
    #[error("the endpoint's URL is not usable: {0}")]
    Url(InvalidUrl),
    /// The secret can't sign.
    #[error("the endpoint's webhook secret is not usable: {0}")]
    Secret(InvalidSecret),
    /// A value can't stand in a header.
    #[error("a header's value has characters that HTTP can't carry")]
    Header,
    /// No connection.
    #[error(transparent)]
    Connect(ConnectError),
    /// Time was up before there was a connection.
    #[error("no connection within {0:?}")]
    NoConnection(Duration),
    /// Time was up after the connection was made.
    #[error("connected, but no answer within {0:?}")]
    NoAnswer(Duration),
    /// The connection ended early.
    #[error("{0} before an answer came")]
    Lost(String),
    /// What came back can't be understood.
    #[error("{0}")]
    BadAnswer(&'static str),
}

/// Sends webhooks. Cheap to clone; clones share their connections, which end with the last clone.
#[derive(Clone, Debug)]
pub struct Client {
    operators: legacy::Client<Connector, Full<Bytes>>,
    /// Another pool: a connection that an operator's URL opened is not for a user's to use.
    users: legacy::Client<Connector, Full<Bytes>>,
    common: Common,
    timeout: Duration,
}

impl Client {
    /// A client of these options.
    ///
    /// # Errors
    /// The extra authorities can't be read.
    pub fn new(options: Options) -> Result<Self, InvalidRoots> {
        Ok(Self {
            operators: pool(&options, Author::Operator)?,
            users: pool(&options, Author::User)?,
            common: Common {
                user_agent: options.user_agent,
                header_name: options.header_name,
            },
            timeout: options.timeout,
        })
    }

    /// Writes the request of one attempt: `message` to `endpoint`, under the `webhook-id` `id`. Reads the
    /// endpoint's URL and secrets as they stand now.
    ///
    /// # Errors
    /// The endpoint's settings can't be read or used.
    pub fn request(
        &self,
        endpoint: &Endpoint,
        message: &Message<'_>,
        id: &str,
    ) -> Result<Request, SendError> {
        Request::build(&self.common, endpoint, message, id)
    }

    /// Writes the request that tells the operator's own `url` what `body`, which is JSON, says of shipbell.
    ///
    /// # Errors
    /// The URL can't be read or used.
    pub fn alert(&self, url: &Secret, body: Bytes, id: &str, at: Timestamp) -> Result<Request, SendError> {
        Request::alert(&self.common, url, body, id, at)
    }

    /// Sends a request and reads its answer, within the time limit. Once there is a status there is an
    /// answer, whatever becomes of its body.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(&self, request: &Request) -> Result<Answer, SendError> {
        let deadline = Instant::now() + self.timeout;
        let mut http = http::Request::new(Full::new(request.body().clone()));
        *http.method_mut() = Method::POST;
        *http.version_mut() = Version::HTTP_11;
        *http.uri_mut() = request.target().uri().clone();
        *http.headers_mut() = request.headers().clone();
        let connection = capture_connection(&mut http);
        let pool = match request.author() {
            Author::Operator => &self.operators,
            Author::User => &self.users,
        };
        match timeout_at(deadline, pool.request(http)).await {
            Ok(Ok(response)) => Ok(Answer::read(response, deadline).await),
            Ok(Err(error)) => Err(send_error(&error)),
            Err(_) if connection.connection_metadata().is_some() => Err(SendError::NoAnswer(self.timeout)),
            Err(_) => Err(SendError::NoConnection(self.timeout)),
        }
    }
}

fn pool(options: &Options, author: Author) -> Result<legacy::Client<Connector, Full<Bytes>>, InvalidRoots> {
    let gate = Gate {
        guard: options.guard.clone(),
        author,
        lookup,
    };
    let connector = Connector::new(options.connect_timeout, options.extra_ca_pem.as_deref(), gate)?;
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(options.idle_timeout)
        .pool_max_idle_per_host(options.idle_per_host_max)
        .http1_title_case_headers(true)
        .http1_max_headers(HEADERS_MAX)
        .http1_max_buf_size(HEAD_BYTES_MAX)
        .retry_canceled_requests(true)
        .build(connector))
}

fn send_error(error: &legacy::Error) -> SendError {
    let error: &(dyn StdError + 'static) = error;
    if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref::<ConnectError>()) {
        return SendError::Connect(error.clone());
    }
    if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref::<hyper::Error>()) {
        if error.is_parse_too_large() {
            return SendError::BadAnswer("the answer's headers are too large (100 headers or 64 KiB)");
        }
        if error.is_parse() {
            return SendError::BadAnswer("the answer is not HTTP/1.1");
        }
    }
    let io = causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .last();
    SendError::Lost(io.map_or_else(|| "the receiver closed the connection".into(), io_words))
}

#[cfg(test)]
mod tests;
