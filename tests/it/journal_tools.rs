//! `shipbell journal inspect|verify|repair` on the journals of a real shipbell.

use std::{
    collections::BTreeMap,
    fs, panic,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::SystemTime,
};

use ::shipbell::image::Digest;
use serde_json::Value;

use crate::support::{
    SOON, envelope, folder,
    receiver::{Receiver, Request},
    shipbell::{self, Config, Shipbell},
};

/// A shipbell whose pushes wait for their window until the next start.
fn waiting(receiver: &Receiver) -> Shipbell {
    let config = Config::without_registry()
        .endpoint("hook", &receiver.url("/hook"))
        .with("batch.window = '1h'\nbatch.coalesce = 'none'");
    Shipbell::start(config)
}

fn push(tag: &str) -> String {
    envelope::one("acme/app", tag)
}

/// `shipbell journal` with these arguments, on that data folder.
fn tool(arguments: &str, data: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shipbell"));
    command.arg("journal").args(arguments.split(' '));
    command.arg("--data-dir").arg(data);
    command.env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn records(filter: &str, data: &Path) -> Vec<Value> {
    let output = tool(&format!("inspect --records --output json{filter}"), data);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = text(&output.stdout).lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The journal's files: digest of the content, and time of the last change. Without the spare one, which a
/// server fills ahead of need.
fn state(data: &Path) -> BTreeMap<PathBuf, (String, SystemTime)> {
    let entries = fs::read_dir(data.join("journal")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| !path.ends_with("spare"))
        .map(|path| {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            (path.clone(), (digest(&path), changed))
        })
        .collect()
}

fn digest(file: &Path) -> String {
    Digest::sha256(&fs::read(file).unwrap()).to_string()
}

fn look_beside_a_server(data: &Path) {
    let verified = tool("verify --output json", data);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let inspected = json(&tool("inspect --output json", data));
    assert_eq!(inspected["is_sound"], true, "{inspected:#}");
    assert!(inspected["held_by"]["process"].is_u64(), "{inspected:#}");
    assert!(!records("", data).is_empty());
}

#[test]
fn looking_at_a_journal_under_load_disturbs_nobody() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .endpoint("hook", &receiver.url("/hook"))
        .with("journal.segment_size = '1MiB'\ningest.max_body = '64KiB'\nbatch.window = '10ms'");
    let mut shipbell = Shipbell::start(config);
    let (port, data) = (shipbell.ingest(), shipbell.data());
    let is_over = AtomicBool::new(false);
    let taken = thread::scope(|scope| {
        let poster = scope.spawn(|| {
            let mut taken = 0;
            while !is_over.load(Ordering::Relaxed) {
                let pushes: Vec<_> = (0..20)
                    .map(|number| envelope::push("acme/app", &format!("{taken}-{number}"), "x"))
                    .collect();
                let response = shipbell::post(port, envelope::of(&pushes)).unwrap();
                assert_eq!(response.status, 202);
                taken += 1;
            }
            taken
        });
        // Whatever the looks find, the poster ends.
        let looked = panic::catch_unwind(|| {
            for _ in 0..4 {
                look_beside_a_server(&data);
            }
        });
        is_over.store(true, Ordering::Relaxed);
        let taken = poster.join().unwrap();
        looked.map(|()| taken)
    });
    let taken = taken.unwrap_or_else(|found| panic::resume_unwind(found));
    assert!(taken > 0);
    shipbell.stop();
    let verified = tool("verify", &data);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(text(&verified.stdout).starts_with("ok: "), "{verified:?}");
}

#[test]
fn a_journal_is_shown_as_it_stands_and_left_so() {
    let receiver = Receiver::start();
    let mut shipbell = waiting(&receiver);
    for tag in ["1", "2", "3"] {
        shipbell.take(push(tag));
    }
    let data = shipbell.data();
    let before = state(&data);
    let beside = tool("inspect", &data);
    let beside = text(&beside.stdout);
    assert!(
        beside.contains("the newest segment is being written to"),
        "{beside}"
    );
    assert_eq!(state(&data), before, "beside a server");
    shipbell.kill();

    let before = state(&data);
    let shown = tool("inspect", &data);
    let shown = text(&shown.stdout);
    for line in [
        "format      version 1",
        "open        by no process",
        "owed        3 pushes, 3 pairs with an endpoint, the oldest is 1",
        "next        sequence number 4",
        "remembered  3 event ids",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "{line} is not in\n{shown}"
        );
    }
    let summary = json(&tool("inspect --output json", &data));
    assert_eq!(summary["owed"], 3);
    assert_eq!(summary["held_by"], Value::Null);
    assert_eq!(summary["identity"].as_str().unwrap().len(), 32);
    assert_eq!(summary["segments"][0]["last_sequence"], 3);

    let all = records("", &data);
    let images: Vec<_> = all
        .iter()
        .map(|record| record["image"].as_str().unwrap())
        .collect();
    assert_eq!(images, ["acme/app:1", "acme/app:2", "acme/app:3"]);
    assert_eq!(all[0]["endpoints"][0], "hook");
    assert_eq!(records(" --sequence 2", &data), all[1..2]);
    assert_eq!(records(" --repository acme/other", &data), [] as [Value; 0]);
    assert_eq!(records(" --segment 7", &data), [] as [Value; 0]);
    let lines = tool("inspect --records", &data);
    let line = text(&lines.stdout).lines().next().unwrap();
    assert!(
        line.starts_with("segment=1 offset=156 commit=1 push sequence=1 image=acme/app:1 digest=sha256:"),
        "{line}"
    );
    assert_eq!(tool("verify", &data).status.code(), Some(0));
    assert_eq!(tool("repair --dry-run", &data).status.code(), Some(0));
    assert_eq!(state(&data), before);
    let repaired = tool("repair --yes", &data);
    assert!(
        text(&repaired.stdout).contains("nothing is damaged"),
        "{repaired:?}"
    );
    assert_eq!(state(&data), before, "a sound journal is left as it is");

    // The configuration tells where it is just as well.
    let config = data.parent().unwrap().join("shipbell.toml");
    let verified = shipbell::command(&["journal", "verify"], &config)
        .output()
        .unwrap();
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

#[test]
fn a_torn_last_commit_is_no_damage() {
    let receiver = Receiver::start();
    let mut shipbell = waiting(&receiver);
    shipbell.take(push("1"));
    shipbell.take(push("2"));
    shipbell.kill();
    let data = shipbell.data();
    let last = records(" --sequence 2", &data).remove(0);
    flip(&data, &last, 5);
    let verified = tool("verify", &data);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let said = text(&verified.stdout);
    assert!(said.contains("the next start cuts it off"), "{said}");
    let before = state(&data);
    assert_eq!(tool("repair --yes", &data).status.code(), Some(0));
    assert_eq!(state(&data), before);
}

/// Flips a bit in a record, `at` bytes behind its beginning.
fn flip(data: &Path, record: &Value, at: usize) {
    let segment = record["segment"].as_u64().unwrap();
    let file = data.join(format!("journal/{segment:016}.segment"));
    let mut bytes = fs::read(&file).unwrap();
    let offset = usize::try_from(record["offset"].as_u64().unwrap()).unwrap();
    bytes[offset + at] ^= 1;
    fs::write(&file, bytes).unwrap();
}

#[test]
fn a_damaged_journal_is_repaired_and_what_is_owed_is_delivered() {
    let receiver = Receiver::start();
    let mut shipbell = waiting(&receiver);
    for number in 1..=9 {
        shipbell.take(push(&number.to_string()));
    }
    let data = shipbell.data();
    assert_eq!(
        tool("repair --yes", &data).status.code(),
        Some(75),
        "beside a server"
    );
    assert_eq!(
        tool("repair --dry-run", &data).status.code(),
        Some(75),
        "beside a server"
    );
    shipbell.kill();
    let sound = records("", &data);
    let identity = json(&tool("inspect --output json", &data))["identity"].clone();
    flip(&data, &sound[4], 30);

    let refused = shipbell.second_on_same_data();
    assert_eq!(refused.status.code(), Some(65));
    let command = format!("`shipbell journal repair --data-dir {}`", data.display());
    let told = text(&refused.stderr);
    let count = told.matches(&command).count();
    assert_eq!(count, 2, "once in the log, once as the error: {told}");

    let verified = tool("verify --output json", &data);
    assert_eq!(verified.status.code(), Some(65));
    assert!(text(&verified.stderr).contains(&command), "{verified:?}");
    let findings = json(&verified)["findings"].clone();
    assert_eq!(findings.as_array().unwrap().len(), 1, "{findings:#}");
    assert_eq!(findings[0]["offset"], sound[4]["offset"].as_u64().unwrap() - 28);

    let before = state(&data);
    assert_eq!(tool("repair", &data).status.code(), Some(2), "nobody to ask");
    let planned = json(&tool("repair --dry-run --output json", &data));
    assert_eq!(
        (&planned["damaged"], &planned["repaired"]),
        (&true.into(), &false.into())
    );
    assert_eq!(planned["pushes_lost"][0]["first"], 5);
    assert_eq!(state(&data), before);
    let repaired = json(&tool("repair --yes --output json", &data));
    assert_eq!(repaired["repaired"], true, "{repaired:#}");
    for moved in repaired["moves"].as_array().unwrap() {
        let name = |key: &str| data.join("journal").join(moved[key].as_str().unwrap());
        assert_eq!(digest(&name("to")), before[&name("from")].0);
    }
    assert_eq!(tool("verify", &data).status.code(), Some(0));
    let summary = json(&tool("inspect --output json", &data));
    assert_eq!((&summary["identity"], &summary["owed"]), (&identity, &8.into()));

    shipbell.start_again();
    let requests = receiver.wait_for(8, SOON);
    let images: Vec<_> = requests.iter().map(Request::image).collect();
    let kept = [1, 2, 3, 4, 6, 7, 8, 9].map(|number| format!("acme/app:{number}"));
    assert_eq!(images, kept);
    shipbell.stop();
    assert_eq!(tool("verify", &data).status.code(), Some(0));
}

#[test]
fn where_there_is_no_journal_none_is_made() {
    let data = folder();
    for arguments in [
        "inspect",
        "inspect --records",
        "verify",
        "repair --yes",
        "repair --dry-run",
    ] {
        let output = tool(arguments, data.path());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = text(&output.stderr);
        assert!(told.contains("there is no journal in"), "{told}");
        assert!(fs::read_dir(data.path()).unwrap().next().is_none());
    }
    fs::create_dir(data.path().join("journal")).unwrap();
    assert_eq!(tool("repair --yes", data.path()).status.code(), Some(1));
    assert!(
        fs::read_dir(data.path().join("journal"))
            .unwrap()
            .next()
            .is_none()
    );
}
