//! Whoever may only look, and whoever may change other repositories, changes nothing here: by no call of the API's own
//! description, and by no form.

use serde_json::{Value, json};

use super::people::{ADMIN, EDITOR, VIEWER, with_tokens};
use crate::support::{
    SOON,
    api::{Api, webhook_of},
    browser::Browser,
    eventually,
    receiver::{Answer, Receiver},
    shipbell::Shipbell,
};

/// The editor of the tokens may change `acme/**` alone, and the viewer sees that alone.
const FOREIGN: &str = "other/app";
const OWN: &str = "acme/app";

/// What everything here is told by.
struct Stage {
    shipbell: Shipbell,
    receiver: Receiver,
}

/// A repository's webhook, a push that it refused, and the letter of that.
struct There {
    repository: &'static str,
    tag: String,
    delivery: String,
    letter: String,
}

impl Stage {
    fn start() -> Self {
        Self {
            // The first attempt is the last one but one.
            shipbell: Shipbell::start(
                with_tokens().with("delivery.retry_schedule = ['10ms']\ndelivery.jitter = 0.0"),
            ),
            receiver: Receiver::scripted(|_| Answer::Status(400)),
        }
    }

    fn admin(&self) -> Api {
        Api::at(self.shipbell.admin_port()).bearer(ADMIN)
    }

    fn of(&self, repository: &'static str) -> There {
        let admin = self.admin();
        let set = admin.set(repository, &json!({"url": self.receiver.url("/")}));
        assert_eq!(set.status, 201, "{}", set.text());
        self.shipbell.push(repository, "1");
        let encoded = repository.replace('/', "%2F");
        let first = |list: &str| {
            let path = format!("/api/v1/{list}?repository={encoded}");
            eventually(list, SOON, || {
                let id = admin.json(&path)["items"][0]["id"].clone();
                (!id.is_null()).then(|| id.as_str().map_or_else(|| id.to_string(), str::to_owned))
            })
        };
        let letter = first("dead-letters");
        There {
            repository,
            tag: set.header("etag").unwrap().to_owned(),
            delivery: first("deliveries"),
            letter,
        }
    }

    /// What must be the same before and after.
    fn state(&self) -> (Value, usize) {
        let admin = self.admin();
        let all = ["repositories", "endpoints", "dead-letters"];
        let mut all: Vec<_> = all
            .iter()
            .map(|list| admin.json(&format!("/api/v1/{list}"))["items"].clone())
            .collect();
        all.extend([FOREIGN, OWN].map(|repository| admin.json(&webhook_of(repository))));
        (Value::Array(all), self.receiver.requests().len())
    }
}

impl There {
    fn encoded(&self) -> String {
        self.repository.replace('/', "%2F")
    }

    /// A call of the description on what is here.
    fn call(&self, path: &str) -> String {
        let id = if path.contains("/deliveries/") {
            self.delivery.clone()
        } else {
            format!("repository:{}", self.encoded())
        };
        let path = path.replace("{name}", &self.encoded()).replace("{id}", &id);
        let sets = ["/deliveries/redeliver", "/dead-letters/replay", "/dead-letters"];
        if sets.iter().any(|set| path.ends_with(set)) {
            format!("{path}?repository={}", self.encoded())
        } else {
            path
        }
    }

    /// The forms of all pages, filled in.
    fn forms(&self) -> Vec<(String, Vec<(&str, &str)>)> {
        let page = format!("/repositories/{}", self.encoded());
        let endpoint = format!("/endpoints/repository:{}", self.encoded());
        let version = ("version", self.tag.trim_matches('"'));
        let all = ("repository", self.repository);
        vec![
            (
                page.clone(),
                vec![
                    version,
                    ("url", "https://evil.example/"),
                    ("tags", "**"),
                    ("enabled", "yes"),
                ],
            ),
            (format!("{page}/test"), Vec::new()),
            (format!("{page}/rotate"), vec![version]),
            (format!("{page}/enable"), Vec::new()),
            (format!("{page}/hold"), Vec::new()),
            (format!("{page}/remove"), vec![version]),
            (format!("/deliveries/{}/redeliver", self.delivery), Vec::new()),
            ("/deliveries/redeliver".to_owned(), vec![all]),
            (format!("{endpoint}/enable"), Vec::new()),
            (format!("{endpoint}/hold"), Vec::new()),
            (format!("{endpoint}/disable"), Vec::new()),
            (format!("{endpoint}/test"), Vec::new()),
            ("/dead-letters/replay".to_owned(), vec![all]),
            ("/dead-letters/replay".to_owned(), vec![("id", &self.letter)]),
        ]
    }
}

#[test]
fn no_call_and_no_form_changes_anything_for_who_may_not() {
    let stage = Stage::start();
    let (foreign, own) = (stage.of(FOREIGN), stage.of(OWN));
    let before = stage.state();
    let description = stage.admin().json("/openapi.json");
    let calls: Vec<(String, String)> = description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, operations)| {
            let methods = operations.as_object().unwrap().keys();
            methods.map(|method| (method.to_uppercase(), path.clone()))
        })
        .filter(|(method, _)| method != "GET")
        .collect();
    assert!(calls.len() >= 12, "{calls:?}");
    for (who, token, there) in [
        ("an editor of others", EDITOR, &foreign),
        ("a viewer of others", VIEWER, &foreign),
        ("a viewer", VIEWER, &own),
    ] {
        let api = Api::at(stage.shipbell.admin_port())
            .bearer(token)
            .with("If-Match", &there.tag);
        for (method, path) in &calls {
            let path = there.call(path);
            let body = if method == "PUT" {
                "{\"url\":\"https://evil.example/\"}"
            } else {
                ""
            };
            let answer = api.send(method, &path, body.as_bytes());
            // What somebody may not even see is not there.
            assert!(
                answer.status == 403 || (answer.status == 404 && there.repository == FOREIGN),
                "{who}: {method} {path}: {} {}",
                answer.status,
                answer.text()
            );
        }
        let browser = Browser::at(&stage.shipbell).logged_in(token);
        for (path, fields) in there.forms() {
            let answer = browser.submit(&path, &fields);
            assert!(
                answer.status == 403 || (answer.status == 404 && there.repository == FOREIGN),
                "{who}: {path}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
    assert_eq!(stage.state(), before);
    // The same calls, by somebody who may, are taken: what was refused was not refused for how it was asked.
    let admin = stage.admin().with("If-Match", &own.tag);
    for (method, path) in &calls {
        if path.ends_with("/webhook/test") || path.ends_with("/redeliver") || path.ends_with("/replay") {
            let path = own.call(path);
            // An endpoint that the call before keeps busy says so, for a moment, and so does a letter that it replays.
            let answer = eventually("neither the endpoint nor the letter is busy", SOON, || {
                let answer = admin.send(method, &path, b"");
                (!matches!(answer.status, 409 | 429)).then_some(answer)
            });
            assert!(
                answer.status < 300,
                "{method} {path}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
}

#[test]
fn whoever_may_not_administer_saves_so_many_webhooks_a_minute() {
    let stage = Stage::start();
    let editor = Api::at(stage.shipbell.admin_port()).bearer(EDITOR);
    let webhook = json!({"url": "https://93.184.216.34/hook"});
    let path = format!("{}?dry_run=true", webhook_of(OWN));
    for _ in 0..120 {
        let tried = editor.put(&path, &webhook);
        assert_eq!(tried.status, 200, "{}", tried.text());
    }
    let refused = editor.set(OWN, &webhook);
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(
        refused.text().contains("at most 120 webhooks a minute"),
        "{}",
        refused.text()
    );
    let admin = stage.admin();
    for _ in 0..121 {
        assert_eq!(admin.put(&path, &webhook).status, 200);
    }
}
