//! What a delivery takes, in bytes and in time.
//!
//! `RECORDS=1000000 cargo test --release --lib figures -- --nocapture` prints figures worth the name.

use std::time::Instant;

use super::*;
use crate::webhook::{
    Layer,
    format::{EventKind, Message},
};

/// Entries told ahead of what is written: less than the line has room for.
const AHEAD: u64 = 10_000;

/// What one delivery may take: three times what it does.
const BYTES_MAX: f64 = 6_600.0;

/// Bodies of a usual image: a webhook of some 1,000 bytes.
const LAYERS: usize = 5;

#[test]
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn a_delivery_takes_so_many_bytes_and_so_long() {
    let count: u64 = std::option_env!("RECORDS").map_or(1_000, |count| count.parse().unwrap());
    let stage = Stage::new(Options {
        bytes_max: 64 << 30,
        ..ROOMY
    });
    let running = stage.start();
    let history = &running.history;
    let (client, endpoint) = (masks::client(), masks::endpoint());
    let layer = |number: usize| Layer {
        digest: Digest::sha256(&number.to_be_bytes()),
        size: 30_221,
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
    };
    let sizes = Sizes {
        image_size: Some(80_796),
        layers: (0..LAYERS).map(layer).collect(),
        repository_size: Some(2_311_754),
    };
    let began = Instant::now();
    let (mut told_for, mut body_bytes) = (Duration::ZERO, 0);
    for number in 1..=count {
        let mut durable = durable(number, "1.4", stage.now());
        durable.push.repository = format!("acme/app{}", number % 1_000).parse().unwrap();
        // As random as those of a registry.
        let random = Digest::sha256(&number.to_be_bytes()).to_string();
        durable.push.event_id = random.chars().skip(10).take(36).collect();
        let which = Which {
            repository: durable.push.repository.clone(),
            ..which(number, "1.4")
        };
        let message = Message {
            repository: &which.repository,
            tag: which.tag.as_ref(),
            digest: &durable.push.digest,
            public_host: "",
            sizes: &sizes,
            event: EventKind::Push,
            at: stage.now(),
        };
        let request = client
            .request(&endpoint, &message, "msg_60a6dc2c0e06bdf0b4b15860943f3b18")
            .unwrap();
        body_bytes = request.body().len();
        let digest = durable.push.digest.clone();
        let telling = Instant::now();
        history.taken(&durable);
        let attempt = Attempt {
            digest: &digest,
            sizes: &sizes,
            at: stage.now(),
            elapsed: Duration::from_millis(12),
            request: Some(&request),
            answer: &Ok(answer(200, b"{\"ok\":true}")),
            outcome: &Outcome::Delivered { status: 200 },
        };
        history.attempted(&which, attempt);
        history.ended(&which, Settlement::Delivered, stage.now());
        told_for += telling.elapsed();
        while number * 4 > history.stats().rows + history.stats().dropped + AHEAD {
            thread::yield_now();
        }
    }
    let dropped = running.close().dropped;
    let took = began.elapsed().as_secs_f64();
    let bytes = fs::metadata(stage.file()).unwrap().len() as f64;
    assert_eq!(dropped, 0, "all that is told at such a pace is written");
    assert!(
        bytes < BYTES_MAX * count as f64,
        "{bytes} bytes of {count} deliveries"
    );
    println!(
        "{count} deliveries, one attempt each, bodies of {body_bytes} bytes: {:.0} bytes each, {:.0} deliveries/s, \
         {:.1} µs each to tell, {dropped} dropped",
        bytes / count as f64,
        count as f64 / took,
        told_for.as_secs_f64() * 1e6 / count as f64
    );
}
