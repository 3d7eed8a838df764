//! What is wrong is told: all of it at once, with its key, its place, and what would be right.

use super::*;

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
fn a_registry_is_named_by_its_host() {
    for (key, value, at, said) in [
        ("public_host", "'https://r'", "", "write a host"),
        (
            "accept_hosts",
            "['*.example.com']",
            "[0]",
            "no patterns here; write a host",
        ),
        ("url", "'http:///127.0.0.1:5000'", "", "two slashes and a host"),
    ] {
        refused(
            &format!("[registry]\n{key} = {value}"),
            &format!("registry.{key}{at}"),
            2,
            said,
        );
    }
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
    refused(
        "[delivery]\njitter = nan",
        "delivery.jitter",
        2,
        "from 0 to less than 1",
    );
    refused(
        "[delivery]\njitter = 1",
        "delivery.jitter",
        2,
        "from 0 to less than 1",
    );
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

#[test]
fn a_header_that_shipbell_or_credentials_set_can_not_name_the_image() {
    for name in [
        "authorization",
        "Host",
        "content-length",
        "Webhook-Id",
        "user-agent",
        "Content-Encoding",
        "cookie",
    ] {
        refused(
            &format!("[delivery]\nheader_name = \"{name}\""),
            "delivery.header_name",
            2,
            "already has a meaning",
        );
    }
    // A wrong one is held against no endpoint.
    let file = "[delivery]\nheader_name = \"X y\"\n[[endpoints]]\nname = \"a\"\nurl = \"http://a/\"\nheaders = { X = 5 }\n";
    let found = problems_with(file, &[]);
    let keys: Vec<_> = found.iter().map(|(key, ..)| key.as_str()).collect();
    assert_eq!(
        keys,
        ["delivery.header_name", "endpoints[0].headers.X"],
        "{found:?}"
    );
    assert!(!found[1].2.contains("itself"), "{}", found[1].2);
}

#[test]
fn urls_of_our_own_listeners_are_refused_where_the_configuration_tells() {
    for (url, listen) in [
        ("http://127.0.0.1:8580/events", ""),
        ("http://localhost:8582/", ""),
        (
            "http://127.0.0.1:9000/",
            "listen = \"0.0.0.0:9000\"\nallow_anonymous = true",
        ),
    ] {
        let file = format!("[ingest]\n{listen}\n[[endpoints]]\nname = \"a\"\nurl = \"{url}\"");
        let line = file.lines().count();
        refused(&file, "endpoints[0].url", line, "shipbell's own listener");
        let file = format!("[ingest]\n{listen}\n[alerts]\nurl = \"{url}\"");
        let line = file.lines().count();
        refused(&file, "alerts.url", line, "shipbell's own listener");
    }
    load("[[endpoints]]\nname = \"a\"\nurl = \"http://127.0.0.1:8583/\"");
}

#[test]
fn user_info_in_a_url_goes_with_no_other_credentials() {
    let endpoint = |more: &str| format!("[[endpoints]]\nname = \"a\"\nurl = \"http://u:hunter2@a/\"\n{more}");
    for (more, key) in [
        ("bearer_token = \"t\"", "bearer_token"),
        ("username = \"u\"\npassword = \"p\"", "username"),
        ("headers = { Authorization = \"x\" }", "url"),
    ] {
        let problems = problems_with(&endpoint(more), &[]);
        let keys: Vec<_> = problems.iter().map(|(key, ..)| key.as_str()).collect();
        assert_eq!(keys, [format!("endpoints[0].{key}")], "{problems:?}");
        assert!(problems[0].2.contains("one Authorization header"), "{problems:?}");
        assert!(!format!("{problems:?}").contains("hunter2"));
    }
    load(&endpoint(""));
}
