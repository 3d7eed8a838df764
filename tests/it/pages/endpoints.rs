//! Endpoints: how they are, and what a hand does about it.

use serde_json::json;

use super::{
    PAGE, own,
    people::{ADMIN, EDITOR, VIEWER, with_tokens},
};
use crate::support::{
    SOON,
    api::Api,
    browser::{Browser, between},
    eventually,
    receiver::{Answer, Receiver},
    shipbell::Shipbell,
};

/// The row of an endpoint.
fn row<'a>(page: &'a str, id: &str) -> &'a str {
    let rows = page.split("<tr>").filter(|row| row.contains("scope=\"row\""));
    let mut found = rows.filter(|row| row.contains(&format!(">{id}<")));
    found.next().unwrap_or_else(|| panic!("no row of {id}: {page}"))
}

#[test]
fn an_endpoint_is_held_enabled_and_after_a_question_disabled() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own().endpoint("ci", &receiver.url("/hook?token=hunter2")));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    assert_eq!(
        api.set("acme/app", &json!({"url": receiver.url("/own")})).status,
        201
    );
    let page = browser.page("/endpoints");
    assert!(
        page.contains(&receiver.url("/hook?…")) && !page.contains("hunter2"),
        "{page}"
    );
    assert!(row(&page, "repository:acme/app").contains("href=\"/repositories/acme%2Fapp\""));
    let held = browser.submit("/endpoints/ci/hold", &[]);
    assert_eq!(held.status, 303);
    let page = browser.page(held.header("location").unwrap());
    assert!(page.contains("ci is held now."), "{page}");
    assert!(
        row(&page, "ci").contains("badge held") && row(&page, "ci").contains("by local"),
        "{page}"
    );
    for tag in ["1", "2"] {
        shipbell.push("other/app", tag);
    }
    let waiting = eventually("both wait", SOON, || {
        let page = browser.page("/endpoints");
        row(&page, "ci").contains("2, for ").then_some(page)
    });
    assert!(
        row(&waiting, "repository:acme/app").contains("nothing"),
        "{waiting}"
    );
    let listed = api.json("/api/v1/endpoints?state=held");
    assert_eq!(listed["items"][0]["queued_pushes"], 2);
    assert!(listed["items"][0]["oldest_age_s"].is_number(), "{listed}");
    let asked = browser.page("/endpoints/ci/disable");
    assert!(asked.contains("2 pushes wait for it"), "{asked}");
    let only = browser.page("/endpoints?state=held");
    assert!(!only.contains("repository:acme/app"), "{only}");
    assert!(
        browser
            .page("/endpoints?state=paused")
            .contains("No endpoint is paused")
    );
    let enabled = browser.submit("/endpoints/ci/enable", &[]);
    let page = browser.page(enabled.header("location").unwrap());
    assert!(page.contains("ci is healthy now."), "{page}");
    receiver.wait_for(2, SOON);
    let disabled = browser.submit("/endpoints/repository%3Aacme%2Fapp/disable", &[]);
    let page = browser.page(disabled.header("location").unwrap());
    assert!(page.contains("repository:acme/app is disabled now."), "{page}");
    assert_eq!(browser.submit("/endpoints/nobody/hold", &[]).status, 404);
    assert_eq!(browser.get("/endpoints?state=lost").status, 400);
    assert_eq!(browser.get("/endpoints/nobody/disable").status, 404);
    let strange = browser.page("/endpoints?done=%3Cb%3Enobody");
    assert!(!strange.contains("nobody"), "{strange}");
}

#[test]
fn a_repositorys_page_leads_to_its_endpoint_and_enables_and_holds_it() {
    let shipbell = Shipbell::start(with_tokens());
    let ann = Api::at(shipbell.admin_port()).bearer(ADMIN);
    for repository in ["acme/app", "other/app"] {
        let url = json!({"url": "https://ci.example.com/"});
        assert_eq!(ann.set(repository, &url).status, 201);
    }
    let endpoint = "/endpoints/repository%3Aacme%2Fapp";
    assert_eq!(ann.post(&format!("/api/v1{endpoint}/hold")).status, 200);
    let browser = Browser::at(&shipbell);
    let (eve, vic) = (browser.logged_in(EDITOR), browser.logged_in(VIEWER));
    let state = |browser: &Browser, path: &str| {
        let page = browser.page(path);
        between(&page, "id=\"state\"", "<details>").to_owned()
    };
    let (enable, hold) = (format!("{PAGE}/enable"), format!("{PAGE}/hold"));
    let seen = state(&vic, PAGE);
    assert!(
        seen.contains("badge held") && seen.contains(&format!("href=\"{endpoint}\"")),
        "{seen}"
    );
    assert!(!seen.contains("<form"), "{seen}");
    assert!(vic.page(endpoint).contains("badge held"));
    let seen = state(&eve, PAGE);
    assert!(seen.contains(&enable) && !seen.contains(&hold), "{seen}");
    for (action, now) in [(&enable, "healthy"), (&hold, "held")] {
        let done = eve.submit(action, &[]);
        assert_eq!(done.status, 303, "{}", done.text());
        let page = eve.page(done.header("location").unwrap());
        assert!(page.contains(&format!("It is {now} now.")), "{page}");
        assert!(page.contains(&format!("badge {now}")), "{page}");
        assert_eq!(ann.json(&format!("/api/v1{endpoint}"))["state"], now);
    }
    assert_eq!(vic.submit(&enable, &[]).status, 403);
    assert_eq!(eve.submit("/repositories/other%2Fapp/enable", &[]).status, 403);
    assert_eq!(eve.submit("/repositories/acme%2Fnone/hold", &[]).status, 404);
}

#[test]
fn a_test_is_sent_to_an_endpoint_from_its_page() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(with_tokens().endpoint("ci", &receiver.url("/hook?token=hunter2")));
    let browser = Browser::at(&shipbell);
    let ann = browser.logged_in(ADMIN);
    let page = ann.page("/endpoints/ci");
    assert!(page.contains("action=\"/endpoints/ci/test\""), "{page}");
    let sent = ann.submit("/endpoints/ci/test", &[]);
    let page = sent.text();
    assert_eq!(sent.status, 200, "{page}");
    for part in [
        "badge healthy\">taken",
        "answered 2",
        "What was sent",
        "shipbell-test",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("hunter2") && page.contains("data-pause"), "{page}");
    assert_eq!(receiver.wait_for(1, SOON).len(), 1);
    for _ in 0..9 {
        ann.submit("/endpoints/ci/test", &[]);
    }
    let throttled = ann.submit("/endpoints/ci/test", &[]);
    assert_eq!(throttled.status, 429);
    assert!(
        throttled.text().contains("at most 10 tests a minute"),
        "{}",
        throttled.text()
    );
    let eve = browser.logged_in(EDITOR);
    assert_eq!(eve.submit("/endpoints/ci/test", &[]).status, 403);
    assert_eq!(ann.submit("/endpoints/nobody/test", &[]).status, 404);
}

#[test]
fn endpoints_come_page_by_page_and_tell_how_long_they_fail() {
    let receiver = Receiver::scripted(|_| Answer::Status(500));
    let shipbell = Shipbell::start(
        own()
            .with("delivery.retry_schedule = ['1h']\ndelivery.jitter = 0.0")
            .endpoint("ci", &receiver.url("/")),
    );
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    for number in (10..30).rev() {
        let url = json!({"url": "https://ci.example.com/"});
        assert_eq!(api.set(&format!("acme/app{number}"), &url).status, 201);
    }
    shipbell.push("other/app", "1");
    let failing = eventually("it fails", SOON, || {
        let page = browser.page("/endpoints?state=failing");
        page.contains("badge failing").then_some(page)
    });
    let ci = row(&failing, "ci");
    for part in ["answered 500", "1 in a row", "in 59 minutes", "<time datetime="] {
        assert!(ci.contains(part), "{part}: {ci}");
    }
    let mut seen = 0;
    let mut path = "/endpoints?limit=3".to_owned();
    loop {
        let page = browser.page(&path);
        seen += page.matches("<th scope=\"row\">").count();
        if !page.contains("rel=\"next\"") {
            break;
        }
        path = between(&page, "rel=\"next\" href=\"", "\"").replace("&#38;", "&");
    }
    assert_eq!(seen, 21);
    let own: Vec<String> = (10..30)
        .map(|number| format!("repository:acme/app{number}"))
        .collect();
    let every = [&["ci".to_owned()], &own[..]].concat();
    for limit in [1, 2, 7, 20, 21, 50] {
        assert_eq!(all(&api, "", limit), every, "{limit}");
        assert_eq!(all(&api, "&state=healthy", limit), own, "{limit}");
        assert_eq!(all(&api, "&state=failing", limit), ["ci"], "{limit}");
    }
}

/// The endpoints that are listed, page by page.
fn all(api: &Api, filter: &str, limit: usize) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.json(&format!("/api/v1/endpoints?limit={limit}{filter}{cursor}"));
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit);
        all.extend(items.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[test]
fn a_restricted_editor_changes_what_is_of_her_repositories_and_nothing_else() {
    let shipbell = Shipbell::start(with_tokens().endpoint("ci", "https://ci.example.com/"));
    let browser = Browser::at(&shipbell).logged_in(EDITOR);
    let eve = Api::at(shipbell.admin_port()).bearer(EDITOR);
    assert_eq!(
        eve.set("acme/app", &json!({"url": "https://ci.example.com/own"}))
            .status,
        201
    );
    let page = browser.page("/endpoints");
    assert!(
        page.contains("repository:acme/app") && !page.contains(">ci<"),
        "{page}"
    );
    assert_eq!(browser.submit("/endpoints/ci/hold", &[]).status, 403);
    assert_eq!(browser.get("/endpoints/ci/disable").status, 403);
    assert_eq!(
        browser
            .submit("/endpoints/repository%3Aacme%2Fapp/hold", &[])
            .status,
        303
    );
    assert_eq!(
        browser
            .submit("/endpoints/repository%3Aother%2Fapp/hold", &[])
            .status,
        403
    );
}
