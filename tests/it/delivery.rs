//! Retries, order and isolation (CONTRACT 4 and 5).

use std::time::Duration;

use crate::support::{
    SOON, envelope,
    image::{Blob, Image},
    ports,
    receiver::{Answer, Receiver, Request, images},
    shipbell::{Config, Shipbell},
};

/// What the machine may add to a wait while other tests keep it busy.
const SLACK: Duration = Duration::from_millis(900);

fn push(repository: &str, tag: &str) -> String {
    envelope::one(repository, tag)
}

#[test]
fn an_endpoint_in_trouble_is_retried_on_schedule_and_delays_nobody() {
    let mut refused = 0;
    let troubled = Receiver::scripted(move |request| {
        if request.image() == "acme/app:1" && refused < 3 {
            refused += 1;
            return Answer::Status(503);
        }
        Answer::Status(200)
    });
    let healthy = Receiver::start();
    let config = Config::without_registry()
        .with("delivery.retry_schedule = ['1s', '1500ms', '2s']\ndelivery.jitter = 0.0")
        .endpoint("troubled", &troubled.url("/"))
        .endpoint("healthy", &healthy.url("/"));
    let shipbell = Shipbell::start(config);
    shipbell.take(push("acme/app", "1"));
    troubled.wait_for(1, SOON);
    shipbell.take(push("acme/app", "2"));
    shipbell.take(push("acme/other", "1"));

    // The other endpoint does not wait for the retries; everything else for this one does.
    let elsewhere = healthy.wait_for(3, SOON);
    let other = troubled.wait_for_image("acme/other:1", SOON);
    let all = troubled.wait_for_image("acme/app:2", SOON);
    let attempts: Vec<&Request> = all
        .iter()
        .filter(|request| request.image() == "acme/app:1")
        .collect();
    assert_eq!(attempts.len(), 4);
    let second_retry = attempts[2].at;
    assert!(elsewhere.iter().all(|request| request.at < second_retry));
    let last_retry = attempts[3].at;
    assert!(
        other
            .iter()
            .all(|request| request.image() != "acme/other:1" || request.at > last_retry)
    );

    // The schedule is kept, with one id throughout; the next image waits its turn.
    for (pair, wait) in attempts.windows(2).zip([1_000, 1_500, 2_000]) {
        let (gap, wait) = (pair[1].at - pair[0].at, Duration::from_millis(wait));
        assert!(gap >= wait && gap < wait + SLACK, "{gap:?}, not {wait:?}");
        assert_eq!(pair[0].id(), pair[1].id());
    }
    let mut lane = images(&all);
    lane.retain(|image| image.starts_with("acme/app:"));
    assert_eq!(
        lane,
        [
            "acme/app:1",
            "acme/app:1",
            "acme/app:1",
            "acme/app:1",
            "acme/app:2"
        ]
    );
}

#[test]
fn an_endpoint_that_comes_up_later_gets_everything_in_order() {
    let port = ports::free();
    let config = Config::without_registry()
        .with("delivery.retry_schedule = ['300ms', '1s']\ndelivery.jitter = 0.0")
        .endpoint("hook", &format!("http://127.0.0.1:{port}/hook"));
    let shipbell = Shipbell::start(config);
    for tag in ["1", "2", "3"] {
        shipbell.take(push("acme/app", tag));
    }
    let receiver = Receiver::on(port, |_| Answer::Status(200));
    let requests = receiver.wait_for(3, SOON);
    assert_eq!(images(&requests), ["acme/app:1", "acme/app:2", "acme/app:3"]);
}

#[test]
fn an_attempt_without_an_answer_is_retried() {
    for failure in [Answer::Hold, Answer::Close] {
        let mut answers = [failure, Answer::Status(200)].into_iter();
        let receiver = Receiver::scripted(move |_| answers.next().unwrap());
        let config = Config::without_registry()
            .with("delivery.timeout = '300ms'\ndelivery.retry_schedule = ['100ms']")
            .endpoint("hook", &receiver.url("/hook"));
        let shipbell = Shipbell::start(config);
        shipbell.take(push("acme/app", "1"));
        let requests = receiver.wait_for(2, SOON);
        assert_eq!(requests[0].id(), requests[1].id());
    }
}

#[test]
fn retry_after_is_honoured() {
    let mut answers = [
        Answer::With(429, vec!["Retry-After: 2".to_owned()]),
        Answer::Status(200),
    ]
    .into_iter();
    let receiver = Receiver::scripted(move |_| answers.next().unwrap());
    let config = Config::without_registry()
        .with("delivery.retry_schedule = ['50ms']\ndelivery.jitter = 0.0")
        .endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    shipbell.take(push("acme/app", "1"));
    let requests = receiver.wait_for(2, SOON);
    let gap = requests[1].at - requests[0].at;
    assert!(gap >= Duration::from_millis(1_900), "{gap:?}");
}

#[test]
fn a_push_that_is_refused_is_given_up_on_and_the_next_one_goes_out() {
    let receiver = Receiver::scripted(|request| {
        Answer::Status(if request.image() == "acme/app:bad" {
            400
        } else {
            200
        })
    });
    let config = Config::without_registry()
        .with("delivery.retry_schedule = ['50ms', '100ms']\ndelivery.jitter = 0.0")
        .endpoint("hook", &receiver.url("/hook"));
    let mut shipbell = Shipbell::start(config);
    shipbell.take(push("acme/app", "bad"));
    shipbell.take(push("acme/app", "next"));
    let requests = receiver.wait_for_image("acme/app:next", SOON);
    let expected = ["acme/app:bad", "acme/app:bad", "acme/app:bad", "acme/app:next"];
    assert_eq!(
        images(&requests),
        expected,
        "the first attempt, and one for each step of the schedule"
    );

    // A dead letter stays one.
    shipbell.stop();
    shipbell.start_again();
    shipbell.take(push("acme/app", "last"));
    let requests = receiver.wait_for_image("acme/app:last", SOON);
    assert_eq!(requests.len(), 5);
}

#[test]
fn in_a_backlog_the_newest_of_a_tag_takes_the_place_of_the_older_ones() {
    let mut answers = [Answer::Hold].into_iter();
    let receiver = Receiver::scripted(move |_| answers.next().unwrap_or(Answer::Status(200)));
    let config = Config::without_registry()
        .with("batch.window = '0s'")
        .endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    let versions: Vec<Image> = (1..=4)
        .map(|size| Image::oci("version", &[size * 1_000]))
        .collect();
    let take = |tag: &str, image: &Image| {
        shipbell.take(envelope::of(&[envelope::push_with_references(
            "acme/app", tag, image,
        )]));
    };
    take("latest", &versions[0]);
    receiver.wait_for(1, SOON);
    take("latest", &versions[1]);
    take("1.0", &versions[2]);
    take("latest", &versions[3]);
    take("end", &versions[0]);
    receiver.release();
    let requests = receiver.wait_for_image("acme/app:end", SOON);
    let sent: Vec<(String, u64)> = requests
        .iter()
        .map(|request| (request.image(), request.json()["image_size"].as_u64().unwrap()))
        .collect();
    let size = |image: &Image| image.blobs.iter().map(Blob::size).sum::<u64>();
    assert_eq!(
        sent,
        [
            ("acme/app:latest".to_owned(), size(&versions[0])),
            ("acme/app:1.0".to_owned(), size(&versions[2])),
            ("acme/app:latest".to_owned(), size(&versions[3])),
            ("acme/app:end".to_owned(), size(&versions[0])),
        ],
        "what is in flight stays, what survives keeps its own place"
    );
}

#[test]
fn each_endpoint_is_paced() {
    let (paced, free) = (Receiver::start(), Receiver::start());
    let config = Config::without_registry()
        .with("[batch]\nwindow = '0s'")
        .with(&format!(
            "[[endpoints]]\nname = 'paced'\nrepositories = ['**']\nurl = '{}'\nrate = '5/s'",
            paced.url("/")
        ))
        .endpoint("free", &free.url("/"));
    let shipbell = Shipbell::start(config);
    let events: Vec<_> = (0..15)
        .map(|number| envelope::push(&format!("acme/app{number}"), "1", "any"))
        .collect();
    shipbell.take(envelope::of(&events));
    let unpaced = free.wait_for(15, SOON);
    let requests = paced.wait_for(15, SOON);
    // A second's worth may go at once; after that, five a second.
    let took = requests[14].at - requests[0].at;
    assert!(took >= Duration::from_millis(1_900), "{took:?}");
    for window in requests.windows(11) {
        let took = window[10].at - window[0].at;
        assert!(took >= Duration::from_millis(900), "eleven in {took:?}");
    }
    assert!(
        unpaced[14].at < requests[14].at,
        "the other endpoint has its own pace"
    );
}

#[test]
fn more_repositories_than_lanes_at_work_all_get_their_turn() {
    let receiver = Receiver::start();
    let config = Config::without_registry().endpoint("hook", &receiver.url("/"));
    let shipbell = Shipbell::start(config);
    let repositories: Vec<_> = (0..400).map(|number| format!("acme/app{number}")).collect();
    for chunk in repositories.chunks(50) {
        let events: Vec<_> = chunk
            .iter()
            .map(|repository| envelope::push(repository, "1", repository))
            .collect();
        shipbell.take(envelope::of(&events));
    }
    let mut images = images(&receiver.wait_for(400, SOON));
    let mut expected: Vec<_> = repositories.iter().map(|name| format!("{name}:1")).collect();
    images.sort();
    expected.sort();
    assert_eq!(images, expected);
}
