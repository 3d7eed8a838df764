//! Letters that are sent again while this machine can open no connection.

use super::*;
use crate::support::strace::{self, Fault};

/// A letter, at a start whose connections all fail; `ask` has it sent again.
fn stays_as_it_is_until_files_can_be_opened(ask: &str) {
    let (hook, mut shipbell) = refused_twice();
    let data = shipbell.data();
    shipbell.push("acme/app", "1");
    let letters = wait_for_rows(1, &data);
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    // No connection is kept over that.
    shipbell.stop();
    hook.answer(|_| Answer::Status(200));
    shipbell.start_again();
    let before = hook.requests().len();
    let struck = Fault::no_connections().strike(shipbell.id());
    let asked = Api::at(shipbell.admin_port()).post(ask);
    assert_eq!(asked.status, 200, "{}", asked.text());
    // It is tried more than once, and no failure of the letter.
    eventually("two attempts", SOON, || {
        (shipbell.metric("shipbell_attempts_total{result=\"local\"}") >= 2).then_some(())
    });
    assert_eq!(rows(&data), letters);
    drop(struck);
    hook.wait_for(before + 1, SOON);
    eventually("the letter is none any more", SOON, || {
        rows(&data).is_empty().then_some(())
    });
    shipbell.stop();
    assert_eq!(hook.requests().len(), before + 1);
}

#[test]
fn a_replay_waits_while_files_are_short() {
    if strace::is_allowed(a_replay_waits_while_files_are_short) {
        stays_as_it_is_until_files_can_be_opened("/api/v1/dead-letters/replay?endpoint=hook");
    }
}

#[test]
fn a_set_that_is_sent_again_waits_while_files_are_short() {
    if strace::is_allowed(a_set_that_is_sent_again_waits_while_files_are_short) {
        stays_as_it_is_until_files_can_be_opened("/api/v1/deliveries/redeliver?endpoint=hook");
    }
}
