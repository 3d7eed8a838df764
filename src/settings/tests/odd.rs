//! Letters that can't be read: the others are found, counted, sent again and let go of without them.

use globset::Glob;

use super::{
    letters::{JOURNAL, found, letter, opened},
    *,
};

/// Six letters of one endpoint, of which the second and the fifth can't be read.
fn with_two_odd_ones(spoil: [&str; 2]) -> (tempfile::TempDir, Settings) {
    let (folder, settings) = opened();
    let letters: Vec<_> = (1..=6)
        .map(|number| letter(number, "ci", &format!("acme/app{number}"), "1"))
        .collect();
    settings.put_letters(&letters).unwrap();
    let marks: Vec<_> = (1..=6)
        .map(|id| Mark {
            id,
            endpoint: named("ci"),
            place: id,
        })
        .collect();
    assert_eq!(settings.mark_letters(&marks, Order::Force).unwrap(), 6);
    for (id, spoil) in [2, 5].into_iter().zip(spoil) {
        let sql = format!("UPDATE dead_letters SET {spoil} WHERE id = {id}");
        assert_eq!(settings.connection().execute(&sql, ()).unwrap(), 1, "{spoil}");
    }
    drop(settings);
    let settings = Settings::open(&folder.path().join(FILE)).unwrap();
    (folder, settings)
}

/// What no version writes, into each column that is read as something.
const SPOILS: [[&str; 2]; 4] = [
    ["digest = 'sha256:short'", "endpoint = 'repository:No Name!'"],
    ["repository = 'No Name!'", "repository = CAST(x'61ff' AS TEXT)"],
    ["sequence = -7", "journal = 'no number'"],
    ["media_type = 'text/plain'", "listed = '{'"],
];

#[test]
fn the_others_are_listed_in_pages_and_by_any_filter() {
    for spoil in SPOILS {
        let (_folder, settings) = with_two_odd_ones(spoil);
        let glob = |glob: &str| Some(Glob::new(glob).unwrap().compile_matcher());
        let all = LetterFilter::default;
        for filter in [
            all(),
            LetterFilter {
                endpoint: Some(named("ci")),
                ..all()
            },
            LetterFilter {
                repository: glob("acme/*"),
                ..all()
            },
            LetterFilter {
                repository: glob("*"),
                ..all()
            },
            LetterFilter {
                tag: Some("1".parse().unwrap()),
                ..all()
            },
            LetterFilter {
                ids: vec![1, 2, 3, 4, 5, 6],
                ..all()
            },
            LetterFilter {
                since: Some(moment(1)),
                ..all()
            },
        ] {
            assert_eq!(found(&settings, &filter), [6, 4, 3, 1], "{spoil:?} {filter:?}");
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = settings.letters(&filter, after, 1).unwrap();
                seen.extend(page.letters.iter().map(|kept| kept.id));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, [6, 4, 3, 1], "{spoil:?} {filter:?}");
        }
        let newest = settings.newest_letters(JOURNAL, 100).unwrap();
        let newest: Vec<_> = newest.into_iter().map(|(_, _, id)| id).collect();
        for id in [6, 4, 3, 1] {
            assert!(newest.contains(&id), "{spoil:?} {newest:?}");
        }
    }
}

#[test]
fn the_others_are_sent_again_and_are_not_held_up() {
    for spoil in SPOILS {
        let (_folder, settings) = with_two_odd_ones(spoil);
        assert_eq!(settings.replaying_endpoints().unwrap(), [named("ci")]);
        let mut sent = Vec::new();
        while let Some((kept, _)) = settings.next_replay(&named("ci")).unwrap() {
            sent.push(kept.id);
            settings.letter_delivered(kept.id).unwrap();
        }
        assert_eq!(sent, [1, 3, 4, 6], "{spoil:?}");
        let stats = settings.letter_stats();
        assert_eq!((stats.letters, stats.replaying), (2, 0), "{spoil:?}");
        assert!(settings.replaying_endpoints().unwrap().is_empty());
    }
}

#[test]
fn they_go_when_they_are_too_old_or_there_is_no_room() {
    for spoil in SPOILS {
        for bounds in [
            LetterBounds {
                age_max: Duration::ZERO,
                bytes_max: u64::MAX,
            },
            LetterBounds {
                age_max: Duration::from_hours(1),
                bytes_max: 0,
            },
        ] {
            let (_folder, settings) = with_two_odd_ones(spoil);
            assert_eq!(settings.prune_letters(&bounds, 0, moment(100)).unwrap(), 6);
            let stats = settings.letter_stats();
            assert_eq!((stats.letters, stats.replaying), (0, 0), "{spoil:?}");
        }
    }
}
