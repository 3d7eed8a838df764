//! The client against receivers that speak bytes, so that what is on the wire is what is checked.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    clock::Timestamp,
    image::{Digest, RepositoryName, Tag},
    secret::Secret,
    webhook::{
        Sizes,
        answer::{BODY_BYTES_MAX, BodyEnd},
        format::EventKind,
        guard::Author,
        way::{ClientCert, Credentials, TlsFiles, Way},
    },
};

mod answers;
mod kept;
mod proxies;
mod tls;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SIGNING: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn options() -> Options {
    Options {
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        user_agent: HeaderValue::from_static("WebHook Handler"),
        header_name: HeaderName::from_static("x-alin-webhook"),
        guard: Guard::default(),
        ca_file: None,
        proxy: None,
        idle_per_host_max: 4,
        idle_timeout: Duration::from_secs(4),
        connections_max: 100,
    }
}

fn client() -> Client {
    Client::new(options()).unwrap()
}

/// For receivers that never finish: what is waited for is this limit itself.
fn hasty_client() -> Client {
    Client::new(Options {
        timeout: Duration::from_millis(300),
        ..options()
    })
    .unwrap()
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint::plain("ci", url)
}

fn request(client: &Client, endpoint: &Endpoint) -> Result<Request, SendError> {
    let repository: RepositoryName = "acme/app".parse().unwrap();
    let tag: Tag = "1.4".parse().unwrap();
    let message = Message {
        repository: &repository,
        tag: Some(&tag),
        digest: &Digest::sha256(b""),
        public_host: "registry.example.com",
        sizes: &Sizes::default(),
        event: EventKind::Push,
        at: Timestamp::from_unix_millis(1_795_424_918_473),
    };
    client.request(endpoint, &message, "msg_1")
}

struct Receiver {
    listener: TcpListener,
    url: String,
}

impl Receiver {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        Self { listener, url }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// Takes one request, answers it with these bytes, and keeps the connection open.
    async fn answer(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.accept().await;
        read_request(&mut stream).await;
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn send_from(&self, client: &Client) -> Result<Answer, SendError> {
        client.send(&request(client, &endpoint(&self.url)).unwrap()).await
    }
}

/// Reads one request off the wire, as the text it is.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            });
            if body.len() == length.unwrap_or(0) {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "cut off: {text}");
    }
}

#[tokio::test]
async fn past_a_bound_no_connection_is_kept_whatever_hangs() {
    let client = Client::new(Options {
        connections_max: 4,
        ..options()
    })
    .unwrap();
    let hanging = Receiver::new().await;
    let hangs = async {
        let _ = hanging.send_from(&client).await;
    };
    let others = async {
        let _hanging = hanging.accept().await;
        let mut streams = Vec::new();
        for _ in 0..6 {
            let receiver = Receiver::new().await;
            let (sent, stream) = tokio::join!(receiver.send_from(&client), receiver.answer(OK));
            sent.unwrap();
            streams.push(stream);
        }
        for stream in streams.iter_mut().skip(3) {
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0, "it is closed");
        }
        for stream in streams.iter().take(3) {
            let read = stream.try_read(&mut [0; 16]).unwrap_err();
            assert_eq!(read.kind(), io::ErrorKind::WouldBlock, "it is open");
        }
    };
    tokio::select! {
        () = hangs => panic!("it was never answered"),
        () = others => {}
    }
}

#[tokio::test]
async fn the_wire_carries_exactly_these_bytes() {
    let receiver = Receiver::new().await;
    let port = receiver.listener.local_addr().unwrap().port();
    let client = client();
    let endpoint = Endpoint {
        secret: Some(Secret::inline(SIGNING)),
        headers: vec![(HeaderName::from_static("x-team"), HeaderValue::from_static("red"))],
        ..endpoint(&format!(
            "http://me:pw@127.0.0.1:{port}/a%20b/hook?token=a'b&c={{}}"
        ))
    };
    let request = request(&client, &endpoint).unwrap();
    let body = concat!(
        r#"{"image":"registry.example.com/acme/app:1.4","image_size":null,"layers":[],"#,
        r#""repository":"registry.example.com/acme/app","repository_size":null,"event":"push","#,
        r#""timestamp":"2026-11-23T09:08:38.473Z"}"#
    );
    let signature = SIGNING
        .parse::<super::super::sign::WebhookSecret>()
        .unwrap()
        .sign("msg_1", 1_795_424_918, body.as_bytes());
    let expected = [
        "POST /a%20b/hook?token=a'b&c={} HTTP/1.1",
        &format!("Host: 127.0.0.1:{port}"),
        "User-Agent: WebHook Handler",
        "Accept-Encoding: gzip, deflate",
        "Accept: */*",
        "Connection: keep-alive",
        "X-Alin-Webhook: acme/app:1.4",
        &format!("Content-Length: {}", body.len()),
        "Content-Type: application/json",
        "Webhook-Id: msg_1",
        "Webhook-Timestamp: 1795424918",
        &format!("Webhook-Signature: {signature}"),
        "Authorization: Basic bWU6cHc=",
        "X-Team: red",
        "",
        body,
    ]
    .join("\r\n");
    let server = async {
        let mut stream = receiver.accept().await;
        let text = read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        text
    };
    let (answer, wire) = tokio::join!(client.send(&request), server);
    assert_eq!(wire, expected);
    let answer = answer.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &*answer.body, answer.end),
        (200, &b"ok"[..], BodyEnd::Complete)
    );
    assert!(!format!("{request:?}").contains("token=") && !format!("{request:?}").contains("pw"));
}

#[test]
fn own_headers_add_and_replace_but_never_touch_the_frame() {
    let own = |name: &'static str, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let endpoint = Endpoint {
        headers: vec![
            own("user-agent", "curl"),
            own("authorization", "Bearer x"),
            own("x-team", "red"),
            own("x-team", "blue"),
            own("content-length", "0"),
            own("transfer-encoding", "chunked"),
            own("webhook-id", "msg_2"),
            own("x-alin-webhook", "other"),
            own("host", "other"),
        ],
        ..endpoint("http://me:pw@a.example/")
    };
    let request = request(&client(), &endpoint).unwrap();
    let all = |name| -> Vec<_> { request.headers().get_all(name).iter().collect() };
    assert_eq!(all("user-agent"), ["curl"]);
    assert_eq!(all("authorization"), ["Bearer x"]);
    assert_eq!(all("x-team"), ["red", "blue"]);
    assert_eq!(all("content-length"), [&request.body().len().to_string()]);
    assert_eq!(all("transfer-encoding"), [""; 0]);
    assert_eq!(all("webhook-id"), ["msg_1"]);
    assert_eq!(all("x-alin-webhook"), ["acme/app:1.4"]);
    assert_eq!(all("host"), ["a.example"]);
}

#[test]
fn credentials_are_sent_as_they_stand_in_their_files_and_marked_sensitive() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let with = |credentials| Endpoint {
        way: Some(Arc::new(Way {
            credentials: Some(credentials),
            ..Way::default()
        })),
        // The URL's user-info gives way.
        ..endpoint("http://old:old@a.example/")
    };
    let basic = with(Credentials::Basic {
        username: "me".into(),
        password: Secret::file(&file),
    });
    let bearer = with(Credentials::Bearer(Secret::file(&file)));
    let missing = request(&client(), &basic).unwrap_err().to_string();
    assert!(
        missing.starts_with("the endpoint's password can't be read"),
        "{missing}"
    );
    for (text, encoded) in [("pw", "Basic bWU6cHc="), ("pw:2", "Basic bWU6cHc6Mg==")] {
        std::fs::write(&file, format!("{text}\n")).unwrap();
        for (endpoint, expected) in [(&basic, encoded), (&bearer, &*format!("Bearer {text}"))] {
            let request = request(&client(), endpoint).unwrap();
            let value = &request.headers()["authorization"];
            assert_eq!(value, expected);
            assert!(value.is_sensitive());
        }
    }
    // A receiver would refuse these, and each push would be given up for it.
    for (text, why) in [("two\nlines", "more than a line"), ("\n", "it is empty")] {
        std::fs::write(&file, text).unwrap();
        for (endpoint, what) in [(&basic, "password"), (&bearer, "bearer token")] {
            let error = request(&client(), endpoint).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(why), "{error}");
        }
    }
}

#[test]
fn a_header_in_a_file_is_sent_as_it_stands_there_beside_those_that_are_written_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let name = HeaderName::from_static("x-token");
    let endpoint = Endpoint {
        headers: vec![(HeaderName::from_static("x-team"), HeaderValue::from_static("red"))],
        way: Some(Arc::new(Way {
            header_files: vec![(name, Secret::file(&file))],
            ..Way::default()
        })),
        ..endpoint("http://a.example/")
    };
    let missing = request(&client(), &endpoint).unwrap_err().to_string();
    assert!(
        missing.starts_with("the endpoint's header can't be read"),
        "{missing}"
    );
    for text in ["first", "second"] {
        std::fs::write(&file, format!("{text}\n")).unwrap();
        let request = request(&client(), &endpoint).unwrap();
        let value = &request.headers()["x-token"];
        assert_eq!((value.to_str().unwrap(), value.is_sensitive()), (text, true));
        assert_eq!(request.headers()["x-team"], "red");
    }
    for (text, why) in [("two\nlines", "more than a line"), ("", "it is empty")] {
        std::fs::write(&file, text).unwrap();
        let error = request(&client(), &endpoint).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn settings_that_can_not_be_used_say_so_without_a_secret() {
    let client = client();
    let error = |endpoint: &Endpoint| request(&client, endpoint).unwrap_err().to_string();
    let gone = Endpoint {
        url: Secret::file("/nonexistent/url"),
        ..endpoint("")
    };
    assert!(error(&gone).starts_with("the endpoint's URL can't be read: No such file"));
    assert_eq!(
        error(&endpoint("ftp://me:hunter2@a/?hunter2")),
        "the endpoint's URL is not usable: it begins with neither http:// nor https://"
    );
    let unsigned = Endpoint {
        secret: Some(Secret::inline("hunter2")),
        ..endpoint("http://a/")
    };
    assert!(error(&unsigned).contains("neither whsec_") && !error(&unsigned).contains("hunter2"));
    let unreachable = Endpoint {
        way: Some(Arc::new(Way {
            proxy: Some(Secret::inline("ftp://hunter2@p")),
            ..Way::default()
        })),
        ..endpoint("http://a/")
    };
    assert_eq!(
        error(&unreachable),
        "the endpoint's proxy is not usable: it begins with neither http:// nor socks5://"
    );
}

#[test]
fn while_a_secret_is_rotated_both_sign_the_new_one_first() {
    let rotated = Endpoint {
        secret: Some(Secret::inline("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        previous_secret: Some(Secret::inline(SIGNING)),
        ..endpoint("http://a/")
    };
    let only_old = Endpoint {
        secret: Some(Secret::inline(SIGNING)),
        ..endpoint("http://a/")
    };
    let signature = |endpoint| {
        let request = request(&client(), endpoint).unwrap();
        request.headers()["webhook-signature"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let (both, old) = (signature(&rotated), signature(&only_old));
    assert_eq!(both.split(' ').count(), 2);
    assert_eq!(both.split(' ').next_back().unwrap(), old);
}

#[test]
fn keys_of_both_kinds_sign_side_by_side() {
    const PRIVATE: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
    let mixed = Endpoint {
        secret: Some(Secret::inline(PRIVATE)),
        previous_secret: Some(Secret::inline(SIGNING)),
        ..endpoint("http://a/")
    };
    let request = request(&client(), &mixed).unwrap();
    let header = request.headers()["webhook-signature"].to_str().unwrap();
    let signed = |key: &str| {
        let key: super::super::sign::SigningKey = key.parse().unwrap();
        key.sign("msg_1", 1_795_424_918, request.body())
    };
    assert_eq!(header, format!("{} {}", signed(PRIVATE), signed(SIGNING)));
    assert!(header.starts_with("v1a,") && header.contains(" v1,"));
}

#[test]
fn a_url_is_taken_apart_once_and_again_when_its_file_says_another() {
    let client = client();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    let by_file = Endpoint {
        url: Secret::file(&file),
        ..endpoint("")
    };
    let target = |endpoint: &Endpoint| client.target(endpoint);
    std::fs::write(&file, "http://a.example/hook?token=1").unwrap();
    let first = target(&by_file).unwrap();
    assert!(Arc::ptr_eq(&first, &target(&by_file).unwrap()));
    let same = target(&endpoint("http://a.example/hook?token=1"));
    assert!(Arc::ptr_eq(&first, &same.unwrap()));
    std::fs::write(&file, "http://a.example/hook?token=12").unwrap();
    let second = target(&by_file).unwrap();
    assert_eq!(second.uri(), "http://a.example/hook?token=12");
    std::fs::write(&file, "http://a.example:0/").unwrap();
    for _ in 0..2 {
        assert_eq!(target(&by_file).unwrap_err(), SendError::Url(InvalidUrl::Port));
    }
}
