//! Clients that mean harm or know no better (CONTRACT 2). The registry retries what is not taken for
//! ever and blocks its queue meanwhile, so garbage is taken too.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::support::{
    SOON, envelope, eventually, http,
    image::Image,
    receiver::{Receiver, Request},
    registry::Options,
    shipbell::{Config, Shipbell, TOKEN},
    stage::Stage,
};

mod receivers;

const MIB: u64 = 1024 * 1024;

fn shipbell_for(receiver: &Receiver) -> Shipbell {
    Shipbell::start(Config::without_registry().endpoint("hook", &receiver.url("/hook")))
}

fn push(tag: &str) -> String {
    envelope::one("acme/app", tag)
}

fn quarantined(shipbell: &Shipbell) -> usize {
    std::fs::read_dir(shipbell.data().join("quarantine")).map_or(0, Iterator::count)
}

#[test]
fn garbage_is_taken_and_set_aside() {
    let receiver = Receiver::start();
    let shipbell = shipbell_for(&receiver);
    let deep = "[".repeat(100_000);
    let garbage: [&[u8]; 8] = [
        b"",
        b"not json",
        b"\xff\xfe\x00\x01",
        b"{\"events\":",
        b"{\"events\":\"many\"}",
        b"[1,2,3]",
        b"{\"events\":[{\"action\":7}]}",
        deep.as_bytes(),
    ];
    for body in garbage {
        shipbell.take(body);
    }
    eventually("it is kept", SOON, || (quarantined(&shipbell) > 0).then_some(()));
    shipbell.take(push("last"));
    let requests = receiver.wait_for_image("acme/app:last", SOON);
    assert_eq!(requests.len(), 1);
}

#[test]
fn an_envelope_without_events_is_fine() {
    let receiver = Receiver::start();
    let shipbell = shipbell_for(&receiver);
    for body in ["{}", r#"{"events":null}"#, r#"{"events":[]}"#] {
        shipbell.take(body);
    }
    assert_eq!(quarantined(&shipbell), 0);
}

#[test]
fn an_event_that_names_no_valid_image_does_not_take_its_neighbours_with_it() {
    let receiver = Receiver::start();
    let shipbell = shipbell_for(&receiver);
    let mut bad_name = envelope::push("acme/app", "bad", "bad");
    bad_name["target"]["repository"] = json!("../../etc/passwd");
    let mut bad_digest = envelope::push("acme/app", "bad", "bad");
    bad_digest["target"]["digest"] = json!("sha256:short");
    let good = envelope::push("acme/app", "good", "good");
    shipbell.take(envelope::of(&[bad_name, good, bad_digest]));
    let requests = receiver.wait_for_image("acme/app:good", SOON);
    assert_eq!(requests.len(), 1);
    eventually("the bad ones are kept", SOON, || {
        (quarantined(&shipbell) > 0).then_some(())
    });
}

#[test]
fn a_body_of_50_mib_is_taken_without_being_held_in_memory() {
    let receiver = Receiver::start();
    let shipbell = shipbell_for(&receiver);
    shipbell.take(push("first"));
    receiver.wait_for_image("acme/app:first", SOON);
    let before = shipbell.resident_bytes();
    let body = vec![b' '; usize::try_from(50 * MIB).unwrap()];
    for _ in 0..3 {
        shipbell.take(&body);
    }
    // Less than one of them: what is kept of each is 4 MiB, and freed memory is given back a little later.
    let grown = shipbell.resident_bytes().saturating_sub(before);
    assert!(grown < 45 * MIB, "grew by {} KiB", grown / 1024);
    eventually("it is set aside", SOON, || {
        (quarantined(&shipbell) > 0).then_some(())
    });
    shipbell.take(push("last"));
    receiver.wait_for_image("acme/app:last", SOON);
    eventually("what was freed is given back", SOON, || {
        // By the threads that have it, when they come to work again: one that has nothing to do keeps it.
        shipbell.take(push("more"));
        (shipbell.resident_bytes().saturating_sub(before) < 24 * MIB).then_some(())
    });
}

#[test]
fn a_wrong_token_is_refused_and_nothing_else_is() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .with("ingest.tokens = ['an-ingest-token', 'the-next-one']")
        .endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    let post = |authorization: Option<&str>| {
        let headers: Vec<(&str, &str)> = authorization
            .map(|value| ("Authorization", value))
            .into_iter()
            .collect();
        http::request(
            shipbell.ingest(),
            "POST",
            "/events",
            &headers,
            push("1").as_bytes(),
        )
        .unwrap()
    };
    for authorization in [
        None,
        Some("Bearer wrong"),
        Some("Bearer "),
        Some("Bearer an-ingest-toke"),
        Some("Bearer an-ingest-tokenx"),
        Some("Basic YW4taW5nZXN0LXRva2Vu"),
        Some("an-ingest-token"),
    ] {
        let response = post(authorization);
        assert_eq!(response.status, 401, "{authorization:?}");
        let challenge = response.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Bearer"), "{challenge}");
    }
    assert_eq!(post(Some("Bearer an-ingest-token")).status, 202);
    assert_eq!(post(Some("Bearer the-next-one")).status, 202);
    assert_eq!(quarantined(&shipbell), 0, "strangers fill no disk");
    let log = shipbell.log();
    assert!(
        !log.contains("an-ingest-toke") && !log.contains("the-next-one"),
        "a token is logged"
    );
}

#[test]
fn only_posts_to_the_path_are_answered() {
    let receiver = Receiver::start();
    let shipbell = shipbell_for(&receiver);
    let authorization = format!("Bearer {TOKEN}");
    let headers = [("Authorization", authorization.as_str())];
    let ask = |method: &str, path: &str| {
        http::request(shipbell.ingest(), method, path, &headers, b"{}")
            .unwrap()
            .status
    };
    assert_eq!(ask("POST", "/events"), 202);
    assert_eq!(ask("GET", "/events"), 405);
    assert_eq!(ask("POST", "/"), 404);
    assert_eq!(ask("POST", "/metrics"), 404);
    assert_eq!(ask("POST", "/events/more"), 404);
}

#[test]
fn a_body_cut_off_is_no_garbage() {
    let receiver = Receiver::start();
    let shipbell = shipbell_for(&receiver);
    let mut stream = TcpStream::connect(("127.0.0.1", shipbell.ingest())).unwrap();
    let head = format!(
        "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n{{\"events\":["
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = Vec::new();
    // Reset or closed, but not taken.
    let _ = stream.read_to_end(&mut answer);
    assert!(
        !answer.starts_with(b"HTTP/1.1 2"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    shipbell.take(push("last"));
    assert_eq!(quarantined(&shipbell), 0);
}

#[test]
fn a_repeated_event_is_taken_and_rings_once_also_after_a_restart() {
    let receiver = Receiver::start();
    let mut shipbell = shipbell_for(&receiver);
    let first = push("1");
    shipbell.take(&first);
    shipbell.take(&first);
    receiver.wait_for(1, SOON);
    shipbell.take(&first);
    shipbell.kill();
    shipbell.start_again();
    shipbell.take(&first);
    shipbell.stop();
    shipbell.start_again();
    shipbell.take(&first);
    shipbell.take(push("last"));
    let requests = receiver.wait_for_image("acme/app:last", SOON);
    // The kill may have cut the first delivery's settlement off: that is a repeat with the same id.
    let mut ids: Vec<&str> = requests.iter().map(Request::id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 2);
}

#[test]
fn an_event_without_an_id_is_never_a_duplicate() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .with("batch.window = '0s'\nbatch.coalesce = 'none'")
        .endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    let mut event = envelope::push("acme/app", "1", "1");
    event["id"] = json!("");
    shipbell.take(envelope::of(&[event.clone()]));
    event.as_object_mut().unwrap().remove("id");
    shipbell.take(envelope::of(&[event]));
    receiver.wait_for(2, SOON);
}

/// Lets this process, and what it starts, open as many files as the system permits.
fn raise_the_limit_of_open_files() {
    let hard = getrlimit(Resource::Nofile).maximum;
    assert!(
        hard.is_none_or(|hard| hard >= 4_096),
        "these tests open 2,000 connections: raise the hard limit of open files to 4,096"
    );
    let limit = Rlimit {
        current: hard,
        maximum: hard,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// While those connections are held, a push to the real registry rings within `deadline`, and shipbell grows by
/// less than `bound` bytes.
fn rings_beside(hold: impl FnOnce(u16) -> Vec<TcpStream>, deadline: Duration, bound: u64) {
    raise_the_limit_of_open_files();
    let stage = Stage::new(Options::default(), "");
    stage
        .registry
        .push(&Image::oci("before", &[1_000]), "acme/app:before", &[]);
    stage.webhooks(&["acme/app:before"]);
    stage.registry.wait_until_drained(SOON);
    let before = stage.shipbell.resident_bytes();

    let _connections = hold(stage.shipbell.ingest());
    let begun = Instant::now();
    stage
        .registry
        .push(&Image::oci("beside", &[1_000]), "acme/app:beside", &[]);
    let webhooks = stage.webhooks(&["acme/app:before", "acme/app:beside"]);
    stage
        .registry
        .wait_until_drained(deadline.saturating_sub(begun.elapsed()));
    let took = webhooks[1].at - begun;
    assert!(took < deadline, "{took:?}");
    let grown = stage.shipbell.resident_bytes().saturating_sub(before);
    assert!(grown < bound, "grew by {} KiB", grown / 1024);
    assert_eq!(stage.shipbell.ops("/livez").status, 200);
}

#[test]
fn a_hundred_slow_clients_do_not_keep_the_registry_out() {
    rings_beside(
        |port| {
            let head = format!(
                "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n{{"
            );
            (0..100)
                .map(|number| {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    // Half of them stop within the head, half within the body.
                    let until = if number % 2 == 0 { 20 } else { head.len() };
                    for byte in head.as_bytes()[..until].chunks(7) {
                        stream.write_all(byte).unwrap();
                    }
                    stream
                })
                .collect()
        },
        Duration::from_secs(5),
        16 * MIB,
    );
}

#[test]
fn two_thousand_idle_connections_do_not_keep_the_registry_out() {
    rings_beside(
        |port| {
            (0..2_000)
                .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
                .collect()
        },
        Duration::from_secs(15),
        64 * MIB,
    );
}

#[test]
fn a_slow_client_is_shown_the_door() {
    let receiver = Receiver::start();
    let shipbell = shipbell_for(&receiver);
    let mut stream = TcpStream::connect(("127.0.0.1", shipbell.ingest())).unwrap();
    stream
        .write_all(b"POST /events HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        .unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = Instant::now();
    // A byte now and then does not keep the connection open.
    let closed = eventually("the connection is closed", Duration::from_mins(1), || {
        let mut answer = [0; 512];
        match stream.read(&mut answer) {
            Ok(0) => Some(true),
            Ok(_) => None,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                stream.write_all(b"x").is_err().then_some(true)
            }
            Err(_) => Some(true),
        }
    });
    assert!(closed);
    assert!(begun.elapsed() < Duration::from_mins(1));
}
