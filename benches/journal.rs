//! The single steps: reading an envelope, making pushes durable, reading them back at a start.
//!
//! `cargo bench --bench journal` compares with its own last run; the ratios to a floor are in `ratios`.

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use shipbell::ingest::envelope::Envelope;
use tempfile::TempDir;

#[path = "ratios/kept.rs"]
#[expect(dead_code, reason = "the table of ratios uses all of it")]
mod kept;
#[path = "ratios/workload.rs"]
#[expect(
    dead_code,
    reason = "written for the floors: the journal takes pushes, not records"
)]
mod workload;

/// A notification as a 3.1 registry sent it, with the references of the image.
const CAPTURED: &str = include_str!("../tests/envelopes/3.1/0001-01-oci-push-push-v1_json.json");

const REPLAYED: u64 = 100_000;

criterion_group!(benches, envelope, append, replay);
criterion_main!(benches);

fn envelope(criterion: &mut Criterion) {
    let captured: serde_json::Value = serde_json::from_str(CAPTURED).unwrap_or_default();
    let body = captured.get("body").map(ToString::to_string).unwrap_or_default();
    assert!(read(body.as_bytes()) > 0, "the capture can't be read");
    let mut group = criterion.benchmark_group("envelope");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("of one event", |bencher| {
        bencher.iter(|| read(black_box(body.as_bytes())));
    });
    group.finish();
}

/// How many references the events have.
fn read(body: &[u8]) -> usize {
    let Ok(envelope) = Envelope::parse(body) else {
        return 0;
    };
    envelope
        .events()
        .filter_map(|(_, event)| Some(event.ok()?.target.references.len()))
        .sum()
}

fn append(criterion: &mut Criterion) {
    let folder = folder();
    let Ok(journal) = kept::Running::open(&folder.path().join("journal")) else {
        panic!("the journal can't be opened");
    };
    let mut first = 0;
    let mut group = criterion.benchmark_group("append, durable");
    for count in [1, 64] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("of {count}"), |bencher| {
            let next = || {
                first += count;
                kept::pushes(first, count)
            };
            bencher.iter_batched(
                next,
                |pushes| {
                    let appended = pushes.and_then(|pushes| journal.append(pushes));
                    assert!(appended.is_ok(), "{appended:?}");
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
    assert!(journal.close().is_ok(), "the journal did not end well");
}

fn replay(criterion: &mut Criterion) {
    let folder = folder();
    let journal = folder.path().join("journal");
    assert!(kept::append(&journal, REPLAYED).is_ok(), "nothing to replay");
    let mut group = criterion.benchmark_group("replay to a queue");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.throughput(Throughput::Elements(REPLAYED));
    group.bench_function(format!("of {REPLAYED}"), |bencher| {
        bencher.iter(|| {
            let replayed = kept::replay(&journal, REPLAYED);
            assert!(replayed.is_ok(), "{replayed:?}");
        });
    });
    group.finish();
}

/// On the disk that the build is on: the system's folder for temporary files may be held in memory.
fn folder() -> TempDir {
    match tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")) {
        Ok(folder) => folder,
        Err(error) => panic!("no folder: {error}"),
    }
}
