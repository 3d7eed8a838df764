//! Disks that are full or turn read-only, for real (CONTRACT 2 and 6): a push that can't be kept is
//! answered 503, deliveries go on, and what was answered 202 outlives it all.

use std::time::Duration;

use crate::support::{
    SOON, eventually,
    faulty::Stage,
    http,
    shipbell::{Config, Shipbell},
    volume::Volume,
};

/// Ten of them fill a segment.
const WEIGHT: usize = 100_000;

/// How soon pushes are taken again once there is space.
const BACK_WITHIN: Duration = Duration::from_secs(5);

fn on(volume: &Volume) -> Config {
    Config::without_registry().data_in(&volume.path().join("data"))
}

/// Some are taken, and then as many as a disk takes that is kept full.
fn push_until_refused(stage: &mut Stage, volume: &Volume) {
    for _ in 0..8 {
        assert_eq!(stage.push(), Some(202));
    }
    for _ in 0..100 {
        // What shipbell gave back would be enough for another segment.
        volume.fill();
        if stage.push() == Some(503) {
            return;
        }
    }
    panic!("the disk is not full");
}

fn assert_says_full(stage: &Stage) {
    let checks = stage.unready();
    assert!(checks.contains("nothing new can be written"), "{checks}");
}

#[test]
fn on_a_full_disk_pushes_are_refused_until_there_is_space_and_deliveries_go_on() {
    let test = on_a_full_disk_pushes_are_refused_until_there_is_space_and_deliveries_go_on;
    let Some(volume) = Volume::in_memory(test, 24) else {
        return;
    };
    let mut stage = Stage::launch(on(&volume), WEIGHT);
    stage.shipbell.wait_until_ready();
    push_until_refused(&mut stage, &volume);
    assert_says_full(&stage);
    // Too few to have a segment deleted, so that it stays full.
    stage.hook.take_now(3);
    assert_eq!(stage.push(), Some(503));
    // What the registry would send for ever is taken although it can't be set aside. At any moment the history may give
    // back what it couldn't use, so one of a few finds the disk full.
    eventually("one can't be set aside", SOON, || {
        volume.fill();
        stage.shipbell.take("garbage");
        let metrics = stage.shipbell.ops("/metrics").text();
        metrics
            .contains("shipbell_quarantine_failures_total 1")
            .then_some(())
    });

    volume.free();
    stage.push_until_taken(BACK_WITHIN);
    eventually("it is ready", BACK_WITHIN, || {
        let answer = http::get(stage.shipbell.ops_port(), "/readyz").ok()?;
        (answer.status == 200).then_some(())
    });
    stage.hook.take_now(3);
    stage.shipbell.kill();
    stage.shipbell.start_again();
    stage.assert_nothing_lost();
    stage.shipbell.stop();
}

#[test]
fn what_is_delivered_frees_a_full_disk() {
    let test = what_is_delivered_frees_a_full_disk;
    let Some(volume) = Volume::in_memory(test, 24) else {
        return;
    };
    let mut stage = Stage::launch(on(&volume), WEIGHT);
    stage.shipbell.wait_until_ready();
    // Some segments: to begin one takes more than one that was cut to its content gives back.
    for _ in 0..40 {
        stage.push_until_taken(SOON);
    }
    push_until_refused(&mut stage, &volume);
    stage.assert_nothing_lost();
    stage.shipbell.stop();
}

#[test]
fn a_start_on_a_full_disk_delivers_what_was_taken_and_takes_more_when_there_is_space() {
    let test = a_start_on_a_full_disk_delivers_what_was_taken_and_takes_more_when_there_is_space;
    let Some(volume) = Volume::in_memory(test, 24) else {
        return;
    };
    let mut stage = Stage::launch(on(&volume), WEIGHT);
    stage.shipbell.wait_until_ready();
    push_until_refused(&mut stage, &volume);
    let deliver_on_full_disk = |stage: &mut Stage| {
        volume.fill();
        stage.shipbell.launch_again();
        assert_says_full(stage);
        // The start gave some space back.
        volume.fill();
        stage.hook.take_and_refuse(2);
    };
    stage.shipbell.kill();
    deliver_on_full_disk(&mut stage);
    assert_eq!(stage.push(), Some(503));
    // Again, with what has been settled meanwhile; once killed, once asked to end.
    stage.shipbell.kill();
    deliver_on_full_disk(&mut stage);
    stage.shipbell.stop();
    deliver_on_full_disk(&mut stage);
    assert_eq!(
        stage.hook.repeats(),
        0,
        "what is settled is remembered on a full disk, too"
    );

    volume.free();
    stage.push_until_taken(BACK_WITHIN);
    stage.shipbell.kill();
    stage.shipbell.start_again();
    stage.assert_nothing_lost();
    stage.shipbell.stop();
}

#[test]
fn a_first_start_on_a_full_disk_says_so_and_leaves_nothing_in_the_way() {
    let test = a_first_start_on_a_full_disk_says_so_and_leaves_nothing_in_the_way;
    let Some(volume) = Volume::in_memory(test, 24) else {
        return;
    };
    volume.fill();
    let mut shipbell = Shipbell::launch(on(&volume));
    assert_eq!(shipbell.wait(SOON).code(), Some(74));
    let log = shipbell.log();
    assert!(log.contains("No space left on device"), "{log}");
    volume.free();
    shipbell.start_again();
    shipbell.stop();
}

#[test]
fn a_disk_that_turns_read_only_ends_it_and_what_was_taken_is_delivered_later() {
    let test = a_disk_that_turns_read_only_ends_it_and_what_was_taken_is_delivered_later;
    let Some(volume) = Volume::ext4(test, 32) else {
        return;
    };
    // An attempt in flight holds up the end, so that there is somebody to ask.
    let mut stage = Stage::launch(on(&volume).with("shutdown.deadline = '3s'"), 100);
    stage.shipbell.wait_until_ready();
    stage.hook.hold();
    for _ in 0..5 {
        stage.push_until_taken(SOON);
    }
    stage.hook.wait_for_one();
    volume.turn_read_only();
    assert_eq!(stage.push(), Some(503));
    let checks = stage.unready();
    assert!(checks.contains("Read-only file system"), "{checks}");
    assert_eq!(stage.shipbell.wait(SOON).code(), Some(74));

    // While it is read-only there is no start.
    let refusal = stage.shipbell.start_in_vain();
    assert_eq!(refusal.code, Some(74), "{}", refusal.said);
    assert!(refusal.said.contains("Read-only file system"), "{}", refusal.said);

    volume.mount_again();
    stage.hook.release();
    stage.shipbell.start_again();
    stage.assert_nothing_lost();
    stage.shipbell.stop();
}
