//! What a fuzzer does for hours, for some seconds: `SEED=n` replays one case, `CASES=n` runs as many.

use std::{fs, panic, path::Path};

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Bytes and numbers at which things change.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    u32::MAX as u64,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// The inputs in `fuzz/corpus` for that target, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// An input of the corpus with one to four things done to it.
fn mutation(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..=16)).min(bytes.len());
        match rng.random_range(0..6) {
            0 if at < end => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let other = &corpus[rng.random_range(0..corpus.len())];
                let from = rng.random_range(0..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let number = EDGES[rng.random_range(0..EDGES.len())].to_le_bytes();
                let width = [1, 1, 2, 4, 8][rng.random_range(0..5)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
        }
    }
    bytes
}

#[expect(clippy::disallowed_methods, reason = "the tests' own two settings")]
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
    )
}

/// Runs `target` over the corpus, and over so many mutations of it.
fn run(corpus: &[Vec<u8>], cases: u64, target: fn(&[u8])) {
    let replayed = setting("SEED");
    if replayed.is_none() {
        for bytes in corpus {
            show_if_it_panics("it is in the corpus", bytes, target);
        }
    }
    let (first, cases) = match replayed {
        Some(seed) => (seed, 1),
        None => (0, setting("CASES").unwrap_or(cases)),
    };
    for seed in first..first + cases {
        let bytes = mutation(corpus, &mut StdRng::seed_from_u64(seed));
        show_if_it_panics(&format!("SEED={seed} replays this"), &bytes, target);
    }
    println!("{cases} cases from SEED={first} on");
}

fn show_if_it_panics(whence: &str, bytes: &[u8], target: fn(&[u8])) {
    if let Err(panic) = panic::catch_unwind(|| target(bytes)) {
        println!("{whence}: b\"{}\"", bytes.escape_ascii());
        panic::resume_unwind(panic);
    }
}

#[test]
fn any_body_is_refused_or_comes_to_valid_items() {
    run(&corpus("envelope"), 20_000, super::envelope);
}

#[test]
fn any_record_is_refused_or_reads_the_same_when_written_again() {
    let mut corpus = corpus("record");
    corpus.extend(crate::journal::fuzzing::seeds());
    run(&corpus, 40_000, super::record);
}

#[test]
fn any_directory_is_refused_untouched_or_is_a_journal() {
    run(&corpus("directory"), 8_000, super::directory);
}
