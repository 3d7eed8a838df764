use std::{fs, sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::{
    image::{RepositoryName, Tag},
    webhook::{Coalesce, Rate},
};

mod groups;

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
fn a_variable_wins_over_the_file_and_the_file_over_the_defaults() {
    let file = "[batch]\nwindow = \"3s\"\nmax_pushes = 7\n";
    let config = load_with(file, &[("SHIPBELL_BATCH__WINDOW", "4s"), ("OTHER", "x")]).unwrap();
    assert_eq!(config.batch.window, Duration::from_secs(4));
    assert_eq!(config.batch.pushes_max, 7);
    assert_eq!(config.batch.coalesce, Coalesce::Tag);
    let text = config.show_toml();
    let line = |key: &str| {
        text.lines()
            .find(|line| line.starts_with(key))
            .unwrap()
            .to_owned()
    };
    assert!(line("window").ends_with("# variable SHIPBELL_BATCH__WINDOW"));
    assert!(line("max_pushes").ends_with("shipbell.toml:3"));
    assert!(line("coalesce").ends_with("# built-in"));
}

#[test]
fn a_variable_is_read_by_its_keys_type_not_by_how_it_looks() {
    let environment = [
        ("SHIPBELL_REGISTRY__USERNAME", "true"),
        ("SHIPBELL_REGISTRY__PASSWORD", "12345"),
        ("SHIPBELL_DELIVERY__RATE", "0"),
        ("SHIPBELL_DELIVERY__USER_AGENT", "[1.0]"),
        ("SHIPBELL_DELIVERY__JITTER", "0"),
        ("SHIPBELL_FILTER__UNTAGGED", "true"),
        ("SHIPBELL_BATCH__MAX_PUSHES", "12"),
        ("SHIPBELL_INGEST__TOKENS", r#"["a", "1"]"#),
        ("SHIPBELL_ADMIN__PROXY__USER_HEADER", "1"),
        (
            "SHIPBELL_ENDPOINTS",
            r#"[{ name = "1", url = "http://ci/?a=b" }]"#,
        ),
    ];
    let config = load_with("", &environment).unwrap();
    let login = config.registry.login.as_ref().unwrap();
    assert_eq!(login.username, "true");
    assert_eq!(login.password.get().unwrap().expose_secret(), "12345");
    assert_eq!(config.delivery.rate, Rate { per_second: None });
    assert_eq!(config.delivery.user_agent, "[1.0]");
    assert!(config.delivery.jitter.abs() < f64::EPSILON);
    assert!(config.filter.untagged);
    assert_eq!(config.batch.pushes_max, 12);
    assert_eq!(config.ingest.tokens.len(), 2);
    assert_eq!(config.admin.proxy.user_header, "1");
    assert_eq!(&*config.endpoints.first().unwrap().name, "1");
}

#[test]
fn variables_that_set_nothing_are_problems_but_for_the_known_few() {
    let known = [
        ("SHIPBELL_CONFIG", ""),
        ("SHIPBELL_SERVICE_HOST", "10.0.0.1"),
        ("SHIPBELL_OPS_SERVICE_PORT_HTTP", "8582"),
        ("SHIPBELL_PORT", "tcp://10.0.0.1:8580"),
        ("SHIPBELL_PORT_8580_TCP_ADDR", "10.0.0.1"),
    ];
    assert!(load_with("", &known).is_ok());
    let unknown = [
        ("SHIPBELL_BATCH", "x"),
        ("SHIPBELL_ENDPOINTS__0__URL", "x"),
        ("SHIPBELL_INGEST_LISTEN", "x"),
        ("SHIPBELL_INGEST__TOKENS", "hunter2"),
        ("SHIPBELL_NONSENSE", "x"),
        ("SHIPBELL_batch__window", "1s"),
    ];
    let problems = problems_with("", &unknown);
    let expected = [
        ("batch", "section"),
        ("", "SHIPBELL_ENDPOINTS='[{"),
        ("", "did you mean SHIPBELL_INGEST__LISTEN?"),
        ("ingest.tokens", "write a list"),
        ("", "no key is set by SHIPBELL_NONSENSE"),
        ("batch.window", "write it SHIPBELL_BATCH__WINDOW"),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for ((found, (name, _)), (key, part)) in problems.iter().zip(unknown).zip(expected) {
        assert_eq!(
            (found.0.as_str(), found.1.as_str()),
            (key, format!("variable {name}").as_str())
        );
        assert!(found.2.contains(part), "{found:?}");
    }
}

#[test]
fn the_file_is_named_on_the_command_line_or_by_a_variable_and_then_has_to_be_there() {
    let (_one, one) = folder("data_dir = \"one\"");
    let (_two, two) = folder("data_dir = \"two\"");
    let variable = variables(&[("SHIPBELL_CONFIG", two.to_str().unwrap())]);
    assert_eq!(
        Config::load(None, variable.clone()).unwrap().data_dir,
        Path::new("two")
    );
    let config = Config::load(Some(&one), variable).unwrap();
    assert_eq!(
        (config.data_dir.as_path(), config.file.as_ref()),
        (Path::new("one"), Some(&one))
    );
    let missing = one.with_file_name("missing.toml");
    let problems = Config::load(Some(&missing), []).unwrap_err();
    let problem = problems.iter().next().unwrap();
    assert!(problem.message.contains("can't be read"));
    assert_eq!(
        problem.source,
        Source::File {
            path: missing,
            line: None
        }
    );
}

#[test]
fn every_problem_is_told_at_once_with_its_key_and_its_line() {
    let file = r#"
data_dir = 3
colour = "red"
ingest = { listen = "0.0.0.0:8582", max_body = "8MiB" }
[ops]
listn = "127.0.0.1:1"
[batch]
window = 5
max_pushes = 0
coalesce = "yes"
[journal]
segment_size = "4MiB"
max_size = "8MiB"
[registry]
url = "registry:5000"
password = 12345
[delivery]
retry_schedule = ["5s", "10"]
[[endpoints]]
name = "a:b"
url = "ftp://x"
formt = "native"
headers = { Host = "x", X-Ok = "y" }
[[endpoints]]
format = "harbor"
"#;
    let environment = [
        ("SHIPBELL_DELIVERY__JITTER", "2"),
        ("SHIPBELL_LOG__LEVEL", "inof"),
    ];
    let mut found: Vec<_> = problems_with(file, &environment)
        .into_iter()
        .map(|(key, source, _)| format!("{key} {}", source.trim_start_matches("shipbell.toml")))
        .collect();
    found.sort();
    let expected = [
        "batch.coalesce :10",
        "batch.max_pushes :9",
        "batch.window :8",
        "colour :3",
        "data_dir :2",
        "delivery.jitter variable SHIPBELL_DELIVERY__JITTER",
        "delivery.retry_schedule[1] :18",
        "endpoints[0].formt :22",
        "endpoints[0].headers.Host :23",
        "endpoints[0].name :20",
        "endpoints[0].url :21",
        "endpoints[1].format :25",
        "endpoints[1].name :24",
        "endpoints[1].url :24",
        "ingest.listen :4",
        "ingest.listen :4",
        "journal.max_size :13",
        "journal.segment_size :12",
        "log.level variable SHIPBELL_LOG__LEVEL",
        "ops.listn :6",
        "registry.password :16",
        "registry.url :15",
    ];
    assert_eq!(found, expected);
}

#[test]
fn syntax_errors_are_all_told_with_what_else_is_surely_wrong() {
    let file = "data_dir = \"x\n[ingest]\ntokens = [\"a\", hunter2]\nlisten = \"0.0.0.0:1\"\npath = 5\n[batch]\nwindow = 2s\n";
    let problems = problems_with(file, &[]);
    let lines: Vec<_> = problems
        .iter()
        .map(|(key, source, _)| (key.as_str(), source.as_str()))
        .collect();
    for line in ["shipbell.toml:1", "shipbell.toml:3", "shipbell.toml:7"] {
        assert!(lines.contains(&("", line)), "{lines:?}");
    }
    assert!(lines.contains(&("ingest.path", "shipbell.toml:5")));
    assert!(
        lines.iter().all(|(key, _)| ["", "ingest.path"].contains(key)),
        "{lines:?}"
    );
    assert!(!format!("{problems:?}").contains("hunter2"));
}

#[test]
fn a_torn_header_is_one_problem_and_what_follows_it_none() {
    for header in ["[[endpoints]", "[batch", "[ops]]", "[[", "[ops x]"] {
        let file = format!(
            "[ops]\nlisten = \"127.0.0.1:1\"\n{header}\nwindow = \"2s\"\n[size]\ndeadline = \"1s\"\n"
        );
        for (key, source, message) in problems_with(&file, &[]) {
            assert_eq!(
                (key.as_str(), source.as_str()),
                ("", "shipbell.toml:3"),
                "{message}"
            );
        }
    }
}

#[test]
fn an_unknown_key_says_which_was_meant() {
    refused(
        "[batch]\nwindov = \"1s\"",
        "batch.windov",
        2,
        "did you mean `batch.window`?",
    );
    refused("window = \"1s\"", "window", 1, "did you mean `batch.window`?");
    refused(
        "[[endpoint]]\nname = \"a\"",
        "endpoint",
        1,
        "did you mean `endpoints`?",
    );
    refused("[nonsense]\na = 1", "nonsense", 1, "there is no such key");
    refused("batch = 3", "batch", 1, "write [batch]");
    refused("endpoints = 3", "endpoints", 1, "write [[endpoints]]");
    refused("[ops]\nlisten = { a = 1 }", "ops.listen", 2, "write a string");
}

#[test]
fn values_of_the_wrong_type_or_out_of_range_say_what_is_right() {
    refused(
        "[filter]\nuntagged = \"true\"",
        "filter.untagged",
        2,
        "write true or false, not a string",
    );
    refused(
        "[filter]\nexclude_tags = \"a\"",
        "filter.exclude_tags",
        2,
        "write a list",
    );
    refused(
        "[filter]\nexclude_tags = [\n\"a\",\n1]",
        "filter.exclude_tags[1]",
        4,
        "write a string",
    );
    refused("[batch]\nmax_pushes = 1.5", "batch.max_pushes", 2, "whole number");
    refused(
        "[batch]\nmax_pushes = \"10\"",
        "batch.max_pushes",
        2,
        "whole number",
    );
    refused("[batch]\nmax_pushes = 99999999999999999999", "", 2, "64-bit");
    refused(
        "[ingest]\nmax_connections = -1",
        "ingest.max_connections",
        2,
        "from 1 to",
    );
    refused("[ingest]\nmax_body = 4096", "ingest.max_body", 2, "add a unit");
    refused(
        "[ingest]\nmax_body = \"1TiB\"",
        "ingest.max_body",
        2,
        "from \"1KiB\" to \"256MiB\"",
    );
    refused("[ingest]\npath = \"events\"", "ingest.path", 2, "begins with /");
}

#[test]
fn what_is_written_well_can_still_be_wrong_for_its_key() {
    refused(
        "[delivery]\nretry_schedule = []",
        "delivery.retry_schedule",
        2,
        "from 1 to 100",
    );
    refused(
        "[delivery]\nretry_schedule = [\"25h\"]",
        "delivery.retry_schedule[0]",
        2,
        "to \"1d",
    );
    refused("[delivery]\njitter = nan", "delivery.jitter", 2, "from 0 to 1");
    refused(
        "[delivery]\nprobe_first = \"2h\"\nprobe_max = \"1h\"",
        "delivery.probe_max",
        3,
        "probe_first",
    );
    refused(
        "[delivery]\nignore_after = \"0s\"",
        "delivery.ignore_after",
        2,
        "must be from",
    );
    refused(
        "[delivery]\nheader_name = \"Host\"",
        "delivery.header_name",
        2,
        "already has a meaning",
    );
    refused(
        "[delivery]\nheader_name = \"a b\"",
        "delivery.header_name",
        2,
        "not a header's name",
    );
    refused(
        "[delivery]\nuser_agent = \"a\\nb\"",
        "delivery.user_agent",
        2,
        "one line",
    );
    refused(
        "[delivery]\nallow_networks = [\"10.0.0.1/8\"]",
        "delivery.allow_networks[0]",
        2,
        "10.0.0.0/8",
    );
    refused(
        "[size]\nreconcile_every = \"1s\"",
        "size.reconcile_every",
        2,
        "at least \"1m\"",
    );
    refused(
        "[registry]\npublic_host = \"https://r\"",
        "registry.public_host",
        2,
        "write a host",
    );
    refused(
        "[filter]\nrepositories = []",
        "filter.repositories",
        2,
        "[\"**\"]",
    );
    refused(
        "[filter]\nrepositories = [\"a[\"]",
        "filter.repositories[0]",
        2,
        "not a pattern",
    );
    for right in [
        "off",
        "INFO",
        "warn,shipbell::registry=debug",
        "shipbell[{repository}]=trace",
    ] {
        assert_eq!(load(&format!("[log]\nlevel = \"{right}\"")).log.level, right);
    }
    refused(
        "[log]\nlevel = \"info,a=loud\"",
        "log.level",
        2,
        "write error, warn",
    );
    refused("[log]\nlevel = \"\"", "log.level", 2, "write error, warn");
}

#[test]
fn sections_are_held_against_each_other() {
    refused(
        "[ingest]\nlisten = \"0.0.0.0:1\"",
        "ingest.listen",
        2,
        "set ingest.tokens",
    );
    assert_eq!(
        load("[ingest]\nlisten = \"0.0.0.0:1\"\ntokens = [\"a\"]")
            .ingest
            .tokens
            .len(),
        1
    );
    assert!(
        load("[ingest]\nlisten = \"[::]:1\"\nallow_anonymous = true")
            .ingest
            .allow_anonymous
    );
    refused(
        "[admin]\nlisten = \"0.0.0.0:1\"",
        "admin.listen",
        2,
        "loopback only",
    );
    refused("[admin]\nauth = \"token\"", "admin.auth", 2, "admin.tokens");
    refused("[admin]\nauth = \"proxy\"", "admin.auth", 2, "trusted_networks");
    refused(
        "[ops]\nlisten = \"0.0.0.0:8580\"",
        "ops.listen",
        2,
        "ingest.listen and ops.listen have",
    );
    refused(
        "[admin]\nlisten = \"127.0.0.1:8582\"",
        "admin.listen",
        2,
        "ops.listen and admin.listen have",
    );
    let anywhere = "ingest.listen = \"127.0.0.1:0\"\nops.listen = \"127.0.0.1:0\"";
    assert_eq!(load(anywhere).ops.listen.port(), 0);
    refused(
        "[journal]\nsegment_size = \"4MiB\"",
        "journal.segment_size",
        2,
        "\"4160KiB\"",
    );
    assert_eq!(
        load("[journal]\nsegment_size = \"4160KiB\"").journal.segment_size,
        4160 << 10
    );
    refused(
        "[journal]\nmax_size = \"63MiB\"",
        "journal.max_size",
        2,
        "\"64MiB\"",
    );
    refused(
        "[registry]\nusername = \"u\"",
        "registry.username",
        2,
        "password is missing",
    );
    refused(
        "[registry]\npassword = \"p\"",
        "registry.password",
        2,
        "username is missing",
    );
}

fn endpoint(keys: &str) -> String {
    format!("[[endpoints]]\nname = \"a\"\nurl = \"http://127.0.0.1:1/\"\n{keys}")
}

#[test]
fn an_endpoint_cannot_have_what_does_not_go() {
    let one = |keys: &str, key: &str, part: &str| {
        refused(&endpoint(keys), &format!("endpoints[0].{key}"), 4, part);
    };
    one("repositories = []", "repositories", "[\"**\"]");
    one("tags = []", "tags", "[\"**\"]");
    one("secret = \"hunter2\"", "secret", "openssl rand -base64 32");
    one(
        &format!("previous_secret = \"{SECRET}\""),
        "previous_secret",
        "no secret",
    );
    one("format = \"harbor\"", "format", "not there yet");
    one("format = \"xml\"", "format", "\"native\" only");
    one("max_pushes = 0", "max_pushes", "from 1");
    one("rate = \"fast\"", "rate", "not a rate");
    one("proxy = \"ftp://p:1\"", "proxy", "socks5://");
    one("proxy = \"https://p:1\"", "proxy", "not supported");
    one("secret = \"whsk_AAAA\"", "secret", "3 bytes");
    one("username = \"u\"", "username", "password is missing");
    one(
        "client_cert_file = \"/nowhere\"",
        "client_cert_file",
        "can't be read",
    );
    one("rates = \"1/s\"", "rates", "did you mean `rate`?");
    one(
        "username = \"u\"\npassword = \"p\"\nbearer_token = \"b\"",
        "username",
        "one Authorization",
    );
    for name in [
        "Host",
        "content-length",
        "Content-Type",
        "Connection",
        "Transfer-Encoding",
        "User-Agent",
        "webhook-anything",
        "X-Alin-Webhook",
        "x-shipbell-reconciled",
    ] {
        one(
            &format!("headers = {{ {name} = \"x\" }}"),
            &format!("headers.{name}"),
            "set",
        );
    }
    one(
        "headers = { \"a b\" = \"x\" }",
        "headers.a b",
        "not a header's name",
    );
    one("headers = { a = \"x\\ny\" }", "headers.a", "one line");
    let two = format!(
        "{}\n[[endpoints]]\nname = \"a\"\nurl = \"http://b\"",
        endpoint("")
    );
    refused(&two, "endpoints[1].name", 6, "endpoints[0].name is the same");
}

#[test]
fn an_endpoint_overrides_batching_and_rate_and_leaves_the_rest() {
    let file = format!(
        "{}\n[[endpoints]]\nname = \"b\"\nurl = \"https://b/?token=x\"\nsecret = \"{SECRET}\"\n\
         repositories = [\"acme/**\"]\nexclude_tags = [\"dev-*\"]\n[delivery]\nrate = \"0\"\n",
        endpoint(
            "window = \"0s\"\nmax_pushes = 1\ncoalesce = \"none\"\nrate = \"60/m\"\nheaders = { X-A = \"b\" }"
        )
    );
    let endpoints = load(&file).endpoints();
    let all: Vec<_> = endpoints.named().to_vec();
    let [a, b] = all.as_slice() else {
        panic!("two endpoints")
    };
    assert_eq!(a.id.to_string(), "a");
    assert_eq!(a.batching.window, Duration::ZERO);
    assert_eq!((a.batching.pushes_max, a.batching.coalesce), (1, Coalesce::None));
    assert_eq!(
        a.rate,
        Rate {
            per_second: Some(1.0)
        }
    );
    assert!(
        a.headers
            .iter()
            .all(|(name, value)| name == "x-a" && value.is_sensitive())
    );
    assert_eq!(b.batching.window, Duration::from_secs(2));
    assert_eq!(b.rate, Rate { per_second: None });
    assert_eq!(b.url.get().unwrap().expose_secret(), "https://b/?token=x");
    let wants = |repository: &str, tag: Option<&str>| {
        let tag = tag.map(|tag| tag.parse::<Tag>().unwrap());
        b.wants(&repository.parse::<RepositoryName>().unwrap(), tag.as_ref())
    };
    assert!(wants("acme/app", Some("1.4")));
    assert!(wants("acme/app/tools", None));
    assert!(!wants("acme/app", Some("dev-1")));
    assert!(!wants("other/app", Some("1.4")));
}

#[test]
fn a_secret_comes_from_one_place_and_its_file_is_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let [password, token, url] = [
        file("password", "12345\n"),
        file("token", "abc\n"),
        file("url", "https://ci/?t=1\n"),
    ];
    let config = load(&format!(
        "[registry]\nusername = \"u\"\npassword_file = \"{password}\"\n[ingest]\ntokens = [\"one\"]\n\
         token_files = [\"{token}\"]\n[[endpoints]]\nname = \"a\"\nurl_file = \"{url}\"\n"
    ));
    let login = config.registry.login.as_ref().unwrap();
    assert_eq!(login.password.get().unwrap().expose_secret(), "12345");
    assert_eq!(config.ingest.tokens.len(), 2);
    let endpoint = config.endpoints.first().unwrap();
    assert_eq!(endpoint.url.get().unwrap().expose_secret(), "https://ci/?t=1");

    let both = format!("[registry]\nusername = \"u\"\npassword = \"p\"\npassword_file = \"{password}\"");
    refused(&both, "registry.password", 3, "not both");
    let empty = file("empty", "\n");
    refused(
        &format!("[ingest]\ntoken_files = [\"{empty}\"]"),
        "ingest.token_files[0]",
        2,
        "it is empty",
    );
    refused(
        &format!("[ingest]\ntls_cert_file = \"{token}\""),
        "ingest.tls_cert_file",
        2,
        "no PEM certificate",
    );
    refused(
        &format!("[delivery]\nca_file = \"{token}\""),
        "delivery.ca_file",
        2,
        "no PEM certificate",
    );
}

#[test]
fn a_certificate_and_its_key_come_together() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let [cert_line, key_line] = [("cert", &cert), ("key", &key)]
        .map(|(name, path)| format!("tls_{name}_file = \"{}\"\n", path.display()));
    let tls = load(&format!("[ops]\n{cert_line}{key_line}")).ops.tls;
    assert_eq!(
        tls,
        Some(Tls {
            cert_file: cert.clone(),
            key_file: key
        })
    );
    refused(
        &format!("[ops]\n{cert_line}"),
        "ops.tls_cert_file",
        2,
        "belong together",
    );
    let swapped = format!("[ops]\n{cert_line}tls_key_file = \"{}\"", cert.display());
    refused(&swapped, "ops.tls_key_file", 3, "no PEM private key");
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
         bearer_token = \"hunter-bearer\"\nproxy = \"http://u:hunter-proxy@p:1\"\n"
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
