//! Pushes that are refused, over restarts.

use super::*;
use crate::settings::SavedRefusal;

/// A dispatcher that tries what is refused again after a millisecond, then after an hour, and then gives it up.
async fn start(folder: &TempDir, endpoint: Endpoint, clock: &Set) -> Stage {
    let options = Options {
        schedule: schedule(2),
        ..dispatch_options()
    };
    Stage::start_by(folder, vec![endpoint], Bounds::default(), options, clock.clock()).await
}

/// The same with a push that was refused twice, and waits an hour: the receiver, the clock, and who waits.
async fn refused(folder: &TempDir) -> (Hook, Set, Stage) {
    let (hook, clock) = (Hook::start(422).await, Set::new());
    let stage = start(folder, endpoint("ci", &hook.url, UNPACED), &clock).await;
    stage.take(vec![push("a", "v1", &["ci"])]).await;
    wait_until_kept(&stage, &[2]).await;
    (hook, clock, stage)
}

/// What the file says of refused pushes.
fn kept(stage: &Stage) -> Vec<SavedRefusal> {
    let parts = &stage.dispatcher.0.parts;
    parts.settings.refusals(parts.journal.id()).unwrap()
}

async fn wait_until_kept(stage: &Stage, failures: &[u32]) {
    let is_kept = || {
        kept(stage)
            .iter()
            .map(|refusal| refusal.failures)
            .eq(failures.iter().copied())
    };
    eventually("kept", async || is_kept()).await;
}

/// Takes another push, of another repository: once it is through, what else was due was sent as well.
async fn another(stage: &Stage, hook: &Hook) {
    let before = hook.came().len();
    hook.answer(200);
    stage.take(vec![push("other", "v1", &["ci"])]).await;
    let came = hook.wait_for(before + 1).await;
    assert_eq!(came.last().unwrap().image, "other:v1");
    eventually("one is owed", async || stage.owed() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_waiting_and_counting() {
    for is_killed in [false, true] {
        let folder = folder();
        let (hook, clock, stage) = refused(&folder).await;
        let plain = || endpoint("ci", &hook.url, UNPACED);
        if is_killed {
            stage.kill().await;
        } else {
            stage.stop().await;
        }

        let stage = start(&folder, plain(), &clock).await;
        another(&stage, &hook).await;
        assert_eq!(hook.images(), ["a:v1", "a:v1", "other:v1"]);
        stage.stop().await;

        // It is over, and so is the schedule: it is not begun anew.
        hook.answer(422);
        clock.go(HOUR_MS + 1);
        let stage = start(&folder, plain(), &clock).await;
        stage.wait_for_letters(1).await;
        assert_eq!(hook.images(), ["a:v1", "a:v1", "other:v1", "a:v1"]);
        wait_until_kept(&stage, &[]).await;
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_clock_set_back_makes_no_wait_longer() {
    let folder = folder();
    let (hook, clock, stage) = refused(&folder).await;
    stage.stop().await;
    clock.go(-24 * 365 * 10 * HOUR_MS);
    let stage = start(&folder, endpoint("ci", &hook.url, UNPACED), &clock).await;
    another(&stage, &hook).await;
    assert_eq!(hook.images(), ["a:v1", "a:v1", "other:v1"]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(1)).await;
    tokio::time::resume();
    hook.wait_for(4).await;
    stage.wait_for_nothing_owed().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_is_sent_at_once_to_an_endpoint_that_was_set_otherwise_meanwhile() {
    let folder = folder();
    let (hook, clock, stage) = refused(&folder).await;
    stage.stop().await;
    hook.answer(200);
    let with_secret = Endpoint {
        secret: Some(Secret::inline("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
        ..endpoint("ci", &hook.url, UNPACED)
    };
    let stage = start(&folder, with_secret, &clock).await;
    stage.wait_for_nothing_owed().await;
    assert_eq!(hook.images(), ["a:v1"; 3]);
    wait_until_kept(&stage, &[]).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_is_not_kept_and_neither_is_what_another_journal_took() {
    let folder = folder();
    let (hook, clock, stage) = refused(&folder).await;
    stage.take(vec![push("b", "v1", &["ci"])]).await;
    wait_until_kept(&stage, &[2, 2]).await;
    // A newer push of the same tag: the older one is superseded.
    hook.answer(200);
    stage.take(vec![push("a", "v1", &["ci"])]).await;
    let parts = &stage.dispatcher.0.parts;
    parts.states.hurry(&[named("ci")].into());
    stage.wait_for_nothing_owed().await;
    wait_until_kept(&stage, &[]).await;

    hook.answer(422);
    stage.take(vec![push("c", "v1", &["ci"])]).await;
    wait_until_kept(&stage, &[2]).await;
    stage.stop().await;
    std::fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let stage = start(&folder, endpoint("ci", &hook.url, UNPACED), &clock).await;
    assert_eq!(kept(&stage), []);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kill_left_behind_of_a_push_that_ended_goes_with_the_next_start() {
    let folder = folder();
    let (hook, clock, stage) = refused(&folder).await;
    let left_behind = kept(&stage);
    hook.answer(200);
    stage.dispatcher.0.parts.states.hurry(&[named("ci")].into());
    stage.wait_for_nothing_owed().await;
    wait_until_kept(&stage, &[]).await;
    let parts = &stage.dispatcher.0.parts;
    let rows: Vec<_> = left_behind
        .into_iter()
        .map(|refusal| ((refusal.sequence, refusal.endpoint.clone()), Some(refusal)))
        .collect();
    parts.settings.save_refusals(parts.journal.id(), &rows).unwrap();
    stage.stop().await;
    let stage = start(&folder, endpoint("ci", &hook.url, UNPACED), &clock).await;
    wait_until_kept(&stage, &[]).await;
    assert_eq!(hook.came().len(), 3);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_go_on_while_it_cannot_be_kept() {
    let (folder, hook, clock) = (folder(), Hook::start(422).await, Set::new());
    let stage = start(&folder, endpoint("ci", &hook.url, UNPACED), &clock).await;
    let locked = Locked::lock(&stage.settings_file());
    stage.take(vec![push("a", "v1", &["ci"])]).await;
    hook.wait_for(2).await;
    another(&stage, &hook).await;
    drop(locked);
    wait_until_kept(&stage, &[2]).await;
    stage.stop().await;
}
