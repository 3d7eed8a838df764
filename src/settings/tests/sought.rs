//! Letters found by indexes are those that looking at all of them finds.

use std::{collections::HashMap, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    letters::{letter, opened},
    *,
};
use crate::{
    glob::{Patterns, Seen},
    settings::sought::{LOOKED_THROUGH_MAX, NAMES_MAX},
};

const ENDPOINTS: [&str; 3] = ["ci", "scan", "rare"];
/// More repositories than are looked for one by one.
const MANY: u64 = NAMES_MAX as u64 + 1;

const TAGS: [&str; 4] = ["", "latest", "v1", "v2"];

fn glob(pattern: &str) -> globset::GlobMatcher {
    crate::glob::parse(pattern).unwrap().compile_matcher()
}

fn seen(patterns: &[&str]) -> Seen {
    let globs: Vec<_> = patterns
        .iter()
        .map(|pattern| crate::glob::parse(pattern).unwrap())
        .collect();
    Seen(vec![Arc::new(Patterns::new(&globs).unwrap())])
}

/// Letters of some thousand pushes, by a clock that is set back now and then; by their numbers.
fn filled(settings: &Settings, rng: &mut StdRng, count: u64) -> HashMap<i64, Letter> {
    let mut clock = 1_000_000;
    let letters: Vec<Letter> = (1..=count)
        .map(|number| {
            clock += rng.random_range(0..1_000);
            if rng.random_ratio(1, 500) {
                clock -= 100_000;
            }
            let endpoint = ENDPOINTS[match rng.random_range(0..1_000) {
                0 => 2,
                other => other % 2,
            }];
            let repository = match rng.random_range(0..10) {
                0..5 => "mono/app".to_owned(),
                _ => format!("team{}/app{}", rng.random_range(0..20), rng.random_range(0..100)),
            };
            let tag = TAGS[rng.random_range(0..TAGS.len())];
            Letter {
                died_at: moment(clock),
                ..letter(number, endpoint, &repository, tag)
            }
        })
        .collect();
    for some in letters.chunks(500) {
        settings.put_letters(some).unwrap();
    }
    let page = settings
        .letters(&LetterFilter::default(), None, usize::MAX)
        .unwrap();
    assert_eq!(page.letters.len(), letters.len());
    page.letters
        .into_iter()
        .map(|kept| (kept.id, kept.letter))
        .collect()
}

fn filter(rng: &mut StdRng, ids: &[i64]) -> LetterFilter {
    let patterns = [
        "mono/app",
        "team7/app3",
        "team7/**",
        "team1*/app?",
        "team1*/**",
        "**/app9",
        "team*/**",
        "nobody/**",
        "none",
    ];
    let mut some = |one_in: u32| rng.random_ratio(1, one_in);
    let (has_ids, has_endpoint, has_repository, has_tag) = (some(8), some(2), some(2), some(3));
    let (has_since, has_until, has_seen) = (some(3), some(3), some(3));
    let mut moments = || moment(rng.random_range(900_000..4_000_000));
    let (since, until) = (moments(), moments());
    LetterFilter {
        ids: if has_ids {
            (0..20)
                .map(|_| ids[rng.random_range(0..ids.len())])
                .chain([99_999])
                .collect()
        } else {
            Vec::new()
        },
        endpoint: has_endpoint.then(|| named(ENDPOINTS[rng.random_range(0..3)])),
        repository: has_repository.then(|| glob(patterns[rng.random_range(0..patterns.len())])),
        seen: has_seen.then(|| seen(&[patterns[rng.random_range(0..4)], patterns[rng.random_range(0..5)]])),
        tag: has_tag.then(|| TAGS[rng.random_range(1..TAGS.len())].parse().unwrap()),
        since: has_since.then_some(since),
        until: has_until.then_some(until),
    }
}

fn naive(all: &HashMap<i64, Letter>, filter: &LetterFilter) -> Vec<i64> {
    let is_meant = |id: &i64, letter: &Letter| {
        (filter.ids.is_empty() || filter.ids.contains(id))
            && filter
                .endpoint
                .as_ref()
                .is_none_or(|endpoint| *endpoint == letter.endpoint)
            && filter
                .repository
                .as_ref()
                .is_none_or(|glob| glob.is_match(letter.repository.as_str()))
            && filter
                .seen
                .as_ref()
                .is_none_or(|seen| seen.is_match(letter.repository.as_str()))
            && filter
                .tag
                .as_ref()
                .is_none_or(|tag| Some(tag) == letter.tag.as_ref())
            && filter.since.is_none_or(|since| letter.died_at >= since)
            && filter.until.is_none_or(|until| letter.died_at < until)
    };
    let mut found: Vec<i64> = all
        .iter()
        .filter(|(id, letter)| is_meant(id, letter))
        .map(|(id, _)| *id)
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// All that a filter finds, page by page.
fn paged(settings: &Settings, filter: &LetterFilter, limit: usize) -> Vec<i64> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = settings.letters(filter, after, limit).unwrap();
        assert!(page.letters.len() <= limit);
        found.extend(page.letters.iter().map(|kept| kept.id));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

#[test]
fn what_is_searched_for_is_what_looking_at_all_of_them_finds() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_folder, settings) = opened();
    let mut all = filled(&settings, &mut rng, 5_000);
    let mut ids: Vec<i64> = all.keys().copied().collect();
    ids.sort_unstable();
    for round in 0..300 {
        let filter = filter(&mut rng, &ids);
        let limit = [7, 50, 1_000][round % 3];
        assert_eq!(
            paged(&settings, &filter, limit),
            naive(&all, &filter),
            "{filter:?}"
        );
        let counted = settings.count_letters(&filter).unwrap();
        assert_eq!(counted.letters, naive(&all, &filter).len() as u64, "{filter:?}");
        // Some go meanwhile.
        if round % 50 == 49 {
            let gone: Vec<i64> = (0..300).map(|_| ids[rng.random_range(0..ids.len())]).collect();
            settings.remove_letters(&gone).unwrap();
            all.retain(|id, _| !gone.contains(id));
        }
        // Some are sent again in vain, later or by a clock that was set back.
        if round % 50 == 24 {
            let ids: Vec<i64> = all.keys().copied().take(5).collect();
            for id in ids {
                let at = moment(rng.random_range(500_000..6_000_000));
                settings.letter_failed(id, "in vain", at).unwrap();
                all.entry(id).and_modify(|letter| letter.died_at = at);
            }
        }
    }
    let bounds = LetterBounds {
        age_max: Duration::from_millis(500),
        bytes_max: u64::MAX,
    };
    let now = all.values().map(|letter| letter.died_at).max().unwrap();
    while settings.prune_letters(&bounds, 0, now).unwrap() > 0 {}
    let kept = settings
        .letters(&LetterFilter::default(), None, 10_000)
        .unwrap()
        .letters;
    let oldest = kept.iter().map(|kept| kept.id).min().unwrap();
    let sql = "SELECT min(block) FROM letter_spans";
    let block: i64 = settings
        .connection()
        .query_row(sql, (), |row| row.get(0))
        .unwrap();
    assert_eq!(
        block,
        oldest / crate::settings::sought::BLOCK,
        "what is gone has none"
    );
}

#[test]
fn a_search_that_finds_nothing_among_many_of_an_endpoint_lets_others_have_the_file_meanwhile() {
    let (_folder, settings) = opened();
    let count = u64::from(crate::settings::sought::IN_VAIN_MAX) * 2 + 10;
    let letters = (1..=count).map(|number| letter(number, "ci", &format!("team/app{}", number % 600), "v1"));
    // More repositories are meant than are looked for one by one, none of which the endpoint has a letter of.
    let others = (1..=MANY).map(|number| letter(count + number, "scan", &format!("team/app{number}x"), "v1"));
    settings
        .put_letters(&letters.chain(others).collect::<Vec<_>>())
        .unwrap();
    let filter = LetterFilter {
        endpoint: Some(named("ci")),
        repository: Some(glob("*/*x")),
        ..LetterFilter::default()
    };
    let mut search = crate::settings::sought::Search::of(&settings.connection(), &filter).unwrap();
    let (mut before, mut goes) = (i64::MAX, 0);
    while before > i64::MIN {
        let go = settings.look_for(&mut search, before, 50).unwrap();
        assert!(go.found.is_empty() && go.reached < before);
        (before, goes) = (go.reached, goes + 1);
    }
    assert_eq!(goes, 3);
}

#[test]
fn a_page_for_which_very_many_are_looked_through_is_short_and_the_next_one_goes_on() {
    let (_folder, settings) = opened();
    // More repositories are meant than are looked for one by one, and their letters are the oldest by far.
    let old = (1..=MANY).map(|number| letter(number, "ci", &format!("team{number}/app"), "v1"));
    settings.put_letters(&old.collect::<Vec<_>>()).unwrap();
    let far = 3 * LOOKED_THROUGH_MAX;
    let filter = LetterFilter {
        repository: Some(glob("**/app")),
        ..LetterFilter::default()
    };
    let newer = |number: u64| letter(number, "ci", "other", "v1");
    for at in (10_000..far).step_by(10_000) {
        settings.put_letters(&[newer(at.cast_unsigned())]).unwrap();
        let sql = "UPDATE dead_letters SET id = ?1 WHERE sequence = ?1";
        assert_eq!(settings.connection().execute(sql, [at]).unwrap(), 1);
    }
    let (mut found, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let page = settings.letters(&filter, after, 700).unwrap();
        if pages == 0 {
            assert!(page.letters.is_empty(), "so many are not looked through at once");
        }
        found.extend(page.letters.iter().map(|kept| kept.id));
        (pages, after) = (pages + 1, page.next);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, (1..=MANY.cast_signed()).rev().collect::<Vec<_>>());
    assert!((4..=8).contains(&pages), "{pages} pages");
}

#[test]
fn an_index_of_names_is_not_read_letter_by_letter_where_one_has_many() {
    let (_folder, settings) = opened();
    let many = (1..=600).map(|number| letter(number, "ci", "mono/app", "v1"));
    let few = (601..=640).map(|number| letter(number, "ci", &format!("mono/app-{}", number % 20), "v1"));
    settings
        .put_letters(&many.chain(few).collect::<Vec<_>>())
        .unwrap();
    for (pattern, count) in [
        ("**/app-7", 2),
        ("mono/app*", 640),
        ("**/app", 600),
        ("**/none", 0),
        ("mono/app-1?", 20),
    ] {
        let filter = LetterFilter {
            repository: Some(glob(pattern)),
            ..LetterFilter::default()
        };
        assert_eq!(paged(&settings, &filter, 50).len(), count, "{pattern}");
    }
}

#[test]
fn what_an_index_is_sorted_in_goes_beside_the_file() {
    let (folder, settings) = opened();
    let beside: String = settings
        .connection()
        .pragma_query_value(None, "temp_store_directory", |row| row.get(0))
        .unwrap();
    assert_eq!(std::path::Path::new(&beside), folder.path());
}

#[test]
fn letters_of_the_version_before_are_found_as_well() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (folder, settings) = opened();
    let all = filled(&settings, &mut rng, 3_000);
    settings
        .connection()
        .execute_batch(
            "DROP TRIGGER letter_spans_grow; DROP TRIGGER letter_spans_stretch; DROP TABLE letter_spans; DROP INDEX dead_letters_by_endpoint;
             DROP INDEX dead_letters_by_repository; DROP INDEX dead_letters_by_tag;
             DROP TABLE refusals; PRAGMA user_version = 4;",
        )
        .unwrap();
    drop(settings);
    let settings = Settings::open(&folder.path().join(FILE)).unwrap();
    let ids: Vec<i64> = all.keys().copied().collect();
    for _ in 0..50 {
        let filter = filter(&mut rng, &ids);
        assert_eq!(paged(&settings, &filter, 50), naive(&all, &filter), "{filter:?}");
    }
}
