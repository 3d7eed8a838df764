//! What a page takes and never shows: the secret of signatures, the values of headers.

use rusqlite::Connection;
use serde_json::json;

use super::{PAGE, own};
use crate::{
    signatures::is_verified,
    support::{
        SOON,
        api::{Api, webhook_of},
        browser::{Browser, between, version},
        receiver::Receiver,
        shipbell::Shipbell,
    },
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ANOTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The form, with these fields more.
fn form<'a>(version: &'a str, url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let form = [
        ("version", version),
        ("url", url),
        ("tags", "**"),
        ("enabled", "yes"),
    ];
    form.into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn a_secret_is_typed_replaced_and_removed_and_shown_by_no_page() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own());
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let url = receiver.url("/");
    let signatures = |number: usize| {
        shipbell.push("acme/app", &number.to_string());
        let webhook = receiver.wait_for(number, SOON).remove(number - 1);
        let signatures = webhook.find_header("webhook-signature");
        signatures.map_or(0, |signatures| signatures.split(' ').count())
    };
    let save = |more: &[(&str, &str)]| {
        let page = browser.page(PAGE);
        let saved = browser.submit(PAGE, &form(&version(&page), &url, more));
        assert_eq!(saved.status, 303, "{}", saved.text());
        let page = browser.page(saved.header("location").unwrap());
        for secret in [SECRET, ANOTHER] {
            assert!(!page.contains(secret), "{page}");
        }
        page
    };
    let page = browser.page(PAGE);
    assert!(page.contains("name=\"secret\" type=\"password\""), "{page}");
    assert!(
        !page.contains("name=\"without_secret\""),
        "there is none to remove"
    );
    let page = save(&[("secret", SECRET)]);
    assert!(page.contains("Requests are signed."), "{page}");
    assert_eq!(signatures(1), 1);
    let page = save(&[("secret", "")]);
    assert!(
        page.contains("Requests are signed."),
        "left empty, it stays: {page}"
    );
    save(&[("secret", ANOTHER)]);
    assert_eq!(signatures(2), 2, "the one before signs too");
    let page = save(&[("without_secret", "yes")]);
    assert!(page.contains("Requests are not signed."), "{page}");
    assert_eq!(signatures(3), 0);
    assert_eq!(api.json(&webhook_of("acme/app"))["has_secret"], false);
}

#[test]
fn a_secret_that_is_none_is_refused_at_its_field_and_has_to_be_typed_again() {
    let shipbell = Shipbell::start(own());
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let url = "https://ci.example.com/hook";
    assert_eq!(
        api.set("acme/app", &json!({"url": url, "secret": SECRET})).status,
        201
    );
    let version = version(&browser.page(PAGE));
    for (more, words) in [
        (vec![("secret", "hunter2")], "begins with neither whsec_"),
        (vec![("secret", "whsec_aHVudGVyMg==")], "24 to 64"),
        (vec![("secret", "whsec_hunter2!")], "not base64"),
        (vec![("secret", "…")], "type the secret itself"),
        (
            vec![("secret", "whsec_hunter2"), ("without_secret", "yes")],
            "either type a secret",
        ),
        (
            vec![("secret", ANOTHER), ("headers", "hunter2 has no colon")],
            "type the secret once more",
        ),
    ] {
        let refused = browser.submit(PAGE, &form(&version, url, &more));
        assert_eq!(refused.status, 422, "{more:?}");
        let page = refused.text();
        let error = between(&page, "id=\"secret-error\"", "</p>");
        assert!(error.contains(words), "{more:?}: {error}");
        for one in page.split("class=\"field-error\">").skip(1) {
            let (words, _) = one.split_once('<').unwrap();
            assert!(words.ends_with('.') && !words.ends_with(".."), "{words}");
        }
        let secret = more[0].1;
        assert!(secret == "…" || !page.contains(secret), "{secret}: {page}");
    }
    let late = browser.submit(PAGE, &form("99999", url, &[("secret", ANOTHER)]));
    assert_eq!(late.status, 412);
    let table = between(&late.text(), "What differs", "</table>").to_owned();
    assert!(
        table.contains("a new one") && table.contains("there is one"),
        "{table}"
    );
    assert!(!late.text().contains(ANOTHER));
}

#[test]
fn a_url_on_another_server_asks_for_the_values_of_the_headers_at_their_field() {
    let (receiver, other) = (Receiver::start(), Receiver::start());
    let shipbell = Shipbell::start(own());
    let (browser, api) = (Browser::at(&shipbell), Api::at(shipbell.admin_port()));
    let body = json!({"url": receiver.url("/"), "headers": {"X-Key": "hunter2"}});
    assert_eq!(api.set("acme/app", &body).status, 201);
    let version = version(&browser.page(PAGE));
    let url = other.url("/");
    let refused = browser.submit(PAGE, &form(&version, &url, &[("headers", "X-Key: …")]));
    assert_eq!(refused.status, 422);
    let page = refused.text();
    let error = between(&page, "id=\"headers-error\"", "</p>");
    assert!(
        error.contains("X-Key: the URL points to another server now"),
        "{error}"
    );
    assert!(
        page.contains(&format!("value=\"{url}\"")),
        "what was typed: {page}"
    );
    let saved = browser.submit(PAGE, &form(&version, &url, &[("headers", "X-Key: typed")]));
    assert_eq!(saved.status, 303, "{}", saved.text());
    shipbell.push("acme/app", "1");
    assert_eq!(other.wait_for(1, SOON)[0].header("x-key"), "typed");
}

#[test]
fn what_is_refused_comes_back_without_what_may_be_secret_and_is_kept_otherwise() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own());
    let browser = Browser::at(&shipbell);
    let url = receiver
        .url("/hook?token=hunter1")
        .replace("http://", "http://user:hunter2@");
    let headers = "X-Team: hunter3\r\nhunter4 has no colon";
    let typed = [("url", &*url), ("tags", "1.*, [ok]"), ("headers", headers)];
    let fields: Vec<_> = typed
        .into_iter()
        .chain([("version", ""), ("enabled", "yes")])
        .collect();
    let refused = browser.submit(PAGE, &fields);
    assert_eq!(refused.status, 422);
    let page = refused.text();
    assert!(!page.contains("hunter"), "{page}");
    let shown = receiver.url("/hook?…");
    assert!(
        page.contains(&format!(
            "name=\"url\" type=\"text\" inputmode=\"url\" value=\"{shown}\""
        )),
        "{page}"
    );
    assert!(
        page.contains("value=\"1.*, [ok]\"") && page.contains("X-Team: …\n…</textarea>"),
        "{page}"
    );
    for field in ["url", "headers"] {
        let error = between(&page, &format!("id=\"{field}-error\""), "</p>");
        assert!(error.contains("once more"), "{field}: {error}");
    }
    // As it was shown it is nobody's, whoever saves it.
    let again = [
        ("version", ""),
        ("url", &*shown),
        ("tags", "1.*"),
        ("headers", "X-Team: …"),
        ("again_url", between(&page, "name=\"again_url\" value=\"", "\"")),
        (
            "again_headers",
            between(&page, "name=\"again_headers\" value=\"", "\""),
        ),
    ];
    assert_eq!(browser.submit(PAGE, &again).status, 422);
    let mended: Vec<_> = again
        .into_iter()
        .map(|(name, value)| match name {
            "url" => (name, &*url),
            "headers" => (name, "X-Team: hunter3"),
            _ => (name, value),
        })
        .chain([("enabled", "yes")])
        .collect();
    assert_eq!(browser.submit(PAGE, &mended).status, 303);
    shipbell.push("acme/app", "1.4");
    let webhook = receiver.wait_for(1, SOON).remove(0);
    assert!(webhook.line().contains("token=hunter1"), "{}", webhook.line());
    assert_eq!(webhook.header("x-team"), "hunter3");
}

#[test]
fn a_rotated_secret_signs_beside_the_one_before_until_that_is_over_and_the_audit_says_so() {
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(own());
    let rotate = |shipbell: &Shipbell| {
        let browser = Browser::at(shipbell);
        let page = browser.page(PAGE);
        let made = browser
            .submit(&format!("{PAGE}/rotate"), &[("version", &version(&page))])
            .text();
        between(&made, "<code>", "</code>").to_owned()
    };
    let api = Api::at(shipbell.admin_port());
    assert_eq!(
        api.set("acme/app", &json!({"url": receiver.url("/")})).status,
        201
    );
    let (first, second) = (rotate(&shipbell), rotate(&shipbell));
    let takes = |number: usize, shipbell: &Shipbell| {
        shipbell.push("acme/app", &number.to_string());
        let webhook = receiver.wait_for(number, SOON).remove(number - 1);
        [&first, &second].map(|secret| is_verified(secret, &webhook, &webhook.body))
    };
    assert_eq!(takes(1, &shipbell), [true, true]);
    let log = shipbell.log();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let audited = ["webhook saved", "secret made", "secret rotated"].map(lines);
    assert_eq!(audited, [1, 1, 1], "{log}");
    assert!(!log.contains(&first) && !log.contains(&second));
    // A day later.
    shipbell.terminate();
    assert_eq!(shipbell.wait(SOON).code(), Some(0));
    let settings = Connection::open(shipbell.data().join("settings.db")).unwrap();
    let sql = "UPDATE repository_webhooks SET previous_until_ms = previous_until_ms - 86400000";
    assert_eq!(settings.execute(sql, []).unwrap(), 1);
    drop(settings);
    shipbell.start_again();
    assert_eq!(takes(2, &shipbell), [false, true]);
    let page = Browser::at(&shipbell).page(PAGE);
    assert!(
        page.contains("Requests are signed.") && !page.contains("The secret before signs too"),
        "{page}"
    );
}
