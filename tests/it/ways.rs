//! Ways to an endpoint: private authorities, client certificates, credentials, proxies. All as they stand in their
//! files at each attempt.

use std::{fs, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::support::{
    SOON, envelope, eventually, folder,
    proxy::TestProxy,
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
    story,
    tls::{Authority, TlsReceiver, server_config},
};

/// An endpoint with these settings beside its URL, and quick retries.
fn config(url: &str, settings: &str) -> Config {
    Config::without_registry().with(&format!(
        "batch.window = '0s'\n[delivery]\nretry_schedule = ['100ms']\njitter = 0.0\n\
         [[endpoints]]\nname = 'hook'\nrepositories = ['**']\nurl = '{url}'\n{settings}"
    ))
}

fn take(shipbell: &Shipbell, tag: &str) {
    shipbell.take(envelope::one("acme/app", tag));
}

/// Waits until an attempt to deliver the image failed for a reason that holds `words`.
fn wait_for_reason(shipbell: &Shipbell, tag: &str, words: &str) {
    let data = shipbell.data();
    eventually(&format!("{tag} fails: {words}"), SOON, || {
        let push = story::push(&format!("acme/app:{tag}"), &data)?;
        let attempts = push["deliveries"].get(0)?["attempts"].as_array()?;
        let is_so = |reason: &str| reason.contains(words);
        let mut failed = attempts.iter().filter(|attempt| attempt["fault"] == "endpoint");
        failed
            .any(|attempt| attempt["reason"].as_str().is_some_and(is_so))
            .then_some(())
    });
}

fn wait_for_delivery(shipbell: &Shipbell, tag: &str) {
    wait_for_deliveries(shipbell, tag, 1);
}

/// Waits until so many are written down.
fn wait_for_deliveries(shipbell: &Shipbell, tag: &str, count: usize) {
    let data = shipbell.data();
    eventually(&format!("{tag} is delivered"), SOON, || {
        let push = story::push(&format!("acme/app:{tag}"), &data)?;
        let deliveries = push["deliveries"].as_array()?.iter();
        let delivered = deliveries.filter(|delivery| delivery["state"] == "delivered");
        (delivered.count() >= count).then_some(())
    });
}

/// All that is written down, in its file and ahead of it.
fn history(shipbell: &Shipbell) -> Vec<u8> {
    let read = |name: &str| fs::read(shipbell.data().join(name)).unwrap();
    let history = [read("catalog.db"), read("catalog.db-wal")].concat();
    let is_there = history.windows(8).any(|window| window == b"acme/app");
    assert!(is_there, "the history is empty");
    history
}

#[test]
fn a_private_authority_is_trusted_by_its_endpoint_and_read_again_when_it_changes() {
    let folder = folder();
    let ca_file = folder.path().join("ca.pem");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let receiver = TlsReceiver::start(server_config(&new.certify("127.0.0.1", |_| {}), None));
    fs::write(&ca_file, &old.pem).unwrap();
    let url = receiver.url("/hook");
    let config = config(&url, &format!("ca_file = '{}'", ca_file.display()));
    let shipbell = Shipbell::start(config);
    take(&shipbell, "1");
    wait_for_reason(&shipbell, "1", "certificate signed by an unknown authority");
    fs::write(&ca_file, format!("{}{}", old.pem, new.pem)).unwrap();
    wait_for_delivery(&shipbell, "1");
    fs::write(&ca_file, "half writ").unwrap();
    take(&shipbell, "2");
    wait_for_delivery(&shipbell, "2");
    assert!(shipbell.log().contains("the changed certificates can't be used"));
}

#[test]
fn a_server_that_signs_itself_is_trusted_where_its_certificate_is_listed() {
    let folder = folder();
    let ca_file = folder.path().join("ca.pem");
    // As `openssl req -x509` makes it: an authority's, and a server's.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own = params.self_signed(&key).unwrap();
    let pem = own.pem();
    let receiver = TlsReceiver::start(server_config(&(own, key), None));
    fs::write(&ca_file, &Authority::new("another").pem).unwrap();
    let settings = format!("ca_file = '{}'", ca_file.display());
    let shipbell = Shipbell::start(config(&receiver.url("/hook"), &settings));
    take(&shipbell, "1");
    wait_for_reason(&shipbell, "1", "certificate is an authority's own");
    fs::write(&ca_file, pem).unwrap();
    wait_for_delivery(&shipbell, "1");
}

#[test]
fn a_client_certificate_is_shown_and_the_renewed_one_at_the_next_attempt() {
    let folder = folder();
    let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = server_config(&authority.certify("127.0.0.1", |_| {}), Some(&clients));
    let receiver = TlsReceiver::start(server);
    let ca_file = folder.path().join("ca.pem");
    fs::write(&ca_file, &authority.pem).unwrap();
    // One that the receiver does not take.
    let (cert_file, key_file) = Authority::new("others").write_client(folder.path());
    let settings = format!(
        "client_cert_file = '{}'\nclient_key_file = '{}'",
        cert_file.display(),
        key_file.display()
    );
    let for_all = format!("delivery.ca_file = '{}'", ca_file.display());
    let shipbell = Shipbell::start(config(&receiver.url("/hook"), &settings).with(&for_all));
    take(&shipbell, "1");
    wait_for_reason(&shipbell, "1", "TLS: the receiver refused the handshake");
    assert!(receiver.heads().is_empty());
    clients.write_client(folder.path());
    wait_for_delivery(&shipbell, "1");
    assert_eq!(receiver.heads().len(), 1);
}

#[test]
fn credentials_are_those_that_stand_in_their_files_and_are_shown_nowhere() {
    let folder = folder();
    let [password, token, key] = ["password", "token", "key"].map(|name| folder.path().join(name));
    fs::write(&password, "canary-pass-1\n").unwrap();
    fs::write(&token, "canary-token-1\n").unwrap();
    fs::write(&key, "canary-key-1\n").unwrap();
    let repeats = |request: &crate::support::receiver::Request| {
        Answer::With(
            200,
            vec![
                format!("X-You-Said: {}", request.header("authorization")),
                format!("X-Your-Key: {}", request.find_header("x-key").unwrap_or_default()),
            ],
        )
    };
    let (basic, bearer) = (Receiver::scripted(repeats), Receiver::scripted(repeats));
    let settings = format!(
        "username = 'me'\npassword_file = '{}'\n\
         [[endpoints]]\nname = 'bearer'\nrepositories = ['**']\nurl = '{}'\nbearer_token_file = '{}'\n\
         header_files = {{ X-Key = '{}' }}",
        password.display(),
        bearer.url("/hook"),
        token.display(),
        key.display()
    );
    let shipbell = Shipbell::start(config(&basic.url("/hook"), &settings));
    for round in 1..=2 {
        fs::write(&password, format!("canary-pass-{round}")).unwrap();
        fs::write(&token, format!("canary-token-{round}")).unwrap();
        fs::write(&key, format!("canary-key-{round}")).unwrap();
        take(&shipbell, &round.to_string());
        let sent = basic.wait_for(round, SOON).remove(round - 1);
        let expected = BASE64_STANDARD.encode(format!("me:canary-pass-{round}"));
        assert_eq!(sent.header("authorization"), format!("Basic {expected}"));
        let sent = bearer.wait_for(round, SOON).remove(round - 1);
        assert_eq!(
            sent.header("authorization"),
            format!("Bearer canary-token-{round}")
        );
        assert_eq!(sent.header("x-key"), format!("canary-key-{round}"));
        wait_for_deliveries(&shipbell, &round.to_string(), 2);
    }
    let history = history(&shipbell);
    let mut shown = [shipbell.log(), shipbell.ops("/metrics").text()]
        .concat()
        .into_bytes();
    shown.extend(history);
    for canary in [
        "canary-pass",
        "canary-token",
        "canary-key",
        BASE64_STANDARD.encode("me:canary").get(..10).unwrap(),
    ] {
        let is_shown = shown
            .windows(canary.len())
            .any(|window| window == canary.as_bytes());
        assert!(!is_shown, "{canary}");
    }
}

#[test]
fn http_proxies_resolve_names_and_carry_http_and_https() {
    let proxy = TestProxy::http();
    let plain = Receiver::start();
    let authority = Authority::new("servers");
    let encrypted = TlsReceiver::start(server_config(&authority.certify("hook.invalid", |_| {}), None));
    let folder = folder();
    let ca_file = folder.path().join("ca.pem");
    fs::write(&ca_file, &authority.pem).unwrap();
    // The name exists nowhere: who resolves it is the proxy.
    let settings = format!(
        "[[endpoints]]\nname = 'encrypted'\nrepositories = ['**']\nurl = 'https://hook.invalid:{}/hook'\nca_file = '{}'\n\
         [[endpoints]]\nname = 'direct'\nrepositories = ['**']\nurl = '{}'\nproxy = 'direct'",
        encrypted.port(),
        ca_file.display(),
        plain.url("/direct"),
    );
    let url = format!("http://hook.invalid:{}/hook?token=1", plain.port());
    let for_all = format!(
        "delivery.proxy = 'http://user:hunter2@127.0.0.1:{}'",
        proxy.port()
    );
    let shipbell = Shipbell::start(config(&url, &settings).with(&for_all));
    take(&shipbell, "1");
    let mut lines: Vec<String> = plain
        .wait_for(2, SOON)
        .iter()
        .map(|request| request.line().to_owned())
        .collect();
    lines.sort();
    assert_eq!(lines, ["POST /direct HTTP/1.1", "POST /hook?token=1 HTTP/1.1"]);
    eventually("the one by TLS", SOON, || encrypted.heads().pop());

    let mut asked = proxy.asked();
    asked.sort();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[0].starts_with(&format!("CONNECT hook.invalid:{} HTTP/1.1\r\n", encrypted.port())));
    assert!(asked[1].starts_with(&format!("POST {url} HTTP/1.1\r\n")));
    let login = BASE64_STANDARD.encode("user:hunter2");
    let header = format!("\r\nproxy-authorization: basic {}\r\n", login.to_lowercase());
    for head in &asked {
        assert!(head.to_lowercase().contains(&header), "{head}");
    }
    assert!(encrypted.heads().iter().all(|head| !head.contains(&login)));
    wait_for_deliveries(&shipbell, "1", 3);
    let history = history(&shipbell);
    for secret in ["hunter2", &login] {
        assert!(!shipbell.log().contains(secret));
        assert!(
            !history
                .windows(secret.len())
                .any(|window| window == secret.as_bytes())
        );
    }
}

#[test]
fn a_socks_proxy_resolves_names_and_its_login_is_read_again() {
    let proxy = TestProxy::socks();
    let receiver = Receiver::start();
    let folder = folder();
    let file = folder.path().join("proxy");
    fs::write(&file, format!("socks5://user:wrong@127.0.0.1:{}", proxy.port())).unwrap();
    let url = format!("http://hook.invalid:{}/hook", receiver.port());
    let shipbell = Shipbell::start(config(&url, &format!("proxy_file = '{}'", file.display())));
    take(&shipbell, "1");
    let words = format!(
        "the proxy socks5://127.0.0.1:{} refuses the user's name or the password",
        proxy.port()
    );
    wait_for_reason(&shipbell, "1", &words);
    fs::write(
        &file,
        format!("socks5://user:hunter2@127.0.0.1:{}\n", proxy.port()),
    )
    .unwrap();
    wait_for_delivery(&shipbell, "1");
    assert_eq!(proxy.asked(), [format!("hook.invalid:{}", receiver.port())]);
    assert_eq!(receiver.requests().len(), 1);
    let log = shipbell.log();
    assert!(!log.contains("hunter2") && !log.contains("wrong"), "{log}");
}

#[test]
fn a_proxy_that_is_down_is_the_endpoints_failure_and_told_from_the_endpoint() {
    let receiver = Receiver::start();
    let port = crate::support::ports::free();
    let settings = format!("proxy = 'http://user:hunter2@127.0.0.1:{port}'");
    let shipbell = Shipbell::start(config(&receiver.url("/hook"), &settings));
    take(&shipbell, "1");
    let words = format!("the proxy http://127.0.0.1:{port} can't be reached: connection refused");
    wait_for_reason(&shipbell, "1", &words);
    assert!(shipbell.log().contains("fault=endpoint"));
    assert!(!shipbell.log().contains("hunter2"));
    assert!(receiver.requests().is_empty());
    let metrics = shipbell.ops("/metrics").text();
    let counted = metrics
        .lines()
        .any(|line| line.starts_with("shipbell_attempts_total{result=\"proxy\"} "));
    assert!(counted, "{metrics}");
}

#[test]
fn addresses_in_urls_are_judged_with_a_proxy_too() {
    let proxy = TestProxy::http();
    let folder = folder();
    let url_file = folder.path().join("url");
    fs::write(&url_file, "http://127.0.0.1:1/hook").unwrap();
    let config = Config::without_registry().with(&format!(
        "batch.window = '0s'\n[[endpoints]]\nname = 'hook'\nurl_file = '{}'\nproxy = 'http://127.0.0.1:{}'",
        url_file.display(),
        proxy.port()
    ));
    let shipbell = Shipbell::start(config);
    // Shipbell's own listener, by its address, after the configuration was checked.
    fs::write(
        &url_file,
        format!("http://127.0.0.1:{}/events", shipbell.ingest()),
    )
    .unwrap();
    take(&shipbell, "1");
    wait_for_reason(
        &shipbell,
        "1",
        "refused: 127.0.0.1, which is shipbell's own listener",
    );
    assert!(proxy.asked().is_empty());
}

#[test]
fn environment_variables_name_no_proxy() {
    let receiver = Receiver::start();
    let nowhere = format!("http://127.0.0.1:{}", crate::support::ports::free());
    let variables: Vec<String> = ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY"]
        .iter()
        .map(|name| format!("{name}={nowhere}"))
        .collect();
    let command: Vec<String> = ["env".to_owned()].into_iter().chain(variables).collect();
    let shipbell = Shipbell::start(config(&receiver.url("/hook"), "").under(&command));
    take(&shipbell, "1");
    let request = receiver.wait_for(1, Duration::from_secs(20)).remove(0);
    assert_eq!(request.line(), "POST /hook HTTP/1.1");
}
