//! The settings' file: what is saved is there again, and what is not ours is refused.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use rusqlite::Connection;

use super::*;
use crate::{journal::JournalId, push::Sequence};

fn moment(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(millis)
}

fn named(name: &str) -> EndpointId {
    EndpointId::Named(name.into())
}

fn state(endpoint: EndpointId, known_at: i64) -> SavedState {
    SavedState {
        endpoint,
        state: "paused".to_owned(),
        since: moment(4_000),
        reason: "answered 503 Service Unavailable".to_owned(),
        url_sha256: vec![7; 32],
        streak: Some(SavedStreak {
            failures: 4,
            began: moment(1_000),
            last: moment(4_000),
            waits_since: moment(4_000),
            wait: Some(Duration::from_mins(1)),
        }),
        known_at: moment(known_at),
    }
}

fn save(settings: &Settings, states: &[SavedState]) {
    let states: Vec<_> = (states.iter())
        .map(|state| (state.endpoint.clone(), Some(state.clone())))
        .collect();
    settings.save(&states).unwrap();
}

fn sorted(settings: &Settings) -> Vec<SavedState> {
    let mut states = settings.states().unwrap();
    states.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    states
}

/// Has `look` see what a transaction has on disk before it is over.
fn in_the_middle_of_a_commit(path: &Path, look: impl FnOnce()) {
    let connection = Connection::open(path).unwrap();
    let unfinished = "PRAGMA cache_size = 2; BEGIN IMMEDIATE; DELETE FROM endpoint_states; \
                      CREATE TABLE filling (bytes BLOB); INSERT INTO filling \
                      WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200) \
                      SELECT randomblob(4096) FROM n;";
    connection.execute_batch(unfinished).unwrap();
    look();
}

#[test]
fn states_are_told_after_a_kill_in_the_middle_of_a_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (path, killed) = (folder.path().join(FILE), folder.path().join("killed.db"));
    let settings = Settings::open(&path).unwrap();
    let states = [state(named("ci"), 5_000)];
    save(&settings, &states);
    drop(settings);
    in_the_middle_of_a_commit(&path, || {
        for suffix in ["", "-journal"] {
            let of = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
            fs::copy(of(&path), of(&killed)).unwrap();
        }
    });
    assert_eq!(Settings::states_in(&killed).unwrap(), states);
}

#[test]
fn a_file_that_is_moved_away_alone_leaves_a_journal_that_is_not_rolled_into_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, journal) = (
        folder.path().join(FILE),
        folder.path().join("settings.db-journal"),
    );
    let settings = Settings::open(&path).unwrap();
    save(&settings, &[state(named("ci"), 5_000)]);
    drop(settings);
    in_the_middle_of_a_commit(&path, || {
        fs::copy(&journal, folder.path().join("killed")).unwrap();
    });
    fs::remove_file(&path).unwrap();
    fs::rename(folder.path().join("killed"), &journal).unwrap();
    let left = fs::read(&journal).unwrap();
    for wal in ["-wal", "-shm"] {
        fs::write(folder.path().join(format!("{FILE}{wal}")), "another one's").unwrap();
    }
    let settings = Settings::open(&path).unwrap();
    assert_eq!(settings.states().unwrap(), []);
    drop(settings);
    assert_eq!(Settings::open(&path).unwrap().states().unwrap(), []);
    // Whoever moved the file without it needs it still.
    let kept = fs::read(folder.path().join("settings.db-journal.old")).unwrap();
    assert!(kept == left);
}

#[test]
fn states_are_there_again_after_a_restart_and_the_file_is_the_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let settings = Settings::open(&path).unwrap();
    assert!(settings.states().unwrap().is_empty());
    let by_hand = SavedState {
        state: "held".to_owned(),
        streak: None,
        ..state(EndpointId::Repository("acme/app".parse().unwrap()), 5_000)
    };
    let mut gone = state(named("gone"), 5_000);
    gone.streak.as_mut().unwrap().wait = None;
    let mut states = vec![state(named("ci"), 5_000), gone, by_hand];
    save(&settings, &states);
    drop(settings);
    let settings = Settings::open(&path).unwrap();
    assert_eq!(sorted(&settings), states);
    settings.save(&[(named("ci"), None)]).unwrap();
    states.remove(0);
    assert_eq!(sorted(&settings), states);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_file_that_cannot_be_opened_although_it_may_be_is_none_without_permission() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    drop(Settings::open(&path).unwrap());
    let error =
        || rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN), None);
    assert!(matches!(
        OpenError::from_sqlite(&path, error()),
        OpenError::Io { .. }
    ));
}

#[test]
fn what_is_no_database_or_a_damaged_one_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let settings = Settings::open(&path).unwrap();
    let many: Vec<_> = (0..200).map(|n| state(named(&format!("ci{n}")), 0)).collect();
    save(&settings, &many);
    drop(settings);
    let sound = fs::read(&path).unwrap();
    let mut torn = sound.clone();
    torn[4096..8192].fill(0xa5);
    for bytes in [
        b"no database at all, but longer than a header is".repeat(30),
        torn,
    ] {
        fs::write(&path, &bytes).unwrap();
        let error = Settings::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("settings.db") && text.contains("move it away"),
            "{text}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn another_programs_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE endpoint_states (x)").unwrap();
    drop(other);
    let error = Settings::open(&path).unwrap_err();
    assert!(error.to_string().contains("another program's"), "{error}");
}

#[test]
fn a_newer_version_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    drop(Settings::open(&path).unwrap());
    let newer = Connection::open(&path).unwrap();
    newer
        .pragma_update(None, "user_version", schema::VERSION + 1)
        .unwrap();
    drop(newer);
    let error = Settings::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Newer { .. }));
    assert!(error.to_string().contains("newer version of shipbell"), "{error}");
}

#[test]
fn refused_pushes_outlive_a_restart_and_what_is_odd_among_them_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let (ours, others) = (JournalId([1; 16]), JournalId([2; 16]));
    let refusal = |sequence, failures| SavedRefusal {
        sequence: Sequence::new(sequence).unwrap(),
        endpoint: named("ci"),
        repository: "acme/app".parse().unwrap(),
        failures,
        at: Timestamp::from_unix_millis(7),
        wait: Duration::from_secs(30),
        fingerprint: (sequence > 1).then_some(u16::MAX),
    };
    let key = |refusal: &SavedRefusal| (refusal.sequence, refusal.endpoint.clone());
    let put = |settings: &Settings, refusal: SavedRefusal| {
        let row = (key(&refusal), Some(refusal));
        settings.save_refusals(ours, &[row]).unwrap();
    };
    let settings = Settings::open(&path).unwrap();
    for failures in [1, 2] {
        put(&settings, refusal(1, failures));
    }
    put(&settings, refusal(2, 1));
    put(&settings, refusal(3, 1));
    let gone = (key(&refusal(2, 1)), None);
    settings.save_refusals(ours, &[gone]).unwrap();
    let odd = "INSERT INTO refusals VALUES (4, 'repository:NOT A NAME', ?1, 'a', 1, 1, 1, 1)";
    settings.connection().execute(odd, [ours.to_string()]).unwrap();
    drop(settings);
    let settings = Settings::open(&path).unwrap();
    assert_eq!(settings.refusals(ours).unwrap(), [refusal(1, 2), refusal(3, 1)]);
    assert_eq!(settings.refusals(others).unwrap(), []);
    assert_eq!(settings.refusals(ours).unwrap(), [], "another journal's are gone");
}

#[test]
fn endpoints_that_are_long_gone_are_let_go_of_and_only_so_many_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::open(&folder.path().join(FILE)).unwrap();
    let days = |days: u64| i64::try_from(Duration::from_hours(24 * days).as_millis()).unwrap();
    save(
        &settings,
        &[
            state(named("configured"), 0),
            state(named("long_gone"), days(9)),
            state(named("lately"), days(100) - 1),
        ],
    );
    let known = HashSet::from([named("configured")]);
    settings.prune(&known, moment(days(100))).unwrap();
    let names: Vec<_> = sorted(&settings)
        .into_iter()
        .map(|state| state.endpoint.to_string())
        .collect();
    assert_eq!(names, ["configured", "lately"]);
    assert_eq!(sorted(&settings)[0].known_at, moment(days(100)));
    let kept = Duration::from_hours(1);
    states::prune(&settings.connection(), &known, moment(days(100)), kept, 0).unwrap();
    assert_eq!(sorted(&settings).len(), 1);
}

mod letters;
mod odd;
mod replays;
mod sought;
mod weighed;
