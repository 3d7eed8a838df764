//! Proxies, as bytes: what they are sent, and what their refusals are called.

use super::*;

/// A proxy on a raw socket, and the endpoint behind it.
async fn through(scheme: &str, url: &str) -> (Receiver, Client, Request) {
    let receiver = Receiver::new().await;
    let port = receiver.listener.local_addr().unwrap().port();
    let client = Client::new(Options {
        proxy: Some(Secret::inline(format!(
            "{scheme}://us%3Aer:hunter2@127.0.0.1:{port}"
        ))),
        ..options()
    })
    .unwrap();
    let request = request(&client, &endpoint(url)).unwrap();
    (receiver, client, request)
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn read_bytes<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn an_http_proxy_is_given_whole_urls_of_names_that_are_not_resolved_here() {
    // No such name exists, so whoever resolves it fails.
    let (receiver, client, request) = through("http", "http://hook.invalid/a?token=1").await;
    let server = async {
        let mut stream = receiver.accept().await;
        let text = read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        (text, stream)
    };
    let (answer, (text, _stream)) = tokio::join!(client.send(&request), server);
    assert_eq!(answer.unwrap().status, 200);
    assert!(text.starts_with("POST http://hook.invalid/a?token=1 HTTP/1.1\r\nHost: hook.invalid\r\n"));
    assert!(
        text.contains("\r\nProxy-Authorization: Basic dXM6ZXI6aHVudGVyMg==\r\n"),
        "{text}"
    );
    assert!(request.headers()["proxy-authorization"].is_sensitive());
}

#[tokio::test]
async fn an_http_proxy_tunnels_https_and_sees_nothing_of_the_request() {
    let (receiver, client, request) = through("http", "https://hook.invalid:8443/a?token=1").await;
    assert!(!request.headers().contains_key("proxy-authorization"));
    let server = async {
        let mut stream = receiver.accept().await;
        let head = read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 Established\r\n\r\n")
            .await
            .unwrap();
        (head, stream.read_u8().await.unwrap())
    };
    let (answer, (head, first)) = tokio::join!(client.send(&request), server);
    assert_eq!(
        head,
        "CONNECT hook.invalid:8443 HTTP/1.1\r\nHost: hook.invalid:8443\r\n\
         Proxy-Authorization: Basic dXM6ZXI6aHVudGVyMg==\r\n\r\n"
    );
    // A TLS handshake begins with 22; this one ends there.
    assert_eq!(first, 22);
    let error = answer.unwrap_err().to_string();
    assert!(error.starts_with("TLS: "), "{error}");
}

#[tokio::test]
async fn a_socks_proxy_is_given_the_name_and_then_the_request_as_it_is() {
    let (receiver, client, request) = through("socks5", "http://hook.invalid:81/a").await;
    let server = async {
        let mut stream = receiver.accept().await;
        assert_eq!(read_bytes(&mut stream).await, [5, 2, 0, 2]);
        stream.write_all(&[5, 2]).await.unwrap();
        assert_eq!(read_bytes(&mut stream).await, *b"\x01\x05us:er\x07hunter2");
        stream.write_all(&[1, 0]).await.unwrap();
        assert_eq!(
            read_bytes(&mut stream).await,
            *b"\x05\x01\x00\x03\x0chook.invalid\x00\x51"
        );
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let text = read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        (text, stream)
    };
    let (answer, (text, _stream)) = tokio::join!(client.send(&request), server);
    assert_eq!(answer.unwrap().status, 200);
    assert!(
        text.starts_with("POST /a HTTP/1.1\r\nHost: hook.invalid:81\r\n"),
        "{text}"
    );
    assert!(!text.to_lowercase().contains("proxy-"), "{text}");
}

#[tokio::test]
async fn addresses_in_urls_are_judged_before_a_proxy_is_asked() {
    let (receiver, client, _) = through("http", "http://a.example/").await;
    for (url, author) in [
        ("http://169.254.169.254/latest", Author::Operator),
        ("https://[::ffff:169.254.169.254]/", Author::Operator),
        ("http://10.0.0.1/", Author::User),
        ("http://localhost/", Author::User),
    ] {
        let endpoint = Endpoint {
            author,
            ..endpoint(url)
        };
        let error = client
            .send(&request(&client, &endpoint).unwrap())
            .await
            .unwrap_err();
        assert!(
            matches!(error, SendError::Connect(ConnectError::Refused(_))),
            "{url}: {error}"
        );
    }
    let asked = tokio::time::timeout(Duration::from_millis(50), receiver.accept()).await;
    assert!(asked.is_err(), "the proxy was connected to");
}

#[tokio::test]
async fn a_proxy_may_not_be_where_nobody_may_go() {
    let client = Client::new(Options {
        proxy: Some(Secret::inline("http://169.254.169.254:80")),
        ..options()
    })
    .unwrap();
    let request = request(&client, &endpoint("http://hook.invalid/")).unwrap();
    let error = client.send(&request).await.unwrap_err().to_string();
    assert!(
        error.starts_with("the proxy http://169.254.169.254:80 can't be reached: refused: "),
        "{error}"
    );
}

#[test]
fn the_proxy_for_all_is_not_got_past_by_a_word_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy");
    std::fs::write(&file, "http://127.0.0.1:3128").unwrap();
    let client = Client::new(Options {
        proxy: Some(Secret::file(&file)),
        ..options()
    })
    .unwrap();
    assert!(request(&client, &endpoint("http://a.example/")).is_ok());
    std::fs::write(&file, "direct").unwrap();
    let error = request(&client, &endpoint("http://a.example/")).unwrap_err();
    assert!(matches!(error, SendError::Proxy(_)), "{error}");
}

#[tokio::test]
async fn an_endpoint_can_have_a_proxy_of_its_own_or_none() {
    let (_proxy, client, _) = through("http", "http://a.example/").await;
    let own = |proxy: &str, url: &str| Endpoint {
        way: Some(Arc::new(Way {
            proxy: Some(Secret::inline(proxy)),
            ..Way::default()
        })),
        ..endpoint(url)
    };
    let receiver = Receiver::new().await;
    let direct = request(&client, &own("direct", &receiver.url)).unwrap();
    let (answer, _stream) = tokio::join!(client.send(&direct), receiver.answer(OK));
    assert_eq!(answer.unwrap().status, 200);

    let other = receiver.url.replace("/hook", "");
    let request = request(&client, &own(&other, "http://hook.invalid/")).unwrap();
    let (answer, _stream) = tokio::join!(client.send(&request), receiver.answer(OK));
    assert_eq!(answer.unwrap().status, 200);
}

/// What is said when a proxy answers the request for a way through with `bytes`, and then waits or closes.
async fn refusal(url: &str, bytes: &[u8], closes: bool) -> String {
    let (receiver, client, request) = through("http", url).await;
    let server = async {
        let mut stream = receiver.accept().await;
        if url.starts_with("https:") {
            read_head(&mut stream).await;
        } else {
            read_request(&mut stream).await;
        }
        stream.write_all(bytes).await.unwrap();
        if closes { None } else { Some(stream) }
    };
    let (answer, _stream) = tokio::join!(client.send(&request), server);
    let error = answer.unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let SendError::Connect(ConnectError::Proxy { proxy, failure }) = error else {
        unreachable!("{error}");
    };
    assert!(proxy.starts_with("http://127.0.0.1:"), "{proxy}");
    failure.to_string()
}

#[tokio::test]
async fn what_a_proxy_falls_short_of_is_told_apart() {
    let https = "https://hook.invalid/?token=hunter2";
    for (bytes, closes, said) in [
        (
            &b"HTTP/1.1 403 Forbidden\r\n\r\n"[..],
            false,
            "refuses the tunnel (CONNECT): it answered 403 Forbidden",
        ),
        (
            b"HTTP/1.1 407 No\r\n\r\n",
            false,
            "refuses the user's name or the password",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", false, "does not speak HTTP"),
        (
            b"HTTP/1.1 2",
            true,
            "broke off during CONNECT: the receiver closed the connection",
        ),
        (
            &[
                b"HTTP/1.1 200 OK\r\n".as_slice(),
                &b"X-More: and more\r\n".repeat(60),
            ]
            .concat(),
            true,
            "broke off during CONNECT: the receiver closed the connection",
        ),
        (
            &[b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 9_000]].concat(),
            false,
            "does not speak HTTP",
        ),
    ] {
        assert_eq!(refusal(https, bytes, closes).await, said);
    }
    let http = "http://hook.invalid/?token=hunter2";
    let said = refusal(http, b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", false).await;
    assert_eq!(said, "refuses the user's name or the password");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_or_never_answers_is_called_so() {
    let (receiver, _, _) = through("http", "http://a.example/").await;
    let silent = receiver.url.replace("/hook", "");
    let send = async |proxy: &str| {
        let client = Client::new(Options {
            connect_timeout: Duration::from_millis(200),
            proxy: Some(Secret::inline(proxy)),
            ..options()
        })
        .unwrap();
        let request = request(&client, &endpoint("https://hook.invalid/")).unwrap();
        client.send(&request).await.unwrap_err().to_string()
    };
    let (error, _stream) = tokio::join!(send(&silent), receiver.accept());
    assert_eq!(
        error,
        format!("the proxy {silent} did not finish CONNECT in time")
    );
    drop(receiver);
    assert_eq!(
        send(&silent).await,
        format!("the proxy {silent} can't be reached: connection refused")
    );
    let error = send("http://proxy.invalid:3128").await;
    assert!(
        error.starts_with("the proxy http://proxy.invalid:3128 "),
        "{error}"
    );
}
