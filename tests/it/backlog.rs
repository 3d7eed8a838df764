//! Bounded backlogs: an endpoint that takes nothing closes ingest for nobody (CONTRACT 5).

use std::{fs, time::Duration};

use crate::support::{
    SOON,
    api::Api,
    envelope, eventually, ports,
    receiver::{Answer, Receiver, images},
    shipbell::{Config, Shipbell},
};

const MIB: u64 = 1 << 20;

/// What a push takes in the journal here, bytes, and a little more.
const HEAVY: usize = 8_000;
const PUSH_BYTES_MAX: u64 = 8_500;

/// Long enough that nothing is tried twice while a test runs.
const ONCE: &str = "delivery.retry_schedule = ['1h']\nbatch.window = '0s'\nlog.level = 'info'";

fn image(number: u64) -> String {
    format!("acme/app:{number}")
}

fn heavy(repository: &str, number: u64) -> String {
    envelope::of(&[envelope::heavy(repository, &number.to_string(), HEAVY)])
}

/// How many pushes are dead letters, all endpoints together.
fn dead_letters(shipbell: &Shipbell) -> u64 {
    shipbell.metric("shipbell_settled_total{how=\"dead_letter\"}")
}

fn journal_bytes(shipbell: &Shipbell) -> u64 {
    let files = fs::read_dir(shipbell.data().join("journal")).unwrap();
    // A file may go between being listed and being looked at.
    let sizes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len()));
    sizes.sum()
}

#[test]
fn a_dead_endpoint_loses_its_oldest_pushes_and_nobody_elses() {
    const PUSHES: u64 = 300;
    let (port, healthy) = (ports::free(), Receiver::start());
    let config = Config::without_registry()
        .with(ONCE)
        .with("delivery.max_backlog = '1MiB'")
        .endpoint("dead", &format!("http://127.0.0.1:{port}/"))
        .endpoint("healthy", &healthy.url("/"));
    let mut shipbell = Shipbell::start(config);
    for number in 1..=PUSHES {
        shipbell.take(heavy("acme/app", number));
        // The bound is the healthy one's as well: on a busy machine it must not fall behind.
        if number % 50 == 0 {
            healthy.wait_for(usize::try_from(number).unwrap(), SOON);
        }
    }
    let all: Vec<String> = (1..=PUSHES).map(image).collect();
    assert_eq!(images(&healthy.wait_for(all.len(), SOON)), all);

    let most = MIB / HEAVY as u64;
    eventually("the backlog is within its bound", SOON, || {
        (PUSHES - dead_letters(&shipbell) <= most).then_some(())
    });
    shipbell.stop();
    assert!(shipbell.log().contains("delivery.max_backlog"));

    // It comes back, elsewhere, so that nobody waits: the newest survived, in order, as many as there is room for.
    let back = Receiver::on(port, |_| Answer::Status(200));
    shipbell.set_url("dead", &back.url("/back"));
    shipbell.start_again();
    let survivors = images(&back.wait_for_image(&image(PUSHES), SOON));
    assert_eq!(survivors, all[all.len() - survivors.len()..]);
    let held = survivors.len() as u64;
    assert!(held >= MIB / PUSH_BYTES_MAX, "only {held} survived");
    assert!(held <= most, "{held} survived");
    assert_eq!(dead_letters(&shipbell), 0, "none after the start");
    let kept = Api::at(shipbell.admin_port()).json("/api/v1/dead-letters?limit=1000");
    let kept = kept["items"].as_array().unwrap().len() as u64;
    assert_eq!(kept + held, PUSHES, "each is delivered or a dead letter");
}

#[test]
fn a_dead_endpoint_closes_ingest_by_the_number_of_its_pushes_for_nobody() {
    const PUSHES: u64 = 600;
    const MOST: u64 = 400;
    // From here on it is given up, and so many more would close ingest.
    const MARK: u64 = MOST / 8 * 7;
    const AT_ONCE: u64 = 40;
    let live = Receiver::start();
    let config = Config::without_registry()
        .with(ONCE)
        .with(&format!(
            "ingest.max_pending = {MOST}\nbatch.coalesce = 'none'\ndelivery.rate = '0'"
        ))
        .endpoint("dead", &format!("http://127.0.0.1:{}/", ports::free()))
        .endpoint("live", &live.url("/"));
    let mut shipbell = Shipbell::start(config);
    let take = |number: u64| {
        let repository = format!("acme/app{}", number % 3);
        let body = envelope::of(&[envelope::push(
            &repository,
            &number.to_string(),
            &number.to_string(),
        )]);
        shipbell.take(body);
    };
    take(0);
    eventually("it is known to be dead", SOON, || {
        (shipbell.metric("shipbell_endpoints{state=\"failing\"}") == 1).then_some(())
    });
    for first in (1..PUSHES).step_by(usize::try_from(AT_ONCE).unwrap()) {
        let end = PUSHES.min(first + AT_ONCE);
        (first..end).for_each(take);
        // What the other one owes as well would be passed over.
        live.wait_for(usize::try_from(end).unwrap(), SOON);
        eventually("there is room again", SOON, || {
            (shipbell.metric("shipbell_queue_pushes") <= MARK).then_some(())
        });
    }
    let sent = images(&live.wait_for(usize::try_from(PUSHES).unwrap(), SOON));
    for repository in 0..3 {
        let name = format!("acme/app{repository}:");
        let numbers = sent
            .iter()
            .filter_map(|image| image.strip_prefix(&name)?.parse().ok());
        let expected: Vec<u64> = (0..PUSHES).filter(|number| number % 3 == repository).collect();
        assert_eq!(numbers.collect::<Vec<u64>>(), expected);
    }
    eventually("the oldest are letters", SOON, || {
        (dead_letters(&shipbell) == PUSHES - MARK).then_some(())
    });
    let letters = Api::at(shipbell.admin_port()).json("/api/v1/dead-letters?limit=1000");
    let mut numbers = Vec::new();
    for letter in letters["items"].as_array().unwrap() {
        assert_eq!(letter["endpoint"], "dead");
        assert!(
            letter["reason"].as_str().unwrap().contains("ingest.max_pending"),
            "{letter}"
        );
        numbers.push(letter["tag"].as_str().unwrap().parse::<u64>().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..PUSHES - MARK).collect::<Vec<_>>());
    assert_eq!(shipbell.metric("shipbell_queue_pushes"), MARK);
    shipbell.stop();
    assert!(
        shipbell.log().contains("bound=\"ingest.max_pending\""),
        "{}",
        shipbell.log()
    );
}

#[test]
fn for_a_healthy_endpoint_that_falls_behind_the_registry_waits_and_nothing_is_given_up() {
    const MOST: u64 = 16;
    let hook = Receiver::scripted(|_| Answer::Hold);
    let config = Config::without_registry()
        .with(ONCE)
        .with(&format!(
            "ingest.max_pending = {MOST}\nbatch.coalesce = 'none'\ndelivery.rate = '0'"
        ))
        .endpoint("slow", &hook.url("/"));
    let mut shipbell = Shipbell::start(config);
    let event = |number: u64| {
        let tag = number.to_string();
        envelope::one("acme/app", &tag)
    };
    let push = |number: u64| shipbell.post(event(number));
    let first = event(0);
    assert_eq!(shipbell.post(&first).status, 202);
    for number in 1..MOST {
        assert_eq!(push(number).status, 202);
    }
    let refused = push(MOST);
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    // What is owed already is no more to wait for.
    assert_eq!(shipbell.post(&first).status, 202);
    hook.answer(|_| Answer::Status(200));
    hook.release();
    eventually("it is taken", SOON, || (push(MOST).status == 202).then_some(()));
    let expected: Vec<String> = (0..=MOST).map(image).collect();
    assert_eq!(images(&hook.wait_for_image(&image(MOST), SOON)), expected);
    assert_eq!(dead_letters(&shipbell), 0);
    shipbell.stop();
}

#[test]
fn endpoints_that_are_all_dead_close_ingest_for_moments_at_most() {
    // The second is the smallest there may be.
    for size_max in [8 * MIB, 4 * MIB] {
        stay_open(size_max);
    }
}

/// Pushes three times what a journal of this size holds, to two endpoints that take nothing.
fn stay_open(size_max: u64) {
    let config = Config::without_registry()
        .with(ONCE)
        .with("journal.segment_size = '1MiB'\ningest.max_body = '512KiB'")
        .with(&format!("journal.max_size = '{}MiB'", size_max / MIB))
        .endpoint("one", &format!("http://127.0.0.1:{}/", ports::free()))
        .endpoint("two", &format!("http://127.0.0.1:{}/", ports::free()));
    let mut shipbell = Shipbell::start(config);
    let pushes = 3 * size_max / HEAVY as u64;
    for number in 1..=pushes {
        let body = heavy(&format!("acme/app{}", number % 20), number);
        eventually("it is taken", Duration::from_secs(5), || {
            let response = shipbell.post(&body);
            assert!(matches!(response.status, 202 | 503), "{}", response.text());
            (response.status == 202).then_some(())
        });
        let bytes = journal_bytes(&shipbell);
        assert!(bytes <= size_max, "{bytes} bytes on disk after {number} pushes");
    }
    // Three quarters may be owed; what is beyond is being given up still.
    let held = size_max * 3 / 4 / HEAVY as u64;
    eventually("the oldest are given up for both endpoints", SOON, || {
        (dead_letters(&shipbell) >= 2 * (pushes - held)).then_some(())
    });
    shipbell.stop();
    assert!(shipbell.log().contains("journal.max_size"));
    shipbell.start_again();
    shipbell.take(heavy("acme/app", 0));
}
