//! The repositories' webhooks written to a file and read from one (CONTRACT 9).

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::{
    SOON,
    api::{Api, webhook_of},
    envelope, folder,
    receiver::Receiver,
    shipbell::{self, Config, Shipbell},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn config() -> Config {
    Config::without_registry().with("delivery.allow_networks = ['127.0.0.0/8']")
}

fn api(shipbell: &Shipbell) -> Api {
    Api::at(shipbell.admin_port())
}

fn command(data: &Path, arguments: &[&str]) -> Command {
    let data = data.display().to_string();
    let all: Vec<&str> = ["endpoints"]
        .into_iter()
        .chain(arguments.iter().copied())
        .chain(["--data-dir", &data])
        .collect();
    let mut command = shipbell::command(&[], Path::new("/dev/null"));
    command.args(all);
    command
}

fn run(data: &Path, arguments: &[&str]) -> Output {
    command(data, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn ok(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// A repository with everything set.
fn set_all(shipbell: &Shipbell, receiver: &Receiver) {
    let all = json!({
        "url": receiver.url("/hook?token=hunter1"), "secret": SECRET, "headers": {"X-Key": "hunter2"},
        "tags": ["1.*"],
    });
    assert_eq!(api(shipbell).set("acme/app", &all).status, 201);
    let off = json!({"url": receiver.url("/off"), "enabled": false});
    assert_eq!(api(shipbell).set("acme/off", &off).status, 201);
}

/// The webhook of `acme/app` works as it was set.
fn works(shipbell: &Shipbell, receiver: &Receiver, tag: &str) {
    shipbell.take(envelope::of(&[
        envelope::push("acme/off", tag, "off"),
        envelope::push("acme/app", "latest", "other"),
        envelope::push("acme/app", tag, tag),
    ]));
    let came = receiver.wait_for_image(&format!("acme/app:{tag}"), SOON);
    let webhook = came.last().unwrap();
    assert!(
        webhook.line().contains("/hook?token=hunter1 "),
        "{}",
        webhook.line()
    );
    assert_eq!(webhook.header("x-key"), "hunter2");
    assert!(webhook.find_header("webhook-signature").is_some());
    let is_right = |webhook: &&crate::support::receiver::Request| webhook.image().starts_with("acme/app:1.");
    assert_eq!(came.iter().filter(is_right).count(), came.len());
}

#[test]
fn with_secrets_they_move_to_another_server_in_a_file_for_its_owner() {
    let receiver = Receiver::start();
    let (mut old, new) = (Shipbell::start(config()), Shipbell::start(config()));
    set_all(&old, &receiver);
    let kept = folder();
    let file = kept.path().join("webhooks.json");
    let name = file.to_str().unwrap();
    let export = ["export", "--with-secrets", "--out", name];
    // Without a server too.
    let beside = folder();
    let other = beside.path().join("beside.json");
    ok(&run(
        &old.data(),
        &["export", "--with-secrets", "--out", other.to_str().unwrap()],
    ));
    old.stop();
    ok(&run(&old.data(), &export));
    assert_eq!(fs::read(&file).unwrap(), fs::read(&other).unwrap());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = run(&old.data(), &export);
    assert_eq!(again.status.code(), Some(74), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("exists"), "{}", text(&again.stderr));
    assert_eq!(
        run(&old.data(), &["export", "--with-secrets"]).status.code(),
        Some(2)
    );

    let would = ok(&run(&new.data(), &["import", name, "--dry-run"]));
    assert_eq!(would, "2 would be added, 0 would be changed\n");
    assert_eq!(api(&new).get(&webhook_of("acme/app")).status, 404);
    let done = ok(&run(&new.data(), &["import", name]));
    assert_eq!(done, "2 added, 0 changed\n");
    works(&new, &receiver, "1.1");
    let off = api(&new).json(&webhook_of("acme/off"));
    assert_eq!(off["enabled"], false);
    let done = ok(&run(&new.data(), &["import", name, "--output", "json"]));
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(done["changed"], json!(["acme/app", "acme/off"]));
    assert_eq!(done["imported"], true);
}

#[test]
fn without_secrets_none_is_told_and_all_stay_where_they_were() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(config());
    set_all(&shipbell, &receiver);
    let exported = ok(&run(&shipbell.data(), &["export"]));
    for hidden in ["hunter1", "hunter2", SECRET] {
        assert!(!exported.contains(hidden), "{exported}");
    }
    let document: Value = serde_json::from_str(&exported).unwrap();
    assert_eq!(document["version"], 1);
    let app = &document["webhooks"][0];
    assert_eq!(app["repository"], "acme/app");
    assert_eq!(app["url"], receiver.url("/hook?…"));
    assert_eq!(app["tags"], json!(["1.*"]));
    let kept = folder();
    let file = kept.path().join("webhooks.json");
    fs::write(&file, &exported).unwrap();
    let done = ok(&run(&shipbell.data(), &["import", file.to_str().unwrap()]));
    assert_eq!(done, "0 added, 2 changed\n");
    works(&shipbell, &receiver, "1.2");
}

#[test]
fn an_import_sends_what_is_masked_to_no_other_server() {
    let (receiver, other) = (Receiver::start(), Receiver::start());
    let shipbell = Shipbell::start(config());
    set_all(&shipbell, &receiver);
    let exported = ok(&run(&shipbell.data(), &["export"]));
    let kept = folder();
    let file = kept.path().join("webhooks.json");
    let (here, there) = (receiver.url(""), other.url(""));
    fs::write(
        &file,
        exported.replace(&format!("{here}/hook?…"), &format!("{there}/hook")),
    )
    .unwrap();
    let refused = run(&shipbell.data(), &["import", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stdout);
    assert!(
        said.contains("acme/app: headers/X-Key: the URL points to another server"),
        "{said}"
    );
    works(&shipbell, &receiver, "1.3");
    assert!(other.requests().is_empty());
}

#[test]
fn if_one_cannot_be_used_none_is_and_each_is_told() {
    let shipbell = Shipbell::start(config());
    let kept = folder();
    let file = kept.path().join("webhooks.json");
    let document = json!({"version": 1, "webhooks": [
        {"repository": "acme/good", "url": "https://ci.example.com/hook"},
        {"repository": "acme/bad", "url": "https://10.0.0.1/hook"},
        {"repository": "acme/masked", "url": "https://ci.example.com/hook?…", "headers": {"X-A": "…"}},
        {"repository": "Acme//", "url": "https://ci.example.com/hook"},
    ]});
    fs::write(&file, document.to_string()).unwrap();
    for arguments in [
        &["import", file.to_str().unwrap()][..],
        &["import", file.to_str().unwrap(), "--dry-run"],
    ] {
        let refused = run(&shipbell.data(), arguments);
        assert_eq!(refused.status.code(), Some(1));
        let said = text(&refused.stdout);
        assert!(said.contains("acme/bad: url: "), "{said}");
        assert!(said.contains("allow_networks = "), "{said}");
        assert!(said.contains("acme/masked: url: its query is masked"), "{said}");
        assert!(said.contains("headers/X-A: its value is masked"), "{said}");
        assert!(said.contains("Acme//: "), "{said}");
        assert!(
            text(&refused.stderr).contains("3 of the webhooks"),
            "{}",
            text(&refused.stderr)
        );
        assert_eq!(api(&shipbell).get(&webhook_of("acme/good")).status, 404);
    }
}

#[test]
fn what_is_no_export_and_what_is_not_there_is_said() {
    let kept = folder();
    let file = kept.path().join("webhooks.json");
    let name = file.to_str().unwrap();
    let says = |output: &Output, code: i32, part: &str| {
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
    };
    says(
        &run(kept.path(), &["export"]),
        1,
        "no server has run on this data directory",
    );
    says(&run(kept.path(), &["import", name]), 74, "can't be read");
    for (content, part) in [
        ("{", "is not what `shipbell endpoints export` writes"),
        (
            r#"{"version": 1, "webhooks": [{"repository": "a"}]}"#,
            "missing field `url`",
        ),
        (
            r#"{"version": 1, "webhooks": [], "more": 1}"#,
            "unknown field `more`",
        ),
        (r#"{"version": 2, "webhooks": []}"#, "version 2"),
        (
            r#"{"version": 1, "webhooks": [{"repository": "a", "url": "b"}, {"repository": "a", "url": "c"}]}"#,
            "a twice",
        ),
    ] {
        fs::write(&file, content).unwrap();
        says(&run(kept.path(), &["import", name]), 1, part);
    }
    fs::write(
        &file,
        r#"{"version": 1, "webhooks": [{"repository": "a", "url": "b"}]}"#,
    )
    .unwrap();
    says(&run(kept.path(), &["import", name]), 69, "no server is running");
}
