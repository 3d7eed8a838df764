//! What is sent again by somebody who may edit a repository and decides nothing over an operator's endpoint.

use super::{
    again::Past,
    authority::Authority,
    health::State,
    letters::Run,
    redeliver::Redelivered,
    replays::{sequence, with_letters},
    *,
};
use crate::settings::Order;

async fn again(stage: &Stage, number: u64, authority: Authority) {
    let ci = named("ci");
    let sent = stage
        .dispatcher
        .redeliver(None, sequence(number), &ci, Order::Force, authority);
    let sent = sent.await.unwrap();
    assert!(matches!(sent, Redelivered::Sent(_)), "{sent:?}");
}

#[test]
fn a_repositorys_own_endpoint_is_decided_over_by_its_editors() {
    let own = EndpointId::Repository("acme/app".parse().unwrap());
    assert_eq!(Authority::Repositories.over(&own), Authority::Endpoint);
    assert_eq!(Authority::Endpoint.over(&named("ci")), Authority::Endpoint);
    assert_eq!(
        Authority::Repositories.over(&named("ci")),
        Authority::Repositories
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn their_failures_say_nothing_of_an_operators_endpoint_and_their_successes_heal_it() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1"]).await;
    let (ci, states) = (named("ci"), &stage.dispatcher.0.parts.states);
    for status in [503, 503, 503, 503, 429, 410] {
        hook.answer(status);
        again(&stage, 1, Authority::Repositories).await;
        assert_eq!(states.state(&ci), State::Healthy, "{status}");
    }
    let page = stage.letters().list(all(), None, 10).await.unwrap();
    assert_eq!(page.letters[0].letter.attempts, Some(8), "they were made");
    hook.answer(503);
    again(&stage, 1, Authority::Endpoint).await;
    assert!(states.is_failing(&ci));
    hook.answer(200);
    again(&stage, 1, Authority::Repositories).await;
    assert_eq!(states.state(&ci), State::Healthy);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_their_sets_what_is_left_is_given_up_when_the_endpoint_fails() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2", "3", "4", "5"]).await;
    let (before, dispatcher, ci) = (hook.came().len(), &stage.dispatcher, named("ci"));
    hook.answer(503);
    let past = |number| Past {
        journal: None,
        sequence: sequence(number),
        endpoint: named("ci"),
    };
    let set = || (1..=5).map(past).collect::<Vec<_>>();
    let is_over = async || !dispatcher.is_sent_again(None, sequence(5), &named("ci"));
    for authority in [Authority::Repositories, Authority::Repositories] {
        let at = hook.came().len();
        let counted = dispatcher.redeliver_all(set(), Order::KeepNewest, Run::Real, authority);
        assert_eq!(counted.await.unwrap().again, 5);
        eventually("given up", is_over).await;
        assert_eq!(hook.came().len(), at + 3);
        assert_eq!(dispatcher.0.parts.states.state(&ci), State::Healthy);
    }
    assert_eq!(hook.came().len(), before + 6);
    assert_eq!(stage.letters().stats().letters, 5, "and are kept");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn their_letters_wait_for_an_operators_endpoint_that_fails() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1"]).await;
    let (before, ci) = (hook.came().len(), named("ci"));
    stage.happens(&ci, Verdict::Failed { retry_after: None });
    hook.answer(200);
    let letters = stage.letters();
    let replayed = letters.replay(all(), Order::KeepNewest, Run::Real, Authority::Repositories);
    assert_eq!(replayed.await.unwrap().replayed, 1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(hook.came().len(), before);
    assert!(stage.dispatcher.is_sent_again(None, sequence(1), &ci));
    let states = &stage.dispatcher.0.parts.states;
    states.happen(&ci, Event::Enabled, "by the test");
    stage.wait_for_letters(0).await;
    stage.stop().await;
}

#[tokio::test]
async fn their_sets_wait_for_an_operators_endpoint_that_fails_and_those_of_who_decides_do_not() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2", "3", "4"]).await;
    let (before, dispatcher, ci) = (hook.came().len(), &stage.dispatcher, named("ci"));
    stage.happens(&ci, Verdict::Failed { retry_after: None });
    hook.answer(503);
    let set = async |numbers: &[u64], authority| {
        let past = |number: &u64| Past {
            journal: None,
            sequence: sequence(*number),
            endpoint: named("ci"),
        };
        let past = numbers.iter().map(past).collect();
        let again = dispatcher.redeliver_all(past, Order::KeepNewest, Run::Real, authority);
        assert_eq!(again.await.unwrap().again, numbers.len() as u64);
    };
    set(&[1, 2], Authority::Repositories).await;
    // An attempt is due, and the endpoint is owed nothing.
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(2)).await;
    tokio::time::resume();
    again(&stage, 4, Authority::Repositories).await;
    assert_eq!(hook.images().split_off(before), ["acme/app:4"]);
    // None is planned; behind theirs, it goes all the same.
    stage.happens(&ci, Verdict::Gone);
    set(&[3], Authority::Endpoint).await;
    let came = hook.wait_for(before + 2).await;
    assert_eq!(came.last().unwrap().image, "acme/app:3");
    let is_over = async || !dispatcher.is_sent_again(None, sequence(3), &named("ci"));
    eventually("it was sent once", is_over).await;
    hook.answer(200);
    dispatcher
        .0
        .parts
        .states
        .happen(&ci, Event::Enabled, "by the test");
    stage.wait_for_letters(2).await;
    let images = hook.images().split_off(before + 2);
    assert_eq!(images, ["acme/app:1", "acme/app:2"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_of_who_decides_gives_nothing_up_of_those_who_do_not() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2", "3", "4", "5", "6", "7"]).await;
    let (dispatcher, ci) = (&stage.dispatcher, named("ci"));
    stage.happens(&ci, Verdict::Gone);
    hook.answer(503);
    let set = async |numbers: std::ops::RangeInclusive<u64>, authority| {
        let past = |number| Past {
            journal: None,
            sequence: sequence(number),
            endpoint: named("ci"),
        };
        let past = numbers.map(past).collect();
        let again = dispatcher.redeliver_all(past, Order::KeepNewest, Run::Real, authority);
        again.await.unwrap();
    };
    let is_over = |number| {
        let ci = named("ci");
        async move || !dispatcher.is_sent_again(None, sequence(number), &ci)
    };
    set(1..=4, Authority::Repositories).await;
    for number in 5..=7 {
        set(number..=number, Authority::Endpoint).await;
        eventually("it was sent", is_over(number)).await;
    }
    let before = hook.came().len();
    dispatcher
        .0
        .parts
        .states
        .happen(&ci, Event::Enabled, "by the test");
    eventually("given up", is_over(4)).await;
    let images = hook.images().split_off(before);
    assert_eq!(images, ["acme/app:1", "acme/app:2", "acme/app:3"]);
    stage.stop().await;
}

#[tokio::test]
async fn their_sets_wait_a_day_for_an_endpoint_that_is_not_healthy() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2"]).await;
    let (before, dispatcher, ci) = (hook.came().len(), &stage.dispatcher, named("ci"));
    stage.happens(&ci, Verdict::Gone);
    let past = |number| Past {
        journal: None,
        sequence: sequence(number),
        endpoint: named("ci"),
    };
    let set = dispatcher.redeliver_all(
        vec![past(1), past(2)],
        Order::KeepNewest,
        Run::Real,
        Authority::Repositories,
    );
    assert_eq!(set.await.unwrap().again, 2);
    tokio::task::yield_now().await;
    let later = async |hours| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_hours(hours)).await;
        tokio::time::resume();
        tokio::task::yield_now().await;
        dispatcher.is_sent_again(None, sequence(2), &ci)
    };
    assert!(later(23).await, "they wait");
    assert!(!later(2).await, "and then no longer");
    assert_eq!(hook.came().len(), before);
    assert_eq!(stage.letters().stats().letters, 2, "letters stay");
    stage.stop().await;
}
