//! One attempt's request, ready to send.

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

use super::{
    Endpoint, Format,
    client::SendError,
    format::{self, Message},
    guard::Author,
    proxy::Proxy,
    sign::{self, SigningKey},
    target::{Target, authorization},
    way::{Credentials, DIRECT, Route, Way},
};
use crate::{clock::Timestamp, secret::Secret};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Headers that an endpoint's own can't replace: those that frame the message, and those that say
/// which webhook this is. The one that names the image, `x-alin-webhook`, is another.
const RESERVED: [HeaderName; 16] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    header::ACCEPT_ENCODING,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    WEBHOOK_ID,
    WEBHOOK_TIMESTAMP,
    WEBHOOK_SIGNATURE,
];

/// Whether shipbell alone sets this header, so that an endpoint can't have one of its own.
#[must_use]
pub fn is_reserved(name: &HeaderName) -> bool {
    RESERVED.contains(name)
}

/// Where the endpoint's webhooks go, as its URL stands now.
///
/// # Errors
/// The URL can't be read, or not be sent to.
pub fn target(endpoint: &Endpoint) -> Result<Target, SendError> {
    target_at(&endpoint.url)
}

fn target_at(url: &Secret) -> Result<Target, SendError> {
    Target::parse(read(url, "URL")?.expose_secret()).map_err(SendError::Url)
}

/// So many URLs that were sent to lately are remembered.
const TARGETS_MAX: usize = 1_024;

/// What URLs came to that were sent to lately: most of them are sent to again, and to take one apart is a twentieth of
/// what a delivery takes.
#[derive(Debug)]
pub(super) struct Targets(Cache<Box<str>, Arc<Target>>);

impl Default for Targets {
    fn default() -> Self {
        Self(Cache::new(TARGETS_MAX))
    }
}

impl Targets {
    /// What [`target`] says.
    pub(super) fn get(&self, endpoint: &Endpoint) -> Result<Arc<Target>, SendError> {
        let text = read(&endpoint.url, "URL")?;
        if let Some(known) = self.0.get(text.expose_secret()) {
            return Ok(known);
        }
        let target = Arc::new(Target::parse(text.expose_secret()).map_err(SendError::Url)?);
        self.0.insert(text.expose_secret().into(), Arc::clone(&target));
        Ok(target)
    }
}

/// The parts of a request that are the same for all endpoints.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// `User-Agent`.
    pub(super) user_agent: HeaderValue,
    /// The name of the header that names the image: `x-alin-webhook`.
    pub(super) header_name: HeaderName,
    /// The proxy for endpoints that don't say otherwise.
    pub(super) proxy: Option<Secret>,
    pub(super) targets: Arc<Targets>,
}

/// One attempt's request: where, headers in the order in which they are sent, body.
#[derive(Clone)]
pub struct Request {
    target: Arc<Target>,
    route: Route,
    headers: HeaderMap,
    body: Bytes,
    /// The secrets that it is signed with, which nobody is shown should an answer repeat them.
    signing_secrets: Vec<SecretString>,
}

impl Request {
    /// Writes the request. Reads the endpoint's URL, secrets, credentials, headers and proxy as they stand now.
    ///
    /// `User-Agent`, `Accept` and `Authorization` give way to headers of the endpoint's own; all other
    /// headers named here don't (see [`is_reserved`]).
    pub(super) fn build(
        common: &Common,
        endpoint: &Endpoint,
        message: &Message<'_>,
        id: &str,
    ) -> Result<Self, SendError> {
        let target = common.targets.get(endpoint)?;
        let body = match endpoint.format {
            Format::Native => format::native(message),
        };
        let timestamp_s = message.at.unix_seconds();

        let mut headers = head(common, &target)?;
        headers.insert(&common.header_name, value(&format::header_value(message))?);
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(WEBHOOK_ID, value(id)?);
        headers.insert(WEBHOOK_TIMESTAMP, timestamp_s.into());
        let signing_secrets = signing_secrets(endpoint)?;
        if !signing_secrets.is_empty() {
            let signatures = sign::signatures(&keys(&signing_secrets)?, id, timestamp_s, &body);
            headers.insert(WEBHOOK_SIGNATURE, value(&signatures)?);
        }
        let way = endpoint.way.as_deref();
        let credentials = way.and_then(|way| way.credentials.as_ref());
        let authorization = credentials.map(authorization_by).transpose()?;
        if let Some(authorization) = authorization.or_else(|| target.authorization().cloned()) {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        add_own(&mut headers, &own_headers(endpoint)?, &common.header_name);
        let route = Route {
            author: endpoint.author,
            tls: way.and_then(|way| way.tls.clone()),
            proxy: proxy(common, way)?,
        };
        add_proxys(&mut headers, &route, &target);
        Ok(Self {
            target,
            route,
            headers,
            body,
            signing_secrets,
        })
    }

    /// Writes the request that tells the operator's own `url` something about shipbell: JSON, not signed.
    pub(super) fn alert(
        common: &Common,
        url: &Secret,
        body: Bytes,
        id: &str,
        at: Timestamp,
    ) -> Result<Self, SendError> {
        let target = Arc::new(target_at(url)?);
        let mut headers = head(common, &target)?;
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(WEBHOOK_ID, value(id)?);
        headers.insert(WEBHOOK_TIMESTAMP, at.unix_seconds().into());
        if let Some(authorization) = target.authorization() {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let route = Route {
            author: Author::Operator,
            tls: None,
            proxy: proxy(common, None)?,
        };
        add_proxys(&mut headers, &route, &target);
        Ok(Self {
            target,
            route,
            headers,
            body,
            signing_secrets: Vec::new(),
        })
    }

    /// Where it goes; displays masked.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// By which connections it may go.
    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    /// The proxy that is given the request itself, to send it on.
    pub(super) fn forwarding_proxy(&self) -> Option<&Proxy> {
        let proxy = self.route.proxy.as_ref();
        proxy.filter(|proxy| proxy.forwards(self.target.uri()))
    }

    /// Its headers, in order. Those that are secrets are marked sensitive.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The secrets that it is signed with, as they are configured.
    #[must_use]
    pub fn signing_secrets(&self) -> &[SecretString] {
        &self.signing_secrets
    }
}

/// The headers that any request begins with.
fn head(common: &Common, target: &Target) -> Result<HeaderMap, SendError> {
    let mut headers = HeaderMap::with_capacity(16);
    if let Some(authority) = target.uri().authority() {
        headers.insert(header::HOST, value(authority.as_str())?);
    }
    headers.insert(header::USER_AGENT, common.user_agent.clone());
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    Ok(headers)
}

/// The endpoint's own headers, those in files as they stand now and marked sensitive.
fn own_headers(endpoint: &Endpoint) -> Result<Cow<'_, [(HeaderName, HeaderValue)]>, SendError> {
    let files = endpoint.way.as_deref().map_or(&[][..], |way| &way.header_files);
    if files.is_empty() {
        return Ok(Cow::Borrowed(&endpoint.headers));
    }
    let mut headers = endpoint.headers.clone();
    for (name, file) in files {
        let mut value = value(read_line(file, "header")?.expose_secret())?;
        value.set_sensitive(true);
        headers.push((name.clone(), value));
    }
    Ok(Cow::Owned(headers))
}

/// Adds the endpoint's own headers: the first of a name replaces, the others of that name add to it.
fn add_own(headers: &mut HeaderMap, own: &[(HeaderName, HeaderValue)], header_name: &HeaderName) {
    for (index, (name, value)) in own.iter().enumerate() {
        if is_reserved(name) || name == header_name {
            continue;
        }
        if own.iter().take(index).any(|(earlier, _)| earlier == name) {
            headers.append(name, value.clone());
        } else {
            headers.insert(name, value.clone());
        }
    }
}

/// The proxy to go through: the endpoint's own, or the one for all.
fn proxy(common: &Common, way: Option<&Way>) -> Result<Option<Proxy>, SendError> {
    let own = way.and_then(|way| way.proxy.as_ref());
    let Some(proxy) = own.or(common.proxy.as_ref()) else {
        return Ok(None);
    };
    let text = read(proxy, "proxy")?;
    // The one for all can't say so: nobody is to get past it by a word in its file.
    if own.is_some() && text.expose_secret() == DIRECT {
        return Ok(None);
    }
    Proxy::parse(text.expose_secret())
        .map(Some)
        .map_err(SendError::Proxy)
}

/// The header for a proxy that reads the request itself. Others get it with `CONNECT`, or don't speak HTTP.
fn add_proxys(headers: &mut HeaderMap, route: &Route, target: &Target) {
    let proxy = route.proxy.as_ref();
    let reads = proxy.filter(|proxy| proxy.forwards(target.uri()));
    if let Some(authorization) = reads.and_then(Proxy::authorization) {
        headers.insert(header::PROXY_AUTHORIZATION, authorization);
    }
}

/// The `Authorization` header of an endpoint's credentials, marked sensitive.
fn authorization_by(credentials: &Credentials) -> Result<HeaderValue, SendError> {
    match credentials {
        Credentials::Basic { username, password } => {
            let password = read_line(password, "password")?;
            let password = password.expose_secret().as_bytes();
            authorization(username.as_bytes(), password).ok_or(SendError::Header)
        }
        Credentials::Bearer(token) => {
            let token = read_line(token, "bearer token")?;
            let mut value = value(&format!("Bearer {}", token.expose_secret()))?;
            value.set_sensitive(true);
            Ok(value)
        }
    }
}

/// The secrets that the endpoint's webhooks are signed with, the newest first.
fn signing_secrets(endpoint: &Endpoint) -> Result<Vec<SecretString>, SendError> {
    let newest_first = endpoint.secret.iter().chain(&endpoint.previous_secret);
    newest_first
        .map(|secret| read(secret, "webhook secret"))
        .collect()
}

fn keys(secrets: &[SecretString]) -> Result<Vec<SigningKey>, SendError> {
    let key = |secret: &SecretString| secret.expose_secret().parse().map_err(SendError::Secret);
    secrets.iter().map(key).collect()
}

fn read(secret: &Secret, what: &'static str) -> Result<SecretString, SendError> {
    secret.get().map_err(|error| SendError::Unreadable {
        what,
        reason: error.to_string(),
    })
}

/// The same of a secret that is one line and not empty, as a file that is being written may be.
fn read_line(secret: &Secret, what: &'static str) -> Result<SecretString, SendError> {
    let text = read(secret, what)?;
    let reason = match text.expose_secret() {
        "" => "it is empty",
        text if text.chars().any(char::is_control) => {
            "there is more than a line in it, or a control character"
        }
        _ => return Ok(text),
    };
    Err(SendError::Unreadable {
        what,
        reason: reason.to_owned(),
    })
}

fn value(text: &str) -> Result<HeaderValue, SendError> {
    HeaderValue::from_str(text).map_err(|_| SendError::Header)
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("target", &self.target)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
