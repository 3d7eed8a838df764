//! The data folder: who may read it, whose it is, and what of it survives a kill besides the pushes that
//! are owed (CONTRACT 2, 6 and 9).

use std::{fs, os::unix::fs::chown};

use crate::support::{
    SOON, envelope, eventually, files, folder,
    privilege::{self, Capability, WITHOUT_ANY},
    receiver::{Answer, Receiver},
    shipbell::{self, Config, Shipbell},
    strace,
};

/// Neither root nor anybody who runs tests.
const SOMEBODY: u32 = 54_321;

/// With segments that are soon full.
fn config(receiver: &Receiver) -> Config {
    Config::without_registry()
        .endpoint("hook", &receiver.url("/hook"))
        .with("ingest.max_body = '256KiB'\njournal.segment_size = '1MiB'")
}

#[test]
fn a_folder_of_somebody_else_is_refused_by_name() {
    let test = a_folder_of_somebody_else_is_refused_by_name;
    if !privilege::has(test, &[Capability::Chown, Capability::SetPcap]) {
        return;
    }
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(config(&receiver).under(&WITHOUT_ANY));
    shipbell.take(envelope::one("acme/app", "1"));
    receiver.wait_for_image("acme/app:1", SOON);
    shipbell.stop();
    for part in ["", "journal", "quarantine", "settings.db"] {
        let path = shipbell.data().join(part);
        let own = rustix::process::geteuid().as_raw();
        chown(&path, Some(SOMEBODY), None).unwrap();
        let refusal = shipbell.start_in_vain();
        assert_eq!(refusal.code, Some(77), "{part}: {}", refusal.said);
        let name = path.display().to_string();
        assert!(
            refusal.said.contains(&name),
            "nothing of {name} in {}",
            refusal.said
        );
        chown(&path, Some(own), None).unwrap();
    }
    shipbell.start_again();
}

#[test]
fn a_data_folder_that_may_not_be_made_is_refused_by_name() {
    let test = a_data_folder_that_may_not_be_made_is_refused_by_name;
    if !privilege::has(test, &[Capability::Chown, Capability::SetPcap]) {
        return;
    }
    let theirs = folder();
    let data = theirs.path().join("data");
    chown(theirs.path(), Some(SOMEBODY), None).unwrap();
    let config = Config::without_registry().under(&WITHOUT_ANY).data_in(&data);
    let mut shipbell = Shipbell::launch(config);
    assert_eq!(shipbell.wait(SOON).code(), Some(77));
    let (log, name) = (shipbell.log(), data.display().to_string());
    assert!(log.contains(&name), "nothing of {name} in {log}");
}

#[test]
fn the_names_of_folders_that_are_made_are_synced() {
    let test = the_names_of_folders_that_are_made_are_synced;
    if !strace::is_allowed(test) {
        return;
    }
    let base = folder();
    let (data, trace) = (base.path().join("new/below/data"), base.path().join("trace"));
    let output = trace.display().to_string();
    let watched = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-y",
        "-e",
        "trace=fsync",
        "-o",
        &output,
    ];
    let mut shipbell = Shipbell::start(Config::without_registry().under(&watched).data_in(&data));
    shipbell.stop();
    for folder in ["", "new", "new/below", "new/below/data"] {
        // Of the base, the path ends there.
        let path = base.path().join(folder).display().to_string();
        let synced = format!("<{}>)", path.trim_end_matches('/'));
        eventually(&synced, SOON, || {
            let done = fs::read_to_string(&trace).unwrap_or_default();
            done.contains(&synced).then_some(())
        });
    }
}

#[test]
fn nothing_is_acknowledged_once_the_journal_was_removed_under_it() {
    let receiver = Receiver::start();
    let push = |tag: &str| envelope::one("acme/app", tag);
    let mut shipbell = Shipbell::start(config(&receiver));
    shipbell.take(push("1"));
    receiver.wait_for_image("acme/app:1", SOON);
    // The segment alone: the next one takes its place, and what stood in it is refused.
    let journal = shipbell.data().join("journal");
    fs::remove_file(journal.join("0000000000000001.segment")).unwrap();
    let answer = shipbell::post(shipbell.ingest(), push("2")).unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    shipbell.take(push("2"));
    receiver.wait_for_image("acme/app:2", SOON);
    fs::remove_dir_all(shipbell.data()).unwrap();
    let answer = shipbell::post(shipbell.ingest(), push("3")).unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(shipbell.wait(SOON).code(), Some(74));
    let log = shipbell.log();
    assert!(log.contains("the file was removed while it was open"), "{log}");
    let name = journal.display().to_string();
    assert!(
        log.lines()
            .any(|line| line.contains("can't go on") && line.contains(&name)),
        "{log}"
    );
}

#[test]
fn a_segments_file_that_was_made_ahead_and_removed_since_is_made_again() {
    // It is made once enough is owed.
    let receiver = Receiver::scripted(|_| Answer::Status(503));
    let mut shipbell = Shipbell::start(config(&receiver));
    let spare = shipbell.data().join("journal/spare");
    let mut tags = 0..;
    let mut take = || {
        let push = envelope::heavy("acme/app", &tags.next().unwrap_or(0).to_string(), 100_000);
        shipbell.take(envelope::of(&[push]));
    };
    for _ in 0..3 {
        eventually("it is made ahead", SOON, || {
            take();
            spare.exists().then_some(())
        });
        fs::remove_file(&spare).unwrap();
        // More than a segment holds.
        (0..12).for_each(|_| take());
    }
    shipbell.stop();
}

#[test]
fn nobody_else_may_read_what_lies_in_the_data_folder() {
    let receiver = Receiver::start();
    let lax = ["sh", "-c", r#"umask 0; exec "$@""#, "sh"];
    for under in [&[][..], &lax] {
        let mut shipbell = Shipbell::start(config(&receiver).under(under));
        let before = receiver.requests().len();
        shipbell.take("garbage");
        // More than a segment holds, so that another one is begun.
        for tag in 0..12 {
            let push = envelope::heavy("acme/app", &tag.to_string(), 100_000);
            shipbell.take(envelope::of(&[push]));
        }
        receiver.wait_for(before + 1, SOON);
        assert_eq!(files::with_wrong_modes(&shipbell.data()), []);
        shipbell.kill();
        shipbell.start_again();
        assert_eq!(files::with_wrong_modes(&shipbell.data()), []);
        shipbell.stop();
        assert_eq!(files::with_wrong_modes(&shipbell.data()), []);
        assert_eq!(
            fs::read_dir(shipbell.data().join("quarantine")).unwrap().count(),
            1
        );
    }
}

#[test]
fn an_event_taken_before_a_kill_is_known_when_its_segment_is_gone() {
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(config(&receiver));
    let known = envelope::one("acme/app", "known");
    shipbell.take(&known);
    receiver.wait_for_image("acme/app:known", SOON);
    for round in 0..3 {
        let oldest = files::segments(&shipbell.data()).remove(0);
        for tag in 0..12 {
            let push = envelope::heavy("acme/app", &format!("{round}-{tag}"), 100_000);
            shipbell.take(envelope::of(&[push]));
        }
        eventually("the segment is deleted", SOON, || {
            (!oldest.exists()).then_some(())
        });
        shipbell.kill();
        shipbell.start_again();
        shipbell.take(&known);
    }
    shipbell.take(envelope::one("acme/app", "last"));
    let requests = receiver.wait_for_image("acme/app:last", SOON);
    let count = |name: &str| requests.iter().filter(|request| request.image() == name).count();
    assert_eq!(count("acme/app:known"), 1);
}

#[test]
fn an_event_that_is_still_owed_at_a_kill_is_not_queued_again() {
    let receiver = Receiver::scripted(|_| Answer::Hold);
    let mut shipbell = Shipbell::start(config(&receiver));
    let known = envelope::one("acme/app", "known");
    shipbell.take(&known);
    receiver.wait_for(1, SOON);
    shipbell.kill();
    shipbell.start_again();
    shipbell.take(&known);
    receiver.wait_for(2, SOON);
    receiver.release();
    shipbell.take(envelope::one("acme/app", "last"));
    let requests = receiver.wait_for_image("acme/app:last", SOON);
    assert_eq!(requests.len(), 3, "once more, for the attempt that was cut");
    assert_eq!(requests[0].id(), requests[1].id());
}

#[test]
fn what_is_quarantined_survives_a_kill() {
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(config(&receiver));
    let folder = shipbell.data().join("quarantine");
    for number in 1..=3 {
        let body = format!("garbage number {number}");
        shipbell.take(&body);
        // It is on disk when the answer comes.
        shipbell.kill();
        let kept = files::contents(&folder);
        let kept: Vec<&Vec<u8>> = kept.values().flatten().collect();
        assert_eq!(kept.len(), number);
        assert!(
            kept.iter().any(|file| file.ends_with(body.as_bytes())),
            "{kept:?}"
        );
        shipbell.start_again();
    }
}
