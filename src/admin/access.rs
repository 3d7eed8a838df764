//! Who may do what.
//!
//! | `admin.auth` | who comes in |
//! |---|---|
//! | `none` | whoever can connect, which is on loopback only; `Host` must name loopback, so that no web page can reach it through a name of its own (DNS rebinding) |
//! | `token` | who shows a token: as a bearer, or once at the login, for a cookie |
//! | `proxy` | whom a trusted proxy names in a header |
//!
//! The socket in the data directory is the operator's: the file system says who may open it.
//!
//! A browser sends cookies, and reaches loopback, on behalf of any page. So whatever changes something must come from
//! our own pages, as `Sec-Fetch-Site` or else `Origin` says; a program that sends neither is no browser.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use ipnet::IpNet;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::problem::Problem;
use crate::{locked::Locked as _, secret::Secret, telemetry::log::Throttle};

mod origin;
mod people;

use origin::{host_is_loopback, is_not_fetched};
pub(super) use origin::{host_name, same_origin};
pub use people::{Grant, Role, Who};

/// The cookie of somebody who logged in.
pub const COOKIE: &str = "shipbell_session";

/// The header in which a trusted proxy shows its secret (`admin.proxy.secret_file`).
pub const PROXY_SECRET: HeaderName = HeaderName::from_static("x-shipbell-proxy-secret");

/// How long a login lasts.
pub const SESSION: Duration = Duration::from_hours(12);

/// Logins that last at once; past that the oldest goes.
const SESSIONS_MAX: usize = 10_000;

/// Of one token so many; past that its own oldest goes, so that nobody ends the logins of all others.
const SESSIONS_OF_ONE_MAX: usize = 100;

/// Failed logins from one address within [`FAILURES_WITHIN`] after which it has to wait.
const FAILURES_MAX: u32 = 10;
const FAILURES_WITHIN: Duration = Duration::from_mins(1);

/// Addresses whose failures are remembered.
const FAILING_MAX: usize = 10_000;

/// A token and what its bearer may do.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is called in logs.
    pub name: Arc<str>,
    /// The token.
    pub token: Secret,
    /// What may be done.
    pub grant: Grant,
}

/// A group, as a proxy names it, and what whoever is in it may do.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it is called.
    pub name: String,
    /// What may be done.
    pub grant: Grant,
}

/// A proxy that says who somebody is.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where it connects from; empty for anywhere.
    pub networks: Vec<IpNet>,
    /// The header that says who it is.
    pub user_header: HeaderName,
    /// The header that says in which groups they are.
    pub groups_header: HeaderName,
    /// What groups may do; with none, whoever is named is an admin.
    pub groups: Vec<Group>,
    /// What it has to show in [`PROXY_SECRET`].
    pub secret: Option<Secret>,
}

/// Who comes in.
#[derive(Clone, Debug)]
pub enum Door {
    /// Whoever can connect.
    Open,
    /// Who shows one of these.
    Tokens(Vec<Token>),
    /// Whom a proxy names.
    Proxy(Proxy),
}

/// Knows who somebody is. Cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    door: Door,
    sessions: Mutex<HashMap<String, Session>>,
    failing: Mutex<HashMap<IpAddr, (Instant, u32)>>,
    complaint: Throttle,
    departures: watch::Sender<()>,
}

struct Session {
    token: Arc<str>,
    /// Of the token that was shown: one that was replaced meanwhile lets nobody in any more.
    shown: [u8; 32],
    until: Instant,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Access").field(&self.0.door).finish()
    }
}

impl Access {
    /// Lets in whom `door` does.
    #[must_use]
    pub fn new(door: Door) -> Self {
        Self(Arc::new(Inner {
            door,
            sessions: Mutex::default(),
            failing: Mutex::default(),
            complaint: Throttle::new(),
            departures: watch::Sender::new(()),
        }))
    }

    /// Whether there is a login.
    #[must_use]
    pub fn has_login(&self) -> bool {
        matches!(self.0.door, Door::Tokens(_))
    }

    /// Whether a proxy says who somebody is, and so alone knows when they are nobody any more.
    pub(super) fn is_by_proxy(&self) -> bool {
        matches!(self.0.door, Door::Proxy(_))
    }

    /// Who it is that asks.
    ///
    /// # Errors
    /// Nobody who may come in, or not from one of our pages.
    pub fn who(&self, method: &Method, headers: &HeaderMap, peer: SocketAddr) -> Result<Who, Problem> {
        match &self.0.door {
            Door::Open => {
                host_is_loopback(headers)?;
                same_origin(method, headers)?;
                is_not_fetched(headers)?;
                Ok(Who::admin("local"))
            }
            Door::Tokens(tokens) => self.bearer(tokens, method, headers, peer),
            Door::Proxy(proxy) => {
                let who = named_by(proxy, headers, peer)?;
                same_origin(method, headers)?;
                Ok(who)
            }
        }
    }

    fn bearer(
        &self,
        tokens: &[Token],
        method: &Method,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Result<Who, Problem> {
        if let Some(shown) = bearer(headers) {
            let token = matching(tokens, shown).ok_or_else(|| self.wrong(peer.ip()))?;
            return Ok(token.who());
        }
        let token = cookie(headers).and_then(|cookie| self.session(tokens, cookie));
        let token = token.ok_or_else(|| {
            let detail = "show a token: Authorization: Bearer …, or log in on the page";
            Problem::new(StatusCode::UNAUTHORIZED, detail)
        })?;
        same_origin(method, headers)?;
        Ok(token.who())
    }

    /// Logs somebody in who shows a token: what the cookie is to say.
    ///
    /// # Errors
    /// It is no token of ours, or there were too many of those.
    pub fn log_in(&self, shown: &str, peer: SocketAddr) -> Result<String, Problem> {
        let Door::Tokens(tokens) = &self.0.door else {
            return Err(Problem::absent(
                "there is no login here: admin.auth is not \"token\"",
            ));
        };
        let token = matching(tokens, shown).ok_or_else(|| self.wrong(peer.ip()))?;
        let id = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let now = Instant::now();
        let mut sessions = self.sessions();
        sessions.retain(|_, session| session.until > now);
        let is_own = |session: &Session| session.token == token.name;
        if sessions.values().filter(|session| is_own(session)).count() >= SESSIONS_OF_ONE_MAX {
            end_oldest(&mut sessions, is_own);
        } else if sessions.len() >= SESSIONS_MAX {
            end_oldest(&mut sessions, |_| true);
        }
        let session = Session {
            token: Arc::clone(&token.name),
            shown: fingerprint(shown),
            until: now + SESSION,
        };
        sessions.insert(id.clone(), session);
        drop(sessions);
        info!(target: "shipbell::audit", by = %token.name, ip = %peer.ip(), "logged in");
        Ok(id)
    }

    /// Logs out whoever has this cookie, wherever it was used.
    pub fn log_out(&self, headers: &HeaderMap) {
        let ended = cookie(headers).and_then(|cookie| self.sessions().remove(cookie));
        if let Some(session) = ended {
            info!(target: "shipbell::audit", by = %session.token, "logged out");
            self.0.departures.send_replace(());
        }
    }

    /// Tells that somebody logged out.
    pub(super) fn departures(&self) -> watch::Receiver<()> {
        self.0.departures.subscribe()
    }

    /// The token that somebody logged in with, if it is still the one that they showed.
    fn session<'a>(&self, tokens: &'a [Token], id: &str) -> Option<&'a Token> {
        let (name, shown) = {
            let sessions = self.sessions();
            let session = sessions
                .get(id)
                .filter(|session| session.until > Instant::now())?;
            (Arc::clone(&session.token), session.shown)
        };
        // Not under the lock: a token may be in a file.
        let token = tokens.iter().find(|token| token.name == name);
        let token = token.filter(|token| token.fingerprint().is_some_and(|now| now.ct_eq(&shown).into()));
        if token.is_none() && self.sessions().remove(id).is_some() {
            info!(target: "shipbell::audit", by = %name, "logged out: the token is another one now");
            self.0.departures.send_replace(());
        }
        token
    }

    /// What is said to somebody whose token is none of ours: after too many of those, to wait. One that is right is
    /// never kept waiting, so that nobody behind the same address can lock others out: what keeps guesses from being right
    /// is how long tokens are.
    fn wrong(&self, ip: IpAddr) -> Problem {
        if let Some(times) = self.0.complaint.due() {
            warn!(%ip, times, "somebody showed a token that is none of admin.tokens");
        }
        if let Err(wait) = self.patience(ip) {
            return wait;
        }
        self.failed(ip);
        Problem::new(StatusCode::UNAUTHORIZED, "that token is none of admin.tokens")
    }

    fn patience(&self, ip: IpAddr) -> Result<(), Problem> {
        let failing = self.failing();
        match failing.get(&ip) {
            Some((since, failures)) if *failures >= FAILURES_MAX && since.elapsed() < FAILURES_WITHIN => {
                let left = FAILURES_WITHIN.saturating_sub(since.elapsed()).as_secs() + 1;
                Err(Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many tokens that are none of ours came from this address: wait a minute",
                )
                .retry_after(left))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, ip: IpAddr) {
        let mut failing = self.failing();
        failing.retain(|_, (since, _)| since.elapsed() < FAILURES_WITHIN);
        if failing.len() < FAILING_MAX {
            let (_, failures) = failing.entry(ip).or_insert((Instant::now(), 0));
            *failures += 1;
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.0.sessions.locked()
    }

    fn failing(&self) -> MutexGuard<'_, HashMap<IpAddr, (Instant, u32)>> {
        self.0.failing.locked()
    }
}

impl Token {
    /// Of the token as it stands now, if it can be read.
    fn fingerprint(&self) -> Option<[u8; 32]> {
        let token = self.token.get().ok()?;
        Some(fingerprint(token.expose_secret()))
    }

    fn who(&self) -> Who {
        Who::new(Arc::clone(&self.name), vec![self.grant.clone()])
    }
}

/// Ends the login of those that was the first.
fn end_oldest(sessions: &mut HashMap<String, Session>, is_meant: impl Fn(&Session) -> bool) {
    let meant = sessions.iter().filter(|(_, session)| is_meant(session));
    let oldest = meant.min_by_key(|(_, session)| session.until);
    if let Some(id) = oldest.map(|(id, _)| id.clone()) {
        sessions.remove(&id);
    }
}

fn fingerprint(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The token that was shown, compared with every one in constant time.
fn matching<'a>(tokens: &'a [Token], shown: &str) -> Option<&'a Token> {
    let mut found = None;
    for token in tokens {
        let is_it = token
            .token
            .get()
            .is_ok_and(|secret| bool::from(secret.expose_secret().as_bytes().ct_eq(shown.as_bytes())));
        if is_it && !shown.is_empty() {
            found = Some(token);
        }
    }
    found
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, &header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    let mut pairs = all
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn named_by(proxy: &Proxy, headers: &HeaderMap, peer: SocketAddr) -> Result<Who, Problem> {
    let refused = |detail: &str| Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
    let ip = peer.ip().to_canonical();
    if !proxy.networks.is_empty() && !proxy.networks.iter().any(|network| network.contains(&ip)) {
        return refused("this is reached through its proxy only (admin.proxy.trusted_networks)");
    }
    if let Some(secret) = &proxy.secret {
        let shown = text(headers, &PROXY_SECRET).unwrap_or_default();
        let is_it = secret
            .get()
            .is_ok_and(|secret| bool::from(secret.expose_secret().as_bytes().ct_eq(shown.as_bytes())));
        if !is_it || shown.is_empty() {
            return refused("the proxy did not show its secret (admin.proxy.secret_file)");
        }
    }
    // A proxy that adds its own to what a client sent lets the client choose.
    let came_twice = |name: &HeaderName| headers.get_all(name).iter().count() > 1;
    if came_twice(&proxy.user_header) {
        return refused("the proxy let somebody else's name through (admin.proxy.user_header came twice)");
    }
    if came_twice(&proxy.groups_header) {
        return refused(
            "the proxy let somebody else's groups through (admin.proxy.groups_header came twice)",
        );
    }
    let name = headers.get(&proxy.user_header).map(HeaderValue::as_bytes);
    match name.and_then(|name| str::from_utf8(name).ok()).map(str::trim) {
        Some(name) if !name.is_empty() => by_groups(proxy, headers, name),
        _ => refused("the proxy did not say who this is (admin.proxy.user_header)"),
    }
}

/// What somebody may do who is in the groups that the proxy names, with commas between them.
fn by_groups(proxy: &Proxy, headers: &HeaderMap, name: &str) -> Result<Who, Problem> {
    if proxy.groups.is_empty() {
        return Ok(Who::admin(name));
    }
    let named = headers
        .get(&proxy.groups_header)
        .map_or(&[][..], HeaderValue::as_bytes);
    let named: Vec<&[u8]> = named
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .collect();
    let is_in = |group: &&Group| named.contains(&group.name.as_bytes());
    let grants: Vec<Grant> = (proxy.groups.iter().filter(is_in))
        .map(|group| group.grant.clone())
        .collect();
    if grants.is_empty() {
        let detail = format!("{name} is in none of the groups that may come in (admin.proxy.groups)");
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(Who::new(name.into(), grants))
}

#[cfg(test)]
mod tests;
