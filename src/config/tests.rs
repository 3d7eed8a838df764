use std::{fs, sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::{
    image::{RepositoryName, Tag},
    webhook::{Coalesce, Rate},
};

mod endpoints;
mod groups;
mod hidden;
mod problems;
mod sources;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

fn variables(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    list.iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect()
}

/// A folder with `shipbell.toml` in it.
fn folder(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shipbell.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, Problems> {
    let (_folder, path) = folder(text);
    Config::load(Some(&path), variables(environment))
}

fn load(text: &str) -> Config {
    load_with(text, &[]).unwrap()
}

/// Each problem as its key, its source without the file's folder, and its message.
fn problems_with(text: &str, environment: &[(&str, &str)]) -> Vec<(String, String, String)> {
    let Err(problems) = load_with(text, environment) else {
        panic!("no problem in {text:?}");
    };
    let split = problems.iter().map(|problem| {
        let source = problem.source.to_string();
        let source = source.rsplit('/').next().unwrap_or_default().to_owned();
        (problem.key.clone(), source, problem.message.clone())
    });
    split.collect()
}

/// The one problem of `text` has this key and line, and says `part` among other things.
#[track_caller]
fn refused(text: &str, key: &str, line: usize, part: &str) {
    let problems = problems_with(text, &[]);
    let [(found, source, message)] = problems.as_slice() else {
        panic!("not one problem: {problems:#?}");
    };
    assert_eq!(
        (found.as_str(), source.as_str()),
        (key, format!("shipbell.toml:{line}").as_str())
    );
    assert!(message.contains(part), "{message}");
}

/// The endpoint block of the example, taken out of its comments.
fn example_endpoint() -> String {
    let lines = default_toml().lines().filter_map(|line| line.strip_prefix('#'));
    let lines = lines.filter(|line| line.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()));
    lines.collect::<Vec<_>>().join("\n")
}

fn endpoint(keys: &str) -> String {
    format!("[[endpoints]]\nname = \"a\"\nurl = \"http://127.0.0.1:1/\"\n{keys}")
}

#[test]
fn the_example_is_the_defaults() {
    let config = load(default_toml());
    let built_in = load("");
    let values = |config: &Config| -> Vec<_> {
        let settings = config.settings.iter();
        settings.map(|s| (s.key.clone(), s.value.clone())).collect()
    };
    assert_eq!(values(&config), values(&built_in));
    assert!(
        built_in
            .settings
            .iter()
            .all(|s| s.source == Source::BuiltIn && !s.changed)
    );
    assert!(config.settings.iter().all(|setting| !setting.changed));
    assert!(config.endpoints.is_empty());
    assert!(config.warnings().is_empty());
}

#[test]
fn every_key_of_the_example_is_read_and_every_key_read_is_in_the_example() {
    let mut findings = Findings::default();
    let (_folder, path) = folder(&example_endpoint());
    let layers = Layers::read(Some(&path), [], &mut findings.problems);
    Config::read(&layers, &mut findings).unwrap();
    assert_eq!(findings.problems, []);
    let mut in_example = layers::leaves(&layers.defaults);
    let (block, errors) = layers::Parsed::new(&example_endpoint());
    assert_eq!(errors, []);
    in_example.extend(block.lines.into_keys().filter(|key| key.starts_with("endpoints")));
    in_example.retain(|key| !key.ends_with(']'));
    in_example.sort();
    let asked: Vec<_> = findings.asked.into_iter().collect();
    assert_eq!(asked, in_example);
}

#[test]
fn the_defaults_are_those_that_are_promised() {
    let config = load("");
    assert_eq!(config.data_dir, Path::new("./data"));
    assert_eq!(config.ingest.listen.to_string(), "127.0.0.1:8580");
    assert_eq!(config.ingest.max_body, 4 << 20);
    assert_eq!(config.ingest.ack_deadline, Duration::from_millis(800));
    assert_eq!(config.ingest.max_pending, 2_000_000);
    assert!(config.ingest.tokens.is_empty() && config.ingest.tls.is_none());
    assert_eq!(config.admin.auth, AdminAuth::None);
    assert_eq!(config.registry.url.as_str(), "http://127.0.0.1:5000/");
    assert!(config.registry.login.is_none() && config.registry.public_host.is_none());
    assert!(config.filter.repositories.is_match("acme/app/tools"));
    assert_eq!(config.batch.window, Duration::from_secs(2));
    assert_eq!(
        (config.batch.pushes_max, config.batch.coalesce),
        (100, Coalesce::Tag)
    );
    assert_eq!(config.journal.segment_size, 16 << 20);
    assert_eq!(config.size.reconcile_every, Duration::from_hours(24));
    assert_eq!(
        config.delivery.rate,
        Rate {
            per_second: Some(20.0)
        }
    );
    assert_eq!(config.delivery.retry_schedule.len(), 7);
    assert_eq!(config.delivery.user_agent, "WebHook Handler");
    assert_eq!(config.delivery.header_name, "x-alin-webhook");
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn what_is_kept_for_an_age_may_be_kept_for_a_second() {
    let delivery = load("[delivery]\nhistory = \"1s\"\ndead_letters = \"1s\"").delivery;
    assert_eq!(
        [delivery.history, delivery.dead_letters],
        [Duration::from_secs(1); 2]
    );
}

#[test]
fn no_secret_is_shown() {
    let hidden = [
        "hunter-token",
        "hunter-password",
        "hunter-query",
        "hunter-user",
        "hunter-header",
        "hunter-alert",
        "hunter-bearer",
        "hunter-proxy",
        "hunter-admin",
        SECRET,
    ];
    let file = format!(
        "ingest.tokens = [\"hunter-token\"]\nalerts.url = \"https://a/?hunter-alert\"\n\
         registry = {{ username = \"u\", password = \"hunter-password\" }}\n\
         [[admin.tokens]]\nname = \"n\"\nrole = \"viewer\"\ntoken = \"hunter-admin\"\n\
         [[endpoints]]\nname = \"a\"\nurl = \"https://hunter-user@b/c?t=hunter-query\"\nsecret = \"{SECRET}\"\n\
         previous_secret = \"{SECRET}\"\nheaders = {{ X-A = \"hunter-header\" }}\n\
         proxy = \"http://u:hunter-proxy@p:1\"\n\
         [[endpoints]]\nname = \"b\"\nurl = \"https://b/\"\nbearer_token = \"hunter-bearer\"\n"
    );
    let config = load(&file);
    let shown = [
        config.show_toml(),
        config.show_json().to_string(),
        format!("{config:?}"),
    ]
    .concat();
    // The same file with every value in the wrong place, so that each is in a problem.
    let wrong = file
        .replace("= \"https://", "= \"ftp://")
        .replace("http://u:", "ftp://u:")
        .replace("hunter-", "hunter- ")
        .replace("whsec_", "wh_");
    let problems = load_with(&wrong, &[]).unwrap_err().to_string();
    for secret in hidden {
        assert!(!shown.contains(secret), "{secret} is shown:\n{shown}");
    }
    assert!(
        !problems.contains("hunter") && !problems.contains("wh_M"),
        "{problems}"
    );
    assert!(shown.contains("https://b/c?[secret]"));
}

#[test]
fn what_is_shown_is_toml_again_and_says_the_same() {
    let file = format!(
        "{}\n[[admin.tokens]]\nname = \"n\"\nrole = \"viewer\"\ntoken = \"t\"\n[admin.proxy]\nuser_header = \"u\"\n",
        endpoint("headers = { X-A = \"b\" }\nrate = \"1/s\"")
    );
    let config = load(&file);
    let shown: toml::Table = toml::from_str(&config.show_toml()).unwrap();
    for setting in &config.settings {
        let mut value = toml::Value::Table(shown.clone());
        for part in setting.key.split(['.', '[']) {
            let next = match part.strip_suffix(']') {
                Some(index) => value.get(index.parse::<usize>().unwrap()),
                None => value.get(part),
            };
            value = next.unwrap().clone();
        }
        assert_eq!(value, setting.value, "{}", setting.key);
    }
}

#[test]
fn a_token_that_can_be_guessed_is_warned_of_where_tokens_let_people_in() {
    let told = |auth: &str| -> Vec<String> {
        let tokens = "[[admin.tokens]]\nname = \"ann\"\ntoken = \"0123456789abcdef\"\nrole = \"admin\"\n\
                      [[admin.tokens]]\nname = \"eve\"\ntoken = \"0123456789abcde\"\nrole = \"viewer\"\n";
        let warnings = load(&format!("[admin]\nauth = \"{auth}\"\n{tokens}")).warnings();
        let told = warnings
            .into_iter()
            .map(|warning| format!("{} {}", warning.key, warning.message));
        told.collect()
    };
    let [eves] = &told("token")[..] else {
        panic!("{:?}", told("token"));
    };
    assert!(
        eves.starts_with("admin.tokens[1] the token of eve has 15 characters"),
        "{eves}"
    );
    assert!(
        eves.contains("openssl rand -hex 32") && !eves.contains("0123456789"),
        "{eves}"
    );
    // Then they let nobody in, and everybody is.
    for (auth, says) in [
        ("none", "everybody on this machine is an admin"),
        ("proxy", "does nothing"),
    ] {
        let with_proxy = format!("{auth}\"\nproxy = {{ trusted_networks = [\"10.0.0.0/8\"] }}\n#");
        let told = told(if auth == "proxy" { &with_proxy } else { auth });
        assert!(
            told[0].starts_with("admin.tokens ") && told[0].contains(says),
            "{told:?}"
        );
        assert!(
            !told.iter().any(|warning| warning.contains("characters")),
            "{told:?}"
        );
    }
}

#[test]
fn tokens_beside_letting_everybody_in_are_warned_of_and_two_of_one_name_or_one_for_two_are_not_taken() {
    let warned = |text: &str| load(&format!("[ingest]\n{text}")).warnings();
    assert!(warned("allow_anonymous = true").is_empty());
    let warnings = warned("allow_anonymous = true\ntokens = [\"t\"]");
    assert_eq!(warnings[0].key, "ingest.allow_anonymous");
    assert!(warnings[0].message.contains("401"), "{warnings:?}");
    let token = |name: &str| {
        format!(
            "[[admin.tokens]]\nname = \"{name}\"\ntoken = \"0123456789abcdefhunter2\"\nrole = \"viewer\"\n"
        )
    };
    let problems = problems_with(&format!("{}{}", token("ann"), token("eve")), &[]);
    let [(key, _, said)] = &problems[..] else {
        panic!("{problems:?}")
    };
    assert_eq!(key, "admin.tokens[1].token");
    assert!(
        said.contains("that of ann") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn what_does_nothing_yet_warns_when_it_is_set() {
    let keys = |text: &str| -> Vec<String> {
        let warnings = load(text).warnings();
        warnings.into_iter().map(|warning| warning.key).collect()
    };
    assert_eq!(
        keys("[delivery]\npause_after = 4\nhistory = \"1d\"\nproxy = \"\""),
        Vec::<String>::new()
    );
    assert_eq!(
        keys(
            "[delivery]\npause_after = 5\nproxy = \"http://p:1\"\nrate = \"1/s\"\n[telemetry]\notlp = \"http://o\""
        ),
        ["telemetry.otlp"]
    );
    assert_eq!(
        keys(&endpoint(
            "window = \"1s\"\nbearer_token = \"b\"\nproxy = \"direct\""
        )),
        Vec::<String>::new()
    );
}

#[test]
fn what_another_configuration_changes_is_told_by_name_and_key() {
    let endpoint = |name: &str, rest: &str| format!("[[endpoints]]\nname = '{name}'\n{rest}\n");
    let before = load(&format!(
        "ingest.tokens = ['first-token-of-all']\n{}{}{}",
        endpoint("same", "url = 'https://a.example/?token=1'"),
        endpoint("other", "url = 'https://a.example/?token=2'"),
        endpoint("gone", "url = 'https://a.example/?token=3'"),
    ));
    // Another order is no change, and neither are comments.
    let after = load(&format!(
        "# moved\ningest.tokens = ['second-token-of-all']\nlog.level = 'debug'\n{}{}{}",
        endpoint("new", "url = 'https://a.example/'"),
        endpoint("other", "url = 'https://a.example/?token=4'"),
        endpoint("same", "url = 'https://a.example/?token=1'"),
    ));
    let changes = before.changes(&after);
    let names = |names: &[Arc<str>]| names.join(" ");
    assert_eq!(names(&changes.added), "new");
    assert_eq!(names(&changes.changed), "other");
    assert_eq!(names(&changes.removed), "gone");
    assert_eq!(changes.others, ["ingest.tokens", "log.level"]);
    assert!(!changes.leave_endpoints());
    assert_eq!(before.changes(&before.clone()), Changes::default());
}

#[test]
fn colours_are_left_out_when_the_environment_says_so_or_the_terminal_has_none() {
    let is_colourless = |list: &[(&str, &str)]| is_colourless(variables(list).into_iter());
    for list in [("NO_COLOR", "1"), ("NO_COLOR", "0"), ("TERM", "dumb")] {
        assert!(is_colourless(&[("TERM", "xterm"), list]), "{list:?}");
    }
    for list in [
        ("NO_COLOR", ""),
        ("TERM", "xterm-256color"),
        ("COLORTERM", "dumb"),
    ] {
        assert!(!is_colourless(&[list]), "{list:?}");
    }
}
