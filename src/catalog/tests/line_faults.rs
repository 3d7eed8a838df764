//! Files of news that fail, and a writer that can't take what was told.

use std::os::unix::fs::{MetadataExt, symlink};

use super::{
    super::{
        line::{Bounds, Next},
        overflow,
    },
    bounds::eventually,
    line::{NARROW, are_whole, block, files, left, release},
    *,
};

#[test]
fn a_file_that_is_damaged_costs_what_follows_in_it_and_nothing_else() {
    let stage = Stage::new(ROOMY);
    left(&stage, 400);
    let waiting = files(&stage);
    let path = |place: usize| overflow::path(stage.folder.path(), waiting[place].number);
    // One is cut, in one a byte is another, one is something else, and one is of a version that is not known.
    let bytes = fs::read(path(0)).unwrap();
    fs::write(path(0), &bytes[..bytes.len() - 3]).unwrap();
    let mut bytes = fs::read(path(1)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path(1), &bytes).unwrap();
    fs::write(path(2), "something else altogether, and long enough for a header").unwrap();
    let mut bytes = fs::read(path(3)).unwrap();
    bytes[4] = 9;
    fs::write(path(3), &bytes).unwrap();
    let running = stage.start();
    eventually("read", || files(&stage).len() == 1);
    let stats = running.close();
    assert_eq!(stats.dropped, 3, "each is told of");
    assert_eq!(
        stats.waiting, waiting[3].bytes,
        "that of another version stays for it"
    );
    assert!(stats.rows > 400, "{stats:?}");
    assert!(stage.aside().is_empty(), "the history itself is whole");
    assert_eq!(
        stage.tag("1")[0].deliveries[0].state,
        "delivered",
        "the newest is there"
    );
}

/// Puts what can be deleted and not be read where a file of news was; it comes back by [`restore`].
fn hide(path: &Path) {
    fs::rename(path, path.with_extension("kept")).unwrap();
    symlink(path, path).unwrap();
}

fn restore(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::rename(path.with_extension("kept"), path).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_for_a_while_costs_nothing_and_those_behind_it_wait() {
    let stage = Stage::new(ROOMY);
    left(&stage, 300);
    let waiting = files(&stage);
    assert!(waiting.len() > 3);
    let second = overflow::path(stage.folder.path(), waiting[1].number);
    // Listed before it fails, as with too many open files.
    let line = stage.line(NARROW);
    hide(&second);
    let first = line.next(Duration::ZERO, Duration::ZERO);
    let Next::Chunk(first) = first else {
        panic!("{first:?}")
    };
    assert_eq!(first.number, waiting[0].number);
    for _ in 0..5 {
        let unread = line.next(Duration::ZERO, Duration::ZERO);
        assert!(matches!(unread, Next::Unreadable(_)), "{unread:?}");
    }
    assert_eq!(line.gauges.lost.load(Ordering::Relaxed), 0);
    restore(&second);
    assert_eq!(files(&stage).len(), waiting.len());
    let next = line.next(Duration::ZERO, Duration::ZERO);
    let Next::Chunk(next) = next else {
        panic!("{next:?}")
    };
    assert_eq!(next.number, waiting[1].number);
    let running = stage.start();
    eventually("written down", || running.history.stats().rows == 300 * 4);
    assert_eq!(running.close().dropped, 0);
    are_whole(&stage, 300);
}

#[test]
fn a_file_that_can_never_be_read_is_left_for_the_next_start_and_the_others_go_on() {
    let stage = Stage::new(ROOMY);
    left(&stage, 300);
    let waiting = files(&stage);
    let first = overflow::path(stage.folder.path(), waiting[0].number);
    let line = stage.line(NARROW);
    hide(&first);
    let running = stage.start_on(line, Vec::new());
    eventually("passed over", || running.history.stats().dropped == 1);
    eventually("the others", || {
        running.history.stats().waiting == waiting[0].bytes
    });
    assert!(
        running.history.trouble().is_none(),
        "the others were written down since"
    );
    running.close();
    restore(&first);
    let running = stage.start();
    eventually("written down", || files(&stage).is_empty());
    running.close();
    are_whole(&stage, 300);
}

#[test]
fn what_cannot_be_put_aside_stays_in_memory_as_far_as_it_fits() {
    let stage = Stage::new(ROOMY);
    block(&stage);
    let running = stage.start_with(NARROW, Vec::new());
    eventually("told", || running.history.trouble().is_some());
    // Where the next files of news would be, there are folders.
    for number in 0..200 {
        fs::create_dir(overflow::path(stage.folder.path(), number)).unwrap();
    }
    let mut number = 0;
    while running.history.stats().waiting < NARROW.memory as u64 / 2 {
        number += 1;
        deliver(&running.history, number, "1", stage.now());
    }
    assert_eq!(running.history.stats().dropped, 0);
    release(&stage);
    // The writer takes them from there.
    eventually("written down", || running.history.stats().rows == number * 4);
    assert_eq!(running.close().dropped, 0);
    are_whole(&stage, number);
}

#[test]
fn what_stood_in_memory_for_long_is_put_aside() {
    let stage = Stage::new(ROOMY);
    block(&stage);
    let running = stage.start_with(NARROW, Vec::new());
    eventually("told", || running.history.trouble().is_some());
    deliver(&running.history, 1, "1", stage.now());
    assert!(files(&stage).is_empty());
    eventually("put aside", || running.line.memory_bytes() == 0);
    assert_eq!(files(&stage).len(), 1);
    assert_eq!(running.close().dropped, 0);
    release(&stage);
    let running = stage.start();
    eventually("written down", || running.history.stats().rows == 4);
    running.close();
}

#[test]
fn what_was_taken_out_of_the_line_and_cannot_be_written_is_put_aside_in_front() {
    let stage = Stage::new(ROOMY);
    let running = stage.start_with(NARROW, Vec::new());
    deliver(&running.history, 1, "1", stage.now());
    eventually("written down", || running.history.stats().rows == 4);
    let tool = rusqlite::Connection::open(stage.file()).unwrap();
    tool.execute_batch("BEGIN IMMEDIATE").unwrap();
    deliver(&running.history, 2, "1", stage.now());
    eventually("taken", || running.line.memory_bytes() == 0);
    // These are put aside while it still tries to write the one.
    for number in 3..=60 {
        deliver(&running.history, number, "1", stage.now());
    }
    let taken = || running.gauges.taken.load(Ordering::Relaxed);
    eventually("put aside", || {
        let is_failing = running.history.trouble().is_some();
        is_failing && taken() == 0 && running.line.memory_bytes() < NARROW.spill_at as u64
    });
    tool.execute_batch("ROLLBACK").unwrap();
    eventually("written down", || running.history.stats().rows == 60 * 4);
    eventually("done with", || files(&stage).is_empty());
    assert_eq!(running.close().dropped, 0);
    are_whole(&stage, 60);
    let mut statement = tool.prepare("SELECT push FROM attempts ORDER BY id").unwrap();
    let order: Vec<i64> = statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn at_the_end_what_a_busy_writer_does_not_take_is_put_aside() {
    let stage = Stage::new(ROOMY);
    let line = Arc::new(stage.line(NARROW));
    let history = History::telling(Arc::clone(&line));
    for number in 1..=5 {
        deliver(&history, number, "1", stage.now());
    }
    // Nobody writes: it stands for one that is bringing a large file up to date, or was unwound.
    let spilling = Arc::clone(&line);
    let thread = thread::spawn(move || spilling.spill());
    drop(history);
    thread.join().unwrap();
    assert_eq!(files(&stage).len(), 1);
    let running = stage.start();
    eventually("written down", || running.history.stats().rows == 5 * 4);
    running.close();
    are_whole(&stage, 5);
}

#[test]
fn what_is_left_at_the_end_is_bounded() {
    let stage = Stage::new(ROOMY);
    block(&stage);
    let bounds = Bounds {
        files: 20 << 10,
        ..NARROW
    };
    let mut told = 0;
    for _ in 0..6 {
        let running = stage.start_with(bounds, Vec::new());
        eventually("told", || running.history.trouble().is_some());
        for _ in 0..20 {
            told += 1;
            deliver(&running.history, told, "1", stage.now());
        }
        running.close();
        let bytes: u64 = files(&stage).iter().map(|file| file.bytes).sum();
        assert!(bytes <= bounds.files, "{bytes}");
    }
    release(&stage);
    let running = stage.start();
    eventually("read", || files(&stage).is_empty());
    let rows = running.close().rows;
    assert!((20 * 4..told * 4).contains(&rows), "{rows}");
}

#[test]
fn a_file_that_is_not_one_of_news_is_let_be() {
    let stage = Stage::new(ROOMY);
    let folder = stage.folder.path();
    fs::write(folder.join("catalog.overflow-5"), "short").unwrap();
    fs::write(folder.join("catalog.overflow-0000000000000000000x"), "no number").unwrap();
    fs::create_dir(overflow::path(folder, 7)).unwrap();
    assert!(files(&stage).is_empty());
    let running = stage.start();
    deliver(&running.history, 1, "1", stage.now());
    eventually("written down", || running.history.stats().rows == 4);
    assert_eq!(running.close().waiting, 0);
    assert!(folder.join("catalog.overflow-5").exists());
}

#[test]
fn damage_that_shows_late_costs_no_news() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    deliver(&running.history, 1, "1", stage.now());
    eventually("written down", || running.history.stats().rows == 4);
    // As if its tables had been lost: what is told next can't be written into it.
    let connection = rusqlite::Connection::open(stage.file()).unwrap();
    connection.execute_batch("DROP TABLE attempts").unwrap();
    drop(connection);
    for number in 2..=10 {
        deliver(&running.history, number, "1", stage.now());
    }
    eventually("written down", || {
        stage.aside().len() == 1 && running.history.stats().waiting == 0
    });
    assert_eq!(running.close().dropped, 0);
    assert_eq!(stage.tag("1").len(), 9);
}

#[test]
fn a_history_that_is_deleted_or_replaced_while_it_is_open_is_begun_anew() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    deliver(&running.history, 1, "1", stage.now());
    eventually("written down", || running.history.stats().rows == 4);
    let inode = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let before = inode(&stage.file());
    fs::rename(stage.file(), stage.folder.path().join("taken-away")).unwrap();
    eventually("made again", || {
        inode(&stage.file()).is_some_and(|new| Some(new) != before)
    });
    deliver(&running.history, 2, "1", stage.now());
    eventually("written down", || running.history.stats().rows == 8);
    assert_eq!(running.close().dropped, 0);
    assert_eq!(stage.tag("1").len(), 1);
}

#[test]
fn a_file_that_was_read_and_cannot_be_deleted_is_not_done_with() {
    let stage = Stage::new(ROOMY);
    left(&stage, 300);
    let waiting = files(&stage);
    let line = stage.line(NARROW);
    let next = line.next(Duration::ZERO, Duration::ZERO);
    let Next::Chunk(chunk) = next else {
        panic!("{next:?}")
    };
    let path = overflow::path(stage.folder.path(), chunk.number);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let all: u64 = waiting.iter().map(|file| file.bytes).sum();
    for _ in 0..3 {
        assert!(line.done(&chunk).is_err());
        assert_eq!(line.gauges.overflow.load(Ordering::Relaxed), all, "it counts");
    }
    fs::remove_dir(&path).unwrap();
    line.done(&chunk).unwrap();
    assert_eq!(
        line.gauges.overflow.load(Ordering::Relaxed),
        all - waiting[0].bytes
    );
}

#[test]
fn the_writer_waits_for_nobody_who_is_gone() {
    let stage = Stage::new(ROOMY);
    let line = stage.line(NARROW);
    // As when the thread was unwound that puts news aside.
    line.state().spilling = 100;
    line.is_alone();
    assert!(matches!(line.next(Duration::ZERO, Duration::ZERO), Next::Nothing));
    assert_eq!(line.gauges.lost.load(Ordering::Relaxed), 1);
}
