//! The configuration is read again: on a change of its file and on SIGHUP, all of it or nothing (CONTRACT 7).

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    SOON,
    api::Api,
    envelope, eventually, folder,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
};

fn push(shipbell: &Shipbell, tag: &str) {
    shipbell.take(envelope::one("acme/app", tag));
}

fn api(shipbell: &Shipbell) -> Api {
    Api::at(shipbell.admin_port())
}

fn configuration(shipbell: &Shipbell) -> Value {
    api(shipbell).json("/api/v1/configuration")
}

/// The endpoints there are, and how they are.
fn endpoints(shipbell: &Shipbell) -> Vec<(String, String)> {
    let list = api(shipbell).json("/api/v1/endpoints");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| (text(&item["id"]), text(&item["state"])))
        .collect()
}

fn wait_for_endpoints(shipbell: &Shipbell, wanted: &[(&str, &str)]) {
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(id, state)| ((*id).to_owned(), (*state).to_owned()))
        .collect();
    eventually("the endpoints are as configured", SOON, || {
        (endpoints(shipbell) == wanted).then_some(())
    });
}

fn wait_for_metric(shipbell: &Shipbell, line: &str) {
    eventually(line, SOON, || {
        let metrics = shipbell.ops("/metrics").text();
        metrics.lines().any(|found| found == line).then_some(())
    });
}

#[test]
fn endpoints_come_change_and_go_with_the_file() {
    let (first, second) = (Receiver::start(), Receiver::start());
    // What waits for its next attempt would wait for an hour.
    let config = Config::without_registry()
        .with("delivery.retry_schedule = ['1h']")
        .endpoint("one", &first.url("/a"));
    let mut shipbell = Shipbell::start(config);
    push(&shipbell, "1");
    first.wait_for_image("acme/app:1", SOON);

    shipbell.set(&format!(
        "[[endpoints]]\nname = 'two'\nurl = '{}'",
        second.url("/hook")
    ));
    shipbell.set_url("one", &first.url("/b"));
    shipbell.write_settings();
    wait_for_endpoints(&shipbell, &[("one", "healthy"), ("two", "healthy")]);
    push(&shipbell, "2");
    second.wait_for_image("acme/app:2", SOON);
    let webhook = first.wait_for_image("acme/app:2", SOON).pop().unwrap();
    assert!(webhook.line().starts_with("POST /b "), "{}", webhook.line());

    // What is owed to an endpoint that goes is kept, and may be sent again.
    second.answer(|_| Answer::Status(503));
    push(&shipbell, "3");
    second.wait_for_image("acme/app:3", SOON);
    shipbell.unset_endpoint("two");
    shipbell.write_settings();
    wait_for_endpoints(&shipbell, &[("one", "healthy")]);
    let letters = eventually("its push is a dead letter", SOON, || {
        let letters = api(&shipbell).json("/api/v1/dead-letters");
        let items = letters["items"].as_array().unwrap().clone();
        (!items.is_empty()).then_some(items)
    });
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["endpoint"], "two");
    assert_eq!(
        letters[0]["reason"],
        "its endpoint is gone from the configuration"
    );
    push(&shipbell, "4");
    first.wait_for_image("acme/app:4", SOON);
    let to_second = second.requests();
    assert!(to_second.iter().all(|webhook| webhook.image() != "acme/app:4"));

    let log = shipbell.log();
    assert!(log.contains("endpoints reloaded"), "{log}");
    shipbell.stop();
}

#[test]
fn a_mistake_leaves_everything_as_it_was_and_every_mistake_is_told() {
    let receiver = Receiver::start();
    let config = Config::without_registry().endpoint("one", &receiver.url("/hook?token=hunter2"));
    let mut shipbell = Shipbell::start(config);
    wait_for_metric(&shipbell, "shipbell_config_sound 1");
    let metrics = shipbell.ops("/metrics").text();
    for result in ["applied", "refused"] {
        let none = format!("shipbell_config_reloads_total{{result=\"{result}\"}} 0");
        assert!(metrics.contains(&none), "{metrics}");
    }
    let before = configuration(&shipbell);
    assert_eq!(
        (&before["problems"], &before["refused_at"]),
        (&json!([]), &Value::Null)
    );

    shipbell.set("[[endpoints]]\nname = 'two'\nurl = 'ftp://a.example/?token=hunter3'\ncolour = 'red'");
    shipbell.set_url("one", &receiver.url("/other"));
    shipbell.write_settings();
    shipbell.hang_up();
    wait_for_metric(&shipbell, "shipbell_config_sound 0");
    let refused = configuration(&shipbell);
    let problems = refused["problems"].to_string();
    assert!(problems.contains("endpoints[1].url"), "{problems}");
    assert!(problems.contains("endpoints[1].colour"), "{problems}");
    assert!(problems.contains("shipbell.toml:"), "{problems}");
    assert!(refused["refused_at"].is_string(), "{refused}");
    assert_eq!(refused["loaded_at"], before["loaded_at"]);
    assert_eq!(endpoints(&shipbell), [("one".to_owned(), "healthy".to_owned())]);
    push(&shipbell, "1");
    let webhook = receiver.wait_for_image("acme/app:1", SOON).pop().unwrap();
    assert!(
        webhook.line().contains("/hook?token=hunter2"),
        "{}",
        webhook.line()
    );

    shipbell.unset_endpoint("two");
    shipbell.write_settings();
    wait_for_metric(&shipbell, "shipbell_config_sound 1");
    assert_eq!(configuration(&shipbell)["problems"], json!([]));
    push(&shipbell, "2");
    let webhook = receiver.wait_for_image("acme/app:2", SOON).pop().unwrap();
    assert!(webhook.line().starts_with("POST /other "), "{}", webhook.line());

    let (log, metrics) = (shipbell.log(), shipbell.ops("/metrics").text());
    assert!(log.contains("is not in effect"), "{log}");
    for hidden in ["hunter2", "hunter3"] {
        assert!(!log.contains(hidden), "{log}");
        assert!(!problems.contains(hidden), "{problems}");
    }
    let refused = "shipbell_config_reloads_total{result=\"refused\"}";
    assert!(metrics.contains(refused), "{metrics}");
    assert!(!metrics.contains(&format!("{refused} 0")), "{metrics}");
}

#[test]
fn what_a_refused_configuration_names_may_come_later() {
    let (receiver, files) = (Receiver::start(), folder());
    let mut shipbell = Shipbell::start(Config::without_registry());
    let url_file = files.path().join("url");
    shipbell.set(&format!(
        "[[endpoints]]\nname = 'one'\nurl_file = '{}'",
        url_file.display()
    ));
    shipbell.write_settings();
    wait_for_metric(&shipbell, "shipbell_config_sound 0");
    let refused = "shipbell_config_reloads_total{result=\"refused\"} 1";
    fs::write(&url_file, receiver.url("/hook")).unwrap();
    wait_for_metric(&shipbell, "shipbell_config_sound 1");
    wait_for_endpoints(&shipbell, &[("one", "healthy")]);
    // However often it was read meanwhile, it was told once.
    wait_for_metric(&shipbell, refused);
    push(&shipbell, "1");
    receiver.wait_for_image("acme/app:1", SOON);
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_takes_effect() {
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(Config::without_registry());
    shipbell.set("delivery.user_agent = 'Another'\ningest.tokens = ['another-token']");
    shipbell.set(&format!(
        "[[endpoints]]\nname = 'one'\nurl = '{}'",
        receiver.url("/hook")
    ));
    shipbell.write_settings();
    // It is said to be read once all of it is in effect that takes effect.
    let needs_restart = json!(["delivery.user_agent", "ingest.tokens"]);
    eventually("what needs a restart is named", SOON, || {
        (configuration(&shipbell)["needs_restart"] == needs_restart).then_some(())
    });
    assert_eq!(endpoints(&shipbell), [("one".to_owned(), "healthy".to_owned())]);
    push(&shipbell, "1");
    let webhook = receiver.wait_for_image("acme/app:1", SOON).pop().unwrap();
    assert_eq!(webhook.header("user-agent"), "WebHook Handler");
    let log = shipbell.log();
    assert!(log.contains("takes effect at the next start"), "{log}");
    assert!(!log.contains("another-token"), "{log}");
}

#[test]
fn another_url_heals_also_one_in_a_file() {
    let receiver = Receiver::scripted(|request| {
        let is_right = request.line().contains("/right");
        Answer::Status(if is_right { 204 } else { 503 })
    });
    let kept = folder();
    let file = kept.path().join("url");
    fs::write(&file, receiver.url("/wrong-too")).unwrap();
    let config = Config::without_registry()
        .endpoint("one", &receiver.url("/wrong"))
        .with(&format!(
            "delivery.pause_after = 1\n[[endpoints]]\nname = 'two'\nurl_file = '{}'",
            file.display()
        ));
    let mut shipbell = Shipbell::start(config);
    push(&shipbell, "1");
    wait_for_endpoints(&shipbell, &[("one", "paused"), ("two", "paused")]);

    shipbell.set_url("one", &receiver.url("/right/one"));
    shipbell.write_settings();
    fs::write(&file, receiver.url("/right/two")).unwrap();
    let arrived = |path: &str| {
        eventually("the push that waited arrives", SOON, || {
            let requests = receiver.requests();
            requests
                .iter()
                .any(|request| request.line().contains(path))
                .then_some(())
        });
    };
    arrived("/right/one");
    arrived("/right/two");
    wait_for_endpoints(&shipbell, &[("one", "healthy"), ("two", "healthy")]);
}

#[test]
fn a_file_that_is_gone_changes_nothing() {
    let receiver = Receiver::start();
    let config = Config::without_registry().endpoint("one", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    let file = configuration(&shipbell)["file"].as_str().unwrap().to_owned();
    fs::remove_file(file).unwrap();
    shipbell.hang_up();
    wait_for_metric(&shipbell, "shipbell_config_sound 0");
    push(&shipbell, "1");
    receiver.wait_for_image("acme/app:1", SOON);
    shipbell.write_settings();
    wait_for_metric(&shipbell, "shipbell_config_sound 1");
}
