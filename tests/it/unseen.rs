//! Somebody who may see few of many repositories finds them on the first page.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use crate::{
    pages::{ADMIN, VIEWER, with_tokens},
    support::{
        SOON,
        api::{Api, webhook_of},
        envelope, eventually,
        receiver::Receiver,
        shipbell::Shipbell,
    },
};

/// More than a page has, many times over.
const OTHERS: usize = 1_500;

#[test]
fn few_that_may_be_seen_among_many_are_on_the_first_page() {
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(with_tokens().endpoint("hook", &receiver.url("/hook")));
    let [admin, viewer] = [ADMIN, VIEWER].map(|token| Api::at(shipbell.admin_port()).bearer(token));
    let own = admin.set("acme/app", &json!({"url": receiver.url("/own")}));
    assert_eq!(own.status, 201, "{}", own.text());
    // Its deliveries are the oldest of all, and its name is the last.
    shipbell.take(envelope::one("acme/app", "1"));
    let names: Vec<String> = (0..OTHERS).map(|number| format!("aaa/r{number}")).collect();
    for some in names.chunks(100) {
        let pushes: Vec<_> = some.iter().map(|name| envelope::push(name, "1", name)).collect();
        shipbell.take(envelope::of(&pushes));
    }
    let last = names.last().unwrap().replace('/', "%2F");
    eventually("all are written down", SOON, || {
        let found = admin.json(&format!("/api/v1/deliveries?repository={last}&state=delivered"));
        (!found["items"].as_array().unwrap().is_empty()).then_some(())
    });
    for sort in ["name", "last_push", "size"] {
        let page = viewer.json(&format!("/api/v1/repositories?sort={sort}"));
        let found: Vec<_> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["name"])
            .collect();
        assert_eq!(found, ["acme/app"], "{sort}");
        assert!(page["next"].is_null(), "{sort}: {page:#}");
    }
    // Of two, each has a page.
    let other = admin.set("acme/zoo", &json!({"url": receiver.url("/own")}));
    assert_eq!(other.status, 201, "{}", other.text());
    eventually("it is known", SOON, || {
        let page = viewer.json("/api/v1/repositories");
        (page["items"].as_array().unwrap().len() == 2).then_some(())
    });
    for sort in ["name", "last_push", "size"] {
        let sorted = format!("/api/v1/repositories?sort={sort}&limit=1");
        let first = viewer.json(&sorted);
        let next = first["next"].as_str().unwrap();
        let second = viewer.json(&format!("{sorted}&cursor={next}"));
        let names = [&first, &second].map(|page| page["items"][0]["name"].as_str().unwrap());
        assert_eq!(names, ["acme/app", "acme/zoo"], "{sort}");
        assert!(second["next"].is_null(), "{sort}: {second:#}");
    }
    let page = viewer.json("/api/v1/deliveries");
    let found: Vec<_> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            (
                item["repository"].as_str().unwrap(),
                item["endpoint"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found.len(),
        2,
        "the operator's endpoint, and that of {}: {page:#}",
        webhook_of("acme/app")
    );
    assert!(
        found.iter().all(|(repository, _)| *repository == "acme/app"),
        "{found:?}"
    );
    assert!(page["next"].is_null(), "{page:#}");

    // A page's cursor does not say at what it stopped.
    let begun = viewer.json("/api/v1/deliveries?limit=1");
    assert_eq!(begun["items"].as_array().unwrap().len(), 1);
    let next = begun["next"].as_str().unwrap();
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(next).unwrap();
    assert!(!bytes.windows(4).any(|four| four == b"hook"), "{next}");
    let behind = |cursor: &str| format!("/api/v1/deliveries?limit=2&cursor={cursor}");
    let by_hand = BASE64_URL_SAFE_NO_PAD.encode(br#"[17592186044417,"hook"]"#);
    let of_another_list = admin.json("/api/v1/repositories?limit=1")["next"].clone();
    let (_, cut) = next.split_at(4);
    for cursor in [cut, &by_hand, of_another_list.as_str().unwrap()] {
        let refused = viewer.get(&behind(cursor));
        assert_eq!(refused.status, 422, "{cursor}");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("none of this list's"), "{detail}");
    }
    shipbell.stop();
    shipbell.start_again();
    let viewer = Api::at(shipbell.admin_port()).bearer(VIEWER);
    let page = viewer.json(&behind(next));
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "{page:#}");
}
