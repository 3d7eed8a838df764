use clap::Parser;
use http::{HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    image::Digest,
    webhook::{
        Endpoint, Fault, Outcome, Sizes,
        client::{Client, Options},
        format::{EventKind, Message},
        guard::Guard,
        judge::judge,
    },
};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    listen: ListenArgs,
}

fn parse(args: &[&str]) -> Result<ListenArgs, clap::Error> {
    let program = ["listen", "--listen", "127.0.0.1:0"];
    Cli::try_parse_from(program.iter().chain(args)).map(|cli| cli.listen)
}

/// What is printed, and a way to read the first line while more is to come.
struct Printed(mpsc::UnboundedSender<String>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        self.0.send(text).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `send` against a listener of these arguments; what it ended with, what was printed, what came
/// of `send`.
async fn run<T>(args: &[&str], send: impl AsyncFnOnce(SocketAddr) -> T) -> (Ended, String, T) {
    let (printed, mut lines) = mpsc::unbounded_channel();
    let mut out = Printed(printed);
    let clock = Clock::from_fn(|| Timestamp::from_unix_millis(1_614_265_330_000));
    let listening = listen(parse(args).unwrap(), clock, Colour::Plain, &mut out);
    let sending = async {
        let mut text = String::new();
        let address = loop {
            text.push_str(&lines.recv().await.unwrap());
            if let Some((_, rest)) = text.split_once("http://")
                && let Some((address, _)) = rest.split_once('/')
            {
                break address.parse().unwrap();
            }
        };
        let result = send(address).await;
        (text, result)
    };
    let (ended, (mut text, result)) = tokio::join!(listening, sending);
    drop(out);
    while let Some(more) = lines.recv().await {
        text.push_str(&more);
    }
    (ended.unwrap(), text, result)
}

/// Sends these bytes and reads all that comes back.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn webhook(signature: &str) -> Vec<u8> {
    format!(
        "POST /hook?token=hunter2 HTTP/1.1\r\nwebhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek\r\n\
         Webhook-Timestamp: 1614265330\r\n{signature}Connection: close\r\nContent-Length: 20\r\n\r\n\
         {{\"test\": 2432232314}}"
    )
    .into_bytes()
}

const GOOD: &str = "webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=\r\n";

#[tokio::test]
async fn signatures_repeats_and_refusals_are_told_until_the_count_is_reached() {
    let args = [
        "--secret",
        SECRET,
        "--count",
        "3",
        "--fail-first",
        "1",
        "--status",
        "204",
    ];
    let (ended, printed, answers) = run(&args, async |address| {
        let mut answers = Vec::new();
        for signature in [GOOD, "", "webhook-signature: v1,AAAA\r\n"] {
            let answer = exchange(address, &webhook(signature)).await;
            answers.push(answer.lines().next().unwrap().to_owned());
        }
        answers
    })
    .await;
    assert_eq!(ended, Ended::Counted);
    assert_eq!(
        answers,
        [
            "HTTP/1.1 503 Service Unavailable",
            "HTTP/1.1 204 No Content",
            "HTTP/1.1 204 No Content"
        ]
    );
    let verdicts: Vec<_> = printed
        .lines()
        .filter(|line| line.starts_with("signature"))
        .collect();
    assert_eq!(
        verdicts,
        [
            "signature good · this webhook-id for the first time · answered 503",
            "signature absent · this webhook-id again · answered 204",
            "signature bad: no v1 signature in webhook-signature matches this secret and body · \
             this webhook-id again · answered 204",
        ]
    );
    assert!(printed.contains("\nWebhook-Timestamp: 1614265330\n"), "{printed}");
    assert!(printed.contains("{\n  \"test\": 2432232314\n}\n"), "{printed}");
    assert!(!printed.contains("hunter2"));
}

/// What our own client sends to `address`, twice under the same id.
async fn send_twice(address: SocketAddr) -> Vec<Outcome> {
    let client = Client::new(Options {
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        user_agent: HeaderValue::from_static("WebHook Handler"),
        header_name: HeaderName::from_static("x-alin-webhook"),
        guard: Guard::default(),
        ca_file: None,
        proxy: None,
        idle_per_host_max: 1,
        idle_timeout: Duration::from_secs(4),
        connections_max: 100,
    })
    .unwrap();
    let endpoint = Endpoint {
        secret: Some(Secret::inline(SECRET)),
        ..Endpoint::plain("try", &format!("http://{address}/?token=hunter2"))
    };
    let at = Timestamp::from_unix_millis(1_614_265_330_000);
    let message = Message {
        repository: &"acme/app".parse().unwrap(),
        tag: Some(&"1.4".parse().unwrap()),
        digest: &Digest::sha256(b""),
        public_host: "",
        sizes: &Sizes::default(),
        event: EventKind::Push,
        at,
    };
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let request = client.request(&endpoint, &message, "msg_1").unwrap();
        outcomes.push(judge(&client.send(&request).await, at));
    }
    outcomes
}

#[tokio::test]
async fn what_our_own_client_sends_is_found_good() {
    let args = ["--secret", SECRET, "--count", "2", "--fail-first", "1"];
    let (ended, printed, outcomes) = run(&args, send_twice).await;
    assert_eq!(ended, Ended::Counted);
    assert!(
        matches!(
            outcomes[0],
            Outcome::Failed {
                fault: Fault::Endpoint,
                status: Some(503),
                ..
            }
        ),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[1], Outcome::Delivered { status: 200 });
    let verdicts: Vec<_> = printed
        .lines()
        .filter(|line| line.starts_with("signature"))
        .collect();
    assert_eq!(
        verdicts,
        [
            "signature good · this webhook-id for the first time · answered 503",
            "signature good · this webhook-id again · answered 200",
        ]
    );
    assert!(!printed.contains("hunter2"));
}

#[tokio::test]
async fn a_silent_connection_keeps_nobody_from_being_heard() {
    let (ended, _, answer) = run(&["--count", "1"], async |address| {
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
        exchange(address, &webhook("")).await
    })
    .await;
    assert_eq!(ended, Ended::Counted);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn what_is_no_webhook_is_refused_and_not_counted() {
    let (_, printed, answers) = run(&["--count", "1"], async |address| {
        let refused = exchange(address, b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        (refused, exchange(address, &webhook("")).await)
    })
    .await;
    assert!(
        answers.0.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{}",
        answers.0
    );
    assert!(
        printed.contains("\n1 · 2021-02-25T15:02:10.000Z · POST /hook?… from 127.0.0.1:"),
        "{printed}"
    );
}

#[tokio::test]
async fn when_too_few_came_in_time_that_is_told() {
    let (ended, _, ()) = run(&["--count", "1", "--timeout", "20ms"], async |_| {}).await;
    assert_eq!(ended, Ended::TooFew);
    let (ended, _, ()) = run(&["--timeout", "20ms"], async |_| {}).await;
    assert_eq!(ended, Ended::Stopped);
}

#[tokio::test]
async fn a_reader_who_left_ends_it_in_peace() {
    let (printed, mut lines) = mpsc::unbounded_channel();
    let mut out = Printed(printed);
    let listening = listen(parse(&[]).unwrap(), Clock::system(), Colour::Plain, &mut out);
    let sending = async move {
        let line = lines.recv().await.unwrap();
        let mut text = line;
        while !text.contains("/ (") {
            text.push_str(&lines.recv().await.unwrap());
        }
        let address = text.split("http://").nth(1).unwrap().split('/').next().unwrap();
        let address = address.parse().unwrap();
        drop(lines);
        exchange(address, &webhook("")).await
    };
    let (ended, answer) = tokio::join!(listening, sending);
    assert_eq!((ended.unwrap(), &*answer), (Ended::Stopped, ""));
}

#[tokio::test]
async fn a_bad_secret_is_refused_without_showing_it() {
    let args = parse(&["--secret", "hunter2"]).unwrap();
    assert!(!format!("{args:?}").contains("hunter2"));
    let error = listen(args, Clock::system(), Colour::Plain, &mut Vec::new())
        .await
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("begins with whsec_") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn odd_arguments_are_usage_errors() {
    for args in [
        ["--status", "99"],
        ["--status", "600"],
        ["--count", "0"],
        ["--timeout", "soon"],
    ] {
        assert!(parse(&args).is_err(), "{args:?}");
    }
    let both = ["--secret", "x", "--secret-file", "y"];
    assert!(parse(&both).is_err());
}

#[test]
fn only_the_newest_ids_are_remembered() {
    let mut ids = Ids::default();
    for number in 0..=limits::IDS_MAX {
        assert!(ids.insert(&number.to_string()));
    }
    assert_eq!(
        (ids.known.len(), ids.oldest_first.len()),
        (limits::IDS_MAX, limits::IDS_MAX)
    );
    assert!(ids.insert("0") && !ids.insert("2"));
}
