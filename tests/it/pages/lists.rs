//! Lists: searched, sorted, filtered, page by page.

use serde_json::json;

use super::own;
use crate::support::{
    SOON,
    api::Api,
    browser::{Browser, between},
    eventually,
    receiver::{Answer, Receiver},
    shipbell::Shipbell,
};

/// The names in the first column, in their order.
pub(super) fn names(page: &str) -> Vec<String> {
    let cells = page.split("<th scope=\"row\">").skip(1);
    let text = |cell: &str| between(cell, "\">", "</a>").to_owned();
    cells.map(text).collect()
}

#[test]
fn repositories_are_searched_sorted_and_paged() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own().endpoint("ci", &receiver.url("/")));
    let browser = Browser::at(&shipbell);
    let api = Api::at(shipbell.admin_port());
    for number in [2, 0, 1] {
        shipbell.push(&format!("acme/app{number}"), "1.4");
        eventually("it is written down", SOON, || {
            let listed = api.json(&format!("/api/v1/repositories?q=app{number}"));
            listed["items"][0]["last_push"]["at"].is_string().then_some(())
        });
    }
    assert_eq!(
        names(&browser.page("/repositories")),
        ["acme/app0", "acme/app1", "acme/app2"]
    );
    assert_eq!(
        names(&browser.page("/repositories?q=&sort=last_push")),
        ["acme/app1", "acme/app0", "acme/app2"]
    );
    let found = browser.page("/repositories?q=app2&sort=name");
    assert_eq!(names(&found), ["acme/app2"]);
    assert!(
        found.contains("value=\"app2\"") && found.contains("<time datetime=\""),
        "{found}"
    );
    let first = browser.page("/repositories?limit=2");
    assert_eq!(names(&first).len(), 2);
    let next = between(&first, "rel=\"next\" href=\"", "\"").replace("&#38;", "&");
    assert_eq!(names(&browser.page(&next)), ["acme/app2"]);
    let none = browser.page("/repositories?q=%3Cb%3E");
    assert!(none.contains("has “&#60;b&#62;” in its name"), "{none}");
}

#[test]
fn the_registry_is_told_to_show_a_token_only_if_one_is_wanted() {
    let shipbell = Shipbell::start(own());
    let page = Browser::at(&shipbell).page("/repositories");
    assert!(
        page.contains("Authorization: [Bearer &lt;one of ingest.tokens&gt;]"),
        "{page}"
    );
    assert!(!page.contains(crate::support::shipbell::TOKEN), "{page}");
    let open = Shipbell::start(own().with("ingest.tokens = []"));
    let page = Browser::at(&open).page("/repositories");
    assert!(
        page.contains("notifications:") && !page.contains("Authorization"),
        "{page}"
    );
    let everywhere = format!("ingest.listen = '0.0.0.0:{}'", crate::support::ports::free());
    let shipbell = Shipbell::start(own().with(&everywhere));
    let page = Browser::at(&shipbell).page("/repositories");
    assert!(
        page.contains("url: http://127.0.0.1:") && !page.contains("0.0.0.0"),
        "{page}"
    );
}

#[test]
fn deliveries_are_filtered_and_an_empty_answer_says_why() {
    let receiver = Receiver::scripted(|request| {
        Answer::Status(if request.image().starts_with("acme/bad") {
            400
        } else {
            200
        })
    });
    let shipbell = Shipbell::start(
        own()
            .with("delivery.retry_schedule = ['10ms']\ndelivery.jitter = 0.0")
            .endpoint("ci", &receiver.url("/")),
    );
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    assert!(browser.page("/deliveries").contains("Nothing was sent yet"));
    for filter in ["repository=acme%2Fapp", "endpoint=ci", "since=2026-01-01T00%3A00"] {
        let empty = browser.page(&format!("/deliveries?{filter}"));
        assert!(
            empty.contains("Nothing matches this filter") && !empty.contains("Nothing was sent"),
            "{empty}"
        );
    }
    shipbell.push("acme/app", "1");
    shipbell.push("acme/bad", "2");
    eventually("both ended", SOON, || {
        let ended = |state: &str| {
            let listed = api.json(&format!("/api/v1/deliveries?state={state}"));
            listed["items"].as_array().unwrap().len() == 1
        };
        (ended("delivered") && ended("dead_letter")).then_some(())
    });
    let found = |query: &str| names(&browser.page(&format!("/deliveries?{query}")));
    assert_eq!(
        found("repository=&endpoint=&state="),
        ["acme/bad:2", "acme/app:1"]
    );
    assert_eq!(found("repository=acme/app&endpoint=+ci+"), ["acme/app:1"]);
    assert_eq!(found("state=dead_letter"), ["acme/bad:2"]);
    assert_eq!(
        found("since=2000-01-01T00%3A00&until=2100-01-01T00%3A00").len(),
        2
    );
    assert_eq!(found("since=2100-01-01T00%3A00"), [""; 0]);
    let page = browser.page("/deliveries?state=dead_letter&since=2000-01-01T00%3A00");
    assert!(page.contains("value=\"2000-01-01T00:00\"") && page.contains("value=\"dead_letter\" selected"));
    let first = browser.page("/deliveries?limit=1&endpoint=ci");
    let next = between(&first, "rel=\"next\" href=\"", "\"").replace("&#38;", "&");
    assert!(next.contains("endpoint=ci"), "{next}");
    assert_eq!(found(next.split_once('?').unwrap().1), ["acme/app:1"]);
    let wrong = browser.get("/deliveries?state=lost");
    assert_eq!(wrong.status, 400);
    assert!(wrong.text().contains("State: one of"), "{}", wrong.text());
}

#[test]
fn the_first_page_of_a_list_is_the_one_that_was_searched() {
    let receiver = Receiver::scripted(|_| Answer::Status(400));
    let shipbell = Shipbell::start(
        own()
            .with("delivery.retry_schedule = ['10ms']\ndelivery.jitter = 0.0")
            .endpoint("ci", &receiver.url("/"))
            .endpoint("other", &receiver.url("/other")),
    );
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    shipbell.push("acme/app", "1");
    shipbell.push("acme/web", "1");
    eventually("all are given up", SOON, || {
        let listed = api.json("/api/v1/deliveries?state=dead_letter");
        (listed["items"].as_array().unwrap().len() == 4).then_some(())
    });
    for list in [
        "/repositories?q=acme&sort=last_push",
        "/deliveries?endpoint=ci&state=dead_letter",
        "/endpoints?state=healthy",
        "/dead-letters?endpoint=ci",
    ] {
        let path = |text: &str| text.replace("&#38;", "&");
        let page = browser.page(&format!("{list}&limit=1"));
        let next = path(between(&page, "rel=\"next\" href=\"", "\""));
        let page = browser.page(&next);
        let (before, _) = page.split_once("\">First page</a>").unwrap();
        let (_, first) = before.rsplit_once("href=\"").unwrap();
        assert_eq!(path(first), list);
    }
}

#[test]
fn a_delivery_that_a_newer_push_has_overtaken_is_sent_again_only_if_that_is_meant() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own());
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    assert_eq!(
        api.set("acme/app", &json!({"url": receiver.url("/")})).status,
        201
    );
    for count in 1..=2 {
        shipbell.push("acme/app", "latest");
        eventually("it is written down", SOON, || {
            let listed = api.json("/api/v1/deliveries?state=delivered");
            (listed["items"].as_array().unwrap().len() == count).then_some(())
        });
    }
    let listed = api.json("/api/v1/deliveries");
    let older = format!("/deliveries/{}", listed["items"][1]["id"].as_str().unwrap());
    let refused = browser.submit(&format!("{older}/redeliver"), &[]);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("name=\"force\""), "{}", refused.text());
    assert_eq!(receiver.requests().len(), 2);
    let forced = browser.submit(&format!("{older}/redeliver"), &[("force", "yes")]);
    assert!(
        forced.text().contains("Sent again, and taken"),
        "{}",
        forced.text()
    );
    receiver.wait_for(3, SOON);
}
