//! Dead letters sent again, and let go of.

use super::{
    authority::Authority,
    letters::{Replayed, Run},
    redeliver::Redelivered,
    *,
};
use crate::settings::{LetterState, Order};

const ASKED: &str = "shipbell_dead_letter_replays_total";

/// A stage whose endpoint refused these pushes, all in one repository.
pub(super) async fn with_letters(folder: &TempDir, hook: &Hook, rate: Rate, tags: &[&str]) -> Stage {
    let stage = Stage::start(folder, vec![endpoint("ci", &hook.url, rate)]).await;
    for (number, tag) in (1..).zip(tags) {
        stage.take(vec![push("acme/app", tag, &["ci"])]).await;
        stage.wait_for_letters(number).await;
    }
    stage.wait_for_nothing_owed().await;
    stage
}

async fn replay(stage: &Stage, order: Order) -> Replayed {
    stage
        .letters()
        .replay(all(), order, Run::Real, Authority::Endpoint)
        .await
        .unwrap()
}

pub(super) fn sequence(number: u64) -> Sequence {
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
        .replay(all(), Order::KeepNewest, Run::Dry, Authority::Endpoint)
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
                let sent = stage.dispatcher.redeliver(
                    None,
                    sequence(1),
                    &ci,
                    Order::KeepNewest,
                    Authority::Endpoint,
                );
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
