//! What is sent again, and has to wait before it is: something else may have happened by then.

use super::{
    again::Past,
    authority::Authority,
    by_hand::with_a_letter_whose_turn_is_not_yet,
    letters::Run,
    replays::{sequence, with_letters},
    *,
};
use crate::settings::Order;

/// A stage with letters of these tags, whose endpoint failed at the one that is sent first of those with `first`: it waits
/// for an attempt, and so does that letter.
async fn that_waits_for_its_endpoint(folder: &TempDir, hook: &Hook, tags: &[&str], first: &str) -> Stage {
    let stage = with_letters(folder, hook, UNPACED, tags).await;
    let before = hook.came().len();
    stage.happens(&named("ci"), Verdict::Failed { retry_after: None });
    hook.answer(503);
    replay(&stage, first).await;
    hook.wait_for(before + 1).await;
    eventually("it is written down", async || {
        let number = tags.iter().position(|tag| *tag == first).unwrap() + 1;
        let letter = stage.letters().get(i64::try_from(number).unwrap()).await.unwrap();
        letter.is_some_and(|kept| kept.letter.attempts == Some(3))
    })
    .await;
    hook.answer(200);
    stage
}

async fn replay(stage: &Stage, tag: &str) {
    let filter = LetterFilter {
        tag: Some(tag.parse().unwrap()),
        ..all()
    };
    let replayed = stage
        .letters()
        .replay(filter, Order::KeepNewest, Run::Real, Authority::Endpoint)
        .await
        .unwrap();
    assert_eq!(replayed.replayed, 1, "{replayed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_discarded_while_their_endpoint_is_waited_for_are_not_sent() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = that_waits_for_its_endpoint(&folder, &hook, &["1", "2"], "1").await;
    let before = hook.came().len();
    assert_eq!(stage.letters().discard(all()).await.unwrap(), 2);
    let states = &stage.dispatcher.0.parts.states;
    states.happen(&named("ci"), Event::Healed, "a test passed");
    // A letter that is marked now goes behind those that were before.
    hook.answer(404);
    stage.take(vec![push("acme/app", "3", &["ci"])]).await;
    stage.wait_for_letters(1).await;
    hook.answer(200);
    replay(&stage, "3").await;
    stage.wait_for_letters(0).await;
    let images = hook.images().split_off(before);
    assert_eq!(images, ["acme/app:3"; 3]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_letter_that_is_marked_while_the_endpoint_is_waited_for_goes_first() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = that_waits_for_its_endpoint(&folder, &hook, &["1", "2"], "2").await;
    let before = hook.came().len();
    // It goes at once, and heals the endpoint.
    replay(&stage, "1").await;
    stage.wait_for_letters(0).await;
    let images = hook.images().split_off(before);
    assert_eq!(images, ["acme/app:1", "acme/app:2"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_turn_is_not_sent_to_an_endpoint_that_fails_meanwhile() {
    for is_set in [false, true] {
        let (folder, hook) = (folder(), Hook::start(404).await);
        let stage = with_a_letter_whose_turn_is_not_yet(&folder, &hook, 1.0).await;
        let (dispatcher, ci, before) = (&stage.dispatcher, named("ci"), hook.came().len());
        if is_set {
            let past = Past {
                journal: None,
                sequence: sequence(1),
                endpoint: ci.clone(),
            };
            let again =
                dispatcher.redeliver_all(vec![past], Order::KeepNewest, Run::Real, Authority::Endpoint);
            assert_eq!(again.await.unwrap().again, 1);
        } else {
            replay(&stage, "1").await;
        }
        // Then it was seen that the endpoint is healthy.
        eventually("it waits for its turn", async || {
            !dispatcher.0.replays.is_asked(&ci)
        })
        .await;
        let retry_after = Some(Duration::from_hours(1));
        stage.happens(&ci, Verdict::Failed { retry_after });
        // Who sends by hand does so whatever the state, and comes behind it.
        let sent = dispatcher.redeliver(None, sequence(2), &ci, Order::KeepNewest, Authority::Endpoint);
        sent.await.unwrap();
        let images = hook.images().split_off(before);
        assert_eq!(images, ["acme/app:2"], "a set: {is_set}");
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_waits_for_a_history_that_cannot_be_read_for_a_while() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2"]).await;
    hook.answer(200);
    stage.take(vec![push("acme/app", "3", &["ci"])]).await;
    stage.wait_for_nothing_owed().await;
    stage.stop().await;
    let per_second = Some(1.0);
    let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, Rate { per_second })]).await;
    let (dispatcher, ci) = (&stage.dispatcher, named("ci"));
    let by_hand = async |number| {
        let sent = dispatcher.redeliver(None, sequence(number), &ci, Order::Force, Authority::Endpoint);
        sent.await.unwrap()
    };
    by_hand(1).await;
    let past = Past {
        journal: None,
        sequence: sequence(3),
        endpoint: ci.clone(),
    };
    let again = dispatcher.redeliver_all(vec![past], Order::Force, Run::Real, Authority::Endpoint);
    assert_eq!(again.await.unwrap().again, 1);
    eventually("it waits for its turn", async || {
        !dispatcher.0.replays.is_asked(&ci)
    })
    .await;
    let before = hook.came().len();
    let set_version = |version: i32| {
        let connection = rusqlite::Connection::open(stage.folder.join(catalog::FILE)).unwrap();
        connection.busy_timeout(SOON).unwrap();
        connection.pragma_update(None, "user_version", version).unwrap();
    };
    set_version(99);
    // This one's turn comes behind.
    by_hand(2).await;
    assert_eq!(hook.images().split_off(before), ["acme/app:2"]);
    set_version(catalog::VERSION);
    let came = hook.wait_for(before + 2).await;
    assert_eq!(came.last().unwrap().image, "acme/app:3");
    stage.stop().await;
}
