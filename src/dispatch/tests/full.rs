//! What is given up because the journal is full.

use tokio::time::{sleep, timeout};

use super::{bounded::patient, *};
use crate::journal::Health;

const LONG: Duration = Duration::from_mins(1);

fn full(bytes: u64, makes_room: bool) -> Health {
    Health::Full {
        bytes,
        bytes_max: 100,
        makes_room,
    }
}

/// A stage at which ten pushes are owed, and one is as many as are given up at a time.
async fn with_pushes(folder: &TempDir) -> Stage {
    let options = Options {
        segment_bytes: 1,
        ..dispatch_options()
    };
    let endpoints = vec![patient("slow")];
    let stage = Stage::start_by(folder, endpoints, Bounds::default(), options, Clock::system()).await;
    stage.take(bounded::numbered(1..=10, &["slow"])).await;
    stage
}

/// How many pushes were given up.
fn given_up(stage: &Stage) -> u64 {
    stage.letters().stats().letters + stage.letters().waiting()
}

fn journal_owes(stage: &Stage) -> u64 {
    stage.dispatcher.0.parts.journal.stats().unsettled
}

#[tokio::test]
async fn for_a_journal_that_makes_room_by_itself_nothing_is_given_up() {
    let folder = folder();
    let stage = with_pushes(&folder).await;
    let (told, health) = watch::channel(full(90, true));
    let mut keeping = Box::pin(stage.dispatcher.clone().keep_open(health));
    // From here on time passes when there is nothing else to do.
    tokio::time::pause();
    assert!(timeout(LONG, &mut keeping).await.is_err());
    assert_eq!(given_up(&stage), 0);
    told.send_replace(Health::Ready);
    assert!(timeout(LONG, &mut keeping).await.is_err());
    assert_eq!(given_up(&stage), 0);
    // What it can't make room for by itself is given up.
    told.send_replace(full(90, false));
    assert!(timeout(Duration::from_secs(1), &mut keeping).await.is_err());
    tokio::time::resume();
    stage.wait_for_letters(1).await;
    told.send_replace(Health::Ready);
    drop(keeping);
    stage.stop().await;
}

#[tokio::test]
async fn no_more_is_given_up_while_what_was_given_up_is_still_making_room() {
    let folder = folder();
    let stage = with_pushes(&folder).await;
    let (told, health) = watch::channel(full(90, false));
    let mut keeping = Box::pin(stage.dispatcher.clone().keep_open(health));
    tokio::time::pause();
    let mut goes_on = async |time| assert!(timeout(time, &mut keeping).await.is_err());
    for bytes in [89, 88, 87, 86] {
        goes_on(Duration::from_millis(2_500)).await;
        assert_eq!(given_up(&stage), 1, "at {bytes}");
        told.send_replace(full(bytes, false));
    }
    told.send_replace(full(85, true));
    goes_on(LONG).await;
    assert_eq!(given_up(&stage), 1, "it makes room");
    // It does no longer, and it was not enough.
    told.send_replace(full(85, false));
    goes_on(LONG).await;
    assert!(given_up(&stage) > 1);
    tokio::time::resume();
    sleep(Duration::ZERO).await;
    drop(keeping);
    stage.stop().await;
}

#[tokio::test]
async fn what_is_delivered_meanwhile_is_not_taken_for_room_that_is_made() {
    let folder = folder();
    let stage = with_pushes(&folder).await;
    let (told, health) = watch::channel(full(90, false));
    let mut keeping = Box::pin(stage.dispatcher.clone().keep_open(health));
    tokio::time::pause();
    assert!(timeout(Duration::from_millis(2_500), &mut keeping).await.is_err());
    assert_eq!(given_up(&stage), 1);
    // The journal owes less by the second, and its segments stay.
    for number in 4..=10 {
        let pair = Pair {
            sequence: replays::sequence(number),
            place: 0,
        };
        let before = journal_owes(&stage);
        let journal = &stage.dispatcher.0.parts.journal;
        journal.settle([(pair, Settlement::Delivered)]).await;
        while journal_owes(&stage) == before {
            tokio::task::yield_now().await;
        }
        assert!(timeout(Duration::from_secs(1), &mut keeping).await.is_err());
    }
    assert!(given_up(&stage) > 1);
    tokio::time::resume();
    sleep(Duration::ZERO).await;
    drop((keeping, told));
    stage.stop().await;
}
