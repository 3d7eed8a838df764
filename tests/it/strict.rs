//! What the API refuses rather than take it for something else (CONTRACT 8).

use serde_json::json;

use crate::support::{
    api::{Api, webhook_of},
    shipbell::{Config, Shipbell},
};

fn start() -> (Shipbell, Api) {
    let shipbell = Shipbell::start(Config::without_registry());
    let api = Api::at(shipbell.admin_port());
    (shipbell, api)
}

#[test]
fn a_parameter_that_a_call_does_not_have_and_a_body_that_it_does_not_read_are_refused() {
    let (_shipbell, api) = start();
    let problem = |method: &str, path: &str, body: &str| {
        let refused = api.send(method, path, body.as_bytes());
        assert_eq!(refused.status, 400, "{method} {path} {body}: {}", refused.text());
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        refused.json()["detail"].as_str().unwrap().to_owned()
    };
    let replay = "/api/v1/dead-letters/replay";
    for (method, path, wrong) in [
        ("POST", format!("{replay}?endpont=ci"), "endpont"),
        ("POST", format!("{replay}?dry-run=true"), "dry-run"),
        (
            "POST",
            "/api/v1/deliveries/redeliver?endpont=ci".to_owned(),
            "endpont",
        ),
        (
            "POST",
            "/api/v1/endpoints/ci/hold?dry_run=true".to_owned(),
            "dry_run",
        ),
        ("PUT", format!("{}?dryrun=true", webhook_of("acme/app")), "dryrun"),
        ("GET", "/api/v1/deliveries?repo=acme%2Fapp".to_owned(), "repo"),
        ("HEAD", "/api/v1/overview?x".to_owned(), ""),
    ] {
        if method == "HEAD" {
            assert_eq!(api.send(method, &path, b"").status, 400, "{path}");
            continue;
        }
        let body = if method == "PUT" {
            r#"{"url":"https://ci.example.com/"}"#
        } else {
            ""
        };
        let detail = problem(method, &path, body);
        assert!(
            detail.contains(&format!("\"{wrong}\" is no parameter")),
            "{path}: {detail}"
        );
    }
    let detail = problem("POST", &format!("{replay}?p%40ssw0rd-that-somebody-typed=1"), "");
    assert!(!detail.contains("ssw0rd"), "{detail}");
    let detail = problem("POST", replay, r#"{"endpoint":"ci"}"#);
    assert!(detail.contains("in the query"), "{detail}");
    for nothing in ["", "{}"] {
        let answer = api.send("POST", &format!("{replay}?dry_run=true"), nothing.as_bytes());
        assert_eq!(answer.status, 200, "{nothing:?}: {}", answer.text());
    }
    assert_eq!(api.get(&webhook_of("acme/app")).status, 404, "nothing was saved");
}

#[test]
fn a_path_that_is_no_text_is_a_problem_too() {
    let (_shipbell, api) = start();
    for (method, path) in [
        ("GET", "/api/v1/repositories/%FF"),
        ("GET", "/api/v1/deliveries/%FF"),
        ("POST", "/api/v1/endpoints/%FF/hold"),
    ] {
        let refused = api.send(method, path, b"");
        assert_eq!(refused.status, 400, "{path}");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        assert_eq!(refused.json()["status"], 400, "{}", refused.text());
    }
    let page = api.with("Accept", "text/html").get("/repositories/%FF");
    assert_eq!(page.status, 400);
    assert!(page.text().contains("<h1>"), "{}", page.text());
}

#[test]
fn who_knows_a_webhook_as_it_was_before_it_was_disabled_does_not_enable_it_unknowingly() {
    let (_shipbell, api) = start();
    let body = json!({"url": "https://ci.example.com/hook", "enabled": true});
    let saved = api.set("acme/app", &body);
    assert_eq!(saved.status, 201, "{}", saved.text());
    let known = saved.header("etag").unwrap().to_owned();
    let act = |verb: &str| {
        let path = format!("/api/v1/endpoints/repository%3Aacme%2Fapp/{verb}");
        assert_eq!(api.post(&path).status, 200, "{verb}");
    };
    act("hold");
    act("enable");
    let there = api.get(&webhook_of("acme/app"));
    assert_eq!(there.header("etag"), Some(known.as_str()), "it is as it was");
    act("disable");
    let late = api.with("If-Match", &known).put(&webhook_of("acme/app"), &body);
    assert_eq!(late.status, 412, "{}", late.text());
    let there = api.get(&webhook_of("acme/app"));
    assert_eq!(there.json()["enabled"], false);
    let now = there.header("etag").unwrap().to_owned();
    assert_ne!(now, known);
    let knowing = api.with("If-Match", &now).put(&webhook_of("acme/app"), &body);
    assert_eq!((knowing.status, &knowing.json()["enabled"]), (200, &true.into()));
}

#[test]
fn who_knows_it_already_is_not_told_again_and_of_several_tags_one_is_enough() {
    let ((_shipbell, api), path) = (start(), webhook_of("acme/app"));
    let url = |number: u32| json!({"url": format!("https://ci.example.com/{number}")});
    let first = api.put(&path, &url(1)).header("etag").unwrap().to_owned();
    for known in [first.clone(), format!("\"0\", W/{first}"), "*".to_owned()] {
        let same = api.with("If-None-Match", &known).get(&path);
        assert_eq!((same.status, same.text().as_str()), (304, ""), "{known}");
        assert_eq!(same.header("etag"), Some(&*first));
    }
    assert_eq!(api.with("If-Match", &first).get(&path).status, 200);
    let weak = format!("W/{first}");
    for other in ["\"0\"", &weak, "\"nothing\""] {
        assert_eq!(api.with("If-Match", other).get(&path).status, 412, "{other}");
        assert_eq!(
            api.with("If-Match", other).put(&path, &url(2)).status,
            412,
            "{other}"
        );
    }
    let several = format!("\"0\", {first}");
    let second = api.with("If-Match", &several).put(&path, &url(2));
    assert_eq!(second.status, 200, "{}", second.text());
    let told = api.with("If-None-Match", &first).get(&path);
    assert_eq!((told.status, told.header("etag")), (200, second.header("etag")));
    let both = api
        .with("If-Match", "*")
        .with("If-None-Match", "*")
        .put(&path, &url(3));
    assert_eq!(both.status, 412, "it can't be there and not be there");
    assert_eq!(api.with("If-None-Match", &first).put(&path, &url(3)).status, 400);
    assert_eq!(api.with("If-Match", "nothing").put(&path, &url(3)).status, 412);
    assert_eq!(api.with("If-None-Match", "nothing").get(&path).status, 400);
    assert_eq!(
        api.with("If-None-Match", "*")
            .get(&webhook_of("acme/none"))
            .status,
        404
    );
}

#[test]
fn without_a_login_another_sites_page_has_nothing_looked_for_and_a_link_is_followed() {
    let (_shipbell, api) = start();
    let from = |site: &str, mode: &str| {
        let api = api.with("Sec-Fetch-Site", site).with("Sec-Fetch-Mode", mode);
        api.get("/api/v1/dead-letters?repository=**").status
    };
    assert_eq!(from("cross-site", "no-cors"), 403);
    assert_eq!(from("cross-site", "cors"), 403);
    assert_eq!(
        api.with("Sec-Fetch-Site", "cross-site").get("/overview").status,
        403
    );
    assert_eq!(from("cross-site", "navigate"), 200);
    assert_eq!(from("same-origin", "cors"), 200);
    assert_eq!(from("none", "navigate"), 200);
}

#[test]
fn a_page_that_is_kept_up_to_date_is_no_longer_than_it_is_by_itself() {
    let (_shipbell, api) = start();
    for list in ["deliveries", "repositories", "dead-letters"] {
        let refused = api.get(&format!("/live/{list}?limit=51"));
        assert_eq!(refused.status, 400, "{list}");
        assert!(refused.text().contains("at most 50"), "{}", refused.text());
        assert_eq!(api.get(&format!("/{list}?limit=51")).status, 200, "{list}");
    }
}

#[test]
fn a_pattern_of_any_depth_is_refused_wherever_one_can_be_sent() {
    let (_shipbell, api) = start();
    let deep = |depth: usize| format!("{}a{}", "{".repeat(depth), "}".repeat(depth));
    let encoded = deep(5_000).replace('{', "%7B").replace('}', "%7D");
    for path in ["/api/v1/dead-letters", "/dead-letters", "/live/dead-letters"] {
        // As a browser's program may send it, and as the standard has it.
        for text in [deep(15_000), encoded.clone()] {
            let refused = api.get(&format!("{path}?repository={text}"));
            assert!((400..500).contains(&refused.status), "{path}: {}", refused.status);
        }
    }
    let deep = json!({"url": "https://ci.example.com/", "tags": [deep(100)]});
    let refused = api.send("PUT", &webhook_of("acme/app"), deep.to_string().as_bytes());
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert_eq!(refused.json()["errors"][0]["pointer"], "/tags/0");
}
