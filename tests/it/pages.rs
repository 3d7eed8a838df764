//! The pages, as somebody without a script uses them (CONTRACT 7 and 8).

use std::io::Write;

use serde_json::json;

use crate::support::{
    SOON,
    api::{Api, webhook_of},
    browser::{Browser, between, version},
    eventually,
    raw::{RawReceiver, read_head, wait_for_close},
    receiver::Receiver,
    shipbell::{Config, Shipbell},
};

mod authority;
mod columns;
mod endpoints;
mod escaped;
mod letters;
mod lists;
mod live;
mod overview;
mod people;
mod secrets;
mod truth;

pub(crate) use live::Stream;
pub(crate) use people::{ADMIN, EDITOR, VIEWER, with_tokens};

fn own() -> Config {
    Config::without_registry().with("delivery.allow_networks = ['127.0.0.0/8']")
}

const PAGE: &str = "/repositories/acme%2Fapp";

#[test]
fn a_url_that_is_typed_gets_the_push_and_a_bad_one_a_sentence_at_its_field() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own());
    let browser = Browser::at(&shipbell);
    let empty = browser.get("/repositories").text();
    let ingest = format!("http://127.0.0.1:{}/events", shipbell.ingest());
    assert!(
        empty.contains(&ingest) && empty.contains("notifications:"),
        "{empty}"
    );
    assert_eq!(
        browser.get("/repository?name=acme/app").header("location"),
        Some(PAGE)
    );
    let refused = browser.submit(PAGE, &[("version", ""), ("url", "<b>nothing"), ("tags", "**")]);
    assert_eq!(refused.status, 422);
    let text = refused.text();
    assert!(
        text.contains("id=\"url-error\"") && text.contains("it is not a URL"),
        "{text}"
    );
    assert!(
        text.contains("aria-invalid=\"true\"") && !text.contains("<b>nothing"),
        "{text}"
    );
    let url = receiver.url("/hook?token=hunter2");
    let untagged = browser.submit(PAGE, &[("version", ""), ("url", &url), ("tags", " ")]);
    assert_eq!(untagged.status, 422);
    let text = untagged.text();
    let error = between(&text, "id=\"tags-error\"", "</p>");
    assert!(
        error.contains("patterns; ** alone is for every tag") && !error.contains('['),
        "{error}"
    );
    let form = [
        ("version", ""),
        ("url", url.as_str()),
        ("tags", "1.*,, latest,"),
        ("headers", "X-Team: hunter3\r\n"),
        ("enabled", "yes"),
    ];
    let saved = browser.submit(PAGE, &form);
    assert_eq!(saved.status, 303, "{}", saved.text());
    let page = browser.get(saved.header("location").unwrap());
    assert!(page.text().contains(&receiver.url("/hook?…")), "{}", page.text());
    assert!(!page.text().contains("hunter2") && !page.text().contains("hunter3"));
    assert!(page.text().contains("X-Team: …") && page.text().contains("value=\"1.*, latest\""));
    shipbell.push("acme/app", "1.4");
    let first = receiver.wait_for(1, SOON).remove(0);
    assert_eq!(first.image(), "acme/app:1.4");
    assert_eq!(first.header("x-team"), "hunter3");
    let listed = eventually("it is on the page", SOON, || {
        let page = browser.get(PAGE).text();
        page.contains("acme/app:1.4").then_some(page)
    });
    let (_, rest) = listed.split_once("href=\"/deliveries/").unwrap();
    let id = rest.split('"').next().unwrap();
    assert!(
        browser
            .get(&format!("/deliveries/{id}"))
            .text()
            .contains("Send again")
    );
    let again = browser.submit(&format!("/deliveries/{id}/redeliver"), &[]);
    assert!(again.text().contains("Sent again, and taken"), "{}", again.text());
    assert_eq!(receiver.wait_for(2, SOON)[1].id(), id);
}

#[test]
fn of_two_who_save_at_once_the_second_sees_what_differs_and_keeps_what_was_typed() {
    let shipbell = Shipbell::start(own());
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let theirs =
        json!({"url": "https://ci.example.com/theirs?token=hunter2", "headers": {"X-Theirs": "hunter3"}});
    assert_eq!(api.set("acme/app", &theirs).status, 201);
    let mine = [
        ("version", ""),
        ("url", "https://ci.example.com/mine?token=hunter4"),
        ("tags", "1.*"),
        ("headers", "X-Mine: hunter5"),
    ];
    let late = browser.submit(PAGE, &mine);
    assert_eq!(late.status, 412, "it was there already");
    let late = late.text();
    let table = between(&late, "What differs", "</table>");
    for shown in [
        "https://ci.example.com/mine?…",
        "https://ci.example.com/theirs?…",
        "X-Mine",
        "X-Theirs",
        "1.*",
        "Enabled",
    ] {
        assert!(table.contains(shown), "{shown}: {table}");
    }
    for secret in ["hunter2", "hunter3"] {
        assert!(!late.contains(secret), "{secret}: {late}");
    }
    assert!(
        !table.contains("hunter4") && !table.contains("hunter5"),
        "{table}"
    );
    // What was typed is still there, but for what may be secret: that is asked for again, and not taken for theirs.
    assert!(late.contains("value=\"https://ci.example.com/mine?…\""), "{late}");
    assert!(late.contains("X-Mine: …") && !late.contains("hunter"), "{late}");
    let again = version(&late);
    let as_shown = [
        ("version", &*again),
        ("url", "https://ci.example.com/mine?…"),
        ("tags", "1.*"),
        ("again_url", between(&late, "name=\"again_url\" value=\"", "\"")),
    ];
    let refused = browser.submit(PAGE, &as_shown);
    assert_eq!(refused.status, 422, "{}", refused.text());
    let refused = refused.text();
    let error = between(&refused, "id=\"url-error\"", "</p>");
    assert!(error.contains("type it once more"), "{error}");
    let mine = mine.map(|(name, value)| {
        if name == "version" {
            (name, again.as_str())
        } else {
            (name, value)
        }
    });
    assert_eq!(browser.submit(PAGE, &mine).status, 303, "now it is meant");
    assert_eq!(browser.submit(PAGE, &mine).status, 412, "an old page");
    assert_eq!(
        api.json(&webhook_of("acme/app"))["url"],
        "https://ci.example.com/mine?…"
    );
    assert_eq!(
        api.json(&webhook_of("acme/app"))["headers"],
        json!({"X-Mine": "…"})
    );
}

#[test]
fn what_changes_a_webhook_says_which_one_it_means() {
    let shipbell = Shipbell::start(own());
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    assert_eq!(
        api.set("acme/app", &json!({"url": "https://ci.example.com/"}))
            .status,
        201
    );
    for action in ["remove", "rotate"] {
        let path = format!("{PAGE}/{action}");
        for (fields, status) in [
            (vec![], 428),
            (vec![("version", "")], 428),
            (vec![("version", "newest")], 428),
            (vec![("version", "99999")], 412),
        ] {
            let refused = browser.submit(&path, &fields);
            assert_eq!(refused.status, status, "{action} {fields:?}");
            assert!(refused.text().contains("class=\"problem\""), "{}", refused.text());
        }
    }
    let garbled = browser.submit(PAGE, &[("version", "x"), ("url", "https://ci.example.com/2")]);
    assert_eq!(garbled.status, 428);
    let there = api.json(&webhook_of("acme/app"));
    assert_eq!(
        (&there["url"], &there["has_secret"]),
        (&"https://ci.example.com/".into(), &false.into())
    );
    let asked = browser.page(&format!("{PAGE}/remove"));
    assert!(asked.contains("Nothing waits for it"), "{asked}");
    assert_eq!(api.get(&webhook_of("acme/app")).status, 200, "it was only asked");
    let removed = browser.submit(&format!("{PAGE}/remove"), &[("version", &version(&asked))]);
    assert_eq!(removed.status, 303);
    let page = browser.page(removed.header("location").unwrap());
    assert!(page.contains("Removed"), "{page}");
    assert_eq!(api.get(&webhook_of("acme/app")).status, 404);
    assert_eq!(
        browser.get(&format!("{PAGE}/remove")).status,
        404,
        "there is nothing to remove"
    );
}

#[test]
fn headers_that_cant_be_sent_are_refused_at_their_field_and_masked_ones_stay() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own());
    let (browser, url) = (Browser::at(&shipbell), receiver.url("/"));
    for (headers, words) in [
        ("no colon", "line 1 has no colon"),
        ("X-A: 1\nx-a: 2", "x-a is there twice"),
        ("webhook-id: 1", "webhook-id: "),
        ("X-A: …", "X-A: its value is masked"),
    ] {
        let form = [
            ("version", ""),
            ("url", &url),
            ("tags", "**"),
            ("headers", headers),
        ];
        let refused = browser.submit(PAGE, &form);
        assert_eq!(refused.status, 422, "{headers}");
        let page = refused.text();
        let error = between(&page, "id=\"headers-error\"", "</p>");
        assert!(error.contains(words), "{headers}: {error}");
    }
    let form = |version: &str, headers: &str| {
        let form = [
            ("version", version),
            ("url", &url),
            ("tags", "**"),
            ("headers", headers),
            ("enabled", "yes"),
        ];
        assert_eq!(browser.submit(PAGE, &form).status, 303, "{headers}");
    };
    form("", "Authorization: Bearer hunter2\nX-B: 2\n");
    let page = browser.page(PAGE);
    assert!(page.contains("Authorization: …\nX-B: …"), "{page}");
    form(&version(&page), "Authorization: …\nX-C: 3");
    shipbell.push("acme/app", "1");
    let webhook = receiver.wait_for(1, SOON).remove(0);
    assert_eq!(
        (webhook.header("authorization"), webhook.header("x-c")),
        ("Bearer hunter2", "3")
    );
    assert!(webhook.find_header("x-b").is_none());
}

#[test]
fn a_test_shows_what_was_answered_and_no_markup_of_it() {
    let receiver = RawReceiver::start(|stream| {
        read_head(stream)?;
        let answer =
            "HTTP/1.1 500 No\r\nContent-Length: 25\r\nConnection: close\r\n\r\n<script>alert(1)</script>";
        stream.write_all(answer.as_bytes())?;
        wait_for_close(stream)
    });
    let shipbell = Shipbell::start(own());
    let browser = Browser::at(&shipbell);
    let api = Api::at(shipbell.admin_port());
    assert_eq!(
        api.set("acme/app", &json!({"url": receiver.url("/")})).status,
        201
    );
    let page = browser.submit(&format!("{PAGE}/test"), &[]).text();
    assert!(
        page.contains("answered 500") && page.contains("shipbell-test") && page.contains("What was sent"),
        "{page}"
    );
    assert!(page.contains("alert(1)"), "{page}");
    let version = version(&browser.page(PAGE));
    let rotated = browser.submit(&format!("{PAGE}/rotate"), &[("version", &version)]);
    let rotated = rotated.text();
    let (_, rest) = rotated.split_once("<code>whsec_").unwrap();
    let secret = rest.split('<').next().unwrap();
    assert!(!browser.get(PAGE).text().contains(secret), "shown once");
    let strange = browser
        .0
        .with("Sec-Fetch-Site", "cross-site")
        .post(&format!("{PAGE}/test"));
    assert_eq!(strange.status, 403);
    for _ in 0..9 {
        browser.submit(&format!("{PAGE}/test"), &[]);
    }
    let throttled = browser.submit(&format!("{PAGE}/test"), &[]);
    assert_eq!(throttled.status, 429);
    assert!(throttled.header("retry-after").is_some());
    assert!(
        throttled.text().contains("at most 10 tests a minute"),
        "{}",
        throttled.text()
    );
    assert_eq!(browser.submit("/repositories/acme%2Fnone/test", &[]).status, 404);
}

#[test]
fn a_url_whose_name_does_not_resolve_is_saved_and_whoever_saved_it_is_told_at_the_field() {
    let shipbell = Shipbell::start(own());
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let url = "https://ci:hunter1@nobody.invalid/hook?token=hunter2";
    let form = [("version", ""), ("url", url), ("tags", "**"), ("enabled", "yes")];
    let saved = browser.submit(PAGE, &form);
    assert_eq!(saved.status, 303, "{}", saved.text());
    let shown = saved.header("location").unwrap().to_owned();
    let page = browser.page(&shown);
    let warning = between(&page, "id=\"url-warning\"", "</p>");
    assert!(
        warning.contains("Saved, but nobody.invalid does not resolve right now: "),
        "{warning}"
    );
    assert!(
        page.contains("aria-describedby=\"url-warning url-hint\""),
        "{page}"
    );
    assert!(page.contains("Saved, but look at the URL."), "{page}");
    assert!(!page.contains("hunter") && !page.contains("url-error"), "{page}");
    assert!(!browser.page(&shown).contains("url-warning"), "said once");
    let test = browser.submit(&format!("{PAGE}/test"), &[]).text();
    assert!(
        test.contains("the name nobody.invalid can&#39;t be resolved"),
        "{test}"
    );
    assert!(
        test.contains("What was to be sent") && !test.contains("What was sent"),
        "{test}"
    );
    let tested = api.post("/api/v1/repositories/acme%2Fapp/webhook/test").json();
    assert_eq!(tested["connected"], false, "{tested}");

    let set = api.set("acme/other", &json!({"url": url}));
    assert_eq!(set.status, 201);
    let warning = set.json()["warnings"][0].clone();
    assert_eq!(warning["pointer"], "/url");
    let detail = warning["detail"].as_str().unwrap();
    assert!(
        detail.contains("nobody.invalid does not resolve right now"),
        "{detail}"
    );
    let there = api.json("/api/v1/repositories/acme%2Fother/webhook");
    assert_eq!(there["warnings"], serde_json::Value::Null, "{there}");
}

#[test]
fn what_goes_wrong_is_a_page_for_people_and_a_problem_document_for_programs() {
    let shipbell = Shipbell::start(own());
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let large = vec![b'a'; 300 * 1024];
    for (method, path, body, status) in [
        ("GET", "/nowhere", &[][..], 404),
        ("GET", "/repositories?limit=many", &[], 400),
        ("GET", "/repositories?cursor=x", &[], 422),
        ("GET", "/repositories/Acme", &[], 400),
        ("GET", "/repositories/%FF", &[], 400),
        ("GET", "/repository?name=Acme", &[], 400),
        ("GET", "/deliveries/none", &[], 404),
        ("GET", "/dead-letters/abc", &[], 404),
        ("GET", "/dead-letters/99999999999999999999", &[], 404),
        ("GET", "/deliveries?state=lost", &[], 400),
        ("GET", "/deliveries?since=yesterday", &[], 400),
        ("PUT", "/repositories", &[], 405),
        ("POST", "/assets/style.css", &[], 405),
        ("GET", "/repositories/acme%2Fapp/test", &[], 405),
        ("POST", PAGE, &large, 413),
    ] {
        let page = browser.0.send(method, path, body);
        let kind = page.header("content-type").unwrap_or_default();
        assert_eq!(
            (page.status, kind),
            (status, "text/html; charset=utf-8"),
            "{path}: {}",
            page.text()
        );
        assert!(
            page.text().contains("<h1>") && !page.text().contains("i64"),
            "{path}"
        );
        assert_eq!(status == 405, page.header("allow").is_some(), "{path}");
        if !path.contains("state=lost") && !path.contains("since=") && !path.contains("%FF") {
            let program = api.with("Accept", "application/json").send(method, path, body);
            assert_eq!(
                (program.status, program.header("content-type")),
                (status, Some("application/problem+json")),
                "{path}"
            );
        }
    }
    for (path, status) in [
        ("/api/v1/nowhere", 404),
        ("/api/v1/repositories?limit=0", 400),
        ("/api", 404),
    ] {
        let answer = browser.get(path);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, Some("application/problem+json")),
            "{path} is a program's, whoever asks"
        );
    }
}
