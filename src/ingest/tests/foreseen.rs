//! What is there to be counted before it happens.

use super::*;

#[tokio::test]
async fn answers_and_verdicts_are_counted_from_0_before_the_first_of_their_kind() {
    let served = serve(options(), plain());
    let text = served.metrics.encode();
    for labels in [
        "envelopes_total{answer=\"202\",reason=\"\"}",
        "envelopes_total{answer=\"202_quarantined\",reason=\"\"}",
        "envelopes_total{answer=\"401\",reason=\"\"}",
        "envelopes_total{answer=\"503\",reason=\"full\"}",
        "envelopes_total{answer=\"503\",reason=\"deadline\"}",
        "envelopes_total{answer=\"503\",reason=\"journal_full\"}",
        "envelopes_total{answer=\"503\",reason=\"journal_io\"}",
        "events_total{verdict=\"accepted\",reason=\"\"}",
        "events_total{verdict=\"ignored\",reason=\"pull\"}",
        "events_total{verdict=\"sizes_only\",reason=\"nobody_owes\"}",
        "events_total{verdict=\"quarantined\",reason=\"invalid_digest\"}",
    ] {
        assert!(
            served.has_metric(&format!("shipbell_{labels} 0")),
            "{labels} in\n{text}"
        );
    }
    let count = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    let is = (
        count("shipbell_envelopes_total{"),
        count("shipbell_events_total{"),
    );
    assert_eq!(is, (17, 20));
}
