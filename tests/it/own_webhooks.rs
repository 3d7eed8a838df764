//! A repository's own webhook, set by the API: what it owes, how it is kept, what can't be one (CONTRACT 8).

use serde_json::{Value, json};

use crate::support::{
    SOON,
    api::{Api, webhook_of},
    eventually,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ANOTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Users' webhooks may go to this machine.
fn config() -> Config {
    Config::without_registry().with("delivery.allow_networks = ['127.0.0.0/8']")
}

fn api(shipbell: &Shipbell) -> Api {
    Api::at(shipbell.admin_port())
}

#[test]
fn a_url_that_is_set_gets_the_next_push_and_after_a_restart_too() {
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(config());
    shipbell.push("acme/app", "before");
    let url = receiver.url("/hook?token=hunter2");
    let set = api(&shipbell).set(
        "acme/app",
        &json!({"url": url, "secret": SECRET, "headers": {"X-Team": "hunter3"}, "tags": ["1.*"]}),
    );
    assert_eq!(set.status, 201, "{}", set.text());
    assert!(set.header("etag").is_some());
    let view = set.json();
    assert_eq!(view["url"], receiver.url("/hook?…"));
    assert_eq!(view["has_secret"], true);
    assert_eq!(view["headers"], json!({"X-Team": "…"}));
    assert_eq!(view["enabled"], true);
    shipbell.push("acme/app", "latest");
    shipbell.push("acme/other", "1.3");
    shipbell.push("acme/app", "1.4");
    let webhook = receiver.wait_for(1, SOON).remove(0);
    assert_eq!(
        webhook.image(),
        "acme/app:1.4",
        "nothing of other tags and repositories"
    );
    assert!(
        webhook.line().contains("/hook?token=hunter2"),
        "{}",
        webhook.line()
    );
    assert_eq!(webhook.header("x-team"), "hunter3");
    assert!(webhook.header("webhook-signature").starts_with("v1,"));
    shipbell.stop();
    shipbell.start_again();
    let again = api(&shipbell).get(&webhook_of("acme/app"));
    assert_eq!(again.json(), view);
    assert_eq!(again.header("etag"), set.header("etag"));
    shipbell.push("acme/app", "1.5");
    assert_eq!(receiver.wait_for(2, SOON)[1].image(), "acme/app:1.5");
    assert_eq!(receiver.requests().len(), 2);
}

#[test]
fn of_two_who_save_at_once_the_second_is_told_and_nothing_is_overwritten() {
    let shipbell = Shipbell::start(config());
    let (api, path) = (api(&shipbell), webhook_of("acme/app"));
    let first = api.put(&path, &json!({"url": "https://ci.example.com/1"}));
    let tag = first.header("etag").unwrap().to_owned();
    let blind = api.put(&path, &json!({"url": "https://ci.example.com/2"}));
    assert_eq!(blind.status, 428, "{}", blind.text());
    assert_eq!(blind.header("content-type"), Some("application/problem+json"));
    let second = api
        .with("If-Match", &tag)
        .put(&path, &json!({"url": "https://ci.example.com/3"}));
    assert_eq!(second.status, 200, "{}", second.text());
    let late = api
        .with("If-Match", &tag)
        .put(&path, &json!({"url": "https://ci.example.com/4"}));
    assert_eq!(late.status, 412, "{}", late.text());
    assert_eq!(api.with("If-Match", &tag).send("DELETE", &path, &[]).status, 412);
    let new_only = api
        .with("If-None-Match", "*")
        .put(&path, &json!({"url": "https://ci.example.com/5"}));
    assert_eq!(new_only.status, 412);
    assert_eq!(api.json(&path)["url"], "https://ci.example.com/3");
    assert_eq!(api.send("DELETE", &path, &[]).status, 204);
    assert_eq!(api.get(&path).status, 404);
    let expected = api
        .with("If-Match", &tag)
        .put(&path, &json!({"url": "https://ci.example.com/6"}));
    assert_eq!(expected.status, 412, "it is gone, and that is a change too");
}

#[test]
fn what_is_left_out_or_masked_stays_as_it_is() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(config());
    let (api, path) = (api(&shipbell), webhook_of("acme/app"));
    let full = json!({"url": receiver.url("/hook?token=hunter2"), "secret": SECRET, "headers": {"X-A": "1", "X-B": "2"}});
    assert_eq!(api.put(&path, &full).status, 201);
    let change = |body: Value| {
        let changed = api.with("If-Match", "*").put(&path, &body);
        assert_eq!(changed.status, 200, "{body}: {}", changed.text());
        changed.json()
    };
    for (number, body) in [
        json!({"url": receiver.url("/hook?…")}),
        json!({"url": receiver.url("/hook"), "headers": {"X-A": "…", "X-B": "…"}}),
        json!({"secret": "…"}),
        json!({"enabled": true}),
    ]
    .into_iter()
    .enumerate()
    {
        let view = change(body);
        assert_eq!(view["url"], receiver.url("/hook?…"));
        assert_eq!(view["has_secret"], true);
        shipbell.push("acme/app", &number.to_string());
        let webhook = receiver.wait_for(number + 1, SOON).remove(number);
        assert!(
            webhook.line().contains("/hook?token=hunter2 "),
            "{}",
            webhook.line()
        );
        assert_eq!(webhook.header("x-b"), "2");
        assert!(webhook.find_header("webhook-signature").is_some());
    }
    let view = change(json!({"url": receiver.url("/hook?"), "secret": null, "headers": {"X-A": "3"}}));
    assert_eq!(
        (&view["url"], &view["has_secret"]),
        (&receiver.url("/hook").into(), &false.into())
    );
    shipbell.push("acme/app", "last");
    let webhook = receiver.wait_for(5, SOON).remove(4);
    assert!(webhook.line().contains("/hook "), "{}", webhook.line());
    assert_eq!((webhook.header("x-a"), webhook.find_header("x-b")), ("3", None));
    assert!(webhook.find_header("webhook-signature").is_none());
}

#[test]
fn what_is_shown_can_be_sent_back_with_something_changed() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(config());
    let (api, path) = (api(&shipbell), webhook_of("acme/app"));
    let url = receiver
        .url("/hook?token=hunter2")
        .replace("http://", "http://ann:hunter3@");
    let full = json!({"url": url, "secret": SECRET, "headers": {"X-A": "1"}, "tags": ["v*"]});
    assert_eq!(api.put(&path, &full).status, 201);
    let rotated = api.with("If-Match", "*").put(&path, &json!({"secret": ANOTHER}));
    let mut shown = api.get(&path).json();
    assert_eq!(rotated.json(), shown);
    assert!(shown["previous_secret_until"].is_string());
    shown["tags"] = json!(["1.*"]);
    let changed = api.with("If-Match", "*").put(&path, &shown);
    assert_eq!(changed.status, 200, "{}", changed.text());
    let mut now = changed.json();
    assert!(now["saved_at"].as_str() >= shown["saved_at"].as_str());
    now["saved_at"] = shown["saved_at"].clone();
    assert_eq!(now, shown, "what is only shown changes nothing");
    shipbell.push("acme/app", "1.4");
    let webhook = receiver.wait_for(1, SOON).remove(0);
    assert!(
        webhook.line().contains("/hook?token=hunter2 "),
        "{}",
        webhook.line()
    );
    assert_eq!(webhook.header("authorization"), "Basic YW5uOmh1bnRlcjM=");
    let typo = api.with("If-Match", "*").put(&path, &json!({"tag": ["1.*"]}));
    assert_eq!(typo.status, 400, "{}", typo.text());
}

#[test]
fn what_is_not_shown_is_sent_to_no_other_server() {
    let (receiver, other) = (Receiver::start(), Receiver::start());
    let shipbell = Shipbell::start(config());
    let (api, path) = (api(&shipbell), webhook_of("acme/app"));
    let full = json!({"url": receiver.url("/hook?token=hunter2"), "secret": SECRET, "headers": {"X-A": "hunter3", "X-B": "hunter4"}});
    assert_eq!(api.put(&path, &full).status, 201);
    let put = |path: &str, body: &Value| api.with("If-Match", "*").put(path, body);
    let secure = receiver.url("/hook").replace("http://", "https://");
    let (here, there) = (receiver.url("/hook"), other.url("/hook"));
    for (body, pointers) in [
        (json!({"url": there}), &["/headers/X-A", "/headers/X-B"][..]),
        (json!({"url": secure}), &["/headers/X-A", "/headers/X-B"]),
        (
            json!({"url": there, "headers": {"x-a": "…", "X-B": "2"}}),
            &["/headers/x-a"],
        ),
        (json!({"url": other.url("/hook?…"), "headers": {}}), &["/url"]),
        (
            json!({"url": there.replace("http://", "http://user:pw@"), "headers": {"X-A": "…"}}),
            &["/headers/X-A"],
        ),
        (
            json!({"url": here.replace("127.0.0.1", "localhost"), "headers": {"X-A": "…"}}),
            &["/headers/X-A"],
        ),
    ] {
        for path in [path.clone(), format!("{path}?dry_run=true")] {
            let refused = put(&path, &body);
            assert_eq!(refused.status, 422, "{body}: {}", refused.text());
            let problem = refused.json();
            let errors = problem["errors"].as_array().unwrap();
            let of: Vec<_> = errors
                .iter()
                .map(|error| error["pointer"].as_str().unwrap())
                .collect();
            assert_eq!(of, pointers, "{body}");
            if pointers != ["/url"] {
                let detail = errors[0]["detail"].as_str().unwrap();
                assert!(
                    detail.contains("another server") && detail.contains("type the value again"),
                    "{detail}"
                );
            }
        }
    }
    assert_eq!(
        api.json(&path)["url"],
        receiver.url("/hook?…"),
        "nothing was saved"
    );
    let within = put(
        &path,
        &json!({"url": receiver.url("/other"), "headers": {"X-A": "…", "X-B": "…"}}),
    );
    assert_eq!(
        within.status,
        200,
        "another path of the server: {}",
        within.text()
    );
    let typed = put(&path, &json!({"url": there, "headers": {"X-A": "typed"}}));
    assert_eq!(typed.status, 200, "{}", typed.text());
    assert_eq!(typed.json()["has_secret"], true, "which is not sent anywhere");
    shipbell.push("acme/app", "1");
    let webhook = other.wait_for(1, SOON).remove(0);
    assert_eq!(
        (webhook.header("x-a"), webhook.find_header("x-b")),
        ("typed", None)
    );
    assert!(!webhook.head.contains("hunter"), "{}", webhook.head);
}

#[test]
fn credentials_in_a_url_stay_with_it_and_with_no_other() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(config());
    let (api, path) = (api(&shipbell), webhook_of("acme/app"));
    let with = |user: &str, path: &str| receiver.url(path).replace("http://", &format!("http://{user}@"));
    assert_eq!(
        api.put(&path, &json!({"url": with("ann:hunter2", "/hook")}))
            .status,
        201
    );
    let (kept, none) = (Some("Basic YW5uOmh1bnRlcjI="), None);
    for (number, (url, authorization)) in [
        (receiver.url("/hook"), kept),
        (receiver.url("/hook?"), kept),
        (receiver.url("/hook?a=1"), kept),
        (with("", "/hook?a=2"), none),
        (with("ann:hunter2", "/hook?a=1"), kept),
        (receiver.url("/hook?…"), kept),
        (receiver.url("/hook?"), kept),
        (with("", "/hook"), none),
    ]
    .into_iter()
    .enumerate()
    {
        let saved = api.with("If-Match", "*").put(&path, &json!({"url": url}));
        assert_eq!(saved.status, 200, "{url}: {}", saved.text());
        assert!(!saved.text().contains("hunter2"), "{}", saved.text());
        shipbell.push("acme/app", &number.to_string());
        let webhook = receiver.wait_for(number + 1, SOON).remove(number);
        assert_eq!(
            webhook.find_header("authorization"),
            authorization,
            "{number}: {url}"
        );
    }
}

#[test]
fn a_secret_is_rotated_and_the_one_before_signs_too() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(config());
    let (api, path) = (api(&shipbell), webhook_of("acme/app"));
    assert_eq!(
        api.put(&path, &json!({"url": receiver.url("/"), "secret": SECRET}))
            .status,
        201
    );
    let changed = api.with("If-Match", "*").put(&path, &json!({"secret": ANOTHER}));
    assert!(
        changed.json()["previous_secret_until"].is_string(),
        "{}",
        changed.text()
    );
    shipbell.push("acme/app", "1");
    let signatures = receiver.wait_for(1, SOON)[0]
        .header("webhook-signature")
        .split(' ')
        .count();
    assert_eq!(signatures, 2);
    let rotated = api.post(&format!("{path}/rotate-secret"));
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    let secret = rotated.json()["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"));
    assert!(!api.get(&path).text().contains(&secret), "shown once");
    assert_eq!(
        api.post(&format!("{}/rotate-secret", webhook_of("acme/none")))
            .status,
        404
    );
}

#[test]
fn a_url_that_cant_be_one_is_refused_at_its_field_with_a_sentence() {
    let shipbell = Shipbell::start(Config::without_registry());
    let own = format!("http://127.0.0.1:{}/", shipbell.ingest());
    for (url, words) in [
        ("", "missing"),
        (
            "ci.example.com/hook",
            "it is not a URL (https:// or http:// is missing in front)",
        ),
        ("ftp://ci.example.com/", "neither http:// nor https://"),
        ("https://ci.example.com/#top", "fragment"),
        ("https://", "it is not a URL"),
        ("http://127.0.0.1:8080/", "allow_networks = [\"127.0.0.1/32\"]"),
        ("http://localhost/", "allow_networks"),
        ("http://2130706433/", "127.0.0.1"),
        (
            "http://10.0.0.5/",
            "allow_networks = [\"10.0.0.5/32\"] under [delivery], and restarts shipbell",
        ),
        ("http://169.254.169.254/latest", "webhooks never go there"),
        ("http://[::ffff:169.254.169.254]/", "webhooks never go there"),
        (&own, "shipbell's own listener"),
        ("https://ci.example.com/hook?…", "masked"),
    ] {
        let refused = api(&shipbell).set("acme/app", &json!({"url": url}));
        assert_eq!(refused.status, 422, "{url}: {}", refused.text());
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        let problem = refused.json();
        assert_eq!(problem["errors"][0]["pointer"], "/url", "{url}");
        let detail = problem["errors"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{url}: {detail}");
    }
    let wrong = json!({
        "url": "nothing", "secret": "hunter2", "format": "morse",
        "headers": {"webhook-id": "x", "X-A": "a\r\nb", "": "c"}, "tags": ["[", ""],
    });
    let refused = api(&shipbell).set("acme/app", &wrong);
    let problem = refused.json();
    let pointers: Vec<&str> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect();
    for pointer in [
        "/url",
        "/secret",
        "/format",
        "/headers/webhook-id",
        "/headers/X-A",
        "/headers/",
        "/tags/0",
        "/tags/1",
    ] {
        assert!(pointers.contains(&pointer), "{pointer}: {problem}");
    }
    assert!(!refused.text().contains("hunter2"), "{}", refused.text());
    let (api, path) = (api(&shipbell), webhook_of("acme/app"));
    assert_eq!(api.send("PUT", &path, b"{").status, 400);
    assert_eq!(
        api.put(&path, &json!({"uri": "https://ci.example.com/"})).status,
        400
    );
    assert_eq!(
        api.put("/api/v1/repositories/Acme/webhook", &json!({})).status,
        400
    );
    assert_eq!(api.send("PUT", &path, &vec![b' '; 300 * 1024]).status, 413);
    assert_eq!(api.get(&path).status, 404, "nothing was saved");
}

#[test]
fn a_webhook_that_is_disabled_owes_nothing_and_one_that_is_removed_leaves_dead_letters() {
    let receiver = Receiver::scripted(|_| Answer::Status(503));
    let mut shipbell = Shipbell::start(config().with("delivery.retry_schedule = ['1h']"));
    let (admin, path) = (api(&shipbell), webhook_of("acme/app"));
    let url = receiver.url("/hook");
    assert_eq!(
        admin.put(&path, &json!({"url": url, "enabled": false})).json()["enabled"],
        false
    );
    shipbell.push("acme/app", "1");
    shipbell.stop();
    shipbell.start_again();
    assert_eq!(admin.json(&path)["enabled"], false);
    assert_eq!(
        admin
            .with("If-Match", "*")
            .put(&path, &json!({"enabled": true}))
            .json()["enabled"],
        true
    );
    shipbell.push("acme/app", "2");
    let failed = receiver.wait_for(1, SOON);
    assert_eq!(
        failed[0].image(),
        "acme/app:2",
        "what came while it was disabled is not owed"
    );
    let queue = eventually("it waits", SOON, || {
        let queue = admin.json("/api/v1/queue");
        (queue["items"][0]["state"] == "failing").then_some(queue)
    });
    assert_eq!(queue["items"][0]["endpoint"], "repository:acme/app");
    assert_eq!(admin.send("DELETE", &path, &[]).status, 204);
    eventually("nothing is owed, and a letter is kept", SOON, || {
        let is_empty = admin.json("/api/v1/queue")["items"] == json!([]);
        // What a script sends whose variable is not set lets go of nothing.
        let all = admin.send("DELETE", "/api/v1/dead-letters?id=&since=", &[]);
        assert_eq!(all.status, 400);
        let letters = admin.json("/api/v1/dead-letters");
        (is_empty && letters["items"][0]["tag"] == "2").then_some(())
    });
    assert_eq!(receiver.requests().len(), 1);
}

#[test]
fn saving_a_url_heals_and_takes_effect_at_once() {
    let (dead, living) = (Receiver::scripted(|_| Answer::Status(500)), Receiver::start());
    let shipbell =
        Shipbell::start(config().with("delivery.retry_schedule = ['1h']\ndelivery.pause_after = 2"));
    let (api, path) = (api(&shipbell), webhook_of("acme/app"));
    assert_eq!(api.put(&path, &json!({"url": dead.url("/")})).status, 201);
    shipbell.push("acme/app", "1");
    dead.wait_for(1, SOON);
    eventually("it fails", SOON, || {
        let listed = api.json("/api/v1/endpoints?state=failing");
        (listed["items"][0]["id"] == "repository:acme/app").then_some(())
    });
    assert_eq!(
        api.with("If-Match", "*")
            .put(&path, &json!({"url": living.url("/")}))
            .status,
        200
    );
    assert_eq!(living.wait_for(1, SOON)[0].image(), "acme/app:1");
    assert_eq!(api.json("/api/v1/endpoints")["items"][0]["state"], "healthy");
}

#[test]
fn a_repository_that_nobody_wants_pushes_of_is_listed_and_can_be_given_a_webhook() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(config());
    shipbell.push("acme/app", "1.4");
    let api = api(&shipbell);
    let listed = eventually("it is listed", SOON, || {
        let list = api.json("/api/v1/repositories");
        list["items"].as_array().unwrap().first().cloned()
    });
    assert_eq!(listed["name"], "acme/app");
    assert_eq!(listed["last_push"]["tag"], "1.4");
    assert_eq!(
        api.set("acme/app", &json!({"url": receiver.url("/hook")})).status,
        201
    );
    shipbell.push("acme/app", "1.5");
    receiver.wait_for_image("acme/app:1.5", SOON);
}

#[test]
fn what_was_refused_goes_at_once_when_the_url_is_saved_or_somebody_asks_for_it() {
    let receiver = Receiver::scripted(|request| {
        let is_right = request.line().contains("/right");
        Answer::Status(if is_right { 204 } else { 404 })
    });
    let shipbell = Shipbell::start(config().with("delivery.retry_schedule = ['1h', '1h', '1h']"));
    let api = api(&shipbell);
    assert_eq!(
        api.set("acme/app", &json!({"url": receiver.url("/wrong")}))
            .status,
        201
    );
    shipbell.push("acme/app", "1.4");
    receiver.wait_for(1, SOON);
    let id = eventually("its attempt is in the history", SOON, || {
        let delivery = api.json("/api/v1/deliveries")["items"][0].clone();
        (delivery["status"] == 404).then(|| delivery["id"].as_str().unwrap().to_owned())
    });
    let again = api.post(&format!("/api/v1/deliveries/{id}/redeliver"));
    assert_eq!(again.status, 202, "{}", again.text());
    receiver.wait_for(2, SOON);
    let mended = api
        .with("If-Match", "*")
        .put(&webhook_of("acme/app"), &json!({"url": receiver.url("/right")}));
    assert_eq!(mended.status, 200, "{}", mended.text());
    let came = receiver.wait_for(3, SOON);
    assert!(came[2].line().starts_with("POST /right "), "{}", came[2].line());
    assert_eq!((came[2].id(), came[1].id()), (id.as_str(), id.as_str()));
}
