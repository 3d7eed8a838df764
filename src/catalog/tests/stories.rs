//! What is told of a push.

use super::*;

#[test]
fn why_a_push_was_given_up_is_told_until_it_is_sent_after_all() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    let (history, at) = (&running.history, stage.now());
    for number in [1, 2, 3] {
        history.taken(&durable(number, "1", at));
        attempt(history, number, "1", at, &failed(503));
    }
    history.given_up(&which(1, "1"), "its endpoint is disabled", at);
    history.buried(&[(sequence(2), ci())], "its repository's webhook was removed", at);
    history.given_up(&which(3, "1"), "answered 400", at);
    history.ended(&which(3, "1"), Settlement::Delivered, at);
    running.close();
    let told: Vec<_> = stage
        .tag("1")
        .into_iter()
        .map(|push| push.deliveries[0].reason.clone())
        .collect();
    let [disabled, removed] = ["its endpoint is disabled", "its repository's webhook was removed"];
    assert_eq!(told, [None, Some(removed.to_owned()), Some(disabled.to_owned())]);
    let listed = stage
        .reader()
        .deliveries(&DeliveryFilter::default(), None, 10)
        .unwrap();
    let told: Vec<_> = listed.iter().map(|one| one.reason.as_deref()).collect();
    assert_eq!(told, [Some("answered 503"), Some(removed), Some(disabled)]);
}

#[test]
fn the_story_of_a_push_is_told_from_its_taking_to_its_end() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    let history = &running.history;
    let at = stage.now();
    history.taken(&durable(1, "1.4", at));
    attempt(history, 1, "1.4", at, &failed(503));
    let later = Timestamp::from_unix_millis(START_MS + 5_000);
    history.waits(&which(1, "1.4"), later);
    attempt(history, 1, "1.4", later, &Outcome::Delivered { status: 204 });
    history.ended(&which(1, "1.4"), Settlement::Delivered, later);
    history.dropped(&[drop_one("exclude_tags", "nightly", 2, at)]);
    let stats = running.close();
    assert_eq!((stats.dropped, stats.rows), (0, 2 + 1 + 1 + 1 + 1));

    let by_tag = stage.tag("1.4");
    for sought in [
        Sought::Repository("acme/app".to_owned()),
        Sought::Digest("acme/app".to_owned(), Digest::sha256(b"1.4").to_string()),
        Sought::Event(event_id(1)),
        Sought::Webhook(by_tag[0].deliveries[0].webhook_id.clone()),
    ] {
        assert_eq!(stage.stories(&sought).pushes, by_tag, "{sought:?}");
    }
    let push = &by_tag[0];
    assert_eq!(
        (push.sequence, push.taken_at, &*push.actor),
        (1, Some(at), "alice")
    );
    let delivery = &push.deliveries[0];
    assert_eq!((&*delivery.endpoint, &*delivery.state), ("ci", "delivered"));
    assert_eq!((delivery.ended_at, delivery.next_at), (Some(later), None));
    assert_eq!(
        (delivery.image_size, delivery.repository_size),
        (Some(80_796), None)
    );
    let told: Vec<_> = delivery
        .attempts
        .iter()
        .map(|one| (one.number, one.status, one.retry_at))
        .collect();
    assert_eq!(told, [(1, Some(503), Some(later)), (2, Some(204), None)]);
    assert_eq!(delivery.attempts[0].fault.as_deref(), Some("endpoint"));
    assert_eq!(delivery.attempts[0].answer.as_deref(), Some(&b"try again"[..]));

    let dropped = stage.stories(&Sought::Event(event_id(2))).dropped;
    assert_eq!((&*dropped[0].rule, &*dropped[0].tag), ("exclude_tags", "nightly"));
    assert_eq!(stage.reader().oldest().unwrap(), Some(at));
}

#[test]
fn what_was_not_written_when_it_was_taken_is_made_up_for() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    attempt(
        &running.history,
        1,
        "1",
        stage.now(),
        &Outcome::Delivered { status: 200 },
    );
    running
        .history
        .ended(&which(2, "2"), Settlement::Superseded, stage.now());
    running.close();
    let push = &stage.tag("1")[0];
    assert_eq!(
        (push.taken_at, push.digest.clone()),
        (None, Some(Digest::sha256(b"1").to_string()))
    );
    assert_eq!(push.deliveries[0].attempts.len(), 1);
    assert_eq!(stage.tag("2")[0].deliveries[0].state, "superseded");
}

#[test]
fn a_story_has_so_many_bytes_of_bodies_and_answers_and_no_more() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    for number in 1..=9 {
        for _ in 0..5 {
            attempt(&running.history, number, "1", stage.now(), &failed(503));
        }
    }
    running.close();
    let connection = rusqlite::Connection::open(stage.file()).unwrap();
    let sql = "UPDATE attempts SET body = zeroblob(262144), body_bytes = 262144, answer = zeroblob(4096)";
    assert_eq!(connection.execute(sql, []).unwrap(), 45);
    let story = stage.stories(&Sought::Repository("acme/app".to_owned()));
    let attempts: Vec<_> = { story.pushes.iter() }
        .flat_map(|push| &push.deliveries[0].attempts)
        .collect();
    assert_eq!(attempts.len(), 45);
    assert!(attempts.iter().all(|attempt| attempt.body_bytes == Some(262_144)));
    let told = (0..).zip(&attempts).filter(|(_, attempt)| attempt.body.is_some());
    let places: Vec<usize> = told.map(|(place, _)| place).collect();
    let wanted: Vec<usize> = (0..30).chain([34]).collect();
    assert_eq!(places, wanted, "of six pushes all, and of the seventh the newest");
    let numbers: Vec<u64> = attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5].repeat(9));
    // Another endpoint's are not looked at for one's.
    let sql = "INSERT INTO deliveries (push, endpoint, repository, webhook_id, state) \
               SELECT push, 'a-' || endpoint, repository, 'a-' || webhook_id, state FROM deliveries";
    assert_eq!(connection.execute(sql, []).unwrap(), 9);
    let id = story.pushes[8].deliveries[0].webhook_id.clone();
    let (_, delivery) = stage.reader().delivery_of(&id).unwrap().unwrap();
    assert_eq!((delivery.endpoint.as_str(), delivery.attempts.len()), ("ci", 5));
    assert!(delivery.attempts.iter().all(|attempt| attempt.body.is_some()));
}
