//! How values are written: durations, sizes, rates, patterns, networks, secrets.
//!
//! Every error says what would be right; none repeats the value, which may be a secret's.

use std::{net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use globset::Glob;
use ipnet::IpNet;
use url::{Host, Url};

use crate::webhook::{
    Rate,
    guard::{Author, Guard},
    proxy::Proxy,
    sign::{InvalidSigningKey, SigningKey},
    target::{Target, has_two_slashes},
    way,
};

/// Far above what any endpoint takes.
const RATE_PER_SECOND_MAX: f64 = 100_000.0;

fn has_no_unit(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-')
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("write a duration, such as \"2s\"".to_owned());
    }
    if has_no_unit(text) {
        return Err(format!(
            "add a unit: \"{text}ms\", \"{text}s\", \"{text}m\", \"{text}h\" or \"{text}d\""
        ));
    }
    humantime::parse_duration(text).map_err(|_| {
        "not a duration; write one such as \"800ms\", \"2s\", \"5m\", \"24h\" or \"5d\"".to_owned()
    })
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("write a size, such as \"4MiB\"".to_owned());
    }
    if has_no_unit(text) {
        return Err(format!(
            "add a unit: \"{text}B\", \"{text}KiB\", \"{text}MiB\" or \"{text}GiB\""
        ));
    }
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| {
        "not a size; write one such as \"64KiB\" or \"4MiB\" (powers of 1024), or \"4MB\" (powers of 1000)"
            .to_owned()
    })
}

/// A size the way people write it: in the largest unit of 1024 that divides it.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    units
        .into_iter()
        .find(|(_, shift)| bytes >= 1 << shift && bytes.trailing_zeros() >= *shift)
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, shift)| format!("{}{unit}", bytes >> shift),
        )
}

pub(super) fn rate(text: &str) -> Result<Rate, String> {
    const RIGHT: &str =
        "not a rate; write one such as \"20/s\", \"90/m\" or \"500/h\", or \"0\" for no limit";
    let text = text.trim();
    if text == "0" {
        return Ok(Rate { per_second: None });
    }
    if !text.is_empty() && has_no_unit(text) {
        return Err(format!("add a unit: \"{text}/s\", \"{text}/m\" or \"{text}/h\""));
    }
    let (count, unit) = text.split_once('/').ok_or(RIGHT)?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(RIGHT.to_owned()),
    };
    let count: f64 = count.trim().parse().map_err(|_| RIGHT.to_owned())?;
    let per_second = count / seconds;
    if count == 0.0 {
        return Ok(Rate { per_second: None });
    }
    // One an hour: below that, a queue of any length never ends. A NaN is in no range.
    if !(1.0 / 3_600.0..=RATE_PER_SECOND_MAX).contains(&per_second) {
        return Err("a rate is from \"1/h\" to \"100000/s\", or \"0\" for no limit".to_owned());
    }
    Ok(Rate {
        per_second: Some(per_second),
    })
}

/// A pattern in which `*` stays within a path part and `**` crosses.
pub(super) fn glob(text: &str) -> Result<Glob, String> {
    if text.is_empty() {
        return Err("an empty pattern matches nothing; write \"**\" for everything".to_owned());
    }
    crate::glob::parse(text)
        .map_err(|error| format!("not a pattern: {error}; write one such as \"acme/*\" or \"acme/**\""))
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text
        .parse()
        .map_err(|_| "not a network; write one such as \"10.0.0.0/8\" or \"fd00::/8\"".to_owned())?;
    if network != network.trunc() {
        return Err(format!(
            "bits are set beyond the prefix; write \"{}\"",
            network.trunc()
        ));
    }
    Ok(network)
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| {
        if let Some(port) = text.strip_prefix("localhost:") {
            return format!("names are not looked up here; write \"127.0.0.1:{port}\"");
        }
        match text.strip_prefix(':') {
            Some(port) => format!("the address is missing; write \"0.0.0.0:{port}\" for all of them"),
            None => {
                "not an address with a port; write one such as \"127.0.0.1:8580\" or \"[::]:8580\"".to_owned()
            }
        }
    })
}

fn http_url(text: &str, example: &str) -> Result<Url, String> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a URL has no spaces or line breaks in it".to_owned());
    }
    let url =
        Url::parse(text).map_err(|error| format!("not a URL: {error}; write one such as \"{example}\""))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err("a URL here begins with http:// or https://".to_owned());
    }
    if !has_two_slashes(text) {
        return Err(format!(
            "two slashes and a host are to follow the scheme; write a URL such as \"{example}\""
        ));
    }
    if url.fragment().is_some() {
        return Err("a URL's fragment, from the # on, is never sent; leave it out".to_owned());
    }
    Ok(url)
}

/// Where webhooks may go, when the operator says so: nearly anywhere by http or https, but not to our own listeners,
/// which `guard` knows.
pub(super) fn webhook_url(text: &str, guard: &Guard) -> Result<Url, String> {
    let url = http_url(text, "https://ci.example.com/hook")?;
    let target = Target::parse(text).map_err(|error| error.to_string())?;
    guard
        .check_url(&target, Author::Operator)
        .map_err(|refusal| refusal.of_url())?;
    Ok(url)
}

/// What can be sent to at all.
pub(super) fn target(text: &str) -> Result<(), String> {
    Target::parse(text).map(drop).map_err(|error| error.to_string())
}

/// A server's base: no query, no user-info.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let url = http_url(text, "http://127.0.0.1:5000")?;
    if url.query().is_some() {
        return Err("a URL here has no query, from the ? on".to_owned());
    }
    if has_user_info(&url) {
        return Err("a URL here has no user name or password in it".to_owned());
    }
    Ok(url)
}

/// A proxy: scheme, host, port, and credentials if it wants them.
pub(super) fn proxy_url(text: &str) -> Result<(), String> {
    Proxy::parse(text).map(drop).map_err(|error| error.to_string())
}

/// The same for one endpoint, which can also do without.
pub(super) fn own_proxy_url(text: &str) -> Result<(), String> {
    if text == way::DIRECT {
        return Ok(());
    }
    proxy_url(text)
}

pub(super) fn has_user_info(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// A URL as it may be shown: without user-info, the query masked. The word for no proxy is none.
pub(super) fn masked(text: &str) -> String {
    if text == way::DIRECT {
        return text.to_owned();
    }
    let Ok(mut url) = Url::parse(text) else {
        return "[not a URL]".to_owned();
    };
    // Both fail only for URLs that can't have user-info in the first place.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if url.query().is_some() {
        url.set_query(Some("[secret]"));
    }
    url.set_fragment(None);
    url.to_string()
}

/// `host` or `host:port`, as in an image's name or a `Host` header; its letters are as they were written.
pub(super) fn host(text: &str) -> Result<String, String> {
    const RIGHT: &str =
        "write a host, with its port if it has one, such as \"registry.example.com\" or \"10.0.0.5:5000\"";
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let port_is_sound =
        port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok_and(|port| port > 0));
    match Host::parse(name) {
        _ if name.contains('*') => Err(format!(
            "a host is taken as it is, there are no patterns here; {RIGHT}"
        )),
        Ok(host) if port_is_sound && host.to_string() == name.to_ascii_lowercase() => Ok(text.to_owned()),
        _ => Err(RIGHT.to_owned()),
    }
}

/// Any secret: something, on one line.
pub(super) fn secret(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("it has a line break or another control character in it".to_owned());
    }
    Ok(())
}

/// A bearer token, as RFC 6750 section 2.1 has it (`b64token`).
pub(super) fn token(text: &str) -> Result<(), String> {
    secret(text)?;
    let body = text.trim_end_matches('=');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    if body.is_empty() || !body.bytes().all(allowed) {
        return Err(
            "a token has letters, digits and -._~+/ only, and = at its end; make one with: openssl rand -hex 32"
                .to_owned(),
        );
    }
    Ok(())
}

/// What webhooks are signed with, by Standard Webhooks: `whsec_` and the base64 of 24 to 64 bytes, or an Ed25519
/// private key, `whsk_`.
pub(super) fn signing_key(text: &str) -> Result<(), String> {
    match text.parse::<SigningKey>() {
        Ok(_) => Ok(()),
        Err(error @ InvalidSigningKey::Key(_)) => Err(error.to_string()),
        Err(InvalidSigningKey::Prefix | InvalidSigningKey::Secret(_)) => Err(
            "a webhook secret is whsec_ and the base64 of 24 to 64 bytes; make one with: \
             echo \"whsec_$(openssl rand -base64 32)\"; or it is an Ed25519 private key, whsk_, see docs/operating.md"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("800ms"), Ok(Duration::from_millis(800)));
        assert_eq!(duration("5d"), Ok(Duration::from_hours(5 * 24)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("5").unwrap_err().contains("add a unit: \"5ms\""));
        assert!(duration("0").unwrap_err().contains("add a unit"));
        assert!(duration("soon").unwrap_err().contains("not a duration"));
        assert!(duration("").is_err());
        assert!(duration("99999999999999999999d").is_err());
    }

    #[test]
    fn sizes_tell_1024_from_1000() {
        assert_eq!(size("4MiB"), Ok(4 << 20));
        assert_eq!(size("4MB"), Ok(4_000_000));
        assert_eq!(size("1.5 GiB"), Ok(3 << 29));
        assert!(size("4096").unwrap_err().contains("add a unit: \"4096B\""));
        assert!(size("4MX").unwrap_err().contains("not a size"));
        assert_eq!(size_text(4 << 20), "4MiB");
        assert_eq!(size_text(1500), "1500B");
        assert_eq!(size_text(0), "0B");
    }

    #[test]
    fn rates_are_per_second_minute_or_hour_or_off() {
        assert_eq!(rate("20/s").unwrap().per_second, Some(20.0));
        assert_eq!(rate("90/m").unwrap().per_second, Some(1.5));
        assert_eq!(rate("3600/h").unwrap().per_second, Some(1.0));
        assert_eq!(rate("0").unwrap().per_second, None);
        assert_eq!(rate("0/s").unwrap().per_second, None);
        for wrong in ["", "20", "20/", "/s", "20/d", "-1/s", "NaN/s", "inf/s", "1e9/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_star_stays_within_a_path_part_and_two_cross() {
        let matches = |pattern: &str, name: &str| glob(pattern).unwrap().compile_matcher().is_match(name);
        assert!(matches("acme/*", "acme/app"));
        assert!(!matches("acme/*", "acme/app/tools"));
        assert!(matches("acme/**", "acme/app"));
        assert!(matches("acme/**", "acme/app/tools"));
        assert!(!matches("acme/**", "acme"));
        assert!(!matches("acme/**", "acme2/app"));
        for name in ["", "app", "acme/app", "acme/app/tools", "1.4", ".hidden"] {
            assert!(matches("**", name), "{name:?}");
        }
        assert!(matches("*", ""));
        assert!(!matches("*", "acme/app"));
        assert!(matches("**/app", "app"));
        assert!(matches("v{1,2}.*", "v2.0"));
        assert!(glob("").is_err());
        assert!(glob("a[").is_err());
    }

    #[test]
    fn addresses_and_networks_say_what_would_be_right() {
        assert!(address("[::]:8580").is_ok());
        assert!(address("localhost:80").unwrap_err().contains("\"127.0.0.1:80\""));
        assert!(address(":80").unwrap_err().contains("\"0.0.0.0:80\""));
        assert!(address("10.0.0.1").is_err());
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert!(network("10.0.0.1/8").unwrap_err().contains("\"10.0.0.0/8\""));
        assert!(network("ten").is_err());
    }

    #[test]
    fn urls_keep_their_query_and_show_without_it() {
        let webhook_url = |text: &str| webhook_url(text, &Guard::default());
        assert!(webhook_url("http://127.0.0.1:9/hook?token=abc").is_ok());
        for wrong in [
            "ci.example.com",
            "ftp://ci/x",
            "https://ci/#a",
            "http://",
            "https://ci/a b",
        ] {
            assert!(webhook_url(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            masked("https://me:pw@ci/hook?token=abc"),
            "https://ci/hook?[secret]"
        );
        assert_eq!(masked("https://ci/hook"), "https://ci/hook");
        assert!(base_url("http://u:p@registry:5000").is_err());
        assert!(base_url("http://registry:5000/prefix/").is_ok());
        assert!(proxy_url("http://u:p@proxy:3128").is_ok());
        assert!(proxy_url("socks5://u:p@proxy").is_ok());
        for wrong in ["http://proxy/path", "https://proxy", "direct", "proxy:3128"] {
            assert!(proxy_url(wrong).is_err(), "{wrong}");
        }
        assert!(own_proxy_url("direct").is_ok());
    }

    #[test]
    fn hosts_have_no_scheme_and_no_path() {
        for right in [
            "registry.example.com",
            "localhost:80",
            "10.0.0.5:5000",
            "[::1]:5000",
        ] {
            assert_eq!(host(right).as_deref(), Ok(right));
        }
        assert_eq!(
            host("Registry.Example.com").as_deref(),
            Ok("Registry.Example.com")
        );
        for wrong in [
            "",
            "https://r",
            "r/acme",
            "r:port",
            "a b",
            "u@r",
            "r:99999",
            "r?q",
        ] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_and_webhook_secrets_have_their_form() {
        assert!(token("0f-._~+/==").is_ok());
        for wrong in ["", "a b", "a\n", "=", "tök"] {
            assert!(token(wrong).is_err(), "{wrong:?}");
        }
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        assert!(signing_key(&of(24)).is_ok());
        assert!(signing_key(&of(64)).is_ok());
        for wrong in [of(23), of(65), STANDARD.encode([7; 32]), "whsec_!".to_owned()] {
            assert!(signing_key(&wrong).is_err(), "{wrong}");
        }
        let key = STANDARD.encode([7; 32]);
        assert!(signing_key(&format!("whsk_{key}")).is_ok());
        assert!(
            signing_key(&format!("whpk_{key}"))
                .unwrap_err()
                .contains("for receivers")
        );
    }
}
