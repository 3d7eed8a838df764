//! The lines of what waits to be sent again.

use super::*;

fn items(endpoint: &str, numbers: std::ops::RangeInclusive<u64>) -> Vec<(EndpointId, Place)> {
    let id = EndpointId::Named(endpoint.into());
    numbers
        .map(|number| (id.clone(), (true, Sequence::new(number).unwrap(), [7; 16])))
        .collect()
}

#[test]
fn so_many_wait_of_all_together_and_a_set_that_has_no_room_is_refused_whole() {
    let (again, ci) = (Again::default(), EndpointId::Named("ci".into()));
    let begun = again
        .add(items("ci", 1..=9_998), Order::KeepNewest, Authority::Endpoint)
        .unwrap();
    assert_eq!(begun, std::slice::from_ref(&ci));
    let refused = again
        .add(items("other", 1..=3), Order::KeepNewest, Authority::Endpoint)
        .unwrap_err();
    assert!(
        matches!(refused, SendAgainError::Full { waiting: 9_998 }),
        "{refused}"
    );
    assert!(again.first(&EndpointId::Named("other".into())).is_none());
    let theirs = again.add(
        items("theirs", 1..=10_000),
        Order::KeepNewest,
        Authority::Repositories,
    );
    assert_eq!(theirs.unwrap().len(), 1, "of whom nobody else has less room");
    let refused = again.add(
        items("theirs", 10_001..=10_001),
        Order::KeepNewest,
        Authority::Repositories,
    );
    assert!(
        matches!(refused, Err(SendAgainError::Full { waiting: 10_000 })),
        "{refused:?}"
    );
    let (place, _) = again.first(&ci).unwrap();
    assert_eq!(place.1.get(), 1, "in the order of their pushes");
    again.done(&ci, &place);
    assert_eq!(again.first(&ci).unwrap().0.1.get(), 2);
    assert_eq!(
        again
            .add(items("other", 1..=3), Order::Force, Authority::Endpoint)
            .unwrap()
            .len(),
        1
    );
    assert_eq!(again.end(&ci), 9_997);
}

#[test]
fn a_line_that_is_empty_has_ended_and_the_next_begins_another() {
    let (again, ci) = (Again::default(), EndpointId::Named("ci".into()));
    assert_eq!(
        again
            .add(items("ci", 5..=5), Order::KeepNewest, Authority::Endpoint)
            .unwrap()
            .len(),
        1
    );
    assert!(
        again
            .add(items("ci", 3..=3), Order::Force, Authority::Endpoint)
            .unwrap()
            .is_empty(),
        "it has a task"
    );
    let (place, (order, _)) = again.first(&ci).unwrap();
    assert_eq!(
        (place.1.get(), order),
        (3, Order::Force),
        "an older push goes first"
    );
    again.done(&ci, &place);
    let (place, _) = again.first(&ci).unwrap();
    again.done(&ci, &place);
    assert!(again.first(&ci).is_none());
    assert_eq!(
        again
            .add(items("ci", 6..=6), Order::Force, Authority::Endpoint)
            .unwrap()
            .len(),
        1
    );
}
