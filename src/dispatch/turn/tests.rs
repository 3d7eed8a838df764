//! Turns, by a clock that stands still.

use std::time::Duration;

use futures_util::{future::join_all, poll};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const UNPACED: Rate = Rate { per_second: None };
const WELL: fn() -> bool = || false;
const FAILING: fn() -> bool = || true;
const WANTED: fn() -> bool = || true;

fn named(name: &str) -> EndpointId {
    EndpointId::Named(name.into())
}

#[tokio::test(start_paused = true)]
async fn starts_of_one_endpoint_keep_its_pace() {
    let turns = Turns::new(100, 100);
    let start = Instant::now();
    for number in 0..5u32 {
        turns
            .take(
                &named("ci"),
                Rate {
                    per_second: Some(10.0),
                },
                "a:80",
                WELL,
                WANTED,
            )
            .await
            .unwrap();
        assert_eq!(start.elapsed().as_millis(), u128::from(number * 100));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_nobody_waits_for_the_timer() {
    let turns = Turns::new(100, 100);
    drop(turn(&turns, "ci", "a:80", WELL).await);
    let endpoint = named("ci");
    let mut second = Box::pin(turns.take(&endpoint, UNPACED, "a:80", WELL, WANTED));
    assert!(poll!(&mut second).is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_comes_late_does_not_bring_two_starts_together() {
    let turns = Turns::new(100, 1);
    let rate = Rate {
        per_second: Some(10.0),
    };
    let held = turns
        .take(&named("other"), UNPACED, "a:80", WELL, WANTED)
        .await
        .unwrap();
    let start = Instant::now();
    let ((), second, ()) = tokio::join!(
        async { drop(turns.take(&named("ci"), rate, "a:80", WELL, WANTED).await) },
        async {
            let turn = turns.take(&named("ci"), rate, "a:80", WELL, WANTED).await;
            drop(turn);
            start.elapsed()
        },
        async {
            tokio::time::sleep(Duration::from_millis(350)).await;
            drop(held);
        },
    );
    assert!(second >= Duration::from_millis(450), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_waits_for_its_pace_holds_nobody_up() {
    let turns = Turns::new(1, 1);
    let slow = Rate {
        per_second: Some(0.1),
    };
    drop(turns.take(&named("slow"), slow, "a:80", WELL, WANTED).await);
    let start = Instant::now();
    let endpoint = named("slow");
    let mut waiting = Box::pin(turns.take(&endpoint, slow, "a:80", WELL, WANTED));
    assert!(poll!(&mut waiting).is_pending());
    turns
        .take(&named("quick"), UNPACED, "a:80", WELL, WANTED)
        .await
        .unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_host_has_its_own_cap() {
    let turns = Turns::new(10, 1);
    let _held = turns
        .take(&named("a"), UNPACED, "a:80", WELL, WANTED)
        .await
        .unwrap();
    let endpoint = named("b");
    let mut same = Box::pin(turns.take(&endpoint, UNPACED, "a:80", WELL, WANTED));
    assert!(poll!(&mut same).is_pending());
    turns
        .take(&named("c"), UNPACED, "c:80", WELL, WANTED)
        .await
        .unwrap();
}

async fn turn(turns: &Turns, endpoint: &str, host: &str, is_failing: fn() -> bool) -> Turn {
    turns
        .take(&named(endpoint), UNPACED, host, is_failing, WANTED)
        .await
        .unwrap()
}

fn under_way(fast: usize, slow: usize) -> UnderWay {
    UnderWay { fast, slow }
}

#[tokio::test(start_paused = true)]
async fn attempts_that_drag_leave_the_fast_pool_to_the_others_and_end_as_they_would() {
    const DEAD: usize = 6;
    let turns = Turns::new(4, 16);
    let hang = async |number: usize| {
        let name = format!("dead-{number}");
        let turn = turn(&turns, &name, &name, WELL).await;
        turn.spend(async {
            sleep(15 * SECOND).await;
            number
        })
        .await
    };
    let mut dead = Box::pin(join_all((0..DEAD).map(hang)));
    assert!(poll!(&mut dead).is_pending());
    assert_eq!(turns.under_way(), under_way(4, 0));
    let begun = Instant::now();
    let healthy = async {
        let turn = turn(&turns, "healthy", "healthy", WELL).await;
        turn.spend(sleep(Duration::from_millis(10))).await;
        begun.elapsed()
    };
    let (ended, waited) = tokio::join!(dead, healthy);
    assert!(waited < 3 * DRAGS_AFTER, "{waited:?}");
    assert_eq!(
        ended,
        (0..DEAD).collect::<Vec<_>>(),
        "none is lost, cut or doubled"
    );
    assert!(begun.elapsed() < 16 * SECOND);
    assert_eq!(turns.under_way(), under_way(0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_dragged_starts_in_the_slow_pool_until_an_attempt_ends_soon() {
    let turns = Turns::new(1, 16);
    let first = turn(&turns, "ci", "a:80", WELL).await;
    first.spend(sleep(SECOND)).await;
    let second = turn(&turns, "ci", "a:80", WELL).await;
    assert_eq!(turns.under_way(), under_way(0, 1));
    second.spend(sleep(Duration::from_millis(5))).await;
    let _third = turn(&turns, "ci", "a:80", WELL).await;
    assert_eq!(turns.under_way(), under_way(1, 0));
}

#[tokio::test(start_paused = true)]
async fn failing_endpoints_take_no_fast_place_and_half_of_a_host_at_most() {
    let turns = Turns::new(8, 4);
    let _first = turn(&turns, "a", "one:80", FAILING).await;
    let _second = turn(&turns, "b", "one:80", FAILING).await;
    assert_eq!(turns.under_way(), under_way(0, 2));
    let endpoint = named("c");
    let mut third = Box::pin(turns.take(&endpoint, UNPACED, "one:80", FAILING, WANTED));
    assert!(poll!(&mut third).is_pending());
    assert_eq!(turns.under_way(), under_way(0, 2), "it waits without a place");
    let _well = turn(&turns, "d", "one:80", WELL).await;
    let _well = turn(&turns, "e", "one:80", WELL).await;
    let endpoint = named("f");
    let mut fifth = Box::pin(turns.take(&endpoint, UNPACED, "one:80", WELL, WANTED));
    assert!(
        poll!(&mut fifth).is_pending(),
        "the host's cap holds for all together"
    );
}

#[tokio::test(start_paused = true)]
async fn what_would_be_the_same_anew_is_forgotten() {
    let turns = Turns::new(8, 4);
    let rate = Rate {
        per_second: Some(0.001),
    };
    drop(turns.take(&named("paced"), rate, "paced", WELL, WANTED).await);
    turn(&turns, "drags", "drags", WELL)
        .await
        .spend(sleep(SECOND))
        .await;
    let _held = turn(&turns, "held", "held", WELL).await;
    for number in 0..KNOWN_MIN {
        let name = number.to_string();
        drop(turn(&turns, &name, &name, WELL).await);
    }
    assert!(turns.endpoints.len() < KNOWN_MIN, "{}", turns.endpoints.len());
    assert!(turns.hosts.len() < KNOWN_MIN, "{}", turns.hosts.len());
    for name in ["paced", "drags", "held"] {
        assert!(turns.endpoints.contains_key(&named(name)), "{name}");
    }
    assert!(turns.hosts.contains_key("held"));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_wanted_any_more_goes_and_leaves_the_next_his_start() {
    let turns = Turns::new(10, 10);
    let rate = Rate {
        per_second: Some(1.0 / 60.0),
    };
    let (endpoint, start) = (named("ci"), Instant::now());
    drop(turns.take(&endpoint, rate, "a:80", WELL, WANTED).await);
    let is_wanted = AtomicBool::new(true);
    let (first, second, third, ()) = tokio::join!(
        turns.take(&endpoint, rate, "a:80", WELL, || is_wanted
            .load(Ordering::Relaxed)),
        async {
            let turn = turns.take(&endpoint, rate, "a:80", WELL, || false).await;
            (turn.is_none(), start.elapsed())
        },
        async {
            turns.take(&endpoint, rate, "a:80", WELL, WANTED).await.unwrap();
            start.elapsed()
        },
        async {
            tokio::time::sleep(19 * SECOND / 2).await;
            is_wanted.store(false, Ordering::Relaxed);
        },
    );
    assert!(first.is_none());
    // The first looks once a second; who comes after him goes at once.
    assert_eq!(second, (true, 10 * SECOND));
    assert_eq!(third, 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_wanted_any_more_does_not_wait_for_a_host_that_hangs() {
    let turns = Turns::new(10, 1);
    let _hangs = turn(&turns, "other", "old:80", WELL).await;
    let (endpoint, start) = (named("ci"), Instant::now());
    let is_there = || start.elapsed() < 5 * SECOND;
    let (old, ()) = tokio::join!(turns.take(&endpoint, UNPACED, "old:80", WELL, is_there), async {
        // Behind the one that waits for the old host.
        drop(
            turns
                .take(&endpoint, UNPACED, "new:80", WELL, WANTED)
                .await
                .unwrap(),
        );
    });
    assert!(old.is_none());
    assert!(start.elapsed() <= 6 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_host_leaves_room_for_the_lanes_of_others_and_those_of_failing_endpoints_have_less() {
    let turns = Turns::new(40, 1);
    let waits = |count: usize, host, is_failing| -> Vec<_> {
        let all = (0..count).map(|_| turns.join(host, is_failing, 1_000_000));
        all.collect::<Option<_>>().unwrap()
    };
    let may = |host, is_failing, free| turns.join(host, is_failing, free).is_some();
    let held = waits(49, "a:80", false);
    assert!(may("a:80", false, 100), "not yet half of what is free");
    let more = waits(1, "a:80", false);
    assert!(!may("a:80", false, 100));
    assert!(may("b:80", false, 100), "others may");
    drop(more);
    assert!(may("a:80", false, 100), "one is through");
    assert!(!may("a:80", true, 98), "failing or not, it is the same lanes");
    drop(held);
    // Of those that fail there may be 40.
    let failing = waits(13, "a:80", true);
    assert!(!may("a:80", true, 10_000), "it has half of what the others leave");
    assert!(may("a:80", false, 10_000), "who is well doesn't wait for that");
    assert!(may("b:80", true, 10_000));
    drop(failing);
    assert!(may("a:80", true, 10_000));
}

#[tokio::test(start_paused = true)]
async fn however_many_hosts_have_as_many_as_they_may_there_is_room_for_another() {
    let (turns, mut all) = (Turns::new(512, 16), Vec::new());
    for host in 0..60 {
        while let Some(waits) = turns.join(&format!("h{host}:80"), true, LANES_MAX - all.len()) {
            all.push(waits);
        }
    }
    assert!(all.len() < 512, "{}", all.len());
    all.clear();
    for host in 0..200 {
        let host = format!("h{host}:80");
        while let Some(waits) = turns.join(&host, false, LANES_MAX - all.len()) {
            all.push(waits);
        }
    }
    assert!(all.len() < LANES_MAX, "{}", all.len());
}

#[tokio::test(start_paused = true)]
async fn failing_endpoints_of_one_host_leave_room_for_those_of_others_where_there_is_little() {
    let turns = Turns::new(8, 4);
    let join = |host| turns.join(host, true, LANES_MAX);
    let held: Vec<_> = (0..8).map_while(|_| join("a:80")).collect();
    assert!((2..8).contains(&held.len()), "{}", held.len());
    assert!(join("b:80").is_some());
    for places in 1..=3 {
        assert!(Turns::new(places, 16).join("a:80", true, LANES_MAX).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_leaves_room_for_others_at_its_host() {
    let turns = Turns::new(100, 16);
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(turn(&turns, "hangs", "a:80", WELL).await);
    }
    let hangs = named("hangs");
    let mut next = Box::pin(turns.take(&hangs, UNPACED, "a:80", WELL, WANTED));
    assert!(poll!(&mut next).is_pending());
    for _ in 0..4 {
        held.push(turn(&turns, "other", "a:80", WELL).await);
    }
    let other = named("other");
    let mut more = Box::pin(turns.take(&other, UNPACED, "a:80", WELL, WANTED));
    assert!(poll!(&mut more).is_pending(), "it is the host's cap all the same");
    drop(held.swap_remove(0));
    assert!(
        poll!(&mut next).is_pending(),
        "it asked for its share first, and the other for the host's"
    );
    assert!(poll!(&mut more).is_ready());
    drop(held);
    assert!(poll!(&mut next).is_ready());
}

#[tokio::test(start_paused = true)]
async fn hosts_that_an_endpoint_was_sent_to_once_are_forgotten() {
    let turns = Turns::new(100, 10);
    let _joined = turns.join("stays:80", false, LANES_MAX).unwrap();
    for number in 0..10_000 {
        let host = format!("host{number}:80");
        drop(turns.join(&host, false, LANES_MAX).unwrap());
        drop(turn(&turns, "ci", &host, WELL).await);
    }
    assert!(turns.hosts.len() <= KNOWN_MIN, "{}", turns.hosts.len());
    assert!(turns.hosts.contains_key("stays:80"), "somebody waits for it");
}
