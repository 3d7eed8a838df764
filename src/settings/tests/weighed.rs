//! Dead letters are weighed by themselves: what else is in the file costs none of them.

use super::{
    letters::{JOURNAL, found, letter, opened, sequence},
    *,
};

const BOUNDS: LetterBounds = LetterBounds {
    age_max: Duration::from_hours(1),
    bytes_max: 1 << 20,
};

/// As large a webhook as may be typed.
fn webhook(number: usize) -> SavedWebhook {
    let header = |header| (format!("x-{header}"), "v".repeat(4_096));
    SavedWebhook {
        repository: format!("team/app{number}").parse().unwrap(),
        url: "https://ci.example.com/hook".to_owned(),
        secret: None,
        previous: None,
        format: "native".to_owned(),
        headers: (0..32).map(header).collect(),
        tags: vec!["**".to_owned()],
        version: 0,
        saved_at: moment(0),
        saved_by: "eve".to_owned(),
    }
}

fn save_webhook(settings: &Settings, number: usize, is_there: bool) {
    let webhook = webhook(number);
    let repository = webhook.repository.clone();
    let change = |_| Ok::<_, AccessError>(is_there.then_some(webhook));
    settings.change_webhook(&repository, change).unwrap();
}

/// What SQLite says of the letters' own tables, and of that of all tables, which counts as theirs.
fn weighed(settings: &Settings) -> u64 {
    let sql = "SELECT sum(pgsize) FROM dbstat WHERE name = 'sqlite_schema' OR name IN (SELECT name FROM sqlite_schema \
               WHERE tbl_name IN ('dead_letters', 'replays', 'letter_spans'))";
    let connection = settings.connection();
    let bytes: i64 = connection.query_row(sql, (), |row| row.get(0)).unwrap();
    u64::try_from(bytes).unwrap()
}

#[test]
fn webhooks_however_large_cost_no_letter() {
    let (_folder, settings) = opened();
    settings.put_letters(&[letter(1, "ci", "acme/app", "1")]).unwrap();
    let before = settings.letter_stats();
    for number in 0..12 {
        save_webhook(&settings, number, true);
    }
    let stats = settings.letter_stats();
    assert_eq!(stats.bytes, before.bytes);
    assert!(stats.used_bytes > BOUNDS.bytes_max, "{stats:?}");
    let last = letter(2, "ci", "acme/app", "2");
    let prune = |coming| settings.prune_letters(&BOUNDS, coming, moment(2)).unwrap();
    assert_eq!(prune(last.bytes()), 0);
    settings.put_letters(&[last]).unwrap();
    assert_eq!(prune(0), 0);
    assert_eq!(found(&settings, &LetterFilter::default()), [2, 1]);
}

#[test]
fn the_weight_of_letters_stays_exact_whatever_is_written_and_after_a_restart() {
    let (folder, settings) = opened();
    for number in 0..12 {
        save_webhook(&settings, number, true);
        let letters: Vec<_> = (1..=40)
            .map(|n| letter(number as u64 * 40 + n, "ci", "acme/app", "1"))
            .collect();
        settings.put_letters(&letters).unwrap();
    }
    let many: Vec<_> = (0..300).map(|n| state(named(&format!("ci{n}")), 5_000)).collect();
    save(&settings, &many);
    assert_eq!(settings.letter_stats().bytes, weighed(&settings));
    for number in (0..12).step_by(2) {
        save_webhook(&settings, number, false);
    }
    settings.prune(&HashSet::new(), moment(i64::MAX)).unwrap();
    let ids: Vec<i64> = (1..300).collect();
    settings.remove_letters(&ids).unwrap();
    settings.refusals(JOURNAL).unwrap();
    let stats = settings.letter_stats();
    assert_eq!(stats.bytes, weighed(&settings));
    let webhooks = settings.webhook_stats();
    assert_eq!(webhooks.webhooks, 6);
    assert!(
        (6 * 131_072..6 * 132_000).contains(&webhooks.bytes),
        "{webhooks:?}"
    );
    drop(settings);
    let settings = Settings::open(&folder.path().join(FILE)).unwrap();
    assert_eq!(settings.letter_stats(), stats);
    assert_eq!(settings.webhook_stats(), webhooks);
}

#[test]
fn no_more_letters_go_than_it_takes_to_make_room() {
    let (_folder, settings) = opened();
    // As large as they come: eight of them fill the room.
    let large = |number| {
        let mut letter = letter(number, "ci", "acme/app", "1");
        letter.sequence = sequence(number);
        letter.references = vec![letter.references[0].clone(); 600];
        letter
    };
    let mut kept = 0;
    for number in 1..=30 {
        let coming = large(number);
        let now = moment(i64::try_from(number).unwrap());
        while settings.prune_letters(&BOUNDS, coming.bytes(), now).unwrap() > 0 {}
        settings.put_letters(&[coming]).unwrap();
        assert_eq!(settings.prune_letters(&BOUNDS, 0, now).unwrap(), 0, "{number}");
        let numbers = found(&settings, &LetterFilter::default());
        let newest: Vec<_> = (0..numbers.len() as u64).map(|back| number - back).collect();
        assert_eq!(numbers, newest, "the newest, without gaps");
        assert!(settings.letter_stats().bytes <= BOUNDS.bytes_max);
        kept = numbers.len();
    }
    assert!(kept >= 5, "{kept} are kept");
}
