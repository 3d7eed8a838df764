//! Bodies that are no envelopes, too large, too slow, or cut off.

use super::*;

#[tokio::test]
async fn what_is_no_envelope_is_quarantined_as_it_came_and_answered_202() {
    let served = serve(options(), plain());
    let truncated = &envelope(&[event("acme/app", "1.4")]).into_bytes()[..300];
    let bodies: [&[u8]; 7] = [
        b"",
        b"null",
        b"[]",
        b"hello",
        truncated,
        b"{\"events\":7}",
        b"{\"x\":\"\xff\"}",
    ];
    for (count, body) in bodies.into_iter().enumerate() {
        let answer = served.send(&request_of_bytes(body)).await;
        assert_eq!(status(&answer), 202);
        assert_eq!(served.quarantined().len(), count + 1);
        let (why, kept) = served.newest_quarantined();
        assert_eq!(kept, body);
        assert!(why.contains("reason: unreadable\n"), "{why}");
    }
    assert!(served.intake.taken().is_empty());
    assert!(served.has_metric("shipbell_envelopes_total{answer=\"202_quarantined\",reason=\"\"} 7"));
}

#[tokio::test]
async fn a_bad_event_is_quarantined_alone() {
    let served = serve(options(), plain());
    let (bad_name, bad_type) = (event("Not/Valid", "1"), r#"{"id":7}"#.to_owned());
    let events = [
        event("acme/a", "1"),
        bad_name.clone(),
        bad_type.clone(),
        event("acme/b", "2"),
    ];
    assert_eq!(served.post(&envelope(&events)).await, 202);
    assert_eq!(served.intake.taken(), [["acme/a:1", "acme/b:2"]]);
    let (why, kept) = served.newest_quarantined();
    assert!(
        why.contains("reason: invalid_repository\ndetail: repository name \"Not/Valid\" is not valid"),
        "{why}"
    );
    assert_eq!(
        String::from_utf8(kept).unwrap(),
        format!("{bad_name}\n{bad_type}")
    );
    for reason in ["invalid_repository", "unreadable"] {
        let line = format!("shipbell_events_total{{verdict=\"quarantined\",reason=\"{reason}\"}} 1");
        assert!(served.has_metric(&line), "{line}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_202_and_only_its_beginning_kept() {
    let served = serve(options(), plain());
    let total = 50 << 20;
    let mut stream = served.connect().await;
    stream
        .write_all(head("Bearer new", total).as_bytes())
        .await
        .unwrap();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..50 {
        stream.write_all(&chunk).await.unwrap();
    }
    let first = answer(&mut stream).await;
    assert_eq!(status(&first), 202);
    let (why, kept) = served.newest_quarantined();
    assert!(
        why.contains("reason: too_large\n") && why.contains("body-bytes: 52428800\n"),
        "{why}"
    );
    assert_eq!(kept.len(), BODY_BYTES_MAX);
    // And the connection is as good as before.
    stream
        .write_all(&request(&envelope(&[event("acme/app", "1.4")])))
        .await
        .unwrap();
    assert_eq!(status(&answer(&mut stream).await), 202);
}

#[tokio::test]
async fn a_body_of_exactly_the_largest_size_is_taken() {
    let served = serve(options(), plain());
    let body = envelope(&[event("acme/app", "1.4")]);
    let padded = format!("{body}{}", " ".repeat(BODY_BYTES_MAX - body.len()));
    assert_eq!(served.post(&padded).await, 202);
    assert_eq!(served.intake.taken(), [["acme/app:1.4"]]);
    assert_eq!(served.post(&format!("{padded} ")).await, 202);
    assert!(served.intake.taken().is_empty());
    assert_eq!(served.quarantined().len(), 1);
}

#[tokio::test]
async fn a_large_body_that_never_ends_is_answered_202_when_its_time_is_up() {
    let served = serve(
        options(),
        listener::Options {
            body_timeout: Duration::from_millis(200),
            ..plain()
        },
    );
    let mut stream = served.connect().await;
    stream
        .write_all(head("Bearer new", 1 << 30).as_bytes())
        .await
        .unwrap();
    stream.write_all(&vec![b'x'; BODY_BYTES_MAX + 1]).await.unwrap();
    let answer = answer(&mut stream).await;
    assert!(
        status(&answer) == 202 && answer.contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
    assert_eq!(served.newest_quarantined().1.len(), BODY_BYTES_MAX);
}

#[tokio::test]
async fn a_body_that_is_cut_off_or_too_slow_is_neither_answered_nor_quarantined() {
    let served = serve(
        options(),
        listener::Options {
            body_timeout: Duration::from_millis(200),
            ..plain()
        },
    );
    let body = envelope(&[event("acme/app", "1.4")]);
    let cut = &request(&body)[..200];
    for shut_down in [true, false] {
        let mut stream = served.connect().await;
        stream.write_all(cut).await.unwrap();
        if shut_down {
            stream.shutdown().await.unwrap();
        }
        let mut text = Vec::new();
        let _closed = timeout(PATIENCE, stream.read_to_end(&mut text))
            .await
            .expect("not closed");
        assert!(!text.starts_with(b"HTTP/1.1 2") && !text.starts_with(b"HTTP/1.1 3"));
    }
    assert!(served.quarantined().is_empty());
    assert!(served.intake.taken().is_empty());
    assert!(served.has_metric("shipbell_envelopes_total{answer=\"cut\",reason=\"timeout\"} 1"));
    assert!(served.has_metric("shipbell_envelopes_total{answer=\"cut\",reason=\"client\"} 1"));
}

#[tokio::test]
async fn what_cannot_be_quarantined_is_answered_202_all_the_same() {
    let served = serve(options(), plain());
    let folder = served.folder.path();
    fs::remove_dir(folder).unwrap();
    fs::write(folder, "not a folder").unwrap();
    assert_eq!(served.post("garbage").await, 202);
    assert!(served.has_metric("shipbell_quarantine_failures_total 1"));
    fs::remove_file(folder).unwrap();
}

#[tokio::test]
async fn a_request_whose_body_ends_after_the_stop_is_still_taken() {
    let served = serve(options(), plain());
    let body = envelope(&[event("acme/app", "1.4")]);
    let head = head("Bearer new", body.len()).replace("Host: x\r\n", "Host: x\r\nExpect: 100-continue\r\n");
    let mut stream = served.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    // This tells that the request has begun.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    served.tasks.soft().cancel();
    stream.write_all(body.as_bytes()).await.unwrap();
    let answer = answer(&mut stream).await;
    assert!(
        status(&answer) == 202 && answer.contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
    assert_eq!(served.intake.taken(), [["acme/app:1.4"]]);
    timeout(PATIENCE, served.tasks.ended()).await.unwrap();
}

#[tokio::test]
async fn large_bodies_share_one_account_of_memory() {
    let ack_deadline = Duration::from_millis(100);
    let served = serve(
        Options {
            ack_deadline,
            ..options()
        },
        plain(),
    );
    let mut streams = Vec::new();
    // One more than fit, none of which ever ends.
    for _ in 0..17 {
        let mut stream = served.connect().await;
        stream
            .write_all(head("Bearer new", BODY_BYTES_MAX).as_bytes())
            .await
            .unwrap();
        stream.write_all(&vec![b' '; BODY_BYTES_MAX - 1]).await.unwrap();
        streams.push(stream);
    }
    let answers = streams.iter_mut().map(|stream| Box::pin(answer(stream)));
    let (first, ..) = futures_util::future::select_all(answers).await;
    assert_eq!(status(&first), 503);
    assert!(served.has_metric("shipbell_envelopes_total{answer=\"503\",reason=\"memory\"} 1"));
    assert_eq!(
        served.post(&envelope(&[event("acme/app", "1.4")])).await,
        202,
        "small ones need no account"
    );
}
