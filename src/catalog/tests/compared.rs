//! What is pending in the history, compared with what the journal owes.

use super::{bounds::eventually, line::NARROW, *};

#[test]
fn what_is_pending_and_not_owed_ended_unknown() {
    let stage = Stage::new(ROOMY);
    let running = stage.start_owing((1..=2_500).map(owed).collect());
    for number in 1..=2_500 {
        running.history.taken(&durable(number, "1", stage.now()));
    }
    running.close();
    let still = (1..=2_500).filter(|number| number % 500 != 0).map(owed);
    let running = stage.start_owing(still.collect());
    running
        .history
        .ended(&which(500, "1"), Settlement::Delivered, stage.now());
    running.close();
    let mut pushes = Vec::new();
    let mut before = None;
    loop {
        let found = stage
            .reader()
            .stories(&Sought::Repository("acme/app".to_owned()), before, 1000)
            .unwrap();
        let Some(last) = found.pushes.last() else { break };
        before = Some(last.id);
        pushes.extend(found.pushes);
    }
    assert_eq!(pushes.len(), 2_500);
    let unknown: Vec<u64> = pushes
        .iter()
        .filter(|push| push.deliveries[0].state == "unknown")
        .map(|push| push.sequence)
        .collect();
    assert_eq!(unknown, [2_500, 2_000, 1_500, 1_000], "what is told later counts");
    assert_eq!(pushes[2_000].deliveries[0].state, "delivered");
}

/// Counts the deliveries that were said to be `unknown` meanwhile.
fn watch_unknown(stage: &Stage) {
    let connection = rusqlite::Connection::open(stage.file()).unwrap();
    let watch = "CREATE TABLE seen (push INTEGER); CREATE TRIGGER told AFTER UPDATE OF state ON deliveries \
                 WHEN new.state = 'unknown' BEGIN INSERT INTO seen VALUES (new.push); END;";
    connection.execute_batch(watch).unwrap();
}

fn unknown(stage: &Stage) -> i64 {
    let connection = rusqlite::Connection::open(stage.file()).unwrap();
    connection
        .query_row("SELECT count(*) FROM seen", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn what_stands_in_memory_while_the_history_cannot_be_written_is_not_taken_for_lost() {
    let stage = Stage::new(ROOMY);
    let running = stage.start_owing((1..=20).map(owed).collect());
    for number in 1..=20 {
        running.history.taken(&durable(number, "1", stage.now()));
    }
    running.close();
    watch_unknown(&stage);
    // It can't be opened for a while, in which all of these end: nothing is owed any more.
    let kept = stage.folder.path().join("kept");
    fs::rename(stage.file(), &kept).unwrap();
    fs::create_dir(stage.file()).unwrap();
    let running = stage.start_with(NARROW, Vec::new());
    eventually("told", || running.history.trouble().is_some());
    for number in 1..=19 {
        running
            .history
            .ended(&which(number, "1"), Settlement::Superseded, stage.now());
    }
    fs::remove_dir(stage.file()).unwrap();
    fs::rename(kept, stage.file()).unwrap();
    eventually("compared", || unknown(&stage) > 0);
    assert_eq!(running.close().rows, 19);
    assert_eq!(unknown(&stage), 1, "but the one that nothing was told of");
}

#[test]
fn what_another_journal_owed_is_owed_by_nobody() {
    let mut stage = Stage::new(ROOMY);
    for journal in [7, 8, 9] {
        stage.journal = JournalId([journal; 16]);
        let running = stage.start_owing(vec![owed(1)]);
        running
            .history
            .taken(&durable(1, &journal.to_string(), stage.now()));
        running.close();
    }
    // And one goes on that is not the newest.
    stage.journal = JournalId([8; 16]);
    stage.start_owing(vec![owed(1)]).close();
    let how = |stage: &Stage, tag: &str| stage.tag(tag)[0].deliveries[0].state.clone();
    for tag in ["7", "8", "9"] {
        assert_eq!(how(&stage, tag), "unknown", "{tag}");
    }
    stage.journal = JournalId([10; 16]);
    let running = stage.start_owing(vec![owed(1)]);
    running.history.taken(&durable(1, "10", stage.now()));
    running.close();
    stage.start_owing(vec![owed(1)]).close();
    assert_eq!(how(&stage, "10"), "pending", "its own");
}
