//! What is given up for the sake of a bound, and when a bound is passed.

use super::*;

const ONE_BY_ONE: Batching = Batching {
    window: Duration::ZERO,
    ..BATCHING
};

fn give_up(queue: &mut Repository, number: u64) -> GivenUp {
    queue.give_up(number, "ci")
}

fn given_up(queue: &mut Repository, number: u64) -> Settled {
    match give_up(queue, number) {
        GivenUp::Settled(settled) => settled,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_push_in_a_window_can_be_given_up_and_the_others_go_out() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    for number in 1..=3 {
        push(&mut queue, number, &format!("v{number}"), &["ci"], BATCHING, now);
    }
    for number in [1, 3] {
        let settled = given_up(&mut queue, number);
        assert_eq!((settled.how, settled.last), (Settlement::DeadLetter, true));
        assert_eq!(settled.tag.unwrap().as_str(), format!("v{number}"));
        assert!(matches!(give_up(&mut queue, number), GivenUp::NotOwed));
    }
    let effects = queue.advance(now + WINDOW);
    assert_eq!(sent(&effects), [("ci".into(), 2)]);
    assert_eq!(*effects.sealed[0].members, [sequence(2)]);
}

#[test]
fn a_window_of_which_all_is_given_up_leaves_nothing() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    push(&mut queue, 1, "v1", &["ci"], BATCHING, now);
    given_up(&mut queue, 1);
    let effects = queue.advance(now + WINDOW);
    assert!(effects.sealed.is_empty() && effects.leases.is_empty());
    assert!(queue.is_empty());
}

#[test]
fn what_is_in_flight_is_not_given_up_and_what_is_behind_it_is() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    for number in 1..=3 {
        push(
            &mut queue,
            number,
            &format!("v{number}"),
            &["ci"],
            ONE_BY_ONE,
            now,
        );
    }
    let lease = queue.advance(now).leases.remove(0);
    assert!(matches!(give_up(&mut queue, 1), GivenUp::InFlight));
    given_up(&mut queue, 2);
    let effects = queue.complete(&lease, DELIVERED, now);
    assert_eq!(sent(&effects), [("ci".into(), 3)]);
}

#[test]
fn giving_up_what_waits_for_a_retry_ends_its_wait() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    for number in 1..=2 {
        push(
            &mut queue,
            number,
            &format!("v{number}"),
            &["ci"],
            ONE_BY_ONE,
            now,
        );
    }
    let lease = queue.advance(now).leases.remove(0);
    queue.complete(&lease, Completion::Retry { at: now + HOUR }, now);
    given_up(&mut queue, 1);
    let effects = queue.advance(now);
    assert_eq!(sent(&effects), [("ci".into(), 2)]);
    assert_eq!(effects.leases[0].push_failures, 0);
}

#[test]
fn a_push_given_up_for_one_endpoint_is_still_owed_by_the_other() {
    let (mut queue, now) = (Repository::default(), Instant::now());
    push(&mut queue, 1, "v1", &["ci", "other"], BATCHING, now);
    assert!(!given_up(&mut queue, 1).last);
    assert_eq!(sent(&queue.advance(now + WINDOW)), [("other".into(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_bound_is_told_once_it_is_passed_until_it_holds_again() {
    let bounds = Bounds {
        endpoint_bytes_max: 1000,
        bytes_max: 1600,
        ..Bounds::default()
    };
    let (queue, endpoints, now) = (Queue::bounded(bounds), endpoints(&["a", "b"]), Instant::now());
    let (app, other) = ("acme/app".parse().unwrap(), "other".parse().unwrap());
    let mut told = Box::pin(queue.excesses());
    // Each takes 400 bytes.
    assert_eq!(
        queue.apply(&durable(1, "acme/app", &["a", "b"]), &endpoints, now),
        []
    );
    assert_eq!(queue.apply(&durable(2, "acme/app", &["a"]), &endpoints, now), []);
    assert!(futures_util::poll!(&mut told).is_pending());
    assert_eq!(queue.apply(&durable(3, "other", &["a"]), &endpoints, now), []);
    let of_a = Excess::Endpoint(Arc::new(named("a")));
    assert_eq!(told.await, std::slice::from_ref(&of_a));
    let give_up = |name, number, id| queue.give_up(name, sequence(number), &named(id), now);
    assert!(matches!(give_up(&app, 1, "a"), GivenUp::Settled(_)));
    assert!(!queue.is_over(&of_a));
    for number in [4, 5] {
        assert_eq!(
            queue.apply(&durable(number, "other", &["b"]), &endpoints, now),
            []
        );
    }
    assert!(queue.is_over(&Excess::Overall), "five times 400");
    assert!(matches!(give_up(&app, 1, "b"), GivenUp::Settled(_)));
    assert!(
        !queue.is_over(&Excess::Overall),
        "what nobody owes counts for nothing"
    );
    assert!(matches!(give_up(&other, 1, "b"), GivenUp::NotOwed));
    assert_eq!(queue.pending(), 4);
}

#[tokio::test(start_paused = true)]
async fn too_many_pushes_are_told_however_many_owe_each() {
    let bounds = Bounds {
        pushes_max: 2,
        ..Bounds::default()
    };
    let (queue, endpoints, now) = (Queue::bounded(bounds), endpoints(&["a", "b"]), Instant::now());
    let app = "acme/app".parse().unwrap();
    let mut told = Box::pin(queue.excesses());
    for number in 1..=2 {
        let push = durable(number, "acme/app", &["a", "b"]);
        assert_eq!(queue.apply(&push, &endpoints, now), []);
    }
    // Nobody who still exists owes it.
    assert_eq!(
        queue
            .apply(&durable(3, "acme/app", &["gone"]), &endpoints, now)
            .len(),
        1
    );
    assert!(futures_util::poll!(&mut told).is_pending());
    assert_eq!(queue.apply(&durable(4, "other", &["b"]), &endpoints, now), []);
    assert_eq!(told.await, [Excess::Pushes]);
    let give_up = |id| queue.give_up(&app, sequence(1), &named(id), now);
    assert!(matches!(give_up("a"), GivenUp::Settled(_)));
    assert!(queue.is_over(&Excess::Pushes), "the other one owes it still");
    assert!(matches!(give_up("b"), GivenUp::Settled(_)));
    assert!(!queue.is_over(&Excess::Pushes));
    assert_eq!(queue.pending(), 2);
}
