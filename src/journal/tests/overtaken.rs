//! What is owed of a lane that delivered newer ones is handed over as what had been given up.

use super::*;

/// What is handed over, a sequence number, an endpoint's name and whether it is overtaken for each pair.
fn handed(storage: &Arc<Faulty>) -> Vec<(u64, String, bool)> {
    let storage: Arc<dyn Storage> = Arc::<Faulty>::clone(storage);
    let opened = recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand).unwrap();
    let mut takers = [Vec::new()];
    let handed_over = opened.notes.hand_over(&opened.journal, &mut takers, |all, run| {
        for push in run.pushes {
            let pairs = run.owed.iter();
            let number = push.sequence.get();
            all.extend(pairs.map(|(_, endpoint)| (number, endpoint.to_string(), run.is_overtaken)));
        }
    });
    handed_over.unwrap();
    let [mut all] = takers;
    all.sort();
    all
}

fn push_of(repository: &str, owed: &[&str]) -> Item {
    Item::Push(Push {
        repository: repository.parse().unwrap(),
        owed: owed
            .iter()
            .map(|name| EndpointId::Named((*name).into()))
            .collect(),
        ..push(1)
    })
}

fn said(expected: &[(u64, &str, bool)]) -> Vec<(u64, String, bool)> {
    let said = expected.iter();
    said.map(|(number, endpoint, is)| (*number, (*endpoint).to_owned(), *is))
        .collect()
}

/// Appends, settles, closes; each push has an event id of its own.
fn settled(items: Vec<Item>, settlements: &[(u64, u16, Settlement)]) -> Arc<Faulty> {
    let storage = Faulty::new();
    let mut hand = open(&storage);
    for (number, mut item) in items.into_iter().enumerate() {
        if let Item::Push(push) = &mut item {
            push.event_id = format!("event-{number}");
        }
        hand.append(vec![item]).unwrap();
    }
    let settlements = settlements.iter().map(|(number, place, how)| {
        let sequence = Sequence::new(*number).unwrap();
        let place = *place;
        (Pair { sequence, place }, *how)
    });
    drop(hand.journal.settle(settlements));
    hand.close();
    storage
}

#[test]
fn an_older_push_of_a_lane_that_delivered_a_newer_one_is_overtaken_and_no_other_is() {
    use Settlement::Delivered;
    let items = vec![
        push_of("acme/app", &["ci", "cd"]),
        push_of("acme/other", &["ci"]),
        push_of("acme/app", &["cd", "ci"]),
        push_of("acme/app", &["ci"]),
    ];
    let storage = settled(items, &[(3, 1, Delivered)]);
    let expected = said(&[
        (1, "cd", false),
        (1, "ci", true),
        (2, "ci", false),
        (3, "cd", false),
        (4, "ci", false),
    ]);
    for _ in 0..2 {
        assert_eq!(handed(&storage.after_power_loss()), expected);
        // A second start reads the settlement where the first one committed it.
        assert_eq!(handed(&storage), expected);
    }
}

#[test]
fn how_the_newer_one_ended_otherwise_says_nothing() {
    for how in [Settlement::Superseded, Settlement::DeadLetter] {
        let items = vec![push_of("acme/app", &["ci"]), push_of("acme/app", &["ci"])];
        let storage = settled(items, &[(2, 0, how)]);
        assert_eq!(handed(&storage), said(&[(1, "ci", false)]), "{how:?}");
    }
}

#[test]
fn many_pushes_and_places_are_told_apart() {
    let names: Vec<String> = (0..70).map(|number| format!("e{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let items = (0..200).map(|_| push_of("acme/app", &names)).collect();
    let newest = [(150, 65, Settlement::Delivered), (3, 2, Settlement::Delivered)];
    let storage = settled(items, &newest);
    for (number, endpoint, is_overtaken) in handed(&storage) {
        let is = match &*endpoint {
            "e65" => number < 150,
            "e2" => number < 3,
            _ => false,
        };
        assert_eq!(is_overtaken, is, "{number} {endpoint}");
    }
}

#[test]
fn the_newest_that_were_delivered_are_known_by_tag_and_to_whom() {
    let lately = |items: Vec<Item>, settlements: &[(u64, u16, Settlement)], count| {
        let storage: Arc<dyn Storage> = settled(items, settlements);
        let opened = recovery::open(&storage, OPTIONS, clock(), Filling::OnDemand).unwrap();
        let delivered = opened.notes.delivered_lately(count).into_iter();
        delivered
            .map(|one| format!("{} {}:{} {}", one.sequence, one.repository, one.tag, one.endpoint))
            .collect::<Vec<_>>()
    };
    let (app, web) = (
        || push_of("acme/app", &["a", "b"]),
        || push_of("acme/web", &["a"]),
    );
    let delivered = Settlement::Delivered;
    assert_eq!(lately(vec![app(), web()], &[], 10), [""; 0]);
    let ends = [
        (1, 1, delivered),
        (2, 0, Settlement::DeadLetter),
        (3, 0, delivered),
    ];
    assert_eq!(
        lately(vec![app(), web(), web()], &ends, 10),
        ["1 acme/app:v1 b", "3 acme/web:v1 a"]
    );
    // Some more than were asked for: the numbers of 64 pushes are counted together.
    let many: Vec<Item> = (0..200).map(|_| web()).collect();
    let all: Vec<_> = (1..=200).map(|number| (number, 0, delivered)).collect();
    let newest = lately(many, &all, 10);
    assert_eq!(
        (newest.len(), newest.last().unwrap().as_str()),
        (73, "200 acme/web:v1 a")
    );
}
