//! From given up to settled.

use super::{authority::Authority, *};
use crate::settings::Order;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_settled_before_its_letter_is_durable() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let endpoints = || vec![endpoint("ci", &hook.url, UNPACED)];
    let stage = Stage::start(&folder, endpoints()).await;
    let locked = Locked::lock(&stage.settings_file());
    stage.take(vec![push("acme/app", "1", &["ci"])]).await;
    eventually("it waits", async || stage.letters().waiting() == 1).await;
    eventually("it is owed", async || stage.owed() == 1).await;
    stage.kill().await;
    drop(locked);

    let stage = Stage::start(&folder, endpoints()).await;
    stage.wait_for_letters(1).await;
    stage.wait_for_nothing_owed().await;
    assert_eq!(stage.letters().waiting(), 0);
    let ids: Vec<_> = hook.came().into_iter().map(|came| came.id).collect();
    assert_eq!(ids.len(), 4, "two attempts, and two after the start");
    assert!(ids.iter().all(|id| *id == ids[0]));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_not_sent_by_hand_before_its_letter_is_written() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, UNPACED)]).await;
    let settings = rusqlite::Connection::open(stage.settings_file()).unwrap();
    settings.busy_timeout(SOON).unwrap();
    let refuse =
        "CREATE TRIGGER refused BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(ABORT, 'refused'); END;";
    settings.execute_batch(refuse).unwrap();
    stage.take(vec![push("acme/app", "1", &["ci"])]).await;
    let (dispatcher, ci, first) = (&stage.dispatcher, named("ci"), Sequence::new(1).unwrap());
    eventually("its letter can't be written", async || {
        dispatcher.0.dying.is_failing()
    })
    .await;
    let journal = dispatcher.0.parts.journal.id();
    let history = stage.folder.join(catalog::FILE);
    eventually("it is known", async || {
        let history = catalog::Reader::open(&history);
        history.is_ok_and(|history| matches!(history.delivery(journal, first, &ci), Ok(Some(_))))
    })
    .await;
    hook.answer(200);
    let again = async || {
        let (order, authority) = (Order::Force, Authority::Endpoint);
        dispatcher.redeliver(None, first, &ci, order, authority).await
    };
    let refused = again().await.unwrap_err().to_string();
    assert!(refused.contains("dead letter is not written yet"), "{refused}");
    let past = again::Past {
        journal: None,
        sequence: first,
        endpoint: ci.clone(),
    };
    let counted = dispatcher.redeliver_all(vec![past], Order::Force, letters::Run::Real, Authority::Endpoint);
    let counted = counted.await.unwrap();
    assert_eq!((counted.under_way, counted.again), (1, 0), "{counted:?}");
    settings.execute_batch("DROP TRIGGER refused").unwrap();
    stage.wait_for_letters(1).await;
    stage.wait_for_nothing_owed().await;
    assert_eq!(hook.came().len(), 2, "both before it was given up");
    again().await.unwrap();
    assert_eq!(stage.letters().stats().letters, 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_great_many_given_up_at_once_all_get_letters_within_the_bound_on_what_waits() {
    const REPOSITORIES: usize = 200;
    const PUSHES: usize = 1_000;
    let folder = folder();
    let stage = Stage::start(&folder, vec![endpoint("ci", "http://127.0.0.1:1/", UNPACED)]).await;
    // It is waited for, for an hour.
    stage.happens(&named("ci"), Verdict::Failed { retry_after: None });
    for repository in 0..REPOSITORIES {
        let name = format!("acme/app{repository}");
        let pushes = (0..PUSHES).map(|number| push(&name, &number.to_string(), &["ci"]));
        stage.take(pushes.collect()).await;
    }
    let all = (REPOSITORIES * PUSHES) as u64;
    eventually("all are owed", async || stage.owed() == all).await;
    stage.happens(&named("ci"), Verdict::Gone);
    let most = AtomicUsize::new(0);
    eventually("all are letters", async || {
        most.fetch_max(stage.dispatcher.0.dying.len(), Ordering::Relaxed);
        stage.letters().stats().letters == all
    })
    .await;
    stage.wait_for_nothing_owed().await;
    let most = most.into_inner();
    assert!((1_000..=75_000).contains(&most), "{most} waited at once");
    assert_eq!(stage.metric("shipbell_dead_letters_lost_total"), 0);
    assert_eq!(stage.metric("shipbell_settled_total{how=\"dead_letter\"}"), all);
    assert_eq!(stage.dispatcher.0.parts.queue.pending(), 0);
    let newest = stage
        .letters()
        .list(super::all(), None, 1)
        .await
        .unwrap()
        .letters
        .remove(0);
    assert_eq!(
        newest.letter.reason,
        "its endpoint is ignored: as the test wants it"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_letter_can_be_written_what_an_ignored_endpoint_is_owed_stays_in_the_queue() {
    const REPOSITORIES: usize = 80;
    const PUSHES: usize = 1_000;
    let folder = folder();
    let stage = Stage::start(&folder, vec![endpoint("ci", "http://127.0.0.1:1/", UNPACED)]).await;
    stage.happens(&named("ci"), Verdict::Failed { retry_after: None });
    for repository in 0..REPOSITORIES {
        let name = format!("acme/app{repository}");
        let pushes = (0..PUSHES).map(|number| push(&name, &number.to_string(), &["ci"]));
        stage.take(pushes.collect()).await;
    }
    let locked = Locked::lock(&stage.settings_file());
    stage.happens(&named("ci"), Verdict::Gone);
    eventually("the line is full", async || stage.letters().waiting() >= 50_000).await;
    // The lock is waited for, in vain, for 5 s.
    eventually("it failed", async || stage.dispatcher.0.dying.is_failing()).await;
    let all = (REPOSITORIES * PUSHES) as u64;
    assert!(stage.letters().waiting() < 60_000);
    assert!(
        stage.dispatcher.0.parts.queue.pending() > 20_000,
        "the rest is kept"
    );
    assert_eq!(stage.owed(), all);

    // The journal is full, and nobody else would make room.
    stage.dispatcher.shed();
    let lost = stage.metric("shipbell_dead_letters_lost_total");
    assert!((40_000..60_000).contains(&lost), "{lost}");
    drop(locked);
    stage.wait_for_nothing_owed().await;
    assert_eq!(
        stage.letters().stats().letters + stage.metric("shipbell_dead_letters_lost_total"),
        all
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_by_an_endpoint_that_is_gone_becomes_letters() {
    let (folder, hook) = (folder(), Hook::start(200).await);
    let ci = || endpoint("ci", &hook.url, UNPACED);
    let stage = Stage::start(
        &folder,
        vec![ci(), endpoint("gone", "http://127.0.0.1:1/", UNPACED)],
    )
    .await;
    let pushes = (0..5).map(|number| push("acme/app", &number.to_string(), &["ci", "gone"]));
    stage.take(pushes.collect()).await;
    hook.wait_for(5).await;
    stage.stop().await;
    let stage = Stage::start(&folder, vec![ci()]).await;
    stage.wait_for_letters(5).await;
    stage.wait_for_nothing_owed().await;
    let page = stage.letters().list(all(), None, 100).await.unwrap();
    for kept in page.letters {
        assert_eq!(kept.letter.endpoint, named("gone"));
        assert_eq!(kept.letter.reason, "its endpoint is gone from the configuration");
    }
    let replayed = stage
        .letters()
        .replay(
            all(),
            crate::settings::Order::Force,
            letters::Run::Real,
            authority::Authority::Endpoint,
        )
        .await;
    let replayed = replayed.unwrap();
    assert_eq!((replayed.matched, replayed.replayed), (5, 0));
    assert_eq!(replayed.refused[0].letters, 5);
    assert!(
        replayed.refused[0].reason.contains("no endpoint gone"),
        "{replayed:?}"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_forward_by_years_takes_no_letter_with_it_and_old_ones_go_all_the_same() {
    for (age_max, are_kept) in [
        (Duration::from_hours(24), true),
        (Duration::from_millis(1), false),
    ] {
        let (folder, hook, clock) = (folder(), Hook::start(410).await, Set::new());
        let options = Options {
            letters: LetterBounds {
                age_max,
                ..dispatch_options().letters
            },
            ..dispatch_options()
        };
        let endpoints = vec![endpoint("ci", &hook.url, UNPACED)];
        let stage = Stage::start_by(&folder, endpoints, Bounds::default(), options, clock.clock()).await;
        stage.take(vec![push("a", "v1", &["ci"])]).await;
        stage.wait_for_letters(1).await;
        clock.go(10 * 365 * 24 * HOUR_MS);
        // Each letter that is written looks at the old ones.
        let mut numbers = 2_u64..;
        let mut write_another = async || {
            let number = numbers.next().unwrap();
            let repository = format!("a{number}");
            stage.take(vec![push(&repository, "v1", &["ci"])]).await;
            eventually("written", async || {
                stage.metric("shipbell_dead_letters_written_total") >= number
            })
            .await;
            stage.letters().stats().letters == number
        };
        if are_kept {
            for _ in 0..3 {
                assert!(write_another().await);
            }
        } else {
            eventually("gone", async || !write_another().await).await;
        }
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_before_newer_ones_were_delivered_is_never_sent_after_them() {
    for is_killed in [false, true] {
        let (folder, hook) = (folder(), Hook::start(404).await);
        let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, UNPACED)]).await;
        let locked = Locked::lock(&stage.settings_file());
        stage.take(vec![push("a", "v1", &["ci"])]).await;
        // Given up after two attempts, but its letter can't be written.
        hook.wait_for(2).await;
        let sequence = Sequence::new(1).unwrap();
        let queue = Arc::clone(&stage.dispatcher.0.parts.queue);
        let is_owed = || queue.owes(&"a".parse().unwrap(), &named("ci"), sequence);
        eventually("given up", async || !is_owed()).await;
        hook.answer(200);
        stage.take(vec![push("a", "v2", &["ci"])]).await;
        hook.wait_for(3).await;
        eventually("delivered", async || stage.owed() == 1).await;
        if is_killed {
            stage.kill().await;
        } else {
            stage.stop().await;
        }
        drop(locked);
        let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, UNPACED)]).await;
        stage.wait_for_letters(1).await;
        stage.take(vec![push("a", "v3", &["ci"])]).await;
        stage.wait_for_nothing_owed().await;
        assert_eq!(hook.images(), ["a:v1", "a:v1", "a:v2", "a:v3"]);
        let letters = stage.letters().list(all(), None, 10).await.unwrap();
        let letters: Vec<_> = letters.letters.iter().map(|kept| &kept.letter).collect();
        let [letter] = letters[..] else {
            panic!("{letters:?}")
        };
        assert_eq!((letter.sequence, &*letter.reason), (sequence, OVERTAKEN));
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_letters_are_tried_until_they_can_be_written() {
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, UNPACED)]).await;
    let file = stage.settings_file();
    let change = |sql| {
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection.busy_timeout(SOON).unwrap();
        connection.execute_batch(sql).unwrap();
    };
    change("CREATE TRIGGER not_now BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(ABORT, 'not now'); END");
    stage.take(vec![push("a", "v1", &["ci"])]).await;
    hook.wait_for(2).await;
    let dispatcher = stage.dispatcher.clone();
    eventually("given up", async || dispatcher.0.dying.len() == 1).await;
    let mended = async {
        dispatcher.0.parts.tasks.soft().cancelled().await;
        // Some attempts are in vain before.
        tokio::time::sleep(Duration::from_millis(500)).await;
        change("DROP TRIGGER not_now");
    };
    tokio::join!(stage.stop(), mended);
    let settings = Settings::open(&file).unwrap();
    assert_eq!(settings.letter_stats().letters, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_cant_be_read_back_for_a_while_are_not_lost_however_many_they_are() {
    const PUSHES: usize = 3_000;
    let folder = folder();
    let stage = Stage::start(&folder, vec![endpoint("ci", "http://127.0.0.1:1/", UNPACED)]).await;
    stage.happens(&named("ci"), Verdict::Failed { retry_after: None });
    for number in 0..PUSHES / 1_000 {
        let name = format!("acme/app{number}");
        let pushes = (0..1_000).map(|number| push(&name, &number.to_string(), &["ci"]));
        stage.take(pushes.collect()).await;
    }
    eventually("all are owed", async || stage.owed() == PUSHES as u64).await;
    let segment = stage.folder.join("journal/0000000000000001.segment");
    let sound = std::fs::read(&segment).unwrap();
    let end = sound.iter().rposition(|byte| *byte != 0).unwrap();
    let write = |bytes: &[u8]| {
        let file = std::fs::File::options().write(true).open(&segment).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 128).unwrap();
    };
    write(&vec![0xff; end - 127]);
    stage.happens(&named("ci"), Verdict::Gone);
    // Each has been read, in vain.
    let dying = &stage.dispatcher.0.dying;
    eventually("they were read", async || {
        dying.rounds.load(Ordering::Acquire) > 3
    })
    .await;
    assert_eq!(dying.len(), PUSHES);
    assert_eq!(stage.metric("shipbell_dead_letters_lost_total"), 0);
    write(&sound[128..=end]);
    stage.wait_for_letters(PUSHES as u64).await;
    stage.wait_for_nothing_owed().await;
    assert_eq!(stage.metric("shipbell_dead_letters_lost_total"), 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_finds_takes_no_letter_from_others() {
    const FOUND: u64 = 120_000;
    let (folder, hook) = (folder(), Hook::start(404).await);
    let stage = Stage::start(&folder, vec![endpoint("ci", &hook.url, UNPACED)]).await;
    let locked = Locked::lock(&stage.settings_file());
    let found = (1_000_000..1_000_000 + FOUND).map(|number| {
        let sequence = Sequence::new(number).unwrap();
        (Pair { sequence, place: 0 }, named("gone"))
    });
    stage.dispatcher.bury(found.collect(), None);
    stage.take(vec![push("acme/app", "1", &["ci"])]).await;
    hook.wait_for(2).await;
    let dying = &stage.dispatcher.0.dying;
    eventually("it is given up", async || {
        dying.bounded() == 1 || stage.metric("shipbell_dead_letters_lost_total") > 0
    })
    .await;
    assert!(dying.len() > 100_000, "as many as may wait, and more");
    drop(locked);
    stage.wait_for_letters(1).await;
    eventually("nobody waits", async || dying.len() == 0).await;
    assert_eq!(stage.metric("shipbell_dead_letters_lost_total"), 0);
    stage.stop().await;
}
