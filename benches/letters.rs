//! What 300 MiB of dead letters cost: to write, to look through, and at a start, where the file is checked:
//! `cargo bench --bench letters`. `QUICK=1` writes a tenth.

use std::time::Instant;

use rusqlite::Connection;
use shipbell::{
    clock::Timestamp,
    image::{Digest, MediaType},
    journal::JournalId,
    push::{EndpointId, Push, Reference, Sequence},
    settings::{FILE, Letter, LetterFilter, Settings},
};

const AT_ONCE: u64 = 1_000;
const REPOSITORIES: u64 = 997;
const REFERENCES: usize = 6;

fn main() -> anyhow::Result<()> {
    let bytes = if is_quick() { 30 } else { 300 } << 20;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(FILE);
    let settings = Settings::open(&path)?;
    let (began, mut number) = (Instant::now(), 0);
    while settings.letter_stats().bytes < bytes {
        let letters = (number..number + AT_ONCE).map(letter);
        settings.put_letters(&letters.collect::<anyhow::Result<Vec<_>>>()?)?;
        number += AT_ONCE;
    }
    let rate = f64::from(u32::try_from(number)?) / began.elapsed().as_secs_f64();
    println!("{number} letters, {} MiB: {rate:.0} a second", bytes >> 20);
    let began = Instant::now();
    let none = LetterFilter {
        tag: Some("none".parse()?),
        ..LetterFilter::default()
    };
    settings.letters(&none, None, 10)?;
    println!("a filter that finds nothing: {:?}", began.elapsed());
    drop(settings);
    let connection = Connection::open(&path)?;
    for check in [
        "integrity_check(1)",
        "integrity_check(endpoint_states)",
        "quick_check(1)",
    ] {
        let began = Instant::now();
        let found: String = connection.query_row(&format!("PRAGMA {check}"), (), |row| row.get(0))?;
        println!("{check}: {:?}, {found}", began.elapsed());
    }
    drop(connection);
    let began = Instant::now();
    drop(Settings::open(&path)?);
    println!("a start: {:?}", began.elapsed());
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the bench's own setting")]
fn is_quick() -> bool {
    std::env::var_os("QUICK").is_some()
}

fn letter(number: u64) -> anyhow::Result<Letter> {
    let tag = format!("v{number}");
    let layer = Reference {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        size: 30_221,
        digest: Digest::sha256(b"layer"),
        has_urls: false,
    };
    let endpoint = EndpointId::Named("ci".into());
    let push = Push {
        event_id: format!("01a207aa-a24a-7313-b223-{number:012}"),
        repository: format!("acme/app{}", number % REPOSITORIES).parse()?,
        digest: Digest::sha256(tag.as_bytes()),
        tag: Some(tag.parse()?),
        media_type: MediaType::OciManifest,
        manifest_size: 1_234,
        references: vec![layer; REFERENCES],
        actor: "robot".to_owned(),
        taken_at: Timestamp::from_unix_millis(0),
        owed: vec![endpoint.clone()],
    };
    let sequence = Sequence::new(number + 1).unwrap_or(Sequence::FIRST);
    let died_at = Timestamp::from_unix_millis(i64::try_from(number)?);
    Ok(Letter::of(
        JournalId([7; 16]),
        sequence,
        endpoint,
        push,
        (died_at, "answered 404 Not Found", Some(3)),
    ))
}
