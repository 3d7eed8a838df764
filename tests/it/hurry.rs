//! A push that is owed still, sent by hand: now, or with the reason why not (CONTRACT 8).

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use crate::support::{
    SOON,
    api::Api,
    envelope, eventually,
    receiver::{Answer, Receiver, Request},
    shipbell::{Config, Shipbell},
};

/// The `webhook-id` of an image's delivery, once it is written down.
fn id_of(api: &Api, image: &str) -> String {
    eventually(&format!("{image} is known"), SOON, || {
        let answer = api.get(&format!("/api/v1/why?image={image}"));
        let story = (answer.status == 200).then(|| answer.json())?;
        let id = story["pushes"][0]["deliveries"][0]["webhook_id"].as_str()?;
        Some(id.to_owned())
    })
}

#[test]
fn what_a_paused_endpoint_is_owed_goes_now_if_it_is_the_next_and_else_says_what_is() {
    let status = Arc::new(AtomicU16::new(503));
    let told = Arc::clone(&status);
    let receiver = Receiver::scripted(move |_| Answer::Status(told.load(Ordering::Acquire)));
    let config = Config::without_registry()
        .with(
            "batch.window = '0s'\n[delivery]\nretry_schedule = ['10ms']\njitter = 0.0\npause_after = 2\n\
             probe_first = '1h'\nprobe_max = '1h'",
        )
        .endpoint("hook", &receiver.url("/"));
    let shipbell = Shipbell::start(config);
    let api = Api::at(shipbell.admin_port());
    let take = |repository: &str, tag: &str| {
        shipbell.take(envelope::one(repository, tag));
    };
    take("acme/app", "1");
    eventually("it is paused", SOON, || {
        let endpoint = api.json("/api/v1/endpoints/hook");
        (endpoint["state"] == "paused" && receiver.requests().len() == 2).then_some(())
    });
    take("acme/app", "2");
    take("acme/other", "3");

    // Those behind it say what is ahead of them, when it goes, and what helps.
    let redeliver = |id: &str| api.post(&format!("/api/v1/deliveries/{id}/redeliver"));
    let (first, second, third) = (
        id_of(&api, "acme/app:1"),
        id_of(&api, "acme/app:2"),
        id_of(&api, "acme/other:3"),
    );
    for (id, ahead) in [
        (&second, format!("an older push ({first}) goes first")),
        (
            &third,
            "an older push of another repository goes first".to_owned(),
        ),
    ] {
        let refused = redeliver(id);
        let said = refused.text();
        assert_eq!(refused.status, 409, "{said}");
        for part in [
            "hook is paused: its next attempt is at 20",
            &ahead,
            "Enable the endpoint",
        ] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    }
    assert_eq!(receiver.requests().len(), 2);

    // The oldest is tried at once, once; and the endpoint is as paused as it was, for as long.
    let next = api.json("/api/v1/endpoints/hook")["next_attempt"].clone();
    assert!(next.is_string(), "{next}");
    assert_eq!(redeliver(&first).status, 202);
    let requests = receiver.wait_for(3, SOON);
    assert_eq!(
        (requests[2].image(), requests[2].id()),
        ("acme/app:1".to_owned(), &*first)
    );
    eventually("it waits for its next probe", SOON, || {
        let endpoint = api.json("/api/v1/endpoints/hook");
        let is_as_before = endpoint["failures"] == 2 && endpoint["state"] == "paused";
        (is_as_before && endpoint["next_attempt"] == next).then_some(())
    });
    assert_eq!(receiver.requests().len(), 3);

    // Once it is taken, so is all else, in order.
    status.store(200, Ordering::Release);
    assert_eq!(redeliver(&first).status, 202);
    receiver.wait_for(6, SOON);
    let requests = receiver.requests();
    let of_app: Vec<_> = requests.iter().skip(3).map(Request::image).collect();
    assert_eq!(of_app[0], "acme/app:1");
    assert!(of_app.contains(&"acme/app:2".to_owned()) && of_app.contains(&"acme/other:3".to_owned()));
}

#[test]
fn an_operators_endpoint_is_hurried_by_who_may_administer_it_alone() {
    let receiver = Receiver::scripted(|_| Answer::Status(503));
    let config = Config::without_registry()
        .with(
            "batch.window = '0s'\n[delivery]\nretry_schedule = ['1h']\njitter = 0.0\n\
             [admin]\nauth = 'token'\n\
             [[admin.tokens]]\nname = 'ann'\ntoken = 'admin-token-0123456789'\nrole = 'admin'\n\
             [[admin.tokens]]\nname = 'eve'\ntoken = 'editor-token-0123456789'\nrole = 'editor'\n\
             repositories = ['acme/**']",
        )
        .endpoint("hook", &receiver.url("/"));
    let shipbell = Shipbell::start(config);
    let api = Api::at(shipbell.admin_port());
    let (ann, eve) = (
        api.bearer("admin-token-0123456789"),
        api.bearer("editor-token-0123456789"),
    );
    shipbell.take(envelope::one("acme/app", "1"));
    eventually("it waits for its endpoint", SOON, || {
        (ann.json("/api/v1/endpoints/hook")["state"] == "failing").then_some(())
    });
    let again = format!("/api/v1/deliveries/{}/redeliver", id_of(&ann, "acme/app:1"));
    let refused = eve.post(&again);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(
        refused.text().contains("its next attempt is at"),
        "{}",
        refused.text()
    );
    assert_eq!(receiver.requests().len(), 1);
    assert_eq!(ann.post(&again).status, 202);
    receiver.wait_for(2, SOON);
}
