//! What is kept of states, and what is told when.

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{
    catalog::History,
    settings::FILE,
    webhook::{Endpoint, Fault},
};

fn ci() -> EndpointId {
    EndpointId::Named("ci".into())
}

fn endpoints(url: &str) -> Endpoints {
    Endpoints::new(vec![Endpoint::plain("ci", url)])
}

fn states(folder: &TempDir, url: &str) -> States {
    states_of(folder, endpoints(url))
}

fn states_of(folder: &TempDir, endpoints: Endpoints) -> States {
    let wall = Clock::from_fn(|| Timestamp::from_unix_millis(1_795_424_918_000));
    let parts = Parts {
        policy: Policy::hourly(),
        clock: wall.steady(),
        queue: Arc::new(Queue::new()),
        endpoints,
        settings: Settings::open(&folder.path().join(FILE)).unwrap(),
        metrics: Metrics::new(&wall),
        alerts: None,
        history: History::none(),
    };
    States::restore(parts).unwrap()
}

/// An attempt, once it is time for one.
async fn fail(states: &States) {
    let wait = states.wait(&ci()).unwrap_or_default();
    tokio::time::advance(wait + Duration::from_secs(1)).await;
    let outcome = Outcome::Failed {
        fault: Fault::Endpoint,
        status: Some(503),
        reason: "answered 503".to_owned(),
        retry_after: None,
    };
    states.attempted(&ci(), states.0.parts.clock.now(), &outcome);
}

fn state(states: &States) -> State {
    let counts = states.counts();
    let [(state, _)] = counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect::<Vec<_>>()[..]
    else {
        panic!("one endpoint, one state: {counts:?}")
    };
    state
}

fn told(states: &States, state: State) -> bool {
    let sample = format!("shipbell_endpoint_changes_total{{state=\"{state}\"}}");
    let text = states.0.parts.metrics.encode();
    let count = text.lines().find_map(|line| line.strip_prefix(&sample));
    count.unwrap_or_else(|| panic!("no {sample} in\n{text}")) != " 0"
}

#[tokio::test(start_paused = true)]
async fn a_state_is_there_again_after_a_restart_unless_the_url_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let first = states(&folder, "http://a/?token=1");
    fail(&first).await;
    fail(&first).await;
    first.save().await.unwrap();
    let known = first.inner().known[&ci()].clone();
    drop(first);

    let second = states(&folder, "http://a/?token=1");
    let restored = second.inner().known[&ci()].clone();
    assert_eq!(
        (restored.health.state, restored.reason),
        (State::Paused, known.reason)
    );
    assert_eq!(restored.health.failures(), 2);
    drop(second);

    let third = states(&folder, "http://a/?token=2");
    assert_eq!(state(&third), State::Healthy);
    third.save().await.unwrap();
    assert!(told(&third, State::Healthy));
    drop(third);
    assert_eq!(state(&states(&folder, "http://a/?token=1")), State::Healthy);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_it_is_durable_and_nothing_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let states = states(&folder, "http://a/");
    let other = Connection::open(folder.path().join(FILE)).unwrap();
    other
        .execute_batch("ALTER TABLE endpoint_states RENAME TO away")
        .unwrap();
    fail(&states).await;
    states.save().await.unwrap_err();
    assert!(!told(&states, State::Failing));
    fail(&states).await;
    states.save().await.unwrap_err();
    assert_eq!(state(&states), State::Paused, "it is so all the same");

    other
        .execute_batch("ALTER TABLE away RENAME TO endpoint_states")
        .unwrap();
    states.save().await.unwrap();
    assert!(told(&states, State::Failing) && told(&states, State::Paused));
    states.happen(&ci(), Event::Healed, "a test passed");
    states.save().await.unwrap();
    assert!(told(&states, State::Healthy));
    assert!(states.0.parts.settings.states().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn changes_that_cannot_be_told_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let states = states(&folder, "http://a/");
    for _ in 0..CHANGES_MAX {
        states.happen(&ci(), Event::Held, "by hand");
        states.happen(&ci(), Event::Enabled, "by hand");
    }
    let changes = states.inner().unsaved[&ci()].clone();
    assert_eq!(changes.len(), CHANGES_MAX);
    assert_eq!(changes.last().unwrap().health.state, State::Healthy);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_comes_again_has_nothing_of_the_state_it_had_before_it_went() {
    let folder = TempDir::new().unwrap();
    let url = "http://127.0.0.1:1/";
    let before = states(&folder, url);
    before.happen(&ci(), Event::Held, "by hand");
    before.save().await.unwrap();
    drop(before);
    // It is gone from the configuration while nothing runs, and is put there again while something does.
    let without = states_of(&folder, Endpoints::default());
    without.0.parts.endpoints.put(Endpoint::plain("ci", url));
    without.came(&HashSet::from([ci()]), "it is in the configuration again");
    without.save().await.unwrap();
    assert_eq!(without.state(&ci()), State::Healthy);
    drop(without);
    assert_eq!(states(&folder, url).state(&ci()), State::Healthy);
}
