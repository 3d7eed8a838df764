//! How long an answer may take.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_taken_and_what_is_quarantined_of_an_envelope_share_one_deadline() {
    let ack_deadline = Duration::from_millis(100);
    let filter = Filter::new(filter::Options {
        accept_hosts: vec!["ours".to_owned()],
        ..everything()
    });
    let clock = Clock::from_fn(now);
    let metrics = Metrics::new(&clock);
    let folder = tempfile::tempdir().unwrap();
    let quarantine = Quarantine::open(quarantine::Options::at(folder.path())).unwrap();
    let _held = quarantine.hold().await;
    let intake = FakeIntake::default();
    intake.is_now(Mood::NeverAnswers);
    let options = Options {
        ack_deadline,
        ..options()
    };
    let ingest = Ingest::new(options, filter, intake, quarantine, metrics, clock);
    let by = |host: &str, repository: &str| {
        event(repository, "1").replacen('{', &format!(r#"{{"request":{{"host":"{host}"}},"#), 1)
    };
    // Nobody waits for the doubt that the first casts; the second is no name of a repository.
    let body = envelope(&[by("theirs", "acme/app"), by("ours", "Acme/..")]);
    let began = Instant::now();
    let answer = ingest
        .0
        .take(
            &Received::whole(body.into()),
            SocketAddr::from(([127, 0, 0, 1], 1)),
        )
        .await;
    assert!(matches!(answer, Ok(EnvelopeAnswer::Taken)));
    // By the clock that only goes while everything waits.
    assert!(began.elapsed() < ack_deadline * 2, "{:?}", began.elapsed());
    let told = ingest.0.metrics.encode();
    assert!(told.contains("shipbell_quarantine_failures_total 1"), "{told}");
}
