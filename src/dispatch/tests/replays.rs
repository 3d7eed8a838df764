//! Dead letters sent again, single deliveries sent again, and tests.

use crate::dispatch::redeliver::Redelivered;

use super::{
    again::Past,
    letters::{LettersError, Replayed, Run},
    redeliver::SendAgainError,
    *,
};
use crate::{
    settings::{LetterState, Order},
    webhook::Outcome,
};

const ASKED: &str = "shipbell_dead_letter_replays_total";

/// A stage whose endpoint refused these pushes, all in one repository.
async fn with_letters(folder: &TempDir, hook: &Hook, rate: Rate, tags: &[&str]) -> Stage {
    let stage = Stage::start(folder, vec![endpoint("ci", &hook.url, rate)]).await;
    for (number, tag) in (1..).zip(tags) {
        stage.take(vec![push("acme/app", tag, &["ci"])]).await;
        stage.wait_for_letters(number).await;
    }
    stage.wait_for_nothing_owed().await;
    stage
}

/// A stage with two letters, of which the first was just sent again: the second has to wait, at so many a second.
async fn with_a_letter_whose_turn_is_not_yet(folder: &TempDir, hook: &Hook, per_second: f64) -> Stage {
    with_letters(folder, hook, UNPACED, &["1", "2"])
        .await
        .stop()
        .await;
    let per_second = Some(per_second);
    let stage = Stage::start(folder, vec![endpoint("ci", &hook.url, Rate { per_second })]).await;
    let (first, ci) = (sequence(1), named("ci"));
    let sent = stage.dispatcher.redeliver(None, first, &ci, Order::Force, true);
    sent.await.unwrap();
    stage
}

async fn replay(stage: &Stage, order: Order) -> Replayed {
    stage.letters().replay(all(), order, Run::Real).await.unwrap()
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_go_out_in_order_at_the_endpoints_pace_under_the_same_ids_and_are_gone() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let rate = Rate {
        per_second: Some(20.0),
    };
    let stage = with_letters(&folder, &hook, rate, &["a", "b", "c", "d", "e"]).await;
    let before = hook.came();
    let dry = stage
        .letters()
        .replay(all(), Order::KeepNewest, Run::Dry)
        .await
        .unwrap();
    assert_eq!((dry.matched, dry.replayed, dry.passed_over), (5, 5, 0));
    assert_eq!(stage.letters().stats().replaying, 0, "nothing is done");
    hook.answer(204);
    let asked = Instant::now();
    assert_eq!(replay(&stage, Order::KeepNewest).await, dry);
    let came = hook.wait_for(before.len() + 5).await.split_off(before.len());
    for (came, tag) in came.iter().zip(["a", "b", "c", "d", "e"]) {
        let image = format!("acme/app:{tag}");
        let first = before.iter().find(|before| before.image == image).unwrap();
        assert_eq!((&came.image, &came.id), (&image, &first.id));
        assert_eq!(came.body["event"], "push");
    }
    // From before the first, which may be late when it comes.
    let took = came.last().unwrap().at - asked;
    assert!(took >= Duration::from_millis(4 * 50), "{took:?}");
    stage.wait_for_letters(0).await;
    assert_eq!(stage.metric(&format!("{ASKED}{{result=\"delivered\"}}")), 5);
    let journal = stage.dispatcher.0.parts.journal.id();
    stage.stop().await;
    let history = catalog::Reader::open(&folder.path().join(catalog::FILE)).unwrap();
    let delivery = history
        .delivery(journal, sequence(1), &named("ci"))
        .unwrap()
        .unwrap();
    assert_eq!(delivery.state, "delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_on_after_a_restart() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let slow = Rate {
        per_second: Some(4.0),
    };
    let stage = with_letters(&folder, &hook, UNPACED, &["a", "b", "c", "d"]).await;
    stage.stop().await;
    hook.answer(200);
    let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, slow)]).await;
    let before = hook.came().len();
    assert_eq!(replay(&stage, Order::KeepNewest).await.replayed, 4);
    hook.wait_for(before + 1).await;
    stage.kill().await;
    let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, UNPACED)]).await;
    stage.wait_for_letters(0).await;
    let mut images = hook.images().split_off(before);
    images.dedup();
    assert_eq!(images, ["acme/app:a", "acme/app:b", "acme/app:c", "acme/app:d"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_letters_of_a_tag_only_the_newest_goes_unless_forced() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "1", "2", "1"]).await;
    let before = hook.came().len();
    hook.answer(200);
    let replayed = replay(&stage, Order::KeepNewest).await;
    assert_eq!(
        (replayed.matched, replayed.replayed, replayed.passed_over),
        (4, 2, 2)
    );
    stage.wait_for_letters(2).await;
    assert_eq!(hook.images().split_off(before), ["acme/app:2", "acme/app:1"]);
    // The newest is delivered: the history knows of it.
    let replayed = replay(&stage, Order::KeepNewest).await;
    assert_eq!((replayed.replayed, replayed.passed_over), (0, 2));
    let replayed = replay(&stage, Order::Force).await;
    assert_eq!((replayed.replayed, replayed.passed_over), (2, 0));
    stage.wait_for_letters(0).await;
    assert_eq!(hook.came().len(), before + 4);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_push_that_waits_is_not_passed_not_even_if_it_came_after_the_replay_was_asked_for() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2"]).await;
    let before = hook.came().len();
    // Nothing is sent for now, neither the queue's pushes nor letters.
    let states = &stage.dispatcher.0.parts.states;
    states.happen(&named("ci"), Event::Held, "by hand");
    stage.take(vec![push("acme/app", "1", &["ci"])]).await;
    states.happen(&named("ci"), Event::Enabled, "by hand");
    states.happen(&named("ci"), Event::Held, "by hand");
    let replayed = replay(&stage, Order::KeepNewest).await;
    assert_eq!((replayed.matched, replayed.replayed), (2, 0));
    assert!(replayed.refused[0].reason.contains("on hold"), "{replayed:?}");

    // It is failing, and nobody probes: the letters are marked, and wait behind one that goes first.
    states.happen(&named("ci"), Event::Enabled, "by hand");
    stage.happens(&named("ci"), Verdict::Failed { retry_after: None });
    stage.take(vec![push("acme/app", "2", &["ci"])]).await;
    let replayed = replay(&stage, Order::KeepNewest).await;
    assert_eq!(replayed.replayed, 0, "{replayed:?}");
    assert_eq!(replayed.passed_over, 2, "{replayed:?}");
    hook.answer(200);
    states.happen(&named("ci"), Event::Enabled, "by hand");
    stage.wait_for_nothing_owed().await;
    assert!(hook.came().len() > before);
    assert_eq!(stage.letters().stats().letters, 2, "the letters stay");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_push_waits_for_the_older_one_of_its_tag_that_is_being_sent_again() {
    for by_hand in [false, true] {
        let (folder, hook) = (folder(), Hook::start(404).await);
        let stage = with_letters(&folder, &hook, UNPACED, &["1"]).await;
        let before = hook.came().len();
        hook.answer(LATER);
        let again = async {
            if by_hand {
                let ci = named("ci");
                let sent = stage
                    .dispatcher
                    .redeliver(None, sequence(1), &ci, Order::KeepNewest, true);
                assert!(matches!(sent.await, Ok(Redelivered::Sent(_))));
            } else {
                assert_eq!(replay(&stage, Order::KeepNewest).await.replayed, 1);
            }
        };
        let newer = async {
            hook.wait_for(before + 1).await;
            stage.take(vec![push("acme/app", "1", &["ci"])]).await;
            // Those of another tag, and of another repository, don't wait.
            stage.take(vec![push("acme/other", "1", &["ci"])]).await;
            let came = hook.wait_for(before + 2).await.split_off(before);
            assert_eq!(came[1].image, "acme/other:1");
            hook.answer(200);
        };
        tokio::join!(again, newer);
        let came = hook.wait_for(before + 3).await.split_off(before);
        assert_eq!(came[2].image, "acme/app:1");
        assert_ne!(came[2].id, came[0].id, "it is the newer one");
        stage.wait_for_nothing_owed().await;
        assert_eq!(stage.letters().stats().letters, 0);
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_marked_is_let_be_once_a_newer_push_has_come() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2"]).await;
    let states = &stage.dispatcher.0.parts.states;
    stage.happens(&named("ci"), Verdict::Failed { retry_after: None });
    hook.answer(503);
    let before = hook.came().len();
    // The first goes at once and its endpoint fails: both wait for that.
    assert_eq!(replay(&stage, Order::KeepNewest).await.replayed, 2);
    hook.wait_for(before + 1).await;
    let first = async || stage.letters().get(1).await.unwrap().unwrap();
    eventually("it says why", async || {
        first().await.letter.reason == "answered 503 Service Unavailable"
    })
    .await;
    assert_eq!(first().await.state, LetterState::Replaying);
    assert_eq!(first().await.letter.attempts, Some(3));
    assert_eq!(stage.letters().stats().replaying, 2);
    stage.take(vec![push("acme/app", "2", &["ci"])]).await;
    hook.answer(200);
    states.happen(&named("ci"), Event::Healed, "a test passed");
    eventually("none is replaying", async || {
        stage.letters().stats().replaying == 0
    })
    .await;
    stage.wait_for_nothing_owed().await;
    let mut images = hook.images().split_off(before);
    images.sort();
    assert_eq!(images, ["acme/app:1", "acme/app:1", "acme/app:2"]);
    assert_eq!(stage.letters().stats().letters, 1);
    assert_eq!(stage.metric(&format!("{ASKED}{{result=\"passed_over\"}}")), 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_at_which_an_endpoint_fails_that_is_well_else_is_dead_again() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1"]).await;
    let states = &stage.dispatcher.0.parts.states;
    hook.answer(500);
    let before = hook.came().len();
    assert_eq!(replay(&stage, Order::KeepNewest).await.replayed, 1);
    for attempt in 1..=3 {
        hook.wait_for(before + attempt).await;
        let number = u32::try_from(attempt).unwrap();
        eventually("it is written down", async || {
            let letter = stage.letters().get(1).await.unwrap().unwrap().letter;
            letter.attempts == Some(2 + number)
        })
        .await;
        let left = stage.letters().stats().replaying;
        if attempt < 3 {
            assert_eq!(left, 1);
        }
        states.happen(&named("ci"), Event::Healed, "a test passed");
    }
    eventually("it is dead again", async || {
        stage.letters().stats().replaying == 0
    })
    .await;
    assert_eq!(hook.came().len(), before + 3);
    stage.stop().await;
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
        .redeliver(None, sequence(number), &ci, order, true)
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
async fn letters_can_be_discarded() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2", "3"]).await;
    let tag = LetterFilter {
        tag: Some("2".parse().unwrap()),
        ..all()
    };
    assert_eq!(stage.letters().count(tag.clone()).await.unwrap().letters, 1);
    assert_eq!(stage.letters().discard(tag).await.unwrap(), 1);
    assert_eq!(stage.letters().discard(all()).await.unwrap(), 2);
    assert_eq!(stage.letters().count(all()).await.unwrap().letters, 0);
    stage.stop().await;
}

#[tokio::test]
async fn letters_do_not_wait_behind_a_push_that_waits_for_its_own_sake() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = with_letters(&folder, &hook, UNPACED, &["1", "2"]).await;
    stage.stop().await;
    let options = Options {
        schedule: RetrySchedule::new(vec![Duration::from_hours(24)], 0.0).unwrap(),
        ..dispatch_options()
    };
    let ci = vec![endpoint("ci", &hook.url, UNPACED)];
    let stage = Stage::start_by(&folder, ci, Bounds::default(), options, Clock::system()).await;
    let before = hook.came().len();
    stage.take(vec![push("other", "1", &["ci"])]).await;
    hook.wait_for(before + 1).await;
    let queue = &stage.dispatcher.0.parts.queue;
    eventually("it waits", async || !queue.is_in_line(&named("ci"))).await;
    hook.answer(500);
    assert_eq!(replay(&stage, Order::KeepNewest).await.replayed, 2);
    hook.wait_for(before + 2).await;
    let states = &stage.dispatcher.0.parts.states;
    eventually("it fails", async || states.is_failing(&named("ci"))).await;
    hook.answer(200);
    // The endpoint is waited for, which is less than what the push waits.
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(1)).await;
    tokio::time::resume();
    stage.wait_for_letters(0).await;
    assert_eq!(stage.owed(), 1);
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
    let mut again = Box::pin(dispatcher.redeliver(None, sequence(1), &ci, Order::Force, true));
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
    let counted = dispatcher.redeliver_all(all, Order::KeepNewest, Run::Real).await;
    assert_eq!(counted.unwrap().again, 3);
    hook.wait_for(before + 1).await;
    // The set's first is on its way still.
    let test = dispatcher.test(&ci, None);
    let same = dispatcher.redeliver(None, sequence(1), &ci, Order::KeepNewest, true);
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
    let mut second = Box::pin(dispatcher.redeliver(None, sequence(2), &ci, Order::Force, true));
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
    let mut second = Box::pin(dispatcher.redeliver(None, sequence(2), &ci, Order::Force, true));
    let step = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
    assert!(step.is_err(), "{step:?}");
    assert_eq!(stage.letters().discard(all()).await.unwrap(), 2);
    let refused = second.await.unwrap_err();
    assert!(matches!(refused, SendAgainError::Unknown), "{refused}");
    assert_eq!(hook.came().len(), before);
    stage.stop().await;
}
