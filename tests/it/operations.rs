//! Configuration errors, the ops listener, and what stands in no log (CONTRACT 2, 6 and 7).

use std::{fs, process::Output};

use crate::support::{
    SOON, envelope, eventually, files, folder, http,
    receiver::{Answer, Receiver},
    shipbell::{self, Config, Shipbell},
};

/// What `shipbell <arguments> --config …` says of this configuration file.
fn run(arguments: &[&str], config: &str, environment: &[(&str, &str)]) -> Output {
    let folder = folder();
    let file = folder.path().join("shipbell.toml");
    fs::write(&file, config).unwrap();
    let mut command = shipbell::command(arguments, &file);
    command.envs(environment.iter().copied());
    command.output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_problem_of_the_configuration_is_reported_at_once() {
    let config = r#"
        colour = "blue"
        [ingest]
        listen = "nowhere"
        max_body = "many"
        [batch]
        window = "2 fortnights"
        coalesce = "sometimes"
        [delivery]
        rate = "fast"
        jitter = 7.5
        retry_schedule = []
        [registry]
        url = "ftp://registry"
        [[endpoints]]
        name = "no url"
        repositories = ["acme/**"]
    "#;
    for arguments in [&["serve"][..], &["config", "check"]] {
        let output = run(arguments, config, &[("SHIPBELL_SIZE__DEADLINE", "soon")]);
        assert_eq!(output.status.code(), Some(78), "{}", errors(&output));
        let errors = errors(&output);
        for key in [
            "colour",
            "ingest.listen",
            "ingest.max_body",
            "batch.window",
            "batch.coalesce",
            "delivery.rate",
            "delivery.jitter",
            "registry.url",
            "endpoints",
            "size.deadline",
            "SHIPBELL_SIZE__DEADLINE",
            "shipbell.toml",
        ] {
            assert!(errors.contains(key), "nothing of {key} in\n{errors}");
        }
    }
}

#[test]
fn an_open_ingest_without_tokens_is_refused() {
    let open = "[ingest]\nlisten = '0.0.0.0:0'";
    let output = run(&["config", "check"], open, &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(errors(&output).contains("allow_anonymous"), "{}", errors(&output));
    let allowed = format!("{open}\nallow_anonymous = true");
    let output = run(&["config", "check"], &allowed, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let output = run(
        &["config", "check"],
        open,
        &[("SHIPBELL_INGEST__TOKENS", r#"["a-token"]"#)],
    );
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
}

#[test]
fn the_defaults_are_a_valid_configuration() {
    let defaults = run(&["config", "default"], "", &[]);
    assert_eq!(defaults.status.code(), Some(0), "{}", errors(&defaults));
    let text = String::from_utf8(defaults.stdout).unwrap();
    let output = run(&["config", "check"], &text, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    assert_eq!(text.trim_end(), fs::read_to_string(example).unwrap().trim_end());
}

#[test]
fn a_shown_configuration_shows_no_secret() {
    let config = r#"
        [ingest]
        tokens = ["tok-hidden"]
        [registry]
        username = "me"
        password = "pass-hidden"
        [[endpoints]]
        name = "ci"
        repositories = ["**"]
        url = "https://user:word-hidden@ci.example.com/hook?token=query-hidden"
        secret = "whsec_aGlkZGVuIGhpZGRlbiBoaWRkZW4gaGlkZGVu"
    "#;
    let output = run(&["config", "show"], config, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("ci.example.com/hook"), "{shown}");
    for hidden in ["-hidden", "whsec_aGlk"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

#[test]
fn an_endpoint_without_a_proxy_is_shown_so() {
    let config = "[delivery]\nproxy = \"http://ann:pw@proxy.example.com:3128\"\n[[endpoints]]\nname = \"ci\"\n\
                  repositories = [\"**\"]\nurl = \"https://ci.example.com/hook\"\nproxy = \"direct\"\n";
    let output = run(&["config", "show"], config, &[]);
    let shown: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    assert_eq!(shown["endpoints"][0]["proxy"].as_str(), Some("direct"));
    assert_eq!(
        shown["delivery"]["proxy"].as_str(),
        Some("http://proxy.example.com:3128/")
    );
}

#[test]
fn what_goes_wrong_ends_the_process_although_nobody_reads_what_it_says() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let filler = writer.try_clone().unwrap();
    // A pipe has room for 64 KiB.
    std::io::Write::write_all(&mut writer, &vec![b'x'; 64 << 10]).unwrap();
    let folder = folder();
    let file = folder.path().join("shipbell.toml");
    fs::write(&file, "colour = 'blue'").unwrap();
    let mut command = shipbell::command(&["serve"], &file);
    let mut child = command.stderr(filler).spawn().unwrap();
    let status = eventually("it ends", SOON, || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(78));
    drop(reader);
}

#[test]
fn ops_answers_whether_it_lives_is_ready_and_what_it_counts() {
    let receiver = Receiver::start();
    let config = Config::without_registry().endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    shipbell.take(envelope::one("acme/app", "1"));
    receiver.wait_for(1, SOON);

    assert_eq!(shipbell.ops("/livez").status, 200);
    // The registry is down, and that is nobody's reason not to be ready.
    assert_eq!(shipbell.ops("/readyz").status, 200);
    let verbose = shipbell.ops("/readyz?verbose");
    assert_eq!(verbose.status, 200);
    assert!(verbose.text().contains("journal"), "{}", verbose.text());
    assert_eq!(shipbell.ops("/events").status, 404);

    let metrics = shipbell.ops("/metrics");
    assert_eq!(metrics.status, 200);
    let content_type = metrics.header("content-type").unwrap();
    assert!(
        content_type.starts_with("application/openmetrics-text"),
        "{content_type}"
    );
    let text = metrics.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let (mut samples, mut named) = (0, 0);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        // name{labels} value
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        samples += 1;
        named += usize::from(name.starts_with("shipbell_") || name.starts_with("process_"));
    }
    assert!(samples > 0, "{text}");
    assert_eq!(samples, named, "{text}");
    assert!(!text.contains("?token"), "{text}");
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let receiver = Receiver::start();
    let config = Config::without_registry().endpoint("hook", &receiver.url("/hook"));
    // What it has taken is not delivered yet when the second one comes.
    let mut shipbell = Shipbell::start(config.with("batch.window = '1h'"));
    shipbell.take(envelope::one("acme/app", "1"));
    eventually("the next segment's file is ready", SOON, || {
        let spare = shipbell.data().join("journal/spare");
        (spare.metadata().ok()?.len() == 15 * 1024 * 1024).then_some(())
    });
    // The history is written behind everything else.
    let before = files::contents(&shipbell.data().join("journal"));
    let second = shipbell.second_on_same_data();
    assert_eq!(second.status.code(), Some(75), "{}", errors(&second));
    let sentence = format!(
        "the journal in {} is in use by another process",
        shipbell.data().join("journal").display()
    );
    let said = [second.stdout, second.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains(&sentence), "{said}");
    assert!(
        files::contents(&shipbell.data().join("journal")) == before,
        "the second one changed something"
    );
    // The first is none the worse, and a lock does not outlive its holder.
    shipbell.take(envelope::one("acme/app", "2"));
    shipbell.kill();
    shipbell.start_again();
    let requests = receiver.wait_for(2, SOON);
    assert_eq!(requests[0].image(), "acme/app:1");
    assert_eq!(requests[1].image(), "acme/app:2");
}

#[test]
fn a_push_that_nobody_owes_is_taken_and_not_kept() {
    let mut shipbell = Shipbell::start(Config::without_registry());
    shipbell.take(envelope::one("acme/app", "1"));
    shipbell.kill();
    // An endpoint that comes later does not owe what came before it.
    let receiver = Receiver::start();
    shipbell.start_again_with(&format!(
        "[[endpoints]]\nname = 'late'\nrepositories = ['**']\nurl = '{}'",
        receiver.url("/")
    ));
    shipbell.take(envelope::one("acme/app", "2"));
    let requests = receiver.wait_for_image("acme/app:2", SOON);
    assert_eq!(requests.len(), 1);
}

#[test]
fn no_secret_is_logged_or_counted() {
    let receiver = Receiver::scripted(|_| Answer::Status(500));
    let url = receiver.url("/hook?token=query-hidden");
    let url = url.replace("http://", "http://user:word-hidden@");
    let config = Config::without_registry()
        .with(
            r"
            [ingest]
            tokens = ['an-ingest-token', 'tok-hidden']
            [registry]
            username = 'me'
            password = 'pass-hidden'
            [delivery]
            retry_schedule = ['20ms']
            [log]
            level = 'trace'
            ",
        )
        .with(&format!(
            "[[endpoints]]\nname = 'hook'\nrepositories = ['**']\nurl = '{url}'\nsecret = 'whsec_aGlkZGVuIGhpZGRlbiBoaWRkZW4gaGlkZGVu'"
        ))
        .endpoint("dead", "http://user:word-hidden@127.0.0.1:9/hook?token=query-hidden");
    let mut shipbell = Shipbell::start(config);
    shipbell.take(envelope::one("acme/app", "1"));
    receiver.wait_for(2, SOON);
    let wrong = [("Authorization", "Bearer wrong-hidden")];
    let response = http::request(shipbell.ingest(), "POST", "/events", &wrong, b"{}").unwrap();
    assert_eq!(response.status, 401);
    eventually("the failure is logged", SOON, || {
        shipbell.log().contains("500").then_some(())
    });
    let shown = [
        shipbell.ops("/metrics").text(),
        shipbell.ops("/readyz?verbose").text(),
    ];
    shipbell.terminate();
    shipbell.wait(SOON);
    let log = shipbell.log();
    for text in shown.iter().chain([&log]) {
        for hidden in ["-hidden", "whsec_aGlk", "aGlkZGVu"] {
            let line = text.lines().find(|line| line.contains(hidden));
            assert_eq!(line, None, "it shows {hidden}");
        }
    }
}
