//! All repositories together: who is due, and when.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_repository_stands_in_the_agenda_once_however_often_it_is_due() {
    let (queue, endpoints) = (Queue::new(), endpoints(&["ci"]));
    let name = "acme/app".parse().unwrap();
    assert_eq!(
        queue.apply(&durable(1, "acme/app", &["ci"]), &endpoints, Instant::now()),
        []
    );
    queue.due().await;
    let lease = queue.advance(&name, Instant::now()).leases.remove(0);
    let at = Instant::now() + 24 * HOUR;
    queue.complete(&name, &lease, Completion::Later { at }, Instant::now());
    for number in 2..20 {
        assert_eq!(
            queue.apply(&durable(number, "acme/app", &["ci"]), &endpoints, Instant::now()),
            []
        );
        assert_eq!(
            queue.agenda.lock().unwrap().len(),
            1,
            "the later moment gives way to the earlier"
        );
        assert_eq!(queue.due().await, name);
        queue.advance(&name, Instant::now());
    }
    assert_eq!(queue.agenda.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn repositories_come_up_in_the_order_in_which_they_are_due() {
    let (queue, endpoints) = (Arc::new(Queue::new()), endpoints(&["ci"]));
    let start = Instant::now();
    assert_eq!(
        queue.apply(
            &durable(1, "late", &["ci"]),
            &endpoints,
            start + Duration::from_secs(1)
        ),
        []
    );
    assert_eq!(queue.apply(&durable(2, "early", &["ci"]), &endpoints, start), []);
    assert_eq!(queue.due().await.as_str(), "early");
    assert_eq!(start.elapsed(), WINDOW);
    assert_eq!(queue.due().await.as_str(), "late");
    assert_eq!(start.elapsed(), WINDOW + Duration::from_secs(1));
    assert_eq!((queue.pending(), queue.repositories()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_earlier_push_wakes_the_one_who_waits_for_a_later() {
    let (queue, endpoints) = (Arc::new(Queue::new()), endpoints(&["ci"]));
    let start = Instant::now();
    assert_eq!(
        queue.apply(
            &durable(1, "late", &["ci"]),
            &endpoints,
            start + Duration::from_mins(1)
        ),
        []
    );
    let mut due = Box::pin(queue.due());
    assert!(futures_util::poll!(&mut due).is_pending());
    assert_eq!(queue.apply(&durable(2, "early", &["ci"]), &endpoints, start), []);
    assert_eq!(due.await.as_str(), "early");
}

#[tokio::test(start_paused = true)]
async fn a_start_closes_windows_and_hands_back_what_nobody_can_deliver() {
    let (queue, endpoints) = (Queue::new(), endpoints(&["ci"]));
    let (mut orphans, mut restoring) = (Orphans::new(), queue.restoring(&endpoints, Instant::now()));
    for (number, repository, owed) in [
        (1, "acme/app", vec![(3, named("ci")), (5, named("gone"))]),
        (2, "acme/other", vec![(0, named("gone"))]),
    ] {
        let push = OwedPush {
            sequence: Sequence::new(number).unwrap(),
            bytes: 400,
            tag: "v1",
        };
        let run = OwedRun {
            repository: &repository.parse().unwrap(),
            owed: &owed.into(),
            pushes: &[push],
        };
        orphans.extend(restoring.take(&run));
    }
    let places: Vec<_> = orphans
        .iter()
        .map(|(pair, id)| (pair.sequence.get(), pair.place, id.to_string()))
        .collect();
    assert_eq!(places, [(1, 5, "gone".to_owned()), (2, 0, "gone".to_owned())]);
    restoring.finish();
    assert_eq!(queue.pending(), 1);
    let start = Instant::now();
    let name = queue.due().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let effects = queue.advance(&name, Instant::now());
    assert_eq!(sent(&effects), [("ci".into(), 1)]);
    let effects = queue.complete(&name, &effects.leases[0], DELIVERED, Instant::now());
    assert_eq!(effects.settled[0].pair().place, 3);
    assert_eq!((queue.pending(), queue.repositories()), (0, 0));
}
