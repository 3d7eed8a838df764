//! What a page says is so: it believes no address, contradicts itself at no time, and says what it doesn't know.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

use serde_json::{Value, json};

use super::{
    PAGE, own,
    people::{ADMIN, EDITOR, with_tokens},
};
use crate::support::{
    SOON,
    api::Api,
    browser::{Browser, between, version},
    envelope, eventually, ports,
    receiver::{Answer, Receiver},
    shipbell::Shipbell,
};

/// The delivery of an image, once it is in this state.
fn delivery(api: &Api, repository: &str, state: &str) -> Value {
    let path = format!("/api/v1/deliveries?repository={}", repository.replace('/', "%2F"));
    eventually(&format!("{repository} is {state}"), SOON, || {
        let item = api.json(&path)["items"][0].clone();
        (item["state"] == state && item["attempts"].as_u64() > Some(0)).then_some(item)
    })
}

fn id(delivery: &Value) -> String {
    delivery["id"].as_str().unwrap().to_owned()
}

#[test]
fn no_address_has_a_page_say_that_something_was_done() {
    let shipbell = Shipbell::start(with_tokens());
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    let url = json!({"url": "https://ci.example.com/"});
    assert_eq!(api.set("acme/app", &url).status, 201);
    let browser = Browser::at(&shipbell);
    let (ann, eve) = (browser.logged_in(ADMIN), browser.logged_in(EDITOR));
    for path in [
        format!("{PAGE}?done=saved"),
        format!("{PAGE}?done=removed"),
        format!("{PAGE}?note=saved"),
        format!("{PAGE}?note=00000000000000000000000000000001"),
        "/deliveries?sent=2".to_owned(),
        "/deliveries?note=2".to_owned(),
        "/dead-letters?sent=2".to_owned(),
        "/dead-letters?note=2".to_owned(),
    ] {
        let page = ann.page(&path);
        assert!(!page.contains("role=\"status\""), "{path}: {page}");
    }
    let form = [
        ("version", &*version(&eve.page(PAGE))),
        ("url", "https://93.184.216.34/other"),
        ("tags", "**"),
        ("enabled", "yes"),
    ];
    let saved = eve.submit(PAGE, &form);
    let there = saved.header("location").unwrap();
    assert!(!ann.page(there).contains("role=\"status\""), "it was not she");
    assert!(!eve.page("/deliveries").contains("role=\"status\""));
    assert!(eve.page(there).contains("Saved. The next push goes there."));
    assert!(!eve.page(there).contains("role=\"status\""), "it is said once");
}

#[test]
fn what_is_sent_again_is_shown_as_that_and_afterwards_as_what_came_of_it() {
    let (status, holds) = (Arc::new(AtomicU16::new(404)), Arc::new(AtomicBool::new(false)));
    let (answers, held) = (Arc::clone(&status), Arc::clone(&holds));
    let receiver = Receiver::scripted(move |_| {
        if held.load(Ordering::Acquire) {
            Answer::Hold
        } else {
            Answer::Status(answers.load(Ordering::Acquire))
        }
    });
    let config = own().with("[delivery]\nretry_schedule = ['10ms']\njitter = 0.0");
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook")));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    shipbell.push("acme/app", "1");
    let one = id(&delivery(&api, "acme/app", "dead_letter"));
    status.store(204, Ordering::Release);

    // Alone: the page that says so shows what came of it, not what was before.
    let sent = browser
        .submit(&format!("/deliveries/{one}/redeliver"), &[])
        .text();
    assert!(sent.contains("Sent again, and taken."), "{sent}");
    let state = between(&sent, "<dt>State</dt>", "</dd>");
    assert!(state.contains("badge delivered"), "{state}");
    assert!(sent.contains("Attempt 3: answered 204"), "{sent}");

    // With others: as long as it is under way.
    holds.store(true, Ordering::Release);
    let all = browser.submit("/deliveries/redeliver", &[]);
    let list = browser.page(all.header("location").unwrap());
    assert!(list.contains("One is sent again now."), "{list}");
    let row = between(&list, "<tbody>", "</tbody>");
    assert!(
        row.contains("badge delivered") && row.contains("being sent again"),
        "{row}"
    );
    assert_eq!(api.json("/api/v1/deliveries")["items"][0]["sending_again"], true);
    assert_eq!(
        api.json(&format!("/api/v1/deliveries/{one}"))["sending_again"],
        true
    );
    let page = browser.page(&format!("/deliveries/{one}"));
    assert!(page.contains("being sent again"), "{page}");
    receiver.release();
    eventually("it was sent", SOON, || {
        let item = api.json("/api/v1/deliveries")["items"][0].clone();
        (item["sending_again"] == false).then_some(())
    });
    assert!(!browser.page("/deliveries").contains("being sent again"));
}

#[test]
fn a_dead_letter_that_is_replayed_is_shown_as_that() {
    let holds = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&holds);
    let receiver = Receiver::scripted(move |_| {
        if held.load(Ordering::Acquire) {
            Answer::Hold
        } else {
            Answer::Status(404)
        }
    });
    let config = own().with("[delivery]\nretry_schedule = ['10ms']\njitter = 0.0");
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook")));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    shipbell.push("acme/app", "1");
    assert_eq!(delivery(&api, "acme/app", "dead_letter")["sending_again"], false);
    holds.store(true, Ordering::Release);
    assert_eq!(api.post("/api/v1/dead-letters/replay").json()["replayed"], 1);
    receiver.wait_for(3, SOON);
    let page = browser.page("/deliveries?state=dead_letter");
    let row = between(&page, "<tbody>", "</tbody>");
    assert!(
        row.contains("dead letter") && row.contains("being sent again"),
        "{row}"
    );
    receiver.release();
    delivery(&api, "acme/app", "delivered");
}

#[test]
fn a_push_of_a_paused_endpoint_is_said_to_wait_for_it() {
    let receiver = Receiver::scripted(|request| {
        let is_app = request.image().starts_with("acme/app");
        Answer::Status(if is_app { 404 } else { 503 })
    });
    let config = own().with(
        "[batch]\nwindow = '0s'\n\
         [delivery]\nretry_schedule = ['1h']\njitter = 0.0\npause_after = 1\nprobe_first = '1h'\nprobe_max = '1h'",
    );
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook")));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    shipbell.push("acme/app", "1");
    let one = id(&delivery(&api, "acme/app", "pending"));
    shipbell.push("acme/other", "1");
    eventually("its endpoint is paused", SOON, || {
        (api.json("/api/v1/endpoints/ci")["state"] == "paused").then_some(())
    });
    let next = api.json("/api/v1/endpoints/ci")["next_attempt"].clone();
    let due = api.post(&format!("/api/v1/deliveries/{one}/redeliver"));
    assert_eq!(due.status, 202, "{}", due.text());
    let told = due.json();
    assert_eq!((&told["state"], &told["next_attempt"]), (&json!("paused"), &next));
    let words = told["detail"].as_str().unwrap();
    assert!(
        words.contains("waits for its endpoint: that is paused") && words.contains(next.as_str().unwrap()),
        "{words}"
    );
    let endpoint = || {
        let page = browser.page(&format!("/deliveries/{one}"));
        between(&page, "<dt>Endpoint</dt>", "</dd>").to_owned()
    };
    let told = endpoint();
    for part in [
        "href=\"/endpoints/ci\"",
        "badge paused",
        "answered 503",
        "The next attempt <time",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let sent = receiver.requests().len();
    for verb in ["hold", "disable"] {
        assert_eq!(api.post(&format!("/api/v1/endpoints/ci/{verb}")).status, 200);
        if verb == "hold" {
            let told = endpoint();
            assert!(told.contains("badge held") && told.contains("by local"), "{told}");
        }
        let refused = api.post(&format!("/api/v1/deliveries/{one}/redeliver"));
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert!(refused.text().contains("enable it first"), "{}", refused.text());
        let page = browser.submit(&format!("/deliveries/{one}/redeliver"), &[]);
        assert_eq!(page.status, 409);
        assert!(page.text().contains("enable it first"), "{}", page.text());
    }
    assert_eq!(receiver.requests().len(), sent);
}

#[test]
fn a_history_that_cant_be_read_is_told_and_what_needs_none_still_works() {
    let shipbell = Shipbell::start(own());
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let url = json!({"url": "https://ci.example.com/"});
    assert_eq!(api.set("acme/app", &url).status, 201);
    let file = shipbell.data().join("catalog.db");
    fs::rename(&file, file.with_extension("aside")).unwrap();
    fs::write(&file, [7; 8192]).unwrap();
    assert_eq!(api.get("/api/v1/deliveries").status, 503);
    let own = "/endpoints/repository%3Aacme%2Fapp";
    for path in ["/deliveries", "/overview", PAGE, own] {
        let page = browser.page(path);
        assert!(page.contains("The history can&#39;t be read"), "{path}: {page}");
        assert!(!page.contains("Nothing was sent"), "{path}: {page}");
    }
    let form = [
        ("version", &*version(&browser.page(PAGE))),
        ("url", "https://ci.example.com/other"),
        ("tags", "**"),
    ];
    assert_eq!(browser.submit(PAGE, &form).status, 303, "a webhook can be set");
    assert_eq!(browser.submit(&format!("{own}/hold"), &[]).status, 303, "or held");
}

#[test]
fn where_an_endpoint_was_is_told_to_nobody_who_may_not_know_where_it_is() {
    let receiver = Receiver::start();
    let (old, closed) = ("old-place.invalid", ports::free());
    let config = with_tokens().with("[delivery]\nretry_schedule = ['1h']\njitter = 0.0");
    let mut shipbell = Shipbell::start(config.endpoint("ci", &format!("http://{old}:{closed}/hook")));
    let (admin, eve) = (
        Api::at(shipbell.admin_port()).bearer(ADMIN),
        Api::at(shipbell.admin_port()).bearer(EDITOR),
    );
    shipbell.push("acme/app", "1");
    let one = id(&delivery(&admin, "acme/app", "pending"));
    let attempt = format!("/api/v1/deliveries/{one}");
    assert!(admin.get(&attempt).text().contains(old));
    let (browser, page) = (Browser::at(&shipbell), format!("/deliveries/{one}"));
    let endpoint = |page: &str| between(page, "<dt>Endpoint</dt>", "</dd>").to_owned();
    let told = endpoint(&browser.logged_in(ADMIN).page(&page));
    assert!(
        told.contains(old) && told.contains("href=\"/endpoints/ci\""),
        "{told}"
    );
    let told = endpoint(&browser.logged_in(EDITOR).page(&page));
    assert!(
        told.contains("badge failing") && told.contains("its name can&#39;t be resolved"),
        "{told}"
    );
    assert!(!told.contains(old) && !told.contains("href="), "{told}");
    shipbell.set_url("ci", &receiver.url("/hook"));
    shipbell.write_settings();
    shipbell.hang_up();
    receiver.wait_for_image("acme/app:1", SOON);
    delivery(&admin, "acme/app", "delivered");
    assert!(admin.get(&attempt).text().contains(old), "it is in the history");
    let attempts = browser.logged_in(ADMIN).page(&page);
    assert_eq!(
        (
            attempts.matches(">What was sent<").count(),
            attempts.matches(">The request<").count()
        ),
        (1, 1),
        "one was answered, and of the other nobody knows whether it was sent: {attempts}"
    );
    let browser = browser.logged_in(EDITOR);
    for told in [
        eve.get(&attempt).text(),
        eve.get("/api/v1/deliveries?repository=acme%2Fapp").text(),
        eve.get("/api/v1/why?image=acme/app:1").text(),
        browser.page(&page),
        browser.page(PAGE),
    ] {
        assert!(!told.contains(old), "{told}");
    }
    assert!(eve.get(&attempt).text().contains("its name can't be resolved"));
}

#[test]
fn a_history_that_cant_be_written_is_said_on_the_overview_and_logged_once() {
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(own().endpoint("ci", &receiver.url("/hook")));
    let written = Api::at(shipbell.admin_port()).json("/api/v1/overview");
    assert_eq!(
        written["figures"]["disk"]["history_problem"],
        json!(null),
        "{written:#}"
    );
    shipbell.stop();
    let file = shipbell.data().join("catalog.db");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    shipbell.start_again();
    let api = Api::at(shipbell.admin_port());
    for tag in ["1", "2", "3"] {
        shipbell.push("acme/app", tag);
        receiver.wait_for_image(&format!("acme/app:{tag}"), SOON);
    }
    let told = eventually("it is told", SOON, || {
        let overview = api.json("/api/v1/overview");
        let problem = overview["figures"]["disk"]["history_problem"].as_str();
        problem.map(ToOwned::to_owned)
    });
    assert!(!told.is_empty());
    let page = Browser::at(&shipbell).page("/overview");
    assert!(
        page.contains("The history can&#39;t be written") || page.contains("The history can't be written"),
        "{page}"
    );
    let log = shipbell.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("the history can't be written"));
    assert_eq!(lines.count(), 1, "{log}");
}

#[test]
fn what_was_not_looked_through_to_its_end_is_not_said_to_have_nothing() {
    let receiver = Receiver::scripted(|request| {
        let is_taken = String::from_utf8_lossy(&request.body).contains("other/taken");
        Answer::Status(if is_taken { 200 } else { 404 })
    });
    let config = with_tokens().with("[delivery]\nretry_schedule = ['10ms']\njitter = 0.0\nrate = '0'");
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook")));
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    // More repositories that the editor may see than are looked for one by one.
    for number in 0..40 {
        let own = json!({"url": receiver.url("/own")});
        assert_eq!(api.set(&format!("acme/r{number}"), &own).status, 201);
    }
    // More deliveries than are gone through for a page of one.
    for some in 0..10 {
        let pushes: Vec<Value> = (0..100)
            .map(|number| envelope::push("other/taken", &format!("{some}-{number}"), "x"))
            .collect();
        shipbell.take(envelope::of(&pushes));
    }
    let tags: Vec<String> = (0..50).map(|number| format!("t{number}")).collect();
    let pushes: Vec<Value> = (tags.iter())
        .map(|tag| envelope::push("other/app", tag, tag))
        .collect();
    shipbell.take(envelope::of(&pushes));
    eventually("all are given up, and written down", SOON, || {
        let count = |path: &str| api.json(path)["items"].as_array().unwrap().len();
        let letters = count("/api/v1/dead-letters?limit=1000");
        let given_up = count("/api/v1/deliveries?state=dead_letter&limit=1000");
        let delivered = count("/api/v1/deliveries?state=delivered&limit=1000");
        (letters == 50 && given_up == 50 && delivered == 1_000).then_some(())
    });
    let eve = Browser::at(&shipbell).logged_in(EDITOR);
    let mut page = eve.page("/deliveries?limit=1");
    assert!(
        page.contains("not all was looked through") && page.contains("rel=\"next\""),
        "{page}"
    );
    let mut pages = 1;
    while page.contains("rel=\"next\"") {
        let next = between(&page, "rel=\"next\" href=\"", "\"").replace("&#38;", "&");
        page = eve.page(&next);
        pages += 1;
        assert!(pages < 60, "it comes to an end");
    }
    assert!(page.contains("There is nothing more here."), "{page}");
    // Letters are found by the names of their repositories, of which none may be seen.
    let letters = eve.page("/dead-letters?limit=1");
    assert!(
        letters.contains("There is none of a repository that you may see."),
        "{letters}"
    );
    assert!(!letters.contains("rel=\"next\""), "{letters}");
}

#[test]
fn an_endpoint_that_fails_and_is_owed_nothing_is_tried_with_the_next_push() {
    let is_well = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&is_well);
    let receiver =
        Receiver::scripted(move |_| Answer::Status(if told.load(Ordering::Acquire) { 200 } else { 503 }));
    let config = own().with("batch.window = '0s'\n[delivery]\nretry_schedule = ['200ms']\njitter = 0.0");
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook")));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    shipbell.push("acme/app", "1");
    let one = id(&delivery(&api, "acme/app", "delivered"));
    is_well.store(false, Ordering::Release);
    let again = api.post(&format!("/api/v1/deliveries/{one}/redeliver"));
    assert_eq!(again.json()["status"], 503, "{}", again.text());
    let is_over = || {
        let endpoint = api.json("/api/v1/endpoints/ci");
        (endpoint["state"] == "failing" && endpoint["next_attempt"].is_null()).then_some(())
    };
    eventually("the moment is over", SOON, is_over);
    let page = browser.page("/endpoints");
    assert!(page.contains(">with the next push<"), "{page}");
    let page = browser.page("/endpoints/ci");
    assert!(
        page.contains("The next attempt is made with the next push"),
        "{page}"
    );
}

#[test]
fn a_repository_that_the_filter_leaves_out_says_that_nothing_is_sent() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own().with("filter.exclude_repositories = ['acme/tmp-*']"));
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let saved = |path: &str| {
        let fields = [
            ("url", receiver.url("/hook")),
            ("tags", "**".to_owned()),
            ("enabled", "yes".to_owned()),
        ];
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let answer = browser.submit(path, &fields);
        assert_eq!(answer.status, 303, "{}", answer.text());
        browser.page(answer.header("location").unwrap())
    };
    let why = "What is pushed here is left out by filter.exclude_repositories: nothing is sent.";
    let page = saved("/repositories/acme%2Ftmp-1");
    assert!(
        page.contains("Saved, but nothing is sent") && !page.contains("The next push goes there"),
        "{page}"
    );
    assert!(page.contains(why), "{page}");
    assert!(
        browser.page("/repositories/acme%2Ftmp-2").contains(why),
        "before it is saved, too"
    );
    let page = saved("/repositories/acme%2Fapp");
    assert!(
        page.contains("The next push goes there") && !page.contains(why),
        "{page}"
    );
    let set = api.set("acme/tmp-3", &json!({"url": receiver.url("/hook")}));
    assert_eq!(set.status, 201, "{}", set.text());
    assert_eq!(set.json()["warnings"][0]["pointer"], "/repository");
}
