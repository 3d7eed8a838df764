//! Receivers that people run: what they make of the webhooks, with the settings that their manuals tell.

use std::{fs, net::TcpStream, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::json;

use crate::support::{
    SOON, envelope, eventually, folder,
    image::{Blob, Image},
    ports,
    process::Process,
    shipbell::{Config, Shipbell},
    story,
};

/// The header of the endpoint's own that the hook wants to see.
const TOKEN: &str = "a-token-of-the-hook";

/// adnanh/webhook, with one hook that runs `command` in `folder`.
fn webhook(folder: &Path, command: &Path) -> (Process, u16) {
    let port = ports::free();
    let is = |source: &str, name: &str, value: &str| {
        let parameter = json!({ "source": source, "name": name });
        json!({ "match": { "type": "value", "value": value, "parameter": parameter } })
    };
    let from_acme = json!({ "match": {
        "type": "regex",
        "regex": "^acme/",
        "parameter": { "source": "header", "name": "x-alin-webhook" },
    } });
    let hooks = json!([{
        "id": "deploy",
        "execute-command": command,
        "command-working-directory": folder,
        "include-command-output-in-response": true,
        "pass-arguments-to-command": [
            { "source": "payload", "name": "image" },
            { "source": "payload", "name": "image_size" },
            { "source": "payload", "name": "layers.0.digest" },
            { "source": "header", "name": "webhook-id" },
        ],
        "trigger-rule": { "and": [
            is("header", "X-Hook-Token", TOKEN),
            is("payload", "event", "push"),
            from_acme,
        ] },
    }]);
    let file = folder.join("hooks.json");
    fs::write(&file, hooks.to_string()).unwrap();
    let mut program = Command::new("webhook");
    program
        .arg("-hooks")
        .arg(&file)
        .args(["-verbose", "-ip", "127.0.0.1"]);
    program.args(["-port", &port.to_string()]).env_clear();
    let process = Process::spawn("webhook", program, &folder.join("webhook.log")).unwrap();
    eventually("webhook listens", SOON, || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (process, port)
}

#[test]
fn adnanh_webhook_runs_its_command_with_image_and_size_when_its_rule_matches() {
    let folder = folder();
    let (command, told) = (folder.path().join("deploy"), folder.path().join("told"));
    fs::write(&command, "#!/bin/sh\necho \"$@\" >>told\n").unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    let (_webhook, port) = webhook(folder.path(), &command);
    let config = Config::without_registry().with(&format!(
        "[[endpoints]]\nname = 'deploy'\nrepositories = ['**']\n\
         url = 'http://127.0.0.1:{port}/hooks/deploy'\nheaders = {{ x-hook-token = '{TOKEN}' }}"
    ));
    let shipbell = Shipbell::start(config);
    // Larger than what a float would be written out for.
    let image = Image::oci("app", &[3_000_000]);
    for repository in ["other/app", "acme/app"] {
        let push = envelope::push_with_references(repository, "1.4", &image);
        shipbell.take(envelope::of(&[push]));
        let attempt = story::attempt(&shipbell, &format!("{repository}:1.4"), 0, SOON);
        assert_eq!(attempt["status"], 200, "{attempt}");
    }
    let size = image.blobs.iter().map(Blob::size).sum::<u64>();
    let layer = image.blobs[1].digest();
    let told = fs::read_to_string(told).unwrap();
    let id = told.split_whitespace().last().unwrap();
    assert!(id.starts_with("msg_"), "{id}");
    assert_eq!(
        told,
        format!("acme/app:1.4 {size} {layer} {id}\n"),
        "once, and not for the other"
    );
}

#[test]
fn a_port_that_somebody_has_is_to_be_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shipbell"));
    let output = command
        .env_clear()
        .args(["webhook", "listen", "--listen", &address])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains(&address), "{said}");
}
