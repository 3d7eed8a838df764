//! Lanes that wait for the next attempt of a push that was refused.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_push_that_was_refused_can_be_called_before_its_time_and_no_other() {
    let queue = queue(4, 1, Instant::now());
    tokio::time::advance(WINDOW).await;
    let open = lent(&queue).await.remove(0);
    let (name, lease) = (open.0.clone(), open.1.sequence);
    let hurry = |sequence| queue.hurry(&name, &ci(), sequence, Instant::now());
    assert!(!hurry(lease), "it is in flight");
    let at = Instant::now() + 3600 * SECOND;
    give_back(&queue, &open, Completion::Retry { at });
    assert!(lent(&queue).await.is_empty());
    assert!(!hurry(sequence(77)), "that one is not there");
    assert!(hurry(lease));
    assert!(!hurry(lease), "it waits no longer");
    let again = lent(&queue).await;
    assert_eq!(
        again.iter().map(|(_, lease)| lease.sequence).collect::<Vec<_>>(),
        [lease]
    );
    assert_eq!(again[0].1.push_failures, 1, "and it is still its second attempt");
    // For the endpoint's sake it waits on.
    set(&queue, narrow_after(5 * SECOND));
    give_back(&queue, &again[0], Completion::Returned);
    assert!(!hurry(lease));
    queue.hurry_all(&HashSet::from([ci()]), Instant::now());
    assert!(lent(&queue).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_an_endpoint_in_trouble_a_push_that_was_refused_has_its_turn_behind_all_others() {
    let queue = queue(3, 1, Instant::now());
    tokio::time::advance(WINDOW).await;
    set(&queue, narrow_after(5 * SECOND));
    assert!(lent(&queue).await.is_empty());
    let mut probed = Vec::new();
    for _ in 0..7 {
        let (next, probe) = loop {
            let next = queue.first_in_line(&ci());
            let name = queue.due().await;
            let mut leases = queue.advance(&name, Instant::now()).leases;
            if let Some(lease) = leases.pop() {
                assert!(leases.is_empty(), "one at a time");
                break (next, (name, lease));
            }
        };
        assert!(queue.may_send(&probe.1, Instant::now()));
        assert_eq!(next, Some((probe.0.clone(), probe.1.sequence)));
        probed.push(probe.0.to_string());
        set(&queue, narrow_after(5 * SECOND));
        // Its next attempt is due before the next probe.
        let at = Instant::now() + SECOND;
        give_back(&queue, &probe, Completion::Retry { at });
    }
    assert_eq!(probed, ["a", "b", "c", "d", "a", "b", "c"]);
    // What takes the place of one that was refused is a push of its own.
    let apply = |number, repository, tag: &str| {
        let mut push = durable(number, repository, &["ci"]);
        push.push.tag = Some(tag.parse().unwrap());
        assert_eq!(
            queue.apply(&push, &endpoints(&["ci", "other"]), Instant::now()),
            []
        );
    };
    apply(5, "a", "v0");
    tokio::time::advance(WINDOW).await;
    assert!(lent(&queue).await.is_empty());
    assert_eq!(queue.first_in_line(&ci()).unwrap().0.as_str(), "a");
    // Once it is well, what is older comes first again.
    set(&queue, Passage::Open);
    tokio::time::advance(2 * SECOND).await;
    let open = lent(&queue).await;
    set(&queue, narrow_after(5 * SECOND));
    for open in &open {
        give_back(&queue, open, Completion::Returned);
    }
    assert!(lent(&queue).await.is_empty());
    assert_eq!(queue.first_in_line(&ci()).unwrap().0.as_str(), "b");
}

#[tokio::test(start_paused = true)]
async fn all_that_an_endpoint_refused_can_be_called_before_its_time() {
    let queue = queue(4, 1, Instant::now());
    tokio::time::advance(WINDOW).await;
    let at = Instant::now() + 3600 * SECOND;
    for open in lent(&queue).await {
        give_back(&queue, &open, Completion::Retry { at });
    }
    queue.hurry_all(&HashSet::from([named("other")]), Instant::now());
    assert!(lent(&queue).await.is_empty());
    queue.hurry_all(&HashSet::from([named("other"), ci()]), Instant::now());
    assert_eq!(names(&lent(&queue).await), ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_given_up_with_all_behind_it_once_its_endpoint_is_given_nothing() {
    for passage in [Passage::Gone, Passage::GivingUp { probe_from: None }] {
        let queue = queue(2, 2, Instant::now());
        tokio::time::advance(WINDOW).await;
        let open = lent(&queue).await;
        let at = Instant::now() + 3600 * SECOND;
        give_back(&queue, &open[0], Completion::Retry { at });
        set(&queue, passage);
        // What is in flight then is, as soon as it is refused.
        let (name, lease) = &open[1];
        let effects = queue.complete(name, lease, Completion::Retry { at }, Instant::now());
        let given_up = effects.settled.iter().chain(&effects.given_up).count();
        assert!(given_up > 0, "{passage:?}");
        let _ = given_up_now(&queue).await;
        assert_eq!(queue.pending(), 0, "{passage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_and_waits_is_given_up_when_nothing_else_is_there() {
    for passage in [Passage::Gone, Passage::GivingUp { probe_from: None }] {
        let queue = queue(1, 1, Instant::now());
        tokio::time::advance(WINDOW).await;
        let open = lent(&queue).await.remove(0);
        let at = Instant::now() + 3600 * SECOND;
        give_back(&queue, &open, Completion::Retry { at });
        set(&queue, passage);
        assert!(!given_up_now(&queue).await.is_empty(), "{passage:?}");
        assert_eq!(queue.pending(), 0, "{passage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_attempt_that_was_refused_counts_though_its_endpoint_is_given_nothing_meanwhile() {
    let queue = queue(1, 1, Instant::now());
    tokio::time::advance(WINDOW).await;
    let open = lent(&queue).await.remove(0);
    set(&queue, Passage::GivingUp { probe_from: None });
    let at = Instant::now() + HOUR;
    let settled = give_back(&queue, &open, Completion::Retry { at }).settled;
    let [settled] = &settled[..] else {
        panic!("{settled:?}")
    };
    assert_eq!((settled.how, settled.attempts), (Settlement::DeadLetter, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_own_sake_stands_in_no_line() {
    let queue = queue(1, 1, Instant::now());
    tokio::time::advance(WINDOW).await;
    let mut open = lent(&queue).await;
    assert!(queue.is_in_line(&ci()), "one is lent, and others wait");
    for _ in ["a", "b", "c", "d"] {
        let at = Instant::now() + HOUR;
        give_back(&queue, &open.remove(0), Completion::Retry { at });
        open = lent(&queue).await;
    }
    assert!(open.is_empty() && queue.owes_anything(&ci()));
    assert!(!queue.is_in_line(&ci()));
    tokio::time::advance(HOUR).await;
    assert_eq!(names(&lent(&queue).await), ["a"]);
    assert!(queue.is_in_line(&ci()));
}
