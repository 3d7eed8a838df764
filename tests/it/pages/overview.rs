//! The overview, and the API's.

use serde_json::json;

use super::{
    Stream, own,
    people::{ADMIN, EDITOR, with_tokens},
};
use crate::support::{
    SOON,
    api::Api,
    browser::Browser,
    eventually,
    receiver::{Answer, Receiver},
    shipbell::Shipbell,
};

#[test]
fn the_start_page_tells_what_happened_what_waits_and_who_needs_a_look() {
    let receiver =
        Receiver::scripted(|request| Answer::Status(if request.line().contains("/bad") { 500 } else { 200 }));
    let shipbell = Shipbell::start(
        own()
            .with("delivery.retry_schedule = ['1h']")
            .endpoint("good", &receiver.url("/good"))
            .endpoint("bad", &receiver.url("/bad?token=hunter2")),
    );
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    assert_eq!(browser.get("/").header("location"), Some("/overview"));
    assert!(browser.page("/overview").contains("All of them are healthy"));
    shipbell.push("acme/app", "1.4");
    let told = eventually("it is counted", SOON, || {
        let told = api.json("/api/v1/overview");
        let rates = &told["figures"]["rates"];
        let is_so = rates["delivered"]["last_minute"] == 1 && rates["failed_attempts"]["since_start"] == 1;
        (is_so && told["troubled_in_all"] == 1).then_some(told)
    });
    let figures = &told["figures"];
    assert_eq!(
        figures["rates"]["taken"],
        json!({"last_minute": 1, "last_hour": 1, "since_start": 1})
    );
    assert_eq!(
        (&figures["queue"]["pushes"], &figures["queue"]["repositories"]),
        (&json!(1), &json!(1))
    );
    assert!(figures["queue"]["oldest_age_s"].is_number());
    assert_eq!(
        (&figures["endpoints"]["failing"], &figures["endpoints"]["healthy"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(told["troubled"][0]["id"], "bad");
    assert_eq!(figures["journal"]["problem"], json!(null));
    assert!(figures["journal"]["bytes"].as_u64().unwrap() > 0);
    assert!(
        figures["disk"]["free_bytes"].as_u64().unwrap() < figures["disk"]["total_bytes"].as_u64().unwrap()
    );
    let page = eventually("its deliveries are written down", SOON, || {
        let page = browser.page("/overview");
        // And it has been asked whether the registry, where nobody listens, answers.
        (page.matches("acme/app:1.4").count() == 2 && page.contains("silent")).then_some(page)
    });
    for part in [
        "badge failing",
        " href=\"/endpoints/bad\">bad<",
        "answered 500",
        "silent",
        "in the last minute",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("hunter2"), "{page}");
}

#[test]
fn who_sees_some_repositories_sees_what_is_theirs() {
    let shipbell = Shipbell::start(with_tokens().endpoint("ci", "https://ci.example.com/"));
    let (admin, eve) = (
        Api::at(shipbell.admin_port()).bearer(ADMIN),
        Api::at(shipbell.admin_port()).bearer(EDITOR),
    );
    for repository in ["acme/app", "other/app"] {
        let body = json!({"url": "https://ci.example.com/", "enabled": false});
        assert_eq!(admin.set(repository, &body).status, 201);
    }
    let told = eve.json("/api/v1/overview");
    assert_eq!(told["figures"], json!(null));
    assert_eq!(told["troubled_in_all"], 1);
    assert_eq!(told["troubled"][0]["id"], "repository:acme/app");
    assert_eq!(admin.json("/api/v1/overview")["troubled_in_all"], 2);
    let page = Browser::at(&shipbell).logged_in(EDITOR).page("/overview");
    assert!(page.contains("repository:acme/app"), "{page}");
    for hidden in ["other/app", "Pushes taken", "Disk"] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
}

#[test]
fn what_the_configuration_says_that_needs_a_restart_is_told_to_those_who_may_see_it() {
    let mut shipbell = Shipbell::start(with_tokens());
    let browser = Browser::at(&shipbell);
    let (ann, eve) = (browser.logged_in(ADMIN), browser.logged_in(EDITOR));
    assert!(!ann.page("/overview").contains("at the next start"));
    shipbell.set("delivery.allow_networks = ['127.0.0.0/8', '10.0.0.0/8']\ndelivery.user_agent = 'Another'");
    shipbell.write_settings();
    let notice = "What the configuration sets anew of <code>delivery.allow_networks</code>, \
                  <code>delivery.user_agent</code> takes effect at the next start of shipbell.";
    eventually("it was read", SOON, || {
        ann.page("/overview").contains(notice).then_some(())
    });
    assert!(!eve.page("/overview").contains("at the next start"));
}

#[test]
fn whatever_has_the_focus_is_known_again_when_its_part_comes_anew() {
    let receiver = Receiver::scripted(|_| Answer::Status(500));
    let empty = Shipbell::start(own());
    let failing = Shipbell::start(own().endpoint("ci", &receiver.url("/hook")));
    failing.push("acme/app", "1.4");
    let browser = Browser::at(&failing);
    eventually("its endpoint fails", SOON, || {
        let page = browser.page("/overview");
        (page.contains("badge failing") && page.contains("acme/app:1.4")).then_some(())
    });
    let lists = [
        "overview",
        "endpoints",
        "repositories",
        "deliveries",
        "dead-letters",
    ];
    let filtered = [
        "deliveries?repository=no%2Fone",
        "dead-letters?tag=none",
        "endpoints?state=held",
    ];
    for shipbell in [&empty, &failing] {
        for part in lists.iter().chain(&filtered) {
            let (_, _, mut stream) = Stream::open(shipbell, &format!("/live/{part}"), "");
            let text = stream.until(|text| text.contains("event: alive\n"));
            let tags = text.split('<').filter_map(|rest| rest.split('>').next());
            let can_have_it = |tag: &&str| {
                ["a ", "button", "summary"]
                    .iter()
                    .any(|name| tag.starts_with(name))
            };
            let mut ids: Vec<&str> = Vec::new();
            for tag in tags.filter(can_have_it) {
                let (_, id) = tag
                    .split_once(" id=\"")
                    .unwrap_or_else(|| panic!("{part}: no id: {tag}"));
                ids.push(id.split('"').next().unwrap());
            }
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), count, "{part}: {text}");
        }
    }
}
