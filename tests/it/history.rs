//! The history, and `shipbell why`, on a real shipbell.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::support::{
    SOON, envelope, eventually,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
};

/// `shipbell why` with these arguments, on that data folder.
fn why(arguments: &[&str], data: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shipbell"));
    command.arg("why").args(arguments).arg("--data-dir").arg(data);
    command.env_clear().output().unwrap()
}

fn told(image: &str, data: &Path) -> Option<Value> {
    let output = why(&[image, "--output", "json"], data);
    let is_known = output.status.code() == Some(0);
    is_known.then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// Waits until the first delivery of the newest push of `image` is in `state`.
fn wait_for(state: &str, image: &str, data: &Path) -> Value {
    eventually(&format!("{image} is {state}"), SOON, || {
        let value = told(image, data)?;
        let is_so = value["pushes"][0]["deliveries"][0]["state"] == state;
        is_so.then_some(value)
    })
}

#[test]
fn why_tells_the_whole_story_of_a_push_through_failure_kill_and_delivery() {
    let receiver = Receiver::scripted(|_| Answer::Status(503));
    let config = Config::without_registry()
        .with(
            "delivery.retry_schedule = ['500ms']\ndelivery.jitter = 0.0\nfilter.exclude_tags = ['nightly-*']",
        )
        .endpoint("hook", &receiver.url("/hook?token=canary-in-a-query"));
    let mut shipbell = Shipbell::start(config);
    let data = shipbell.data();
    let event = envelope::push("acme/app", "1.4", "1.4");
    let event_id = event["id"].as_str().unwrap().to_owned();
    shipbell.take(envelope::of(&[
        event,
        envelope::push("acme/app", "nightly-1", "nightly"),
    ]));

    // It fails, and waits. What is told by text names the retry.
    receiver.wait_for(1, SOON);
    let value = eventually("the attempt is written down", SOON, || {
        let value = told("acme/app:1.4", &data)?;
        let is_there = value["pushes"][0]["deliveries"][0]["attempts"][0]["retry_at"].is_string();
        is_there.then_some(value)
    });
    assert!(value["note"].as_str().unwrap().contains("a server is running"));
    let attempt = &value["pushes"][0]["deliveries"][0]["attempts"][0];
    assert_eq!(
        (&attempt["status"], &attempt["fault"]),
        (&503.into(), &"endpoint".into())
    );
    assert!(attempt["url"].as_str().unwrap().ends_with("/hook?…"));
    assert!(
        attempt["request_body"]
            .as_str()
            .unwrap()
            .starts_with(r#"{"image":"acme/app:1.4""#)
    );

    // Killed in between: the file is whole, and the story goes on.
    shipbell.kill();
    shipbell.start_again();
    receiver.answer(|_| Answer::Status(204));
    let value = wait_for("delivered", "acme/app:1.4", &data);
    let delivery = &value["pushes"][0]["deliveries"][0];
    let attempts = delivery["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 2, "{delivery:#}");
    assert_eq!(attempts.last().unwrap()["status"], 204);
    assert_eq!(delivery["webhook_id"], receiver.requests()[0].id());
    let log = shipbell.log();
    assert!(!log.contains("set aside"), "{log}");

    // By any of its names, as text.
    let webhook_id = delivery["webhook_id"].as_str().unwrap();
    let digest = format!("acme/app@{}", envelope::digest("1.4"));
    for name in ["acme/app:1.4", "acme/app", &event_id, webhook_id, &digest] {
        let output = why(&[name], &data);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}");
        for part in [
            "goes to   hook",
            "hook: delivered at",
            "answered 503",
            "answered 204",
            "tried again from",
        ] {
            assert!(text.contains(part), "no {part:?} for {name} in\n{text}");
        }
    }

    // The dropped one tells its rule; an unknown one where was looked.
    let output = why(&["acme/app:nightly-1"], &data);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("filter.exclude_tags"), "{text}");
    let output = why(&["acme/app:none"], &data);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("pushes of the tag none in acme/app") && text.contains("catalog.db"),
        "{text}"
    );

    // Without a server it is the same, and nothing may be missing.
    let metrics = shipbell.ops("/metrics").text();
    assert!(metrics.contains("shipbell_history_dropped_total 0"), "{metrics}");
    shipbell.stop();
    let value = wait_for("delivered", "acme/app:1.4", &data);
    assert_eq!(value["note"], Value::Null);
    let file = std::fs::read(data.join("catalog.db")).unwrap();
    for canary in ["canary-in-a-query", crate::support::shipbell::TOKEN] {
        assert!(
            !file
                .windows(canary.len())
                .any(|window| window == canary.as_bytes()),
            "{canary}"
        );
    }
}

#[test]
fn a_damaged_history_is_set_aside_and_costs_no_webhook() {
    let receiver = Receiver::start();
    let config = Config::without_registry().endpoint("hook", &receiver.url("/hook"));
    let mut shipbell = Shipbell::start(config);
    let data = shipbell.data();
    shipbell.take(envelope::one("acme/app", "1"));
    wait_for("delivered", "acme/app:1", &data);
    shipbell.stop();
    std::fs::write(data.join("catalog.db"), "not a database ".repeat(1000)).unwrap();
    assert_eq!(why(&["acme/app:1"], &data).status.code(), Some(65));
    shipbell.start_again();
    shipbell.take(envelope::one("acme/app", "2"));
    receiver.wait_for(2, SOON);
    wait_for("delivered", "acme/app:2", &data);
    assert!(
        shipbell
            .log()
            .contains("the history can't be used: it is set aside"),
        "{}",
        shipbell.log()
    );
    let names: Vec<_> = std::fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().any(|name| name.starts_with("catalog.db.damaged-")),
        "{names:?}"
    );
}

#[test]
fn what_happens_while_the_history_cant_be_written_is_in_it_after_a_restart() {
    const PUSHES: usize = 1_500;
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(Config::without_registry().endpoint("hook", &receiver.url("/hook")));
    let data = shipbell.data();
    shipbell.stop();
    // A folder where the file should be.
    let file = data.join("catalog.db");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    shipbell.start_again();
    let tags: Vec<String> = (0..PUSHES).map(|number| format!("v{number}")).collect();
    for some in tags.chunks(100) {
        let events: Vec<Value> = some
            .iter()
            .map(|tag| envelope::push("acme/app", tag, tag))
            .collect();
        shipbell.take(envelope::of(&events));
    }
    receiver.wait_for(PUSHES, SOON);
    let metrics = eventually("all are told", SOON, || {
        let metrics = shipbell.ops("/metrics").text();
        metrics.contains("shipbell_queue_pushes 0").then_some(metrics)
    });
    assert!(metrics.contains("shipbell_history_dropped_total 0"), "{metrics}");
    let waiting = |metrics: &str| {
        let sample = metrics
            .lines()
            .find_map(|line| line.strip_prefix("shipbell_history_waiting_bytes "));
        sample.unwrap().parse::<f64>().unwrap()
    };
    assert!(waiting(&metrics) > 500_000.0, "{metrics}");
    let overflow = || {
        let names = std::fs::read_dir(&data).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("catalog.overflow-")).count()
    };
    shipbell.stop();
    assert!(overflow() > 0);
    std::fs::remove_dir(&file).unwrap();
    shipbell.start_again();
    eventually("it has caught up", SOON, || {
        (waiting(&shipbell.ops("/metrics").text()) == 0.0).then_some(())
    });
    assert_eq!(overflow(), 0);
    for tag in [&tags[0], &tags[PUSHES / 2], &tags[PUSHES - 1]] {
        let value = told(&format!("acme/app:{tag}"), &data).unwrap();
        let delivery = &value["pushes"][0]["deliveries"][0];
        assert_eq!(delivery["state"], "delivered", "{value:#}");
        assert_eq!(delivery["attempts"][0]["status"], 200, "{value:#}");
    }
}
