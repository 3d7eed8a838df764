//! Single deliveries and sets of them sent again because somebody asked for it, and tests.

use super::{
    again::Past,
    authority::Authority,
    letters::{LettersError, Run},
    redeliver::{Redelivered, SendAgainError},
    replays::{sequence, with_letters},
    *,
};
use crate::{settings::Order, webhook::Outcome};

/// A stage with two letters, of which the first was just sent again: the second has to wait, at so many a second.
pub(super) async fn with_a_letter_whose_turn_is_not_yet(
    folder: &TempDir,
    hook: &Hook,
    per_second: f64,
) -> Stage {
    with_letters(folder, hook, UNPACED, &["1", "2"])
        .await
        .stop()
        .await;
    let per_second = Some(per_second);
    let stage = Stage::start(folder, vec![endpoint("ci", &hook.url, Rate { per_second })]).await;
    let (first, ci) = (sequence(1), named("ci"));
    let sent = stage
        .dispatcher
        .redeliver(None, first, &ci, Order::Force, Authority::Endpoint);
    sent.await.unwrap();
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_sent_again_by_hand_whether_it_was_delivered_or_died() {
    let (folder, hook) = (folder(), Hook::start(200).await);
    let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, UNPACED)]).await;
    stage.take(vec![push("acme/app", "1", &["ci"])]).await;
    stage.wait_for_nothing_owed().await;
    let ci = named("ci");
    let again = async |number, order| match stage
        .dispatcher
        .redeliver(None, sequence(number), &ci, order, Authority::Endpoint)
        .await?
    {
        Redelivered::Sent(sent) => Ok(*sent),
        Redelivered::Due => panic!("{number} was not over"),
    };
    let file = stage.folder.join(catalog::FILE);
    let journal = stage.dispatcher.0.parts.journal.id();
    eventually("it is written down", async || {
        let history = catalog::Reader::open(&file);
        let known = history.and_then(|history| history.delivery(journal, sequence(1), &named("ci")));
        known.is_ok_and(|known| known.is_some_and(|known| known.state == "delivered"))
    })
    .await;
    let sent = again(1, Order::KeepNewest).await.unwrap();
    assert_eq!(sent.outcome, Outcome::Delivered { status: 200 });
    let came = hook.came();
    assert_eq!(came.len(), 2);
    assert_eq!((&came[1].id, &came[1].id), (&came[0].id, &sent.webhook_id));
    assert_eq!(came[1].image, "acme/app:1");
    assert_eq!(sent.answer.as_deref(), Some(&b"said [masked]"[..]));
    assert!(sent.url.unwrap().ends_with("/hook?…"));

    // A dead letter: it stays when it is refused once more, and goes on 2xx.
    hook.answer(404);
    stage.take(vec![push("acme/app", "1", &["ci"])]).await;
    stage.wait_for_letters(1).await;
    let failed = again(2, Order::KeepNewest).await.unwrap();
    assert!(matches!(
        failed.outcome,
        Outcome::Failed {
            status: Some(404),
            ..
        }
    ));
    let page = stage.letters().list(all(), None, 10).await.unwrap();
    assert_eq!(page.letters[0].letter.attempts, Some(3));
    hook.answer(200);
    again(2, Order::KeepNewest).await.unwrap();
    assert_eq!(stage.letters().stats().letters, 0);

    // The older push of the tag only if it is forced; and nobody knows of the third.
    let refused = again(1, Order::KeepNewest).await.unwrap_err();
    assert!(matches!(refused, SendAgainError::Newer), "{refused}");
    again(1, Order::Force).await.unwrap();
    let unknown = again(3, Order::Force).await.unwrap_err();
    assert!(matches!(unknown, SendAgainError::Unknown), "{unknown}");
    stage
        .dispatcher
        .0
        .parts
        .states
        .happen(&ci, Event::Disabled, "by hand");
    let refused = again(1, Order::Force).await.unwrap_err();
    assert!(refused.to_string().contains("is disabled"), "{refused}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_is_one_of_its_kind_and_heals() {
    let (folder, hook) = (folder(), Hook::start(500).await);
    let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, UNPACED)]).await;
    let (ci, states) = (named("ci"), &stage.dispatcher.0.parts.states);
    stage.happens(&ci, Verdict::Failed { retry_after: None });
    let sent = stage.dispatcher.test(&ci, None).await.unwrap();
    assert!(matches!(
        sent.outcome,
        Outcome::Failed {
            status: Some(500),
            ..
        }
    ));
    assert_eq!(states.state(&ci), health::State::Paused);
    hook.answer(204);
    let repository = "acme/app".parse().unwrap();
    let sent = stage.dispatcher.test(&ci, Some(&repository)).await.unwrap();
    assert_eq!(states.state(&ci), health::State::Healthy);
    let came = hook.came().pop().unwrap();
    assert_eq!(came.image, "acme/app:shipbell-test");
    assert_eq!(came.body["event"], "test");
    assert!(came.body["image_size"].is_null() && came.body["layers"].as_array().unwrap().is_empty());
    assert!(
        came.id.starts_with("test_") && came.id == sent.webhook_id,
        "{}",
        came.id
    );
    let body: serde_json::Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(body, came.body);
    assert!(!sent.headers.contains("hunter2"));
    let unknown = stage.dispatcher.test(&named("nobody"), None).await.unwrap_err();
    assert!(matches!(unknown, SendAgainError::Refused(_)));
    {
        let _by_somebody_else = stage.dispatcher.0.by_hand.take(&ci).unwrap();
        let other = stage.dispatcher.test(&ci, None).await.unwrap_err();
        assert!(matches!(other, SendAgainError::Busy), "one at a time");
    }
    assert!(stage.dispatcher.test(&ci, None).await.is_ok());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stopped_by_hand_before_its_turn_is_not_sent_again() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let slow = Rate {
        per_second: Some(0.25),
    };
    let stage = with_letters(&folder, &hook, slow, &["1"]).await;
    hook.answer(200);
    let before = hook.came().len();
    let (dispatcher, ci) = (&stage.dispatcher, named("ci"));
    let mut again = Box::pin(dispatcher.redeliver(None, sequence(1), &ci, Order::Force, Authority::Endpoint));
    // It is on its way to its turn, or there.
    for _ in 0..3 {
        let step = tokio::time::timeout(Duration::from_millis(100), &mut again).await;
        assert!(step.is_err(), "{step:?}");
    }
    dispatcher.0.parts.states.happen(&ci, Event::Held, "by the test");
    let refused = again.await.unwrap_err();
    assert!(matches!(refused, SendAgainError::Refused(_)), "{refused}");
    assert_eq!(hook.came().len(), before);
    assert_eq!(stage.letters().stats().letters, 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_may_send_to_an_endpoint_by_hand_while_a_set_goes_to_it() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2", "3"]).await;
    let before = hook.came().len();
    hook.answer(LATER);
    let (dispatcher, ci) = (&stage.dispatcher, named("ci"));
    let past = |number| Past {
        journal: None,
        sequence: sequence(number),
        endpoint: named("ci"),
    };
    let all = [1, 2, 3].map(past).to_vec();
    let counted = dispatcher
        .redeliver_all(all, Order::KeepNewest, Run::Real, Authority::Endpoint)
        .await;
    assert_eq!(counted.unwrap().again, 3);
    hook.wait_for(before + 1).await;
    // The set's first is on its way still.
    let test = dispatcher.test(&ci, None);
    let same = dispatcher.redeliver(None, sequence(1), &ci, Order::KeepNewest, Authority::Endpoint);
    assert!(matches!(same.await, Err(SendAgainError::Busy)), "its own is");
    let answer = async {
        hook.wait_for(before + 2).await;
        hook.answer(200);
    };
    let (test, ()) = tokio::join!(test, answer);
    assert_eq!(test.unwrap().outcome, Outcome::Delivered { status: 200 });
    stage.wait_for_letters(0).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_again_that_has_not_its_turn_when_the_process_is_to_end() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_a_letter_whose_turn_is_not_yet(&folder, &hook, 0.02).await;
    let (dispatcher, ci, before) = (stage.dispatcher.clone(), named("ci"), hook.came().len());
    let mut second =
        Box::pin(dispatcher.redeliver(None, sequence(2), &ci, Order::Force, Authority::Endpoint));
    let step = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
    assert!(step.is_err(), "{step:?}");
    let (ended, ()) = tokio::join!(second, stage.stop());
    let ended = ended.unwrap_err();
    assert!(
        matches!(ended, SendAgainError::Letters(LettersError::Stopping)),
        "{ended}"
    );
    assert_eq!(hook.came().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_before_its_turn_is_not_sent_again() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_a_letter_whose_turn_is_not_yet(&folder, &hook, 1.0).await;
    let (dispatcher, ci, before) = (&stage.dispatcher, named("ci"), hook.came().len());
    let mut second =
        Box::pin(dispatcher.redeliver(None, sequence(2), &ci, Order::Force, Authority::Endpoint));
    let step = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
    assert!(step.is_err(), "{step:?}");
    assert_eq!(stage.letters().discard(all()).await.unwrap(), 2);
    let refused = second.await.unwrap_err();
    assert!(matches!(refused, SendAgainError::Unknown), "{refused}");
    assert_eq!(hook.came().len(), before);
    stage.stop().await;
}
