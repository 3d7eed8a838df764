//! Dead letters of a real shipbell: in settings.db before the journal says settled (CONTRACT 5 and 6).

use std::{fs, path::Path};

use rusqlite::{Connection, OpenFlags};

use crate::support::{
    SOON,
    api::Api,
    envelope, eventually, folder, ports,
    receiver::{Answer, Receiver, Request, images},
    shipbell::{Config, Shipbell},
};

mod power;
mod short;
mod unreadable;
mod unwritten;

/// A letter as its row has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    endpoint: String,
    image: String,
    reason: String,
    attempts: Option<u32>,
}

fn row(endpoint: &str, image: &str, reason: &str, attempts: Option<u32>) -> Row {
    Row {
        endpoint: endpoint.to_owned(),
        image: image.to_owned(),
        reason: reason.to_owned(),
        attempts,
    }
}

/// All letters, in the order in which they were written.
fn rows(data: &Path) -> Vec<Row> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let file = Connection::open_with_flags(data.join("settings.db"), flags).unwrap();
    file.busy_timeout(SOON).unwrap();
    let sql = "SELECT endpoint, repository || ':' || tag, reason, attempts FROM dead_letters ORDER BY id";
    let mut statement = file.prepare(sql).unwrap();
    let rows = statement.query_map((), |row| {
        Ok(Row {
            endpoint: row.get(0)?,
            image: row.get(1)?,
            reason: row.get(2)?,
            attempts: row.get(3)?,
        })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn wait_for_rows(count: usize, data: &Path) -> Vec<Row> {
    eventually(&format!("{count} letters"), SOON, || {
        let rows = rows(data);
        (rows.len() >= count).then_some(rows)
    })
}

fn wait_for_metric(shipbell: &Shipbell, sample: &str, value: u64) {
    eventually(&format!("{sample} is {value}"), SOON, || {
        (shipbell.metric(sample) == value).then_some(())
    });
}

/// What is refused is tried twice.
const TWICE: &str = "delivery.retry_schedule = ['50ms']\nbatch.window = '0s'";

/// A shipbell, and its one endpoint, which refuses all it is sent.
fn refused_twice() -> (Receiver, Shipbell) {
    let hook = Receiver::scripted(|_| Answer::Status(404));
    let config = Config::without_registry()
        .with(TWICE)
        .endpoint("hook", &hook.url("/"));
    (hook, Shipbell::start(config))
}

#[test]
fn a_push_that_is_refused_to_the_end_is_a_letter_and_owed_no_more() {
    let hook = Receiver::scripted(|_| Answer::Status(404));
    let config = Config::without_registry()
        .with(TWICE)
        .endpoint("hook", &hook.url("/hook?token=canary-in-a-query"));
    let mut shipbell = Shipbell::start(config);
    let data = shipbell.data();
    shipbell.push("acme/app", "1.4");
    let expected = [row("hook", "acme/app:1.4", "answered 404 Not Found", Some(2))];
    assert_eq!(wait_for_rows(1, &data), expected);
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    assert_eq!(shipbell.metric("shipbell_settled_total{how=\"dead_letter\"}"), 1);
    assert_eq!(shipbell.metric("shipbell_dead_letters"), 1);
    assert_eq!(shipbell.metric("shipbell_dead_letters_written_total"), 1);
    assert_eq!(shipbell.metric("shipbell_dead_letters_lost_total"), 0);
    assert!(shipbell.metric("shipbell_dead_letters_bytes") > 4096);
    shipbell.stop();
    shipbell.start_again();
    assert_eq!(hook.requests().len(), 2, "nothing is sent again by itself");
    assert_eq!(rows(&data), expected);
    let file = fs::read(data.join("settings.db")).unwrap();
    let canary = b"canary-in-a-query";
    assert!(!file.windows(canary.len()).any(|window| window == canary));
}

#[test]
fn a_letter_goes_once_it_is_as_old_as_letters_may_be() {
    let hook = Receiver::scripted(|_| Answer::Status(404));
    let config = Config::without_registry()
        .with(TWICE)
        .with("delivery.dead_letters = '1s'")
        .endpoint("hook", &hook.url("/"));
    let shipbell = Shipbell::start(config);
    let data = shipbell.data();
    let mut number = 0;
    // Each letter that is written looks at the old ones.
    let mut write_one = || {
        number += 1;
        shipbell.push("acme/app", &number.to_string());
        wait_for_metric(&shipbell, "shipbell_dead_letters_written_total", number);
    };
    write_one();
    eventually("the first one goes", SOON, || {
        write_one();
        let is_first = |row: &Row| row.image == "acme/app:1";
        (!rows(&data).iter().any(is_first)).then_some(())
    });
}

#[test]
fn one_that_says_it_is_gone_leaves_letters_that_say_why() {
    let hook = Receiver::scripted(|_| Answer::Status(410));
    let config = Config::without_registry()
        .with(TWICE)
        .endpoint("hook", &hook.url("/"));
    let shipbell = Shipbell::start(config);
    let data = shipbell.data();
    shipbell.push("acme/app", "1");
    wait_for_rows(1, &data);
    shipbell.push("acme/app", "2");
    assert_eq!(
        wait_for_rows(2, &data),
        [
            row("hook", "acme/app:1", "answered 410 Gone", Some(1)),
            row(
                "hook",
                "acme/app:2",
                "its endpoint is ignored: answered 410 Gone",
                Some(0)
            ),
        ]
    );
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
}

#[test]
fn a_letter_says_how_often_its_push_was_sent_whyever_it_was_given_up() {
    let config = |hook: &Receiver| {
        let config = Config::without_registry().endpoint("hook", &hook.url("/"));
        config.with("batch.window = '0s'\ndelivery.retry_schedule = ['1h']")
    };
    // By its endpoint's state.
    let hook = Receiver::scripted(|_| Answer::Status(503));
    let ignored = config(&hook)
        .with("delivery.retry_schedule = ['50ms']\ndelivery.pause_after = 2\ndelivery.probe_first = '100ms'\ndelivery.probe_max = '100ms'")
        .with("delivery.ignore_after = '1s'\ndelivery.ignore_after_failures = 4");
    assert_told_as_sent(&Shipbell::start(ignored), &hook, 4, |_| {});
    // By a bound: here on the pushes of 8,000 bytes that an endpoint may owe.
    let hook = Receiver::scripted(|_| Answer::Status(503));
    let bounded = config(&hook).with("delivery.max_backlog = '1MiB'");
    let shipbell = Shipbell::start(bounded);
    assert_told_as_sent(&shipbell, &hook, 1, |shipbell| {
        // What is in flight would be passed over.
        wait_for_metric(shipbell, "shipbell_endpoints{state=\"failing\"}", 1);
        for number in 0..140 {
            let event = envelope::heavy("acme/other", &number.to_string(), 8_000);
            shipbell.take(envelope::of(&[event]));
        }
    });
    // By hand.
    let hook = Receiver::scripted(|_| Answer::Status(503));
    let shipbell = Shipbell::start(config(&hook));
    assert_told_as_sent(&shipbell, &hook, 1, |shipbell| {
        let api = Api::at(shipbell.admin_port());
        let disabled = api.post("/api/v1/endpoints/hook/disable");
        assert!(disabled.status < 300, "{}", disabled.text());
    });
}

/// Has three pushes to one repository given up, after the first was sent so often at least, and asserts that their
/// letters say how often each was.
fn assert_told_as_sent(shipbell: &Shipbell, hook: &Receiver, least: usize, give_up: impl FnOnce(&Shipbell)) {
    for tag in ["1", "2", "3"] {
        shipbell.push("acme/app", tag);
    }
    hook.wait_for(least, SOON);
    give_up(shipbell);
    let letters = eventually("three letters", SOON, || {
        let mut letters = rows(&shipbell.data());
        letters.retain(|letter| letter.image.starts_with("acme/app:"));
        (letters.len() >= 3).then_some(letters)
    });
    let sent = images(&hook.requests());
    let told = letters
        .iter()
        .map(|letter| (letter.image.as_str(), letter.attempts));
    let known = |image: &str| u32::try_from(sent.iter().filter(|sent| *sent == image).count()).ok();
    let expected = ["acme/app:1", "acme/app:2", "acme/app:3"].map(|image| (image, known(image)));
    assert!(
        sent.iter().filter(|sent| *sent == "acme/app:1").count() >= least,
        "{sent:?}"
    );
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_owed_by_an_endpoint_that_is_gone_from_the_configuration_is_buried_as_letters() {
    let (data, other) = (folder(), Receiver::start());
    let config = || {
        let config = Config::without_registry().with("delivery.retry_schedule = ['1h']\nbatch.window = '0s'");
        config.data_in(data.path()).endpoint("other", &other.url("/"))
    };
    let dead = format!("http://127.0.0.1:{}/", ports::free());
    let mut shipbell = Shipbell::start(config().endpoint("gone", &dead));
    for tag in ["1", "2", "3"] {
        shipbell.push("acme/app", tag);
    }
    other.wait_for(3, SOON);
    shipbell.stop();
    assert_eq!(rows(data.path()), []);

    let mut shipbell = Shipbell::start(config());
    let reason = "its endpoint is gone from the configuration";
    let expected: Vec<_> = (1..=3)
        .map(|tag| row("gone", &format!("acme/app:{tag}"), reason, None))
        .collect();
    assert_eq!(wait_for_rows(3, data.path()), expected);
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    shipbell.stop();
    assert!(shipbell.log().contains("no longer in the configuration"));

    // When it comes back, it is owed nothing of that.
    let back = Receiver::start();
    let shipbell = Shipbell::start(config().endpoint("gone", &back.url("/")));
    shipbell.push("acme/app", "4");
    assert_eq!(images(&back.wait_for(1, SOON)), ["acme/app:4"]);
    assert_eq!(rows(data.path()).len(), 3);
}

#[test]
fn while_no_letter_can_be_written_the_push_stays_owed_through_a_kill_too() {
    let (hook, mut shipbell) = refused_twice();
    let data = shipbell.data();
    let file = Connection::open(data.join("settings.db")).unwrap();
    file.execute_batch("BEGIN EXCLUSIVE").unwrap();
    shipbell.push("acme/app", "1");
    wait_for_metric(&shipbell, "shipbell_dead_letters_waiting", 1);
    let complaint = "dead letters can't be written";
    eventually("it is told", SOON, || {
        shipbell.log().contains(complaint).then_some(())
    });
    assert_eq!(shipbell.metric("shipbell_journal_live"), 1);
    // Nobody else is held up.
    shipbell.push("acme/app", "2");
    hook.wait_for_image("acme/app:2", SOON);
    shipbell.kill();
    file.execute_batch("ROLLBACK").unwrap();
    assert_eq!(rows(&data), []);

    hook.answer(|request| Answer::Status(if request.image().ends_with(":1") { 404 } else { 200 }));
    shipbell.start_again();
    // How often it was sent before the kill is not known any more.
    let expected = [row("hook", "acme/app:1", "answered 404 Not Found", None)];
    assert_eq!(wait_for_rows(1, &data), expected);
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    assert_eq!(shipbell.log().matches(complaint).count(), 1, "told once");
}

#[test]
fn letters_are_written_once_they_can_be() {
    let (_hook, mut shipbell) = refused_twice();
    let data = shipbell.data();
    let file = Connection::open(data.join("settings.db")).unwrap();
    file.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for number in 0..30 {
        shipbell.push(&format!("acme/app{number}"), "1");
    }
    wait_for_metric(&shipbell, "shipbell_dead_letters_waiting", 30);
    file.execute_batch("ROLLBACK").unwrap();
    wait_for_rows(30, &data);
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    wait_for_metric(&shipbell, "shipbell_dead_letters_waiting", 0);
    shipbell.stop();
}

#[test]
fn a_stop_writes_what_waits() {
    let (hook, mut shipbell) = refused_twice();
    let data = shipbell.data();
    let file = Connection::open(data.join("settings.db")).unwrap();
    file.execute_batch("BEGIN EXCLUSIVE").unwrap();
    shipbell.push("acme/app", "1");
    wait_for_metric(&shipbell, "shipbell_dead_letters_waiting", 1);
    shipbell.terminate();
    eventually("it stops", SOON, || {
        shipbell.log().contains("stopping").then_some(())
    });
    file.execute_batch("ROLLBACK").unwrap();
    assert!(shipbell.wait(SOON).success());
    assert_eq!(rows(&data).len(), 1);
    shipbell.start_again();
    assert_eq!(shipbell.metric("shipbell_journal_live"), 0);
    assert_eq!(hook.requests().len(), 2);
}

#[test]
fn the_letter_of_a_push_that_is_owed_all_the_same_is_taken_back() {
    let hook = Receiver::scripted(|_| Answer::Status(503));
    let config = Config::without_registry()
        .with(TWICE)
        .endpoint("hook", &hook.url("/"));
    let mut shipbell = Shipbell::start(config);
    let data = shipbell.data();
    shipbell.push("acme/app", "1");
    hook.wait_for(1, SOON);
    shipbell.stop();
    // The journal as it is when the process ends right between a letter and its settlement.
    let (journal, before) = (data.join("journal"), data.join("before"));
    copy(&journal, &before);
    hook.answer(|_| Answer::Status(404));
    shipbell.start_again();
    wait_for_rows(1, &data);
    shipbell.stop();
    fs::remove_dir_all(&journal).unwrap();
    fs::rename(&before, &journal).unwrap();

    hook.answer(|_| Answer::Status(200));
    let sent = hook.requests().len();
    shipbell.start_again();
    assert_eq!(rows(&data), [], "it is owed, and not given up");
    let requests = hook.wait_for(sent + 1, SOON);
    assert_eq!(requests[sent].id(), requests[0].id());
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    assert_eq!(shipbell.metric("shipbell_dead_letters"), 0);
    assert!(shipbell.log().contains("taken back"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn killed_at_any_moment_each_push_is_owed_or_a_letter() {
    const ROUNDS: u64 = 8;
    const PUSHES: u64 = 40;
    let hook = Receiver::scripted(|_| Answer::Status(404));
    let config = Config::without_registry()
        .with("delivery.retry_schedule = ['1ms']\nbatch.window = '0s'\nbatch.coalesce = 'none'")
        .endpoint("hook", &hook.url("/"));
    let mut shipbell = Shipbell::start(config);
    let data = shipbell.data();
    for round in 0..ROUNDS {
        let events: Vec<_> = (0..PUSHES)
            .map(|number| {
                let (repository, tag) = (format!("acme/app{}", number % 7), format!("v{round}-{number}"));
                envelope::push(&repository, &tag, &tag)
            })
            .collect();
        shipbell.take(envelope::of(&events));
        // In the middle of giving up, each time elsewhere.
        let some = usize::try_from(round * PUSHES * 3 / 4).unwrap();
        eventually("some are letters", SOON, || {
            (rows(&data).len() >= some).then_some(())
        });
        shipbell.kill();
        shipbell.start_again();
    }
    let all = usize::try_from(ROUNDS * PUSHES).unwrap();
    let mut images: Vec<_> = wait_for_rows(all, &data)
        .into_iter()
        .map(|row| row.image)
        .collect();
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    images.sort();
    images.dedup();
    assert_eq!((images.len(), rows(&data).len()), (all, all), "each once");
}
