//! Age, bytes, and more than can be written.

use super::*;

pub(super) const SMALL: Options = Options {
    age_max: Duration::from_hours(7 * 24),
    bytes_max: 8 << 20,
};

fn bytes(stage: &Stage) -> u64 {
    let size = |suffix: &str| {
        let file = stage.folder.path().join(format!("{FILE}{suffix}"));
        fs::metadata(file).map_or(0, |meta| meta.len())
    };
    size("") + size("-wal")
}

/// Waits until `is_so`, looking again and again.
pub(super) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_ended_long_ago_goes_and_what_is_pending_stays() {
    let stage = Stage::new(ROOMY);
    let running = stage.start_owing(vec![owed(1)]);
    running.history.taken(&durable(1, "pending", stage.now()));
    for number in 2..=1_200 {
        deliver(&running.history, number, "old", stage.now());
    }
    running
        .history
        .dropped(&[drop_one("untagged", "old", 9_000, stage.now())]);
    let is_dropped = || !stage.stories(&Sought::Event(event_id(9_000))).dropped.is_empty();
    // A push whose end is not written yet when its time is over is pending, and looked at again much later.
    eventually("written", || Reader::open(&stage.file()).is_ok() && is_dropped());
    stage.pass(8 * DAY_MS);
    deliver(&running.history, 2_000, "new", stage.now());
    eventually("pruned", || {
        Reader::open(&stage.file()).is_ok()
            && stage.tag("new").len() == 1
            && stage.tag("old").is_empty()
            && !is_dropped()
    });
    running.close();
    assert_eq!(stage.tag("pending").len(), 1);
    assert_eq!(stage.tag("new").len(), 1);
}

#[test]
fn a_clock_that_is_set_forward_by_years_takes_nothing_with_it() {
    let looks = Arc::new(AtomicUsize::new(0));
    let stage = Stage {
        looks: Some(Arc::clone(&looks)),
        ..Stage::new(ROOMY)
    };
    let running = stage.start();
    deliver(&running.history, 1, "old", stage.now());
    eventually("written", || {
        Reader::open(&stage.file()).is_ok() && stage.tag("old").len() == 1
    });
    let look = || {
        let before = looks.load(Ordering::Relaxed);
        eventually("looked", || looks.load(Ordering::Relaxed) >= before + 2);
    };
    look();
    stage.pass(10 * 365 * DAY_MS);
    look();
    running.close();
    assert_eq!(stage.tag("old").len(), 1);
}

#[test]
fn the_files_stay_within_their_bytes_and_the_newest_stay() {
    let stage = Stage::new(SMALL);
    let running = stage.start();
    let mut number = 0;
    let mut largest = 0;
    for _ in 0..40 {
        for _ in 0..500 {
            number += 1;
            deliver(&running.history, number, "1", stage.now());
        }
        eventually("written", || running.history.stats().rows >= number * 3);
        largest = largest.max(bytes(&stage));
    }
    assert_eq!(running.close().dropped, 0);
    assert!(largest <= SMALL.bytes_max, "{largest} bytes");
    let newest = stage.tag("1");
    assert_eq!(newest[0].sequence, number);
    assert!(newest.len() > 300, "{}", newest.len());
    assert!(bytes(&stage) > SMALL.bytes_max / 3, "room is used");
}

#[test]
fn when_all_is_pending_the_oldest_go() {
    let stage = Stage::new(SMALL);
    let running = stage.start();
    for number in 1..=20_000 {
        running.history.taken(&durable(number, "1", stage.now()));
    }
    eventually("within bounds", || {
        running.history.stats().rows == 40_000 && running.history.stats().bytes <= SMALL.bytes_max
    });
    running.close();
    assert!(bytes(&stage) <= SMALL.bytes_max);
    assert_eq!(stage.tag("1")[0].sequence, 20_000);
}

#[test]
fn a_smaller_bound_makes_a_smaller_file() {
    let mut stage = Stage::new(ROOMY);
    let running = stage.start();
    for number in 1..=20_000 {
        deliver(&running.history, number, "1", stage.now());
        if number % 5_000 == 0 {
            eventually("written", || running.history.stats().rows >= number * 3);
        }
    }
    running.close();
    let before = bytes(&stage);
    assert!(before > SMALL.bytes_max, "{before}");
    stage.options = SMALL;
    let running = stage.start();
    eventually("small", || bytes(&stage) <= SMALL.bytes_max);
    running.close();
    assert!(bytes(&stage) <= SMALL.bytes_max);
}

#[test]
fn dropped_pushes_have_their_share_and_no_more() {
    let stage = Stage::new(SMALL);
    let running = stage.start();
    for number in 0..100 {
        let dropped = (0..100).map(|one| drop_one("untagged", "x", number * 100 + one, stage.now()));
        running.history.dropped(&dropped.collect::<Vec<_>>());
    }
    deliver(&running.history, 1, "1", stage.now());
    let most = 4 * 1024 * 1024 / 8 / 400;
    let count = |stage: &Stage| {
        stage
            .stories(&Sought::Tag("acme/app".to_owned(), "x".to_owned()))
            .dropped
            .len()
    };
    eventually("pruned", || {
        Reader::open(&stage.file()).is_ok() && (1..=most).contains(&count(&stage))
    });
    running.close();
    assert_eq!(stage.tag("1").len(), 1);
}

#[test]
fn of_endless_attempts_the_first_and_the_newest_are_kept() {
    let stage = Stage::new(ROOMY);
    let running = stage.start();
    running.history.taken(&durable(1, "1", stage.now()));
    for _ in 0..300 {
        attempt(&running.history, 1, "1", stage.now(), &failed(503));
    }
    running.close();
    let delivery = &stage.tag("1")[0].deliveries[0];
    assert_eq!(delivery.attempts_made, 300);
    let numbers: Vec<u64> = delivery.attempts.iter().map(|one| one.number).collect();
    assert_eq!(numbers, (1..=10).chain(211..=300).collect::<Vec<_>>());
}

#[test]
fn what_happens_while_the_file_can_not_be_used_is_written_down_later() {
    let stage = Stage::new(ROOMY);
    // A folder where the file should be: what can't be opened, until it goes.
    fs::create_dir(stage.file()).unwrap();
    let running = stage.start();
    deliver(&running.history, 1, "1", stage.now());
    eventually("told", || running.history.trouble().is_some());
    assert!(running.history.stats().rows == 0);
    fs::remove_dir(stage.file()).unwrap();
    deliver(&running.history, 2, "1", stage.now());
    eventually("written again", || running.history.stats().rows == 8);
    assert_eq!(running.history.trouble(), None);
    assert_eq!(running.close().dropped, 0);
    assert!(stage.aside().is_empty());
    assert_eq!(stage.tag("1").len(), 2);
}
