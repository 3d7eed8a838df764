//! A disk whose calls fail, at every place where the process makes them: what hangs on the call is not
//! acknowledged, and a start without the fault has all that was (CONTRACT 6).
//!
//! Which call of which thread is struck depends on how the journal is written; so each test strikes at many,
//! and asserts what holds wherever it was, and that there were those that it is about.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    SOON, envelope, eventually,
    faulty::{ALL, Stage, State},
    files,
    receiver::Receiver,
    shipbell::{Config, Shipbell},
    strace::{self, Fault},
};

/// After how long a disk is said to hang.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// How long a write takes on a disk that stands still.
const STILL: Duration = Duration::from_secs(4);

/// How long one does that doesn't come to itself, and what a process is given that ends meanwhile: the deadline, what the
/// disk is given after it, and as much again for a slow machine.
const DEAD: Duration = Duration::from_mins(5);
const END_MAX: Duration = Duration::from_secs(26);

/// Longer than a disk is left alone that was found full.
const FULL_PATIENCE: Duration = Duration::from_secs(2);

const PUSHES: usize = 12;

/// What a fault came to.
#[derive(Debug)]
struct Outcome {
    state: State,
    /// How many pushes were refused, each of which was sent again.
    refusals: usize,
}

/// Runs with the fault from the journal's beginning on, then without it, and asserts that nothing is lost. The
/// settings are there before, so that the calls that count are the journal's.
fn suffer(fault: &Fault, weight: usize) -> Outcome {
    let config = Config::without_registry().with("shutdown.deadline = '1s'");
    let mut stage = Stage::launch(config, weight);
    stage.shipbell.wait_until_ready();
    stage.shipbell.stop();
    std::fs::remove_dir_all(stage.shipbell.data().join("journal")).unwrap();
    stage.shipbell.set_under(&fault.command());
    stage.shipbell.launch_again();
    stage.hook.take(2);
    let mut outcome = Outcome {
        state: State::Taking,
        refusals: 0,
    };
    // Only what is refused for ever is not waited for: a process that ends has until its deadline, and more on a slow machine.
    let is_full_for_ever = fault.error == "ENOSPC" && fault.when.ends_with('+');
    let patience = if is_full_for_ever { FULL_PATIENCE } else { SOON };
    for _ in 0..PUSHES {
        outcome.state = stage.push_until_settled(patience);
        if outcome.state != State::Taking {
            break;
        }
    }
    outcome.refusals = stage.refusals;
    println!("{fault:?}: {outcome:?}");
    match outcome.state {
        State::Ended(_) => {}
        State::Taking | State::Refusing => stage.shipbell.kill(),
    }
    stage.shipbell.set_under(&[]);
    stage.shipbell.start_again();
    stage.assert_nothing_lost();
    outcome
}

/// Runs with the fault at each of these calls. Asserts that the process either goes on or ends with 74.
fn suffer_each(
    calls: &'static str,
    error: &'static str,
    whens: &[&'static str],
    weight: usize,
) -> Vec<Outcome> {
    let outcomes = whens.iter().map(|&when| {
        let when = when.to_owned();
        suffer(&Fault { calls, error, when }, weight)
    });
    let outcomes: Vec<Outcome> = outcomes.collect();
    for outcome in &outcomes {
        if let State::Ended(code) = outcome.state {
            assert_eq!(code, Some(74), "{outcomes:?}");
        }
    }
    outcomes
}

fn any(outcomes: &[Outcome], is_it: impl Fn(&Outcome) -> bool) -> bool {
    outcomes.iter().any(is_it)
}

const ONCE: [&str; 6] = ["1", "2", "3", "4", "5", "7"];

#[test]
fn a_sync_that_fails_once_costs_an_answer_and_then_there_is_a_fresh_segment() {
    if !strace::is_allowed(a_sync_that_fails_once_costs_an_answer_and_then_there_is_a_fresh_segment) {
        return;
    }
    let outcomes = suffer_each("fdatasync,fsync", "EIO", &ONCE, 100);
    assert!(
        any(&outcomes, |o| o.state == State::Taking && o.refusals > 0),
        "{outcomes:?}"
    );
    assert!(!any(&outcomes, |o| o.state == State::Refusing), "{outcomes:?}");
}

#[test]
fn a_sync_or_a_write_that_fails_for_ever_ends_it() {
    if !strace::is_allowed(a_sync_or_a_write_that_fails_for_ever_ends_it) {
        return;
    }
    for (calls, whens) in [
        ("fdatasync,fsync", ["1+", "3+", "4+", "7+"]),
        ("pwrite64", ["1+", "6+", "7+", "8+"]),
    ] {
        let outcomes = suffer_each(calls, "EIO", &whens, 100);
        assert!(any(&outcomes, |o| o.refusals > 0), "{outcomes:?}");
        assert!(
            outcomes.iter().all(|o| matches!(o.state, State::Ended(_))),
            "{outcomes:?}"
        );
    }
}

#[test]
fn a_write_that_fails_once_costs_an_answer_and_then_there_is_a_fresh_segment() {
    if !strace::is_allowed(a_write_that_fails_once_costs_an_answer_and_then_there_is_a_fresh_segment) {
        return;
    }
    for error in ["EIO", "ENOSPC"] {
        let outcomes = suffer_each("pwrite64", error, &["1", "5", "6", "7", "8"], 100);
        assert!(
            any(&outcomes, |o| o.state == State::Taking && o.refusals > 0),
            "{outcomes:?}"
        );
        assert!(!any(&outcomes, |o| o.state == State::Refusing), "{outcomes:?}");
    }
}

#[test]
fn a_disk_that_is_full_for_ever_refuses_for_ever() {
    if !strace::is_allowed(a_disk_that_is_full_for_ever_refuses_for_ever) {
        return;
    }
    let outcomes = suffer_each("pwrite64", "ENOSPC", &["1+", "6+", "7+", "8+"], 100);
    assert!(any(&outcomes, |o| o.state == State::Refusing), "{outcomes:?}");
    assert!(!any(&outcomes, |o| o.state == State::Taking), "{outcomes:?}");
}

#[test]
fn a_segment_that_gets_no_name_ends_it() {
    if !strace::is_allowed(a_segment_that_gets_no_name_ends_it) {
        return;
    }
    // Those of the start are the first. Pushes fill some segments, so that there are others.
    for (calls, whens) in [
        ("/^rename", ["1", "2", "1+", "2+"]),
        ("fsync", ["1", "3", "1+", "3+"]),
    ] {
        let outcomes = suffer_each(calls, "EIO", &whens, 240_000);
        assert!(any(&outcomes, |o| o.refusals > 0), "{outcomes:?}");
        assert!(
            outcomes.iter().all(|o| matches!(o.state, State::Ended(_))),
            "{outcomes:?}"
        );
    }
}

#[test]
fn files_that_can_neither_be_removed_nor_cut_cost_space_and_nothing_else() {
    if !strace::is_allowed(files_that_can_neither_be_removed_nor_cut_cost_space_and_nothing_else) {
        return;
    }
    let mut stage = Stage::launch(Config::without_registry(), 240_000);
    stage.shipbell.wait_until_ready();
    let fault = Fault {
        calls: "/^unlink,ftruncate",
        error: "EIO",
        when: "1+".to_owned(),
    };
    let mut strace = fault.strike(stage.shipbell.id());
    stage.hook.take(ALL);
    for _ in 0..12 {
        stage.push_until_taken(SOON);
    }
    stage.assert_nothing_lost();
    assert_eq!(stage.refusals, 0);
    let kept = files::segments(&stage.shipbell.data());
    assert!(kept.len() > 2, "{kept:?}");
    for segment in &kept {
        assert!(
            segment.metadata().unwrap().len() >= 1024 * 1024 * 15 / 16,
            "{}",
            segment.display()
        );
    }
    stage.shipbell.kill();
    strace.wait(SOON).unwrap();
    stage.shipbell.start_again();
    stage.assert_nothing_lost();
    eventually("they are deleted", SOON, || {
        kept.iter().all(|segment| !segment.exists()).then_some(())
    });
}

#[test]
fn a_failed_journal_says_why_as_long_as_an_attempt_holds_the_end_up() {
    if !strace::is_allowed(a_failed_journal_says_why_as_long_as_an_attempt_holds_the_end_up) {
        return;
    }
    let config = Config::without_registry().with("shutdown.deadline = '3s'");
    let mut stage = Stage::launch(config, 100);
    stage.shipbell.wait_until_ready();
    stage.hook.hold();
    stage.push_until_taken(SOON);
    stage.hook.wait_for_one();
    let fault = Fault {
        calls: "fdatasync",
        error: "EIO",
        when: "1+".to_owned(),
    };
    let mut strace = fault.strike(stage.shipbell.id());
    assert_eq!(stage.push(), Some(503));
    let checks = stage.unready();
    assert!(checks.contains("Input/output error"), "{checks}");
    assert_eq!(stage.shipbell.wait(SOON).code(), Some(74));
    strace.wait(SOON).unwrap();
    stage.hook.release();
    stage.shipbell.start_again();
    stage.assert_nothing_lost();
}

#[test]
fn a_disk_that_stands_still_while_webhooks_are_settled_holds_up_nothing_else() {
    if !strace::is_allowed(a_disk_that_stands_still_while_webhooks_are_settled_holds_up_nothing_else) {
        return;
    }
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .endpoint("hook", &receiver.url("/hook"))
        .with("batch.window = '0s'");
    let mut shipbell = Shipbell::start(config);
    // The file is there from the first settlement on.
    shipbell.take(envelope::of(&[envelope::heavy("acme/first", "v1", 100)]));
    receiver.wait_for(1, SOON);
    let settling = shipbell.data().join("journal/settling");
    eventually("a settlement is written", SOON, || {
        settling.exists().then_some(())
    });
    let mut strace = strace::slow_down(shipbell.id(), "pwrite64", &settling, STILL);
    let more = 4 * thread::available_parallelism().unwrap().get();
    let events: Vec<_> = (0..more)
        .map(|number| envelope::heavy(&format!("acme/app{number}"), "v1", 100))
        .collect();
    shipbell.take(envelope::of(&events));
    // Each is delivered, and then settled by whoever delivered it.
    receiver.wait_for(1 + more, SOON);
    let began = Instant::now();
    while began.elapsed() < STILL / 2 {
        let asked = Instant::now();
        assert_eq!(shipbell.ops("/livez").status, 200);
        assert!(asked.elapsed() < STILL / 4, "{:?}", asked.elapsed());
    }
    shipbell.kill();
    strace.wait(SOON).unwrap();
}

#[test]
fn a_disk_that_stands_still_does_not_hold_up_the_end() {
    if !strace::is_allowed(a_disk_that_stands_still_does_not_hold_up_the_end) {
        return;
    }
    let config = Config::without_registry().with("shutdown.deadline = '1s'\ningest.ack_deadline = '500ms'");
    let mut stage = Stage::launch(config, 100);
    stage.shipbell.wait_until_ready();
    stage.push_until_taken(SOON);
    stage.hook.take(1);
    let segment = files::segments(&stage.shipbell.data()).pop().unwrap();
    let mut strace = strace::slow_down(stage.shipbell.id(), "fdatasync", &segment, DEAD);
    // Nobody is told that it is taken.
    assert_ne!(stage.push(), Some(202));
    stage.shipbell.terminate();
    eventually("it ends", END_MAX, || {
        let log = stage.shipbell.log();
        log.contains("it could not be synced before the end")
            .then_some(())
    });
    // A traced thread is there until strace has seen its end, which it looks for when the call does.
    strace.kill().unwrap();
    assert_eq!(stage.shipbell.wait(SOON).code(), Some(74));
    stage.hook.release();
    stage.shipbell.start_again();
    stage.assert_nothing_lost();
}

#[test]
fn a_disk_that_hangs_is_told_by_readiness_until_it_goes_on() {
    if !strace::is_allowed(a_disk_that_hangs_is_told_by_readiness_until_it_goes_on) {
        return;
    }
    let mut stage = Stage::launch(
        Config::without_registry().with("ingest.ack_deadline = '500ms'"),
        100,
    );
    stage.shipbell.wait_until_ready();
    stage.push_until_taken(SOON);
    let segment = files::segments(&stage.shipbell.data()).pop().unwrap();
    let hangs_for = HANGS_AFTER + Duration::from_secs(3);
    let mut strace = strace::slow_down(stage.shipbell.id(), "fdatasync", &segment, hangs_for);
    let began = Instant::now();
    assert_eq!(stage.push(), Some(503));
    assert_eq!(stage.shipbell.ops("/readyz").status, 200, "it may only be slow");
    let checks = stage.unready();
    assert!(
        checks.contains("[-]journal failed: the disk hangs: nothing has become durable for"),
        "{checks}"
    );
    assert!(began.elapsed() >= HANGS_AFTER);
    // The one that hung is durable then, and whoever asks is told so.
    stage.shipbell.wait_until_ready();
    assert!(began.elapsed() >= hangs_for);
    stage.hook.release();
    stage.shipbell.kill();
    strace.wait(SOON).unwrap();
    stage.shipbell.start_again();
    stage.assert_nothing_lost();
}

#[test]
fn a_journal_that_cannot_be_read_is_not_taken_for_damaged() {
    if !strace::is_allowed(a_journal_that_cannot_be_read_is_not_taken_for_damaged) {
        return;
    }
    let mut stage = Stage::launch(Config::without_registry(), 240_000);
    stage.shipbell.wait_until_ready();
    for _ in 0..6 {
        stage.push_until_taken(SOON);
    }
    stage.shipbell.kill();
    let segments = files::segments(&stage.shipbell.data());
    assert!(segments.len() > 1, "{segments:?}");
    // The header is the first that is read of each; what else one thread reads of it, and whether a start or an
    // attempt does, depends on how a start shares its work.
    for segment in &segments {
        for when in ["1", "2", "3"] {
            let fault = Fault {
                calls: "pread64",
                error: "EIO",
                when: when.to_owned(),
            };
            stage.shipbell.set_under(&fault.command_at(segment));
            let Some(refusal) = stage.shipbell.try_to_start() else {
                assert_ne!(when, "1", "nothing was read of {}", segment.display());
                continue;
            };
            assert_eq!(refusal.code, Some(74), "{}", refusal.said);
            let name = segment.display().to_string();
            for words in [&*name, "Input/output error"] {
                assert!(
                    refusal.said.contains(words),
                    "nothing of {words} in {}",
                    refusal.said
                );
            }
        }
    }
    stage.shipbell.set_under(&[]);
    stage.shipbell.start_again();
    stage.assert_nothing_lost();
}
