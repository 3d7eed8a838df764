//! The history of endpoints' states: every change, when, and why; after a restart too.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use serde_json::{Value, json};

use crate::support::{
    SOON,
    api::{Api, webhook_of},
    browser::{Browser, between},
    envelope, eventually,
    receiver::{Answer, Receiver},
    shipbell::{self, Config, Shipbell},
};

const ADMIN: &str = "admin-token-0123456789";
const EDITOR: &str = "editor-token-0123456789";
const OTHER: &str = "other-token-0123456789";

/// Paused after two failures, and not probed while a test runs.
fn config() -> Config {
    Config::without_registry().with(&format!(
        "batch.window = '0s'\n\
         [delivery]\nretry_schedule = ['50ms']\njitter = 0.0\npause_after = 2\nprobe_first = '1h'\nprobe_max = '1h'\n\
         allow_networks = ['127.0.0.0/8']\n\
         [admin]\nauth = 'token'\n\
         [[admin.tokens]]\nname = 'ann'\ntoken = '{ADMIN}'\nrole = 'admin'\n\
         [[admin.tokens]]\nname = 'eve'\ntoken = '{EDITOR}'\nrole = 'editor'\nrepositories = ['acme/**']\n\
         [[admin.tokens]]\nname = 'oda'\ntoken = '{OTHER}'\nrole = 'editor'\nrepositories = ['other/**']\n"
    ))
}

fn push(shipbell: &Shipbell, tag: &str) {
    shipbell.take(envelope::one("acme/app", tag));
}

const CI: &str = "/api/v1/endpoints/ci/states";
const OWN: &str = "/api/v1/endpoints/repository%3Aacme%2Fapp/states";

/// The changes, oldest first, each as `from>to why`.
fn told(api: &Api, path: &str) -> Vec<String> {
    let items = api.json(path)["items"].as_array().unwrap().clone();
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    let line = |item: &Value| {
        format!(
            "{}>{} {}",
            text(item, "from"),
            text(item, "to"),
            text(item, "reason")
        )
    };
    items.iter().rev().map(line).collect()
}

fn wait_for(api: &Api, path: &str, wanted: &[&str]) {
    eventually("the changes are told", SOON, || {
        (told(api, path) == wanted).then_some(())
    });
}

#[test]
fn every_change_of_a_state_is_told_with_its_reason_and_outlives_a_restart() {
    let status = Arc::new(AtomicU16::new(503));
    let answers = Arc::clone(&status);
    let receiver = Receiver::scripted(move |_| Answer::Status(answers.load(Ordering::Acquire)));
    let mut shipbell = Shipbell::start(config().endpoint("ci", &receiver.url("/hook?token=hunter2")));
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    assert_eq!(
        api.json(CI)["items"],
        json!([]),
        "it was never anything but healthy"
    );
    push(&shipbell, "1");
    let down = [
        "healthy>failing answered 503 Service Unavailable",
        "failing>paused answered 503 Service Unavailable",
    ];
    wait_for(&api, CI, &down);
    let times = api.json(CI);
    assert_eq!(
        (&times["items"][0]["failures"], &times["items"][1]["failures"]),
        (&2.into(), &1.into())
    );
    shipbell.stop();
    status.store(204, Ordering::Release);
    shipbell.start_again();
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    assert_eq!(api.json(CI), times, "after a restart, to the millisecond");
    for verb in ["hold", "disable", "enable"] {
        assert_eq!(api.post(&format!("/api/v1/endpoints/ci/{verb}")).status, 200);
    }
    let all = [
        down[0],
        down[1],
        "paused>held by ann",
        "held>disabled by ann",
        "disabled>healthy by ann",
    ];
    wait_for(&api, CI, &all);
    let first = api.json(&format!("{CI}?limit=2"));
    assert_eq!(first["items"][1]["to"], "disabled");
    let next = first["next"].as_str().unwrap();
    let second = api.json(&format!("{CI}?limit=2&cursor={next}"));
    assert_eq!(second["items"][0]["to"], "held");
    let last = api.json(&format!(
        "{CI}?limit=1&cursor={}",
        second["next"].as_str().unwrap()
    ));
    assert_eq!(
        (&last["items"][0]["to"], &last["next"]),
        (&"failing".into(), &json!(null))
    );
    assert_eq!(api.get(&format!("{CI}?limit=0")).status, 400);
    assert_eq!(api.get("/api/v1/endpoints/nobody/states").status, 404);
    assert_eq!(api.json("/api/v1/endpoints/ci")["state"], "healthy");

    let mut command = shipbell::command(&[], Path::new("/dev/null"));
    let data = shipbell.data();
    command.args(["endpoints", "history", "ci", "--data-dir", data.to_str().unwrap()]);
    let output = command.output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 6, "{table}");
    assert!(
        lines[0].starts_with("AT ") && lines[1].contains("by ann"),
        "{table}"
    );

    let browser = Browser::at(&shipbell).logged_in(ADMIN);
    assert!(browser.page("/endpoints").contains("href=\"/endpoints/ci\""));
    let page = browser.page("/endpoints/ci");
    let table = between(&page, "aria-label=\"Changes of its state\"", "</table>");
    assert_eq!(table.matches("<tr>").count(), 6, "{table}");
    assert!(
        table.contains("answered 503 Service Unavailable") && table.contains("by ann"),
        "{table}"
    );
    let page = browser.page("/endpoints/ci?limit=2");
    let next = between(&page, "rel=\"next\" href=\"", "\"").to_owned();
    assert!(browser.page(&next).contains("badge paused"));
    assert!(!page.contains("hunter2"));
}

#[test]
fn the_history_of_a_repositorys_own_webhook_is_for_those_who_may_see_the_repository() {
    let receiver = Receiver::scripted(|_| Answer::Status(503));
    let shipbell = Shipbell::start(config().endpoint("ci", &receiver.url("/ci")));
    let api = Api::at(shipbell.admin_port());
    let (ann, eve, oda) = (api.bearer(ADMIN), api.bearer(EDITOR), api.bearer(OTHER));
    assert_eq!(
        eve.set(
            "acme/app",
            &json!({"url": receiver.url("/own"), "enabled": false})
        )
        .status,
        201
    );
    let on = eve
        .with("If-Match", "*")
        .put(&webhook_of("acme/app"), &json!({"enabled": true}));
    assert_eq!(on.status, 200, "{}", on.text());
    wait_for(&eve, OWN, &["healthy>disabled by eve", "disabled>healthy by eve"]);
    assert_eq!(oda.get(OWN).status, 403);
    assert_eq!(
        eve.get(CI).status,
        403,
        "where the operator's are is not hers to know"
    );
    assert_eq!(eve.get("/api/v1/endpoints/ci").status, 403);
    assert_eq!(ann.get(CI).status, 200);
    assert_eq!(api.get(CI).status, 401);
    push(&shipbell, "1");
    wait_for(
        &ann,
        OWN,
        &[
            "healthy>disabled by eve",
            "disabled>healthy by eve",
            "healthy>failing answered 503 Service Unavailable",
            "failing>paused answered 503 Service Unavailable",
        ],
    );
    let saved = eve
        .with("If-Match", "*")
        .put(&webhook_of("acme/app"), &json!({"url": receiver.url("/new")}));
    assert_eq!(saved.status, 200, "{}", saved.text());
    eventually("saving heals, and says who did", SOON, || {
        told(&eve, OWN)
            .contains(&"paused>healthy saved by eve".to_owned())
            .then_some(())
    });
    let browser = Browser::at(&shipbell);
    let page = browser.logged_in(EDITOR).page("/repositories/acme%2Fapp");
    let history = between(&page, "History of its state", "</details>");
    assert!(history.contains("saved by eve"), "{history}");
    assert_eq!(
        history.matches("<tr>").count(),
        6,
        "five, and the head: {history}"
    );
    assert!(
        history.contains("href=\"/endpoints/repository%3Aacme%2Fapp\""),
        "{history}"
    );
    assert_eq!(
        browser
            .logged_in(OTHER)
            .get("/endpoints/repository%3Aacme%2Fapp")
            .status,
        403
    );
    assert_eq!(browser.logged_in(EDITOR).get("/endpoints/ci").status, 403);
}
