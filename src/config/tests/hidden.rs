//! What one mistake hides, and what is told beside it.

use super::*;

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
fn a_mistake_of_the_file_as_a_whole_is_told_once_with_what_it_hides() {
    let file = "foo = 1\n[foo.bar]\nx = 1\n[[endpoints]]\nname = \"a\"\nbogus = 1\n[batch]\nwindow = \"x\"\n";
    let problems = problems_with(file, &[]);
    let whole: Vec<_> = problems.iter().filter(|(key, ..)| key.is_empty()).collect();
    assert_eq!(whole.len(), 1, "{problems:?}");
    assert_eq!(whole[0].1, "shipbell.toml:2");
    let hidden = "keys that there aren't, and what is missing or doesn't go together, are looked for once the file is valid";
    assert!(whole[0].2.ends_with(hidden), "{}", whole[0].2);
    assert!(
        problems.iter().any(|(key, ..)| key == "batch.window"),
        "{problems:?}"
    );

    let file = "[batch]\nwindow = 2s\nwindov = 1\nmax_pushes = 1x\n";
    let problems = problems_with(file, &[]);
    let hints = problems
        .iter()
        .filter(|(.., message)| message.contains("doesn't go together"));
    assert_eq!(hints.count(), 1, "{problems:?}");
    assert!(
        problems.iter().any(|(key, ..)| key == "batch.windov"),
        "{problems:?}"
    );
}

#[test]
fn tokens_of_one_name_are_told_though_another_thing_is_wrong_with_them() {
    let token = |name: &str, role: &str| {
        format!("[[admin.tokens]]\nname = \"{name}\"\nrole = \"{role}\"\ntoken = \"a-token-of-{name}\"\n")
    };
    let file = format!(
        "{}{}{}",
        token("a", "admin"),
        token("b", "bogus"),
        token("a", "viewer")
    );
    let found: Vec<_> = problems_with(&file, &[])
        .into_iter()
        .map(|(key, ..)| key)
        .collect();
    assert_eq!(found, ["admin.tokens[1].role", "admin.tokens[2].name"]);
}

#[test]
fn a_quote_that_is_missing_is_told_once_and_not_what_it_hides() {
    let list = "[ingest]\ntokens = [\"abc]\n[registry]\n\n# a comment\nurl = \"http://127.0.0.1:5000\"\n[batch]\nwindow = \"x\"\n";
    let problems = problems_with(list, &[]);
    let [(key, source, message)] = &problems[..] else {
        panic!("{problems:?}")
    };
    assert_eq!((key.as_str(), source.as_str()), ("", "shipbell.toml:2"));
    assert!(message.contains("expected `\"`"), "{message}");

    let value = "[[endpoints]]\nname = ci\"\nurl = \"http://a.example/\n[batch]\nwindow = \"x\"\n";
    let problems = problems_with(value, &[]);
    let sources: Vec<_> = problems.iter().map(|(_, source, _)| source.as_str()).collect();
    assert_eq!(
        sources,
        ["shipbell.toml:2", "shipbell.toml:3", "shipbell.toml:5"],
        "{problems:?}"
    );

    // An item is missing its comma, and further down something else is wrong.
    let two =
        "[ingest]\ntokens = [\n  \"a-long-enough-token\"\n  \"another-long-token\"\n]\nmax_pending = 1x\n";
    let problems = problems_with(two, &[]);
    let sources: Vec<_> = problems.iter().map(|(_, source, _)| source.as_str()).collect();
    assert_eq!(sources, ["shipbell.toml:4", "shipbell.toml:6"], "{problems:?}");
}

#[test]
fn what_an_empty_table_lacks_is_told_where_it_stands() {
    let problems = problems_with("[batch]\n[[endpoints]]\n", &[]);
    let told: Vec<_> = problems
        .iter()
        .map(|(key, source, _)| (key.as_str(), source.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("endpoints[0].name", "shipbell.toml:2"),
            ("endpoints[0].url", "shipbell.toml:2")
        ]
    );
}

#[test]
fn what_is_wrong_with_one_key_hides_nothing_about_those_beside_it() {
    let file = r#"
[ingest]
tls_cert_file = "nowhere.pem"
[admin]
listen = "0.0.0.0:8581"
[admin.proxy]
user_header = "a b"
[[admin.tokens]]
name = "a"
token = "0123456789abcdef"
role = "nobody"
[registry]
url = "/v2/"
[[endpoints]]
name = "ci"
url = "https://ci.example.com/"
username = "ann"
bearer_token = "0123456789abcdef"
"#;
    let mut found: Vec<_> = problems_with(file, &[])
        .into_iter()
        .map(|(key, source, message)| {
            (
                format!("{key} {}", source.trim_start_matches("shipbell.toml")),
                message,
            )
        })
        .collect();
    found.sort();
    let expected = [
        ("admin.listen :5", "for loopback only"),
        ("admin.proxy.user_header :7", "header"),
        ("admin.tokens[0].role :11", "viewer"),
        ("endpoints[0].username :17", "its password is missing"),
        ("endpoints[0].username :17", "one Authorization header"),
        ("ingest.tls_cert_file :3", "No such file"),
        ("ingest.tls_cert_file :3", "tls_key_file is missing"),
        ("registry.url :13", "such as \"http://127.0.0.1:5000\""),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((place, message), (wanted, words)) in found.iter().zip(expected) {
        assert_eq!(place, wanted, "{found:#?}");
        assert!(message.contains(words), "{place}: {message}");
    }
}

#[test]
fn what_can_not_be_read_at_all_is_not_said_to_be_missing() {
    refused(
        "[admin]\nauth = \"proxy\"\nproxy = \"10.0.0.0/8\"",
        "admin.proxy",
        3,
        "write [admin.proxy]",
    );
}
