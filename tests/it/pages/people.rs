//! Who comes in by a browser, what they see, and how they leave.

use std::fs;

use serde_json::json;

use super::{PAGE, own};
use crate::support::{
    SOON,
    api::{Api, webhook_of},
    browser::{Browser, between, version},
    eventually, folder,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
    tls::Authority,
};

pub(crate) const ADMIN: &str = "admin-token-0123456789";
pub(crate) const EDITOR: &str = "editor-token-0123456789";
pub(crate) const VIEWER: &str = "viewer-token-0123456789";

/// An admin, an editor of `acme/**`, and a viewer of it.
pub(crate) fn with_tokens() -> Config {
    own().with(&format!(
        "[admin]\nauth = 'token'\n\
         [[admin.tokens]]\nname = 'ann'\ntoken = '{ADMIN}'\nrole = 'admin'\n\
         [[admin.tokens]]\nname = 'eve'\ntoken = '{EDITOR}'\nrole = 'editor'\nrepositories = ['acme/**']\n\
         [[admin.tokens]]\nname = 'vic'\ntoken = '{VIEWER}'\nrole = 'viewer'\nrepositories = ['acme/**']\n"
    ))
}

#[test]
fn somebody_logs_in_with_a_token_and_is_led_back_and_nowhere_else() {
    let shipbell = Shipbell::start(with_tokens());
    let browser = Browser::at(&shipbell);
    let led = browser.get("/repositories/acme%2Fapp?x=1");
    assert_eq!(led.status, 303);
    let login = led.header("location").unwrap().to_owned();
    assert_eq!(login, "/login?next=%2Frepositories%2Facme%252Fapp%3Fx%3D1");
    assert!(
        browser
            .page(&login)
            .contains("value=\"/repositories/acme%2Fapp?x=1\"")
    );
    let wrong = browser.submit("/login", &[("token", "no"), ("next", "/")]);
    assert_eq!(wrong.status, 401);
    assert!(wrong.text().contains("token-error"), "{}", wrong.text());
    for (next, to) in [
        ("/repositories/acme%2Fapp?x=1", "/repositories/acme%2Fapp?x=1"),
        ("//evil.example", "/overview"),
        ("/\t/evil.example", "/overview"),
        ("/\\evil.example", "/overview"),
    ] {
        let right = browser.submit("/login", &[("token", ADMIN), ("next", next)]);
        assert_eq!(
            (right.status, right.header("location")),
            (303, Some(to)),
            "{next:?}"
        );
        let cookie = right.header("set-cookie").unwrap();
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("Secure"),
            "{cookie}"
        );
    }
    let tabbed = browser.page("/login?next=/%09/evil.example");
    assert!(!tabbed.contains("evil"), "{tabbed}");
    let inside = browser.logged_in(ADMIN);
    assert_eq!(inside.get("/repositories").status, 200);
    let foreign = inside.0.with("Sec-Fetch-Site", "cross-site");
    assert_eq!(foreign.send("POST", &format!("{PAGE}/test"), &[]).status, 403);
    let style = browser.get("/assets/style.css");
    assert_eq!(style.status, 200);
    let known = browser.0.with("If-None-Match", style.header("etag").unwrap());
    assert_eq!(known.get("/assets/style.css").status, 304);
    assert_eq!(
        Api::at(shipbell.admin_port()).get("/repositories").status,
        401,
        "no browser"
    );
    assert_eq!(browser.get("/openapi.json").status, 401, "a program's");
}

#[test]
fn a_form_that_came_too_late_leads_to_its_page_after_the_login() {
    let shipbell = Shipbell::start(with_tokens());
    let browser = Browser::at(&shipbell);
    for (path, page) in [
        (format!("{PAGE}/test"), PAGE),
        (format!("{PAGE}/remove"), PAGE),
        (PAGE.to_owned(), PAGE),
        ("/deliveries/msg_1/redeliver".to_owned(), "/deliveries/msg_1"),
        ("/endpoints/ci/hold".to_owned(), "/endpoints"),
        ("/dead-letters/replay".to_owned(), "/dead-letters"),
    ] {
        let late = browser.submit(&path, &[]);
        assert_eq!(late.status, 303, "{path}");
        let login = browser.page(late.header("location").unwrap());
        let next = between(&login, "name=\"next\" value=\"", "\"").to_owned();
        assert_eq!(next, page);
        let led = browser.submit("/login", &[("token", ADMIN), ("next", &next)]);
        assert_eq!(led.header("location"), Some(page));
    }
}

#[test]
fn somebody_logs_out_and_the_cookie_is_good_for_nothing_any_more() {
    let shipbell = Shipbell::start(with_tokens());
    let browser = Browser::at(&shipbell);
    let inside = browser.logged_in(ADMIN);
    for path in [
        "/overview",
        "/repositories",
        PAGE,
        "/deliveries",
        "/endpoints",
        "/dead-letters",
        "/nowhere",
    ] {
        let page = inside.get(path).text();
        assert!(
            page.contains("action=\"/logout\"") && page.contains("ann"),
            "{path}"
        );
    }
    assert_eq!(inside.get("/logout").status, 405);
    let foreign = inside.0.with("Sec-Fetch-Site", "cross-site");
    assert_eq!(foreign.send("POST", "/logout", &[]).status, 403);
    assert_eq!(inside.get("/repositories").status, 200, "still inside");
    let left = inside.submit("/logout", &[]);
    assert_eq!((left.status, left.header("location")), (303, Some("/login")));
    let cookie = left.header("set-cookie").unwrap();
    assert!(
        cookie.starts_with("shipbell_session=;") && cookie.contains("Max-Age=0"),
        "{cookie}"
    );
    assert_eq!(inside.get("/repositories").status, 303, "to the login");
    assert_eq!(inside.0.get("/api/v1/repositories").status, 401);
    let open = Shipbell::start(own());
    let browser = Browser::at(&open);
    assert_eq!(browser.submit("/logout", &[]).status, 404, "there is no login");
    assert!(!browser.page("/repositories").contains("/logout"));
}

#[test]
fn a_wrong_token_is_throttled_and_a_right_one_beside_it_is_not() {
    let shipbell = Shipbell::start(with_tokens());
    let browser = Browser::at(&shipbell);
    for _ in 0..10 {
        assert_eq!(browser.submit("/login", &[("token", "wrong")]).status, 401);
    }
    let throttled = browser.submit("/login", &[("token", "wrong")]);
    assert_eq!(throttled.status, 429);
    assert!(throttled.header("retry-after").is_some());
    let inside = browser.logged_in(ADMIN);
    assert_eq!(inside.get("/repositories").status, 200);
    assert_eq!(
        browser.submit("/login", &[("token", "wrong")]).status,
        429,
        "still"
    );
}

#[test]
fn a_login_ends_when_its_token_is_another_one() {
    let folder = folder();
    let file = folder.path().join("token");
    fs::write(&file, format!("{ADMIN}\n")).unwrap();
    let shipbell = Shipbell::start(own().with(&format!(
        "[admin]\nauth = 'token'\n\
         [[admin.tokens]]\nname = 'ann'\ntoken_file = '{}'\nrole = 'admin'\n\
         [[admin.tokens]]\nname = 'eve'\ntoken = '{EDITOR}'\nrole = 'editor'\n",
        file.display()
    )));
    let browser = Browser::at(&shipbell);
    let old = "the-old-token-0123456789";
    fs::write(&file, old).unwrap();
    let (inside, eve) = (browser.logged_in(old), browser.logged_in(EDITOR));
    assert_eq!(inside.get("/repositories").status, 200);
    fs::write(&file, "the-new-token-0123456789\n").unwrap();
    assert_eq!(inside.get("/repositories").status, 303, "to the login");
    assert_eq!(inside.0.get("/api/v1/repositories").status, 401);
    fs::write(&file, old).unwrap();
    assert_eq!(inside.get("/repositories").status, 303, "it has ended");
    assert_eq!(eve.get("/repositories").status, 200, "hers has not");
    assert_eq!(browser.logged_in(old).get("/repositories").status, 200);
}

#[test]
fn under_tls_the_cookie_is_secure() {
    let (authority, folder) = (Authority::new("admin"), folder());
    let (certificate, key) = authority.certify("localhost", |_| {});
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&cert_file, certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let shipbell = Shipbell::start(with_tokens().with(&format!(
        "[admin]\ntls_cert_file = '{}'\ntls_key_file = '{}'",
        cert_file.display(),
        key_file.display()
    )));
    let body = format!("token={ADMIN}");
    for (path, body) in [("/login", body.as_str()), ("/logout", "")] {
        let answer = authority.ask(
            shipbell.admin_port(),
            &format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
        assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
        let cookie = answer
            .lines()
            .find(|line| line.starts_with("set-cookie:"))
            .unwrap();
        assert!(cookie.contains("; Secure"), "{cookie}");
    }
}

#[test]
fn a_viewer_sees_no_button_and_may_press_none() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(with_tokens());
    let api = Api::at(shipbell.admin_port()).bearer(ADMIN);
    let body = json!({"url": receiver.url("/hook?token=hunter2"), "headers": {"X-A": "hunter3"}});
    assert_eq!(api.set("acme/app", &body).status, 201);
    shipbell.push("acme/app", "1");
    let id = eventually("it is written down", SOON, || {
        let listed = api.json("/api/v1/deliveries?state=delivered");
        listed["items"][0]["id"].as_str().map(str::to_owned)
    });
    let delivery = format!("/deliveries/{id}");
    let browser = Browser::at(&shipbell);
    let (vic, eve) = (browser.logged_in(VIEWER), browser.logged_in(EDITOR));
    let page = vic.page(PAGE);
    assert!(
        page.contains(&receiver.url("/hook?…")) && page.contains("X-A: …"),
        "{page}"
    );
    let posts = |page: &str| page.matches("method=\"post\"").count();
    assert_eq!(posts(&page), 1, "to log out: {page}");
    assert!(!page.contains("/remove"), "{page}");
    assert_eq!(posts(&vic.page(&delivery)), 1);
    assert!(!vic.page("/repositories").contains("action=\"/repository\""));
    assert_eq!(posts(&eve.page(PAGE)), 5);
    assert_eq!(posts(&eve.page(&delivery)), 2);
    let version = version(&eve.page(PAGE));
    let fields = [
        ("version", version.as_str()),
        ("url", "https://ci.example.com/"),
        ("tags", "**"),
    ];
    for path in [
        PAGE.to_owned(),
        format!("{PAGE}/test"),
        format!("{PAGE}/rotate"),
        format!("{PAGE}/enable"),
        format!("{PAGE}/hold"),
        format!("{PAGE}/remove"),
        format!("{delivery}/redeliver"),
        "/endpoints/repository%3Aacme%2Fapp/disable".to_owned(),
        "/endpoints/repository%3Aacme%2Fapp/hold".to_owned(),
        "/endpoints/repository%3Aacme%2Fapp/enable".to_owned(),
        "/dead-letters/replay".to_owned(),
    ] {
        let refused = vic.submit(&path, &fields);
        assert_eq!(refused.status, 403, "{path}: {}", refused.text());
        assert!(refused.text().contains("class=\"problem\""), "{path}");
    }
    for path in [
        &format!("{PAGE}/remove"),
        "/endpoints/repository%3Aacme%2Fapp/disable",
        "/dead-letters/replay?repository=acme%2Fapp",
    ] {
        assert_eq!(vic.get(path).status, 403, "{path}");
    }
    let listed = vic.page("/endpoints");
    assert!(
        listed.contains("repository:acme/app") && posts(&listed) == 1,
        "{listed}"
    );
    assert_eq!(api.json(&webhook_of("acme/app"))["url"], receiver.url("/hook?…"));
    assert_eq!(receiver.requests().len(), 1);
}

#[test]
fn who_may_see_a_repository_sees_the_operators_endpoints_of_it_but_not_where_they_are() {
    // As many do that can't find what they are asked for.
    let receiver = Receiver::scripted(|request| {
        let asked = format!("no {} at {}", request.line(), request.header("host"));
        Answer::Text(500, asked)
    });
    let operators = format!(
        "delivery.retry_schedule = ['1h']\n\
         [[endpoints]]\nname = 'ci'\nrepositories = ['acme/**']\nurl = '{}'\n\
         [[endpoints]]\nname = 'elsewhere'\nrepositories = ['other/**']\nurl = '{}'",
        receiver.url("/ci"),
        receiver.url("/elsewhere")
    );
    let shipbell = Shipbell::start(with_tokens().with(&operators));
    let admin = Api::at(shipbell.admin_port()).bearer(ADMIN);
    let eve = Api::at(shipbell.admin_port()).bearer(EDITOR);
    shipbell.push("acme/app", "1");
    let id = eventually("it failed", SOON, || {
        let listed = admin.json("/api/v1/deliveries");
        (listed["items"][0]["attempts"] == 1).then(|| listed["items"][0]["id"].as_str().unwrap().to_owned())
    });
    let ids = |listed: &serde_json::Value| -> Vec<String> {
        let items = listed["items"].as_array().unwrap().iter();
        items
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&admin.json("/api/v1/endpoints")), ["ci", "elsewhere"]);
    assert_eq!(
        admin.json("/api/v1/endpoints")["items"][0]["url"],
        receiver.url("/ci")
    );
    assert_eq!(ids(&eve.json("/api/v1/endpoints")), [""; 0], "none is hers");
    let hers = eve.json("/api/v1/endpoints?repository=acme%2Fapp");
    assert_eq!(ids(&hers), ["ci"]);
    let ci = &hers["items"][0];
    assert_eq!((&ci["state"], &ci["url"]), (&"failing".into(), &json!(null)));
    assert_eq!(eve.get("/api/v1/endpoints?repository=other%2Fapp").status, 403);
    let browser = Browser::at(&shipbell).logged_in(EDITOR);
    let page = browser.page(PAGE);
    assert!(page.contains("<li>ci <span class=\"badge failing\">"), "{page}");
    assert!(!page.contains("elsewhere"), "{page}");
    let host = format!(
        "127.0.0.1:{}",
        receiver
            .url("/")
            .rsplit(':')
            .next()
            .unwrap()
            .trim_end_matches('/')
    );
    for told in [
        page,
        browser.page(&format!("/deliveries/{id}")),
        eve.get(&format!("/api/v1/deliveries/{id}")).text(),
        eve.get("/api/v1/why?image=acme/app:1").text(),
        eve.post(&format!("/api/v1/deliveries/{id}/redeliver")).text(),
    ] {
        assert!(!told.contains(&host), "{host}: {told}");
        assert!(!told.contains("no POST /ci"), "{told}");
    }
    assert!(
        admin
            .get(&format!("/api/v1/deliveries/{id}"))
            .text()
            .contains(&host)
    );
    // One that was taken is sent again at once, and what is answered then is left out as well.
    receiver.answer(|request| Answer::Text(200, format!("got it at {}", request.header("host"))));
    let again = format!("/api/v1/deliveries/{id}/redeliver");
    assert_eq!(admin.post("/api/v1/endpoints/ci/enable").status, 200);
    eventually("it is delivered", SOON, || {
        (admin.json(&format!("/api/v1/deliveries/{id}"))["state"] == "delivered").then_some(())
    });
    let sent = eve.post(&again);
    assert_eq!((sent.status, &sent.json()["answer"]), (200, &json!(null)));
    assert!(!sent.text().contains(&host), "{}", sent.text());
    assert_eq!(admin.post(&again).json()["answer"], format!("got it at {host}"));
    assert_eq!(browser.get("/repositories/other%2Fapp").status, 403);
}
