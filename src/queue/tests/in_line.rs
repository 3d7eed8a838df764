//! Lanes of one endpoint that wait in line for each other.

use super::*;

/// A queue that lends from so many lanes of an endpoint at once, with so many pushes in each of `a` to `d`.
pub(super) fn queue(lanes_at_once_max: usize, pushes: u64, now: Instant) -> Queue {
    let bounds = Bounds {
        lanes_at_once_max,
        ..Bounds::default()
    };
    let (queue, endpoints) = (Queue::bounded(bounds), endpoints(&["ci", "other"]));
    for round in 0..pushes {
        for (number, repository) in (1..).zip(["a", "b", "c", "d"]) {
            let mut push = durable(round * 4 + number, repository, &["ci"]);
            push.push.tag = Some(format!("v{round}").parse().unwrap());
            assert_eq!(queue.apply(&push, &endpoints, now), []);
        }
    }
    queue
}

/// Whether a repository is due now.
pub(super) fn is_due(queue: &Queue) -> bool {
    let agenda = queue.agenda.lock().unwrap();
    agenda.first().is_some_and(|(at, _)| *at <= Instant::now())
}

/// Does all that is due; what is lent by it, by repository.
pub(super) async fn lent(queue: &Queue) -> Vec<(RepositoryName, Lease)> {
    let mut lent = Vec::new();
    while is_due(queue) {
        let name = queue.due().await;
        let leases = queue.advance(&name, Instant::now()).leases;
        lent.extend(leases.into_iter().map(|lease| (name.clone(), lease)));
    }
    lent
}

pub(super) fn names(lent: &[(RepositoryName, Lease)]) -> Vec<String> {
    lent.iter().map(|(name, _)| name.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn lanes_past_the_bound_wait_in_line_and_come_in_order() {
    let queue = queue(2, 1, Instant::now());
    tokio::time::advance(WINDOW).await;
    let mut open = lent(&queue).await;
    assert_eq!(names(&open), ["a", "b"]);
    for next in ["c", "d"] {
        let (name, lease) = open.remove(0);
        queue.complete(&name, &lease, DELIVERED, Instant::now());
        open.extend(lent(&queue).await);
        assert_eq!(names(&open).last().unwrap(), next);
    }
    for (name, lease) in open {
        queue.complete(&name, &lease, DELIVERED, Instant::now());
    }
    assert_eq!((queue.pending(), queue.repositories()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lane_keeps_its_turn_for_its_batch_and_gives_it_up_for_a_wait() {
    let queue = queue(1, 2, Instant::now());
    tokio::time::advance(WINDOW).await;
    let (name, first) = lent(&queue).await.remove(0);
    let second = queue
        .complete(&name, &first, DELIVERED, Instant::now())
        .leases
        .remove(0);
    assert!(Arc::ptr_eq(&first.batch, &second.batch));
    assert!(lent(&queue).await.is_empty());
    let at = Instant::now() + HOUR;
    queue.complete(&name, &second, Completion::Retry { at }, Instant::now());
    let lent = lent(&queue).await;
    assert_eq!(names(&lent), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_pushes_are_given_up_in_line_holds_nobody_up() {
    for called in [false, true] {
        let queue = queue(1, 1, Instant::now());
        tokio::time::advance(WINDOW).await;
        let (name, lease) = lent(&queue).await.remove(0);
        let give_up = || queue.give_up(&"b".parse().unwrap(), sequence(2), &named("ci"), Instant::now());
        if !called {
            assert!(matches!(give_up(), GivenUp::Settled(_)));
        }
        queue.complete(&name, &lease, DELIVERED, Instant::now());
        if called {
            assert!(matches!(give_up(), GivenUp::Settled(_)));
        }
        assert_eq!(names(&lent(&queue).await), ["c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_stays_of_the_line_of_an_endpoint_that_went_while_its_lane_stood_in_it() {
    let queue = Queue::bounded(Bounds::default());
    for number in 1..=100 {
        let name = format!("hook{number}");
        let (endpoints, id) = (endpoints(&[&name]), named(&name));
        assert!(!queue.set_passage(&id, Passage::Shut, Instant::now()));
        let apart = queue.apply(&durable(number, "a", &[&name]), &endpoints, Instant::now());
        assert_eq!(apart, []);
        tokio::time::advance(WINDOW).await;
        assert!(lent(&queue).await.is_empty());
        assert!(queue.is_in_line(&id));
        assert!(queue.set_passage(&id, Passage::Gone, Instant::now()));
        let effects = queue.advance(&queue.due().await, Instant::now());
        let given_up = effects.given_up.iter().map(|given_up| given_up.sequence.get());
        assert_eq!(given_up.collect::<Vec<_>>(), [number]);
    }
    assert_eq!((queue.pending(), queue.lines.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_beside_the_line_is_the_one_of_an_endpoint_in_trouble() {
    let ci = named("ci");
    let from = Instant::now();
    let ignored = Passage::GivingUp {
        probe_from: Some(from),
    };
    for passage in [Passage::Narrow { from }, ignored] {
        let queue = queue(4, 1, Instant::now());
        let _ = queue.set_passage(&ci, passage, Instant::now());
        let aside = queue.send_aside(&ci).unwrap();
        assert!(queue.send_aside(&ci).is_none(), "one at a time");
        queue.keep_all(true);
        tokio::time::advance(WINDOW).await;
        assert_eq!(names(&lent(&queue).await), [""; 0]);
        drop(aside);
        queue.keep_all(false);
        queue.go_on_giving_up(Instant::now());
        let lent = lent(&queue).await;
        assert_eq!(lent.len(), 1, "{passage:?}");
        assert!(queue.may_send(&lent[0].1, Instant::now()));
        assert!(queue.send_aside(&ci).is_none());
        // Of a line that is open any number may be.
        let _ = queue.set_passage(&ci, Passage::Open, Instant::now());
        let _others = [queue.send_aside(&ci).unwrap(), queue.send_aside(&ci).unwrap()];
    }
}
