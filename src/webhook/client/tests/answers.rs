//! What receivers answer: slow, endless, torn, or nothing that could be understood.

use super::*;

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let receiver = Receiver::new().await;
    let client = client();
    let redirect = format!(
        "HTTP/1.1 307 Elsewhere\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
        receiver.url
    );
    let (answer, _stream) = tokio::join!(receiver.send_from(&client), receiver.answer(redirect.as_bytes()));
    assert_eq!(answer.unwrap().status, 307);
}

#[tokio::test]
async fn early_hints_are_passed_over() {
    let receiver = Receiver::new().await;
    let client = client();
    let bytes = [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK].concat();
    let (answer, _stream) = tokio::join!(receiver.send_from(&client), receiver.answer(&bytes));
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up_on_in_time() {
    let receiver = Receiver::new().await;
    let client = hasty_client();
    let (answer, _stream) = tokio::join!(receiver.send_from(&client), receiver.accept());
    assert_eq!(
        answer.unwrap_err().to_string(),
        "connected, but no answer within 300ms"
    );
}

#[tokio::test]
async fn a_tls_receiver_that_never_shakes_hands_is_given_up_on_in_time() {
    let receiver = Receiver::new().await;
    let client = Client::new(Options {
        connect_timeout: Duration::from_millis(200),
        ..options()
    })
    .unwrap();
    let request = request(&client, &endpoint(&receiver.url.replace("http:", "https:"))).unwrap();
    let (answer, _stream) = tokio::join!(client.send(&request), receiver.accept());
    assert_eq!(answer.unwrap_err().to_string(), "no connection within 200ms");
}

#[tokio::test]
async fn when_the_body_drags_the_status_counts_and_what_came_is_kept() {
    let receiver = Receiver::new().await;
    let client = hasty_client();
    let bytes = b"HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\nhalf";
    let (answer, _stream) = tokio::join!(receiver.send_from(&client), receiver.answer(bytes));
    let answer = answer.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &*answer.body, answer.end),
        (202, &b"half"[..], BodyEnd::Late)
    );
}

#[tokio::test]
async fn when_the_body_breaks_off_the_status_counts_too() {
    let receiver = Receiver::new().await;
    let client = client();
    let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let (answer, ()) = tokio::join!(receiver.send_from(&client), async {
        drop(receiver.answer(bytes).await);
    });
    let answer = answer.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &*answer.body, answer.end),
        (200, &b"half"[..], BodyEnd::Broken)
    );
}

#[tokio::test]
async fn an_endless_body_is_cut_at_its_cap() {
    let receiver = Receiver::new().await;
    let client = client();
    let answer = tokio::select! {
        answer = receiver.send_from(&client) => answer.unwrap(),
        () = flood(&receiver, b"HTTP/1.1 200 OK\r\n\r\n", b"more and ") => unreachable!("the flood never ends"),
    };
    assert_eq!((answer.body.len(), answer.end), (BODY_BYTES_MAX, BodyEnd::Capped));
}

/// Takes a request and sends `first`, then `again` for ever.
async fn flood(receiver: &Receiver, first: &[u8], again: &[u8]) {
    let mut stream = receiver.answer(first).await;
    let again = again.repeat(1000);
    while stream.write_all(&again).await.is_ok() {}
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn endless_headers_end_the_attempt() {
    for (first, again) in [
        ("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"),
        ("HTTP/1.1 200 OK\r\nX-Long: ", "long"),
    ] {
        let receiver = Receiver::new().await;
        let client = client();
        let error = tokio::select! {
            answer = receiver.send_from(&client) => answer.unwrap_err(),
            () = flood(&receiver, first.as_bytes(), again.as_bytes()) => unreachable!("the flood never ends"),
        };
        assert_eq!(
            error.to_string(),
            "the answer's headers are too large (100 headers or 64 KiB)"
        );
    }
}

#[tokio::test]
async fn endless_interim_answers_end_with_the_time_limit() {
    let receiver = Receiver::new().await;
    let client = hasty_client();
    let interim = b"HTTP/1.1 102 Processing\r\n\r\n";
    let error = tokio::select! {
        answer = receiver.send_from(&client) => answer.unwrap_err(),
        () = flood(&receiver, interim, interim) => unreachable!("the flood never ends"),
    };
    assert_eq!(error, SendError::NoAnswer(Duration::from_millis(300)));
}

#[tokio::test]
async fn what_is_not_http_is_called_so() {
    let receiver = Receiver::new().await;
    let client = client();
    let (answer, _stream) = tokio::join!(
        receiver.send_from(&client),
        receiver.answer(b"SSH-2.0-OpenSSH_9.2\r\n")
    );
    assert_eq!(answer.unwrap_err().to_string(), "the answer is not HTTP/1.1");
}

#[tokio::test]
async fn a_reset_connection_is_called_so() {
    let receiver = Receiver::new().await;
    let client = client();
    let (answer, ()) = tokio::join!(receiver.send_from(&client), async {
        let mut stream = receiver.accept().await;
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    });
    assert_eq!(
        answer.unwrap_err().to_string(),
        "connection reset by the receiver before an answer came"
    );
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_name_are_called_so() {
    let client = client();
    let receiver = Receiver::new().await;
    let closed = request(&client, &endpoint(&receiver.url)).unwrap();
    drop(receiver);
    assert_eq!(
        client.send(&closed).await.unwrap_err().to_string(),
        "connection refused"
    );
    let unknown = request(&client, &endpoint("http://hook.invalid/?token=hunter2")).unwrap();
    let error = client.send(&unknown).await.unwrap_err();
    // Where no name server answers at all, the time limit ends it.
    assert!(
        matches!(
            error,
            SendError::Connect(ConnectError::Resolve { .. } | ConnectError::Late(_))
        ),
        "{error}"
    );
    assert!(!error.to_string().contains("hunter2"));
}
