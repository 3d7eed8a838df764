//! All deliveries that a filter finds, sent again: delivered ones and dead letters (CONTRACT 8).

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use serde_json::{Value, json};

use crate::support::{
    SOON,
    api::Api,
    browser::{Browser, assert_counted, between},
    eventually,
    receiver::{Answer, Receiver, Request},
    shipbell::{Config, Shipbell},
};

const ADMIN: &str = "admin-token-0123456789";
const EDITOR: &str = "editor-token-0123456789";
const VIEWER: &str = "viewer-token-0123456789";

const AGAIN: &str = "/api/v1/deliveries/redeliver";

fn config(url: &str) -> Config {
    Config::without_registry()
        .with(&format!(
            "[batch]\nwindow = '0s'\ncoalesce = 'none'\n\
             [delivery]\nretry_schedule = ['50ms']\njitter = 0.0\n\
             [admin]\nauth = 'token'\n\
             [[admin.tokens]]\nname = 'ann'\ntoken = '{ADMIN}'\nrole = 'admin'\n\
             [[admin.tokens]]\nname = 'eve'\ntoken = '{EDITOR}'\nrole = 'editor'\nrepositories = ['acme/**']\n\
             [[admin.tokens]]\nname = 'vic'\ntoken = '{VIEWER}'\nrole = 'viewer'\nrepositories = ['acme/**']\n"
        ))
        .endpoint("ci", url)
}

/// A receiver that answers with whatever status is set.
fn receiver(status: u16) -> (Receiver, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(status));
    let answers = Arc::clone(&status);
    let receiver = Receiver::scripted(move |_| Answer::Status(answers.load(Ordering::Acquire)));
    (receiver, status)
}

/// Waits until so many deliveries are in this state, by the history.
fn wait_for(api: &Api, state: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} are {state}"), SOON, || {
        let listed = api.json(&format!("/api/v1/deliveries?state={state}"));
        let items = listed["items"].as_array().unwrap().clone();
        (items.len() == count).then_some(items)
    })
}

/// What came for a repository, in its order; between repositories there is none.
fn of<'a>(requests: &'a [Request], repository: &str) -> Vec<&'a Request> {
    let start = format!("{repository}:");
    (requests.iter())
        .filter(|request| request.image().starts_with(&start))
        .collect()
}

fn images(requests: &[&Request]) -> Vec<String> {
    requests.iter().map(|request| request.image()).collect()
}

fn counts(view: &Value) -> [u64; 5] {
    let names = ["matched", "redelivered", "passed_over", "under_way", "unknown"];
    names.map(|name| view[name].as_u64().unwrap())
}

#[test]
fn a_newer_push_that_was_delivered_right_before_a_kill_is_known_after_it() {
    let (receiver, status) = receiver(404);
    let mut shipbell = Shipbell::start(config(&receiver.url("/hook")));
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    shipbell.push("acme/app", "latest");
    wait_for(&api, "dead_letter", 1);
    status.store(200, Ordering::Release);
    let first = receiver.requests().len();
    shipbell.push("acme/app", "latest");
    receiver.wait_for(first + 1, SOON);
    // The history is written later; that it was delivered stands in the journal.
    eventually("it is settled", SOON, || {
        let owed = api.json("/api/v1/queue");
        owed["items"].as_array().unwrap().is_empty().then_some(())
    });
    shipbell.kill();
    shipbell.start_again();
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    let replayed = api.post("/api/v1/dead-letters/replay").json();
    assert_eq!(
        (&replayed["replayed"], &replayed["passed_over"]),
        (&json!(0), &json!(1)),
        "{replayed}"
    );
}

#[test]
fn what_came_just_now_is_known_and_sent_again_at_once() {
    let (receiver, _) = receiver(200);
    let shipbell = Shipbell::start(config(&receiver.url("/hook")));
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    for number in 1..=5 {
        let tag = number.to_string();
        shipbell.push("acme/app", &tag);
        let story = api.get(&format!("/api/v1/why?image=acme/app:{tag}"));
        assert_eq!(story.status, 200, "{}", story.text());
        let came = receiver.wait_for_image(&format!("acme/app:{tag}"), SOON);
        let id = came.last().unwrap().id();
        let again = format!("/api/v1/deliveries/{id}/redeliver");
        // Its answer may be under way.
        let sent = eventually("it is over", SOON, || {
            let sent = api.post(&again);
            (sent.status != 409).then_some(sent)
        });
        assert_eq!(sent.status, 200, "{}", sent.text());
        assert_eq!(api.get(&format!("/api/v1/deliveries/{id}")).status, 200);
    }
    let id = "msg_00000000000000000000000000000000";
    assert_eq!(api.get(&format!("/api/v1/deliveries/{id}")).status, 404);
}

#[test]
fn what_a_filter_finds_goes_again_in_order_and_never_past_a_newer_push() {
    let (receiver, status) = receiver(200);
    let mut shipbell = Shipbell::start(config(&receiver.url("/hook")));
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    for (repository, tag) in [
        ("acme/app", "1"),
        ("acme/app", "latest"),
        ("acme/app", "latest"),
        ("acme/web", "2"),
    ] {
        shipbell.push(repository, tag);
    }
    wait_for(&api, "delivered", 4);
    status.store(404, Ordering::Release);
    shipbell.push("acme/app", "3");
    wait_for(&api, "dead_letter", 1);
    status.store(200, Ordering::Release);
    let first = receiver.requests();
    let dry = api.post(&format!("{AGAIN}?dry_run=true"));
    assert_eq!(dry.status, 200, "{}", dry.text());
    assert_eq!(
        (counts(&dry.json()), &dry.json()["dry_run"]),
        ([5, 4, 1, 0, 0], &json!(true))
    );
    assert_eq!(receiver.requests().len(), first.len(), "it was only counted");
    let real = api.post(AGAIN).json();
    assert_eq!(counts(&real), [5, 4, 1, 0, 0]);
    let came = receiver.wait_for(first.len() + 4, SOON).split_off(first.len());
    let (app, first_of_app) = (of(&came, "acme/app"), of(&first, "acme/app"));
    assert_eq!(images(&app), ["acme/app:1", "acme/app:latest", "acme/app:3"]);
    assert_eq!(images(&of(&came, "acme/web")), ["acme/web:2"]);
    assert_eq!(
        (app[0].id(), app[1].id()),
        (first_of_app[0].id(), first_of_app[2].id()),
        "the newest of its tag"
    );
    eventually("the dead letter is none any more", SOON, || {
        let letters = api.json("/api/v1/dead-letters");
        letters["items"].as_array().unwrap().is_empty().then_some(())
    });
    wait_for(&api, "delivered", 5);
    let all = receiver.requests().len();
    let some = api.post(&format!(
        "{AGAIN}?repository=acme%2Fapp&state=delivered&force=true"
    ));
    assert_eq!(counts(&some.json()), [4, 4, 0, 0, 0], "{}", some.text());
    let came = receiver.wait_for(all + 4, SOON).split_off(all);
    assert_eq!(
        images(&of(&came, "acme/app")),
        ["acme/app:1", "acme/app:latest", "acme/app:latest", "acme/app:3"]
    );
    for (filter, matched) in [
        ("repository=acme%2Fweb", 1),
        ("endpoint=nobody", 0),
        ("until=2000-01-01T00%3A00%3A00Z", 0),
        ("since=2000-01-01T00%3A00%3A00Z&state=superseded", 0),
    ] {
        let counted = api.post(&format!("{AGAIN}?dry_run=true&{filter}")).json();
        assert_eq!(counted["matched"], matched, "{filter}");
    }
    for wrong in ["state=lost", "since=yesterday", "repository=Acme"] {
        assert_eq!(api.post(&format!("{AGAIN}?{wrong}")).status, 400, "{wrong}");
    }
    assert!(
        shipbell.log().contains("deliveries sent again by hand"),
        "an audit line"
    );
    shipbell.stop();
    assert_eq!(receiver.requests().len(), all + 4, "and no other");
}

#[test]
fn who_may_change_some_repositories_names_one_and_an_endpoint_that_is_stopped_gets_nothing() {
    let (receiver, _) = receiver(200);
    let shipbell = Shipbell::start(config(&receiver.url("/hook")));
    let api = Api::at(shipbell.admin_port());
    let (ann, eve, vic) = (api.bearer(ADMIN), api.bearer(EDITOR), api.bearer(VIEWER));
    shipbell.push("acme/app", "1");
    shipbell.push("other/app", "1");
    wait_for(&ann, "delivered", 2);
    for path in [
        AGAIN.to_owned(),
        format!("{AGAIN}?endpoint=ci"),
        format!("{AGAIN}?repository=other%2Fapp"),
    ] {
        assert_eq!(eve.post(&path).status, 403, "{path}");
        assert_eq!(
            eve.post(&format!(
                "{path}{}dry_run=true",
                if path.contains('?') { "&" } else { "?" }
            ))
            .status,
            403
        );
    }
    let own = format!("{AGAIN}?repository=acme%2Fapp");
    assert_eq!(vic.post(&own).status, 403);
    assert_eq!(api.post(&own).status, 401);
    assert_eq!(counts(&eve.post(&own).json()), [1, 1, 0, 0, 0]);
    receiver.wait_for(3, SOON);
    for verb in ["hold", "disable"] {
        assert_eq!(ann.post(&format!("/api/v1/endpoints/ci/{verb}")).status, 200);
        let refused = ann.post(AGAIN).json();
        assert_eq!(counts(&refused)[..2], [2, 0], "{refused}");
        let why = &refused["refused"][0];
        assert_eq!((&why["endpoint"], &why["letters"]), (&"ci".into(), &2.into()));
        assert!(
            why["reason"].as_str().unwrap().contains("enable it first"),
            "{why}"
        );
    }
    assert_eq!(receiver.requests().len(), 3);
}

#[test]
fn while_an_endpoint_fails_the_rest_waits_each_goes_once_and_a_restart_forgets_them() {
    let (receiver, status) = receiver(200);
    let quick = config(&receiver.url("/hook"));
    let mut shipbell =
        Shipbell::start(quick.with("delivery.retry_schedule = ['300ms']\ndelivery.pause_after = 100"));
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    for tag in ["1", "2", "3"] {
        shipbell.push("acme/app", tag);
    }
    wait_for(&api, "delivered", 3);
    status.store(503, Ordering::Release);
    assert_eq!(counts(&api.post(AGAIN).json()), [3, 3, 0, 0, 0]);
    receiver.wait_for(4, SOON);
    let meanwhile = api.post(AGAIN).json();
    assert!(
        counts(&meanwhile)[3] >= 1,
        "those that wait are under way: {meanwhile}"
    );
    status.store(200, Ordering::Release);
    eventually("all that waits is sent, the newest push last", SOON, || {
        let sent = images(&of(&receiver.requests(), "acme/app")).split_off(3);
        (sent.last().map(String::as_str) == Some("acme/app:3")).then_some(())
    });

    // One that is down for long: the others are forgotten by a restart, and it is said.
    let before = receiver.requests().len();
    status.store(503, Ordering::Release);
    shipbell.stop();
    shipbell.start_again_with("delivery.retry_schedule = ['1h']");
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    assert_eq!(counts(&api.post(AGAIN).json()), [3, 3, 0, 0, 0]);
    receiver.wait_for(before + 1, SOON);
    eventually("the first has failed", SOON, || {
        (api.json("/api/v1/endpoints/ci")["state"] == "failing").then_some(())
    });
    shipbell.stop();
    let log = shipbell.log();
    assert!(
        log.contains("are not sent again that were asked for") && log.contains("left=2"),
        "{log}"
    );
    status.store(200, Ordering::Release);
    shipbell.start_again();
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    assert_eq!(
        counts(&api.post(&format!("{AGAIN}?dry_run=true")).json()),
        [3, 3, 0, 0, 0]
    );
    assert_eq!(receiver.requests().len(), before + 1);
}

#[test]
fn an_editor_uses_up_what_is_sent_again_to_an_endpoint_for_nobody_who_may_administer() {
    let (receiver, _) = receiver(200);
    let shipbell = Shipbell::start(config(&receiver.url("/hook")));
    let at = |token| Api::at(shipbell.admin_port()).bearer(token);
    let (ann, eve) = (at(ADMIN), at(EDITOR));
    shipbell.push("acme/app", "1");
    wait_for(&ann, "delivered", 1);
    let id = ann.json("/api/v1/deliveries")["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let again = format!("/api/v1/deliveries/{id}/redeliver");
    let taken = (0..100)
        .map(|_| eve.post(&again))
        .take_while(|sent| sent.status == 200);
    assert_eq!(taken.count(), 30);
    let refused = eve.post(&again);
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    let sent = ann.post(&again);
    assert_eq!(sent.status, 200, "{}", sent.text());
}

#[test]
fn an_editor_switches_a_webhook_so_often_and_no_more() {
    let shipbell = Shipbell::start(config("https://ci.example.com/"));
    let at = |token| Api::at(shipbell.admin_port()).bearer(token);
    let (ann, eve) = (at(ADMIN), at(EDITOR));
    let saved = eve.set("acme/app", &json!({"url": "https://ci.example.com/"}));
    assert_eq!(saved.status, 201, "{}", saved.text());
    let set = |event: &str| format!("/api/v1/endpoints/repository:acme%2Fapp/{event}");
    let events = ["hold", "enable"].into_iter().cycle().take(200);
    let taken = events
        .map(|event| eve.post(&set(event)))
        .take_while(|answer| answer.status == 200);
    assert_eq!(taken.count(), 119, "with the one that it was saved by");
    let refused = eve.post(&set("disable"));
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(ann.post(&set("disable")).status, 200);
}

#[test]
fn a_page_counts_asks_and_says_what_it_did() {
    let (receiver, _) = receiver(200);
    let shipbell = Shipbell::start(config(&receiver.url("/hook")));
    let browser = Browser::at(&shipbell);
    let (ann, eve, vic) = (
        browser.logged_in(ADMIN),
        browser.logged_in(EDITOR),
        browser.logged_in(VIEWER),
    );
    assert!(
        !ann.page("/deliveries").contains("/deliveries/redeliver"),
        "nothing to send"
    );
    for tag in ["1", "latest", "latest"] {
        shipbell.push("acme/app", tag);
    }
    shipbell.push("acme/web", "1");
    wait_for(&Api::at(shipbell.admin_port()).bearer(ADMIN), "delivered", 4);
    assert!(ann.page("/deliveries").contains("Send all of them again"));
    assert!(eve.page("/deliveries").contains("filter by one repository"));
    for (who, path) in [(&eve, "/deliveries"), (&vic, "/deliveries?repository=acme%2Fapp")] {
        assert!(!who.page(path).contains("/deliveries/redeliver"), "{path}");
    }
    assert_eq!(vic.get("/deliveries/redeliver?repository=acme%2Fapp").status, 403);
    assert_eq!(eve.get("/deliveries/redeliver").status, 403);
    let found = eve.page("/deliveries?repository=acme%2Fapp&state=delivered&since=2000-01-01T00%3A00");
    let again = between(&found, "<a class=\"button\" href=\"", "\"").replace("&#38;", "&");
    // An end that is still to come does not let in what comes until then.
    let asked = eve.page(&format!("{again}&until=2100-01-01T00%3A00"));
    assert!(asked.contains("Send deliveries again?"), "{asked}");
    assert_counted(&asked, 3, 2);
    assert_eq!(receiver.requests().len(), 4, "it was only counted");
    let form = between(
        &asked,
        "<form method=\"post\" action=\"/deliveries/redeliver\">",
        "</form>",
    );
    let fields: Vec<(&str, &str)> = (form.split("type=\"hidden\" name=\"").skip(1))
        .map(|field| {
            let (name, rest) = field.split_once('"').unwrap();
            (name, between(rest, "value=\"", "\""))
        })
        .collect();
    // What comes after it was counted is not meant.
    shipbell.push("acme/app", "new");
    receiver.wait_for(5, SOON);
    wait_for(&Api::at(shipbell.admin_port()).bearer(ADMIN), "delivered", 5);
    let sent = eve.submit("/deliveries/redeliver", &fields);
    assert_eq!(sent.status, 303, "{}", sent.text());
    let page = eve.page(sent.header("location").unwrap());
    assert!(page.contains("2 are sent again now"), "{page}");
    assert!(page.contains("value=\"acme/app\""), "the filter stays: {page}");
    let came = receiver.wait_for(7, SOON).split_off(5);
    assert_eq!(images(&of(&came, "acme/app")), ["acme/app:1", "acme/app:latest"]);
    let none = eve.page("/deliveries/redeliver?repository=acme%2Fapp&state=superseded");
    assert!(none.contains("There is none that is meant"), "{none}");
}
