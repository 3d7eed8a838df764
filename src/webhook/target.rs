//! Where a webhook goes: an endpoint's URL, parsed once, never shown whole.

use std::{cell::Cell, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderValue, Uri, uri::Scheme};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use url::{SyntaxViolation, Url};

use super::masked::masked_url;

/// An endpoint's URL that can be sent to: `http` or `https`, a host, no fragment.
///
/// Displays without user-info and with the query masked.
#[derive(Clone)]
pub struct Target {
    uri: Uri,
    authorization: Option<HeaderValue>,
    shown: String,
}

/// Why a text is no URL to send to. Never holds the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// Not a URL at all.
    #[error("it is not a URL ({}); one looks like https://ci.example.com/hook", plain_words(*.0))]
    Syntax(url::ParseError),
    /// Not two slashes in front of the host: a browser would take the path's first part for the host.
    #[error(
        "between its scheme and its host are not two slashes; one looks like https://ci.example.com/hook"
    )]
    Slashes,
    /// Another scheme.
    #[error("it begins with neither http:// nor https://")]
    Scheme,
    /// With a `#`.
    #[error("it has a fragment (#…), which is never sent to a server; a # in a query is written %23")]
    Fragment,
    /// Port 0.
    #[error("its port is 0, at which nobody can be reached")]
    Port,
    /// Well-formed, but HTTP can't carry it.
    #[error("it can't be sent as an HTTP request: it is too long, or its host has odd characters")]
    Unsendable,
}

/// What is wrong with a text that is no URL.
fn plain_words(error: url::ParseError) -> &'static str {
    use url::ParseError as Fault;
    match error {
        Fault::RelativeUrlWithoutBase => "https:// or http:// is missing in front",
        Fault::EmptyHost => "it has no host",
        Fault::IdnaError | Fault::InvalidDomainCharacter => {
            "its host has a space, or something else that no host's name has"
        }
        Fault::InvalidPort => "its port is no number up to 65535",
        Fault::InvalidIpv4Address => "its host looks like an IPv4 address, and is none",
        Fault::InvalidIpv6Address => "in the brackets is no IPv6 address",
        _ => "it can't be read as one",
    }
}

impl Target {
    /// The target that `text` names. Its query is sent as typed.
    ///
    /// # Errors
    /// See [`InvalidUrl`].
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let url = Url::parse(text).map_err(InvalidUrl::Syntax)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidUrl::Scheme);
        }
        if !has_two_slashes(text) {
            return Err(InvalidUrl::Slashes);
        }
        if url.fragment().is_some() {
            return Err(InvalidUrl::Fragment);
        }
        if url.port() == Some(0) {
            return Err(InvalidUrl::Port);
        }
        let host = url
            .host_str()
            .ok_or(InvalidUrl::Syntax(url::ParseError::EmptyHost))?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let uri = |query: Option<&str>| {
            let path = url.path();
            let path_and_query = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
            Uri::builder()
                .scheme(url.scheme())
                .authority(authority.as_str())
                .path_and_query(path_and_query)
                .build()
        };
        Ok(Self {
            uri: uri(query_as_typed(text).as_deref()).map_err(|_| InvalidUrl::Unsendable)?,
            authorization: basic(&url),
            shown: masked_url(&url),
        })
    }

    /// Scheme, host, port, path and query; no user-info. A secret, because of its query.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether requests to both are the same, but for headers that are set elsewhere.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.uri, &self.authorization) == (&other.uri, &other.authorization)
    }

    /// The host: a name, or an address; an IPv6 one in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// The port: the scheme's own if the URL has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        port(&self.uri)
    }

    /// What the URL's user-info amounts to: the value of an `Authorization` header.
    #[must_use]
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

/// Whether exactly `//` is in front of the host of a URL by http or https. The URL standard has a parser go on without:
/// `http:///hook` means the host `hook` to it, where a person left the host out.
pub(crate) fn has_two_slashes(text: &str) -> bool {
    let is_violated = Cell::new(false);
    let note = |violation| {
        if violation == SyntaxViolation::ExpectedDoubleSlash {
            is_violated.set(true);
        }
    };
    // What is no URL at all is for others to say.
    let _ = Url::options().syntax_violation_callback(Some(&note)).parse(text);
    !is_violated.get()
}

/// The port that a URL means.
pub(super) fn port(uri: &Uri) -> u16 {
    let usual = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    uri.port_u16().unwrap_or(usual)
}

/// What a query can't have as it is, beside what is not ASCII.
const NOT_CARRIED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>');

/// The query, in the very characters that were typed, but for those that HTTP can't carry: a URL parser rewrites more of
/// them (`'` as `%27`), and a receiver that compares tokens byte by byte would notice. Tabs and line breaks are left out,
/// as every URL parser does.
fn query_as_typed(text: &str) -> Option<String> {
    let is_space_or_control = |c: char| c <= ' ';
    let (_, query) = text.trim_matches(is_space_or_control).split_once('?')?;
    let query = query.replace(['\t', '\n', '\r'], "");
    Some(utf8_percent_encode(&query, NOT_CARRIED).to_string())
}

fn basic(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    authorization(
        &percent_decoded(url.username()),
        &percent_decoded(url.password().unwrap_or_default()),
    )
}

/// The value of an `Authorization` header for a name and a password (RFC 7617), marked sensitive.
pub(super) fn authorization(username: &[u8], password: &[u8]) -> Option<HeaderValue> {
    let credentials = [username, b":", password].concat();
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(credentials))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

pub(super) fn percent_decoded(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> String {
        Target::parse(text).unwrap().uri().to_string()
    }

    #[test]
    fn the_query_goes_out_as_typed() {
        for typed in [
            "http://a/hook?token=a'b|c{d}%27+~",
            "http://a/hook?a=1?b=2&c",
            "http://a/?!$%&'()*+,-./0:;=?@A[\\]^_`a{|}~",
            "http://a:8080/?",
            "http://[::1]:81/x",
        ] {
            assert_eq!(uri(typed), typed);
        }
        assert_eq!(uri(" http://a/?x y\n"), "http://a/?x%20y");
        assert_eq!(uri("http://a/?é"), "http://a/?%C3%A9");
        assert_eq!(
            uri("http://a/?t=a'b\"|<é>{%27\u{7f}\t\r\nc"),
            "http://a/?t=a'b%22|%3C%C3%A9%3E{%27%7Fc"
        );
        assert_eq!(uri("http://a:80"), "http://a/");
        assert_eq!(uri("https://müller.example/"), "https://xn--mller-kva.example/");
    }

    #[test]
    fn user_info_becomes_basic_authorization_and_leaves_the_url() {
        let target = Target::parse("https://us%3Aer:p%40ss%2@a.example/hook?token=hunter2").unwrap();
        assert_eq!(target.uri(), "https://a.example/hook?token=hunter2");
        let expected = format!("Basic {}", BASE64_STANDARD.encode("us:er:p@ss%2"));
        assert_eq!(target.authorization().unwrap(), &expected);
        assert!(target.authorization().unwrap().is_sensitive());
        assert_eq!(
            format!("{target} {target:?}"),
            "https://a.example/hook?… https://a.example/hook?…"
        );
        assert!(
            Target::parse("https://a.example/")
                .unwrap()
                .authorization()
                .is_none()
        );
    }

    #[test]
    fn a_text_that_is_no_url_is_told_in_plain_words_what_is_wrong_with_it() {
        for (text, words) in [
            ("ci.example.com/hook", "(https:// or http:// is missing in front)"),
            (
                "//ci.example.com/hook",
                "(https:// or http:// is missing in front)",
            ),
            ("https://", "(it has no host)"),
            ("https:///hook?token=t", "are not two slashes"),
            ("https:ci.example.com/hook", "are not two slashes"),
            ("https:/ci.example.com/hook", "are not two slashes"),
            ("https:\\\\ci.example.com/hook", "are not two slashes"),
            ("https://ci example.com/hook", "(its host has a space, or "),
            ("https://ci.exa<mple.com/hook", "(its host has a space, or "),
            (
                "https://ci.example.com:65536/",
                "(its port is no number up to 65535)",
            ),
            (
                "https://ci.example.com:http/",
                "(its port is no number up to 65535)",
            ),
            (
                "https://10.1.2.300/",
                "(its host looks like an IPv4 address, and is none)",
            ),
            ("https://[10.1.2.3]/", "(in the brackets is no IPv6 address)"),
        ] {
            let told = Target::parse(text).unwrap_err().to_string();
            assert!(told.contains(words), "{text}: {told}");
        }
    }

    #[test]
    fn only_http_urls_with_a_host_and_without_fragment_are_sent_to() {
        let error = |text: &str| Target::parse(text).unwrap_err();
        assert!(matches!(error("hook"), InvalidUrl::Syntax(_)));
        assert!(matches!(error("http://"), InvalidUrl::Syntax(_)));
        assert_eq!(error("ftp://a/"), InvalidUrl::Scheme);
        assert_eq!(error("file:///etc/passwd"), InvalidUrl::Scheme);
        assert_eq!(error("http://a/#x"), InvalidUrl::Fragment);
        assert_eq!(error("http://a:0/"), InvalidUrl::Port);
        assert_eq!(
            error(&format!("http://a/{}", "x".repeat(70_000))),
            InvalidUrl::Unsendable
        );
    }
}
