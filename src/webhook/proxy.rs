//! A proxy's URL, parsed once, never shown whole.

use std::{fmt, sync::Arc};

use http::{HeaderValue, Uri};
use url::Url;

use super::target::{authorization, has_two_slashes, percent_decoded};

/// The most bytes that SOCKS carries of a name and of a password: RFC 1929, section 2.
const SOCKS_CREDENTIAL_BYTES_MAX: usize = 255;

/// Where SOCKS listens when nothing is said: RFC 1928, section 3.
const SOCKS_PORT: u16 = 1080;

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// HTTP: a tunnel (`CONNECT`) for `https` targets, the whole URL in the request line for `http` ones.
    Http,
    /// SOCKS 5 (RFC 1928), with the names resolved by the proxy.
    Socks5,
}

/// A name and a password as they are sent, bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Login {
    pub(super) username: Vec<u8>,
    pub(super) password: Vec<u8>,
}

/// A proxy. Cheap to clone; displays without its user-info.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Proxy(Arc<Parts>);

#[derive(PartialEq, Eq, Hash)]
struct Parts {
    kind: Kind,
    /// Host and port, for the resolver.
    uri: Uri,
    login: Option<Login>,
    shown: String,
}

/// Why a text is no proxy's URL. Never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProxy {
    /// Not a URL at all.
    #[error("it is not a URL ({0}); one looks like http://proxy.example.com:3128")]
    Syntax(url::ParseError),
    /// A proxy that is spoken to by TLS.
    #[error(
        "proxies that are spoken to by TLS are not supported: write http:// or socks5://; what goes to an https URL is \
         encrypted all the same"
    )]
    Encrypted,
    /// Another scheme.
    #[error("it begins with neither http:// nor socks5://")]
    Scheme,
    /// More than a host and a port.
    #[error("a proxy is a host and a port, such as http://proxy.example.com:3128")]
    More,
    /// Its host has characters that can't be sent.
    #[error("its host has odd characters")]
    Host,
    /// SOCKS can't carry the name or the password.
    #[error("SOCKS takes a name and a password of 1 to {SOCKS_CREDENTIAL_BYTES_MAX} bytes each")]
    Login,
}

impl Proxy {
    /// The proxy that `text` names.
    ///
    /// # Errors
    /// See [`InvalidProxy`].
    pub fn parse(text: &str) -> Result<Self, InvalidProxy> {
        let url = Url::parse(text).map_err(InvalidProxy::Syntax)?;
        // socks5h is what curl calls it when the proxy resolves names. It always does here.
        let kind = match url.scheme() {
            "http" => Kind::Http,
            "socks5" | "socks5h" => Kind::Socks5,
            "https" => return Err(InvalidProxy::Encrypted),
            _ => return Err(InvalidProxy::Scheme),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidProxy::More);
        }
        let host = url
            .host_str()
            .filter(|host| !host.is_empty() && has_two_slashes(text))
            .ok_or(InvalidProxy::More)?;
        let port = url.port().unwrap_or(match kind {
            Kind::Http => 80,
            Kind::Socks5 => SOCKS_PORT,
        });
        let authority = format!("{host}:{port}");
        Ok(Self(Arc::new(Parts {
            kind,
            uri: Uri::builder()
                .scheme("http")
                .authority(authority.as_str())
                .path_and_query("/")
                .build()
                .map_err(|_| InvalidProxy::Host)?,
            login: login(&url, kind)?,
            shown: format!("{}://{authority}", url.scheme()),
        })))
    }

    /// How it is spoken to.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Its host and port, as an `http` URL.
    pub(super) fn uri(&self) -> &Uri {
        &self.0.uri
    }

    pub(super) fn login(&self) -> Option<&Login> {
        self.0.login.as_ref()
    }

    /// Whether a request to `target` is given to the proxy as it is, to be sent on: what an HTTP proxy does for
    /// `http` targets. Tunnels would do for these too, but many proxies, Squid as it is installed among them,
    /// allow them to port 443 only.
    pub(super) fn forwards(&self, target: &Uri) -> bool {
        self.kind() == Kind::Http && target.scheme_str() == Some("http")
    }

    /// What it wants in `Proxy-Authorization`. Marked sensitive.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let login = self.login()?;
        authorization(&login.username, &login.password)
    }
}

fn login(url: &Url, kind: Kind) -> Result<Option<Login>, InvalidProxy> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let login = Login {
        username: percent_decoded(url.username()),
        password: percent_decoded(url.password().unwrap_or_default()),
    };
    let fits = |part: &[u8]| (1..=SOCKS_CREDENTIAL_BYTES_MAX).contains(&part.len());
    if kind == Kind::Socks5 && !(fits(&login.username) && fits(&login.password)) {
        return Err(InvalidProxy::Login);
    }
    Ok(Some(login))
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.shown)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_scheme_a_host_and_a_port_and_shows_nothing_else() {
        for (text, kind, shown) in [
            ("http://u:hunter2@proxy:3128", Kind::Http, "http://proxy:3128"),
            ("http://proxy/", Kind::Http, "http://proxy:80"),
            (
                "socks5://hunter2:x@[::1]:1081",
                Kind::Socks5,
                "socks5://[::1]:1081",
            ),
            ("socks5h://10.0.0.1", Kind::Socks5, "socks5h://10.0.0.1:1080"),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(proxy.kind(), kind);
            assert_eq!(format!("{proxy} {proxy:?}"), format!("{shown} {shown}"));
        }
        let error = |text: &str| Proxy::parse(text).unwrap_err();
        assert!(matches!(error("proxy"), InvalidProxy::Syntax(_)));
        assert_eq!(error("https://proxy"), InvalidProxy::Encrypted);
        assert_eq!(error("ftp://proxy"), InvalidProxy::Scheme);
        assert_eq!(error("http://proxy/path"), InvalidProxy::More);
        assert_eq!(error("http:///proxy:3128"), InvalidProxy::More);
        assert_eq!(error("socks5://proxy/?x"), InvalidProxy::More);
        assert_eq!(error("socks5://u@proxy"), InvalidProxy::Login);
        let long = format!("socks5://{}:p@proxy", "u".repeat(256));
        assert_eq!(error(&long), InvalidProxy::Login);
    }

    #[test]
    fn another_password_is_another_proxy() {
        let [one, same, other] = ["one", "one", "other"]
            .map(|password| Proxy::parse(&format!("http://u:{password}@proxy:3128")).unwrap());
        assert_eq!(one, same);
        assert_ne!(one, other);
        assert_eq!(other.authorization().unwrap(), "Basic dTpvdGhlcg==");
        assert!(other.authorization().unwrap().is_sensitive());
    }
}
