//! How we show the registry who we are: not at all, by Basic, or by a token from the service it names.
//!
//! What it asked for last is remembered, and no longer than it leads in: a realm that gives no token may have moved, or
//! was never meant. Then the registry is asked as if by a stranger, and says what it wants now.
//!
//! The token protocol: CNCF Distribution, `docs/spec/auth/token.md`. Credentials go to the registry's own
//! origin and to the realm that it names, and to nobody else: neither a redirect nor a `Link` carries them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use quick_cache::sync::Cache;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::{RegistryError, challenge, read_capped, retry_after};
use crate::{image::RepositoryName, locked::Locked as _, secret::Secret};

/// The most bytes of a token service's answer that are read.
const TOKEN_ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long a token is good when its service doesn't say.
const TOKEN_LIFETIME: Duration = Duration::from_mins(1);

/// How long before its end a token is no longer used, but at most a quarter of its life.
const TOKEN_MARGIN_MAX: Duration = Duration::from_secs(10);

/// How many repositories' tokens are kept.
const TOKENS_MAX: usize = 10_000;

/// Who we are, and what the registry asked for last.
#[derive(Debug)]
pub(super) struct Auth {
    http: reqwest::Client,
    timeout: Duration,
    username: String,
    password: Option<Secret>,
    /// None before it asked for anything.
    scheme: Mutex<Option<Scheme>>,
    tokens: Cache<RepositoryName, Arc<Slot>>,
}

/// What a registry asks for.
#[derive(Clone, Debug)]
pub(super) enum Scheme {
    Basic,
    Bearer(Arc<Realm>),
}

/// A token service.
#[derive(Debug)]
pub(super) struct Realm {
    url: Url,
    service: Option<String>,
    /// It gave what it was asked for last.
    is_proven: AtomicBool,
}

/// What is known to let us in.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) authorization: Option<HeaderValue>,
    /// Whose token it should be, and isn't, and why if that is known.
    pub(super) doubt: Option<(Arc<Realm>, Option<RegistryError>)>,
}

impl Known {
    fn doubtful(realm: Arc<Realm>, error: Option<RegistryError>) -> Self {
        Self {
            authorization: None,
            doubt: Some((realm, error)),
        }
    }
}

impl From<HeaderValue> for Known {
    fn from(authorization: HeaderValue) -> Self {
        Self {
            authorization: Some(authorization),
            doubt: None,
        }
    }
}

/// A realm is asked: one from which no answer is waited for any more gave none.
struct Asking<'a> {
    realm: &'a Realm,
    gave: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.realm.is_proven.store(self.gave, Ordering::Release);
    }
}

/// One repository's token. Whoever needs it waits for the one who fetches it.
type Slot = tokio::sync::Mutex<Held>;

#[derive(Debug, Default)]
struct Held {
    token: Option<Token>,
    failure: Option<(Instant, RegistryError)>,
}

#[derive(Debug)]
struct Token {
    header: HeaderValue,
    good_until: Instant,
}

impl Held {
    fn good(&self) -> Option<&Token> {
        self.token
            .as_ref()
            .filter(|token| token.good_until > Instant::now())
    }
}

impl Auth {
    pub(super) fn new(
        http: reqwest::Client,
        timeout: Duration,
        username: String,
        password: Option<Secret>,
    ) -> Self {
        Self {
            http,
            timeout,
            username,
            password,
            scheme: Mutex::default(),
            tokens: Cache::new(TOKENS_MAX),
        }
    }

    fn scheme(&self) -> MutexGuard<'_, Option<Scheme>> {
        self.scheme.locked()
    }

    /// The `Authorization` for a request about `repository`, by what the registry asked for last. Where that leads to no
    /// token, the registry is to be asked as by a stranger: it says what it wants now.
    pub(super) async fn known(&self, repository: &RepositoryName) -> Result<Known, RegistryError> {
        let scheme = self.scheme().clone();
        match scheme {
            None => Ok(Known::default()),
            Some(Scheme::Basic) => Ok(self.basic()?.into()),
            Some(Scheme::Bearer(realm)) if realm.is_proven.load(Ordering::Acquire) => {
                match self.token(&realm, repository, None).await {
                    Ok(token) => Ok(token.into()),
                    Err(error) => Ok(Known::doubtful(realm, Some(error))),
                }
            }
            Some(Scheme::Bearer(realm)) => match self.held_token(repository) {
                Some(token) => Ok(token.into()),
                None => Ok(Known::doubtful(realm, None)),
            },
        }
    }

    /// The `Authorization` for a request about `repository` by a scheme that the registry has just asked for. `rejected` is
    /// one that was just answered with 401: a token equal to it is replaced.
    pub(super) async fn wanted(
        &self,
        scheme: Scheme,
        repository: &RepositoryName,
        rejected: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        match scheme {
            Scheme::Basic => self.basic(),
            Scheme::Bearer(realm) => self.token(&realm, repository, rejected).await,
        }
    }

    /// Takes note that the registry let a stranger in although it had asked for a token of `realm`, which gives none.
    pub(super) fn let_in(&self, realm: &Arc<Realm>) {
        let mut scheme = self.scheme();
        let is_it = matches!(&*scheme, Some(Scheme::Bearer(known)) if Arc::ptr_eq(known, realm));
        if is_it && !realm.is_proven.load(Ordering::Acquire) {
            *scheme = None;
        }
    }

    /// Takes note of what a 401 asks for.
    pub(super) fn challenged(&self, headers: &HeaderMap) -> Result<Scheme, RegistryError> {
        let challenges: Vec<_> = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::challenges)
            .collect();
        let mut wanted = if let Some(bearer) = challenges.iter().find(|known| known.scheme == "bearer") {
            Scheme::Bearer(Arc::new(Realm::named_by(bearer)?))
        } else if challenges.iter().any(|known| known.scheme == "basic") {
            if self.username.is_empty() {
                return Err(unauthorized("it wants a user name and a password"));
            }
            Scheme::Basic
        } else {
            return Err(unauthorized("it asks for neither Basic nor a Bearer token"));
        };
        let mut scheme = self.scheme();
        if let (Some(Scheme::Bearer(known)), Scheme::Bearer(realm)) = (&*scheme, &wanted)
            && known.is_same(realm)
        {
            wanted = Scheme::Bearer(Arc::clone(known));
        }
        *scheme = Some(wanted.clone());
        Ok(wanted)
    }

    fn basic(&self) -> Result<HeaderValue, RegistryError> {
        let password = match &self.password {
            Some(password) => password
                .get()
                .map_err(|error| unauthorized(format!("the password can't be read: {error}")))?,
            None => secrecy::SecretString::default(),
        };
        let credentials = format!("{}:{}", self.username, password.expose_secret());
        sensitive(&format!("Basic {}", STANDARD.encode(credentials)))
            .ok_or_else(|| unauthorized("the credentials fit in no header"))
    }

    /// The repository's token, if it is good and nobody is fetching another.
    fn held_token(&self, repository: &RepositoryName) -> Option<HeaderValue> {
        let slot = self.tokens.get(repository)?;
        let held = slot.try_lock().ok()?;
        held.good().map(|token| token.header.clone())
    }

    async fn token(
        &self,
        realm: &Realm,
        repository: &RepositoryName,
        rejected: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let asked_at = Instant::now();
        let Ok(slot) = self
            .tokens
            .get_or_insert_with(repository, || Ok::<_, std::convert::Infallible>(Arc::default()));
        let mut held = slot.lock().await;
        if let Some(token) = held.good().filter(|token| rejected != Some(&token.header)) {
            realm.is_proven.store(true, Ordering::Release);
            return Ok(token.header.clone());
        }
        // What failed while we waited for it failed for us too.
        if let Some((failed_at, error)) = &held.failure
            && *failed_at >= asked_at
        {
            return Err(error.clone());
        }
        let mut asking = Asking { realm, gave: false };
        match self.fetch_token(realm, repository).await {
            Ok(token) => {
                asking.gave = true;
                let header = token.header.clone();
                *held = Held {
                    token: Some(token),
                    failure: None,
                };
                Ok(header)
            }
            Err(error) => {
                held.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn fetch_token(&self, realm: &Realm, repository: &RepositoryName) -> Result<Token, RegistryError> {
        let mut url = realm.url.clone();
        if let Some(service) = &realm.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut()
            .append_pair("scope", &format!("repository:{repository}:pull"));
        let mut request = self.http.get(url);
        if !self.username.is_empty() {
            request = request.header(header::AUTHORIZATION, self.basic()?);
        }
        let sent_at = Instant::now();
        let response = request
            .send()
            .await
            .map_err(|error| RegistryError::from_transport(error, self.timeout))?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(unauthorized(format!(
                    "its token service answered with status {}",
                    response.status().as_u16()
                )));
            }
            // A realm that isn't there is a wrong answer of the registry's, not an image that is gone.
            StatusCode::NOT_FOUND => return Err(unauthorized("its token service is not where it says")),
            status => {
                return Err(RegistryError::TokenService {
                    status: status.as_u16(),
                    retry_after: retry_after(response.headers()),
                });
            }
        }
        let body = read_capped(response, TOKEN_ANSWER_BYTES_MAX, self.timeout).await?;
        Token::read(&body, sent_at)
    }
}

impl Realm {
    fn named_by(challenge: &challenge::Challenge) -> Result<Self, RegistryError> {
        let realm = challenge
            .parameter("realm")
            .ok_or_else(|| unauthorized("its Bearer challenge names no realm"))?;
        let url = Url::parse(realm)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .filter(|url| url.username().is_empty() && url.password().is_none())
            .ok_or_else(|| unauthorized("its Bearer challenge's realm is no absolute http or https URL"))?;
        Ok(Self {
            url,
            service: challenge.parameter("service").map(str::to_owned),
            is_proven: AtomicBool::new(false),
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.url, &self.service) == (&other.url, &other.service)
    }
}

impl Token {
    fn read(body: &[u8], sent_at: Instant) -> Result<Self, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            token: Option<String>,
            #[serde(default)]
            access_token: Option<String>,
            #[serde(default)]
            expires_in: Option<u32>,
        }
        // The parser's own words could quote the token: they are not passed on.
        let malformed = |what: &str| RegistryError::Malformed(format!("the token service's answer {what}"));
        let answer: Answer =
            serde_json::from_slice(body).map_err(|_| malformed("is not the JSON it should be"))?;
        let text = [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty())
            .ok_or_else(|| malformed("has no token"))?;
        let lifetime = match answer.expires_in {
            None | Some(0) => TOKEN_LIFETIME,
            Some(seconds) => Duration::from_secs(seconds.into()),
        };
        Ok(Self {
            header: sensitive(&format!("Bearer {text}"))
                .ok_or_else(|| malformed("has a token that fits in no header"))?,
            good_until: sent_at + lifetime.saturating_sub(TOKEN_MARGIN_MAX.min(lifetime / 4)),
        })
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn unauthorized(reason: impl Into<String>) -> RegistryError {
    RegistryError::Unauthorized(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_used_until_shortly_before_its_end() {
        let now = Instant::now();
        for (body, seconds) in [
            (r#"{"token":"t"}"#, 50),
            (r#"{"access_token":"t","expires_in":0}"#, 50),
            (r#"{"token":"","access_token":"t","expires_in":300}"#, 290),
            (r#"{"token":"t","expires_in":8}"#, 6),
        ] {
            let token = Token::read(body.as_bytes(), now).unwrap();
            assert_eq!(token.good_until - now, Duration::from_secs(seconds), "{body}");
            assert_eq!(token.header, "Bearer t");
            assert!(!format!("{token:?}").contains("Bearer"));
        }
    }

    #[tokio::test]
    async fn an_answer_without_a_usable_token_is_malformed_and_never_quoted() {
        for body in [
            "{}",
            r#"{"token":""}"#,
            r#"{"token":"hunter2\n"}"#,
            r#"{"token":["hunter2"]}"#,
            "hunter2",
        ] {
            let error = Token::read(body.as_bytes(), Instant::now()).unwrap_err();
            assert!(matches!(error, RegistryError::Malformed(_)));
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
