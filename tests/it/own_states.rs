//! What saving a repository's own webhook does to how its endpoint is: its URL heals, and nothing else does (CONTRACT 5).

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use rusqlite::Connection;
use serde_json::json;

use crate::support::{
    SOON,
    api::{Api, webhook_of},
    browser::{Browser, version},
    envelope, eventually,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ENDPOINT: &str = "/api/v1/endpoints/repository%3Aacme%2Fapp";
const PAGE: &str = "/repositories/acme%2Fapp";

/// Paused after two failures, and not probed while a test runs.
fn config() -> Config {
    Config::without_registry().with(
        "batch.window = '0s'\n\
         [delivery]\nretry_schedule = ['50ms']\njitter = 0.0\npause_after = 2\nprobe_first = '1h'\nprobe_max = '1h'\n\
         allow_networks = ['127.0.0.0/8']\n",
    )
}

fn state(api: &Api) -> String {
    api.json(ENDPOINT)["state"].as_str().unwrap().to_owned()
}

/// A receiver that answers 503, until another status is set.
fn receiver() -> (Receiver, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(503));
    let answers = Arc::clone(&status);
    let receiver = Receiver::scripted(move |_| Answer::Status(answers.load(Ordering::Acquire)));
    (receiver, status)
}

/// Has the webhook fail until it is paused.
fn pause(shipbell: &Shipbell, api: &Api) {
    shipbell.take(envelope::one("acme/app", "1"));
    eventually("it is paused", SOON, || (state(api) == "paused").then_some(()));
}

#[test]
fn only_a_url_that_is_given_heals_and_what_else_is_changed_does_not() {
    let (receiver, status) = receiver();
    let shipbell = Shipbell::start(config());
    let (api, browser) = (Api::at(shipbell.admin_port()), Browser::at(&shipbell));
    let own = json!({"url": receiver.url("/hook?token=hunter2"), "secret": SECRET});
    assert_eq!(api.set("acme/app", &own).status, 201);
    pause(&shipbell, &api);
    // It would stay healthy from now on.
    status.store(204, Ordering::Release);
    let shown = receiver.url("/hook?…");
    let path = webhook_of("acme/app");
    let there = api.with("If-Match", "*");
    for body in [
        json!({"secret": SECRET.replace("MfK", "MfL")}),
        json!({"tags": ["**", "1"]}),
        json!({"headers": {"X-Team": "a"}}),
        json!({"url": shown, "tags": ["**"]}),
        json!({"url": receiver.url("/hook"), "tags": ["**"]}),
        json!({"enabled": true}),
    ] {
        let saved = there.put(&path, &body);
        assert_eq!(saved.status, 200, "{body}: {}", saved.text());
        assert_eq!(state(&api), "paused", "{body}");
    }
    assert_eq!(api.post(&format!("{path}/rotate-secret")).status, 200);
    assert_eq!(state(&api), "paused", "a secret was made");
    let version = version(&browser.page(PAGE));
    let form = [
        ("version", version.as_str()),
        ("url", &shown),
        ("tags", "**"),
        ("headers", "X-Team: …"),
        ("enabled", "yes"),
    ];
    let saved = browser.submit(PAGE, &form);
    assert_eq!(saved.status, 303, "{}", saved.text());
    assert_eq!(state(&api), "paused", "the form has the URL as it was shown");
    let whole = there.put(&path, &json!({"url": receiver.url("/hook?token=hunter2")}));
    assert_eq!(whole.status, 200, "{}", whole.text());
    assert_eq!(state(&api), "healthy", "the same URL, whole");
    assert_eq!(receiver.wait_for_image("acme/app:1", SOON).len(), 3);
}

#[test]
fn a_form_that_shows_the_whole_url_does_not_heal_by_it_either() {
    let (receiver, status) = receiver();
    let shipbell = Shipbell::start(config());
    let (api, browser) = (Api::at(shipbell.admin_port()), Browser::at(&shipbell));
    let url = receiver.url("/hook");
    assert_eq!(api.set("acme/app", &json!({"url": url})).status, 201);
    pause(&shipbell, &api);
    status.store(204, Ordering::Release);
    for (url, tags, state_then) in [
        (url.clone(), "**, 1.*", "paused"),
        (format!("{url}/other"), "**", "healthy"),
    ] {
        let version = version(&browser.page(PAGE));
        let form = [
            ("version", version.as_str()),
            ("url", &url),
            ("tags", tags),
            ("enabled", "yes"),
        ];
        let saved = browser.submit(PAGE, &form);
        assert_eq!(saved.status, 303);
        assert_eq!(state(&api), state_then, "{url}");
        let page = browser.page(saved.header("location").unwrap());
        let words = match state_then {
            "paused" => "Saved. It stays paused",
            _ => "Saved. The next push goes there.",
        };
        assert!(page.contains(words), "{page}");
    }
}

#[test]
fn a_state_that_cant_be_written_is_told_and_the_webhook_is_said_to_be_saved() {
    let mut shipbell = Shipbell::start(config());
    let (api, browser) = (Api::at(shipbell.admin_port()), Browser::at(&shipbell));
    let file = Connection::open(shipbell.data().join("settings.db")).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON endpoint_states \
                  BEGIN SELECT RAISE(ABORT, 'there is no room'); END";
    file.execute_batch(refuse).unwrap();
    let off = json!({"url": "https://ci.example.com/", "enabled": false});
    let half = api.set("acme/app", &off);
    assert_eq!(half.status, 503, "{}", half.text());
    let detail = half.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("the webhook is saved and in effect") && !detail.contains("nothing was changed"),
        "{detail}"
    );
    assert!(half.header("retry-after").is_some());
    let there = api.json(&webhook_of("acme/app"));
    assert_eq!(
        (&there["url"], &there["enabled"]),
        (&off["url"], &false.into()),
        "it is in effect"
    );
    let form = [
        ("version", ""),
        ("url", "https://ci.example.com/"),
        ("tags", "**"),
        ("headers", ""),
    ];
    let half = browser.submit("/repositories/acme%2Fother", &form);
    assert_eq!(half.status, 503);
    let page = half.text();
    assert!(page.contains("The webhook is saved and in effect"), "{page}");
    assert_ne!(version(&page), "", "and it is what the form is about now");
    file.execute_batch("DROP TRIGGER refuse").unwrap();
    eventually("it is written by itself", SOON, || {
        let count = "SELECT count(*) FROM endpoint_states WHERE state = 'disabled'";
        let count: i64 = file.query_row(count, [], |row| row.get(0)).unwrap();
        (count == 2).then_some(())
    });
    drop(file);
    shipbell.stop();
    shipbell.start_again();
    let api = Api::at(shipbell.admin_port());
    assert_eq!(api.json(&webhook_of("acme/app"))["enabled"], false);
}
