use futures_util::{FutureExt, future::join_all, poll};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::coop::unconstrained;

use super::*;

const LONG: Duration = Duration::from_mins(1);

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

/// As many places as the repository gets at once.
fn take_all(shares: &Shares, text: &str) -> Vec<Share> {
    // Else the runtime has it wait after so many that did not.
    let next = || unconstrained(shares.take(&name(text))).now_or_never();
    std::iter::from_fn(next).collect()
}

fn answered(shares: &Shares, text: &str) {
    let mut share = shares.take(&name(text)).now_or_never().unwrap();
    share.turns_out(Temper::Prompt);
}

fn remembered(shares: &Shares, text: &str) -> Option<Standing> {
    shares.state().remembered.get(&name(text)).copied()
}

/// Has it take all it gets, which drags from then on.
fn drag(shares: &Shares, text: &str) -> Vec<Share> {
    let mut taken = take_all(shares, text);
    for share in &mut taken {
        share.turns_out(Temper::Dragging);
    }
    taken.extend(take_all(shares, text));
    taken
}

#[tokio::test]
async fn one_of_which_nothing_is_known_has_one_place_and_all_but_a_quarter_once_it_was_answered() {
    let shares = Shares::new(8, LONG);
    let mut first = take_all(&shares, "a/first");
    assert_eq!(first.len(), 1);
    first[0].turns_out(Temper::Prompt);
    let more = take_all(&shares, "a/first");
    assert_eq!(more.len(), 5);
    assert_eq!(take_all(&shares, "a/second").len(), 1);
    // When it comes again it begins with fewer, in case it hangs by now.
    drop((first, more));
    assert_eq!(take_all(&shares, "a/first").len(), 2);
    answered(&shares, "a/first");
    let again = take_all(&shares, "a/first");
    assert_eq!(again.len(), 2, "nothing of it was under way meanwhile");
}

#[tokio::test]
async fn those_that_drag_leave_the_reserve_and_are_told_from_others_until_they_are_answered() {
    let shares = Shares::new(8, LONG);
    let mut dragging: Vec<Share> = ["a/1", "a/2", "a/3"]
        .iter()
        .flat_map(|text| drag(&shares, text))
        .collect();
    assert_eq!(dragging.len(), 6);
    // They drag: they have six in all, whoever of them wants more.
    dragging.pop();
    let mut third = Box::pin(take_all_later(&shares, "a/3", 2));
    assert!(poll!(&mut third).is_pending());
    let new = take_all(&shares, "a/new");
    assert_eq!(new.len(), 1, "there is a reserve");
    drop(new);
    answered(&shares, "a/new");
    drop(dragging);
    assert_eq!(third.await.len(), 2);
    // What drags is remembered while it asks for nothing, and over with the next answer.
    assert_eq!(take_all(&shares, "a/1").len(), 2);
    assert_eq!(remembered(&shares, "a/1"), Some(Standing::Dragging));
    answered(&shares, "a/1");
    assert_eq!(remembered(&shares, "a/1"), Some(Standing::Answered));
}

#[tokio::test]
async fn those_that_are_new_and_hang_leave_room_for_whoever_was_answered_before() {
    for (all, new, with_dragging) in [
        (8, 7, 7),
        (16, 14, 14),
        (4, 3, 3),
        (3, 2, 2),
        (2, 2, 2),
        (1, 1, 1),
    ] {
        let shares = Shares::new(all, LONG);
        answered(&shares, "a/known");
        drop(drag(&shares, "a/slow"));
        let hang = |from: usize| -> Vec<Share> {
            let names = (from..from + 40).map(|n| format!("a/new{n}"));
            names.flat_map(|text| take_all(&shares, &text)).collect()
        };
        let mut hanging = hang(0);
        assert_eq!(hanging.len(), new, "{all}");
        assert!(take_all(&shares, "a/slow").is_empty(), "{all}");
        let known = take_all(&shares, "a/known");
        assert_eq!(known.len(), (all - new).min(quarter(all)), "{all}");
        drop(known);
        for share in &mut hanging {
            share.turns_out(Temper::Dragging);
        }
        hanging.extend(hang(100));
        assert_eq!(hanging.len(), with_dragging, "{all}");
        let known = take_all(&shares, "a/known");
        assert_eq!(known.len(), (all - with_dragging).min(quarter(all)), "{all}");
    }
}

#[tokio::test]
async fn those_that_drag_leave_room_for_whoever_is_new() {
    for (all, of_dragging, of_new) in [(16, 12, 2), (8, 6, 1), (5, 3, 1), (4, 2, 1), (3, 1, 1), (2, 1, 1)] {
        let shares = Shares::new(all, LONG);
        for n in 0..40 {
            drag(&shares, &format!("a/r{n}"));
        }
        let again: Vec<Share> = (0..40)
            .flat_map(|n| take_all(&shares, &format!("a/r{n}")))
            .collect();
        assert_eq!(again.len(), of_dragging, "{all}");
        let new: Vec<Share> = (0..40)
            .flat_map(|n| take_all(&shares, &format!("a/new{n}")))
            .collect();
        assert_eq!(new.len(), of_new, "{all}");
    }
}

async fn take_all_later(shares: &Shares, text: &str, count: usize) -> Vec<Share> {
    let name = name(text);
    join_all((0..count).map(|_| shares.take(&name))).await
}

#[tokio::test]
async fn a_request_that_lasts_drags_and_one_that_ends_soon_does_not() {
    let temper = |shares: &Shares, text| shares.state().repositories[&name(text)].temper;
    let shares = Shares::new(8, LONG);
    let app = name("a/app");
    answered(&shares, "a/app");
    let mut hanging = Box::pin(shares.have(&app, std::future::pending::<()>()));
    assert!(poll!(&mut hanging).is_pending());
    let kept = take_all(&shares, "a/app");
    shares.have(&app, async {}).now_or_never();
    assert_eq!(temper(&shares, "a/app"), Temper::Familiar, "it waits for a place");
    drop(kept);
    shares.have(&app, async {}).await;
    assert_eq!(temper(&shares, "a/app"), Temper::Prompt);
    tokio::time::pause();
    tokio::select! {
        () = &mut hanging => {}
        () = sleep(DRAGS_AFTER + Duration::from_millis(1)) => {}
    }
    assert_eq!(temper(&shares, "a/app"), Temper::Dragging);
    drop(hanging);
    assert_eq!(remembered(&shares, "a/app"), Some(Standing::Dragging));
}

#[tokio::test]
async fn what_is_cut_off_before_it_could_drag_drags_sooner() {
    tokio::time::pause();
    let shares = Shares::new(8, Duration::from_millis(100));
    let request = tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>());
    assert!(shares.have(&name("a/app"), request).await.is_err());
    assert_eq!(remembered(&shares, "a/app"), Some(Standing::Dragging));
}

#[tokio::test]
async fn those_that_wait_take_turns_those_that_drag_too() {
    let shares = Shares::new(1, LONG);
    let mut few = shares.take(&name("a/few")).await;
    few.turns_out(Temper::Dragging);
    drop(few);
    let first = shares.take(&name("a/first")).await;
    let order = Mutex::new(Vec::new());
    let wait = |text: &'static str| {
        let (shares, order) = (&shares, &order);
        async move {
            let _share = shares.take(&name(text)).await;
            order.lock().unwrap().push(text);
        }
    };
    let mut all = Box::pin(join_all([
        wait("a/many"),
        wait("a/many"),
        wait("a/many"),
        wait("a/few"),
        wait("a/one"),
        wait("a/few"),
    ]));
    assert!(poll!(&mut all).is_pending());
    drop(first);
    all.await;
    let order = order.into_inner().unwrap();
    let expected = ["a/many", "a/few", "a/one", "a/many", "a/few", "a/many"];
    assert_eq!(order, expected);
}

#[tokio::test]
async fn who_stopped_waiting_takes_no_place_and_nothing_stays() {
    let shares = Shares::new(1, LONG);
    let first = shares.take(&name("a/first")).await;
    // So many that to pass over one from within another would take all of the stack.
    let mut gone = Box::pin(take_all_later(&shares, "a/gone", 50_000));
    assert!(poll!(&mut gone).is_pending());
    let mut last = Box::pin(take_all_later(&shares, "a/last", 1));
    assert!(poll!(&mut last).is_pending());
    drop(gone);
    drop(first);
    assert_eq!(last.now_or_never().map(|taken| taken.len()), Some(1));
    let state = shares.state();
    assert!(Standing::ALL.iter().all(|of| state.taken[*of] == 0));
    assert!(state.repositories.is_empty() && Standing::ALL.iter().all(|of| state.turns[*of].is_empty()));
}

#[tokio::test]
async fn a_place_given_to_who_just_stopped_waiting_goes_to_the_next() {
    let shares = Shares::new(1, LONG);
    let first = shares.take(&name("a/first")).await;
    let mut gone = Box::pin(take_all_later(&shares, "a/gone", 1));
    let mut last = Box::pin(take_all_later(&shares, "a/last", 1));
    assert!(poll!(&mut gone).is_pending());
    assert!(poll!(&mut last).is_pending());
    drop(first);
    drop(gone);
    assert_eq!(last.now_or_never().map(|taken| taken.len()), Some(1));
}

#[tokio::test]
async fn whatever_happens_the_rules_hold_and_nobody_waits_for_ever() {
    let mut rng = StdRng::seed_from_u64(11);
    for all in [1, 2, 3, 5, 8, 16] {
        let shares = Shares::new(all, LONG);
        let names: Vec<RepositoryName> = (0..12).map(|n| name(&format!("a/r{n}"))).collect();
        let mut waiting = Vec::new();
        let mut taken: Vec<Share> = Vec::new();
        for _ in 0..2_000 {
            match rng.random_range(0..10) {
                0..4 => {
                    let of = &names[rng.random_range(0..names.len())];
                    waiting.push(shares.take(of).boxed());
                }
                4 if !waiting.is_empty() => drop(waiting.swap_remove(rng.random_range(0..waiting.len()))),
                5 | 6 if !taken.is_empty() => {
                    let temper = [Temper::Prompt, Temper::Dragging][rng.random_range(0..2)];
                    let one = rng.random_range(0..taken.len());
                    taken[one].turns_out(temper);
                }
                7.. if !taken.is_empty() => drop(taken.swap_remove(rng.random_range(0..taken.len()))),
                _ => {}
            }
            let mut still = Vec::new();
            for mut one in waiting {
                match poll!(&mut one) {
                    std::task::Poll::Ready(share) => taken.push(share),
                    std::task::Poll::Pending => still.push(one),
                }
            }
            waiting = still;
            holds(&shares, &taken);
            // Else the runtime has them wait after so many that did not.
            tokio::task::yield_now().await;
        }
        taken.clear();
        while !waiting.is_empty() {
            let (share, _, rest) = futures_util::future::select_all(waiting).await;
            drop(share);
            waiting = rest;
        }
        assert!(shares.state().repositories.is_empty());
    }
}

/// The counts are what they count, no more places are taken than there are, and none is free that somebody may have.
fn holds(shares: &Shares, held: &[Share]) {
    let state = shares.state();
    let (all, taken) = (shares.all, held.len());
    assert_eq!(
        Standing::ALL.map(|of| state.taken[of]).iter().sum::<usize>(),
        taken
    );
    assert!(taken <= all);
    let sum = |of: fn(&Repository) -> usize| state.repositories.values().map(of).sum::<usize>();
    assert_eq!(sum(|repository| repository.taken), taken);
    for of in Standing::ALL {
        let held = held.iter().filter(|share| share.standing == of).count();
        assert_eq!(held, state.taken[of], "{of:?}");
    }
    for (name, repository) in &state.repositories {
        let is_open = repository.waiting.iter().any(|sender| !sender.is_closed());
        let standing = repository.temper.standing();
        let may = repository.taken < repository.temper.most(all) && state.has_place(standing, all);
        assert!(!(is_open && may), "{name} waits: {state:?}");
    }
}

#[tokio::test]
async fn a_request_that_drags_counts_even_if_another_of_its_repository_is_answered() {
    let shares = Shares::new(8, LONG);
    let mut hanging = Vec::new();
    for text in ["a/1", "a/2", "a/3"] {
        let mut taken = drag(&shares, text);
        assert_eq!(taken.len(), 2, "{text}");
        // The last to end tells of the repository.
        taken.pop();
        answered(&shares, text);
        hanging.extend(taken);
    }
    let dragging = || shares.state().taken[Standing::Dragging];
    assert_eq!(dragging(), 3);
    drop(drag(&shares, "a/4"));
    assert_eq!(
        take_all(&shares, "a/4").len(),
        2,
        "three drag, and it may have two"
    );
    assert_eq!(dragging(), 3);
}

#[tokio::test]
async fn of_those_that_ask_for_nothing_so_many_are_remembered_the_newest_among_them() {
    let shares = Shares::new(4, LONG);
    for n in 0..REMEMBERED_MAX + 100 {
        let text = format!("a/r{n}");
        let temper = [Temper::Prompt, Temper::Dragging][n % 2];
        let mut share = shares.take(&name(&text)).await;
        share.turns_out(temper);
        drop(share);
        assert_eq!(remembered(&shares, &text), Some(temper.standing()));
        assert!(shares.state().remembered.len() <= REMEMBERED_MAX);
    }
}

#[tokio::test]
async fn those_who_stopped_waiting_do_not_add_up() {
    let shares = Shares::new(1, LONG);
    let app = name("a/app");
    let _first = shares.take(&app).await;
    for _ in 0..100 {
        assert!(shares.take(&app).now_or_never().is_none());
    }
    assert_eq!(shares.state().repositories[&app].waiting.len(), 1);
}
