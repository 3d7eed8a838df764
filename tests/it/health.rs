//! Endpoints that keep failing: paused, probed, ignored, healed, and told of (CONTRACT 5).

use std::{
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use crate::support::{
    SOON,
    api::Api,
    eventually,
    receiver::{Answer, Receiver, images},
    shipbell::{Config, Shipbell},
    strace::{self, Fault},
};

/// Three retries within half a second, then a probe every half second.
const QUICK: &str = "
    batch.window = '0s'
    [delivery]
    retry_schedule = ['100ms']
    jitter = 0.0
    pause_after = 4
    probe_first = '500ms'
    probe_max = '500ms'
";

/// The same, with no probe for as long as a test runs.
const NO_PROBE: &str = "delivery.probe_first = '1h'\ndelivery.probe_max = '1h'";

fn config(hook: &Hook) -> Config {
    Config::without_registry()
        .with(QUICK)
        .endpoint("hook", &hook.receiver.url("/hook?token=hunter2"))
}

/// An endpoint that answers as it is told.
struct Hook {
    receiver: Receiver,
    status: Arc<AtomicU16>,
}

impl Hook {
    fn start(status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let told = Arc::clone(&status);
        let receiver = Receiver::scripted(move |_| Answer::Status(told.load(Ordering::Acquire)));
        Self { receiver, status }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Release);
    }

    fn images(&self) -> Vec<String> {
        images(&self.receiver.requests())
    }
}

fn dead_letters(shipbell: &Shipbell) -> u64 {
    shipbell.metric("shipbell_settled_total{how=\"dead_letter\"}")
}

fn count_in(shipbell: &Shipbell, state: &str) -> u64 {
    shipbell.metric(&format!("shipbell_endpoints{{state=\"{state}\"}}"))
}

fn wait_for_state(shipbell: &Shipbell, state: &str) {
    eventually(state, SOON, || (count_in(shipbell, state) == 1).then_some(()));
}

/// Waits until it was logged, and so durable, that an endpoint has come into this state.
fn wait_for_told(shipbell: &Shipbell, state: &str) {
    let changes = format!("shipbell_endpoint_changes_total{{state=\"{state}\"}}");
    eventually(state, SOON, || (shipbell.metric(&changes) > 0).then_some(()));
}

#[test]
fn an_endpoint_that_keeps_failing_is_paused_probed_by_its_oldest_push_and_drained_in_order() {
    let hook = Hook::start(503);
    let shipbell = Shipbell::start(config(&hook));
    shipbell.push("acme/app", "1");
    hook.receiver.wait_for(1, SOON);
    shipbell.push("acme/other", "2");
    shipbell.push("acme/app", "3");
    shipbell.push("acme/third", "4");
    wait_for_state(&shipbell, "paused");
    let requests = hook.receiver.wait_for(6, SOON);
    assert!(
        requests.iter().all(|request| request.image() == "acme/app:1"),
        "always the oldest: {:?}",
        images(&requests)
    );
    for (pair, wait) in requests.windows(2).zip([100, 100, 100, 500, 500]) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap >= Duration::from_millis(wait - 5), "{gap:?}, not {wait} ms");
    }
    let failed = hook.images().len();
    hook.answer(200);
    let all = hook.receiver.wait_for(failed + 4, SOON);
    wait_for_state(&shipbell, "healthy");
    let mut delivered = images(&all[all.len() - 4..]);
    assert_eq!(delivered.remove(0), "acme/app:1", "the probe");
    delivered.sort();
    assert_eq!(delivered, ["acme/app:3", "acme/other:2", "acme/third:4"]);
    assert_eq!(dead_letters(&shipbell), 0);
    wait_for_told(&shipbell, "healthy");
    let log = shipbell.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("changed its state"))
        .collect();
    for (line, state) in lines.iter().zip(["failing", "paused", "healthy"]) {
        assert!(line.contains(&format!("state={state}")), "{line}");
    }
    assert_eq!(lines.len(), 3, "one line a change");
    assert!(
        lines[1].contains("failures=4") && lines[1].contains("next_attempt="),
        "{}",
        lines[1]
    );
}

#[test]
fn a_dead_endpoint_leaves_the_others_alone() {
    let (dead, healthy) = (Hook::start(500), Receiver::start());
    let config = config(&dead)
        .with(NO_PROBE)
        .endpoint("healthy", &healthy.url("/"));
    let shipbell = Shipbell::start(config);
    for number in 0..20 {
        shipbell.push(&format!("acme/app{}", number % 5), &number.to_string());
    }
    healthy.wait_for(20, SOON);
    wait_for_state(&shipbell, "paused");
    shipbell.push("acme/app0", "last");
    healthy.wait_for_image("acme/app0:last", SOON);
    let failed = dead.images();
    // What was in flight at the first failure, and then one at a time.
    let after: Vec<&String> = failed.iter().rev().take(3).collect();
    assert!(after.iter().all(|image| **image == *after[0]), "{failed:?}");
    assert_eq!(count_in(&shipbell, "healthy"), 1);
    assert_eq!(shipbell.metric("shipbell_queue_pushes"), 21);
}

#[test]
fn one_that_is_gone_is_ignored_at_once_until_its_url_changes() {
    let hook = Hook::start(410);
    let mut shipbell = Shipbell::start(config(&hook));
    shipbell.push("acme/app", "1");
    wait_for_told(&shipbell, "ignored");
    for tag in ["2", "3"] {
        shipbell.push("acme/app", tag);
    }
    eventually("all are dead letters", SOON, || {
        (dead_letters(&shipbell) == 3).then_some(())
    });
    shipbell.stop();
    shipbell.start_again();
    assert_eq!(count_in(&shipbell, "ignored"), 1);
    shipbell.push("acme/app", "4");
    eventually("it is a dead letter", SOON, || {
        (dead_letters(&shipbell) == 1).then_some(())
    });
    assert_eq!(hook.images(), ["acme/app:1"]);
    shipbell.stop();

    let back = Receiver::start();
    shipbell.set_url("hook", &back.url("/new"));
    shipbell.start_again();
    shipbell.push("acme/app", "5");
    assert_eq!(images(&back.wait_for(1, SOON)), ["acme/app:5"]);
    assert_eq!(count_in(&shipbell, "healthy"), 1);
}

#[test]
fn an_endpoint_that_failed_for_long_is_ignored_and_a_probe_brings_it_back() {
    let hook = Hook::start(503);
    let config = config(&hook)
        .with("delivery.ignore_after = '3s'\ndelivery.ignore_after_failures = 10\ndelivery.probe_max = '1s'");
    let shipbell = Shipbell::start(config);
    for tag in ["1", "2", "3"] {
        shipbell.push("acme/app", tag);
    }
    eventually("it is ignored", SOON, || {
        (count_in(&shipbell, "ignored") == 1).then_some(())
    });
    eventually("its backlog is dead letters", SOON, || {
        (dead_letters(&shipbell) == 3).then_some(())
    });
    shipbell.push("acme/app", "new0");
    eventually("so is what comes new", SOON, || {
        (dead_letters(&shipbell) >= 4).then_some(())
    });
    hook.answer(200);
    let mut number = 0;
    eventually("a push serves as a probe", SOON, || {
        // Those before it are dead letters.
        number += 1;
        shipbell.push("acme/app", &format!("new{number}"));
        (count_in(&shipbell, "healthy") == 1).then_some(())
    });
    let dead = dead_letters(&shipbell);
    shipbell.push("acme/app", "last");
    hook.receiver.wait_for_image("acme/app:last", SOON);
    assert_eq!(dead_letters(&shipbell), dead);
}

#[test]
fn every_state_outlives_a_restart() {
    let hook = Hook::start(503);
    let mut shipbell = Shipbell::start(config(&hook).with("delivery.retry_schedule = ['1h']"));
    shipbell.push("acme/app", "1");
    wait_for_told(&shipbell, "failing");
    let mode = shipbell
        .data()
        .join("settings.db")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    // What is waited for is waited for still; a kill is no different from a stop.
    shipbell.kill();
    shipbell.start_again();
    assert_eq!(count_in(&shipbell, "failing"), 1);
    shipbell.push("acme/other", "2");
    assert_eq!(hook.images().len(), 1);
    shipbell.stop();

    // The endpoint's URL is another one: what is known of the old one says nothing.
    let second = Hook::start(503);
    shipbell.set_url("hook", &second.receiver.url("/second"));
    shipbell.start_again_with(&format!("delivery.retry_schedule = ['50ms']\n{NO_PROBE}"));
    wait_for_told(&shipbell, "paused");
    let failed = second.images();
    assert!(failed.len() >= 4);
    shipbell.stop();
    shipbell.start_again();
    assert_eq!(count_in(&shipbell, "paused"), 1);
    shipbell.push("acme/app", "3");
    assert_eq!(second.images(), failed);
    assert_eq!(shipbell.metric("shipbell_queue_pushes"), 3);
}

#[test]
fn an_alert_tells_of_pause_and_recovery_without_any_secret() {
    let (hook, alerts) = (Hook::start(503), Receiver::start());
    let config = config(&hook).with(&format!("alerts.url = '{}'", alerts.url("/alerts?key=hunter3")));
    let shipbell = Shipbell::start(config);
    shipbell.push("acme/app", "1");
    let paused = alerts.wait_for(1, SOON).remove(0);
    hook.answer(200);
    let recovered = alerts.wait_for(2, SOON).remove(1);
    assert_eq!(paused.line(), "POST /alerts?key=hunter3 HTTP/1.1");
    assert_eq!(paused.header("content-type"), "application/json");
    assert_ne!(paused.id(), recovered.id());
    let (paused, recovered) = (paused.json(), recovered.json());
    assert_eq!(paused["type"], "endpoint.paused");
    let data = &paused["data"];
    assert_eq!(data["endpoint"], "hook");
    assert_eq!(data["url"], hook.receiver.url("/hook?…"));
    assert_eq!(
        (&data["state"], &data["previous_state"]),
        (&"paused".into(), &"failing".into())
    );
    assert_eq!(data["failures"], 4);
    assert_eq!(data["reason"], "answered 503 Service Unavailable");
    assert!(data["failing_since"].is_string() && data["next_attempt"].is_string());
    assert_eq!(recovered["type"], "endpoint.recovered");
    assert!(recovered["data"]["next_attempt"].is_null());
    assert!(!shipbell.log().contains("hunter"));
}

#[test]
fn recovery_is_told_although_a_hand_stopped_the_endpoint_after_its_pause() {
    for action in ["hold", "disable"] {
        let (hook, alerts) = (Hook::start(503), Receiver::start());
        let config = config(&hook)
            .with(NO_PROBE)
            .with(&format!("alerts.url = '{}'", alerts.url("/alerts")));
        let shipbell = Shipbell::start(config);
        let api = Api::at(shipbell.admin_port());
        shipbell.push("acme/app", "1");
        let paused = alerts.wait_for(1, SOON).remove(0);
        assert_eq!(paused.json()["type"], "endpoint.paused");
        for by_hand in [action, "enable"] {
            let answer = api.post(&format!("/api/v1/endpoints/hook/{by_hand}"));
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let recovered = alerts.wait_for(2, SOON).remove(1);
        assert_eq!(recovered.json()["type"], "endpoint.recovered", "{action}");
    }
}

#[test]
fn an_alert_that_still_waits_when_it_is_stopped_is_named_in_the_log() {
    let hook = Hook::start(503);
    let alerts = Receiver::scripted(|_| Answer::Status(503));
    let config = config(&hook)
        .with(NO_PROBE)
        .with(&format!("alerts.url = '{}'", alerts.url("/alerts")));
    let mut shipbell = Shipbell::start(config);
    shipbell.push("acme/app", "1");
    let paused = alerts.wait_for(1, SOON).remove(0);
    shipbell.stop();
    let log = shipbell.log();
    let line = log
        .lines()
        .find(|line| line.contains("an alert is given up: shipbell stops"));
    assert!(line.is_some_and(|line| line.contains(paused.id())), "{log}");
}

#[test]
fn damaged_settings_refuse_the_start_and_say_what_to_do() {
    let hook = Hook::start(200);
    let mut shipbell = Shipbell::start(config(&hook));
    shipbell.stop();
    let file = shipbell.data().join("settings.db");
    std::fs::write(
        &file,
        "not a database, and longer than a page's header would be".repeat(40),
    )
    .unwrap();
    let refusal = shipbell.start_in_vain();
    assert_eq!(refusal.code, Some(65), "{}", refusal.said);
    assert!(refusal.said.contains("settings.db") && refusal.said.contains("move it away"));
    std::fs::remove_file(&file).unwrap();
    shipbell.start_again();
    shipbell.stop();
    // Nothing was ever taken: it is as if the first start had been cut short.
    std::fs::write(&file, "").unwrap();
    shipbell.start_again();
    shipbell.push("acme/app", "1");
    hook.receiver.wait_for(1, SOON);
    shipbell.stop();
    std::fs::write(&file, "").unwrap();
    let refusal = shipbell.start_in_vain();
    assert_eq!(refusal.code, Some(65), "{}", refusal.said);
    assert!(refusal.said.contains("settings.db") && refusal.said.contains("it is empty"));
    std::fs::remove_file(&file).unwrap();
    shipbell.start_again();
    let log = shipbell.log();
    assert!(
        log.contains("there is none, although pushes have been taken"),
        "{log}"
    );
}

#[test]
fn what_the_machine_has_no_open_files_for_is_sent_later_and_blamed_on_nobody() {
    let test = what_the_machine_has_no_open_files_for_is_sent_later_and_blamed_on_nobody;
    if !strace::is_allowed(test) {
        return;
    }
    let hook = Hook::start(200);
    let shipbell = Shipbell::start(config(&hook).with("delivery.pause_after = 1"));
    let struck = Fault::no_connections().strike(shipbell.id());
    shipbell.push("acme/app", "1");
    let said = "this machine can open no connection: Too many open files";
    eventually(said, SOON, || shipbell.log().contains(said).then_some(()));
    drop(struck);
    hook.receiver.wait_for_image("acme/app:1", SOON);
    assert!(shipbell.metric("shipbell_attempts_total{result=\"local\"}") > 0);
    let log = shipbell.log();
    assert!(log.contains("fault=shipbell"), "{log}");
    assert!(!log.contains("changed its state"), "{log}");
}
