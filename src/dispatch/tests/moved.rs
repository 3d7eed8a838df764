//! Endpoints that are set otherwise, or go, while something is under way to them.

use super::{states::View, *};

/// A receiver that takes one request, and answers when it is told to.
struct Slow {
    url: String,
    listener: TcpListener,
}

impl Slow {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            url: format!("http://{}/hook", listener.local_addr().unwrap()),
            listener,
        }
    }

    /// Waits for the request, and gives back the connection to answer on.
    async fn request(&self) -> TcpStream {
        let accepted = tokio::time::timeout(SOON, self.listener.accept()).await;
        let (mut stream, _) = accepted.expect("a request").unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        stream
    }
}

fn put(stage: &Stage, url: &str, rate: Rate) {
    stage.dispatcher.0.parts.endpoints.put(endpoint("ci", url, rate));
}

fn view(stage: &Stage) -> View {
    stage.dispatcher.0.parts.states.view(&named("ci"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_his_turn_is_sent_where_the_endpoint_is_by_then() {
    let (folder, old, new) = (folder(), Hook::start(200).await, Hook::start(200).await);
    let once_an_hour = Rate {
        per_second: Some(1.0 / 3600.0),
    };
    let stage = Stage::start(&folder, vec![endpoint("ci", &old.url, once_an_hour)]).await;
    let pushes = ["a", "b", "c", "d"].map(|repository| push(repository, "v1", &["ci"]));
    stage.take(pushes.to_vec()).await;
    old.wait_for(1).await;
    put(&stage, &new.url, UNPACED);
    new.wait_for(3).await;
    stage.wait_for_nothing_owed().await;
    let mut images = [old.images(), new.images()].concat();
    images.sort();
    assert_eq!(images, ["a:v1", "b:v1", "c:v1", "d:v1"]);
    assert_eq!(old.came().len(), 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_url_answers_is_not_held_against_the_new_one() {
    for refusal in ["410 Gone", "503 Service Unavailable", "422 Unprocessable Content"] {
        let (folder, old, new) = (folder(), Slow::start().await, Hook::start(200).await);
        let stage = Stage::start(&folder, vec![endpoint("ci", &old.url, UNPACED)]).await;
        stage.take(vec![push("a", "v1", &["ci"])]).await;
        let mut request = old.request().await;
        put(&stage, &new.url, UNPACED);
        let answer = format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n");
        request.write_all(answer.as_bytes()).await.unwrap();
        new.wait_for(1).await;
        stage.wait_for_nothing_owed().await;
        assert_eq!(view(&stage).state, health::State::Healthy, "{refusal}");
        assert_eq!(stage.letters().stats().letters, 0, "{refusal}");
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_for_what_is_set_otherwise_by_then_is_sent_at_once() {
    let (folder, slow) = (folder(), Slow::start().await);
    let ci = vec![endpoint("ci", &slow.url, UNPACED)];
    // Refused, it would wait an hour.
    let options = Options {
        schedule: RetrySchedule::new(vec![Duration::from_hours(1)], 0.0).unwrap(),
        ..dispatch_options()
    };
    let stage = Stage::start_by(&folder, ci, Bounds::default(), options, Clock::system()).await;
    let answer = async |mut request: TcpStream, status| {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        request.write_all(answer.as_bytes()).await.unwrap();
    };
    stage.take(vec![push("a", "v1", &["ci"])]).await;
    let request = slow.request().await;
    let with_secret = Endpoint {
        secret: Some(Secret::inline("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
        ..endpoint("ci", &slow.url, UNPACED)
    };
    stage.dispatcher.0.parts.endpoints.put(with_secret.clone());
    answer(request, "401 Unauthorized").await;
    answer(slow.request().await, "200 OK").await;
    stage.wait_for_nothing_owed().await;

    // Its pace has nothing to do with it.
    stage.take(vec![push("b", "v1", &["ci"])]).await;
    let request = slow.request().await;
    let rate = Rate {
        per_second: Some(1000.0),
    };
    stage
        .dispatcher
        .0
        .parts
        .endpoints
        .put(Endpoint { rate, ..with_secret });
    answer(request, "401 Unauthorized").await;
    let parts = &stage.dispatcher.0.parts;
    eventually("it waits", async || {
        let kept = parts.settings.refusals(parts.journal.id()).unwrap();
        kept.iter().map(|refusal| refusal.failures).eq([1])
    })
    .await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_url_takes_heals_nothing() {
    for is_test in [false, true] {
        let (folder, old, new) = (folder(), Slow::start().await, Hook::start(200).await);
        let stage = Stage::start(&folder, vec![endpoint("ci", &old.url, UNPACED)]).await;
        let ci = named("ci");
        let sent = async {
            if is_test {
                let _ = stage.dispatcher.test(&ci, None).await.unwrap();
            } else {
                stage.take(vec![push("a", "v1", &["ci"])]).await;
                stage.wait_for_nothing_owed().await;
            }
        };
        let moved = async {
            let mut request = old.request().await;
            put(&stage, &new.url, UNPACED);
            stage.happens(&ci, Verdict::Gone);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            request.write_all(answer).await.unwrap();
            request
        };
        let ((), _open) = tokio::join!(sent, moved);
        assert_eq!(view(&stage).state, health::State::Ignored, "test: {is_test}");
        assert_eq!(stage.letters().stats().letters, 0);
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_url_answers_that_it_still_has_counts() {
    let (folder, old) = (folder(), Slow::start().await);
    let stage = Stage::start(&folder, vec![endpoint("ci", &old.url, UNPACED)]).await;
    stage.take(vec![push("a", "v1", &["ci"])]).await;
    let mut request = old.request().await;
    // The same but for its pace.
    put(
        &stage,
        &old.url,
        Rate {
            per_second: Some(1.0),
        },
    );
    request
        .write_all(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    stage.wait_for_letters(1).await;
    assert_eq!(view(&stage).state, health::State::Ignored);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_endpoint_went_while_it_was_taken_is_a_dead_letter_that_says_so() {
    let (folder, hook) = (folder(), Hook::start(200).await);
    let stage = Stage::start(&folder, vec![endpoint("other", &hook.url, UNPACED)]).await;
    stage.take(vec![push("a", "v1", &["ci", "other"])]).await;
    stage.wait_for_letters(1).await;
    hook.wait_for(1).await;
    stage.wait_for_nothing_owed().await;
    let letters = stage.letters().list(all(), None, 10).await.unwrap();
    let reasons: Vec<_> = letters.letters.iter().map(|kept| &*kept.letter.reason).collect();
    assert_eq!(reasons, ["its endpoint is gone from the configuration"]);
    stage.stop().await;
}
