//! On real sockets.

use std::{fs, net::SocketAddr, path::Path};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::clock::{Clock, Timestamp};

/// How long any of this may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    address: SocketAddr,
    tasks: Tasks,
    metrics: Metrics,
    /// Told when a request for `/wait` has been read.
    waiting: Arc<Notify>,
    /// Lets such a request go on.
    proceed: Arc<Notify>,
}

fn options() -> Options {
    Options::plain("127.0.0.1:0".parse().unwrap())
}

/// Answers with the length of the body; `/wait` waits first.
fn serve(options: Options) -> Served {
    let metrics = Metrics::new(&Clock::from_fn(|| Timestamp::from_unix_millis(0)));
    let listener = Listener::bind(ListenerName::Ingest, options, metrics.clone()).unwrap();
    let served = Served {
        address: listener.address(),
        tasks: Tasks::new(),
        metrics,
        waiting: Arc::default(),
        proceed: Arc::default(),
    };
    let (waiting, proceed) = (Arc::clone(&served.waiting), Arc::clone(&served.proceed));
    let handler = move |request: Request<Body>| {
        let (waiting, proceed) = (Arc::clone(&waiting), Arc::clone(&proceed));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(|_| Hangup)?.to_bytes();
            if head.uri.path() == "/wait" {
                waiting.notify_one();
                proceed.notified().await;
            }
            Ok(Response::new(Full::new(Bytes::from(format!(
                "{} bytes",
                body.len()
            )))))
        }
    };
    let stop = served.tasks.soft().clone();
    let tasks = served.tasks.clone();
    served
        .tasks
        .spawn_lasting("listener", listener.serve(tasks, stop, handler));
    served
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Reads until what came ends with `end`.
async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let read = async {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            text.push(stream.read_u8().await.expect("the connection was closed"));
        }
        String::from_utf8(text).unwrap()
    };
    timeout(PATIENCE, read).await.expect("no answer")
}

/// Reads until the connection is closed, by whatever means; returns what came.
async fn read_to_close(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let _closed = timeout(PATIENCE, stream.read_to_end(&mut text))
        .await
        .expect("not closed");
    String::from_utf8(text).unwrap()
}

const POST: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";

impl Served {
    fn count(&self, line: &str) -> u64 {
        let text = self.metrics.encode();
        let value = text.lines().find_map(|l| l.strip_prefix(line));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }
}

#[tokio::test]
async fn requests_follow_each_other_on_one_connection_pipelined_or_not() {
    let served = serve(options());
    let mut client = connect(served.address).await;
    for _ in 0..3 {
        send(&mut client, POST).await;
        assert!(
            read_until(&mut client, "5 bytes")
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
    }
    send(&mut client, &POST.repeat(3)).await;
    for _ in 0..3 {
        read_until(&mut client, "5 bytes").await;
    }
    send(
        &mut client,
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
    )
    .await;
    read_until(&mut client, "7 bytes").await;
}

#[tokio::test]
async fn a_client_that_shut_down_its_side_still_gets_its_answer() {
    let served = serve(options());
    let mut client = connect(served.address).await;
    send(&mut client, POST).await;
    client.shutdown().await.unwrap();
    assert!(read_to_close(&mut client).await.ends_with("5 bytes"));
}

#[tokio::test]
async fn a_head_that_is_none_or_too_large_is_answered() {
    let served = serve(options());
    let many = "x: y\r\n".repeat(101);
    let long = "y".repeat(64 * 1024);
    for (head, status) in [
        ("GARBAGE\r\n\r\n".to_owned(), "400"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n".to_owned(),
            "400",
        ),
        (format!("POST / HTTP/1.1\r\nHost: x\r\n{many}\r\n"), "431"),
        (format!("POST / HTTP/1.1\r\nHost: x\r\nx: {long}\r\n\r\n"), "431"),
        (format!("POST /?{long} HTTP/1.1\r\nHost: x\r\n\r\n"), "431"),
    ] {
        let mut client = connect(served.address).await;
        send(&mut client, &head).await;
        let answer = read_until(&mut client, "\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let ended = "shipbell_connections_ended_total{listener=\"ingest\",end=\"error\"}";
    timeout(PATIENCE, async {
        while served.count(ended) < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("each is counted");
}

#[tokio::test]
async fn slow_heads_slow_bodies_and_idle_connections_are_closed() {
    let short = Duration::from_millis(50);
    let served = serve(Options {
        header_timeout: short,
        ..options()
    });
    let mut slow_head = connect(served.address).await;
    send(&mut slow_head, "POST / HTTP/1.1\r\nHost:").await;
    assert_eq!(read_to_close(&mut slow_head).await, "");

    let served = serve(Options {
        body_timeout: short,
        ..options()
    });
    let mut slow_body = connect(served.address).await;
    send(
        &mut slow_body,
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel",
    )
    .await;
    assert_eq!(read_to_close(&mut slow_body).await, "");

    let served = serve(Options {
        idle_timeout: short,
        ..options()
    });
    let mut silent = connect(served.address).await;
    assert_eq!(read_to_close(&mut silent).await, "");
    let mut idle = connect(served.address).await;
    send(&mut idle, POST).await;
    assert!(read_to_close(&mut idle).await.ends_with("5 bytes"));
}

#[tokio::test]
async fn a_head_that_drips_is_closed_although_something_comes_all_the_time() {
    let served = serve(Options {
        header_timeout: Duration::from_millis(100),
        ..options()
    });
    let (mut read, mut write) = connect(served.address).await.into_split();
    let drip = async {
        while write.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::join!(drip, read_to_close(&mut read));
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let served = serve(options());
    let mut client = connect(served.address).await;
    let head = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n",
        "x".repeat(40 * 1024)
    );
    // It may be refused, and the connection reset, before all of it was sent.
    let _ = client.write_all(head.as_bytes()).await;
    let mut status = [0; 12];
    if client.read_exact(&mut status).await.is_ok() {
        assert_eq!(&status, b"HTTP/1.1 431");
    }
}

#[tokio::test]
async fn idle_connections_and_slow_heads_give_way_to_new_ones() {
    let cap = 32;
    let served = serve(Options {
        connections_max: cap,
        header_timeout: Duration::from_mins(1),
        ..options()
    });
    let mut crowd = Vec::new();
    for i in 0..300 {
        let mut client = connect(served.address).await;
        if i % 2 == 0 {
            send(&mut client, "POST / HTTP/1.1\r\nHost:").await;
        }
        crowd.push(client);
    }
    for _ in 0..10 {
        let mut registry = connect(served.address).await;
        send(&mut registry, POST).await;
        read_until(&mut registry, "5 bytes").await;
    }
    assert!(served.count("shipbell_connections{listener=\"ingest\"}") <= cap as u64);
    assert!(served.count("shipbell_connections_ended_total{listener=\"ingest\",end=\"evicted\"}") >= 268);
    for client in crowd.iter_mut().take(200) {
        assert_eq!(read_to_close(client).await, "");
    }
}

#[tokio::test]
async fn bodies_that_do_not_come_give_way_after_their_grace() {
    let served = serve(Options {
        connections_max: 4,
        body_timeout: Duration::from_mins(1),
        ..options()
    });
    let mut crowd = Vec::new();
    for _ in 0..4 {
        let mut client = connect(served.address).await;
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel",
        )
        .await;
        crowd.push(client);
    }
    let mut registry = connect(served.address).await;
    send(&mut registry, POST).await;
    read_until(&mut registry, "5 bytes").await;
}

#[tokio::test]
async fn a_request_that_is_worked_on_is_never_cut_and_new_connections_wait() {
    let served = serve(Options {
        connections_max: 1,
        ..options()
    });
    let mut working = connect(served.address).await;
    send(&mut working, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    served.waiting.notified().await;
    let mut next = connect(served.address).await;
    send(&mut next, POST).await;
    let answered = timeout(Duration::from_millis(200), next.read_u8()).await;
    assert!(answered.is_err(), "there was no room");
    served.proceed.notify_one();
    read_until(&mut working, "0 bytes").await;
    read_until(&mut next, "5 bytes").await;
}

#[tokio::test]
async fn a_stop_closes_idle_connections_at_once_and_lets_requests_finish() {
    let served = serve(options());
    let mut idle = connect(served.address).await;
    send(&mut idle, POST).await;
    read_until(&mut idle, "5 bytes").await;
    let mut slow_head = connect(served.address).await;
    send(&mut slow_head, "POST / HTTP/1.1\r\nHost:").await;
    let mut working = connect(served.address).await;
    send(&mut working, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    served.waiting.notified().await;

    served.tasks.soft().cancel();
    assert_eq!(read_to_close(&mut idle).await, "");
    assert_eq!(read_to_close(&mut slow_head).await, "");
    served.proceed.notify_one();
    let answer = read_to_close(&mut working).await;
    assert!(answer.ends_with("0 bytes"), "{answer}");
    timeout(PATIENCE, served.tasks.ended()).await.unwrap();
    assert!(!served.tasks.lost_one());
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn a_hard_stop_cuts_what_is_still_running() {
    let served = serve(options());
    let mut working = connect(served.address).await;
    send(&mut working, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    served.waiting.notified().await;
    served.tasks.soft().cancel();
    served.tasks.hard().cancel();
    timeout(PATIENCE, served.tasks.ended()).await.unwrap();
    assert_eq!(read_to_close(&mut working).await, "");
}

#[test]
fn an_address_in_use_is_refused_and_named() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let metrics = Metrics::new(&Clock::system());
    let first = Listener::bind(ListenerName::Ops, options(), metrics.clone()).unwrap();
    let taken = Options::plain(first.address());
    let error = Listener::bind(ListenerName::Ops, taken, metrics).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("can't listen on {}", first.address())),
        "{error}"
    );
}

/// Writes a new certificate for `localhost` and its key.
fn new_certificate(folder: &Path) -> (TlsFiles, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
    };
    fs::write(&files.certificate, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, made.cert.der().clone())
}

async fn exchange_over_tls(address: SocketAddr, trusted: &CertificateDer<'static>) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, connect(address).await).await?;
    send(&mut stream, POST).await;
    Ok(read_until(&mut stream, "5 bytes").await)
}

#[tokio::test]
async fn tls_serves_the_certificate_that_its_files_hold_now() {
    let folder = tempfile::tempdir().unwrap();
    let (files, first) = new_certificate(folder.path());
    let served = serve(Options {
        tls: Some(files.clone()),
        ..options()
    });
    exchange_over_tls(served.address, &first).await.unwrap();
    let (_, second) = new_certificate(folder.path());
    assert!(exchange_over_tls(served.address, &first).await.is_err());
    exchange_over_tls(served.address, &second).await.unwrap();
    fs::write(&files.certificate, "half a certif").unwrap();
    exchange_over_tls(served.address, &second)
        .await
        .expect("the last good one stays");
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_closed_and_gives_way() {
    let folder = tempfile::tempdir().unwrap();
    let (files, certificate) = new_certificate(folder.path());
    let served = serve(Options {
        tls: Some(files.clone()),
        header_timeout: Duration::from_millis(50),
        ..options()
    });
    let mut silent = connect(served.address).await;
    assert_eq!(read_to_close(&mut silent).await, "");

    let served = serve(Options {
        tls: Some(files),
        connections_max: 2,
        ..options()
    });
    let mut crowd = Vec::new();
    for _ in 0..10 {
        crowd.push(connect(served.address).await);
    }
    exchange_over_tls(served.address, &certificate).await.unwrap();
}

#[test]
fn tls_files_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (files, _) = new_certificate(folder.path());
    let other = tempfile::tempdir().unwrap();
    let (others, _) = new_certificate(other.path());
    let mixed = TlsFiles {
        key: others.key,
        ..files.clone()
    };
    let error = tls::Acceptor::load(mixed).unwrap_err().to_string();
    assert!(error.contains("tls.crt") && error.contains("tls.key"), "{error}");
    fs::write(&files.certificate, "").unwrap();
    let error = tls::Acceptor::load(files).unwrap_err().to_string();
    assert!(error.contains("tls.crt"), "{error}");
}
