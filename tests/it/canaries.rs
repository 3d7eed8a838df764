//! A secret in every place where one can be typed, and none of them in anything that is shown (CONTRACT 6.7).

use std::{fs, path::Path, process::Command};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    pages::Stream,
    support::{
        SOON,
        api::{Api, webhook_of},
        browser::Browser,
        envelope, eventually, folder, http,
        receiver::{Answer, Receiver},
        shipbell::{self, Config, Shipbell},
    },
};

mod proxied;

/// The secret of that number, in a form that fits a URL, a header, and a token.
fn canary(number: u32) -> String {
    format!("canary-{number:02}-of-shipbell")
}

/// The signing secret of that number.
fn signing(number: u32) -> String {
    let bytes = format!("signing canary {number:02} of shipbell");
    format!("whsec_{}", BASE64_STANDARD.encode(bytes))
}

/// How many there are of either kind.
const CANARIES: u32 = 25;
const SIGNING: u32 = 5;

/// The forms in which any of them would show.
fn shapes() -> Vec<String> {
    let plain = (0..CANARIES).map(canary);
    let basic = (0..CANARIES).map(|number| BASE64_STANDARD.encode(format!("user:{}", canary(number))));
    let signing = (0..SIGNING).map(|number| signing(number).trim_start_matches("whsec_").to_owned());
    plain.chain(basic).chain(signing).collect()
}

fn config(receiver: &Receiver) -> Config {
    let (port, silent) = (receiver.port(), crate::support::ports::free());
    Config::without_registry().with(&format!(
        r#"
        log.level = "trace"
        ingest.tokens = ["an-ingest-token", "{ingest}"]
        registry.username = "user"
        registry.password = "{registry}"
        alerts.url = "http://127.0.0.1:{port}/alert?token={alert}"
        [admin]
        auth = "token"
        tokens = [{{ name = "root", token = "{admin}", role = "admin" }}]
        [delivery]
        allow_networks = ["127.0.0.0/8"]
        retry_schedule = ["10ms"]
        [[endpoints]]
        name = "one"
        url = "http://user:{user_info}@127.0.0.1:{port}/ok/one?token={query}"
        secret = "{signing}"
        previous_secret = "{previous}"
        headers = {{ X-Key = "{header}" }}
        [[endpoints]]
        name = "basic"
        url = "http://127.0.0.1:{port}/refuse/basic?token={refused}"
        username = "user"
        password = "{password}"
        [[endpoints]]
        name = "bearer"
        url = "http://127.0.0.1:{port}/fail/bearer"
        bearer_token = "{bearer}"
        [[endpoints]]
        name = "proxied"
        url = "http://hook.example/hook?token={proxied}"
        proxy = "http://user:{proxy}@127.0.0.1:{silent}"
        "#,
        ingest = canary(0),
        registry = canary(1),
        alert = canary(2),
        admin = canary(3),
        user_info = canary(4),
        query = canary(5),
        header = canary(6),
        refused = canary(7),
        password = canary(8),
        bearer = canary(9),
        proxied = canary(10),
        proxy = canary(11),
        signing = signing(0),
        previous = signing(1),
    ))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Something that is shown, and what it says.
type Shown = (&'static str, String);

/// What is wrong with a secret, or with what stands beside one, is said without it.
fn refusals(shipbell: &Shipbell, api: &Api) -> Vec<Shown> {
    let mut shown = Vec::new();
    let bad = format!("http://10.0.0.1/?token={}", canary(14));
    let bad_secret = json!({"url": "https://ci.example.com/", "secret": format!("whsec_{}!", canary(14))});
    let bad_header = json!({"url": "https://ci.example.com/", "headers": {"Host": canary(14)}});
    for body in [json!({ "url": bad }), bad_secret, bad_header] {
        let refused = api.put(&webhook_of("acme/other"), &body);
        assert_eq!(refused.status, 422, "{}", refused.text());
        shown.push(("refused", refused.text()));
    }
    // In a place of the wrong type, or as a name.
    let misplaced = canary(15);
    for body in [
        json!({"url": "https://ci.example.com/", "enabled": misplaced}),
        json!({"url": "https://ci.example.com/", "headers": misplaced}),
        json!({"url": "https://ci.example.com/", "tags": {"secret": misplaced}}),
        json!({ misplaced.as_str(): true }),
        json!(misplaced),
    ] {
        let refused = api.put(&webhook_of("acme/other"), &body);
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(refused.text().contains("(line 1, column "), "{}", refused.text());
        shown.push(("misplaced", refused.text()));
    }
    let torn = format!("{{\"url\": {misplaced}}}");
    shown.push((
        "torn",
        api.send("PUT", &webhook_of("acme/other"), torn.as_bytes()).text(),
    ));
    let stranger = Api::at(shipbell.admin_port()).bearer(&canary(14));
    let refused = stranger.get("/api/v1/endpoints");
    assert_eq!(refused.status, 401);
    shown.push(("a wrong token", refused.text()));
    shown
}

/// What forms are answered, those that are refused as well; and the cookie that a login was answered with.
fn forms(shipbell: &Shipbell) -> (Vec<Shown>, String) {
    const PAGE: &str = "/repositories/acme%2Fforms";
    let browser = Browser::at(shipbell);
    let wrong = browser.submit("/login", &[("token", &canary(20)), ("next", "/")]);
    assert_eq!(wrong.status, 401);
    let right = browser.submit("/login", &[("token", &canary(3))]);
    let cookie = right.header("set-cookie").unwrap().split(';').next().unwrap();
    let inside = Browser(browser.0.with("Cookie", cookie));
    let mut shown = vec![("a login", wrong.text()), ("a login", right.text())];
    let bad_url = format!("http://user:{}@10.0.0.1/hook?token={}", canary(17), canary(16));
    let url = format!(
        "http://user:{}@nobody.invalid/hook?token={}",
        canary(17),
        canary(16)
    );
    let no_header = format!("X-Key: {}\n{} has no colon", canary(18), canary(19));
    let headers = format!("X-Key: {}", canary(18));
    let secret = signing(3);
    for (version, url, headers, status) in [
        ("", &bad_url, &headers, 422),
        ("", &url, &no_header, 422),
        ("99999", &url, &headers, 412),
        ("", &url, &headers, 303),
        ("", &url, &headers, 412),
    ] {
        let fields = [
            ("version", version),
            ("url", url),
            ("headers", headers),
            ("secret", &secret),
            ("tags", "**"),
            ("enabled", "yes"),
        ];
        let answer = inside.submit(PAGE, &fields);
        assert_eq!(answer.status, status, "{}", answer.text());
        shown.push(("a form", answer.text()));
    }
    shown.push(("a form's page", inside.page(PAGE)));
    shown.push((
        "a page's test",
        inside.submit(&format!("{PAGE}/test"), &[]).text(),
    ));
    let left = inside.submit("/logout", &[]);
    assert_eq!(left.status, 303);
    shown.push(("a logout", left.text()));
    (shown, cookie.split_once('=').unwrap().1.to_owned())
}

/// What streams of pages send.
fn streams(shipbell: &Shipbell, paths: &[String]) -> Vec<Shown> {
    let token = format!("Authorization: Bearer {}\r\n", canary(3));
    let sent = |path: &String| {
        let (status, _, mut stream) = Stream::open(shipbell, &format!("/live{path}"), &token);
        assert_eq!(status, 200, "{path}");
        ("a stream", stream.until(|text| text.contains("event: alive")))
    };
    paths.iter().map(sent).collect()
}

/// Webhooks that are imported, and exported again: masked, unless they are asked for with their secrets.
fn moved(shipbell: &Shipbell) -> Vec<Shown> {
    let (folder, data) = (folder(), shipbell.data().display().to_string());
    let (file, whole) = (folder.path().join("file"), folder.path().join("whole"));
    let webhook = json!({
        "repository": "acme/imported", "secret": signing(4), "headers": {"X-Key": canary(22)},
        "url": format!("https://nobody.invalid/hook?token={}", canary(21)),
    });
    fs::write(&file, json!({"version": 1, "webhooks": [webhook]}).to_string()).unwrap();
    let command = |arguments: &[&str]| {
        let mut plain = Command::new(shipbell::command(&[], Path::new("/dev/null")).get_program());
        output(plain.env_clear().args(arguments).args(["--data-dir", &data]))
    };
    let (file, out) = (file.to_str().unwrap(), whole.to_str().unwrap());
    let shown = vec![
        ("an import", command(&["endpoints", "import", file, "--dry-run"])),
        ("an import", command(&["endpoints", "import", file])),
        ("an export", command(&["endpoints", "export"])),
        (
            "an export into a file",
            command(&["endpoints", "export", "--with-secrets", "--out", out]),
        ),
    ];
    assert!(shown[2].1.contains("acme/imported"), "{}", shown[2].1);
    let whole = fs::read_to_string(&whole).unwrap();
    for secret in [canary(21), canary(22), signing(4)] {
        assert!(whole.contains(&secret), "{secret}: {whole}");
    }
    shown
}

/// What the API and the pages answer.
fn answers(shipbell: &Shipbell, api: &Api) -> Vec<Shown> {
    let mut shown = Vec::new();
    let mut paths = vec![
        "/api/v1/overview".to_owned(),
        "/api/v1/configuration".to_owned(),
        "/api/v1/repositories".to_owned(),
        "/api/v1/repositories/acme%2Fapp".to_owned(),
        webhook_of("acme/app"),
        "/api/v1/endpoints".to_owned(),
        "/api/v1/queue".to_owned(),
        "/api/v1/deliveries".to_owned(),
        "/api/v1/dead-letters".to_owned(),
        "/api/v1/why?image=acme/app:1".to_owned(),
        "/openapi.json".to_owned(),
        "/overview".to_owned(),
        "/repositories".to_owned(),
        "/repositories/acme%2Fapp".to_owned(),
        "/deliveries".to_owned(),
        "/endpoints".to_owned(),
        "/dead-letters".to_owned(),
        "/nothing-here".to_owned(),
    ];
    let more = [
        "/api/v1/why?image=acme/app:2",
        "/api/v1/endpoints/one",
        "/api/v1/endpoints/one/states",
        "/repositories/acme%2Fapp/remove",
        "/repositories/acme%2Fforms",
        "/repositories/acme%2Fimported",
        "/deliveries/redeliver",
        "/endpoints/one",
        "/endpoints/one/disable",
        "/endpoints/proxied",
        "/endpoints/repository%3Aacme%2Fapp",
        "/dead-letters/replay",
    ];
    paths.extend(more.map(ToOwned::to_owned));
    let mut live = [
        "/overview",
        "/deliveries",
        "/repositories/acme%2Fapp",
        "/repositories/acme%2Fforms",
        "/endpoints",
        "/endpoints/one",
        "/endpoints/repository%3Aacme%2Fapp",
        "/dead-letters",
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    let letters = api.json("/api/v1/dead-letters");
    let letters = letters["items"].as_array().unwrap();
    assert!(!letters.is_empty(), "some were refused for good");
    paths.extend(
        letters
            .iter()
            .map(|letter| format!("/dead-letters/{}", letter["id"])),
    );
    let events = letters.iter().filter_map(|letter| letter["event_id"].as_str());
    let stories: Vec<_> = events.map(|event| format!("/api/v1/why?event={event}")).collect();
    assert!(!stories.is_empty(), "events have ids");
    for story in &stories {
        let told = api.json(story);
        let attempts = &told["pushes"][0]["deliveries"][0]["attempts"];
        assert!(!attempts.as_array().unwrap().is_empty(), "{told:#}");
    }
    paths.extend(stories);
    let deliveries = api.json("/api/v1/deliveries");
    for delivery in deliveries["items"].as_array().unwrap() {
        let id = delivery["id"].as_str().unwrap();
        paths.push(format!("/api/v1/deliveries/{id}"));
        paths.push(format!("/deliveries/{id}"));
        live.push(format!("/deliveries/{id}"));
        let again = api.post(&format!("/api/v1/deliveries/{id}/redeliver?force=true"));
        shown.push(("sent again", again.text()));
    }
    for endpoint in ["one", "basic", "bearer", "proxied", "repository%3Aacme%2Fapp"] {
        let test = api.post(&format!("/api/v1/endpoints/{endpoint}/test"));
        assert!(test.status < 500, "{}", test.text());
        shown.push(("a test", test.text()));
    }
    let page = api.with("Accept", "text/html");
    for path in &paths {
        let asked = if path.starts_with("/api") { api } else { &page };
        let answer = asked.get(path);
        assert!(matches!(answer.status, 200 | 404), "{path}: {}", answer.status);
        shown.push(("an answer", answer.text()));
    }
    shown.extend(streams(shipbell, &live));
    shown
}

/// What the operator sees.
fn told(shipbell: &Shipbell) -> Vec<Shown> {
    let mut shown = Vec::new();
    for path in ["/metrics", "/readyz?verbose", "/livez"] {
        let answer = http::get(shipbell.ops_port(), path).unwrap();
        shown.push(("ops", answer.text()));
    }
    let data = shipbell.data().display().to_string();
    for arguments in [
        &["endpoints", "ls"][..],
        &["endpoints", "ls", "--output", "json"],
        &["endpoints", "export"],
        &["queue", "ls"],
        &["repositories", "ls"],
        &["dead-letters", "ls", "--output", "json"],
        &["webhook", "test", "one"],
        &["why", "acme/app:1", "--output", "json"],
        &["journal", "inspect", "--records"],
    ] {
        let mut plain = Command::new(shipbell::command(&[], Path::new("/dev/null")).get_program());
        shown.push((
            "a command",
            output(plain.env_clear().args(arguments).args(["--data-dir", &data])),
        ));
    }
    let file = shipbell.data().with_file_name("shipbell.toml");
    for arguments in [
        &["config", "show"][..],
        &["config", "show", "--output", "json"],
        &["config", "check"],
    ] {
        shown.push((
            "the configuration",
            output(&mut shipbell::command(arguments, &file)),
        ));
    }
    shown.extend(misplaced(shipbell, &data));
    shown.push(("the log", shipbell.log()));
    shown
}

/// Files with a secret in a place of the wrong type.
fn misplaced(shipbell: &Shipbell, data: &str) -> Vec<Shown> {
    let mut shown = Vec::new();
    let (folder, secret) = (crate::support::folder(), canary(15));
    let file = folder.path().join("file");
    for webhooks in [
        json!([{"repository": "acme/app", "url": "https://ci.example.com/", "secret": [secret]}]),
        json!([{"repository": "acme/app", "url": "https://ci.example.com/", "headers": secret}]),
        json!(secret),
    ] {
        let export = json!({"version": 1, "webhooks": webhooks}).to_string();
        fs::write(&file, export).unwrap();
        let mut import = Command::new(shipbell::command(&[], Path::new("/dev/null")).get_program());
        import.env_clear().args(["endpoints", "import"]).arg(&file);
        let said = output(import.args(["--data-dir", data]));
        assert!(said.contains("/webhooks") && said.contains("is wanted"), "{said}");
        shown.push(("an import", said));
    }
    for line in [
        format!("ingest.tokens = '{secret}'"),
        format!("ingest.tokens = [{{ token = '{secret}' }}]"),
        format!("admin.tokens = ['{secret}']"),
        format!("registry.password = ['{secret}']"),
        format!("registry.password = {{ it = '{secret}' }}"),
        format!("registry.timeout = '{secret}'"),
        format!("registry.password = '{secret}\n"),
        format!("registry.password = {secret}"),
        format!(
            "[[endpoints]]\nname = 'ci'\nurl = ['https://ci.example.com/?token={secret}']\nheaders = '{secret}'"
        ),
    ] {
        fs::write(&file, line).unwrap();
        shown.push((
            "a wrong type",
            output(&mut shipbell::command(&["config", "check"], &file)),
        ));
    }
    assert!(!shipbell.log().is_empty());
    shown
}

#[test]
fn no_secret_shows_anywhere() {
    // What it is sent comes back in the answer, as some receivers do it.
    let receiver = Receiver::scripted(|request| {
        let line = request.line().to_owned();
        let echo = vec![format!("X-Echo: {line}"), format!("Location: {line}")];
        if line.contains("/ok/") || line.contains("/alert") {
            Answer::With(200, echo)
        } else if line.contains("/refuse/") {
            Answer::With(400, echo)
        } else {
            Answer::With(503, echo)
        }
    });
    let shipbell = Shipbell::start(config(&receiver));
    let api = Api::at(shipbell.admin_port()).bearer(&canary(3));
    let own = json!({
        "url": receiver.url(&format!("/ok/own?token={}", canary(12))), "secret": signing(2),
        "headers": {"Authorization": format!("Bearer {}", canary(13))},
    });
    let mut shown = vec![("saved", api.set("acme/app", &own).text())];
    for tag in ["1", "2"] {
        shipbell.take(envelope::one("acme/app", tag));
    }
    eventually("all has been tried", SOON, || {
        let deliveries = api.json("/api/v1/deliveries");
        let is_so = |item: &Value| item["attempts"].as_u64().is_some_and(|attempts| attempts > 0);
        let tried = deliveries["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|item| is_so(item));
        // Those behind a failing endpoint's oldest push wait for it.
        (tried.count() >= 8).then_some(())
    });
    let came: Vec<String> = receiver
        .requests()
        .iter()
        .map(|request| request.line().to_owned())
        .collect();
    for number in [5, 7, 12] {
        assert!(
            came.iter().any(|line| line.contains(&canary(number))),
            "{number}: {came:?}"
        );
    }

    shown.extend(refusals(&shipbell, &api));
    let (answered, cookie) = forms(&shipbell);
    shown.extend(answered);
    shown.extend(moved(&shipbell));
    shown.extend(answers(&shipbell, &api));
    shown.extend(told(&shipbell));
    assert!(shown.len() > 80, "{}", shown.len());
    let mut shapes = shapes();
    shapes.push(cookie);
    for (what, text) in &shown {
        for shape in &shapes {
            assert!(!text.contains(shape), "{shape} in {what}:\n{text}");
        }
    }
}
