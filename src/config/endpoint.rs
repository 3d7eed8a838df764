//! `[[endpoints]]`: who gets webhooks.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, header};
use secrecy::ExposeSecret;
use url::Url;

use super::{
    Tls,
    delivery::{COALESCE, PUSHES_MAX, WINDOW_MAX},
    reader::Section,
    registry::{Login, wanted},
    units,
};
use crate::{
    glob::Patterns,
    push::EndpointId,
    secret::Secret,
    webhook::{
        self, Batching, Coalesce, Format, Rate,
        guard::{Author, Guard},
        request::is_reserved,
        way::{ClientCert, Credentials, TlsFiles, Way},
    },
};

/// What receivers are known by; later versions speak to them.
const FORMATS_TO_COME: [&str; 14] = [
    "acr",
    "artifactory",
    "cdevents",
    "cloudevents",
    "distribution",
    "dockerhub",
    "gcr",
    "ghcr",
    "gitea",
    "github",
    "harbor",
    "nexus",
    "quay",
    "slack",
];

const NAME_BYTES_MAX: usize = 64;

/// One `[[endpoints]]` block.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its identity: letters, digits, dot, dash and underscore, at most 64; unique.
    pub name: Arc<str>,
    /// Which repositories it wants.
    pub repositories: Patterns,
    /// Which tags it wants.
    pub tags: Patterns,
    /// Which of those it doesn't.
    pub exclude_tags: Patterns,
    /// Where it is: http or https.
    pub url: Secret,
    /// The secret its webhooks are signed with: `whsec_`, or the private key `whsk_`.
    pub secret: Option<Secret>,
    /// The secret before; only along with `secret`.
    pub previous_secret: Option<Secret>,
    /// How bodies are written.
    pub format: Format,
    /// Headers added to each request; their values are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The window, in place of `batch.window`.
    pub window: Option<Duration>,
    /// In place of `batch.max_pushes`; at least 1.
    pub max_pushes: Option<usize>,
    /// In place of `batch.coalesce`.
    pub coalesce: Option<Coalesce>,
    /// In place of `delivery.rate`.
    pub rate: Option<Rate>,
    /// Certificates, credentials, a proxy and headers in files of its own, if it has any.
    pub way: Option<Arc<Way>>,
}

impl Endpoint {
    /// The endpoint as the rest of shipbell knows it, with `batching` and `rate` where it has none of its own.
    #[must_use]
    pub(super) fn resolve(&self, batching: Batching, rate: Rate) -> webhook::Endpoint {
        webhook::Endpoint {
            id: EndpointId::Named(Arc::clone(&self.name)),
            author: Author::Operator,
            url: self.url.clone(),
            secret: self.secret.clone(),
            previous_secret: self.previous_secret.clone(),
            format: self.format,
            headers: self.headers.clone(),
            repositories: Arc::new(self.repositories.clone()),
            tags: Arc::new(self.tags.clone()).into(),
            exclude_tags: Arc::new(self.exclude_tags.clone()),
            batching: Arc::new(Batching {
                window: self.window.unwrap_or(batching.window),
                pushes_max: self.max_pushes.unwrap_or(batching.pushes_max),
                coalesce: self.coalesce.unwrap_or(batching.coalesce),
            }),
            rate: self.rate.unwrap_or(rate),
            way: self.way.clone(),
        }
    }

    /// Reads one block; `image_header` is `delivery.header_name`, and `guard` knows our own listeners. `None` without a
    /// name or a URL.
    pub(super) fn read(section: &mut Section<'_>, image_header: &HeaderName, guard: &Guard) -> Option<Self> {
        if !section.is_set("name") {
            section.missing("name", "missing: every endpoint has a name of its own");
        }
        let name = section.optional("name", name);
        let repositories = wanted(section, "repositories");
        let tags = wanted(section, "tags");
        let exclude_tags = section.patterns("exclude_tags");
        let url = section.webhook_url("url", guard);
        if !section.is_set("url") && !section.is_set("url_file") {
            section.missing("url", "missing: set this or url_file");
        }
        let (secret, previous_secret) = secrets(section);
        let format = section.string("format", format);
        let headers = section.headers("headers", |name| refuse_header(name, image_header));
        let window = section.duration("window", Duration::ZERO..=WINDOW_MAX);
        let max_pushes = section.integer("max_pushes", 1..=PUSHES_MAX);
        let coalesce = section.choice("coalesce", &COALESCE);
        let rate = section.rate("rate");
        let header_files = section.header_files("header_files", |name| {
            if headers.iter().any(|(other, _)| other == name) {
                return Some("this header is in headers, too: set it in one place".to_owned());
            }
            refuse_header(name, image_header)
        });
        let is_authorization = |name: &HeaderName| *name == header::AUTHORIZATION;
        let authorizes = headers.iter().any(|(name, _)| is_authorization(name))
            || header_files.iter().any(|(name, _)| is_authorization(name));
        let way = way(section, authorizes, url.as_ref(), header_files);
        Some(Self {
            name: name?,
            repositories: repositories.unwrap_or_else(Patterns::everything),
            tags: tags.unwrap_or_else(Patterns::everything),
            exclude_tags: exclude_tags.unwrap_or_default(),
            url: url?,
            secret,
            previous_secret,
            format: format.unwrap_or_default(),
            headers,
            window,
            max_pushes,
            coalesce,
            rate,
            way,
        })
    }
}

fn secrets(section: &mut Section<'_>) -> (Option<Secret>, Option<Secret>) {
    let secret = section.secret("secret", units::signing_key);
    let previous = section.secret("previous_secret", units::signing_key);
    if previous.is_some() && !section.is_set("secret") && !section.is_set("secret_file") {
        section.report(
            if section.is_set("previous_secret") {
                "previous_secret"
            } else {
                "previous_secret_file"
            },
            "there is no secret it would come before: set secret or secret_file",
        );
    }
    (secret, previous)
}

fn way(
    section: &mut Section<'_>,
    authorizes: bool,
    url: Option<&Secret>,
    header_files: Vec<(HeaderName, Secret)>,
) -> Option<Arc<Way>> {
    let ca_file = section.authorities("ca_file");
    let client_cert = section.tls("client_cert_file", "client_key_file");
    let client_cert = client_cert.map(|Tls { cert_file, key_file }| ClientCert { cert_file, key_file });
    let proxy = section.secret_url("proxy", units::own_proxy_url);
    let credentials = credentials(section, authorizes, url);
    let tls =
        (ca_file.is_some() || client_cert.is_some()).then(|| Arc::new(TlsFiles { ca_file, client_cert }));
    let has_any = tls.is_some() || proxy.is_some() || credentials.is_some() || !header_files.is_empty();
    has_any.then(|| {
        Arc::new(Way {
            credentials,
            tls,
            proxy,
            header_files,
        })
    })
}

fn credentials(section: &mut Section<'_>, in_headers: bool, url: Option<&Secret>) -> Option<Credentials> {
    let login = Login::read(section);
    let bearer = section.secret("bearer_token", units::token);
    let url = url
        .and_then(|url| url.get().ok())
        .and_then(|url| Url::parse(url.expose_secret()).ok());
    let in_url = url.is_some_and(|url| units::has_user_info(&url));
    // Whether or not its password is there.
    let is_login = login.is_some() || section.is_set("username");
    if [is_login, bearer.is_some(), in_headers, in_url]
        .into_iter()
        .filter(|set| *set)
        .count()
        > 1
    {
        let key = if is_login {
            "username"
        } else if section.is_set("bearer_token") {
            "bearer_token"
        } else if bearer.is_some() {
            "bearer_token_file"
        } else if section.is_set("url") {
            "url"
        } else {
            "url_file"
        };
        section.report(
            key,
            "there is one Authorization header: set username and password, or bearer_token, or the header itself, or a \
             user name and password in the URL",
        );
    }
    login
        .map(|Login { username, password }| Credentials::Basic { username, password })
        .or_else(|| bearer.map(Credentials::Bearer))
}

/// What an endpoint may be called.
///
/// # Errors
/// It is no name, which is said in a sentence that doesn't quote it.
pub(crate) fn name(text: &str) -> Result<Arc<str>, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(Arc::from(text))
    } else {
        Err(format!(
            "a name has letters, digits, dot, dash and underscore only, at most {NAME_BYTES_MAX}, such as \"ci\""
        ))
    }
}

fn format(text: &str) -> Result<Format, String> {
    if text == "native" {
        return Ok(Format::Native);
    }
    if FORMATS_TO_COME.contains(&text) {
        return Err(format!(
            "\"{text}\" is not there yet: this version has \"native\" only"
        ));
    }
    Err("there is no such format: this version has \"native\" only".to_owned())
}

/// Whether HTTP or shipbell gives that header its value.
pub(super) fn sets_itself(name: &HeaderName) -> bool {
    is_reserved(name)
        || [header::ACCEPT, header::USER_AGENT].contains(name)
        || ["webhook-", "x-shipbell-"]
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix))
}

/// Why an endpoint can't have that header, if it can't.
pub(crate) fn refuse_header(name: &HeaderName, image_header: &HeaderName) -> Option<String> {
    if name == header::USER_AGENT {
        return Some("the User-Agent is set for all endpoints, by delivery.user_agent".to_owned());
    }
    (sets_itself(name) || name == image_header || name == "x-alin-webhook")
        .then(|| format!("shipbell sets {name} itself; leave it out"))
}
