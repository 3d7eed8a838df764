//! News that come faster than they can be written down: they wait in memory, then in files, over a restart too.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use rusqlite::Connection;

use super::{
    super::{
        entry::{Attempted, Changed, DroppedPush, End, Entry, Kept, Place, Sent, Taken},
        line::{Bounds, Line, Next},
        overflow,
    },
    bounds::eventually,
    *,
};

/// So small that a few hundred news go into several files.
pub(super) const NARROW: Bounds = Bounds {
    spill_at: 8 << 10,
    memory: 64 << 10,
    files: 64 << 20,
};

const END: End<'static> = End {
    how: "delivered",
    reason: None,
    at: 1,
};

pub(super) fn files(stage: &Stage) -> Vec<overflow::Waiting> {
    overflow::list(stage.folder.path())
}

/// A folder where the file should be, so that nothing can be written down until it goes.
pub(super) fn block(stage: &Stage) {
    fs::create_dir(stage.file()).unwrap();
}

pub(super) fn release(stage: &Stage) {
    fs::remove_dir(stage.file()).unwrap();
}

/// Leaves `count` deliveries in files, of which nothing is written down.
pub(super) fn left(stage: &Stage, count: u64) {
    block(stage);
    let running = stage.start_with(NARROW, Vec::new());
    eventually("told", || running.history.trouble().is_some());
    for number in 1..=count {
        deliver(&running.history, number, "1", stage.now());
        // What is told faster than files can be made is left out: another test's matter.
        eventually("put aside", || {
            running.line.memory_bytes() < NARROW.memory as u64 / 2
        });
    }
    let stats = running.close();
    assert_eq!((stats.rows, stats.dropped), (0, 0));
    release(stage);
}

fn overflow_bytes(stage: &Stage) -> u64 {
    files(stage).iter().map(|file| file.bytes).sum()
}

pub(super) fn are_whole(stage: &Stage, count: u64) {
    let pushes = stage.tag("1");
    assert_eq!(pushes.len() as u64, count);
    for push in pushes {
        let delivery = &push.deliveries[0];
        assert_eq!((&*delivery.state, delivery.attempts_made), ("delivered", 1));
        assert_eq!(delivery.attempts.len(), 1);
    }
}

#[test]
fn what_is_told_while_nothing_can_be_written_waits_in_files_and_in_order() {
    let stage = Stage::new(ROOMY);
    block(&stage);
    let running = stage.start_with(NARROW, Vec::new());
    eventually("told", || running.history.trouble().is_some());
    for number in 1..=900 {
        deliver(&running.history, number, "1", stage.now());
        if number % 30 == 0 {
            running.history.changed(&Transition {
                endpoint: ci(),
                at: stage.now(),
                before: "healthy",
                after: "failing",
                failures: 1,
                reason: number.to_string(),
            });
        }
        eventually("put aside", || {
            running.line.memory_bytes() < NARROW.memory as u64 / 2
        });
    }
    let waiting = running.history.stats();
    assert!(waiting.waiting > 100_000, "{waiting:?}");
    assert!(files(&stage).len() > 5);
    let mode = |file: &overflow::Waiting| {
        let path = overflow::path(stage.folder.path(), file.number);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert!(files(&stage).iter().all(|file| mode(file) == 0o600));
    release(&stage);
    eventually("written down", || running.history.stats().rows == 900 * 4 + 30);
    eventually("empty", || running.history.stats().waiting == 0);
    assert!(files(&stage).is_empty());
    assert_eq!(running.close().dropped, 0);
    are_whole(&stage, 900);
    let changes = stage.reader().transitions(&ci(), None, 100).unwrap();
    let told: Vec<String> = changes.into_iter().rev().map(|change| change.reason).collect();
    let meant: Vec<String> = (1..=30).map(|number| (number * 30).to_string()).collect();
    assert_eq!(told, meant);
}

#[test]
fn what_waits_at_the_end_is_written_down_after_the_next_start() {
    let stage = Stage::new(ROOMY);
    left(&stage, 300);
    assert!(files(&stage).len() > 3);
    let running = stage.start();
    eventually("written down", || running.history.stats().rows == 300 * 4);
    running.close();
    assert!(files(&stage).is_empty());
    are_whole(&stage, 300);
}

#[test]
fn what_an_older_version_left_is_written_down() {
    // As files have them: a number that became another entry's would be read as that.
    let numbers = [
        (Entry::Known("a"), 6),
        (Entry::Buried(1, "a", END), 5),
        (Entry::Sized("a", 1, 1), 10),
    ];
    for (entry, number) in numbers {
        // Behind a frame's length and its sum.
        assert_eq!(overflow::frame(&entry)[8], number, "{entry:?}");
    }
    for version in 1..=4 {
        let stage = Stage::new(ROOMY);
        left(&stage, 10);
        for file in files(&stage) {
            let path = overflow::path(stage.folder.path(), file.number);
            let mut bytes = fs::read(&path).unwrap();
            assert_eq!(bytes[4..8], 4_u32.to_le_bytes(), "the newest is written");
            bytes[4] = version;
            fs::write(&path, bytes).unwrap();
        }
        stage.start().close();
        assert!(files(&stage).is_empty(), "{version}");
        are_whole(&stage, 10);
    }
}

#[test]
fn what_of_a_file_was_written_down_is_not_written_down_again() {
    let stage = Stage::new(ROOMY);
    left(&stage, 10);
    let waiting = &files(&stage)[0];
    let path = overflow::path(stage.folder.path(), waiting.number);
    let content = overflow::read(&path, waiting.bytes).unwrap();
    stage.start().close();
    are_whole(&stage, 10);
    // The process was killed before it could delete the file: all of it was read.
    fs::write(&path, &content.bytes).unwrap();
    stage.start().close();
    are_whole(&stage, 10);
    // Or in the middle of it: the first delivery, which took three entries, stands in the history already.
    fs::write(&path, &content.bytes).unwrap();
    let mut rest = &content.bytes[overflow::FIRST_FRAME..];
    for _ in 0..3 {
        rest = overflow::first(rest).unwrap().1;
    }
    let position = i64::try_from(content.bytes.len() - rest.len()).unwrap();
    let connection = Connection::open(stage.file()).unwrap();
    let (file, read): (i64, i64) = connection
        .query_row("SELECT file, position FROM overflow", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(
        (file, read),
        (content.id, i64::try_from(content.bytes.len()).unwrap())
    );
    connection
        .execute("UPDATE overflow SET position = ?1", [position])
        .unwrap();
    connection
        .execute("DELETE FROM attempts WHERE push & 0xffffffff > 1", [])
        .unwrap();
    connection
        .execute(
            "UPDATE deliveries SET attempts = 0, state = 'pending' WHERE push & 0xffffffff > 1",
            [],
        )
        .unwrap();
    drop(connection);
    stage.start().close();
    are_whole(&stage, 10);
    assert!(files(&stage).is_empty());
}

#[test]
fn how_far_a_file_was_read_is_known_when_the_history_opens_only_later() {
    let stage = Stage::new(ROOMY);
    left(&stage, 10);
    let waiting = &files(&stage)[0];
    let path = overflow::path(stage.folder.path(), waiting.number);
    let bytes = fs::read(&path).unwrap();
    stage.start().close();
    fs::write(&path, &bytes).unwrap();
    let kept = stage.folder.path().join("kept");
    fs::rename(stage.file(), &kept).unwrap();
    block(&stage);
    let running = stage.start();
    eventually("told", || running.history.trouble().is_some());
    release(&stage);
    fs::rename(&kept, stage.file()).unwrap();
    eventually("read", || files(&stage).is_empty());
    running.close();
    are_whole(&stage, 10);
}

#[test]
fn what_waits_of_another_journal_is_told_of_its_pushes() {
    let mut stage = Stage::new(ROOMY);
    left(&stage, 50);
    stage.journal = JournalId([8; 16]);
    let running = stage.start();
    deliver(&running.history, 1, "1", stage.now());
    eventually("written down", || running.history.stats().rows == 51 * 4);
    running.close();
    let pushes = stage.tag("1");
    assert_eq!(pushes.len(), 51);
    assert_eq!(pushes.iter().filter(|push| push.sequence == 1).count(), 2);
}

#[test]
fn what_waits_is_not_taken_for_lost_meanwhile() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    for number in 1..=20 {
        running.history.taken(&durable(number, "1", stage.now()));
    }
    running.close();
    // Their ends wait in files, and nothing is owed any more: a start must not call them unknown.
    fs::rename(stage.file(), stage.folder.path().join("kept")).unwrap();
    block(&stage);
    let running = stage.start_with(NARROW, Vec::new());
    eventually("told", || running.history.trouble().is_some());
    for number in 1..=20 {
        running
            .history
            .ended(&which(number, "1"), Settlement::Superseded, stage.now());
    }
    running.close();
    release(&stage);
    fs::rename(stage.folder.path().join("kept"), stage.file()).unwrap();
    Connection::open(stage.file())
        .unwrap()
        .execute_batch(
            "CREATE TABLE seen (state TEXT); \
             CREATE TRIGGER told AFTER UPDATE OF state ON deliveries BEGIN INSERT INTO seen VALUES (new.state); END;",
        )
        .unwrap();
    stage.start().close();
    let states = |sql: &str| -> Vec<String> {
        let connection = Connection::open(stage.file()).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    assert_eq!(states("SELECT DISTINCT state FROM deliveries"), ["superseded"]);
    assert_eq!(states("SELECT DISTINCT state FROM seen"), ["superseded"]);
}

#[test]
fn what_fits_neither_into_memory_nor_into_files_is_left_out_and_counted() {
    let stage = Stage::new(ROOMY);
    block(&stage);
    let bounds = Bounds {
        spill_at: 4 << 10,
        memory: 8 << 10,
        files: 64 << 10,
    };
    let running = stage.start_with(bounds, Vec::new());
    eventually("told", || running.history.trouble().is_some());
    let mut number = 0;
    eventually("full", || {
        for _ in 0..100 {
            number += 1;
            running
                .history
                .ended(&which(number, "1"), Settlement::Delivered, stage.now());
        }
        running.history.stats().dropped > 1_000
    });
    assert!(overflow_bytes(&stage) <= bounds.files);
    let stats = running.history.stats();
    assert!(stats.waiting <= bounds.files + bounds.memory as u64);
    release(&stage);
    eventually("written down", || {
        running.history.stats().rows + stats.dropped == number
    });
    assert_eq!(running.close().dropped, stats.dropped);
}

#[test]
fn whoever_closes_hears_of_the_end_when_the_writer_is_gone_too() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    let history = running.history.clone();
    running.close();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(history.close());
    // What is told now is forgotten, and counted.
    deliver(&history, 1, "1", stage.now());
    assert_eq!(history.stats().dropped, 3);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z0-9/:._-]{1,40}", "\\PC{0,20}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_read_is_what_was_told(
        texts in proptest::collection::vec(text(), 6),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        number: u64,
        time: i64,
        maybe: Option<u64>,
        status: Option<u16>,
    ) {
        let [a, b, c, d, e, f] = texts.each_ref_array();
        let place = Place { sequence: number, endpoint: a, repository: b, tag: c };
        let end = End { how: d, reason: maybe.map(|_| e), at: time };
        let kept = || Kept { first: &bytes, bytes: number };
        let entries = [
            Entry::Taken(Taken {
                sequence: number, repository: a, tag: b, digest: c, media_type: d, manifest_size: number,
                listed: 3, at: time, event_id: e, actor: f, owed: vec![a, b],
            }),
            Entry::Dropped(DroppedPush { at: time, rule: a, repository: b, tag: c, digest: d, event_id: e, actor: f }),
            Entry::Attempted(place, Attempted {
                digest: a, image_size: maybe, layers: 4, repository_size: maybe, at: time, elapsed_us: number,
                status, fault: maybe.map(|_| b), reason: maybe.map(|_| c),
                sent: maybe.map(|_| Sent { url: d, headers: e, body: kept() }),
                answer: status.map(|_| kept()),
            }),
            Entry::Waits(place, time),
            Entry::Ended(place, end),
            Entry::Buried(number, f, end),
            Entry::Known(a),
            Entry::Changed(Changed { endpoint: a, at: time, before: b, after: c, failures: 7, reason: d }),
            Entry::Restored(Taken {
                sequence: number, repository: a, tag: b, digest: c, media_type: d, manifest_size: number,
                listed: 3, at: time, event_id: e, actor: f, owed: vec![a],
            }),
            Entry::Settled(place, d),
            Entry::Sized(a, number, time),
        ];
        let frames: Vec<u8> = entries.iter().flat_map(overflow::frame).collect();
        let mut rest = &frames[..];
        for entry in &entries {
            let (read, behind) = overflow::first(rest).unwrap();
            prop_assert_eq!(&read, entry);
            rest = behind;
        }
        prop_assert!(rest.is_empty());
        // Nothing that is cut or changed is taken for an entry, and nothing panics.
        let one = overflow::frame(&entries[2]);
        let place = usize::try_from(number % one.len() as u64).unwrap();
        prop_assert!(overflow::first(&one[..place]).is_err());
        let mut other = one.clone();
        other[place] ^= 0x10;
        prop_assert!(overflow::first(&other).is_err());
    }
}

/// The six texts.
trait EachRef {
    fn each_ref_array(&self) -> [&str; 6];
}

impl EachRef for Vec<String> {
    fn each_ref_array(&self) -> [&str; 6] {
        std::array::from_fn(|place| &*self[place])
    }
}

#[test]
fn nobody_waits_for_a_line_that_is_empty_or_closed() {
    let stage = Stage::new(ROOMY);
    let line = Line::new(stage.folder.path(), stage.journal, NARROW, Arc::default());
    assert!(matches!(line.next(Duration::ZERO, Duration::ZERO), Next::Nothing));
    line.close(None);
    assert!(matches!(
        line.next(Duration::from_hours(1), Duration::from_hours(1)),
        Next::Closed
    ));
}
