//! `[[endpoints]]`, and the files that they name.

use super::*;

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
    one("ca_file = \"/nowhere\"", "ca_file", "can't be read");
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
fn a_header_in_a_file_is_read_at_once_and_is_set_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (good, empty, lines) = (
        path("good", "hunter2\n"),
        path("empty", "\n"),
        path("lines", "a\nb"),
    );
    let with = |text: &str| endpoint(&format!("header_files = {text}"));
    let file = with(&format!("{{ X-Token = \"{good}\" }}"));
    let endpoints = load(&file).endpoints();
    let way = endpoints.named()[0].way.clone().unwrap();
    let (name, value) = &way.header_files[0];
    assert_eq!(
        (name.as_str(), value.get().unwrap().expose_secret()),
        ("x-token", "hunter2")
    );
    for (text, key, message) in [
        (
            "{ X-Token = \"/nonexistent/x\" }".to_owned(),
            "header_files.x-token",
            "can't be read",
        ),
        (
            format!("{{ X-Token = \"{empty}\" }}"),
            "header_files.x-token",
            "it is empty",
        ),
        (
            format!("{{ X-Token = \"{lines}\" }}"),
            "header_files.x-token",
            "line break",
        ),
        (
            format!("{{ Host = \"{good}\" }}"),
            "header_files.host",
            "sets host itself",
        ),
        (
            format!("{{ X = \"{good}\", x = \"{good}\" }}"),
            "header_files.x",
            "here twice",
        ),
        (
            format!("{{ X-A = \"{good}\" }}\nheaders = {{ x-a = \"b\" }}"),
            "header_files.x-a",
            "set it in one place",
        ),
        (
            format!("{{ Authorization = \"{good}\" }}\nbearer_token_file = \"{good}\""),
            "bearer_token_file",
            "one Authorization header",
        ),
        (format!("\"{good}\""), "header_files", "names and files"),
    ] {
        let problems = problems_with(&with(&text), &[]);
        let [(at, _, said)] = problems.as_slice() else {
            panic!("{text}: {problems:?}")
        };
        assert_eq!(at.to_lowercase(), format!("endpoints[0].{key}"), "{problems:?}");
        assert!(said.contains(message) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn the_public_host_is_as_it_is_written_and_hosts_of_events_are_in_lower_case() {
    let config =
        load("[registry]\npublic_host = \"Hub.Example:5000\"\naccept_hosts = [\"Hub.Example:5000\"]");
    assert_eq!(config.registry.public_host.as_deref(), Some("Hub.Example:5000"));
    assert_eq!(config.registry.accept_hosts, ["hub.example:5000"]);
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
        &format!("[delivery]\nca_file = \"{token}\""),
        "delivery.ca_file",
        2,
        "no PEM certificate",
    );
}

#[test]
fn what_a_file_says_that_would_not_be_taken_at_a_start_keeps_what_it_said_before() {
    const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("url", "https://ci/?t=1\n");
    write("secret", SECRET);
    write("previous", OTHER);
    let config = load(&format!(
        "[[endpoints]]\nname = \"a\"\nurl_file = \"{}\"\nsecret_file = \"{}\"\nprevious_secret_file = \"{}\"\n",
        path("url"),
        path("secret"),
        path("previous"),
    ));
    let endpoint = config.endpoints.first().unwrap();
    let now = |secret: &crate::secret::Secret| secret.get().unwrap().expose_secret().to_owned();
    let all = || {
        let signing = [&endpoint.secret, &endpoint.previous_secret];
        let [secret, previous] = signing.map(|secret| now(secret.as_ref().unwrap()));
        [now(&endpoint.url), secret, previous]
    };
    for torn in ["", "http", "whsec_MDEy"] {
        for name in ["url", "secret", "previous"] {
            write(name, torn);
        }
        assert_eq!(all(), ["https://ci/?t=1", SECRET, OTHER], "{torn:?}");
    }
    write("url", "https://ci/?t=2\n");
    write("secret", OTHER);
    write("previous", SECRET);
    assert_eq!(all(), ["https://ci/?t=2", OTHER, SECRET]);
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
    // What can't serve is told now, and not once the journal is open.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let foreign = folder.path().join("foreign.pem");
    fs::write(&foreign, other.signing_key.serialize_pem()).unwrap();
    let mixed = format!("[ops]\n{cert_line}tls_key_file = \"{}\"", foreign.display());
    refused(
        &mixed,
        "ops.tls_cert_file",
        2,
        "the key in tls_key_file can't be used",
    );
    let hollow = folder.path().join("hollow.pem");
    fs::write(
        &hollow,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let hollow = hollow.display();
    for section in ["registry", "delivery"] {
        refused(
            &format!("[{section}]\nca_file = \"{hollow}\""),
            &format!("{section}.ca_file"),
            2,
            "can't be used",
        );
    }
    refused(
        &endpoint(&format!("ca_file = \"{hollow}\"")),
        "endpoints[0].ca_file",
        4,
        "can't be used",
    );
    let swapped = format!("[ops]\n{cert_line}tls_key_file = \"{}\"", cert.display());
    refused(&swapped, "ops.tls_key_file", 3, "no PEM private key");
}
