//! Changes of endpoints' states: told, bounded, and in a file that an older version began.

use rusqlite::Connection;

use super::{bounds::eventually, *};

fn changed(history: &History, endpoint: &EndpointId, number: i64) {
    history.changed(&Transition {
        endpoint: endpoint.clone(),
        at: Timestamp::from_unix_millis(START_MS + number),
        before: "healthy",
        after: "failing",
        failures: 1,
        reason: format!("answered {number}"),
    });
}

fn reasons(stage: &Stage, endpoint: &EndpointId) -> Vec<String> {
    let found = stage.reader().transitions(endpoint, None, 10_000).unwrap();
    found.into_iter().map(|one| one.reason).collect()
}

#[test]
fn the_newest_two_hundred_of_each_endpoint_are_kept_whatever_others_do() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    let calm = EndpointId::Named("calm".into());
    changed(&running.history, &calm, 0);
    for number in 1..=1_000 {
        changed(&running.history, &ci(), number);
    }
    running.close();
    let newest: Vec<String> = (801..=1_000)
        .rev()
        .map(|number| format!("answered {number}"))
        .collect();
    assert_eq!(reasons(&stage, &ci()), newest);
    assert_eq!(reasons(&stage, &calm), ["answered 0"]);
    let reader = stage.reader();
    let first = reader.transitions(&ci(), None, 2).unwrap();
    assert_eq!(
        (&*first[0].before, &*first[0].after, first[0].failures),
        ("healthy", "failing", 1)
    );
    assert_eq!(first[0].at, Timestamp::from_unix_millis(START_MS + 1_000));
    let behind = reader.transitions(&ci(), Some(first[1].id), 1).unwrap();
    assert_eq!(behind[0].reason, "answered 998");
}

#[test]
fn what_is_too_old_goes_and_so_does_the_oldest_of_too_many() {
    let stage = Stage::new(bounds::SMALL);
    let running = stage.start();
    changed(&running.history, &ci(), 0);
    eventually("written", || {
        Reader::open(&stage.file()).is_ok() && reasons(&stage, &ci()).len() == 1
    });
    stage.pass(8 * DAY_MS);
    eventually("pruned", || reasons(&stage, &ci()).is_empty());
    // Of 8 MiB a sixteenth, and 400 bytes for each: some 1,000 and no more.
    for number in 0..4_000 {
        let endpoint = EndpointId::Named(format!("hook{}", number / 10).into());
        changed(&running.history, &endpoint, 8 * DAY_MS + number);
    }
    let count = || -> i64 {
        let connection = Connection::open(stage.file()).unwrap();
        let count = connection.query_row("SELECT count(*) FROM transitions", [], |row| row.get(0));
        count.unwrap_or(i64::MAX)
    };
    let newest = EndpointId::Named("hook399".into());
    eventually("bounded", || {
        reasons(&stage, &newest).len() == 10 && count() < 1_000
    });
    running.close();
    assert_eq!(reasons(&stage, &newest).len(), 10);
    assert!(reasons(&stage, &EndpointId::Named("hook0".into())).is_empty());
}

#[test]
fn a_file_of_the_version_before_is_read_as_it_is_and_brought_up_to_date_when_it_is_written() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    deliver(&running.history, 1, "1", stage.now());
    running.close();
    lists::step_back(&stage.file());
    let connection = Connection::open(stage.file()).unwrap();
    connection
        .execute_batch(
            "DROP TABLE transitions; ALTER TABLE deliveries DROP COLUMN reason; PRAGMA user_version = 1;",
        )
        .unwrap();
    drop(connection);
    assert_eq!(stage.tag("1").len(), 1);
    assert!(reasons(&stage, &ci()).is_empty());
    let running = stage.start();
    changed(&running.history, &ci(), 7);
    running.close();
    assert_eq!(reasons(&stage, &ci()), ["answered 7"]);
    assert_eq!(stage.tag("1").len(), 1, "with all that it had");
    assert!(stage.aside().is_empty());
}
