//! The webhook on the wire (CONTRACT 3): what a raw socket sees.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use shipbell::clock::Timestamp;

use crate::support::{
    SOON, envelope, folder,
    image::Image,
    receiver::{Answer, Receiver, Request},
    registry::Options,
    shipbell::{Config, Shipbell},
    stage::{Stage, native_body},
};

const SECRET: &str = "whsec_c2hpcGJlbGwncyB0ZXN0cyBzaWduIHdpdGggdGhpcw==";
const OLD_SECRET: &str = "whsec_c2hpcGJlbGwncyB0ZXN0cyBzaWduZWQgd2l0aCB0aGF0";

/// One push of `acme/app:1.4` to an endpoint with these settings; the request that comes of it.
fn request_for_push(settings: &str) -> Request {
    let receiver = Receiver::start();
    let url = receiver.url("/hook?token=a%20b&x=1");
    let config = Config::without_registry().with(&format!(
        "{settings}\n[[endpoints]]\nname = 'hook'\nrepositories = ['acme/**']\nurl = '{url}'"
    ));
    let shipbell = Shipbell::start(config);
    shipbell.take(envelope::of(&[envelope::push("acme/app", "1.4", "any")]));
    receiver.wait_for(1, SOON).remove(0)
}

fn signature(secret: &str, request: &Request) -> String {
    let key = BASE64_STANDARD
        .decode(secret.trim_start_matches("whsec_"))
        .unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{}.{}.", request.id(), request.header("webhook-timestamp")).as_bytes());
    mac.update(&request.body);
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

#[test]
fn the_request_has_the_contracts_headers_and_no_others() {
    let request = request_for_push("");
    assert_eq!(request.line(), "POST /hook?token=a%20b&x=1 HTTP/1.1");
    let length = request.body.len().to_string();
    for (name, value) in [
        ("User-Agent", "WebHook Handler"),
        ("Accept-Encoding", "gzip, deflate"),
        ("Accept", "*/*"),
        ("Connection", "keep-alive"),
        ("x-alin-webhook", "acme/app:1.4"),
        ("Content-Length", &length),
        ("Content-Type", "application/json"),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    let mut names: Vec<String> = request
        .headers()
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "accept-encoding",
            "connection",
            "content-length",
            "content-type",
            "host",
            "user-agent",
            "webhook-id",
            "webhook-timestamp",
            "x-alin-webhook",
        ]
    );
}

#[test]
fn the_body_has_seven_keys_in_their_order() {
    let request = request_for_push("");
    let expected = native_body("acme/app:1.4", None, &[], "acme/app", None, &request);
    assert_eq!(request.text(), expected);
}

#[test]
fn id_and_time_are_what_standard_webhooks_asks_for() {
    let request = request_for_push("");
    let id = request.id();
    assert!(!id.is_empty() && id.len() <= 255, "{id}");
    assert!(
        id.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)),
        "{id}"
    );
    assert!(!id.starts_with("test_"), "{id}");

    let stamp: i64 = request.header("webhook-timestamp").parse().unwrap();
    let came = request.wall.unix_seconds();
    assert!((came - 1..=came).contains(&stamp), "{stamp}, not {came}");
    let body = request.json();
    let written = body["timestamp"].as_str().unwrap();
    let parsed = chrono::DateTime::parse_from_rfc3339(written).unwrap();
    let parsed = Timestamp::from_unix_millis(parsed.timestamp_millis());
    assert_eq!(parsed.to_string(), written, "UTC, with milliseconds");
    assert!(
        (stamp - 1..=stamp + 1).contains(&parsed.unix_seconds()),
        "{written}, not {stamp}"
    );
    assert!(request.wall.since(parsed) < Duration::from_secs(1), "{written}");
}

#[test]
fn without_a_secret_nothing_is_signed() {
    assert_eq!(request_for_push("").find_header("webhook-signature"), None);
}

#[test]
fn a_secret_signs_id_time_and_body() {
    let receiver = Receiver::start();
    let folder = folder();
    let (new, old) = (folder.path().join("new"), folder.path().join("old"));
    std::fs::write(&new, format!("{SECRET}\n")).unwrap();
    std::fs::write(&old, OLD_SECRET).unwrap();
    let url = |path| receiver.url(path);
    let config = Config::without_registry().with(&format!(
        r"
        [[endpoints]]
        name = 'inline'
        repositories = ['acme/**']
        url = '{}'
        secret = '{SECRET}'
        [[endpoints]]
        name = 'rotated'
        repositories = ['acme/**']
        url = '{}'
        secret_file = '{}'
        previous_secret_file = '{}'
        ",
        url("/inline"),
        url("/rotated"),
        new.display(),
        old.display(),
    ));
    let shipbell = Shipbell::start(config);
    shipbell.take(envelope::of(&[envelope::push("acme/app", "1.4", "any")]));
    let requests = receiver.wait_for(2, SOON);
    let to = |path: &str| {
        requests
            .iter()
            .find(|request| request.line().contains(path))
            .unwrap()
    };

    let inline = to("/inline");
    assert_eq!(inline.header("webhook-signature"), signature(SECRET, inline));
    let rotated = to("/rotated");
    let both = format!(
        "{} {}",
        signature(SECRET, rotated),
        signature(OLD_SECRET, rotated)
    );
    assert_eq!(rotated.header("webhook-signature"), both);
    assert_ne!(inline.id(), rotated.id(), "an id belongs to one endpoint");
}

#[test]
fn the_public_host_stands_before_the_names_and_not_in_the_header() {
    let request = request_for_push("registry.public_host = 'registry.example.com'");
    let body = request.json();
    assert_eq!(body["image"], "registry.example.com/acme/app:1.4");
    assert_eq!(body["repository"], "registry.example.com/acme/app");
    assert_eq!(request.header("x-alin-webhook"), "acme/app:1.4");
}

#[test]
fn an_untagged_push_that_is_let_through_is_named_by_its_digest() {
    let stage = Stage::new(Options::default(), "filter.untagged = true");
    let image = Image::oci("untagged", &[1_000]);
    let digest = image.manifest.digest();
    stage.registry.put(&image, "acme/app", &digest, &[]);
    let name = format!("acme/app@{digest}");
    let webhooks = stage.webhooks(&[&name]);
    assert_eq!(webhooks[0].header("x-alin-webhook"), name);
}

#[test]
fn an_operators_own_headers_and_names_are_sent() {
    let receiver = Receiver::start();
    let config = Config::without_registry().with(&format!(
        r"
        [delivery]
        user_agent = 'acme'
        header_name = 'x-acme-webhook'
        [[endpoints]]
        name = 'hook'
        repositories = ['**']
        url = '{}'
        headers = {{ 'X-Team' = 'ship it' }}
        ",
        receiver.url("/hook")
    ));
    let shipbell = Shipbell::start(config);
    shipbell.take(envelope::of(&[envelope::push("acme/app", "1.4", "any")]));
    let request = receiver.wait_for(1, SOON).remove(0);
    assert_eq!(request.header("user-agent"), "acme");
    assert_eq!(request.header("x-acme-webhook"), "acme/app:1.4");
    assert_eq!(request.header("x-team"), "ship it");
    assert_eq!(request.find_header("x-alin-webhook"), None);
}

#[test]
fn a_redirect_is_a_failure_and_not_followed() {
    let elsewhere = Receiver::start();
    let location = format!("Location: {}", elsewhere.url("/"));
    let mut answers = [Answer::With(307, vec![location]), Answer::Status(204)].into_iter();
    let receiver = Receiver::scripted(move |_| answers.next().unwrap());
    let config = Config::without_registry()
        .with("delivery.retry_schedule = ['50ms']")
        .endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    shipbell.take(envelope::of(&[envelope::push("acme/app", "1.4", "any")]));
    let requests = receiver.wait_for(2, SOON);
    assert_eq!(requests[0].id(), requests[1].id());
    assert!(elsewhere.requests().is_empty());
}
