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
    let bounds = Bounds {
        pushes_max: 0,
        ..Bounds::default()
    };
    let (queue, endpoints) = (Queue::bounded(bounds), endpoints(&["ci"]));
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
            is_overtaken: false,
            is_last: true,
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
    assert_eq!(
        queue.excesses().await,
        [Excess::Pushes],
        "what is restored counts"
    );
    let start = Instant::now();
    let name = queue.due().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let effects = queue.advance(&name, Instant::now());
    assert_eq!(sent(&effects), [("ci".into(), 1)]);
    let effects = queue.complete(&name, &effects.leases[0], DELIVERED, Instant::now());
    assert_eq!(effects.settled[0].pair().place, 3);
    assert_eq!(effects.settled[0].attempts, None, "it may have been sent before");
    assert_eq!((queue.pending(), queue.repositories()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_start_closes_windows_with_a_repositorys_last_push_whoever_owes_it() {
    let (queue, endpoints, repository) = (Queue::new(), endpoints(&["ci"]), "acme/app".parse().unwrap());
    let mut restoring = queue.restoring(&endpoints, Instant::now());
    for (number, owner, is_last) in [(1, "ci", false), (2, "gone", true)] {
        let push = OwedPush {
            sequence: Sequence::new(number).unwrap(),
            bytes: 400,
            tag: "v1",
        };
        let run = OwedRun {
            repository: &repository,
            owed: &[(0, named(owner))].into(),
            pushes: &[push],
            is_overtaken: false,
            is_last,
        };
        drop(restoring.take(&run));
    }
    restoring.finish();
    let due = tokio::time::timeout(Duration::from_millis(1), queue.due()).await;
    assert_eq!(due, Ok(repository), "at once");
}

#[tokio::test(start_paused = true)]
async fn a_start_puts_down_what_is_owed_by_list_and_makes_every_repository_due() {
    const REPOSITORIES: u64 = 1_500;
    let queue = Queue::bounded(Bounds {
        endpoint_bytes_max: 400 * REPOSITORIES + 399,
        ..Bounds::default()
    });
    let endpoints = endpoints(&["ci", "cd"]);
    let mut restoring = queue.restoring(&endpoints, Instant::now());
    let lists: [OwedBy; 2] = [
        [(0, named("ci"))].into(),
        [(0, named("ci")), (1, named("cd"))].into(),
    ];
    // A list is met thrice, and again after the other; `ci` owes one push too many, `cd` does not.
    let lists = lists.iter().flat_map(|list| [list; 3]).cycle();
    for (number, list) in (1..=REPOSITORIES + 1).zip(lists) {
        let push = OwedPush {
            sequence: Sequence::new(number).unwrap(),
            bytes: 400,
            tag: "v1",
        };
        let run = OwedRun {
            repository: &format!("acme/app-{}", number % REPOSITORIES).parse().unwrap(),
            owed: list,
            pushes: &[push],
            is_overtaken: false,
            is_last: true,
        };
        assert_eq!(restoring.take(&run), []);
    }
    restoring.finish();
    let is_over = |name: &str| queue.is_over(&Excess::Endpoint(Arc::new(named(name))));
    assert_eq!((is_over("ci"), is_over("cd")), (true, false));
    // The repository of the first and the last push has one of them left: the newer supersedes the older.
    for _ in 0..REPOSITORIES {
        let name = queue.due().await;
        let mut effects = queue.advance(&name, Instant::now());
        for lease in std::mem::take(&mut effects.leases) {
            let after = queue.complete(&name, &lease, DELIVERED, Instant::now());
            assert!(after.leases.is_empty());
        }
    }
    assert_eq!((queue.pending(), queue.repositories()), (0, 0));
    assert!(!queue.owes_anything(&named("ci")) && !queue.owes_anything(&named("cd")));
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_owes_is_of_all_repositories_and_a_repositorys_own_of_that_one() {
    let (queue, now) = (Queue::new(), Instant::now());
    let all = endpoints(&["ci", "scan"]);
    let owns = ["acme/app", "acme/db"].map(|name| EndpointId::Repository(name.parse().unwrap()));
    for own in &owns {
        let like = all.get(&named("ci")).unwrap();
        all.put(Endpoint {
            id: own.clone(),
            ..(*like).clone()
        });
    }
    for (number, repository, owed) in [
        (3, "acme/app", &["ci"][..]),
        (4, "acme/db", &["ci", "scan"]),
        (5, "acme/app", &["ci"]),
        (6, "other", &["scan"]),
    ] {
        let mut durable = durable(number, repository, owed);
        let own = EndpointId::Repository(durable.push.repository.clone());
        durable.push.owed.extend(owns.contains(&own).then_some(own));
        assert_eq!(queue.apply(&durable, &all, now), []);
    }
    let owed = |pushes, oldest| Owed {
        pushes,
        oldest: Sequence::new(oldest).unwrap(),
    };
    let wanted = [(named("ci"), owed(3, 3)), (named("scan"), owed(2, 4))];
    assert_eq!(queue.owed_by_named(), HashMap::from(wanted));
    let own = |name: &str| queue.owed_by_own(&name.parse().unwrap());
    assert_eq!(own("acme/app"), Some(owed(2, 3)));
    assert_eq!(own("acme/db"), Some(owed(1, 4)));
    assert_eq!([own("other"), own("nobodys")], [None, None]);
}
