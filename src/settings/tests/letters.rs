//! Dead letters in the file: kept whole, found again, bounded.

use globset::Glob;
use tempfile::TempDir;

use super::*;
use crate::{
    image::{Digest, MediaType},
    journal::JournalId,
    push::{Push, Reference, Sequence},
};

pub(super) const JOURNAL: JournalId = JournalId([7; 16]);

pub(super) fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

pub(super) fn push(repository: &str, tag: &str) -> Push {
    Push {
        event_id: "b1d6d3f4".to_owned(),
        repository: repository.parse().unwrap(),
        tag: (!tag.is_empty()).then(|| tag.parse().unwrap()),
        digest: Digest::sha256(tag.as_bytes()),
        media_type: MediaType::ALL[0],
        manifest_size: 1_234,
        references: vec![
            Reference {
                media_type: "application/vnd.docker.container.image.v1+json".into(),
                size: 7_023,
                digest: Digest::sha256(b"config"),
                has_urls: false,
            },
            Reference {
                media_type: "odd \"one\"".into(),
                size: u64::from(u32::MAX) * 8,
                digest: Digest::sha256(b"layer"),
                has_urls: true,
            },
        ],
        actor: "robot".to_owned(),
        taken_at: moment(500),
        owed: vec![named("ci")],
    }
}

/// The letter of a push of this number, which is the moment at which it died, too.
pub(super) fn letter(number: u64, endpoint: &str, repository: &str, tag: &str) -> Letter {
    let died_at = moment(i64::try_from(number).unwrap());
    let push = push(repository, tag);
    Letter::of(
        JOURNAL,
        sequence(number),
        named(endpoint),
        push,
        (died_at, "answered 404 Not Found", Some(3)),
    )
}

pub(super) fn opened() -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::open(&folder.path().join(FILE)).unwrap();
    (folder, settings)
}

pub(super) fn found(settings: &Settings, filter: &LetterFilter) -> Vec<u64> {
    let page = settings.letters(filter, None, 1_000).unwrap();
    assert_eq!(page.next, None);
    page.letters
        .iter()
        .map(|kept| kept.letter.sequence.get())
        .collect()
}

#[test]
fn a_file_of_the_first_version_keeps_its_states_and_takes_letters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let old = Connection::open(&path).unwrap();
    old.execute_batch(schema::MIGRATIONS[0]).unwrap();
    states::put(&old, &named("ci"), Some(&state(named("ci"), 5_000))).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    let settings = Settings::open(&path).unwrap();
    assert_eq!(sorted(&settings), [state(named("ci"), 5_000)]);
    assert_eq!(settings.letter_stats().letters, 0);
    let letter = letter(1, "ci", "acme/app", "1.4");
    settings.put_letters(std::slice::from_ref(&letter)).unwrap();
    drop(settings);
    let settings = Settings::open(&path).unwrap();
    assert_eq!(sorted(&settings).len(), 1);
    let kept = settings.letter(1).unwrap().unwrap();
    assert_eq!((kept.letter, kept.state), (letter, LetterState::Dead));
    assert_eq!(settings.letter_stats().letters, 1);
}

#[test]
fn a_letter_is_kept_whole() {
    let (folder, settings) = opened();
    let mut letters = vec![
        letter(1, "ci", "acme/app", "1.4"),
        letter(2, "ci", "acme/app", ""),
        letter(3, "ci", "acme/app", "1.5"),
    ];
    letters[1].attempts = None;
    letters[1].endpoint = EndpointId::Repository("acme/app".parse().unwrap());
    letters[2].references.clear();
    settings.put_letters(&letters).unwrap();
    drop(settings);
    let settings = Settings::open(&folder.path().join(FILE)).unwrap();
    for letter in letters {
        let kept = settings.letter_of(JOURNAL, letter.sequence, &letter.endpoint);
        assert_eq!(kept.unwrap().unwrap().letter, letter);
    }
    let other = settings.letter_of(JournalId([8; 16]), sequence(1), &named("ci"));
    assert_eq!(other.unwrap(), None);
}

#[test]
fn what_is_too_long_is_cut_so_that_a_row_is_bounded() {
    let mut long = push("acme/app", "1");
    long.references = vec![long.references[0].clone(); 2_000];
    long.actor = "ä".repeat(5_000);
    let reason = "ö".repeat(5_000);
    let letter = Letter::of(
        JOURNAL,
        sequence(1),
        named("ci"),
        long,
        (moment(1), &reason, None),
    );
    assert!(letter.references.is_empty(), "the registry is asked instead");
    assert!(letter.bytes() < 4_000, "{}", letter.bytes());
}

#[test]
fn a_push_has_one_letter_for_an_endpoint_and_the_newest_counts() {
    let (_folder, settings) = opened();
    let first = letter(1, "ci", "acme/app", "1");
    settings
        .put_letters(&[first.clone(), letter(1, "other", "acme/app", "1")])
        .unwrap();
    let again = Letter {
        reason: "its endpoint is ignored".to_owned(),
        ..first
    };
    settings.put_letters(std::slice::from_ref(&again)).unwrap();
    assert_eq!(settings.letter_stats().letters, 2);
    let kept = settings
        .letter_of(JOURNAL, sequence(1), &named("ci"))
        .unwrap()
        .unwrap();
    assert_eq!(kept.letter, again);
    assert_eq!(kept.id, 3, "no number is given twice");
}

#[test]
fn filters_hold_together_and_pages_go_on_where_the_last_one_ended() {
    let (_folder, settings) = opened();
    let letters: Vec<_> = (1..=60)
        .map(|number| {
            let endpoint = ["ci", "scan"][usize::try_from(number % 2).unwrap()];
            let repository = ["acme/app", "acme/web/ui", "other/app"][usize::try_from(number % 3).unwrap()];
            letter(number, endpoint, repository, &format!("v{}", number % 5))
        })
        .collect();
    settings.put_letters(&letters).unwrap();
    let glob = |glob: &str| {
        let glob = globset::GlobBuilder::new(glob).literal_separator(true).build();
        Some(glob.unwrap().compile_matcher())
    };
    let all = LetterFilter::default();
    assert_eq!(found(&settings, &all), (1..=60).rev().collect::<Vec<_>>());
    let narrow = LetterFilter {
        endpoint: Some(named("scan")),
        repository: glob("acme/**"),
        seen: None,
        tag: Some("v1".parse().unwrap()),
        since: Some(moment(11)),
        until: Some(moment(51)),
        ids: Vec::new(),
    };
    let meant =
        |number: &u64| number % 2 == 1 && number % 3 != 2 && number % 5 == 1 && (11..51).contains(number);
    assert_eq!(
        found(&settings, &narrow),
        (1..=60).rev().filter(meant).collect::<Vec<_>>()
    );
    let one_part = LetterFilter {
        repository: glob("acme/*"),
        ..LetterFilter::default()
    };
    assert_eq!(found(&settings, &one_part).len(), 20);
    let ids = LetterFilter {
        ids: vec![3, 60, 4, 999],
        endpoint: Some(named("ci")),
        ..LetterFilter::default()
    };
    assert_eq!(found(&settings, &ids), [60, 4]);
    let none = LetterFilter {
        repository: Some(Glob::new("nobody").unwrap().compile_matcher()),
        ..LetterFilter::default()
    };
    assert_eq!(found(&settings, &none), [0; 0]);

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = settings.letters(&all, after, 7).unwrap();
        seen.extend(page.letters.iter().map(|kept| kept.letter.sequence.get()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=60).rev().collect::<Vec<_>>());
}

#[test]
fn letters_far_apart_are_all_found() {
    let (_folder, settings) = opened();
    settings.put_letters(&[letter(1, "ci", "acme/app", "1")]).unwrap();
    // As if millions had come and gone in between.
    let far = "UPDATE sqlite_sequence SET seq = 90000000 WHERE name = 'dead_letters'";
    settings.connection().execute(far, ()).unwrap();
    settings.put_letters(&[letter(2, "ci", "acme/app", "2")]).unwrap();
    assert_eq!(found(&settings, &LetterFilter::default()), [2, 1]);
    let page = settings.letters(&LetterFilter::default(), None, 1).unwrap();
    assert_eq!(page.next, Some(90_000_001));
    let page = settings.letters(&LetterFilter::default(), page.next, 1).unwrap();
    assert_eq!((page.letters[0].id, page.next), (1, None));
}

#[test]
fn what_is_too_old_goes_and_what_is_young_stays() {
    let (_folder, settings) = opened();
    let letters: Vec<_> = (1..=1_200)
        .map(|number| letter(number, "ci", "acme/app", "1"))
        .collect();
    settings.put_letters(&letters).unwrap();
    let bounds = LetterBounds {
        age_max: Duration::from_millis(200),
        bytes_max: u64::MAX,
    };
    let mut steps = Vec::new();
    loop {
        match settings.prune_letters(&bounds, 0, moment(1_200)).unwrap() {
            0 => break,
            removed => steps.push(removed),
        }
    }
    assert_eq!(steps, [500, 499], "in small transactions");
    assert_eq!(
        found(&settings, &LetterFilter::default()),
        (1_000..=1_200).rev().collect::<Vec<_>>()
    );
    assert_eq!(settings.letter_stats().letters, 201);
}

#[test]
fn past_its_bytes_the_oldest_go_first_and_the_file_grows_no_further() {
    const BYTES_MAX: u64 = 2 << 20;
    let (folder, settings) = opened();
    let bounds = LetterBounds {
        age_max: Duration::from_hours(1),
        bytes_max: BYTES_MAX,
    };
    for batch in 0..20 {
        let letters: Vec<_> = (0..500)
            .map(|number| letter(batch * 500 + number + 1, "ci", "acme/app", &format!("v{number}")))
            .collect();
        let coming = letters.iter().map(Letter::bytes).sum();
        while settings.prune_letters(&bounds, coming, moment(20_000)).unwrap() > 0 {}
        settings.put_letters(&letters).unwrap();
        let stats = settings.letter_stats();
        assert!(
            stats.bytes <= BYTES_MAX,
            "{} bytes after batch {batch}",
            stats.bytes
        );
    }
    let file = fs::metadata(folder.path().join(FILE)).unwrap().len();
    assert!(file <= BYTES_MAX, "{file} bytes");
    let kept = settings
        .letters(&LetterFilter::default(), None, 10_000)
        .unwrap()
        .letters;
    let kept: Vec<_> = kept.iter().map(|kept| kept.letter.sequence.get()).collect();
    assert!(kept.len() > 1_000, "{} are kept", kept.len());
    let newest: Vec<_> = (0..kept.len() as u64).map(|back| 10_000 - back).collect();
    assert_eq!(kept, newest, "the newest, without gaps");
    assert_eq!(settings.letter_stats().letters, kept.len() as u64);
}

#[test]
fn a_file_whose_letters_are_damaged_refuses_the_start() {
    let (folder, settings) = opened();
    let letters: Vec<_> = (1..=2_000)
        .map(|number| letter(number, "ci", "acme/app", "1"))
        .collect();
    settings.put_letters(&letters).unwrap();
    drop(settings);
    let path = folder.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let error = Settings::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
