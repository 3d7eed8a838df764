//! Dead letters: found, counted, sent again.

use rusqlite::Connection;

use super::{
    lists::names,
    own,
    people::{EDITOR, VIEWER, with_tokens},
};
use crate::support::{
    SOON,
    api::Api,
    browser::{Browser, assert_counted, between},
    eventually,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
};

fn letters(config: Config, receiver: &Receiver) -> Shipbell {
    let quick = "delivery.retry_schedule = ['10ms']\ndelivery.jitter = 0.0\nbatch.coalesce = 'none'";
    Shipbell::start(
        config
            .with(quick)
            .endpoint("ci", &receiver.url("/hook?token=hunter2")),
    )
}

fn wait_for_letters(api: &Api, count: usize) {
    eventually("so many dead letters", SOON, || {
        let listed = api.json("/api/v1/dead-letters");
        (listed["items"].as_array().unwrap().len() == count).then_some(())
    });
}

#[test]
fn what_a_filter_finds_is_counted_and_then_sent_again() {
    let receiver = Receiver::scripted(|_| Answer::Status(400));
    let shipbell = letters(own(), &receiver);
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let none = browser.page("/dead-letters");
    assert!(
        none.contains("nothing was given up on") && !none.contains("/replay"),
        "{none}"
    );
    for (repository, tag) in [
        ("acme/app", "1"),
        ("acme/app", "latest"),
        ("acme/app", "latest"),
        ("other/app", "3"),
    ] {
        shipbell.push(repository, tag);
    }
    wait_for_letters(&api, 4);
    let before = receiver.requests().len();
    let found =
        browser.page("/dead-letters?repository=acme%2F**&endpoint=+ci+&tag=&since=2000-01-01T00%3A00");
    assert_eq!(
        names(&found),
        ["acme/app:latest", "acme/app:latest", "acme/app:1"]
    );
    assert!(
        found.contains("answered 400") && !found.contains("hunter2"),
        "{found}"
    );
    for (filter, words) in [
        ("repository=nobody", "Nothing matches this filter"),
        ("until=2000-01-01T00%3A00", "Nothing matches this filter"),
    ] {
        assert!(
            browser.page(&format!("/dead-letters?{filter}")).contains(words),
            "{filter}"
        );
    }
    assert_eq!(browser.get("/dead-letters?since=yesterday").status, 400);
    let first = browser.page("/dead-letters?limit=3&endpoint=ci");
    let next = between(&first, "rel=\"next\" href=\"", "\"").replace("&#38;", "&");
    assert_eq!(names(&browser.page(&next)).len(), 1);
    let replay = between(&found, "<a class=\"button\" href=\"", "\"").replace("&#38;", "&");
    let asked = browser.page(&replay);
    assert_counted(&asked, 3, 2);
    assert_eq!(receiver.requests().len(), before, "it was only counted");
    receiver.answer(|_| Answer::Status(200));
    let counted = between(&asked, "name=\"counted\" value=\"", "\"");
    let fields = [
        ("repository", "acme/**"),
        ("endpoint", "ci"),
        ("counted", counted),
    ];
    let sent = browser.submit("/dead-letters/replay", &fields);
    assert_eq!(sent.status, 303, "{}", sent.text());
    let page = browser.page(sent.header("location").unwrap());
    assert!(page.contains("2 are sent again now"), "{page}");
    let requests = receiver.wait_for(before + 2, SOON);
    assert_eq!(requests[before].image(), "acme/app:1", "in their order");
    wait_for_letters(&api, 2);
    let forced = [("repository", "acme/app"), ("counted", counted), ("force", "yes")];
    assert_eq!(browser.submit("/dead-letters/replay", &forced).status, 303);
    receiver.wait_for(before + 3, SOON);
    wait_for_letters(&api, 1);
}

#[test]
fn one_letter_tells_why_when_and_its_last_attempt_and_goes_alone() {
    let receiver = Receiver::scripted(|_| Answer::Status(400));
    let shipbell = letters(with_tokens(), &receiver);
    let eve = Api::at(shipbell.admin_port()).bearer(EDITOR);
    for repository in ["acme/app", "acme/web", "other/app"] {
        shipbell.push(repository, "1");
    }
    wait_for_letters(&eve, 2);
    let (browser, vic) = (
        Browser::at(&shipbell).logged_in(EDITOR),
        Browser::at(&shipbell).logged_in(VIEWER),
    );
    let list = browser.page("/dead-letters?repository=acme%2Fapp");
    let letter = between(&list, "<th scope=\"row\"><a href=\"", "\"").to_owned();
    let page = eventually("its attempt is written down", SOON, || {
        let page = browser.page(&letter);
        page.contains("All of its attempts").then_some(page)
    });
    for part in [
        "acme/app:1",
        "answered 400",
        "<time datetime=",
        "<dd>2</dd>",
        " ms: answered 400 Bad Request</p>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!vic.page(&letter).contains("/replay"));
    assert!(
        !vic.page("/dead-letters?repository=acme%2Fapp")
            .contains("/replay")
    );
    let all = browser.page("/dead-letters");
    assert!(
        all.contains("filter by one repository") && !all.contains("/replay"),
        "{all}"
    );
    assert_eq!(browser.get("/dead-letters/replay").status, 403, "not all of them");
    let others = eve.json("/api/v1/dead-letters")["items"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(others, 2, "those of other repositories are not seen");
    receiver.answer(|_| Answer::Status(200));
    let before = receiver.requests().len();
    let replay = between(&page, "<a class=\"button\" href=\"", "\"").replace("&#38;", "&");
    let asked = browser.page(&replay);
    assert!(asked.contains("<dt>Meant</dt><dd><strong>1</strong>"), "{asked}");
    let id = letter.rsplit('/').next().unwrap();
    let sent = browser.submit("/dead-letters/replay", &[("id", id), ("repository", "acme/app")]);
    let location = sent.header("location").unwrap().to_owned();
    assert!(location.starts_with("/dead-letters?note="), "{location}");
    receiver.wait_for(before + 1, SOON);
    wait_for_letters(&eve, 1);
    assert_eq!(browser.get(&letter).status, 404);
    assert_eq!(browser.get("/dead-letters/many").status, 404);
}

#[test]
fn very_many_are_counted_and_what_becomes_of_each_is_told_once_it_is_done() {
    let receiver = Receiver::scripted(|_| Answer::Status(400));
    let mut shipbell = letters(own(), &receiver);
    let api = Api::at(shipbell.admin_port());
    shipbell.push("acme/app", "1");
    wait_for_letters(&api, 1);
    shipbell.stop();
    let settings = Connection::open(shipbell.data().join("settings.db")).unwrap();
    // The push, as often as more are meant than are looked up one by one, of so many tags.
    let copies = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000) \
                  INSERT INTO dead_letters (journal, sequence, endpoint, repository, tag, digest, media_type, \
                  manifest_size, listed, event_id, actor, taken_ms, died_ms, reason, attempts) \
                  SELECT journal, sequence + n, endpoint, repository, 'v' || n, digest, media_type, manifest_size, \
                  listed, event_id, actor, taken_ms, died_ms, reason, attempts FROM dead_letters, n";
    assert_eq!(settings.execute(copies, ()).unwrap(), 2000);
    drop(settings);
    shipbell.start_again();
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let asked = browser.page("/dead-letters/replay?repository=acme/app");
    assert!(asked.contains("<strong>2001</strong>"), "{asked}");
    assert!(
        asked.contains("All of them but those") && asked.contains("name=\"force\""),
        "{asked}"
    );
    let foreseen = api.post("/api/v1/dead-letters/replay?repository=acme/app&dry_run=true");
    assert_eq!(foreseen.json()["replayed"], 2001, "the API looks up each");
    // One fewer, and each is looked up for the page, too.
    let one = api.json("/api/v1/dead-letters?limit=1")["items"][0]["id"].to_string();
    assert_eq!(
        api.send("DELETE", &format!("/api/v1/dead-letters?id={one}"), b"")
            .status,
        200
    );
    let asked = browser.page("/dead-letters/replay?repository=acme/app");
    assert!(asked.contains("Send 2000 again"), "{asked}");
    let done = browser.submit("/dead-letters/replay", &[("repository", "acme/app")]);
    let list = browser.page(done.header("location").unwrap());
    assert!(list.contains("2000 are sent again now"), "{list}");
}
