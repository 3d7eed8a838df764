//! The secret by which a proxy is known.

use std::fs;

use super::{canary, output};
use crate::support::{
    api::Api,
    browser::Browser,
    folder, http,
    shipbell::{self, Config, Shipbell},
};

#[test]
fn the_secret_that_a_proxy_shows_shows_nowhere() {
    let folder = folder();
    let file = folder.path().join("secret");
    fs::write(&file, canary(23)).unwrap();
    let shipbell = Shipbell::start(Config::without_registry().with(&format!(
        "log.level = 'trace'\n[admin]\nauth = 'proxy'\n\
         [admin.proxy]\ntrusted_networks = ['127.0.0.0/8']\nsecret_file = '{}'",
        file.display()
    )));
    let at = |secret: u32| {
        let named = Api::at(shipbell.admin_port()).with("X-Forwarded-User", "ann");
        let shows = named.with("X-Shipbell-Proxy-Secret", &canary(secret));
        Browser(
            shows
                .with("Accept", "text/html")
                .with("Sec-Fetch-Site", "same-origin"),
        )
    };
    let (right, wrong) = (at(23), at(24));
    let mut shown = Vec::new();
    for path in [
        "/overview",
        "/repositories",
        "/repositories/acme%2Fapp",
        "/api/v1/configuration",
        "/api/v1/overview",
        "/nowhere",
    ] {
        let (let_in, turned_away) = (right.get(path), wrong.get(path));
        assert!(matches!(let_in.status, 200 | 404), "{path}: {}", let_in.status);
        assert!(
            matches!(turned_away.status, 401 | 403),
            "{path}: {}",
            turned_away.status
        );
        shown.extend([("a page", let_in.text()), ("a page", turned_away.text())]);
    }
    let fields = [
        ("version", ""),
        ("url", "https://nobody.invalid/"),
        ("tags", "**"),
    ];
    let saved = right.submit("/repositories/acme%2Fapp", &fields);
    assert_eq!(saved.status, 303, "{}", saved.text());
    let file = shipbell.data().with_file_name("shipbell.toml");
    for arguments in [&["config", "show"][..], &["config", "check"]] {
        shown.push((
            "the configuration",
            output(&mut shipbell::command(arguments, &file)),
        ));
    }
    shown.push((
        "metrics",
        http::get(shipbell.ops_port(), "/metrics").unwrap().text(),
    ));
    shown.push(("the log", shipbell.log()));
    assert!(shipbell.log().contains("webhook saved"), "{}", shipbell.log());
    for (what, text) in &shown {
        for secret in [canary(23), canary(24)] {
            assert!(!text.contains(&secret), "{secret} in {what}:\n{text}");
        }
    }
}
