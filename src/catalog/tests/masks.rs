//! Nothing that is a secret is written down.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use super::*;
use crate::{
    catalog::mask::Mask,
    secret::Secret,
    webhook::{
        Endpoint,
        client::{self, Client},
        format::{EventKind, Message},
        guard::Guard,
        request::Request,
        way::{Credentials, Way},
    },
};

const QUERY: &str = "canary-in-the-query-1";
const ESCAPED: &str = "canary in-the+query-2";
const USER: &str = "canary-user-3";
const PASSWORD: &str = "canary-password-4";
const HEADER: &str = "canary-header-5";
const BEARER: &str = "canary-bearer-6";
const OWN_USER: &str = "canary-user-7";
const OWN_PASSWORD: &str = "canary-password-8";
const OWN_BEARER: &str = "canary-bearer-9";
const PROXY_USER: &str = "canary-user-10";
const PROXY_PASSWORD: &str = "canary-password-11";

pub(super) fn endpoint() -> Endpoint {
    let header = |name: &'static str, value: &str| {
        let mut value = HeaderValue::from_str(value).unwrap();
        value.set_sensitive(true);
        (HeaderName::from_static(name), value)
    };
    let url = format!("http://{USER}:{PASSWORD}@127.0.0.1:1/hook?token={QUERY}&x=canary%20in-the%2Bquery-2");
    let key = BASE64_STANDARD.encode([42; 32]);
    Endpoint {
        secret: Some(Secret::inline(format!("whsec_{key}"))),
        headers: vec![
            header("x-api-key", HEADER),
            header("authorization", &format!("Bearer {BEARER}")),
        ],
        ..Endpoint::plain("ci", &url)
    }
}

pub(super) fn client() -> Client {
    Client::new(client::Options {
        timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
        user_agent: HeaderValue::from_static("WebHook Handler"),
        header_name: HeaderName::from_static("x-alin-webhook"),
        guard: Guard::new(Vec::new(), Vec::new()),
        ca_file: None,
        proxy: None,
        idle_per_host_max: 1,
        idle_timeout: Duration::from_secs(1),
        connections_max: 100,
    })
    .unwrap()
}

fn request_to(endpoint: &Endpoint) -> Request {
    let message = Message {
        repository: &"acme/app".parse().unwrap(),
        tag: Some(&"1".parse().unwrap()),
        digest: &Digest::sha256(b"1"),
        public_host: "",
        sizes: &Sizes::default(),
        event: EventKind::Push,
        at: Timestamp::from_unix_millis(1_000_000),
    };
    client().request(endpoint, &message, "msg_1").unwrap()
}

#[test]
fn the_secrets_that_sign_are_masked_with_and_without_their_prefix() {
    let (now, before) = (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    );
    let endpoint = Endpoint {
        secret: Some(Secret::inline(now)),
        previous_secret: Some(Secret::inline(before)),
        ..Endpoint::plain("ci", "http://127.0.0.1:1/hook")
    };
    let mask = Mask::of(&request_to(&endpoint));
    for secret in [now, before] {
        for told in [secret, secret.trim_start_matches("whsec_")] {
            let said = format!("expected a signature made with {told}.");
            let shown = mask.apply(&Bytes::from(said.into_bytes()));
            assert_eq!(shown, "expected a signature made with [masked].");
        }
    }
}

#[test]
fn a_part_of_a_credential_is_masked_as_well_however_it_is_written() {
    let masked = |url: &str, header: (&'static str, &str), said: &str| {
        let endpoint = Endpoint {
            headers: vec![{
                let mut value = HeaderValue::from_str(header.1).unwrap();
                value.set_sensitive(true);
                (HeaderName::from_static(header.0), value)
            }],
            ..Endpoint::plain("ci", url)
        };
        let answer = Mask::of(&request_to(&endpoint)).apply(&Bytes::copy_from_slice(said.as_bytes()));
        String::from_utf8(answer.to_vec()).unwrap()
    };
    let url = "http://127.0.0.1:1/hook";
    for (header, said) in [
        (
            ("cookie", "session=canary0123456; theme=dark"),
            "session canary0123456 expired",
        ),
        (
            ("authorization", "Token token=\"canary0123\""),
            "token canary0123 is revoked",
        ),
        (("x-auth", "token=canary-token"), "bad token canary-token"),
        (("x-api-key", "Canary-Key-1"), "no key canary-key-1"),
    ] {
        let shown = masked(url, header, said);
        assert!(shown.contains("[masked]") && !shown.contains("anary"), "{shown}");
    }
    for query in ["canarykey0123", "canarykey0123=", "a=b&canarykey0123"] {
        let shown = masked(
            &format!("{url}?{query}"),
            ("x-a", "b"),
            "unknown key canarykey0123, a b",
        );
        assert_eq!(shown, "unknown key [masked], a b");
    }
}

#[test]
fn no_secret_gets_into_the_file_even_if_the_receiver_repeats_them_all() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    let (digest, sizes) = (Digest::sha256(b"1"), Sizes::default());
    let basic = Credentials::Basic {
        username: OWN_USER.to_owned(),
        password: Secret::inline(OWN_PASSWORD),
    };
    let bearer = Credentials::Bearer(Secret::inline(OWN_BEARER));
    let proxy = format!("http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:1");
    for (own_authorization, credentials, sent) in [
        (true, None, [BEARER, BEARER]),
        // Then the URL's user-info is sent.
        (false, None, [USER, PASSWORD]),
        (false, Some(basic), [OWN_USER, OWN_PASSWORD]),
        (false, Some(bearer), [OWN_BEARER, OWN_BEARER]),
    ] {
        let mut endpoint = endpoint();
        if !own_authorization {
            endpoint.headers.truncate(1);
        }
        endpoint.way = Some(Arc::new(Way {
            credentials,
            proxy: Some(Secret::inline(proxy.clone())),
            ..Way::default()
        }));
        let request = request_to(&endpoint);
        let headers = format!(
            "{:?}",
            request
                .headers()
                .values()
                .map(HeaderValue::as_bytes)
                .map(String::from_utf8_lossy)
                .collect::<Vec<_>>()
        );
        let url = endpoint.url.get().unwrap();
        // A receiver can repeat what it was sent, and so can a proxy.
        let sent = [&[QUERY, ESCAPED, HEADER, PROXY_USER, PROXY_PASSWORD][..], &sent].concat();
        let said = format!(
            "you sent {} to {} with {headers} {sent:?} and {}",
            String::from_utf8_lossy(request.body()),
            url.expose_secret(),
            // One that lies across the cut.
            format!("{}{QUERY}", ".".repeat(4096 - 900)).repeat(3),
        );
        running.history.attempted(
            &which(1, "1"),
            Attempt {
                digest: &digest,
                sizes: &sizes,
                at: stage.now(),
                elapsed: Duration::ZERO,
                request: Some(&request),
                answer: &Ok(answer(500, said.as_bytes())),
                outcome: &failed(500),
            },
        );
    }
    running.close();

    let file = fs::read(stage.file()).unwrap();
    assert_holds_no_secret(&file);

    let attempt = &stage.tag("1")[0].deliveries[0].attempts[0];
    assert_eq!(attempt.url.as_deref(), Some("http://127.0.0.1:1/hook?…"));
    let headers = attempt.headers.as_deref().unwrap();
    for line in [
        "user-agent: WebHook Handler",
        "authorization: [masked]",
        "proxy-authorization: [masked]",
        "x-api-key: [masked]",
        "webhook-id: msg_1",
        "x-alin-webhook: acme/app:1",
    ] {
        assert!(headers.lines().any(|shown| shown == line), "{line} in\n{headers}");
    }
    assert!(headers.contains("webhook-signature: v1,"));
    assert!(
        attempt
            .body
            .as_deref()
            .unwrap()
            .starts_with(b"{\"image\":\"acme/app:1\"")
    );
    assert_eq!(attempt.answer.as_ref().unwrap().len(), ANSWER_BYTES_MAX);
    assert!(attempt.answer_bytes.unwrap() > 9_000);
}

fn assert_holds_no_secret(file: &[u8]) {
    // What all of them begin with, and what stands for them on the wire.
    let mut canaries = vec!["canary".to_owned(), BASE64_STANDARD.encode([42; 32])];
    for (user, password) in [
        (USER, PASSWORD),
        (OWN_USER, OWN_PASSWORD),
        (PROXY_USER, PROXY_PASSWORD),
    ] {
        canaries.push(BASE64_STANDARD.encode(format!("{user}:{password}")));
    }
    for canary in canaries {
        assert!(
            !file
                .windows(canary.len())
                .any(|window| window == canary.as_bytes()),
            "{canary}"
        );
    }
}
