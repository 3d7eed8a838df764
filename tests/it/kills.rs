//! `kill -9` at any moment, under load, again and again: nothing that was answered 202 is lost, nothing
//! comes out of order, and only what was in flight is repeated (CONTRACT 4 and 6).
//!
//! `ROUNDS=500 SEED=7 cargo test --test it kills -- --nocapture` runs more of it, with chosen delays and
//! loads, and shows what it counted.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Display,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::support::{
    eventually,
    load::{Endpoint, Posters, Seen, Taken},
    shipbell::{Config, Shipbell},
    strace::{self, Fault},
};

const REPOSITORIES: usize = 8;
const CLIENTS: usize = 4;
const ENDPOINTS: usize = 2;

/// Each has at most one attempt in flight.
const LANES: usize = REPOSITORIES * ENDPOINTS;

/// What is left of a life in milliseconds, from the start of the process or from when it listens.
const LIFE_MS: std::ops::Range<u64> = 0..200;

/// How many of a hundred are killed while they start, or soon after.
const KILLED_EARLY: u32 = 20;

/// And how many while they finish what is under way, because they were told to stop, after so many
/// milliseconds of that.
const KILLED_IN_THEIR_DRAIN: u32 = 15;
const DRAIN_MS: std::ops::Range<u64> = 0..50;

/// What the process may take to write down that an answer came, while the machine is busy.
const SETTLES_WITHIN: Duration = Duration::from_millis(500);

/// System calls that fail, and how.
const FAULTS: [(&str, &str); 6] = [
    ("fdatasync", "EIO"),
    ("fsync", "EIO"),
    ("pwrite64", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("/^rename", "EIO"),
    ("/^unlink,ftruncate", "EIO"),
];

#[test]
fn a_kill_loses_nothing_and_repeats_only_what_was_in_flight() {
    let run = Run::of_rounds("none", |_| None);
    run.assert_nothing_lost();
    run.assert_repeats();
}

#[test]
fn a_kill_loses_only_what_a_newer_push_of_the_tag_replaced() {
    let run = Run::of_rounds("tag", |_| None);
    for lane in run.lanes() {
        lane.assert_order();
        let delivered = lane.delivered();
        let mut newest_of_tag: HashMap<&str, u64> = HashMap::new();
        for push in run.taken_of(&lane).rev() {
            let newest = newest_of_tag.entry(&push.tag).or_default();
            if delivered.contains(&push.number) {
                *newest = push.number.max(*newest);
            }
            assert!(*newest >= push.number, "lost: {push:?} at {}", lane.name());
        }
    }
    run.assert_repeats();
}

#[test]
fn a_disk_that_fails_under_load_before_the_kill_loses_nothing_either() {
    if !strace::is_allowed(a_disk_that_fails_under_load_before_the_kill_loses_nothing_either) {
        return;
    }
    let run = Run::of_rounds("none", |rng| {
        let (calls, error) = FAULTS[rng.random_range(0..FAULTS.len())];
        let and_all_after = if rng.random_bool(0.3) { "+" } else { "" };
        // Every call of some size class is as likely: a start makes few, a life under load many.
        let most: u32 = 1 << rng.random_range(0..=7);
        let which = rng.random_range(1..=most);
        Some(Fault {
            calls,
            error,
            when: format!("{which}{and_all_after}"),
        })
    });
    run.assert_nothing_lost();
    // Settlements that the disk refused are repeats, too.
    run.count_repeats();
}

/// What came of it.
struct Run {
    /// What was answered 202, in order within a repository.
    taken: Vec<Taken>,
    /// When the process was killed that called itself by this name.
    kills: HashMap<String, Instant>,
    /// By endpoint, what it saw.
    seen: Vec<Vec<Seen>>,
}

/// What one endpoint saw of one repository.
struct Lane<'a> {
    endpoint: usize,
    repository: &'a str,
    seen: Vec<&'a Seen>,
}

impl Run {
    /// Loads and kills, then waits until all is delivered. With a fault, the process may end before.
    fn of_rounds(coalesce: &str, mut fault: impl FnMut(&mut StdRng) -> Option<Fault>) -> Self {
        let seed = setting("SEED").unwrap_or_else(rand::random);
        let rounds: u64 = setting("ROUNDS").unwrap_or(50);
        println!("coalesce {coalesce}: SEED={seed} ROUNDS={rounds}");
        let began = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let endpoints: Vec<Endpoint> = (0..ENDPOINTS).map(|_| Endpoint::start(rng.random())).collect();
        let mut config = Config::without_registry().with(&format!(
            "
            batch = {{ window = '5ms', coalesce = '{coalesce}' }}
            ingest.max_body = '256KiB'
            size.deadline = '10ms'
            journal.segment_size = '1MiB'
            log.level = 'info'
            [delivery]
            retry_schedule = ['2ms', '10ms', '50ms']
            pause_after = 1000
            per_host = 64
            "
        ));
        for (name, endpoint) in ["a", "b"].iter().zip(&endpoints) {
            config = config.endpoint(name, &endpoint.url());
        }
        let mut shipbell = Shipbell::launch(config.with("delivery.user_agent = 'process 0'"));
        let tags = (coalesce == "tag").then_some(4);
        let posters = Posters::start(shipbell.ingest(), repositories(), tags, rng.random());
        let mut kills = HashMap::new();
        let (mut under_fault, mut ended) = (false, 0);
        for round in 0..rounds {
            if rng.random_range(0..100) >= KILLED_EARLY {
                shipbell.wait_until_it_listens();
            }
            // Any moment will do: there is no state to wait for.
            thread::sleep(Duration::from_millis(rng.random_range(LIFE_MS)));
            let is_told_before = rng.random_range(0..100) < KILLED_IN_THEIR_DRAIN && shipbell.is_running();
            if is_told_before {
                shipbell.terminate();
                thread::sleep(Duration::from_millis(rng.random_range(DRAIN_MS)));
            }
            kills.insert(format!("process {round}"), Instant::now());
            if shipbell.is_running() {
                shipbell.kill();
            } else {
                ended += 1;
                match shipbell.wait(Duration::ZERO).code() {
                    // Without a code: it was not listening to signals yet.
                    Some(0) | None => assert!(is_told_before, "it ended by itself"),
                    Some(74) => assert!(under_fault, "the disk failed by itself"),
                    other => panic!("it ended with {other:?}"),
                }
            }
            shipbell.set(&format!("delivery.user_agent = 'process {}'", round + 1));
            let fault = fault(&mut rng).filter(|_| round + 1 < rounds);
            under_fault = fault.is_some();
            shipbell.set_under(&fault.map(|fault| fault.command()).unwrap_or_default());
            shipbell.launch_again();
        }
        let taken = posters.stop();
        let killed = began.elapsed();
        // Lanes keep the order: with its last push a repository is done.
        let last: HashMap<String, u64> = taken
            .iter()
            .map(|push| (push.repository.clone(), push.number))
            .collect();
        let expected = last.len();
        eventually("all is delivered", Duration::from_mins(1), || {
            let is_done = |endpoint: &Endpoint| {
                let done: HashSet<String> = endpoint
                    .seen()
                    .into_iter()
                    .filter(|seen| seen.is_delivered && last[&seen.repository] == seen.number)
                    .map(|seen| seen.repository)
                    .collect();
                done.len() == expected
            };
            endpoints.iter().all(is_done).then_some(())
        });
        shipbell.stop();
        let run = Self {
            taken,
            kills,
            seen: endpoints.iter().map(Endpoint::seen).collect(),
        };
        println!(
            "{} pushes taken, {} webhooks seen; {ended} ended by themselves; \
             {killed:?} until the last kill, {:?} in all",
            run.taken.len(),
            run.seen.iter().map(Vec::len).sum::<usize>(),
            began.elapsed(),
        );
        run
    }

    fn taken_of<'a>(&'a self, lane: &'a Lane<'_>) -> impl DoubleEndedIterator<Item = &'a Taken> {
        self.taken
            .iter()
            .filter(|push| push.repository == lane.repository)
    }

    /// Without coalescing everything is delivered, each push after the one before.
    fn assert_nothing_lost(&self) {
        for lane in self.lanes() {
            lane.assert_order();
            lane.assert_each_waits_for_the_one_before();
            let delivered = lane.delivered();
            for push in self.taken_of(&lane) {
                assert!(
                    delivered.contains(&push.number),
                    "lost: {push:?} at {}",
                    lane.name()
                );
            }
        }
    }

    fn lanes(&self) -> Vec<Lane<'_>> {
        let mut lanes: BTreeMap<(usize, &str), Vec<&Seen>> = BTreeMap::new();
        for (endpoint, seen) in self.seen.iter().enumerate() {
            for seen in seen {
                lanes.entry((endpoint, &seen.repository)).or_default().push(seen);
            }
        }
        assert_eq!(lanes.len(), LANES);
        lanes
            .into_iter()
            .map(|((endpoint, repository), seen)| Lane {
                endpoint,
                repository,
                seen,
            })
            .collect()
    }

    /// Asserts that what came again was in flight at a kill.
    fn assert_repeats(&self) {
        let (most, longest_before) = self.count_repeats();
        assert!(
            most <= 1,
            "{most} repeats in one lane after one kill, and one was in flight"
        );
        assert!(
            longest_before <= SETTLES_WITHIN,
            "repeated although it was answered {longest_before:?} before the kill"
        );
    }

    /// How many repeats there were in one lane after one kill at most, and how long before its kill one of them
    /// came for the first time. A repeat is what was answered 200 before, by the same endpoint.
    fn count_repeats(&self) -> (usize, Duration) {
        let mut by_kill: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut most_in_lane, mut longest_before) = (0, Duration::ZERO);
        for lane in self.lanes() {
            let mut delivered: HashMap<u64, &Seen> = HashMap::new();
            let mut of_lane: HashMap<&str, HashSet<u64>> = HashMap::new();
            for seen in &lane.seen {
                if let Some(before) = delivered.get(&seen.number) {
                    assert_ne!(before.agent, seen.agent, "repeated without a kill: {seen:?}");
                    // One that fails when it is repeated comes a third time, and is one repeat all the same.
                    if of_lane.entry(&before.agent).or_default().insert(seen.number) {
                        *by_kill.entry(&before.agent).or_default() += 1;
                    }
                    let ago = self.kills[&before.agent].saturating_duration_since(before.at);
                    longest_before = longest_before.max(ago);
                }
                if seen.is_delivered {
                    delivered.insert(seen.number, seen);
                }
            }
            let most = of_lane.values().map(HashSet::len).max();
            most_in_lane = most.unwrap_or_default().max(most_in_lane);
        }
        let most = by_kill.values().max().copied().unwrap_or_default();
        println!(
            "{} kills; {} repeats, after one kill at most {most}, and {most_in_lane} in one lane; \
             the earliest came {longest_before:?} before its kill",
            self.kills.len(),
            by_kill.values().sum::<usize>(),
        );
        (most_in_lane, longest_before)
    }
}

impl Lane<'_> {
    fn name(&self) -> String {
        format!("endpoint {} of {}", self.endpoint, self.repository)
    }

    /// What was answered 200.
    fn delivered(&self) -> HashSet<u64> {
        self.seen
            .iter()
            .filter(|seen| seen.is_delivered)
            .map(|seen| seen.number)
            .collect()
    }

    /// Each push has one id and each id one push, and they come in the order they were taken.
    fn assert_order(&self) {
        let (mut ids, mut numbers) = (HashMap::new(), HashMap::new());
        let mut newest = 0;
        for seen in &self.seen {
            assert_ne!(seen.number, 0, "shows another image than was told: {seen:?}");
            let number = *numbers.entry(&seen.id).or_insert(seen.number);
            assert_eq!(number, seen.number, "an id means one image: {seen:?}");
            let id = *ids.entry(seen.number).or_insert_with(|| {
                assert!(
                    seen.number > newest,
                    "after {newest} came {seen:?} for the first time"
                );
                newest = seen.number;
                &seen.id
            });
            assert_eq!(*id, seen.id, "an image has one id: {seen:?}");
        }
    }

    /// What fails holds up all that is behind it.
    fn assert_each_waits_for_the_one_before(&self) {
        let mut delivered = 0;
        for seen in &self.seen {
            assert!(
                seen.number <= delivered + 1,
                "at {}, {delivered} was the last one delivered when there came {seen:?}",
                self.name(),
            );
            if seen.is_delivered {
                delivered = delivered.max(seen.number);
            }
        }
    }
}

fn repositories() -> Vec<Vec<String>> {
    (0..CLIENTS)
        .map(|client| {
            (client..REPOSITORIES)
                .step_by(CLIENTS)
                .map(|number| format!("acme/app-{number}"))
                .collect()
        })
        .collect()
}

/// A number that whoever runs the tests may choose.
#[expect(
    clippy::disallowed_methods,
    reason = "what runs by hand is told by the environment"
)]
fn setting<T: FromStr<Err: Display>>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}
