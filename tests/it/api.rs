//! The API and the commands that ask it: who may do what, lists, dead letters, tests, sending again (CONTRACT 7, 8, 9).

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{
    SOON,
    api::{Api, webhook_of},
    eventually,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell, command},
};

fn own() -> Config {
    Config::without_registry().with("delivery.allow_networks = ['127.0.0.0/8']")
}

/// Runs a command that asks this shipbell.
fn ask(shipbell: &Shipbell, arguments: &[&str]) -> Output {
    let mut asked = command(&[], std::path::Path::new("/dev/null"));
    asked = {
        let mut plain = std::process::Command::new(asked.get_program());
        plain
            .env_clear()
            .args(arguments)
            .arg("--data-dir")
            .arg(shipbell.data());
        plain
    };
    asked.output().unwrap()
}

fn asked(shipbell: &Shipbell, arguments: &[&str]) -> String {
    let output = ask(shipbell, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn without_a_login_only_loopback_by_name_and_our_own_pages_come_in() {
    let shipbell = Shipbell::start(own());
    let api = Api::at(shipbell.admin_port());
    let path = webhook_of("acme/app");
    let body = json!({"url": "https://ci.example.com/hook"});
    for (name, value) in [
        ("Origin", "https://evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
    ] {
        let refused = api.with(name, value).put(&path, &body);
        assert_eq!(refused.status, 403, "{name}: {}", refused.text());
    }
    for hosts in [
        "Host: evil.example",
        "Host: localhost\r\nHost: evil.example",
        "Host: evil.example\r\nHost: localhost",
    ] {
        let mut raw = std::net::TcpStream::connect(("127.0.0.1", shipbell.admin_port())).unwrap();
        let asked = format!("GET /api/v1/repositories HTTP/1.1\r\n{hosts}\r\nConnection: close\r\n\r\n");
        std::io::Write::write_all(&mut raw, asked.as_bytes()).unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut raw, &mut said).unwrap();
        assert!(
            said.starts_with("HTTP/1.1 421"),
            "a name that was rebound, {hosts}: {said}"
        );
    }
    assert_eq!(api.get(&path).status, 404, "nothing was saved");
    let ours = format!("http://127.0.0.1:{}", shipbell.admin_port());
    assert_eq!(api.with("Origin", &ours).put(&path, &body).status, 201);
    let answer = api.get("/api/v1/repositories");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert!(
        !answer
            .header("content-security-policy")
            .unwrap()
            .contains("unsafe")
    );
}

#[test]
fn a_token_opens_what_its_role_and_repositories_say() {
    let shipbell = Shipbell::start(own().with(
        "[admin]\nauth = 'token'\n\
         [[admin.tokens]]\nname = 'root'\ntoken = 'root-token-0123456789'\nrole = 'admin'\n\
         [[admin.tokens]]\nname = 'eve'\ntoken = 'editor-token-0123456789'\nrole = 'editor'\nrepositories = ['acme/**']\n\
         [[admin.tokens]]\nname = 'vic'\ntoken = 'viewer-token-0123456789'\nrole = 'viewer'\n",
    ));
    let api = Api::at(shipbell.admin_port());
    let body = json!({"url": "https://ci.example.com/hook"});
    let nobody = api.get("/api/v1/repositories");
    assert_eq!(nobody.status, 401);
    assert!(nobody.header("www-authenticate").unwrap().starts_with("Bearer"));
    assert_eq!(api.bearer("wrong").get("/openapi.json").status, 401);
    let (root, eve, vic) = (
        api.bearer("root-token-0123456789"),
        api.bearer("editor-token-0123456789"),
        api.bearer("viewer-token-0123456789"),
    );
    assert_eq!(eve.set("acme/app", &body).status, 201);
    assert_eq!(eve.set("other/app", &body).status, 403);
    assert_eq!(root.set("other/app", &body).status, 201);
    assert_eq!(vic.set("acme/new", &body).status, 403);
    assert_eq!(vic.get(&webhook_of("other/app")).status, 200);
    assert_eq!(eve.get(&webhook_of("other/app")).status, 403);
    let names = |api: &Api| -> Vec<String> {
        let listed = api.json("/api/v1/endpoints");
        let items = listed["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&eve), ["repository:acme/app"]);
    assert_eq!(names(&root), ["repository:acme/app", "repository:other/app"]);
    assert_eq!(
        vic.post("/api/v1/endpoints/repository%3Aacme%2Fapp/hold").status,
        403
    );
    assert_eq!(
        eve.post("/api/v1/endpoints/repository%3Aacme%2Fapp/hold").status,
        200
    );
    assert_eq!(eve.post("/api/v1/dead-letters/replay").status, 403);
    assert_eq!(
        eve.post("/api/v1/dead-letters/replay?repository=acme%2Fapp")
            .status,
        200
    );
    let discard = "/api/v1/dead-letters?endpoint=ci&tag=v1";
    assert_eq!(root.send("DELETE", discard, b"").status, 200);
    for _ in 0..10 {
        api.bearer("wrong").get("/api/v1/repositories");
    }
    let throttled = api.bearer("wrong").get("/api/v1/repositories");
    assert_eq!(throttled.status, 429);
    assert!(throttled.header("retry-after").is_some());
    assert_eq!(
        root.get("/api/v1/repositories").status,
        200,
        "nobody locks others out"
    );
    let log = shipbell.log();
    assert!(!log.contains("token-0123456789"), "no token in the log");
    assert!(
        log.contains("by=eve") || log.contains("by=\"eve\""),
        "an audit line: {log}"
    );
    let has_line = |parts: &[&str]| {
        log.lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    };
    assert!(
        has_line(&["dead letters replayed", "by=eve", "repository=\"acme/app\""]),
        "which they were: {log}"
    );
    assert!(
        has_line(&["dead letters discarded", "by=root", "endpoint=\"ci\" tag=\"v1\""]),
        "which they were: {log}"
    );
}

#[test]
fn what_was_pushed_sent_and_answered_is_listed_page_by_page() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(own().endpoint("ci", &receiver.url("/hook?token=hunter2")));
    let api = Api::at(shipbell.admin_port());
    for number in 0..5 {
        shipbell.push(&format!("acme/app{number}"), "1.4");
    }
    assert_eq!(
        api.set("beta/only-a-webhook", &json!({"url": receiver.url("/own")}))
            .status,
        201
    );
    receiver.wait_for(5, SOON);
    let delivered = eventually("all is written down", SOON, || {
        let page = api.json("/api/v1/deliveries?state=delivered");
        (page["items"].as_array().unwrap().len() == 5).then_some(page)
    });
    assert_eq!(delivered["next"], Value::Null);
    assert_eq!(delivered["items"][0]["status"], 200);
    let mut seen = Vec::new();
    let mut path = "/api/v1/repositories?limit=2".to_owned();
    loop {
        let page = api.json(&path);
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/repositories?limit=2&cursor={next}");
    }
    assert_eq!(
        seen,
        [
            "acme/app0",
            "acme/app1",
            "acme/app2",
            "acme/app3",
            "acme/app4",
            "beta/only-a-webhook"
        ]
    );
    let found = api.json("/api/v1/repositories?q=app3");
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let app = &found["items"][0];
    assert_eq!(
        (&app["endpoint_state"], &app["queued_pushes"]),
        (&"healthy".into(), &0.into())
    );
    assert_eq!(app["last_push"]["tag"], "1.4");
    let newest = api.json("/api/v1/repositories?sort=last_push");
    let pushes = newest["items"].as_array().unwrap().iter();
    let moments: Vec<_> = pushes.map(|item| item["last_push"]["at"].as_str()).collect();
    assert!(
        moments.is_sorted_by(|a, b| a >= b),
        "the newest first, without a push last: {moments:?}"
    );
    let one = api.json("/api/v1/deliveries?repository=acme%2Fapp3");
    let id = one["items"][0]["id"].as_str().unwrap();
    let told = api.json(&format!("/api/v1/deliveries/{id}"));
    assert_eq!(told["attempts"][0]["status"], 200);
    assert_eq!(told["push"]["tag"], "1.4");
    assert!(
        told["attempts"][0]["request_body"]
            .as_str()
            .unwrap()
            .contains("acme/app3:1.4")
    );
    assert_eq!(
        api.json("/api/v1/why?image=acme/app3:1.4")["pushes"][0]["deliveries"][0]["webhook_id"],
        id
    );
    let again = api.post(&format!("/api/v1/deliveries/{id}/redeliver"));
    assert_eq!(again.json()["delivered"], true, "{}", again.text());
    assert_eq!(receiver.wait_for(6, SOON)[5].id(), id, "the same id");
    for path in [
        "/api/v1/endpoints",
        "/api/v1/deliveries",
        "/api/v1/why?image=acme/app3",
    ] {
        assert!(!api.get(path).text().contains("hunter2"), "{path}");
    }
}

#[test]
fn what_is_asked_for_wrongly_is_refused_with_what_is_wrong() {
    let shipbell = Shipbell::start(own());
    let api = Api::at(shipbell.admin_port());
    for (path, status) in [
        ("/api/v1/deliveries/msg_none", 404),
        ("/api/v1/deliveries?state=lost", 400),
        ("/api/v1/deliveries?limit=0", 400),
        ("/api/v1/deliveries?limit=many", 400),
        ("/api/v1/deliveries?cursor=x", 422),
        ("/api/v1/deliveries?endpoint=a%20b", 400),
        ("/api/v1/deliveries?since=yesterday", 400),
        ("/api/v1/repositories?sort=luck", 400),
        ("/api/v1/why", 422),
        ("/api/v1/why?image=acme/none:1", 404),
        ("/api/v2", 404),
    ] {
        let answer = api.get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{path}"
        );
    }
    let detail = |path: &str| {
        api.get(path).json()["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        detail("/api/v1/deliveries?limit=many"),
        "limit: invalid digit found in string"
    );
    let named = detail("/api/v1/endpoints/acme%2Fapp/states");
    assert!(
        named.ends_with("a repository's own webhook is named repository:acme/app"),
        "{named}"
    );
    assert_eq!(api.post("/api/v1/repositories").status, 405);
}

#[test]
fn dead_letters_are_listed_counted_and_sent_again_by_command() {
    let receiver = Receiver::scripted(|_| Answer::Status(400));
    let shipbell = Shipbell::start(
        own()
            .with("delivery.retry_schedule = ['10ms']\ndelivery.jitter = 0.0")
            .endpoint("ci", &receiver.url("/")),
    );
    shipbell.push("acme/app", "1");
    shipbell.push("acme/other", "2");
    eventually("two dead letters", SOON, || {
        let listed: Value =
            serde_json::from_str(&asked(&shipbell, &["dead-letters", "ls", "--output", "json"])).unwrap();
        (listed["items"].as_array().unwrap().len() == 2).then_some(())
    });
    let table = asked(&shipbell, &["dead-letters", "ls", "--repository", "acme/a*"]);
    assert!(
        table.contains("acme/app") && !table.contains("acme/other"),
        "{table}"
    );
    assert!(table.contains("answered 400"), "{table}");
    let unsaid = ask(&shipbell, &["dead-letters", "replay"]);
    assert_eq!(unsaid.status.code(), Some(2), "all is meant only when it is said");
    let before = receiver.requests();
    let dry = asked(
        &shipbell,
        &["dead-letters", "replay", "--endpoint", "ci", "--dry-run"],
    );
    assert!(dry.starts_with("2 meant: 2 would be sent"), "{dry}");
    assert_eq!(receiver.requests().len(), before.len());
    receiver.answer(|_| Answer::Status(200));
    let real = asked(&shipbell, &["dead-letters", "replay", "--endpoint", "ci"]);
    assert!(real.starts_with("2 meant: 2 are sent"), "{real}");
    let requests = receiver.wait_for(before.len() + 2, SOON);
    assert_eq!(requests[before.len()].image(), "acme/app:1", "in their order");
    let first = before
        .iter()
        .find(|request| request.image() == "acme/app:1")
        .unwrap();
    assert_eq!(requests[before.len()].id(), first.id(), "the same id");
    eventually("they are gone", SOON, || {
        let left = asked(&shipbell, &["dead-letters", "ls", "--output", "json"]);
        left.contains("\"items\": []").then_some(())
    });
}

#[test]
fn tests_holds_and_lists_by_command_and_without_a_server_a_sentence() {
    let receiver = Receiver::start();
    let mut shipbell = Shipbell::start(own().endpoint("ci", &receiver.url("/hook?token=hunter2")));
    let api = Api::at(shipbell.admin_port());
    assert_eq!(
        api.set("acme/app", &json!({"url": receiver.url("/own")})).status,
        201
    );
    let told = asked(&shipbell, &["webhook", "test", "ci"]);
    assert!(
        told.contains("answered 200") && !told.contains("hunter2"),
        "{told}"
    );
    asked(&shipbell, &["webhook", "test", "acme/app"]);
    // The repository's webhook by its plain name; an endpoint of the configuration comes first.
    for (name, verb, said) in [
        ("acme/app", "hold", "repository:acme/app is held\n"),
        ("acme/app", "enable", "repository:acme/app is healthy\n"),
        ("plain", "hold", "repository:plain is held\n"),
        ("repository:ci", "hold", "repository:ci is held\n"),
    ] {
        let name_of_it = name.strip_prefix("repository:").unwrap_or(name);
        if name_of_it != "acme/app" {
            assert_eq!(
                api.set(name_of_it, &json!({"url": receiver.url("/own")})).status,
                201
            );
        }
        assert_eq!(asked(&shipbell, &["endpoints", verb, name]), said);
    }
    let history = asked(&shipbell, &["endpoints", "history", "acme/app"]);
    assert!(history.contains("TO"), "{history}");
    assert_eq!(
        ask(&shipbell, &["endpoints", "hold", "nobody"]).status.code(),
        Some(1)
    );
    // What can't be asked for is a usage mistake, and what would be right is said.
    for (arguments, said) in [
        (
            &["endpoints", "ls", "--state", "bogus"][..],
            "failing, paused, ignored",
        ),
        (
            &["dead-letters", "ls", "--since", "yesterday"],
            "2026-11-24T09:00:00Z",
        ),
        (
            &["dead-letters", "replay", "--until", "1"],
            "2026-11-24T09:00:00Z",
        ),
        (&["repositories", "ls", "--sort", "luck"], "last_push"),
        (&["queue", "ls", "--repository", "A B"], "between slashes"),
    ] {
        let refused = ask(&shipbell, arguments);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(said), "{arguments:?}: no {said:?} in {told}");
    }
    let tests = receiver.wait_for(2, SOON);
    assert_eq!(tests[1].json()["event"], "test");
    assert_eq!(tests[1].json()["image"], "acme/app:shipbell-test");
    assert!(tests[1].id().starts_with("test_"));
    assert_eq!(asked(&shipbell, &["endpoints", "hold", "ci"]), "ci is held\n");
    shipbell.push("acme/app", "1");
    let queued = eventually("it is owed", SOON, || {
        let queued = asked(&shipbell, &["queue", "ls"]);
        queued.contains("held").then_some(queued)
    });
    assert!(queued.contains("acme/app"), "{queued}");
    assert_eq!(
        asked(&shipbell, &["endpoints", "enable", "ci"]),
        "ci is healthy\n"
    );
    receiver.wait_for_image("acme/app:1", SOON);
    assert!(asked(&shipbell, &["endpoints", "ls"]).contains("repository:acme/app"));
    eventually("it is listed", SOON, || {
        asked(&shipbell, &["repositories", "ls", "--sort", "last_push"])
            .contains("acme/app")
            .then_some(())
    });
    receiver.answer(|_| Answer::Status(500));
    assert_eq!(ask(&shipbell, &["webhook", "test", "ci"]).status.code(), Some(1));
    assert_eq!(
        ask(&shipbell, &["webhook", "test", "nobody"]).status.code(),
        Some(1)
    );
    shipbell.stop();
    assert!(!shipbell.data().join("admin.sock").exists());
    let refused = ask(&shipbell, &["queue", "ls"]);
    assert_eq!(refused.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("shipbell serve"));
}

#[test]
fn what_a_command_asked_for_is_seen_through_when_the_server_stops() {
    let receiver = Receiver::scripted(|_| Answer::Hold);
    let mut shipbell = Shipbell::start(own().endpoint("ci", &receiver.url("/hook")));
    let said = std::thread::scope(|scope| {
        let test = scope.spawn(|| ask(&shipbell, &["webhook", "test", "ci"]));
        receiver.wait_for(1, SOON);
        shipbell.terminate();
        eventually("it takes no more", SOON, || {
            (!shipbell.data().join("admin.sock").exists()).then_some(())
        });
        receiver.release();
        test.join().unwrap()
    });
    let told = String::from_utf8_lossy(&said.stdout);
    assert!(told.contains("answered 200"), "{told} {said:?}");
    assert_eq!(shipbell.wait(SOON).code(), Some(0));
}
