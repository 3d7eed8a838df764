//! A batch leaves in the tables what its entries would leave there one by one.

use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::TestRunner};
use rusqlite::{Connection, types::Value};

use super::{
    super::{
        entry::{Attempted, Changed, DroppedPush, End, Entry, Kept, Place, Sent, Taken},
        gathered::write_batch,
        rows::Origin,
        store::Store,
    },
    *,
};
use crate::push::NOBODY_OWES;

mod statements;

const ENDPOINTS: [&str; 3] = ["ci", "audit", "repository:acme/app"];
const REPOSITORIES: [&str; 3] = ["acme/app", "acme/db", "mono"];
const TAGS: [&str; 3] = ["", "1", "2"];
const LOG_BYTES_MAX: u64 = 1 << 20;

/// What was told, and of which journal.
type Told = (i64, Vec<Entry<'static>>);

/// Few, in two blocks, and one that is beyond all there can be.
fn sequences() -> impl Strategy<Value = u64> {
    prop_oneof![30 => 1_u64..6, 8 => 1_023_u64..1_026, 1 => Just(0), 1 => Just(1 << 44)]
}

fn place() -> impl Strategy<Value = Place<'static>> {
    (
        sequences(),
        select(&ENDPOINTS),
        select(&REPOSITORIES),
        select(&TAGS),
    )
        .prop_map(|(sequence, endpoint, repository, tag)| Place {
            sequence,
            endpoint,
            repository,
            tag,
        })
}

/// Clocks go back, too, and before 1970.
fn at() -> impl Strategy<Value = i64> {
    -3_i64..30
}

fn taken() -> impl Strategy<Value = Entry<'static>> {
    let texts = (select(&["d1", "d2"]), select(&["", "e1", "e2"]));
    let owed = vec(select(&ENDPOINTS), 0..4);
    (place(), texts, 0_u64..3, at(), owed).prop_map(|(place, (digest, event_id), manifest_size, at, owed)| {
        Entry::Taken(Taken {
            sequence: place.sequence,
            repository: place.repository,
            tag: place.tag,
            digest,
            media_type: "image",
            manifest_size,
            listed: 3,
            at,
            event_id,
            actor: "alice",
            owed,
        })
    })
}

/// The same push, told by a start.
fn restored(taken: Entry<'static>) -> Entry<'static> {
    match taken {
        Entry::Taken(taken) => Entry::Restored(taken),
        other => other,
    }
}

fn dropped() -> impl Strategy<Value = Entry<'static>> {
    (place(), select(&[NOBODY_OWES, "untagged"]), at()).prop_map(|(place, rule, at)| {
        Entry::Dropped(DroppedPush {
            at,
            rule,
            repository: place.repository,
            tag: place.tag,
            digest: "d1",
            event_id: "e1",
            actor: "",
        })
    })
}

fn attempted() -> impl Strategy<Value = Attempted<'static>> {
    let sizes = (option::of(0_u64..3), 0_u64..3, option::of(0_u64..3));
    let sent = option::of((select(&["u1", "u2"]), select(vec![&b"b1"[..], b""])));
    (
        select(&["d1", "d3"]),
        sizes,
        at(),
        option::of(select(&[200_u16, 503])),
        sent,
    )
        .prop_map(
            |(digest, (image_size, layers, repository_size), at, status, sent)| Attempted {
                digest,
                image_size,
                layers,
                repository_size,
                at,
                elapsed_us: 12,
                status,
                fault: status.map(|_| "endpoint"),
                reason: status.map(|_| "answered"),
                sent: sent.map(|(url, first)| Sent {
                    url,
                    headers: "h",
                    body: Kept { first, bytes: 9 },
                }),
                answer: status.map(|_| Kept {
                    first: b"a",
                    bytes: 1,
                }),
            },
        )
}

fn end() -> impl Strategy<Value = End<'static>> {
    let how = select(&["delivered", "superseded", "dead_letter"]);
    (how, option::of(select(&["r1", "r2"])), at()).prop_map(|(how, reason, at)| End { how, reason, at })
}

fn changed() -> impl Strategy<Value = Entry<'static>> {
    (select(&ENDPOINTS), at()).prop_map(|(endpoint, at)| {
        Entry::Changed(Changed {
            endpoint,
            at,
            before: "healthy",
            after: "failing",
            failures: 1,
            reason: "r1",
        })
    })
}

/// A delivery as it is told of when all goes well, and when it does not.
fn delivery() -> impl Strategy<Value = Vec<Entry<'static>>> {
    (
        taken(),
        place(),
        vec((attempted(), option::of(at())), 1..4),
        option::of(end()),
    )
        .prop_map(|(taken, mut place, attempts, end)| {
            if let Entry::Taken(taken) = &taken {
                (place.sequence, place.repository) = (taken.sequence, taken.repository);
                place.endpoint = taken.owed.first().unwrap_or(&place.endpoint);
            }
            let mut all = vec![taken];
            for (attempted, waits) in attempts {
                all.push(Entry::Attempted(place, attempted));
                all.extend(waits.map(|at| Entry::Waits(place, at)));
            }
            all.extend(end.map(|end| Entry::Ended(place, end)));
            all
        })
}

/// More attempts than are kept.
fn endless() -> impl Strategy<Value = Vec<Entry<'static>>> {
    (place(), 85_u64..125).prop_map(|(place, count)| {
        let attempt = |number: u64| {
            let attempted = Attempted {
                digest: "d1",
                image_size: None,
                layers: 0,
                repository_size: Some(number % 3),
                at: 1,
                elapsed_us: number,
                status: None,
                fault: None,
                reason: None,
                sent: None,
                answer: None,
            };
            Entry::Attempted(place, attempted)
        };
        (0..count).map(attempt).collect()
    })
}

fn some() -> impl Strategy<Value = Vec<Entry<'static>>> {
    let one = prop_oneof![
        4 => taken(),
        2 => taken().prop_map(restored),
        1 => dropped(),
        4 => (place(), attempted()).prop_map(|(place, attempted)| Entry::Attempted(place, attempted)),
        3 => (place(), at()).prop_map(|(place, at)| Entry::Waits(place, at)),
        3 => (place(), end()).prop_map(|(place, end)| Entry::Ended(place, end)),
        2 => (place(), end()).prop_map(|(place, end)| Entry::Settled(place, end.how)),
        2 => (sequences(), select(&ENDPOINTS), end())
            .prop_map(|(sequence, endpoint, end)| Entry::Buried(sequence, endpoint, end)),
        1 => select(&REPOSITORIES).prop_map(Entry::Known),
        1 => (select(&REPOSITORIES), 0_u64..3, at()).prop_map(|(name, size, at)| Entry::Sized(name, size, at)),
        1 => changed(),
    ];
    prop_oneof![
        40 => one.prop_map(|one| vec![one]),
        10 => delivery(),
        1 => endless(),
    ]
}

fn batches() -> impl Strategy<Value = Vec<Told>> {
    let batch = vec(some(), 0..25).prop_map(|some| some.into_iter().flatten().collect());
    vec((1_i64..3, batch), 1..5)
}

fn origin(number: i64) -> Origin {
    Origin {
        journal: JournalId([u8::try_from(number).unwrap(); 16]),
        number,
    }
}

/// Every row of every table.
fn all(connection: &Connection) -> Vec<(String, Vec<Vec<Value>>)> {
    let mut tables = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .unwrap();
    let names = tables.query_map([], |row| row.get(0)).unwrap();
    let rows = |name: String| {
        let mut statement = connection
            .prepare(&format!("SELECT * FROM {name} ORDER BY 1, 2"))
            .unwrap();
        let columns = statement.column_count();
        let rows = statement
            .query_map([], |row| (0..columns).map(|column| row.get(column)).collect())
            .unwrap();
        (name, rows.map(Result::unwrap).collect())
    };
    names.map(|name| rows(name.unwrap())).collect()
}

fn is_sound(connection: &Connection) {
    let found: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(found, "ok");
    let mut check = connection.prepare("PRAGMA foreign_key_check").unwrap();
    assert!(check.query([]).unwrap().next().unwrap().is_none());
}

#[test]
fn a_batch_leaves_what_its_entries_leave_one_by_one() {
    let folder = TempDir::new().unwrap();
    let empty = folder.path().join("empty");
    Store::open(&empty, LOG_BYTES_MAX).unwrap().checkpoint().unwrap();
    let open = |name: &str| {
        let file = folder.path().join(name);
        fs::copy(&empty, &file).unwrap();
        let store = Store::open(&file, LOG_BYTES_MAX).unwrap();
        // Nothing here outlives the test: no disk is waited for.
        store
            .connection
            .pragma_update(None, "synchronous", "OFF")
            .unwrap();
        store
    };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(200));
    let tested = runner.run(&batches(), |batches| {
        let (mut store, oracle) = (open("batches"), open("entries"));
        for (journal, entries) in &batches {
            let origin = origin(*journal);
            let rows = write_batch(&mut store, origin, entries, None, LOG_BYTES_MAX).unwrap();
            let begun = oracle.connection.unchecked_transaction().unwrap();
            let one = |entry| statements::write(&begun, origin, entry).unwrap();
            let meant: u64 = entries.iter().map(one).sum();
            begun.commit().unwrap();
            prop_assert_eq!(rows, meant);
        }
        prop_assert_eq!(all(&store.connection), all(&oracle.connection));
        is_sound(&store.connection);
        Ok(())
    });
    tested.unwrap();
}

#[test]
fn a_webhook_that_is_tried_again_does_not_undo_what_was_found_since() {
    let folder = TempDir::new().unwrap();
    let mut store = Store::open(&folder.path().join("history"), LOG_BYTES_MAX).unwrap();
    let place = Place {
        sequence: 1,
        endpoint: "ci",
        repository: "acme/app",
        tag: "1",
    };
    let attempt = |size, at| {
        let attempted = Attempted {
            digest: "d1",
            image_size: None,
            layers: 0,
            repository_size: Some(size),
            at,
            elapsed_us: 1,
            status: Some(503),
            fault: None,
            reason: None,
            sent: None,
            answer: None,
        };
        Entry::Attempted(place, attempted)
    };
    let mut shown = |entries: &[Entry<'static>]| {
        write_batch(&mut store, origin(1), entries, None, LOG_BYTES_MAX).unwrap();
        let sql = "SELECT size, sized_at FROM repositories WHERE name = 'acme/app'";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let found: (i64, i64) = store.connection.query_row(sql, [], row).unwrap();
        found
    };
    assert_eq!(shown(&[attempt(70, 1)]), (70, 1));
    // Something was deleted.
    assert_eq!(shown(&[Entry::Sized("acme/app", 50, 2)]), (50, 2));
    assert_eq!(shown(&[attempt(70, 3)]), (50, 2), "that of the first attempt");
    assert_eq!(shown(&[attempt(90, 4)]), (90, 4), "it was found anew");
    let at_once = [Entry::Sized("acme/app", 60, 5), attempt(90, 6)];
    assert_eq!(shown(&at_once), (60, 5), "nor in one batch");
}
