//! The receivers, and what is to come of an attempt to deliver to each.

use std::{
    io::{self, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use rustls::ServerConfig;

use crate::support::{
    raw::{flood, read_head, read_request, wait_for_close},
    tls::{self, Authority, server_config},
};

pub(super) type Behaviour = Box<dyn Fn(&mut TcpStream) -> io::Result<()> + Send + Sync>;

/// What is to come of an attempt.
pub(super) enum Expected {
    /// Delivered, by this status: whatever became of the body.
    Delivered(u64),
    /// Failed by this fault, for a reason that holds these words.
    Failed(&'static str, &'static str),
}

use Expected::{Delivered, Failed};

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) scheme: &'static str,
    pub(super) behaviour: Behaviour,
    pub(super) expected: Expected,
}

pub(super) fn case(
    name: &'static str,
    expected: Expected,
    behaviour: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> Case {
    Case {
        name,
        scheme: "http",
        behaviour: Box::new(behaviour),
        expected,
    }
}

/// Reads the request, answers with `bytes`, and waits for the other side to close.
fn answers(name: &'static str, expected: Expected, bytes: impl Into<Vec<u8>>) -> Case {
    let bytes = bytes.into();
    case(name, expected, move |stream| {
        read_request(stream)?;
        stream.write_all(&bytes)?;
        wait_for_close(stream)
    })
}

/// The same, and then `again` for ever.
fn floods(name: &'static str, expected: Expected, first: &'static [u8], again: &'static [u8]) -> Case {
    case(name, expected, move |stream| {
        read_request(stream)?;
        stream.write_all(first)?;
        flood(stream, again)
    })
}

/// Reads the request, answers with `bytes`, and closes.
fn closes(name: &'static str, expected: Expected, bytes: &'static [u8]) -> Case {
    case(name, expected, move |stream| {
        read_request(stream)?;
        stream.write_all(bytes)
    })
}

/// The same with a reset (RST) in place of an end (FIN).
fn resets(name: &'static str, expected: Expected, bytes: &'static [u8]) -> Case {
    case(name, expected, move |stream| {
        read_request(stream)?;
        stream.write_all(bytes)?;
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))
    })
}

fn by_tls(name: &'static str, words: &'static str, config: Arc<ServerConfig>) -> Case {
    let behaviour = move |stream: &mut TcpStream| {
        let mut tls = tls::accept(stream, &config)?;
        read_request(&mut tls)?;
        tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    };
    Case {
        scheme: "https",
        ..case(name, Failed("endpoint", words), behaviour)
    }
}

/// Ten gigabytes in ten megabytes: zeros, in as many members as that takes.
fn gzip_bomb() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; 1 << 20]).unwrap();
    let members = encoder.finish().unwrap().repeat(10 * 1024);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        members.len()
    );
    [head.into_bytes(), members].concat()
}

pub(super) const NO_ANSWER: Expected = Failed("endpoint", "connected, but no answer within 1.5s");
const NOT_HTTP: Expected = Failed("endpoint", "the answer is not HTTP/1.1");
const TOO_LARGE: Expected = Failed("endpoint", "the answer's headers are too large");
const CLOSED: Expected = Failed(
    "endpoint",
    "the receiver closed the connection before an answer came",
);

/// Those that are slow, or never done.
pub(super) fn endless() -> Vec<Case> {
    vec![
        case("never-answers", NO_ANSWER, |stream| {
            read_request(stream)?;
            wait_for_close(stream)
        }),
        case("one-byte-a-second", NO_ANSWER, |stream| {
            read_request(stream)?;
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" {
                stream.write_all(&[*byte])?;
                thread::sleep(Duration::from_secs(1));
            }
            Ok(())
        }),
        case("body-byte-by-byte", Delivered(200), |stream| {
            read_request(stream)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
            loop {
                stream.write_all(b".")?;
                thread::sleep(Duration::from_millis(200));
            }
        }),
        floods(
            "ten-gib",
            Delivered(200),
            b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n",
            b"more and ",
        ),
        floods(
            "endless-body",
            Delivered(200),
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"more and ",
        ),
        floods(
            "endless-error",
            Failed("endpoint", "answered 503 Service Unavailable"),
            b"HTTP/1.1 503 Sorry\r\n\r\n",
            b"so sorry ",
        ),
        answers("gzip-bomb", Delivered(200), gzip_bomb()),
        floods(
            "endless-headers",
            TOO_LARGE,
            b"HTTP/1.1 200 OK\r\n",
            b"X-More: and more\r\n",
        ),
        floods(
            "endless-header",
            TOO_LARGE,
            b"HTTP/1.1 200 OK\r\nX-Long: ",
            b"long",
        ),
        floods("endless-status", TOO_LARGE, b"HTTP/1.1 200 ", b"long"),
        floods(
            "interim-flood",
            NO_ANSWER,
            b"HTTP/1.1 103 Early Hints\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n",
        ),
        floods(
            "endless-chunk-extension",
            Delivered(200),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
            b"ext",
        ),
        floods(
            "endless-trailers",
            Delivered(200),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X-More: and more\r\n",
        ),
    ]
}

/// Those that break off.
pub(super) fn broken_off() -> Vec<Case> {
    vec![
        resets(
            "reset-before-answer",
            Failed(
                "endpoint",
                "connection reset by the receiver before an answer came",
            ),
            b"HTTP/1.1 2",
        ),
        resets(
            "reset-in-body",
            Delivered(200),
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        ),
        closes("works-then-closes", CLOSED, b""),
        closes("closes-in-head", CLOSED, b"HTTP/1.1 200 OK\r\nContent-"),
        closes(
            "closes-in-chunk",
            Delivered(200),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf",
        ),
        // It closes with the request unread, which resets the connection, before or after that was written.
        case(
            "closes-at-once",
            Failed("endpoint", " before an answer came"),
            |_| Ok(()),
        ),
        case(
            "head-then-closes",
            Failed("endpoint", " before an answer came"),
            |stream| read_head(stream).map(drop),
        ),
        case("answers-before-the-body", Delivered(200), |stream| {
            read_head(stream)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            wait_for_close(stream)
        }),
    ]
}

/// Those that say what they shouldn't.
pub(super) fn nonsense() -> Vec<Case> {
    let redirect = Failed("push", "answered 302 Found; redirects are not followed");
    vec![
        answers("http-0.9", NOT_HTTP, "<html>hello</html>\r\n\r\n"),
        answers(
            "garbage",
            NOT_HTTP,
            vec![0xff, 0, 0xfe, b'\r', b'\n', b'\r', b'\n', 1, 2, 3],
        ),
        answers("ssh", NOT_HTTP, "SSH-2.0-OpenSSH_9.2\r\n"),
        answers("http-2-preface", NOT_HTTP, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        // The SETTINGS frame with which a server that speaks HTTP/2 only begins.
        answers(
            "http-2-settings",
            NOT_HTTP,
            vec![0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100],
        ),
        answers("http-3.7", NOT_HTTP, "HTTP/3.7 200 OK\r\n\r\n"),
        answers("status-out-of-range", NOT_HTTP, "HTTP/1.1 9999 Many\r\n\r\n"),
        answers(
            "status-799",
            Failed("push", "answered 799"),
            "HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n",
        ),
        answers("nul-in-header", NOT_HTTP, "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n"),
        answers(
            "negative-length",
            NOT_HTTP,
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        ),
        answers(
            "length-of-30-digits",
            NOT_HTTP,
            "HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999999999999999\r\n\r\n",
        ),
        answers(
            "two-lengths",
            NOT_HTTP,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        ),
        answers(
            "length-too-long",
            Delivered(200),
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        ),
        answers(
            "length-too-short",
            Delivered(200),
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello",
        ),
        answers(
            "chunked-garbage",
            Delivered(200),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        ),
        answers(
            "chunk-of-2-to-the-64",
            Delivered(200),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
        ),
        answers(
            "gzip-garbage",
            Delivered(200),
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        ),
        answers(
            "body-with-204",
            Delivered(204),
            "HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\nhello",
        ),
        answers("http-1.0", Delivered(200), "HTTP/1.0 200 OK\r\n\r\nhello"),
        answers(
            "switches",
            Failed("push", "answered 101 Switching Protocols"),
            "HTTP/1.1 101 On\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        ),
        case("redirect-loop", redirect, |stream| {
            let port = stream.local_addr()?.port();
            loop {
                read_request(stream)?;
                let head = format!(
                    "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/hook\r\nContent-Length: 0\r\n\r\n"
                );
                stream.write_all(head.as_bytes())?;
            }
        }),
    ]
}

/// Those whose TLS doesn't do. `trusted` is an authority that is trusted.
pub(super) fn bad_tls(trusted: &Authority) -> Vec<Case> {
    let expired = trusted.certify("127.0.0.1", |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let other_name = trusted.certify("other.example", |_| {});
    let stranger = Authority::new("a stranger").certify("127.0.0.1", |_| {});
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let self_signed = (own.cert, own.signing_key);
    let unknown = "TLS: certificate signed by an unknown authority";
    vec![
        by_tls(
            "tls-expired",
            "TLS: certificate expired",
            server_config(&expired, None),
        ),
        by_tls(
            "tls-wrong-name",
            "TLS: certificate is for another name",
            server_config(&other_name, None),
        ),
        by_tls("tls-stranger", unknown, server_config(&stranger, None)),
        by_tls("tls-self-signed", unknown, server_config(&self_signed, None)),
        Case {
            scheme: "https",
            ..case(
                "tls-not-at-all",
                Failed("endpoint", "TLS: the receiver doesn't speak TLS on this port"),
                |stream| {
                    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
                    wait_for_close(stream)
                },
            )
        },
        Case {
            scheme: "https",
            ..case(
                "tls-no-handshake",
                Failed("endpoint", "no connection within 1.5s"),
                wait_for_close,
            )
        },
    ]
}
