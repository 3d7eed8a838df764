//! The pages in a real Chromium, on a real registry (CONTRACT 8): the scripts in `tests/browser` are the people, and
//! this is the stage they act on. Screenshots go to `target/screenshots`.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    pages::{ADMIN, EDITOR, VIEWER, with_tokens},
    signatures::is_verified,
    support::{
        SOON,
        api::{Api, webhook_of},
        envelope, eventually,
        image::Image,
        receiver::{Answer, Receiver},
        registry::Options,
        shipbell::{Config, Shipbell},
        stage::Stage,
    },
};

/// How long the stage waits for a word of the script, which has deadlines of its own for all that it does.
const WORD_MAX: Duration = Duration::from_mins(2);

struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        // It has ended by itself unless something went wrong.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the script, does what it asks for by `act`, and asserts that it ended well.
fn run(name: &str, shipbell: &Shipbell, mut act: impl FnMut(&str, &Value) -> Value) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let child = Command::new("node")
        .arg(root.join("tests/browser").join(format!("{name}.mjs")))
        .env(
            "SHIPBELL_URL",
            format!("http://127.0.0.1:{}", shipbell.admin_port()),
        )
        .env("TOOLS", root.join(".tools/npm/node_modules"))
        .env(
            "SHOTS",
            Path::new(env!("CARGO_TARGET_TMPDIR"))
                .with_file_name("screenshots")
                .join(name),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("node: {error}; `make test` installs it"));
    let mut script = Script(child);
    let mut stdin = script.0.stdin.take().unwrap();
    let stdout = BufReader::new(script.0.stdout.take().unwrap());
    let (words, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in stdout.lines() {
            let Ok(line) = line else { return };
            if words.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        match heard.recv_timeout(WORD_MAX) {
            Ok(line) => {
                let word: Value =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
                let answer = act(word["do"].as_str().unwrap(), &word);
                writeln!(stdin, "{answer}").unwrap();
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{name}.mjs says nothing for {WORD_MAX:?}"),
        }
    }
    reader.join().unwrap();
    let status = script.0.wait().unwrap();
    assert!(status.success(), "{name}.mjs: {status}");
}

fn text<'a>(word: &'a Value, key: &str) -> &'a str {
    word[key].as_str().unwrap()
}

#[test]
fn a_webhook_is_set_seen_to_fail_mended_and_sent_again() {
    let people = Receiver::scripted(|request| {
        let is_broken = request.line().contains("/broken");
        Answer::Status(if is_broken { 404 } else { 204 })
    });
    let stage = Stage::new(
        Options::default(),
        "delivery.allow_networks = ['127.0.0.0/8']\ndelivery.retry_schedule = ['1h']",
    );
    let arrived = |image: &str| {
        let is_it = |request: &crate::support::receiver::Request| {
            request.image() == image && !request.line().contains("/broken")
        };
        eventually("it arrives", SOON, || people.requests().into_iter().find(is_it))
    };
    run("webhook", &stage.shipbell, |what, word| {
        match what {
            "receiver" => {
                let label = text(word, "label");
                return json!({
                    "good": people.url(&format!("/good/{label}?token=hunter2")),
                    "broken": people.url(&format!("/broken/{label}?token=hunter2")),
                });
            }
            "push" => {
                let image = text(word, "image");
                stage.registry.push(&Image::oci(image, &[5_000]), image, &[]);
                stage.receiver.wait_for_image(image, SOON);
                let (repository, _) = image.split_once(':').unwrap();
                eventually("it is listed", SOON, || {
                    let list = format!("/api/v1/repositories?q={repository}");
                    let found = Api::at(stage.shipbell.admin_port()).json(&list);
                    found["items"]
                        .as_array()
                        .is_some_and(|items| !items.is_empty())
                        .then_some(())
                });
            }
            "refused" => {
                people.wait_for_image(text(word, "image"), SOON);
                let (repository, _) = text(word, "image").split_once(':').unwrap();
                let list = format!(
                    "/api/v1/deliveries?repository={}&endpoint=repository%3A{}",
                    repository.replace('/', "%2F"),
                    repository.replace('/', "%2F")
                );
                eventually("it is in the history", SOON, || {
                    let deliveries = Api::at(stage.shipbell.admin_port()).json(&list);
                    (deliveries["items"][0]["status"] == 404).then_some(())
                });
            }
            "arrived" => {
                arrived(text(word, "image"));
            }
            "signed" => {
                let webhook = arrived(text(word, "image"));
                for secret in word["secrets"].as_array().unwrap() {
                    let secret = secret.as_str().unwrap();
                    assert!(is_verified(secret, &webhook, &webhook.body), "by both secrets");
                }
                let signatures = webhook.header("webhook-signature").split(' ').count();
                assert_eq!(signatures, 2, "and by no other");
            }
            other => panic!("{other}"),
        }
        json!({})
    });
    let log = stage.shipbell.log();
    assert!(!log.contains("hunter2") && !log.contains("whsec_"), "{log}");
}

#[test]
fn every_page_is_for_everybody() {
    let receiver = Receiver::scripted(|request| {
        let is_broken = request.line().contains("/broken");
        Answer::Status(if is_broken { 404 } else { 204 })
    });
    let config = Config::without_registry()
        .with("delivery.allow_networks = ['127.0.0.0/8']\ndelivery.retry_schedule = ['10ms']")
        .endpoint("ci", &receiver.url("/hook"))
        .endpoint("broken", &receiver.url("/broken"));
    let shipbell = Shipbell::start(config);
    let api = Api::at(shipbell.admin_port());
    let own = json!({
        "url": receiver.url("/own?token=hunter2"), "headers": {"X-Team": "a"}, "tags": ["1.*", "latest"],
        "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    });
    assert_eq!(api.set("acme/app", &own).status, 201);
    let long =
        "acme/a-rather-long-name-of-a-repository/with-several-parts/so-that-it-has-to-be-broken-somewhere";
    for (repository, tag) in [("acme/app", "1.4"), ("acme/app", "1.5"), (long, "latest")] {
        shipbell.take(envelope::one(repository, tag));
    }
    let letters = eventually("there are dead letters", SOON, || {
        let letters = api.json("/api/v1/dead-letters");
        let items = letters["items"].as_array().unwrap().clone();
        (items.len() == 3).then_some(items)
    });
    assert_eq!(api.post("/api/v1/endpoints/ci/hold").status, 200);
    let dead = eventually("they are in the history", SOON, || {
        let deliveries = api.json("/api/v1/deliveries?state=dead_letter");
        deliveries["items"][0]["id"].as_str().map(ToOwned::to_owned)
    });
    let letter = &letters[0]["id"];
    for (id, verb) in [
        ("broken", "disable"),
        ("broken", "enable"),
        ("repository%3Aacme%2Fapp", "hold"),
    ] {
        assert_eq!(api.post(&format!("/api/v1/endpoints/{id}/{verb}")).status, 200);
    }
    let more = eventually("the changes are in the history", SOON, || {
        let states = api.json("/api/v1/endpoints/broken/states?limit=1");
        states["next"].as_str().map(ToOwned::to_owned)
    });
    let pages = json!([
        ["overview", "/overview"],
        ["repositories", "/repositories"],
        ["repositories-none", "/repositories?q=nothing-like-it"],
        ["repository", "/repositories/acme%2Fapp"],
        ["repository-new", "/repositories/acme%2Fnew"],
        ["repository-remove", "/repositories/acme%2Fapp/remove"],
        ["deliveries", "/deliveries"],
        ["deliveries-none", "/deliveries?state=superseded"],
        ["delivery", format!("/deliveries/{dead}")],
        ["deliveries-again", "/deliveries/redeliver?repository=acme%2Fapp"],
        ["deliveries-again-none", "/deliveries/redeliver?state=superseded"],
        ["endpoints", "/endpoints"],
        ["endpoint", "/endpoints/broken"],
        [
            "endpoint-more",
            format!("/endpoints/broken?limit=1&cursor={more}")
        ],
        ["endpoint-own", "/endpoints/repository%3Aacme%2Fapp"],
        ["endpoint-disable", "/endpoints/ci/disable"],
        ["dead-letters", "/dead-letters"],
        ["dead-letter", format!("/dead-letters/{letter}")],
        ["dead-letters-again", "/dead-letters/replay"],
        ["absent", "/nothing-here"],
    ]);
    run("pages", &shipbell, |_, _| json!({ "pages": pages }));
    // And as somebody sees it first.
    let fresh = Shipbell::start(Config::without_registry());
    run(
        "pages",
        &fresh,
        |_, _| json!({ "pages": [["empty", "/repositories"], ["empty-overview", "/overview"]] }),
    );
}

#[test]
fn ten_thousand_repositories_by_keyboard() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(
        Config::without_registry().with("log.level = 'info'\ndelivery.allow_networks = ['127.0.0.0/8']"),
    );
    for chunk in 0..20 {
        let events: Vec<Value> = (chunk * 500..(chunk + 1) * 500)
            .map(|number| envelope::push(&format!("team{}/app{number}", number % 100), "1", "same"))
            .collect();
        shipbell.take(envelope::of(&events));
    }
    let api = Api::at(shipbell.admin_port());
    eventually("all of them are known", SOON, || {
        let found = api.json("/api/v1/repositories?q=app9999");
        (found["items"].as_array().unwrap().len() == 1).then_some(())
    });
    run(
        "keyboard",
        &shipbell,
        |_, _| json!({ "url": receiver.url("/hook") }),
    );
    run("steps", &shipbell, |what, word| {
        if what == "receiver" {
            return json!({ "url": receiver.url("/hook") });
        }
        let repository = text(word, "repository");
        shipbell.take(envelope::of(&[envelope::push(repository, "pushed", "new")]));
        receiver.wait_for_image(&format!("{repository}:pushed"), SOON);
        let list = format!(
            "/api/v1/deliveries?state=delivered&repository={}",
            repository.replace('/', "%2F")
        );
        eventually("it is in the history", SOON, || {
            (!api.json(&list)["items"].as_array().unwrap().is_empty()).then_some(())
        });
        json!({})
    });
}

#[test]
fn what_is_kept_up_to_date_leaves_alone_what_somebody_does_there() {
    let receiver = Receiver::scripted(|_| Answer::Status(404));
    let shipbell = Shipbell::start(
        Config::without_registry()
            .with("[delivery]\nallow_networks = ['127.0.0.0/8']\nretry_schedule = ['1h']")
            .endpoint("ci", &receiver.url("/hook"))
            .endpoint("other", &receiver.url("/other")),
    );
    let api = Api::at(shipbell.admin_port());
    let own = json!({"url": receiver.url("/own")});
    run("live", &shipbell, |what, word| {
        match what {
            "begin" => {
                assert_eq!(api.set("acme/app", &own).status, 201);
                shipbell.take(envelope::one("acme/app", "1"));
                let delivery = eventually("it was tried", SOON, || {
                    let item = api.json("/api/v1/deliveries?endpoint=ci")["items"][0].clone();
                    (item["attempts"] == 1).then(|| item["id"].clone())
                });
                return json!({ "delivery": delivery });
            }
            "again" => {
                let path = format!("/api/v1/deliveries/{}/redeliver", text(word, "delivery"));
                let sent = api.post(&path);
                assert!(matches!(sent.status, 200 | 202), "{}", sent.text());
            }
            verb => {
                let id = text(word, "endpoint").replace(':', "%3A").replace('/', "%2F");
                assert_eq!(api.post(&format!("/api/v1/endpoints/{id}/{verb}")).status, 200);
            }
        }
        json!({})
    });
}

#[test]
fn many_are_sent_again_an_endpoint_is_held_and_a_secret_comes_and_goes() {
    let receiver = Receiver::scripted(|request| {
        Answer::Status(if request.line().contains("/broken") {
            404
        } else {
            204
        })
    });
    let config = Config::without_registry()
        .with(
            "batch.window = '0s'\nbatch.coalesce = 'none'\n\
             [delivery]\nallow_networks = ['127.0.0.0/8']\nretry_schedule = ['10ms']\njitter = 0.0",
        )
        .endpoint("ci", &receiver.url("/hook"))
        .endpoint("broken", &receiver.url("/broken"));
    let shipbell = Shipbell::start(config);
    let api = Api::at(shipbell.admin_port());
    let came = |image: &str| {
        let all = receiver.requests();
        let is_it = |request: &&crate::support::receiver::Request| {
            request.image() == image && !request.line().contains("/broken")
        };
        all.iter().filter(is_it).count()
    };
    run("again", &shipbell, |what, word| {
        let repository = word["repository"].as_str().unwrap_or_default();
        match what {
            "pushes" => {
                for tag in ["1", "latest", "latest"] {
                    shipbell.take(envelope::one(repository, tag));
                }
                assert_eq!(
                    api.set(repository, &json!({"url": receiver.url("/own")})).status,
                    201
                );
                let list = format!("/api/v1/deliveries?repository={}", repository.replace('/', "%2F"));
                eventually("all of them are over", SOON, || {
                    let items = api.json(&list)["items"].as_array().unwrap().clone();
                    let is_over = |item: &Value| item["state"] != "pending" && item["state"] != "unknown";
                    (items.len() == 6 && items.iter().all(is_over)).then_some(())
                });
            }
            "arrived" => {
                let image = format!("{repository}:1");
                eventually("it came again", SOON, || (came(&image) == 2).then_some(()));
            }
            "end" => shipbell.terminate(),
            other => panic!("{other}"),
        }
        json!({})
    });
    let log = shipbell.log();
    assert!(!log.contains("whsec_"), "{log}");
}

#[test]
fn eight_tabs_each_load_and_the_one_that_is_looked_at_is_kept_up_to_date() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(
        Config::without_registry()
            .with("batch.window = '0s'\ndelivery.allow_networks = ['127.0.0.0/8']")
            .endpoint("ci", &receiver.url("/hook")),
    );
    let api = Api::at(shipbell.admin_port());
    run("tabs", &shipbell, |_, word| {
        let (repository, tag) = text(word, "image").split_once(':').unwrap();
        shipbell.take(envelope::one(repository, tag));
        eventually("it is in the history", SOON, || {
            let newest = &api.json("/api/v1/deliveries?state=delivered")["items"][0];
            (newest["tag"] == tag).then_some(())
        });
        json!({})
    });
}

#[test]
fn a_stream_that_is_refused_is_asked_for_again_within_eight_seconds() {
    let shipbell = Shipbell::start(Config::without_registry());
    run("refused", &shipbell, |what, _| panic!("{what}"));
}

#[test]
fn whoever_logs_in_meets_pages_that_are_for_everybody() {
    let receiver = Receiver::scripted(|_| Answer::Status(500));
    let shipbell = Shipbell::start(with_tokens());
    let admin = Api::at(shipbell.admin_port()).bearer(ADMIN);
    shipbell.take(envelope::of(&[envelope::push("other/app", "1", "a")]));
    run("people", &shipbell, |what, _| {
        let path = webhook_of("acme/app");
        match what {
            "people" => {
                return json!({"admin": ADMIN, "editor": EDITOR, "viewer": VIEWER, "url": receiver.url("/hook")});
            }
            "saved by somebody else" => {
                let there = admin.get(&path);
                let tag = there.header("etag").unwrap();
                let saved = admin
                    .with("If-Match", tag)
                    .put(&path, &json!({"url": receiver.url("/another")}));
                assert_eq!(saved.status, 200, "{}", saved.text());
            }
            "removed" => assert_eq!(admin.send("DELETE", &path, &[]).status, 204),
            other => panic!("{other}"),
        }
        json!({})
    });
}
