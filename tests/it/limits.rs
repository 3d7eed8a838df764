//! How often something is sent by hand, at most (CONTRACT 8).

use serde_json::Value;

use crate::support::{
    SOON,
    api::Api,
    browser::Browser,
    envelope, eventually,
    receiver::Receiver,
    shipbell::{Config, Shipbell},
};

/// What is refused, and says so in words and with a time.
#[track_caller]
fn is_refused(answer: &crate::support::http::Response, words: &str) {
    assert_eq!(answer.status, 429, "{}", answer.text());
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(answer.text().contains(words), "{}", answer.text());
}

#[test]
fn sending_again_has_a_limit_that_says_how_long_to_wait() {
    let receiver = Receiver::start();
    let config = Config::without_registry().with("batch.window = '0s'\ndelivery.rate = '0'");
    let shipbell = Shipbell::start(config.endpoint("ci", &receiver.url("/hook")));
    let (api, browser) = (Api::at(shipbell.admin_port()), Browser::at(&shipbell));
    shipbell.take(envelope::one("acme/app", "1"));
    let id = eventually("it is delivered", SOON, || {
        let delivery: Value = api.json("/api/v1/deliveries")["items"][0].clone();
        (delivery["state"] == "delivered").then(|| delivery["id"].as_str().unwrap().to_owned())
    });

    let one = format!("/api/v1/deliveries/{id}/redeliver");
    for _ in 0..60 {
        assert_eq!(api.post(&one).status, 200);
    }
    let refused = api.post(&one);
    is_refused(&refused, "at most 60 deliveries again a minute");
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    is_refused(
        &browser.submit(&format!("/deliveries/{id}/redeliver"), &[]),
        "An endpoint is sent at most 60 deliveries again a minute",
    );
    assert_eq!(receiver.requests().len(), 61);
    assert_eq!(
        api.post("/api/v1/endpoints/ci/test").status,
        200,
        "which is counted apart"
    );

    // Sets are counted by who asks, and those that are only counted apart.
    let (sets, letters) = ("/api/v1/deliveries/redeliver", "/api/v1/dead-letters/replay");
    let nothing = "repository=acme%2Fnone";
    for (query, words) in [
        ("dry_run=true", "counts at most 60 sets a minute"),
        ("dry_run=false", "at most 60 sets sent again a minute"),
    ] {
        for path in [sets, letters].repeat(30) {
            let done = api.post(&format!("{path}?{nothing}&{query}"));
            assert_eq!(done.status, 200, "{}", done.text());
        }
        for path in [sets, letters] {
            is_refused(&api.post(&format!("{path}?{nothing}&{query}")), words);
        }
    }
    for path in ["/deliveries/redeliver", "/dead-letters/replay"] {
        is_refused(
            &browser.get(&format!("{path}?{nothing}")),
            "One counts at most 60 sets a minute.",
        );
        is_refused(
            &browser.submit(path, &[("repository", "acme/none")]),
            "One has at most 60 sets sent again a minute",
        );
    }
    assert_eq!(api.get("/api/v1/deliveries").status, 200, "looking has none");
}
