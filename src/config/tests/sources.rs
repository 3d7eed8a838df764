//! Where a value comes from: built in, the file, a variable.

use super::*;

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
fn a_variable_is_passed_over_as_kubernetes_own_by_what_it_holds_and_not_by_its_name_alone() {
    let kubernetes = [
        ("SHIPBELL_SERVICE_HOST", "fd00::1"),
        ("SHIPBELL_SERVICE_PORT", "8580"),
        ("SHIPBELL_OPS_SERVICE_PORT", "8582"),
        ("SHIPBELL_SERVICE_PORT_INGEST_TLS", "8580"),
        ("SHIPBELL_PORT", "tcp://[fd00::1]:8580"),
        ("SHIPBELL_PORT_8580_TCP", "tcp://10.0.0.1:8580"),
        ("SHIPBELL_PORT_8580_TCP_PROTO", "tcp"),
        ("SHIPBELL_PORT_8580_TCP_PORT", "8580"),
        ("SHIPBELL_PORT_8580_TCP_ADDR", "10.0.0.1"),
        ("SHIPBELL_IN_PORT_OUT_PORT_53_UDP", "udp://10.0.0.1:53"),
        ("SHIPBELL_PORT_9_SCTP", "sctp://10.0.0.1:9"),
    ];
    assert!(load_with("", &kubernetes).is_ok());
    let meant = [
        ("SHIPBELL_INGEST_PORT", "9000"),
        ("SHIPBELL_INGEST_PORT", "http://10.0.0.1:9000"),
        ("SHIPBELL_INGEST_PORT", "tcp://10.0.0.1"),
        ("SHIPBELL_INGEST_SERVICE_HOST", "localhost"),
        ("SHIPBELL_INGEST_SERVICE_PORT", "0.0.0.0:9000"),
        ("SHIPBELL_INGEST_SERVICE_PORTS", "9000"),
        ("SHIPBELL_INGEST_PORT_9000_TCP", "9000"),
        ("SHIPBELL_INGEST_PORT_9000_TCP_ADDR", "any"),
        ("SHIPBELL_INGEST_PORT_9000_TCP_MORE", "9000"),
    ];
    for variable in meant {
        let problems = problems_with("", &[variable]);
        let [(_, _, message)] = problems.as_slice() else {
            panic!("not one problem: {variable:?}: {problems:#?}");
        };
        let words = format!("no key is set by {}", variable.0);
        assert!(message.starts_with(&words), "{variable:?}: {message}");
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
