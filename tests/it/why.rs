//! What a push waits for, and why it was given up, is told as it is: `shipbell why` and the API (CONTRACT 8, 9).

use std::process::Command;

use serde_json::Value;

use crate::support::{
    SOON,
    api::Api,
    envelope, eventually,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
};

/// What `shipbell why` says of an image, beside a running server or without one.
fn why(shipbell: &Shipbell, image: &str, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shipbell"));
    command.env_clear().args(["why", image]).args(more);
    let output = command.arg("--data-dir").arg(shipbell.data()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What the API tells of the delivery of an image to an endpoint, once `is_so`.
fn told(api: &Api, image: &str, endpoint: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{image} for {endpoint} is so"), SOON, || {
        let answer = api.get(&format!("/api/v1/why?image={image}"));
        let story = (answer.status == 200).then(|| answer.json())?;
        let deliveries = story["pushes"][0]["deliveries"].as_array()?.clone();
        deliveries
            .into_iter()
            .find(|one| one["endpoint"] == endpoint && is_so(one))
    })
}

#[test]
fn a_push_that_waits_for_its_endpoint_says_how_that_is_and_until_when() {
    let receiver = Receiver::scripted(|_| Answer::Status(503));
    let config = Config::without_registry()
        .with(
            "batch.window = '0s'\n[delivery]\nretry_schedule = ['10ms']\njitter = 0.0\npause_after = 2\n\
             probe_first = '1h'\nprobe_max = '1h'",
        )
        .endpoint("down", &receiver.url("/down"))
        .endpoint("stopped", &receiver.url("/stopped"));
    let mut shipbell = Shipbell::start(config);
    let api = Api::at(shipbell.admin_port());
    assert_eq!(api.post("/api/v1/endpoints/stopped/hold").status, 200);
    for tag in ["1", "2"] {
        shipbell.take(envelope::one("acme/app", tag));
    }

    let held = told(&api, "acme/app:2", "stopped", |one| {
        one["endpoint_health"]["state"] == "held"
    });
    assert_eq!(
        (&held["state"], &held["attempts_made"]),
        (&"pending".into(), &0.into())
    );
    assert!(held["endpoint_health"]["since"].is_string());
    assert_eq!(held["endpoint_health"]["next_attempt"], Value::Null);
    // Behind the one that is tried: nothing was ever sent of it.
    let paused = told(&api, "acme/app:2", "down", |one| {
        one["endpoint_health"]["state"] == "paused"
    });
    assert_eq!(paused["attempts_made"], 0);
    let next = paused["endpoint_health"]["next_attempt"]
        .as_str()
        .unwrap()
        .to_owned();

    let says = |shipbell: &Shipbell| {
        let text = why(shipbell, "acme/app:2", &[]);
        for part in [
            "waits for its endpoint, which is held since",
            "until somebody enables it: `shipbell endpoints enable stopped`",
            "waits for its endpoint, which is paused since",
            &format!("the next attempt, of the oldest push for it, is in 60 min at {next}"),
            "tried   not yet",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains("its batch to close"), "{text}");
        text
    };
    assert!(says(&shipbell).contains("a server is running"));
    let id = paused["webhook_id"].as_str().unwrap();
    let one = api.json(&format!("/api/v1/deliveries/{id}"));
    assert_eq!(one["endpoint_health"], paused["endpoint_health"]);
    // In lists as well, also of the one that was tried, which waited for less before.
    for (endpoint, next) in [("down", Value::from(next.as_str())), ("stopped", Value::Null)] {
        let listed = api.json(&format!("/api/v1/deliveries?endpoint={endpoint}"));
        let listed = listed["items"].as_array().unwrap();
        let nexts: Vec<&Value> = listed.iter().map(|one| &one["next_attempt"]).collect();
        assert_eq!(nexts, [&next; 2], "{endpoint}");
    }
    assert_eq!(
        (&held["next_at"], &paused["next_at"]),
        (&Value::Null, &one["next_at"])
    );

    shipbell.kill();
    assert!(says(&shipbell).contains("no server is running: nothing is sent until one does"));
    let value: Value = serde_json::from_str(&why(&shipbell, "acme/app:2", &["--output", "json"])).unwrap();
    let deliveries = value["pushes"][0]["deliveries"].as_array().unwrap();
    let states: Vec<&Value> = deliveries
        .iter()
        .map(|one| &one["endpoint_health"]["state"])
        .collect();
    assert_eq!(states, ["paused", "held"]);
}

#[test]
fn a_dead_letter_without_an_attempt_says_why_wherever_it_is_told() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(Config::without_registry().endpoint("hook", &receiver.url("/hook")));
    let api = Api::at(shipbell.admin_port());
    assert_eq!(api.post("/api/v1/endpoints/hook/hold").status, 200);
    shipbell.take(envelope::one("acme/app", "1"));
    assert_eq!(api.post("/api/v1/endpoints/hook/disable").status, 200);
    let given_up = told(&api, "acme/app:1", "hook", |one| one["state"] == "dead_letter");
    let why_it_was = "its endpoint is disabled";
    assert_eq!(
        (&given_up["reason"], &given_up["attempts_made"]),
        (&why_it_was.into(), &0.into())
    );
    assert_eq!(given_up["endpoint_health"], Value::Null, "it waits for nothing");
    let listed = api.json("/api/v1/deliveries?state=dead_letter");
    assert_eq!(listed["items"][0]["reason"], why_it_was);
    let id = given_up["webhook_id"].as_str().unwrap();
    assert_eq!(
        api.json(&format!("/api/v1/deliveries/{id}"))["reason"],
        why_it_was
    );
    let text = why(&shipbell, "acme/app:1", &[]);
    assert!(
        text.contains("without an attempt: its endpoint is disabled\n"),
        "{text}"
    );

    // Once it is delivered, there is nothing to explain.
    assert_eq!(api.post("/api/v1/endpoints/hook/enable").status, 200);
    assert_eq!(
        api.post(&format!("/api/v1/deliveries/{id}/redeliver")).status,
        200
    );
    let delivered = told(&api, "acme/app:1", "hook", |one| one["state"] == "delivered");
    assert_eq!(delivered["reason"], Value::Null);
}

#[test]
fn what_was_taken_before_a_kill_is_known_again_and_how_it_ended_and_counted_once() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .with("batch.window = '0s'")
        .endpoint("live", &receiver.url("/live"))
        .endpoint("stopped", &receiver.url("/stopped"));
    let mut shipbell = Shipbell::start(config);
    let api = Api::at(shipbell.admin_port());
    assert_eq!(api.post("/api/v1/endpoints/stopped/hold").status, 200);
    // The history is a moment late; whatever it has by then, the rest is made up for.
    for number in 0..200 {
        let name = format!("acme/app{number}");
        shipbell.take(envelope::of(&[envelope::push(&name, "1", &name)]));
    }
    shipbell.kill();
    for _ in ["after the kill", "and as it is then"] {
        shipbell.launch_again();
        shipbell.wait_until_ready();
        for number in 0..200 {
            let name = format!("acme/app{number}");
            // Whoever had it before the kill is known to, although that may not have been written down.
            let push = eventually(&name, SOON, || {
                let answer = api.get(&format!("/api/v1/why?image={name}:1"));
                let push = (answer.status == 200).then(|| answer.json()["pushes"][0].clone())?;
                let deliveries = push["deliveries"].as_array()?;
                let states: Vec<_> = deliveries
                    .iter()
                    .map(|one| (one["endpoint"].as_str().unwrap(), one["state"].as_str().unwrap()))
                    .collect();
                (states == [("live", "delivered"), ("stopped", "pending")]).then(|| push.clone())
            });
            assert!(push["taken_at"].is_string() && push["event_id"] != "", "{push}");
            let by_event = api.get(&format!(
                "/api/v1/why?event={}",
                push["event_id"].as_str().unwrap()
            ));
            assert_eq!(by_event.status, 200, "{}", by_event.text());
        }
        shipbell.stop();
        let history = rusqlite::Connection::open(shipbell.data().join("catalog.db")).unwrap();
        let sql = "SELECT count(*), sum(pushes) FROM repositories";
        let counted: (i64, i64) = history
            .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(counted, (200, 200));
    }
}

#[test]
fn an_image_is_found_with_the_registrys_public_host_in_front() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .with("batch.window = '0s'\nregistry.public_host = 'registry.example.com:5000'")
        .endpoint("hook", &receiver.url("/"));
    let shipbell = Shipbell::start(config);
    let api = Api::at(shipbell.admin_port());
    shipbell.take(envelope::one("acme/app", "1"));
    let delivered = |image: &str| told(&api, image, "hook", |one| one["state"] == "delivered");
    let plain = delivered("acme/app:1");
    let host = "registry.example.com:5000";
    for image in [format!("{host}/acme/app:1"), format!("{host}/acme/app")] {
        assert_eq!(delivered(&image), plain, "{image}");
    }
    let other = api.get("/api/v1/why?image=other.example.com/acme/app:1");
    assert_eq!(other.status, 404);
}
