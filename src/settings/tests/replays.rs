//! Which letters are sent again, and in which order.

use super::{
    letters::{JOURNAL, found, letter, opened, sequence},
    *,
};
use crate::journal::JournalId;

fn mark(settings: &Settings, ids: &[i64], order: Order) -> u64 {
    let marks: Vec<_> = (ids.iter())
        .map(|id| {
            let kept = settings.letter(*id).unwrap();
            kept.map_or_else(
                || Mark {
                    id: *id,
                    endpoint: named("ci"),
                    place: 0,
                },
                |kept| Mark::of(*id, &kept.letter, JOURNAL),
            )
        })
        .collect();
    settings.mark_letters(&marks, order).unwrap()
}

/// The next letter to `ci` by its push, and how it goes.
fn next(settings: &Settings) -> Option<(u64, i64, Order)> {
    let next = settings.next_replay(&named("ci")).unwrap();
    next.map(|(kept, order)| (kept.letter.sequence.get(), kept.id, order))
}

#[test]
fn marks_survive_a_restart_and_letters_go_in_the_order_of_their_pushes() {
    let (folder, settings) = opened();
    let mut foreign = letter(9, "ci", "acme/app", "9");
    foreign.journal = JournalId([3; 16]);
    settings
        .put_letters(&[
            letter(5, "ci", "acme/app", "5"),
            letter(2, "ci", "acme/app", "2"),
            letter(1, "scan", "acme/app", "1"),
            foreign,
            letter(3, "ci", "acme/app", "3"),
        ])
        .unwrap();
    assert_eq!(mark(&settings, &[1, 2, 4], Order::KeepNewest), 3);
    assert_eq!(
        mark(&settings, &[2, 3, 77], Order::Force),
        1,
        "one is marked, one unknown"
    );
    assert_eq!(settings.letter_stats().replaying, 4);
    drop(settings);
    let settings = Settings::open(&folder.path().join(FILE)).unwrap();
    assert_eq!(settings.letter_stats().replaying, 4);
    let mut endpoints = settings.replaying_endpoints().unwrap();
    endpoints.sort();
    assert_eq!(endpoints, [named("ci"), named("scan")]);
    assert_eq!(settings.letter(1).unwrap().unwrap().state, LetterState::Replaying);
    assert_eq!(settings.letter(5).unwrap().unwrap().state, LetterState::Dead);
    let (_, order) = settings.next_replay(&named("scan")).unwrap().unwrap();
    assert_eq!(order, Order::Force);

    // What another journal took was before.
    assert_eq!(next(&settings), Some((9, 4, Order::KeepNewest)));
    settings.letter_delivered(4).unwrap();
    assert_eq!(next(&settings), Some((2, 2, Order::KeepNewest)));
    settings
        .letter_tried(2, "answered 503 Service Unavailable", moment(600))
        .unwrap();
    assert_eq!(
        next(&settings),
        Some((2, 2, Order::KeepNewest)),
        "it is still first"
    );
    settings
        .letter_failed(2, "answered 400 Bad Request", moment(700))
        .unwrap();
    let failed = settings.letter(2).unwrap().unwrap();
    assert_eq!(failed.state, LetterState::Dead);
    assert_eq!(failed.letter.reason, "answered 400 Bad Request");
    assert_eq!(
        (failed.letter.attempts, failed.letter.died_at),
        (Some(5), moment(700))
    );
    assert_eq!(next(&settings), Some((5, 1, Order::KeepNewest)));
    settings.unmark_letter(1).unwrap();
    assert_eq!(next(&settings), None);
    assert_eq!(found(&settings, &LetterFilter::default()).len(), 4);
    let stats = settings.letter_stats();
    assert_eq!((stats.letters, stats.replaying), (4, 1));
}

#[test]
fn a_letter_that_goes_takes_its_mark_along() {
    let (_folder, settings) = opened();
    let letters: Vec<_> = (1..=4)
        .map(|number| letter(number, "ci", "acme/app", "1"))
        .collect();
    settings.put_letters(&letters).unwrap();
    mark(&settings, &[1, 2, 3, 4], Order::KeepNewest);
    assert_eq!(settings.remove_letters(&[1, 1, 99]).unwrap(), 1);
    settings.put_letters(&letters[1..2]).unwrap();
    let bounds = LetterBounds {
        age_max: Duration::from_millis(0),
        bytes_max: u64::MAX,
    };
    assert_eq!(settings.prune_letters(&bounds, 0, moment(4)).unwrap(), 2);
    let stats = settings.letter_stats();
    assert_eq!((stats.letters, stats.replaying), (1, 1));
    assert_eq!(next(&settings), Some((4, 4, Order::KeepNewest)));
}

#[test]
fn a_newer_letter_of_the_same_tag_and_endpoint_is_known_of() {
    let (_folder, settings) = opened();
    let old = letter(1, "ci", "acme/app", "1.4");
    let others = [
        letter(2, "scan", "acme/app", "1.4"),
        letter(3, "ci", "acme/web", "1.4"),
        letter(4, "ci", "acme/app", "1.5"),
        letter(5, "ci", "acme/app", ""),
    ];
    settings.put_letters(&others).unwrap();
    settings.put_letters(std::slice::from_ref(&old)).unwrap();
    assert!(!settings.has_newer_letter(&old).unwrap());
    let new = letter(6, "ci", "acme/app", "1.4");
    settings.put_letters(std::slice::from_ref(&new)).unwrap();
    assert!(settings.has_newer_letter(&old).unwrap());
    assert!(!settings.has_newer_letter(&new).unwrap());
    let untagged = letter(4, "ci", "acme/app", "");
    assert!(!settings.has_newer_letter(&untagged).unwrap());
    // Another journal's numbers say nothing; its clock does.
    let mut foreign = letter(1_000, "ci", "acme/app", "1.4");
    foreign.journal = JournalId([3; 16]);
    foreign.taken_at = new.taken_at.before(Duration::from_secs(1));
    assert!(settings.has_newer_letter(&foreign).unwrap());
    foreign.taken_at = new.taken_at.after(Duration::from_secs(1));
    assert!(!settings.has_newer_letter(&foreign).unwrap());
    assert_eq!(
        settings.newest_letters(JOURNAL, 2).unwrap(),
        [(sequence(6), named("ci"), 6), (sequence(1), named("ci"), 5)]
    );
}
