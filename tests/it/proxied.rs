//! Who comes in by a proxy that names them (CONTRACT 7).

use serde_json::json;

use crate::support::{
    api::{Api, webhook_of},
    browser::between,
    folder,
    shipbell::{Config, Shipbell},
};

fn own() -> Config {
    Config::without_registry().with("delivery.allow_networks = ['127.0.0.0/8']")
}

#[test]
fn a_proxy_names_whoever_comes_and_shows_its_secret() {
    let folder = folder();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "the-proxys-secret-0123456789\n").unwrap();
    let shipbell = Shipbell::start(own().with(&format!(
        "[admin]\nauth = 'proxy'\nproxy = {{ trusted_networks = ['127.0.0.1/32'], secret_file = '{}' }}",
        secret.display()
    )));
    let api = Api::at(shipbell.admin_port());
    let proxied = api.with("X-Shipbell-Proxy-Secret", "the-proxys-secret-0123456789");
    let without_secret = api.with("X-Forwarded-User", "ann").get("/api/v1/repositories");
    assert_eq!(without_secret.status, 401);
    assert_eq!(
        without_secret.header("www-authenticate"),
        None,
        "no token helps here"
    );
    assert_eq!(proxied.get("/api/v1/repositories").status, 401, "it names nobody");
    let ann = proxied.with("X-Forwarded-User", "ann");
    assert_eq!(
        ann.set("acme/app", &json!({"url": "https://ci.example.com/"}))
            .status,
        201
    );
    assert_eq!(ann.json(&webhook_of("acme/app"))["saved_by"], "ann");
    let page = ann.with("Accept", "text/html").get("/overview").text();
    let head = between(&page, "class=\"who\"", "</header>");
    assert!(
        head.contains("ann <span class=\"quiet\">(admin)") && !head.contains("Log out"),
        "{head}"
    );
    let two = ann.with("X-Forwarded-User", "bea").get("/api/v1/repositories");
    assert_eq!(
        two.status,
        401,
        "a client's own name, and the proxy's: {}",
        two.text()
    );
}

#[test]
fn a_webhook_that_is_led_to_the_admin_listener_does_nothing_there_whoever_it_says_it_is() {
    let shipbell = Shipbell::start(own().with(
        "[admin]\nauth = 'proxy'\n[admin.proxy]\ntrusted_networks = ['127.0.0.1/32']\ngroups_header = 'X-Groups'",
    ));
    let ann = Api::at(shipbell.admin_port()).with("X-Forwarded-User", "ann");
    assert_eq!(
        ann.set("acme/app", &json!({"url": "https://ci.example.com/"}))
            .status,
        201
    );
    let id = "repository:acme%2Fapp";
    let disable = [
        format!("/api/v1/endpoints/{id}/disable"),
        format!("/endpoints/{id}/disable"),
    ];
    for path in disable
        .iter()
        .map(String::as_str)
        .chain(["/overview", "/app.css"])
    {
        let refused = ann.with("webhook-id", "msg_1").post(path);
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.text().contains("a webhook"), "{}", refused.text());
    }
    let state = &ann.json(&format!("/api/v1/endpoints/{id}"))["state"];
    assert_eq!(state, "healthy");
    let named = json!({"url": "https://ci.example.com/", "headers": {
        "x-forwarded-USER": "root", "X-Groups": "platform", "X-Forwarded-Groups": "one that says nothing here",
    }});
    let refused = ann.set("acme/other", &named);
    assert_eq!(refused.status, 422, "{}", refused.text());
    let refused = refused.json();
    let errors = refused["errors"].as_array().unwrap();
    let pointers: Vec<_> = errors.iter().map(|error| &error["pointer"]).collect();
    assert_eq!(
        pointers,
        ["/headers/X-Groups", "/headers/x-forwarded-USER"],
        "{errors:?}"
    );
    assert!(
        errors[0]["detail"].as_str().unwrap().contains("admin.proxy"),
        "{errors:?}"
    );
}

#[test]
fn the_groups_that_a_proxy_names_say_what_may_be_done() {
    let shipbell = Shipbell::start(own().with(
        "[admin]\nauth = 'proxy'\n\
         [admin.proxy]\ntrusted_networks = ['127.0.0.1/32']\ngroups_header = 'X-Groups'\n\
         [[admin.proxy.groups]]\ngroup = 'platform'\nrole = 'admin'\n\
         [[admin.proxy.groups]]\ngroup = 'team-a'\nrole = 'editor'\nrepositories = ['acme/**']\n\
         [[admin.proxy.groups]]\ngroup = 'auditors'\nrole = 'viewer'\n",
    ));
    let api = Api::at(shipbell.admin_port()).with("X-Forwarded-User", "ann");
    let body = json!({"url": "https://ci.example.com/"});
    for strangers in [None, Some(""), Some("Platform"), Some("platform-x, team")] {
        let api = strangers.map_or(api.clone(), |groups| api.with("X-Groups", groups));
        let refused = api.get("/api/v1/repositories");
        assert_eq!(refused.status, 403, "{strangers:?}");
        assert!(
            refused.text().contains("ann is in none of the groups"),
            "{}",
            refused.text()
        );
    }
    let page = api.with("Accept", "text/html").get("/overview");
    assert_eq!(page.status, 403);
    assert!(
        page.text().contains("Ann is in none of the groups"),
        "a page: {}",
        page.text()
    );
    let unnamed = Api::at(shipbell.admin_port()).with("X-Groups", "platform");
    assert_eq!(
        unnamed.get("/api/v1/repositories").status,
        401,
        "a group is nobody"
    );
    let team = api.with("X-Groups", "everybody, team-a");
    assert_eq!(team.set("acme/app", &body).status, 201);
    assert_eq!(team.json(&webhook_of("acme/app"))["saved_by"], "ann");
    assert_eq!(team.set("other/app", &body).status, 403);
    assert_eq!(team.get("/api/v1/configuration").status, 403);
    let auditor = api.with("X-Groups", "auditors");
    assert_eq!(auditor.get(&webhook_of("acme/app")).status, 200);
    assert_eq!(auditor.get("/api/v1/configuration").status, 200);
    assert_eq!(auditor.set("acme/web", &body).status, 403);
    // Each role for its own repositories.
    let both = api.with("X-Groups", "team-a,auditors");
    assert_eq!(both.set("acme/web", &body).status, 201);
    assert_eq!(both.set("other/app", &body).status, 403);
    assert_eq!(both.get("/api/v1/configuration").status, 200);
    assert_eq!(
        both.post("/api/v1/dead-letters/replay").status,
        403,
        "an editor of some is no admin"
    );
    let admin = api.with("X-Groups", "auditors,platform");
    assert_eq!(admin.set("other/app", &body).status, 201);
    let named = Api::at(shipbell.admin_port()).with("X-Forwarded-User", "Jürgen");
    let saved = named.with("X-Groups", "platform").set("other/new", &body);
    assert_eq!(saved.json()["saved_by"], "Jürgen", "{}", saved.text());
    // A proxy that adds its line to what a client sent.
    let added = api.with("X-Groups", "platform").with("X-Groups", "auditors");
    let refused = added.get("/api/v1/configuration");
    assert_eq!(refused.status, 401);
    assert!(
        refused.text().contains("groups_header came twice"),
        "{}",
        refused.text()
    );
    assert_eq!(admin.post("/api/v1/dead-letters/replay").status, 200);
}

#[test]
fn whoever_comes_from_elsewhere_is_nobody_whatever_is_named_and_shown() {
    let folder = folder();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "the-proxys-secret-0123456789\n").unwrap();
    let shipbell = Shipbell::start(own().with(&format!(
        "[admin]\nauth = 'proxy'\nproxy = {{ trusted_networks = ['127.0.0.2/32', '10.0.0.0/8'], secret_file = '{}' }}",
        secret.display()
    )));
    let named = Api::at(shipbell.admin_port())
        .with("X-Shipbell-Proxy-Secret", "the-proxys-secret-0123456789")
        .with("X-Forwarded-User", "ann");
    // What a proxy in front of the proxy says of the address is anybody's word.
    let forwarded = named
        .with("X-Forwarded-For", "10.1.2.3")
        .with("Forwarded", "for=10.1.2.3");
    for api in [&named, &forwarded] {
        let refused = api.get("/api/v1/repositories");
        assert_eq!(refused.status, 401, "{}", refused.text());
        assert!(
            refused.text().contains("admin.proxy.trusted_networks"),
            "{}",
            refused.text()
        );
        let set = api.set("acme/app", &json!({"url": "https://ci.example.com/"}));
        assert_eq!(set.status, 401, "{}", set.text());
        assert_eq!(api.with("Accept", "text/html").get("/overview").status, 401);
    }
}
