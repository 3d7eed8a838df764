//! What is given up because there are too many pushes.

use super::*;

const REASON: &str = "too many pushes are owed (ingest.max_pending), and its endpoint takes none";

fn at_most(pushes_max: usize) -> Bounds {
    Bounds {
        pushes_max,
        ..Bounds::default()
    }
}

/// An endpoint that is healthy, and sent nothing before a day is over.
pub(super) fn patient(name: &str) -> Endpoint {
    let batching = Batching {
        window: Duration::from_hours(24),
        pushes_max: 1_000,
        coalesce: Coalesce::None,
    };
    Endpoint {
        batching: Arc::new(batching),
        ..endpoint(name, "http://127.0.0.1:1/", UNPACED)
    }
}

pub(super) fn numbered(numbers: std::ops::RangeInclusive<u32>, owed: &[&str]) -> Vec<Push> {
    numbers
        .map(|number| push("acme/app", &number.to_string(), owed))
        .collect()
}

/// The tags of all letters, in the order in which they were written.
async fn tags(stage: &Stage) -> Vec<String> {
    let page = stage.letters().list(all(), None, 1_000).await.unwrap();
    let letters = page.letters.into_iter().rev().map(|kept| kept.letter);
    let tags = letters.map(|letter| {
        assert_eq!((letter.endpoint, letter.reason.as_str()), (named("dead"), REASON));
        letter.tag.unwrap().to_string()
    });
    tags.collect()
}

fn strings(numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn past_so_many_pushes_the_oldest_of_an_endpoint_in_trouble_become_letters_and_nobody_elses() {
    let (folder, hook) = (folder(), Hook::start(200).await);
    let endpoints = || {
        vec![
            endpoint("live", &hook.url, UNPACED),
            endpoint("dead", "http://127.0.0.1:1/", UNPACED),
        ]
    };
    let stage = Stage::start_bounded(&folder, endpoints(), at_most(10)).await;
    // It is waited for, for an hour.
    stage.happens(&named("dead"), Verdict::Failed { retry_after: None });
    for number in 1..=30 {
        stage.take(numbered(number..=number, &["live", "dead"])).await;
        hook.wait_for(usize::try_from(number).unwrap()).await;
        // What it owes still would be passed over.
        let queue = &stage.dispatcher.0.parts.queue;
        eventually("it is settled", async || !queue.owes_anything(&named("live"))).await;
    }
    stage.wait_for_letters(20).await;
    eventually("the newest are owed", async || stage.owed() == 10).await;
    assert_eq!(tags(&stage).await, strings(1..=20));
    assert_eq!(hook.images().len(), 30);
    assert_eq!(stage.dispatcher.0.parts.queue.pending(), 10);
    stage.dispatcher.0.parts.states.save().await.unwrap();
    stage.stop().await;

    // So it is when a start finds too many.
    let stage = Stage::start_bounded(&folder, endpoints(), at_most(4)).await;
    stage.wait_for_letters(26).await;
    assert_eq!(tags(&stage).await, strings(1..=26));
    eventually("the newest are owed", async || stage.owed() == 4).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_healthy_endpoint_owes_too_is_not_given_up_in_vain_for_one_in_trouble() {
    let folder = folder();
    let endpoints = vec![patient("slow"), endpoint("dead", "http://127.0.0.1:1/", UNPACED)];
    let stage = Stage::start_bounded(&folder, endpoints, at_most(10)).await;
    stage.happens(&named("dead"), Verdict::Failed { retry_after: None });
    stage.take(numbered(1..=15, &["slow"])).await;
    stage.take(numbered(16..=40, &["slow", "dead"])).await;
    // These alone make room, and are behind all others.
    stage.take(numbered(41..=45, &["dead"])).await;
    stage.wait_for_letters(5).await;
    assert_eq!(tags(&stage).await, strings(41..=45));
    eventually("all else is owed", async || stage.owed() == 15 + 2 * 25).await;
    let queue = &stage.dispatcher.0.parts.queue;
    assert_eq!(queue.pending(), 40);
    assert!(
        queue.is_over(&crate::queue::Excess::Pushes),
        "they are still too many"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_endpoints_at_one_host_than_may_wait_hold_up_nobody_at_another() {
    let (folder, hook, hanging) = (
        folder(),
        Hook::start(200).await,
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let url = format!("http://{}/", hanging.local_addr().unwrap());
    let there = Endpoint::plain("", &url);
    let names: Vec<String> = (0..lanes::LANES_MAX + 500)
        .map(|number| format!("e{number}"))
        .collect();
    let all = names.iter().map(|name| Endpoint {
        id: named(name),
        ..there.clone()
    });
    let all = all.chain([Endpoint::plain("good", &hook.url)]).collect();
    let stage = Stage::start(&folder, all).await;
    for names in names.chunks(1_000) {
        let pushes = names.iter().map(|name| push(name, "v1", &[name]));
        stage.take(pushes.collect()).await;
    }
    let free = || stage.dispatcher.0.lanes.free();
    eventually("many wait", async || free() < lanes::LANES_MAX / 4 * 3).await;
    stage.take(vec![push("good", "v1", &["good"])]).await;
    hook.wait_for(1).await;
    // Half of what is free, and those that go again.
    assert!(free() > lanes::LANES_MAX / 4, "{}", free());
    stage.kill().await;
}
