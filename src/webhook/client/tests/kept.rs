//! Connections that are kept, and what becomes of a request when one is closed.

use super::*;

/// Sends once, which is answered, and once more.
async fn send_twice(receiver: &Receiver, client: &Client) -> Result<Answer, SendError> {
    receiver.send_from(client).await.unwrap();
    receiver.send_from(client).await
}

#[tokio::test]
async fn a_kept_connection_is_used_again() {
    let receiver = Receiver::new().await;
    let client = client();
    let sends = send_twice(&receiver, &client);
    let (answer, _stream) = tokio::join!(sends, async {
        let mut stream = receiver.answer(OK).await;
        read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        stream
    });
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn a_kept_connection_that_the_receiver_closed_is_replaced_in_silence() {
    let receiver = Receiver::new().await;
    let client = client();
    let (first, ()) = tokio::join!(receiver.send_from(&client), async {
        let mut stream = receiver.answer(OK).await;
        stream.shutdown().await.unwrap();
        // The client has noticed once it closes its side too.
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    });
    assert!(first.is_ok());
    let (second, _stream) = tokio::join!(receiver.send_from(&client), receiver.answer(OK));
    assert!(second.is_ok());
}

/// Takes one request and closes the connection without an answer.
async fn close_without_answer(mut stream: TcpStream, how: End) -> String {
    let text = read_request(&mut stream).await;
    if how == End::Reset {
        stream.set_zero_linger().unwrap();
    }
    text
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Close,
    Reset,
}

#[tokio::test]
async fn a_request_that_a_kept_connection_took_along_is_sent_again_at_once() {
    for how in [End::Close, End::Reset] {
        let receiver = Receiver::new().await;
        let client = Client::new(Options {
            idle_timeout: Duration::from_hours(1),
            ..options()
        })
        .unwrap();
        let sends = send_twice(&receiver, &client);
        let (second, (lost, again)) = tokio::join!(sends, async {
            let stream = receiver.answer(OK).await;
            let lost = close_without_answer(stream, how).await;
            let mut stream = receiver.accept().await;
            let again = read_request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            // It was opened for that request alone.
            let mut rest = [0; 16];
            let end = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut rest));
            assert_eq!(end.await.unwrap().unwrap(), 0);
            (lost, again)
        });
        assert_eq!(second.unwrap().status, 200);
        assert_eq!(lost, again);
    }
}

#[tokio::test]
async fn a_request_that_new_connections_took_along_is_not_sent_again() {
    for how in [End::Close, End::Reset] {
        let receiver = Receiver::new().await;
        let client = client();
        let words = match how {
            End::Close => "the receiver closed the connection before an answer came",
            End::Reset => "connection reset by the receiver before an answer came",
        };
        let lose = async || close_without_answer(receiver.accept().await, how).await;
        let (sent, _) = tokio::join!(receiver.send_from(&client), lose());
        assert_eq!(sent.unwrap_err().to_string(), words);
        // Nor when the new one is in the place of a kept one.
        let sends = send_twice(&receiver, &client);
        let (sent, _) = tokio::join!(sends, async {
            let stream = receiver.answer(OK).await;
            close_without_answer(stream, how).await;
            lose().await
        });
        assert_eq!(sent.unwrap_err().to_string(), words);
        // Were it sent once more, somebody would have connected.
        let connected = tokio::time::timeout(Duration::from_millis(50), receiver.accept()).await;
        assert!(connected.is_err());
    }
}

#[tokio::test]
async fn of_a_receiver_that_is_gone_it_is_told_that_the_request_was_lost_with_the_kept_connection() {
    let Receiver { listener, url } = Receiver::new().await;
    let client = client();
    let request = request(&client, &endpoint(&url)).unwrap();
    let sends = async {
        client.send(&request).await.unwrap();
        client.send(&request).await
    };
    let (sent, _) = tokio::join!(sends, async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        drop(listener);
        close_without_answer(stream, End::Close).await
    });
    let error = sent.unwrap_err();
    assert!(!error.is_before_sending(), "it may have arrived: {error}");
}

#[tokio::test]
async fn a_receiver_that_works_on_a_request_and_dies_is_not_sent_it_again_at_once() {
    let receiver = Receiver::new().await;
    let client = client();
    let sends = send_twice(&receiver, &client);
    let (sent, _) = tokio::join!(sends, async {
        let mut stream = receiver.answer(OK).await;
        let text = read_request(&mut stream).await;
        tokio::time::sleep(CLOSED_WITHIN).await;
        text
    });
    assert!(matches!(sent, Err(SendError::Lost(_))), "{sent:?}");
}
