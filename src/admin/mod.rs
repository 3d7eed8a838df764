//! The admin side: what people set and see. Settings of the repositories' webhooks, the API, the pages.
//!
//! ```text
//! [admin] listener ──▶ access: who is it, and from where ──▶ api ──▶ webhooks, states, queue, journal, history
//! <data_dir>/admin.sock, the operator's own ───────────────────┘
//! ```
//! Nothing here is on the way of a push: it reads what the stages know, and changes what they work by. The socket is
//! for the command line: it takes what the API takes, and who may open it is what the file system says.
//!
//! # Bounds
//! Connections, heads and idling by the listener; bodies by [`BODY_BYTES_MAX`]; lists by pages of at most 1,000.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{Router, body::Body as AxumBody, response::IntoResponse};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    catalog::History,
    clock::Clock,
    dispatch::{Dispatcher, states::States},
    journal::Journal,
    lifecycle::Tasks,
    listener::{Body, Hangup, Listener},
    queue::Queue,
    sizing::Sizing,
    webhook::Endpoints,
};

pub mod access;
mod api;
mod conditions;
pub mod configuration;
pub mod cursors;
pub mod draft;
pub mod live;
pub mod notes;
pub mod owed;
mod pages;
pub(crate) mod paths;
pub mod problem;
pub mod pulse;
pub mod rate;
pub mod socket;
#[cfg(test)]
mod tests;
pub mod webhooks;

use access::{Access, Who};
use configuration::Configuration;
use cursors::Cursors;
use live::Pass;
use problem::Problem;
use webhooks::Webhooks;

/// The largest body of a request.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// In every webhook of ours, and in no request of anybody who has something to do here.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");

/// Sent with every answer, unless it says otherwise itself: nothing of it is kept, framed, sniffed, or told to other
/// sites.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Not `no-referrer`: with that, a browser says `Origin: null` of our own forms.
    (header::REFERRER_POLICY, "same-origin"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
];

/// What the admin side works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The repositories' own webhooks.
    pub webhooks: Webhooks,
    /// How endpoints are.
    pub states: States,
    /// The endpoints there are.
    pub endpoints: Endpoints,
    /// What is owed.
    pub queue: Arc<Queue>,
    /// Where that is kept.
    pub journal: Journal,
    /// Who sends again, and keeps dead letters.
    pub dispatcher: Dispatcher,
    /// What pages say once.
    pub notes: notes::Notes,
    /// How often things are done by hand.
    pub rates: rate::Rates,
    /// What seals the cursors of lists.
    pub cursors: Cursors,
    /// How much happens.
    pub pulse: pulse::Pulse,
    /// What endpoints owe.
    pub owed: owed::OwedLately,
    /// How many pages are kept up to date.
    pub streams: live::Streams,
    /// What is known of sizes.
    pub sizing: Sizing,
    /// Who writes down what happened.
    pub history: History,
    /// Where that is read: `catalog.db`.
    pub history_file: PathBuf,
    /// What people write in front of a repository's name; empty if nothing.
    pub public_host: String,
    /// Which configuration is in effect.
    pub configuration: Configuration,
    /// The wall clock.
    pub clock: Clock,
}

/// The admin side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin(Arc<Parts>);

impl Admin {
    /// The admin side of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    fn parts(&self) -> &Parts {
        &self.0
    }

    fn router(&self) -> Router {
        let (api, _) = api::router();
        api.merge(pages::router())
            .fallback(api::absent)
            .method_not_allowed_fallback(api::no_method)
            .with_state(self.clone())
    }

    /// Answers on `listener` whom `access` lets in, until `stop` is cancelled.
    pub async fn serve(self, listener: Listener, access: Access, tasks: Tasks, stop: CancellationToken) {
        let router = self.router();
        let gate = Gate {
            access,
            is_secure: listener.is_secure(),
            stop: stop.clone(),
        };
        let handler = move |request: Request<Body>| {
            let (router, gate) = (router.clone(), gate.clone());
            async move { Ok::<_, Hangup>(answer(router, &gate, request).await) }
        };
        listener.serve(tasks, stop, handler).await;
    }
}

/// The API's description, as `/openapi.json` answers it.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    api::router().1
}

/// What everybody comes through.
#[derive(Clone)]
struct Gate {
    access: Access,
    is_secure: bool,
    stop: CancellationToken,
}

async fn answer(router: Router, gate: &Gate, request: Request<Body>) -> Response<AxumBody> {
    let (access, is_secure, peer) = (&gate.access, gate.is_secure, request.body().peer());
    let is_page = pages::wants_page(&request);
    let mut asked = Asked {
        login: access.has_login(),
        who: None,
        path: request.uri().path().to_owned(),
        pass: Some(Pass::new(access, request.headers(), peer, &gate.stop)),
    };
    let mut answered = match request.uri().path() {
        // By an address that something on the way translates: a webhook that anybody may save does nothing here, however
        // trusted it is where it seems to come from.
        _ if request.headers().contains_key(&WEBHOOK_ID) => {
            let detail = "this is a webhook (it has a webhook-id), and shipbell takes none here: its URL leads back to \
                          shipbell's own admin listener";
            Problem::new(StatusCode::FORBIDDEN, detail).into_response()
        }
        path if pages::is_asset(path) => pages::asset(&request),
        pages::LOGIN if access.has_login() => log_in(access, (peer, is_secure), request).await,
        pages::LOGOUT if access.has_login() => log_out(access, is_secure, &request),
        _ => match access.who(request.method(), request.headers(), peer) {
            Ok(who) => {
                asked.who = Some(who);
                route(router, asked.clone(), request).await
            }
            Err(problem) if is_page && problem.status() == StatusCode::UNAUTHORIZED && access.has_login() => {
                pages::to_login(request.uri())
            }
            Err(problem) => problem.into_response(),
        },
    };
    if !access.has_login() {
        // Nobody comes in by a token here.
        answered.headers_mut().remove(header::WWW_AUTHENTICATE);
    }
    guarded(if is_page {
        pages::humane(answered, &asked)
    } else {
        answered
    })
}

/// The login, which must come from our own page as well.
async fn log_in(
    access: &Access,
    (peer, is_secure): (SocketAddr, bool),
    request: Request<Body>,
) -> Response<AxumBody> {
    if let Err(problem) = access::same_origin(request.method(), request.headers()) {
        return problem.into_response();
    }
    let (parts, body) = request.into_parts();
    match collected(body).await {
        Ok(body) => pages::login(access, &parts.method, parts.uri.query(), &body, peer, is_secure),
        Err(problem) => problem.into_response(),
    }
}

/// The end of a login, asked for from our own page. One that has ended before ends once more.
fn log_out(access: &Access, is_secure: bool, request: &Request<Body>) -> Response<AxumBody> {
    if request.method() != Method::POST {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "one logs out with the button");
        return ([(header::ALLOW, "POST")], problem).into_response();
    }
    if let Err(problem) = access::same_origin(request.method(), request.headers()) {
        return problem.into_response();
    }
    access.log_out(request.headers());
    pages::logged_out(is_secure)
}

/// A body, whole.
async fn collected<B>(body: B) -> Result<Bytes, Problem>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    match Limited::new(std::pin::pin!(body), BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let detail = format!("the body is too large: at most {BODY_BYTES_MAX} bytes");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
        }
        Err(error) => {
            let detail = format!("the body did not come whole: {error}");
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

/// Who asks, for what, and how they came in.
#[derive(Clone, Debug)]
struct Asked {
    /// Whether one logs in and out here.
    login: bool,
    /// Who it is, once that is known.
    who: Option<Who>,
    /// For what.
    path: String,
    /// What they showed at the door; `None` at the socket, which has none.
    pass: Option<Pass>,
}

/// The router's answer to somebody who was let in.
async fn route<B>(router: Router, asked: Asked, request: Request<B>) -> Response<AxumBody>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let (parts, body) = request.into_parts();
    let body = match collected(body).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let mut request = Request::from_parts(parts, AxumBody::from(body));
    if let Some(who) = asked.who.clone() {
        request.extensions_mut().insert(who);
    }
    request.extensions_mut().insert(asked);
    match router.oneshot(request).await {
        Ok(response) => explained(response).await,
        Err(never) => match never {},
    }
}

/// A refusal of the router itself, such as of a path that is no text, as a problem; any other answer as it is.
async fn explained(response: Response<AxumBody>) -> Response<AxumBody> {
    let is_text = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/plain");
    let status = response.status();
    if !status.is_client_error() || !response.headers().get(header::CONTENT_TYPE).is_some_and(is_text) {
        return response;
    }
    match collected(response.into_body()).await {
        Ok(words) => Problem::new(status, String::from_utf8_lossy(&words)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

fn guarded(mut response: Response<AxumBody>) -> Response<AxumBody> {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
