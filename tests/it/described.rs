//! The API driven from its own description, `/openapi.json`, by schemathesis: what it answers is described, whatever it
//! is asked, and is never a 5xx. `SEED=n` runs another series of requests.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::pages::{ADMIN, EDITOR, with_tokens};
use crate::support::{
    SOON,
    api::Api,
    envelope, eventually, folder,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
};

/// What fits the description is never refused as something that can't be understood (400), and what doesn't is always
/// refused. What no description can say, which URLs may be webhooks, whose version is the newest, that a filter has to be
/// given, which cursors there are, has answers of its own: 412, 422, 428; and what is done too often 429.
const CHECKS: &str = r#"
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "304", "401", "403", "404", "409", "412", "422", "428", "429"]

[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "422", "428", "429"]
"#;

/// A shipbell that has something of everything.
struct Stage {
    shipbell: Shipbell,
    _receiver: Receiver,
}

impl Stage {
    /// `token` is an admin's, if somebody has to be one.
    fn start(config: Config, token: Option<&str>) -> Self {
        let receiver = Receiver::scripted(|request| {
            let is_refused = request.line().contains("/refuse");
            Answer::Status(if is_refused { 400 } else { 204 })
        });
        let config = config
            .with(
                "delivery.allow_networks = ['127.0.0.0/8']\ndelivery.retry_schedule = ['10ms']\ndelivery.timeout = '1s'",
            )
            .endpoint("ci", &receiver.url("/hook"))
            .endpoint("broken", &receiver.url("/refuse"));
        let shipbell = Shipbell::start(config);
        let api = Api::at(shipbell.admin_port());
        let api = token.map_or(api.clone(), |token| api.bearer(token));
        let own = json!({"url": receiver.url("/own?token=hunter2"), "headers": {"X-Team": "a"}});
        assert_eq!(api.set("acme/app", &own).status, 201);
        for tag in ["1", "2", "3"] {
            shipbell.take(envelope::one("acme/app", tag));
            receiver.wait_for_image(&format!("acme/app:{tag}"), SOON);
        }
        eventually("there are dead letters", SOON, || {
            let letters = api.json("/api/v1/dead-letters");
            (letters["items"].as_array().unwrap().len() == 3).then_some(())
        });
        Self {
            shipbell,
            _receiver: receiver,
        }
    }

    /// Has schemathesis try each call with so many requests of a kind, by somebody with that token.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's own knob, nothing of the configuration"
    )]
    fn drive(&self, examples: u32, token: Option<&str>) {
        let seed = env::var("SEED").unwrap_or_else(|_| "20261128".to_owned());
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/schemathesis");
        let url = format!("http://127.0.0.1:{}/openapi.json", self.shipbell.admin_port());
        // It keeps what it learns in the folder that it runs in.
        let place = folder();
        fs::write(place.path().join("schemathesis.toml"), CHECKS).unwrap();
        let header = token.map(|token| format!("Authorization: Bearer {token}"));
        let run = Command::new(&program)
            .args(["run", &url, "--seed", &seed])
            .args(["--max-examples", &examples.to_string()])
            .args(header.iter().flat_map(|header| ["--header", header]))
            .arg("--continue-on-failure")
            .args([
                "--suppress-health-check",
                "all",
                "--no-color",
                "--warnings",
                "off",
            ])
            .current_dir(place.path())
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}; `make test` installs it", program.display()));
        let (said, complained) = (
            String::from_utf8_lossy(&run.stdout),
            String::from_utf8_lossy(&run.stderr),
        );
        println!("{said}");
        assert!(run.status.success(), "{said}\n{complained}");
        let log = self.shipbell.log();
        assert!(!log.contains("hunter2"), "{log}");
        let mut errors = log.lines().filter(|line| line.contains(" ERROR "));
        assert!(
            errors.all(|line| line.contains("given up: a dead letter")),
            "{log}"
        );
    }
}

#[test]
fn every_answer_is_one_that_the_description_has() {
    let stage = Stage::start(Config::without_registry(), None);
    stage.drive(60, None);
    let api = Api::at(stage.shipbell.admin_port());
    let calls = api.json("/openapi.json")["paths"].as_object().unwrap().len();
    assert!(calls > 15, "{calls}");
}

#[test]
fn every_answer_to_somebody_who_may_change_a_part_is_one_that_the_description_has() {
    let stage = Stage::start(with_tokens(), Some(ADMIN));
    stage.drive(25, Some(EDITOR));
}
