//! The pages, as somebody without a script uses them (CONTRACT 7 and 8).

use std::io::Write;

use serde_json::json;

use crate::support::{
    SOON,
    api::{Api, webhook_of},
    envelope, eventually,
    http::Response,
    raw::{RawReceiver, read_head, wait_for_close},
    receiver::Receiver,
    shipbell::{Config, Shipbell},
};

/// A browser that sends forms from our own pages.
struct Browser(Api);

impl Browser {
    fn at(shipbell: &Shipbell) -> Self {
        let page = Api::at(shipbell.admin_port()).with("Accept", "text/html,*/*;q=0.8");
        Self(page.with("Sec-Fetch-Site", "same-origin"))
    }

    fn get(&self, path: &str) -> Response {
        let page = self.0.get(path);
        is_sound(path, &page);
        page
    }

    fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let body = form.extend_pairs(fields).finish();
        let form = self.0.with("Content-Type", "application/x-www-form-urlencoded");
        let page = form.send("POST", path, body.as_bytes());
        is_sound(path, &page);
        page
    }
}

/// Within its policy: nothing inline, nothing from elsewhere.
fn is_sound(path: &str, page: &Response) {
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let text = page.text();
    for inline in ["<script", " style=", " onclick=", "javascript:"] {
        assert!(!text.contains(inline), "{path} has {inline}");
    }
}

fn own() -> Config {
    Config::without_registry().with("delivery.allow_networks = ['127.0.0.0/8']")
}

fn push(shipbell: &Shipbell, tag: &str) {
    shipbell.take(envelope::of(&[envelope::push("acme/app", tag, tag)]));
}

const PAGE: &str = "/repositories/acme%2Fapp";

/// The version that a page's form carries.
fn version(page: &Response) -> String {
    let text = page.text();
    let (_, rest) = text.split_once("name=\"version\" value=\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

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
    let form = [
        ("version", ""),
        ("url", url.as_str()),
        ("tags", "1.*, latest"),
        ("enabled", "yes"),
    ];
    let saved = browser.submit(PAGE, &form);
    assert_eq!(saved.status, 303, "{}", saved.text());
    let page = browser.get(saved.header("location").unwrap());
    assert!(page.text().contains(&receiver.url("/hook?…")), "{}", page.text());
    assert!(!page.text().contains("hunter2"));
    push(&shipbell, "1.4");
    assert_eq!(receiver.wait_for(1, SOON)[0].image(), "acme/app:1.4");
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
    let late = browser.submit(PAGE, &form);
    assert_eq!(late.status, 412, "it was there already");
    assert!(
        late.text().contains("Somebody else changed it"),
        "{}",
        late.text()
    );
    let first = version(&page);
    let again = [
        ("version", first.as_str()),
        ("url", "https://ci.example.com/"),
        ("tags", "**"),
    ];
    assert_eq!(browser.submit(PAGE, &again).status, 303);
    assert_eq!(browser.submit(PAGE, &again).status, 412, "an old page");
    let newest = version(&browser.get(PAGE));
    let removed = browser.submit(&format!("{PAGE}/remove"), &[("version", &newest)]);
    assert!(removed.text().contains("Removed"), "{}", removed.text());
    assert_eq!(
        Api::at(shipbell.admin_port()).get(&webhook_of("acme/app")).status,
        404
    );
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
        page.contains("answered 500") && page.contains("shipbell-test"),
        "{page}"
    );
    assert!(page.contains("alert(1)"), "{page}");
    let rotated = browser.submit(&format!("{PAGE}/rotate"), &[]).text();
    let (_, rest) = rotated.split_once("<code>whsec_").unwrap();
    let secret = rest.split('<').next().unwrap();
    assert!(!browser.get(PAGE).text().contains(secret), "shown once");
    let strange = browser
        .0
        .with("Sec-Fetch-Site", "cross-site")
        .post(&format!("{PAGE}/test"));
    assert_eq!(strange.status, 403);
    assert_eq!(browser.get("/nowhere").status, 404);
}

#[test]
fn somebody_logs_in_with_a_token_and_is_led_back() {
    let shipbell = Shipbell::start(own().with(
        "[admin]\nauth = 'token'\n[[admin.tokens]]\nname = 'ann'\ntoken = 'a-token-0123456789'\nrole = 'admin'",
    ));
    let browser = Browser::at(&shipbell);
    let led = browser.get("/repositories/acme%2Fapp?x=1");
    assert_eq!(led.status, 303);
    let login = led.header("location").unwrap().to_owned();
    assert_eq!(login, "/login?next=%2Frepositories%2Facme%252Fapp%3Fx%3D1");
    assert!(
        browser
            .get(&login)
            .text()
            .contains("value=\"/repositories/acme%2Fapp?x=1\"")
    );
    let wrong = browser.submit("/login", &[("token", "no"), ("next", "/")]);
    assert_eq!(wrong.status, 401);
    assert!(wrong.text().contains("token-error"), "{}", wrong.text());
    for (next, to) in [
        ("/repositories/acme%2Fapp?x=1", "/repositories/acme%2Fapp?x=1"),
        ("//evil.example", "/repositories"),
    ] {
        let right = browser.submit("/login", &[("token", "a-token-0123456789"), ("next", next)]);
        assert_eq!((right.status, right.header("location")), (303, Some(to)));
        let cookie = right.header("set-cookie").unwrap();
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
            "{cookie}"
        );
        let session = cookie.split(';').next().unwrap();
        let inside = Browser(browser.0.with("Cookie", session));
        assert_eq!(inside.get("/repositories").status, 200);
        let foreign = inside.0.with("Sec-Fetch-Site", "cross-site");
        assert_eq!(foreign.send("POST", &format!("{PAGE}/test"), &[]).status, 403);
    }
    assert_eq!(browser.get("/assets/style.css").status, 200);
    assert_eq!(
        Api::at(shipbell.admin_port()).get("/repositories").status,
        401,
        "no browser"
    );
}
