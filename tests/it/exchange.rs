//! The repositories' webhooks written to a file and read from one (CONTRACT 9).

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
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
            "/webhooks/0: the field url is missing (line 1, column ",
        ),
        (
            r#"{"version": 1, "webhooks": [], "more": 1}"#,
            "a field is none of version, webhooks",
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

/// What a server does that takes no more webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    HangsUp,
    IsSilent,
    SaysNotNow,
    Refuses,
}

/// A server's socket that takes webhooks, as many as `takes` for good, and then does that.
fn socket(data: &Path, takes: usize, then: Then) -> mpsc::Receiver<()> {
    let listener = UnixListener::bind(data.join("admin.sock")).unwrap();
    let (reached, end) = mpsc::channel();
    // It ends with the process of the test.
    thread::spawn(move || {
        let (mut count, mut open) = (0, Vec::new());
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                head.extend(byte);
            }
            let length = String::from_utf8_lossy(&head).to_lowercase();
            let length = length.split("content-length: ").nth(1);
            let length = length.map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
            stream.read_exact(&mut vec![0; length]).unwrap();
            let is_set = head.starts_with(b"PUT ") && !head.windows(7).any(|part| part == b"dry_run");
            if is_set && count == takes {
                // Nobody may wait for more than the first.
                let _ = reached.send(());
                match then {
                    Then::HangsUp => {}
                    Then::IsSilent => open.push(stream),
                    Then::SaysNotNow | Then::Refuses => {
                        let detail = r#"{"detail":"the file is in use"}"#;
                        let status = match then {
                            Then::Refuses => "422 Unprocessable Content",
                            _ => "503 Service Unavailable",
                        };
                        let head = format!("HTTP/1.1 {status}\r\nConnection: close");
                        let length = detail.len();
                        let answer = format!("{head}\r\nContent-Length: {length}\r\n\r\n{detail}");
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                }
                continue;
            }
            count += usize::from(is_set);
            let status = if head.starts_with(b"GET ") {
                "404 Not Found"
            } else {
                "201 Created"
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    end
}

fn three_webhooks() -> String {
    let webhooks: Vec<Value> = ["a", "b", "c"]
        .map(|name| json!({"repository": name, "url": "https://ci.example.com/"}))
        .to_vec();
    json!({"version": 1, "webhooks": webhooks}).to_string()
}

#[test]
fn what_is_refused_after_all_is_not_imported_and_said_to_be() {
    let kept = folder();
    let file = kept.path().join("webhooks.json");
    fs::write(&file, three_webhooks()).unwrap();
    let _reached = socket(kept.path(), 1, Then::Refuses);
    let ended = run(
        kept.path(),
        &["import", file.to_str().unwrap(), "--output", "json"],
    );
    assert_eq!(ended.status.code(), Some(1), "{}", text(&ended.stderr));
    let told: Value = serde_json::from_str(&text(&ended.stdout)).unwrap();
    assert_eq!(
        (&told["imported"], &told["added"], &told["left"]),
        (&json!(false), &json!(["a"]), &json!([]))
    );
    assert_eq!(told["refused"].as_array().unwrap().len(), 2, "{told}");
}

#[test]
fn an_import_that_is_cut_off_tells_how_far_it_came() {
    let document = three_webhooks();
    for (then, output_as) in [
        (Then::HangsUp, "text"),
        (Then::IsSilent, "text"),
        (Then::HangsUp, "json"),
        (Then::SaysNotNow, "json"),
    ] {
        let kept = folder();
        let file = kept.path().join("webhooks.json");
        fs::write(&file, &document).unwrap();
        let reached = socket(kept.path(), 1, then);
        let import = ["import", file.to_str().unwrap(), "--output", output_as];
        let mut command = command(kept.path(), &import);
        let process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        reached.recv_timeout(SOON).unwrap();
        if then == Then::IsSilent {
            let id = rustix::process::Pid::from_child(&process);
            rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        }
        let ended = process.wait_with_output().unwrap();
        let (said, why) = (text(&ended.stdout), text(&ended.stderr));
        let code = if then == Then::HangsUp { 69 } else { 75 };
        assert_eq!(ended.status.code(), Some(code), "{why}");
        if output_as == "json" {
            let told: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(
                (&told["imported"], &told["added"], &told["left"]),
                (&json!(false), &json!(["a"]), &json!(["b", "c"]))
            );
        } else {
            assert_eq!(said, "1 added, 0 changed\nb: not come to\nc: not come to\n");
        }
        assert!(
            why.contains("of 2 webhooks it is not known for the first") && why.contains("import again"),
            "{why}"
        );
        assert_eq!(why.contains("interrupted"), then == Then::IsSilent, "{why}");
        assert_eq!(
            why.contains("the file is in use"),
            then == Then::SaysNotNow,
            "{why}"
        );
    }
}
