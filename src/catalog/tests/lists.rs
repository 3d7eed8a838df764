//! Lists of deliveries: each combination of filters finds what a look at every delivery finds, and looks at no other.

use std::{cmp::Reverse, collections::HashSet, ops::ControlFlow, sync::Arc};

use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample::select,
};
use rusqlite::{Connection, params};

use super::{
    super::{
        entry::{self, End, Entry, Place},
        gathered,
        lists::Between,
        rows::Origin,
        spans::{self, Spans},
        store::Store,
        walk::Walk,
    },
    *,
};
use crate::glob::{Patterns, Seen};

const REPOSITORIES: [&str; 3] = ["acme/app", "acme/db", "mono"];

/// In seconds from [`START_MS`]: what generated clocks show, roughly.
const SPAN_S: i64 = 80;

/// A push that was taken, and what became of it.
#[derive(Clone, Debug)]
struct Taken {
    journal: i64,
    /// Numbers from the one before in its journal.
    behind: u64,
    repository: &'static str,
    /// How far the clock was set before, milliseconds.
    set: i64,
    is_timed: bool,
    /// For each endpoint that got it; at least one.
    states: Vec<(EndpointId, &'static str)>,
}

/// A delivery as the model has it.
#[derive(Clone, Debug)]
struct Meant {
    push: i64,
    endpoint: String,
    repository: &'static str,
    state: &'static str,
    taken_at: Option<i64>,
}

fn endpoints(repository: &str) -> [EndpointId; 3] {
    [
        ci(),
        EndpointId::Named("audit".into()),
        EndpointId::Repository(repository.parse().unwrap()),
    ]
}

fn taken() -> impl Strategy<Value = Taken> {
    let state = option::weighted(0.6, select(&DELIVERY_STATES[..]));
    let states = (state.clone(), state.clone(), state, select(&DELIVERY_STATES[..]));
    let clock = (
        prop_oneof![9 => Just(0), 1 => (-30..30_i64).prop_map(|seconds| seconds * 1_000)],
        prop::bool::weighted(0.9),
    );
    (1..=2_i64, 1..700_u64, select(&REPOSITORIES[..]), clock, states).prop_map(
        |(journal, behind, repository, (set, is_timed), states)| {
            let [ci, audit, own] = endpoints(repository);
            let given = [(&ci, states.0), (&audit, states.1), (&own, states.2)];
            let mut states: Vec<_> = given
                .into_iter()
                .filter_map(|(endpoint, state)| Some((endpoint.clone(), state?)))
                .chain([(ci.clone(), states.3)])
                .collect();
            let mut known = HashSet::new();
            states.retain(|(endpoint, _)| known.insert(endpoint.clone()));
            Taken {
                journal,
                behind,
                repository,
                set,
                is_timed,
                states,
            }
        },
    )
}

fn filter() -> impl Strategy<Value = DeliveryFilter> {
    let repository = select(vec!["acme/app", "acme/db", "mono", "nobodys"]);
    let endpoint = select(vec!["ci", "audit", "repository:mono", "nobodys"]);
    // The very moments at which pushes were taken, and a little behind.
    let moment = || {
        let at = (-10..SPAN_S, 0..2_i64);
        option::of(at.prop_map(|(s, ms)| Timestamp::from_unix_millis(START_MS + s * 1_000 + ms)))
    };
    (
        option::of(repository.clone().prop_map(str::to_owned)),
        option::of(btree_set(repository.prop_map(str::to_owned), 0..4)),
        option::of(endpoint.prop_map(str::to_owned)),
        option::of(select(&DELIVERY_STATES[..]).prop_map(str::to_owned)),
        moment(),
        moment(),
    )
        .prop_map(
            |(repository, among, endpoint, state, since, until)| DeliveryFilter {
                repository,
                among: among.map(|names| names.into_iter().collect()),
                endpoint,
                state,
                since,
                until,
            },
        )
}

/// Writes it all down, and remembers it in the order of lists.
fn write(store: &mut Store, all: &[Taken]) -> Vec<Meant> {
    let begun = store.connection.transaction().unwrap();
    let (mut meant, mut numbers, mut clock) = (Vec::new(), [0_u64; 3], START_MS);
    for (number, taken) in (1_u64..).zip(all) {
        let journal = usize::try_from(taken.journal).unwrap();
        numbers[journal] += taken.behind;
        clock += 1_000 + taken.set;
        let origin = Origin {
            journal: JournalId([7; 16]),
            number: taken.journal,
        };
        let at = Timestamp::from_unix_millis(clock);
        let mut durable = durable(numbers[journal], "1", at);
        durable.push.event_id = event_id(number);
        durable.push.repository = taken.repository.parse().unwrap();
        durable.push.owed = taken
            .states
            .iter()
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        let push = origin.push(durable.sequence).unwrap();
        for (endpoint, _) in taken.states.iter().filter(|_| !taken.is_timed) {
            let which = Which {
                endpoint: endpoint.clone(),
                repository: durable.push.repository.clone(),
                ..which(numbers[journal], "1")
            };
            let (endpoint, end) = (
                endpoint.to_string(),
                End {
                    how: "delivered",
                    reason: None,
                    at: at.unix_millis(),
                },
            );
            let ended = Entry::Ended(Place::of(&which, &endpoint), end);
            gathered::write(&begun, origin, &[ended]).unwrap();
        }
        if taken.is_timed {
            let owed: Vec<String> = durable.push.owed.iter().map(ToString::to_string).collect();
            let digest = durable.push.digest.to_string();
            let taken = Entry::Taken(entry::Taken::of(&durable, &digest, &owed));
            gathered::write(&begun, origin, &[taken]).unwrap();
        }
        for (endpoint, state) in &taken.states {
            let endpoint = endpoint.to_string();
            let sql = "UPDATE deliveries SET state = ?3 WHERE push = ?1 AND endpoint = ?2";
            assert_eq!(begun.execute(sql, params![push, endpoint, state]).unwrap(), 1);
            meant.push(Meant {
                push,
                endpoint,
                repository: taken.repository,
                state,
                taken_at: taken.is_timed.then_some(clock),
            });
        }
    }
    begun.commit().unwrap();
    meant.sort_by_key(|one| (Reverse(one.push), one.endpoint.clone()));
    meant
}

/// Looks at every delivery.
fn naive(all: &[Meant], filter: &DeliveryFilter) -> Vec<Meant> {
    let is_given = |given: &Option<String>, value: &str| given.as_deref().is_none_or(|given| given == value);
    let is_meant = |one: &&Meant| {
        let is_since = |since: Timestamp| one.taken_at.is_some_and(|at| at >= since.unix_millis());
        let is_before = |until: Timestamp| one.taken_at.is_some_and(|at| at < until.unix_millis());
        let is_among = |among: &Vec<String>| among.iter().any(|name| name == one.repository);
        is_given(&filter.repository, one.repository)
            && (filter.repository.is_some() || filter.among.as_ref().is_none_or(is_among))
            && is_given(&filter.endpoint, &one.endpoint)
            && is_given(&filter.state, one.state)
            && filter.since.is_none_or(is_since)
            && filter.until.is_none_or(is_before)
    };
    all.iter().filter(is_meant).cloned().collect()
}

/// Page by page, to the end.
fn paged(reader: &Reader, filter: &DeliveryFilter, limit: usize) -> Vec<ListedDelivery> {
    let (mut all, mut after) = (Vec::<ListedDelivery>::new(), None);
    loop {
        let page = reader.deliveries(filter, after.as_ref(), limit).unwrap();
        assert!(page.len() <= limit);
        let is_end = page.len() < limit;
        after = page.last().map(|last| last.place.clone()).or(after);
        all.extend(page);
        if is_end {
            return all;
        }
    }
}

fn agree(reader: &Reader, all: &[Meant], filter: &DeliveryFilter, limit: usize) -> Result<(), TestCaseError> {
    let found: Vec<_> = paged(reader, filter, limit)
        .into_iter()
        .map(|one| (one.place, one.repository, one.state, one.taken_at))
        .collect();
    let meant: Vec<_> = naive(all, filter)
        .into_iter()
        .map(|one| {
            let (push, endpoint) = (one.push, one.endpoint);
            let taken_at = one.taken_at.map(Timestamp::from_unix_millis);
            let (repository, state) = (one.repository.to_owned(), one.state.to_owned());
            (DeliveryPlace { push, endpoint }, repository, state, taken_at)
        })
        .collect();
    prop_assert_eq!(found, meant, "{:?} by {}", filter, limit);
    Ok(())
}

/// Makes it a file of version 3, as that version would have it.
pub(super) fn step_back(file: &Path) {
    let connection = Connection::open(file).unwrap();
    connection
        .execute_batch(
            "DROP TABLE overflow; DROP TABLE spans; DROP INDEX deliveries_by_repository; DROP INDEX deliveries_by_endpoint;
             ALTER TABLE deliveries DROP COLUMN repository;
             CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint, push);
             PRAGMA user_version = 3;",
        )
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_filter_finds_what_a_look_at_every_delivery_finds_in_that_order_page_by_page(
        all in vec(taken(), 0..60),
        asked in vec((filter(), 1..9_usize), 24),
    ) {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join(FILE);
        let mut store = Store::open(&file, 1 << 20).unwrap();
        let all = write(&mut store, &all);
        let reader = Reader::open(&file).unwrap();
        for (filter, limit) in &asked {
            agree(&reader, &all, filter, *limit)?;
        }
        let pruned = all.len() / 3;
        let (all, oldest) = all.split_at(all.len() - pruned);
        let gone = oldest.iter().map(|one| one.push).filter(|push| all.iter().all(|one| one.push != *push));
        for push in gone {
            for sql in ["DELETE FROM deliveries WHERE push = ?1", "DELETE FROM pushes WHERE id = ?1"] {
                store.connection.execute(sql, [push]).unwrap();
            }
        }
        let is_there = |one: &&Meant| all.iter().any(|left| left.push == one.push);
        let all: Vec<_> = all.iter().chain(oldest.iter().filter(is_there)).cloned().collect();
        spans::prune(&store.connection).unwrap();
        for (filter, limit) in &asked {
            agree(&reader, &all, filter, *limit)?;
        }
        drop((reader, store));
        step_back(&file);
        let reader = Reader::open(&file).unwrap();
        for (filter, limit) in asked.iter().take(4) {
            agree(&reader, &all, filter, *limit)?;
        }
        drop(reader);
        drop(Store::open(&file, 1 << 20).unwrap());
        let reader = Reader::open(&file).unwrap();
        for (filter, limit) in &asked {
            agree(&reader, &all, filter, *limit)?;
        }
    }
}

#[test]
fn no_combination_of_filters_is_found_by_a_look_at_every_row() {
    let folder = TempDir::new().unwrap();
    let mut store = Store::open(&folder.path().join(FILE), 1 << 20).unwrap();
    write(
        &mut store,
        &[Taken {
            journal: 1,
            behind: 1,
            repository: "mono",
            set: 0,
            is_timed: true,
            states: vec![(ci(), "delivered")],
        }],
    );
    let after = DeliveryPlace {
        push: i64::MAX,
        endpoint: "ci".to_owned(),
    };
    for combination in 0..64_u32 {
        let is_given = |bit: u32| combination & (1 << bit) != 0;
        let text = |bit: u32, text: &str| is_given(bit).then(|| text.to_owned());
        let moment = |bit: u32, ms: i64| is_given(bit).then(|| Timestamp::from_unix_millis(ms));
        let filter = DeliveryFilter {
            repository: text(0, "mono"),
            among: is_given(5).then(|| vec!["acme/app".to_owned(), "mono".to_owned()]),
            endpoint: text(1, "ci"),
            state: text(2, "delivered"),
            since: moment(3, 0),
            until: moment(4, i64::MAX),
        };
        let walk = Walk::new(&store.connection, "deliveries.reason", true, &filter).unwrap();
        let plans = walk.plans(&after);
        assert!(!plans.is_empty());
        for (values, steps) in plans {
            let is_sorted =
                |step: &String| !step.contains("TEMP B-TREE") || step.ends_with("FOR LAST TERM OF ORDER BY");
            assert!(steps.iter().all(is_sorted), "{filter:?}: {steps:#?}");
            assert!(
                !steps.iter().any(|step| step.contains("SCAN")),
                "{filter:?}: {steps:#?}"
            );
            // Each value that is given narrows the search, and so does the number, from both sides.
            let first = &steps[0];
            assert_eq!(first.matches("=?").count(), values, "{filter:?}: {steps:#?}");
            let is_narrow = first.contains("push>? AND push<?") || first.contains("id>? AND id<?");
            assert!(is_narrow, "{filter:?}: {steps:#?}");
        }
    }
}

#[test]
fn the_repositories_that_somebody_may_see_are_found_by_how_their_names_begin() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join(FILE);
    let store = Store::open(&file, 1 << 20).unwrap();
    let origin = Origin {
        journal: JournalId([7; 16]),
        number: 1,
    };
    for number in 0..40 {
        for name in ["acme/app", "acme/lib", "mono"] {
            let known = format!("{name}{number}");
            gathered::write(&store.connection, origin, &[Entry::Known(&known)]).unwrap();
        }
    }
    let reader = Reader::open(&file).unwrap();
    let names = |patterns: &[&str], most| {
        let globs: Vec<_> = (patterns.iter())
            .map(|pattern| crate::glob::parse(pattern).unwrap())
            .collect();
        let seen = Seen(vec![Arc::new(Patterns::new(&globs).unwrap())]);
        reader.names(&seen, most).unwrap()
    };
    let found = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(names(&["acme/app7"], 32), found(&["acme/app7"]));
    assert_eq!(
        names(&["acme/app3?", "mono1", "acme/app31"], 32).unwrap().len(),
        11
    );
    assert_eq!(names(&["**/lib7"], 32), found(&["acme/lib7"]));
    assert_eq!(names(&["acme/app*"], 40).unwrap().len(), 40);
    assert_eq!(names(&["acme/app*"], 39), None, "they are too many");
    assert_eq!(names(&["nobodys/**"], 32), found(&[]));
}

#[test]
fn the_named_repositories_are_listed_as_a_walk_through_all_lists_them() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join(FILE);
    let store = Store::open(&file, 1 << 20).unwrap();
    // Many have the same value, and some have none.
    let sql = "INSERT INTO repositories WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 60) \
               SELECT 'team' || (n % 3) || '/app' || n, iif(n % 5, n * 7 % 8, NULL), '', 0, iif(n % 4, n * 5 % 6, NULL), 0 FROM n";
    store.connection.execute(sql, ()).unwrap();
    let reader = Reader::open(&file).unwrap();
    let is_named = |name: &str| name.starts_with("team1/") || name.ends_with('7');
    let orders = [
        RepositoryOrder::Name,
        RepositoryOrder::LastPush,
        RepositoryOrder::Size,
    ];
    let walk = |part: &str, order, after: Option<&RepositoryPlace>| {
        let mut found = Vec::new();
        let take = |listed| {
            found.push(listed);
            ControlFlow::Continue(())
        };
        reader.repositories(part, order, after, usize::MAX, take).unwrap();
        found.retain(|listed| is_named(&listed.name));
        found
    };
    let all = walk("", RepositoryOrder::Name, None);
    assert_eq!(all.len(), 24);
    let others = ["team1/gone", "team1/never"].map(str::to_owned);
    let names: Vec<_> = all
        .iter()
        .map(|listed| listed.name.clone())
        .chain(others)
        .collect();
    for (order, part) in orders
        .into_iter()
        .flat_map(|order| [(order, ""), (order, "app1")])
    {
        let whole = walk(part, order, None);
        let places = whole.iter().map(|listed| Some(listed.place(order)));
        for after in [None].into_iter().chain(places) {
            let found = reader
                .repositories_among(&names, part, order, after.as_ref())
                .unwrap();
            assert_eq!(
                found,
                walk(part, order, after.as_ref()),
                "{order:?} {part} {after:?}"
            );
        }
    }
}

#[test]
fn a_time_is_looked_for_only_where_it_can_be() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(&folder.path().join(FILE), 1 << 20).unwrap();
    let begun = store.connection.unchecked_transaction().unwrap();
    let mut noted = Spans::default();
    // A push a second, of which some are told; in the second journal, the clock goes back by an hour once.
    for number in (0..100 * 1_024).filter(|number| number % 32 == 0 || number % 1_024 == 1_023) {
        noted.note(1 << 44 | number, number * 1_000);
        let set = if number < 50 * 1_024 { 0 } else { 3_600 };
        let at = Timestamp::from_unix_millis((200_000 + number - set) * 1_000);
        noted.note(2 << 44 | number, at.unix_millis());
    }
    noted.write(&begun).unwrap();
    let ranges = |since: i64, until: i64| {
        let between = Between {
            since: since * 1_000,
            until: until * 1_000,
        };
        let found = spans::ranges(&begun, between).unwrap();
        let blocks = |range: std::ops::RangeInclusive<i64>| {
            let block = |push: i64| (push >> 44, (push & ((1 << 44) - 1)) >> 10);
            (block(*range.start()), block(*range.end()))
        };
        found.into_iter().map(blocks).collect::<Vec<_>>()
    };
    assert_eq!(ranges(0, 1_024), [((1, 0), (1, 0))]);
    assert_eq!(ranges(1_023, 2_049), [((1, 0), (1, 2))]);
    assert_eq!(ranges(150_000, 160_000), []);
    assert_eq!(
        ranges(i64::MIN / 1_000, i64::MAX / 1_000),
        [((2, 0), (2, 99)), ((1, 0), (1, 99))]
    );
    assert_eq!(
        ranges(200_000 + 49 * 1_024, 200_000 + 49 * 1_024 + 1),
        [((2, 52), (2, 52)), ((2, 49), (2, 49))],
        "of both times that the clock showed it"
    );
}

#[test]
fn what_an_index_is_sorted_in_goes_beside_the_file() {
    let stage = Stage::new(ROOMY);
    let store = Store::open(&stage.file(), 1 << 20).unwrap();
    let folder: String = store
        .connection
        .pragma_query_value(None, "temp_store_directory", |row| row.get(0))
        .unwrap();
    assert_eq!(Path::new(&folder), stage.file().parent().unwrap());
}
