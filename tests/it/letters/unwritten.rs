//! Letters that can't be written, for want of space or because the file is broken: nothing is settled before its letter,
//! and ingest is closed for moments at most.

use std::{os::unix::fs::symlink, time::Duration};

use super::*;
use crate::support::{http, volume::Volume};

/// What a push takes in the journal where many are to fill it, bytes.
const HEAVY: usize = 8_000;

const COMPLAINT: &str = "dead letters can't be written";

#[test]
fn without_space_letters_wait_and_nothing_is_settled_until_there_is_some() {
    let test = without_space_letters_wait_and_nothing_is_settled_until_there_is_some;
    let (Some(volume), data) = (Volume::in_memory(test, 2), folder()) else {
        return;
    };
    // The settings alone are on the disk that is full.
    let file = volume.path().join("settings.db");
    fs::write(&file, "").unwrap();
    symlink(&file, data.path().join("settings.db")).unwrap();
    let hook = Receiver::scripted(|_| Answer::Status(404));
    let config = Config::without_registry()
        .with(TWICE)
        .data_in(data.path())
        .endpoint("hook", &hook.url("/"));
    let mut shipbell = Shipbell::start(config);
    volume.fill();
    let tags: Vec<String> = (1..=20).map(|tag| tag.to_string()).collect();
    for tag in &tags {
        shipbell.push("acme/app", tag);
    }
    wait_for_metric(&shipbell, "shipbell_dead_letters_waiting", 20);
    eventually("it is told", SOON, || {
        shipbell.log().contains(COMPLAINT).then_some(())
    });
    assert!(shipbell.log().contains("full"), "{}", shipbell.log());
    // Others don't suffer, and nothing is over.
    hook.answer(|_| Answer::Status(200));
    shipbell.push("acme/other", "1");
    hook.wait_for_image("acme/other:1", SOON);
    wait_for_metric(&shipbell, "shipbell_journal_live", 20);
    assert_eq!(
        (
            rows(data.path()),
            shipbell.metric("shipbell_dead_letters_lost_total")
        ),
        (vec![], 0)
    );
    hook.answer(|_| Answer::Status(404));

    // So it is after a kill, on a disk that is still full.
    shipbell.kill();
    volume.fill();
    shipbell.start_again();
    wait_for_metric(&shipbell, "shipbell_dead_letters_waiting", 20);
    wait_for_metric(&shipbell, "shipbell_journal_live", 20);
    assert_eq!(rows(data.path()), []);

    volume.free();
    let mut letters: Vec<_> = wait_for_rows(20, data.path())
        .into_iter()
        .map(|row| row.image)
        .collect();
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    wait_for_metric(&shipbell, "shipbell_dead_letters_waiting", 0);
    letters.sort();
    let mut expected: Vec<_> = tags.iter().map(|tag| format!("acme/app:{tag}")).collect();
    expected.sort();
    assert_eq!(letters, expected);
    assert_eq!(shipbell.metric("shipbell_dead_letters_lost_total"), 0);
    shipbell.stop();
}

#[test]
fn a_full_journal_whose_letters_can_not_be_written_opens_again_and_says_what_was_lost() {
    let config = Config::without_registry()
        .with("delivery.retry_schedule = ['1h']\nbatch.window = '0s'")
        .with("journal.segment_size = '1MiB'\ningest.max_body = '512KiB'\njournal.max_size = '4MiB'")
        .endpoint("dead", &format!("http://127.0.0.1:{}/", ports::free()));
    let mut shipbell = Shipbell::start(config);
    let data = shipbell.data();
    let file = Connection::open(data.join("settings.db")).unwrap();
    file.busy_timeout(SOON).unwrap();
    file.execute_batch(
        "CREATE TRIGGER broken BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(FAIL, 'the disk is broken'); END",
    )
    .unwrap();
    let push = |number: u64| {
        let event = envelope::heavy("acme/app", &number.to_string(), HEAVY);
        shipbell.post(envelope::of(&[event]))
    };
    let (mut taken, mut refusals) = (0, 0);
    // Several times what fits.
    while taken < 1_000 {
        let answer = eventually("it is taken", Duration::from_secs(10), || {
            let answer = push(taken);
            refusals += usize::from(answer.status != 202);
            (answer.status == 202).then_some(answer)
        });
        assert!(answer.body.is_empty());
        taken += 1;
    }
    assert!(refusals > 0, "it was never full");
    let lost = shipbell.metric("shipbell_dead_letters_lost_total");
    assert!(lost > 300, "{lost}");
    assert_eq!(shipbell.metric("shipbell_dead_letters_written_total"), 0);
    assert_eq!(http::get(shipbell.ops_port(), "/readyz").unwrap().status, 200);
    let log = shipbell.log();
    for words in [
        "the disk is broken",
        "given up without a dead letter",
        "the journal is full, and no dead letter can be written",
    ] {
        assert!(log.contains(words), "nothing of {words}");
    }
    // The oldest is one of them, and the history says so.
    let api = Api::at(shipbell.admin_port());
    eventually("the history knows", SOON, || {
        let told = api.json("/api/v1/why?image=acme/app:0");
        let delivery = told["pushes"][0]["deliveries"][0].clone();
        let reason = delivery["reason"].as_str()?.to_owned();
        let is_so = delivery["state"] == "dead_letter"
            && reason.contains("without a dead letter: the journal is full");
        is_so.then_some(())
    });

    // What is given up gets its letter once that can be written; each push is one or the other, or owed.
    file.execute_batch("DROP TRIGGER broken").unwrap();
    eventually("letters are written", SOON, || {
        taken += u64::from(push(taken).status == 202);
        (!rows(&data).is_empty()).then_some(())
    });
    wait_for_metric(&shipbell, "shipbell_dead_letters_waiting", 0);
    eventually("each has come to its end, or is owed", SOON, || {
        let count = |name: &str| shipbell.metric(name);
        let (lost, live) = (
            count("shipbell_dead_letters_lost_total"),
            count("shipbell_journal_live"),
        );
        (lost + count("shipbell_dead_letters") + live == taken && live > 0).then_some(())
    });
    shipbell.stop();
}
