//! Sends webhooks: HTTP/1.1, exact headers, one time limit for the whole attempt, capped answers.
//!
//! Redirects are not followed, and proxies used only where the configuration names one. Connections are kept for a
//! while and used again, by requests that go the same way.
//!
//! Receivers close kept connections when they like, and a request may just be on its way then. So one that a
//! connection takes along when it ends soon, without an answer, goes out once more, at once and on a connection of its
//! own, if that connection had carried an answer before. Should the receiver have taken it all the same, it knows it by its
//! `webhook-id`, which is what RFC 9110, section 9.2.2, asks for. What a new connection takes along fails the attempt,
//! and whether there is another is the dispatcher's decision.

use std::{error::Error as StdError, io, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::{
    self,
    connect::{CaptureConnection, capture_connection},
};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{
    Endpoint,
    answer::Answer,
    connect::{Answered, ConnectError, causes, io_words},
    format::Message,
    guard::Guard,
    pools::{self, Pools, Sender},
    proxy::InvalidProxy,
    request::{Common, Request},
    sign::InvalidSigningKey,
    target::{InvalidUrl, Target},
    tls::{InvalidTls, rustls_words},
    tunnel,
};
use crate::{clock::Timestamp, secret::Secret};

/// A connection that is closed later than this after a request was sent was not closing when it was: whoever had it may
/// have been at work on the request.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

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
    /// A PEM file of authorities to trust besides the web's; read again when it changes.
    pub ca_file: Option<PathBuf>,
    /// The proxy for all endpoints that don't say otherwise.
    pub proxy: Option<Secret>,
    /// The most connections to one host that are kept while nothing is sent.
    pub idle_per_host_max: usize,
    /// How long a connection is kept while nothing is sent. Shorter than what servers allow (5 s with
    /// Node.js), so that it is we who close it, and no request meets one that is just closing.
    pub idle_timeout: Duration,
    /// While more connections are open, to all hosts together, none is kept: each is closed once its request is answered.
    pub connections_max: usize,
}

/// Why there is no answer. All but a want of our own ([`ConnectError::Ours`]) are the endpoint's fault, and none holds a
/// secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The file that holds the URL or a secret can't be read.
    #[error("the endpoint's {what} can't be read: {reason}")]
    Unreadable {
        /// The URL, or which of the secrets.
        what: &'static str,
        /// What the file system said.
        reason: String,
    },
    /// The URL can't be sent to.
    #[error("the endpoint's URL is not usable: {0}")]
    Url(InvalidUrl),
    /// The secret can't sign.
    #[error("the endpoint's webhook secret is not usable: {0}")]
    Secret(InvalidSigningKey),
    /// The proxy can't be used.
    #[error("the endpoint's proxy is not usable: {0}")]
    Proxy(InvalidProxy),
    /// Its certificates can't be used.
    #[error("the endpoint's certificates are not usable: {0}")]
    Certificates(InvalidTls),
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

impl SendError {
    /// Whether this machine had nothing left to connect with.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Ours(_)))
    }

    /// Whether it went wrong before there was anybody to send a request to.
    #[must_use]
    pub fn is_before_sending(&self) -> bool {
        !matches!(self, Self::NoAnswer(_) | Self::Lost(_) | Self::BadAnswer(_))
    }
}

/// Sends webhooks. Cheap to clone; clones share their connections, which end with the last clone.
#[derive(Clone, Debug)]
pub struct Client {
    pools: Pools,
    common: Common,
    timeout: Duration,
}

impl Client {
    /// A client of these options.
    ///
    /// # Errors
    /// The extra authorities can't be read.
    pub fn new(options: Options) -> Result<Self, InvalidTls> {
        Ok(Self {
            pools: Pools::new(pools::Options {
                connect_timeout: options.connect_timeout,
                guard: options.guard,
                ca_file: options.ca_file,
                idle_per_host_max: options.idle_per_host_max,
                idle_timeout: options.idle_timeout,
                connections_max: options.connections_max,
            })?,
            common: Common {
                user_agent: options.user_agent,
                header_name: options.header_name,
                proxy: options.proxy,
                targets: Arc::default(),
            },
            timeout: options.timeout,
        })
    }

    /// Where the endpoint's webhooks go, as its URL stands now.
    ///
    /// # Errors
    /// The URL can't be read, or not be sent to.
    pub fn target(&self, endpoint: &Endpoint) -> Result<Arc<Target>, SendError> {
        self.common.targets.get(endpoint)
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
        let began = Instant::now();
        let deadline = began + self.timeout;
        let pool = self.pools.get(request.route()).map_err(SendError::Certificates)?;
        let (sent, was_kept) = self.send_by(&pool.kept, request, deadline).await;
        match sent {
            Err(SendError::Lost(how)) if was_kept && began.elapsed() < CLOSED_WITHIN => {
                debug!(%how, "a kept connection was closed; sending once more on a new one");
                match self.send_by(&pool.fresh, request, deadline).await.0 {
                    // The first may have arrived all the same: that is what is told.
                    Err(error) if error.is_before_sending() && !error.is_ours() => Err(SendError::Lost(how)),
                    sent => sent,
                }
            }
            sent => sent,
        }
    }

    /// Sends by that sender. Also says whether the connection had carried an answer before.
    async fn send_by(
        &self,
        sender: &Sender,
        request: &Request,
        deadline: Instant,
    ) -> (Result<Answer, SendError>, bool) {
        let mut http = http::Request::new(Full::new(request.body().clone()));
        *http.method_mut() = Method::POST;
        *http.version_mut() = Version::HTTP_11;
        *http.uri_mut() = request.target().uri().clone();
        *http.headers_mut() = request.headers().clone();
        let connection = capture_connection(&mut http);
        let asked = timeout_at(deadline, self.ask(sender, http, connection.clone())).await;
        let answered = connection.connection_metadata().as_ref().map(Answered::of);
        let was_kept = answered.as_ref().is_some_and(Answered::get);
        let sent = match asked {
            Ok(Ok(response)) => {
                if let Some(answered) = answered {
                    answered.set();
                }
                match request.forwarding_proxy() {
                    // Only proxies answer that: the endpoint was never asked.
                    Some(proxy) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                        Err(SendError::Connect(ConnectError::Proxy {
                            proxy: proxy.to_string(),
                            failure: tunnel::login_failure(proxy),
                        }))
                    }
                    _ => Ok(Answer::read(response, deadline).await),
                }
            }
            Ok(Err(error)) => {
                let error = send_error(&error);
                if error.is_ours() {
                    self.pools.is_short();
                }
                Err(error)
            }
            Err(_) if answered.is_some() => Err(SendError::NoAnswer(self.timeout)),
            Err(_) => Err(SendError::NoConnection(self.timeout)),
        };
        (sent, was_kept)
    }

    /// Waits for the head of the answer. The connection is closed behind it when there are too many.
    async fn ask(
        &self,
        sender: &Sender,
        http: http::Request<Full<Bytes>>,
        mut connection: CaptureConnection,
    ) -> Result<http::Response<Incoming>, legacy::Error> {
        let mut answer = pin!(sender.request(http));
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            // Before the answer is there: it may be whole, and the connection kept, with its head.
            connected = connection.wait_for_connection_metadata() => {
                if let Some(connected) = connected.as_ref()
                    && self.pools.is_over()
                {
                    connected.poison();
                }
            }
        }
        answer.await
    }
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
    // A receiver that doesn't take our certificate says so when the handshake is over for us already.
    if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        return SendError::Connect(ConnectError::Tls(rustls_words(error)));
    }
    let io = causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .last();
    SendError::Lost(io.map_or_else(|| "the receiver closed the connection".into(), io_words))
}

#[cfg(test)]
mod tests;
