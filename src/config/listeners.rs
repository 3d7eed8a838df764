//! `[ingest]`, `[ops]` and `[admin]`: what shipbell listens on.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::HeaderName;
use ipnet::IpNet;
use secrecy::ExposeSecret;

use super::{problem::Warning, reader::Section, units};
use crate::{glob::Patterns, secret::Secret};

/// Stands in for an address that has a problem.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A token with fewer characters can be guessed: at some thousand guesses a second, one of 12 letters and digits takes very
/// long, and people do not choose at random.
const TOKEN_CHARACTERS_MIN: usize = 16;

/// A certificate and its key, PEM, readable when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, the own certificate first.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// `[ingest]`: where the registry delivers its notifications.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// Address and port.
    pub listen: SocketAddr,
    /// The one path, beginning with a slash.
    pub path: String,
    /// The bearer tokens that let in, of `tokens` and `token_files` together. Empty: nobody has to show one.
    pub tokens: Vec<Secret>,
    /// Whether a listener beyond loopback may do without tokens.
    pub allow_anonymous: bool,
    /// Largest body taken, bytes.
    pub max_body: u64,
    /// Connections open at once.
    pub max_connections: usize,
    /// How long a push may take to become durable.
    pub ack_deadline: Duration,
    /// Most pushes in the queue.
    pub max_pending: usize,
    /// TLS, when a certificate is given.
    pub tls: Option<Tls>,
}

/// `[ops]`: health and metrics.
#[derive(Clone, Debug)]
pub struct Ops {
    /// Address and port.
    pub listen: SocketAddr,
    /// TLS, when a certificate is given.
    pub tls: Option<Tls>,
}

/// Who may use the settings page and the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAuth {
    /// Whoever can connect; loopback only.
    None,
    /// Who shows one of the tokens.
    Token,
    /// Whom a trusted proxy names.
    Proxy,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Change what belongs to repositories.
    Editor,
    /// Look.
    Viewer,
}

/// A role, and for which repositories.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What may be done.
    pub role: Role,
    /// With which repositories; `None` is all.
    pub repositories: Option<Patterns>,
}

/// One of `admin.tokens`.
#[derive(Clone, Debug)]
pub struct AdminToken {
    /// What it is called in logs; unique.
    pub name: String,
    /// The token.
    pub token: Secret,
    /// What its bearer may do.
    pub grant: Grant,
}

/// One of `admin.proxy.groups`.
#[derive(Clone, Debug)]
pub struct AdminGroup {
    /// As the proxy names it.
    pub group: String,
    /// What whoever is in it may do.
    pub grant: Grant,
}

/// `[admin.proxy]`: an authenticating proxy in front.
#[derive(Clone, Debug)]
pub struct AdminProxy {
    /// Where it connects from.
    pub trusted_networks: Vec<IpNet>,
    /// The header that says who the user is.
    pub user_header: HeaderName,
    /// The header that says which groups the user is in.
    pub groups_header: HeaderName,
    /// What groups may do; with none, whoever the proxy names may do everything.
    pub groups: Vec<AdminGroup>,
    /// What the proxy has to show besides.
    pub secret: Option<Secret>,
}

/// `[admin]`: the settings page and the API.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Address and port.
    pub listen: SocketAddr,
    /// Who may use it.
    pub auth: AdminAuth,
    /// For [`AdminAuth::Token`].
    pub tokens: Vec<AdminToken>,
    /// For [`AdminAuth::Proxy`].
    pub proxy: AdminProxy,
    /// TLS, when a certificate is given.
    pub tls: Option<Tls>,
}

impl Ingest {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let ingest = Self {
            listen: section.address("listen").unwrap_or(NOWHERE),
            path: section.string("path", path).unwrap_or_default(),
            tokens: [
                section.secrets("tokens", units::token),
                section.shown_files("token_files", units::token),
            ]
            .into_iter()
            .flatten()
            .flatten()
            .collect(),
            allow_anonymous: section.boolean("allow_anonymous").unwrap_or_default(),
            max_body: section.size("max_body", 1 << 10..=256 << 20).unwrap_or_default(),
            max_connections: section
                .integer("max_connections", 1..=1_000_000)
                .unwrap_or_default(),
            ack_deadline: section
                .duration("ack_deadline", Duration::from_millis(10)..=Duration::from_mins(1))
                .unwrap_or_default(),
            max_pending: section
                .integer("max_pending", 1..=100_000_000)
                .unwrap_or_default(),
            tls: section.tls("tls_cert_file", "tls_key_file"),
        };
        let open = !ingest.listen.ip().is_loopback() && ingest.tokens.is_empty() && !ingest.allow_anonymous;
        if open && section.clean(&["listen", "tokens", "token_files", "allow_anonymous"]) {
            section.report_together(
                &["listen", "tokens", "token_files", "allow_anonymous"],
                "beyond loopback anybody could ring: set ingest.tokens or ingest.token_files, \
                 or ingest.allow_anonymous = true if that is meant",
            );
        }
        ingest
    }

    /// That everybody is let in and tokens are asked for.
    pub(super) fn unused(&self) -> Option<Warning> {
        (self.allow_anonymous && !self.tokens.is_empty()).then(|| Warning {
            key: "ingest.allow_anonymous".to_owned(),
            message: "does nothing beside ingest.tokens or ingest.token_files: who shows none of them is answered 401"
                .to_owned(),
        })
    }
}

impl Ops {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            listen: section.address("listen").unwrap_or(NOWHERE),
            tls: section.tls("tls_cert_file", "tls_key_file"),
        }
    }
}

impl Admin {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let auth = [
            ("none", AdminAuth::None),
            ("token", AdminAuth::Token),
            ("proxy", AdminAuth::Proxy),
        ];
        let admin = Self {
            listen: section.address("listen").unwrap_or(NOWHERE),
            auth: section.choice("auth", &auth).unwrap_or(AdminAuth::None),
            tls: section.tls("tls_cert_file", "tls_key_file"),
            tokens: section.tables("tokens", AdminToken::read),
            proxy: AdminProxy::read(&mut section.section("proxy")),
        };
        admin.check(section);
        admin
    }

    /// Which tokens are short enough to be guessed, of those that are in use.
    pub(super) fn short_tokens(&self) -> impl Iterator<Item = Warning> {
        let tokens = self
            .tokens
            .iter()
            .enumerate()
            .filter(|_| self.auth == AdminAuth::Token);
        tokens.filter_map(|(index, token)| {
            let characters = token.token.get().ok()?.expose_secret().chars().count();
            (characters < TOKEN_CHARACTERS_MIN).then(|| Warning {
                key: format!("admin.tokens[{index}]"),
                message: format!(
                    "the token of {} has {characters} characters and can be guessed: have {TOKEN_CHARACTERS_MIN} or more; \
                     make one with: openssl rand -hex 32",
                    token.name
                ),
            })
        })
    }

    /// What is set for another way of letting people in than the one that is chosen, and does nothing.
    pub(super) fn unused(&self) -> Option<Warning> {
        let has_proxy = !self.proxy.trusted_networks.is_empty() || self.proxy.secret.is_some();
        let (key, wanted, has) = match self.auth {
            AdminAuth::None if !self.tokens.is_empty() => ("admin.tokens", "token", "none"),
            AdminAuth::Proxy if !self.tokens.is_empty() => ("admin.tokens", "token", "proxy"),
            AdminAuth::None if has_proxy => ("admin.proxy", "proxy", "none"),
            AdminAuth::Token if has_proxy => ("admin.proxy", "proxy", "token"),
            _ => return None,
        };
        let everybody = match self.auth {
            AdminAuth::None => ": everybody on this machine is an admin",
            _ => "",
        };
        Some(Warning {
            key: key.to_owned(),
            message: format!(
                "does nothing with admin.auth = \"{has}\"{everybody}; set admin.auth = \"{wanted}\" if that is meant"
            ),
        })
    }

    /// That a proxy is known by one thing alone, and what would be right: whoever names themselves is believed then, if
    /// they are at the right place, or know the secret.
    pub(super) fn half_proxied(&self) -> Option<Warning> {
        let (somewhere, secret) = (
            !self.proxy.trusted_networks.is_empty(),
            self.proxy.secret.is_some(),
        );
        let (key, message) = match (self.auth, somewhere, secret) {
            (AdminAuth::Proxy, true, false) => (
                "admin.proxy.secret_file",
                "is not set: whoever connects from admin.proxy.trusted_networks may say who they are, not only the proxy; \
                 have it show a secret in X-Shipbell-Proxy-Secret, and name the file with that secret here",
            ),
            (AdminAuth::Proxy, false, true) => (
                "admin.proxy.trusted_networks",
                "is not set: whoever has the proxy's secret may say who they are, from anywhere; list where the proxy \
                 connects from, such as [\"10.0.0.7/32\"]",
            ),
            _ => return None,
        };
        let (key, message) = (key.to_owned(), message.to_owned());
        Some(Warning { key, message })
    }

    fn check(&self, section: &mut Section<'_>) {
        let tokens = if section.clean(&["tokens"]) {
            self.tokens.as_slice()
        } else {
            &[]
        };
        for (index, token) in tokens.iter().enumerate() {
            let is_the_same = |other: &&AdminToken| match (other.token.get(), token.token.get()) {
                (Ok(other), Ok(token)) => other.expose_secret() == token.expose_secret(),
                _ => false,
            };
            if let Some(other) = tokens.iter().take(index).find(is_the_same) {
                let (key, name) = (format!("tokens[{index}]"), &other.name);
                section.report_together(
                    &[&format!("{key}.token"), &format!("{key}.token_file")],
                    format!("it is that of {name}, too: everybody has a token of their own"),
                );
            }
        }
        let proxied = !self.proxy.trusted_networks.is_empty() || self.proxy.secret.is_some();
        match self.auth {
            AdminAuth::None if !self.listen.ip().is_loopback() && section.clean(&["listen", "auth"]) => {
                section.report_together(
                    &["listen", "auth"],
                    "auth = \"none\" is for loopback only: listen on 127.0.0.1, or use \"token\" or \"proxy\"",
                );
            }
            AdminAuth::Token if self.tokens.is_empty() && section.clean(&["auth", "tokens"]) => {
                section.report("auth", "\"token\" lets nobody in without admin.tokens");
            }
            AdminAuth::Proxy
                if !proxied && section.clean(&["auth", "proxy.trusted_networks", "proxy.secret_file"]) =>
            {
                section.report(
                    "auth",
                    "\"proxy\" needs to know the proxy by admin.proxy.trusted_networks or admin.proxy.secret_file",
                );
            }
            _ => {}
        }
    }
}

impl Grant {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let roles = [
            ("admin", Role::Admin),
            ("editor", Role::Editor),
            ("viewer", Role::Viewer),
        ];
        let role = section.choice("role", &roles);
        let repositories = section.patterns("repositories");
        Some(Self {
            role: role?,
            repositories,
        })
    }
}

/// Reports those of the keys that are missing.
fn need(section: &mut Section<'_>, keys: [&str; 2]) {
    for key in keys {
        if !section.is_set(key) {
            section.missing(key, "this key is missing");
        }
    }
}

impl AdminToken {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        need(section, ["name", "role"]);
        let name = section.optional("name", |name| Ok(name.to_owned()));
        let token = section.shown_secret("token", units::token);
        if token.is_none() && section.clean(&["token", "token_file"]) {
            section.report("token", "missing: set this or token_file");
        }
        let grant = Grant::read(section);
        Some(Self {
            name: name?,
            token: token?,
            grant: grant?,
        })
    }
}

impl AdminGroup {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        need(section, ["group", "role"]);
        let group = section.optional("group", |group| match group.trim() {
            "" => Err("a group has a name, such as \"platform\"".to_owned()),
            name if name.contains(',') => {
                Err("commas stand between groups: write one entry for each".to_owned())
            }
            name => Ok(name.to_owned()),
        });
        let grant = Grant::read(section);
        Some(Self {
            group: group?,
            grant: grant?,
        })
    }
}

impl AdminProxy {
    fn read(section: &mut Section<'_>) -> Self {
        let nameless = HeaderName::from_static("x");
        Self {
            trusted_networks: section.networks("trusted_networks").unwrap_or_default(),
            user_header: section
                .header_name("user_header")
                .unwrap_or_else(|| nameless.clone()),
            groups_header: section.header_name("groups_header").unwrap_or(nameless),
            // Before the tables: what stands behind them in TOML is theirs.
            secret: section.shown_file("secret_file", units::secret),
            groups: section.tables("groups", AdminGroup::read),
        }
    }
}

/// A path as the router takes it: literal, without a query.
fn path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    if text.starts_with('/') && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a path begins with / and has letters, digits and -._~ only, such as \"/events\"".to_owned())
    }
}
