//! Receivers that mean harm or know no better (CONTRACT 3 and 5): each attempt ends within its time limit, in the
//! right outcome and in words, in little memory, and beside it others get their webhooks.

use std::{
    collections::HashMap,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::MIB;
use crate::support::{
    SOON, envelope, eventually, folder,
    image::OCI_CONFIG,
    raw::{RawReceiver, read_head, wait_for_close},
    receiver::{Answer, Receiver},
    shipbell::{Config, Shipbell},
    story,
    tls::Authority,
};

mod cases;

use cases::{
    Case,
    Expected::{Delivered, Failed},
    NO_ANSWER, bad_tls, broken_off, case, endless, nonsense,
};

/// One attempt's time limit, and what a busy machine may add to it.
const TIMEOUT: Duration = Duration::from_millis(1_500);
const BUSY: Duration = Duration::from_secs(10);

/// What shipbell may grow by while all of them are at it.
const GROWTH_MAX: u64 = 64 * MIB;

/// What went wrong with an attempt, if anything did.
fn complaint(case: &Case, attempt: &Value, log: &str) -> Option<String> {
    let reason = attempt["reason"].as_str().unwrap_or_default();
    let is_right = match case.expected {
        Delivered(status) => attempt["status"] == status && attempt["fault"].is_null(),
        Failed(fault, words) => {
            let endpoint = format!("endpoint={} ", case.name);
            let is_logged = |line: &str| {
                line.contains("attempt failed") && line.contains(&endpoint) && line.contains(words)
            };
            attempt["fault"] == fault && reason.contains(words) && log.lines().any(is_logged)
        }
    };
    let elapsed = Duration::from_secs_f64(attempt["elapsed_ms"].as_f64().unwrap() / 1000.0);
    let is_in_time = elapsed <= TIMEOUT + BUSY;
    (!is_right || !is_in_time).then(|| format!("{}: after {elapsed:?}: {attempt}", case.name))
}

/// A shipbell with an endpoint for each of these receivers, for the repository of the same name, and one for a
/// healthy one; one attempt each.
fn shipbell_among(cases: &[(&Case, RawReceiver)], healthy: &Receiver, settings: &str) -> Shipbell {
    let mut config = Config::without_registry().with(settings).with(&format!(
        "batch.window = '0s'
size.deadline = '50ms'
[delivery]
timeout = '{}ms'
retry_schedule = ['1h']
         [[endpoints]]
name = 'healthy'
repositories = ['healthy']
url = '{}'",
        TIMEOUT.as_millis(),
        healthy.url("/hook"),
    ));
    for (case, receiver) in cases {
        let (name, port) = (case.name, receiver.port());
        config = config.with(&format!(
            "[[endpoints]]
name = '{name}'
repositories = ['{name}']
url = '{}://127.0.0.1:{port}/hook'",
            case.scheme
        ));
    }
    Shipbell::start(config)
}

fn receiver_of(case: &mut Case) -> RawReceiver {
    let behaviour = std::mem::replace(&mut case.behaviour, Box::new(|_| Ok(())));
    RawReceiver::start(behaviour)
}

#[test]
fn each_attempt_ends_in_time_in_the_right_outcome_in_little_memory_and_others_are_served() {
    let folder = folder();
    let trusted = Authority::new("trusted");
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &trusted.pem).unwrap();
    let mut cases: Vec<Case> = [endless(), broken_off(), nonsense(), bad_tls(&trusted)]
        .into_iter()
        .flatten()
        .collect();
    let receivers: Vec<RawReceiver> = cases.iter_mut().map(receiver_of).collect();
    let cases: Vec<(&Case, RawReceiver)> = cases.iter().zip(receivers).collect();
    let healthy = Receiver::start();
    let settings = format!("delivery.ca_file = '{}'", ca_file.display());
    let shipbell = shipbell_among(&cases, &healthy, &settings);
    let push = |repository: &str, tag: &str| {
        shipbell.take(envelope::one(repository, tag));
    };
    push("healthy", "0");
    healthy.wait_for(1, SOON);
    let before = shipbell.resident_bytes();

    for (case, _) in &cases {
        push(case.name, "1");
    }
    // While they are at it, a webhook every so often: each comes at once.
    let (mut sent, mut peak) = (1, before);
    let end = Instant::now() + TIMEOUT;
    while Instant::now() < end {
        let begun = Instant::now();
        push("healthy", &sent.to_string());
        sent += 1;
        healthy.wait_for(sent, SOON);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        peak = peak.max(shipbell.resident_bytes());
        thread::sleep(Duration::from_millis(10));
    }
    assert!(sent > 5, "only {sent} webhooks");

    let attempts: HashMap<&str, Value> = cases
        .iter()
        .map(|(case, _)| {
            let image = format!("{}:1", case.name);
            (case.name, story::attempt(&shipbell, &image, 0, SOON))
        })
        .collect();
    peak = peak.max(shipbell.resident_bytes());
    let log = shipbell.log();
    let complaints: Vec<String> = cases
        .iter()
        .filter_map(|(case, _)| complaint(case, &attempts[case.name], &log))
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let grown = peak.saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grew by {} KiB", grown / 1024);
    // No request was sent a second time by itself: what was done may not be done again before its time.
    for (case, receiver) in &cases {
        assert_eq!(receiver.accepted(), 1, "connections to {}", case.name);
    }
}

#[test]
fn a_large_body_that_is_not_read_ends_in_time_and_an_answer_before_its_end_counts() {
    let mut cases = [
        case("never-reads", NO_ANSWER, |stream| {
            thread::sleep(TIMEOUT * 3);
            wait_for_close(stream)
        }),
        case("answers-early", Delivered(202), |stream| {
            read_head(stream)?;
            stream.write_all(b"HTTP/1.1 202 Enough\r\nContent-Length: 0\r\n\r\n")?;
            thread::sleep(TIMEOUT * 3);
            Ok(())
        }),
        case(
            "refuses-early",
            Failed("push", "answered 413 Payload Too Large"),
            |stream| {
                read_head(stream)?;
                stream.write_all(b"HTTP/1.1 413 Too much\r\nContent-Length: 0\r\n\r\n")?;
                thread::sleep(TIMEOUT * 3);
                Ok(())
            },
        ),
    ];
    let receivers: Vec<RawReceiver> = cases.iter_mut().map(receiver_of).collect();
    let cases: Vec<(&Case, RawReceiver)> = cases.iter().zip(receivers).collect();
    let healthy = Receiver::start();
    let settings = "ingest.max_body = '16MiB'\njournal.segment_size = '32MiB'";
    let shipbell = shipbell_among(&cases, &healthy, settings);
    // More than what sockets hold that nobody reads from.
    let media_type = "x".repeat(14 << 20);
    for (case, _) in &cases {
        let mut event = envelope::push(case.name, "1", case.name);
        event["target"]["references"] = json!([
            // The first is the config, which is no layer.
            { "mediaType": OCI_CONFIG, "digest": envelope::digest("config"), "size": 8 },
            { "mediaType": media_type, "digest": envelope::digest("layer"), "size": 8 },
        ]);
        shipbell.take(envelope::of(&[event]));
    }
    shipbell.take(envelope::one("healthy", "1"));
    healthy.wait_for(1, SOON);
    let attempts: Vec<Value> = cases
        .iter()
        .map(|(case, _)| story::attempt(&shipbell, &format!("{}:1", case.name), 0, SOON))
        .collect();
    let log = shipbell.log();
    for ((case, _), attempt) in cases.iter().zip(&attempts) {
        let bytes = attempt["request_body_bytes"].as_u64().unwrap();
        assert!(bytes > 12 << 20, "{}: a body of {bytes} bytes", case.name);
        assert_eq!(complaint(case, attempt, &log), None);
    }
}

/// An HTTP date that is this far in the future.
fn http_date(ahead: Duration) -> String {
    let at = shipbell::clock::Clock::system().now().unix_seconds() + i64::try_from(ahead.as_secs()).unwrap();
    let date = chrono::DateTime::from_timestamp(at, 0).unwrap();
    date.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[test]
fn retry_after_is_honoured_within_a_day_and_nonsense_is_passed_over() {
    const SCHEDULE_S: i64 = 40;
    const DAY_S: i64 = 24 * 60 * 60;
    let (date, dated) = (http_date(Duration::from_hours(2)), Instant::now());
    let cases = [
        ("120", 120),
        ("5", SCHEDULE_S),
        (&date, 7_200),
        ("86401", DAY_S),
        ("99999999999999999999999999", DAY_S),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY_S),
        ("Sun, 06 Nov 1994 08:49:37 GMT", SCHEDULE_S),
        ("-1", SCHEDULE_S),
        ("1e30", SCHEDULE_S),
        ("1.5", SCHEDULE_S),
        ("Infinity", SCHEDULE_S),
        ("soon", SCHEDULE_S),
        ("", SCHEDULE_S),
        ("\u{fe}", SCHEDULE_S),
    ];
    // The endpoint's fault, and the push's.
    for status in [503, 400] {
        let receivers: Vec<Receiver> = cases
            .iter()
            .map(|(value, _)| {
                let line = format!("Retry-After: {value}");
                Receiver::scripted(move |_| Answer::With(status, vec![line.clone()]))
            })
            .collect();
        let mut config = Config::without_registry().with(&format!(
            "batch.window = '0s'\nsize.deadline = '50ms'\n[delivery]\nretry_schedule = ['{SCHEDULE_S}s']\njitter = 0.0"
        ));
        for (index, receiver) in receivers.iter().enumerate() {
            config = config.with(&format!(
                "[[endpoints]]\nname = 'e{index}'\nrepositories = ['r{index}']\nurl = '{}'",
                receiver.url("/hook")
            ));
        }
        let shipbell = Shipbell::start(config);
        for index in 0..cases.len() {
            shipbell.take(envelope::of(&[envelope::push(&format!("r{index}"), "1", "1")]));
        }
        for (index, (value, expected_s)) in cases.iter().enumerate() {
            let image = format!("r{index}:1");
            let wait_s = eventually(&format!("{value:?} is waited for"), SOON, || {
                let push = story::push(&image, &shipbell.data())?;
                let attempt = push["deliveries"].get(0)?["attempts"].get(0)?;
                let at = |key: &str| chrono::DateTime::parse_from_rfc3339(attempt[key].as_str()?).ok();
                Some((at("retry_at")? - at("at")?).num_milliseconds() / 1000)
            });
            // A date comes nearer.
            let nearer_s = if *value == date {
                i64::try_from(dated.elapsed().as_secs()).unwrap()
            } else {
                0
            };
            assert!(
                (expected_s - 2 - nearer_s..=expected_s + 5).contains(&wait_s),
                "{status} with {value:?}: {wait_s} s, not {expected_s}"
            );
        }
    }
}
