//! Files that can't be used.

use rusqlite::Connection;

use super::*;

fn written(stage: &Stage, count: u64) {
    let running = stage.start();
    for number in 1..=count {
        deliver(&running.history, number, "1", stage.now());
    }
    running.close();
}

/// A new one is in its place, and holds what came after.
fn goes_on(stage: &Stage, number: u64) {
    let running = stage.start();
    deliver(&running.history, number, "after", stage.now());
    running.close();
    assert_eq!(stage.tag("after").len(), 1);
    assert!(stage.tag("1").is_empty());
}

#[test]
fn what_is_no_database_is_set_aside() {
    let stage = Stage::new(ROOMY);
    fs::write(stage.file(), "hello, this is no database at all".repeat(200)).unwrap();
    goes_on(&stage, 1);
    let aside = stage.aside();
    assert_eq!(aside, ["catalog.db.damaged-20261123T090838473Z"]);
    let kept = fs::read(stage.folder.path().join(&aside[0])).unwrap();
    assert!(kept.starts_with(b"hello"));
}

#[test]
fn a_file_whose_pages_were_overwritten_is_set_aside_at_the_start() {
    let stage = Stage::new(ROOMY);
    written(&stage, 500);
    let file = fs::OpenOptions::new().write(true).open(stage.file()).unwrap();
    let length = file.metadata().unwrap().len();
    for page in 3..length / 4096 {
        file.write_all_at(&[0x5a; 4096], page * 4096).unwrap();
    }
    drop(file);
    goes_on(&stage, 501);
    assert_eq!(stage.aside().len(), 1);
}

#[test]
fn damage_that_shows_later_is_set_aside_then() {
    let stage = Stage::new(ROOMY);
    written(&stage, 500);
    let running = stage.start();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let file = fs::OpenOptions::new().write(true).open(stage.file()).unwrap();
    let mut number = 1_000;
    while stage.aside().is_empty() {
        assert!(std::time::Instant::now() < deadline, "it never shows");
        number += 1;
        let length = file.metadata().unwrap().len();
        for page in 1..length / 4096 {
            file.write_all_at(&[0x5a; 4096], page * 4096).unwrap();
        }
        deliver(&running.history, number, "during", stage.now());
        thread::sleep(Duration::from_millis(20));
    }
    deliver(&running.history, 5_000, "after", stage.now());
    running.close();
    assert_eq!(stage.tag("after").len(), 1);
}

#[test]
fn a_newer_versions_file_is_set_aside_and_can_be_put_back() {
    let stage = Stage::new(ROOMY);
    written(&stage, 3);
    let set = |path: &Path, version: i32| {
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "user_version", version).unwrap();
    };
    set(&stage.file(), VERSION + 1);
    assert!(matches!(
        Reader::open(&stage.file()),
        Err(ReadError::Newer { format, .. }) if format == VERSION + 1
    ));
    goes_on(&stage, 4);
    let aside = stage.folder.path().join(&stage.aside()[0]);
    let name = format!("catalog.db.version-{}-", VERSION + 1);
    assert!(stage.aside()[0].starts_with(&name));
    set(&aside, VERSION);
    fs::rename(aside, stage.file()).unwrap();
    assert_eq!(stage.tag("1").len(), 3);
}

#[test]
fn anothers_database_is_set_aside() {
    let stage = Stage::new(ROOMY);
    Connection::open(stage.file())
        .unwrap()
        .execute_batch("CREATE TABLE theirs (x)")
        .unwrap();
    goes_on(&stage, 1);
    assert_eq!(stage.aside().len(), 1);
}

#[test]
fn of_files_set_aside_the_newest_two_are_kept() {
    let stage = Stage::new(ROOMY);
    for number in 1..=4 {
        fs::write(
            stage.file(),
            "no database, and long enough to be seen as none".repeat(100),
        )
        .unwrap();
        for companion in ["-wal", "-shm"] {
            let _ = fs::remove_file(stage.folder.path().join(format!("{FILE}{companion}")));
        }
        goes_on(&stage, number);
        stage.pass(DAY_MS);
        fs::remove_file(stage.file()).unwrap();
    }
    assert_eq!(stage.aside().len(), 2, "{:?}", stage.aside());
}

#[test]
fn a_file_that_is_made_just_now_is_absent_or_ours_and_never_anybody_elses() {
    for _ in 0..100 {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        std::thread::scope(|scope| {
            let making = scope.spawn(|| crate::catalog::store::Store::open(&file, 1 << 20).unwrap());
            loop {
                match Reader::open(&file) {
                    Ok(_) => break,
                    Err(ReadError::Absent { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            making.join().unwrap();
        });
    }
}

#[test]
fn without_a_file_the_reader_says_so() {
    let stage = Stage::new(ROOMY);
    let error = Reader::open(&stage.file()).unwrap_err();
    assert!(matches!(error, ReadError::Absent { .. }), "{error}");
    fs::write(stage.file(), "no database".repeat(1000)).unwrap();
    let error = Reader::open(&stage.file()).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
}
