//! What is told when metrics are asked for.

use super::*;
use crate::clock::Timestamp;

fn metrics() -> Metrics {
    Metrics::new(&Clock::from_fn(|| Timestamp::from_unix_millis(1_795_424_918_473)))
}

#[test]
fn gauges_are_sampled_at_each_scrape() {
    let metrics = metrics();
    let pushes = Arc::new(AtomicU64::new(3));
    let shared = Arc::clone(&pushes);
    metrics.on_scrape(move |gauges| {
        gauges.queue(QueueSample {
            pushes: shared.load(std::sync::atomic::Ordering::Relaxed),
            repositories: 2,
            oldest: Duration::from_millis(1500),
        });
    });
    assert!(metrics.encode().contains("\nshipbell_queue_pushes 3\n"));
    pushes.store(4, std::sync::atomic::Ordering::Relaxed);
    let text = metrics.encode();
    assert!(text.contains("\nshipbell_queue_pushes 4\n"));
    assert!(text.contains("\nshipbell_queue_oldest_seconds 1.5\n"));
}

#[test]
fn what_is_counted_by_result_is_there_before_the_first_of_its_kind() {
    fn each<T: Copy>(name: &str, label: &str, all: &[T], as_str: fn(T) -> &'static str) -> Vec<String> {
        let line = |one: &T| format!("shipbell_{name}_total{{{label}=\"{}\"}} 0", as_str(*one));
        all.iter().map(line).collect()
    }
    let text = metrics().encode();
    let mut lines = each("attempts", "result", AttemptResult::ALL, AttemptResult::as_str);
    lines.extend(each(
        "registry_requests",
        "result",
        RegistryResult::ALL,
        RegistryResult::as_str,
    ));
    lines.extend(each(
        "sizes_unknown",
        "number",
        SizeNumber::ALL,
        SizeNumber::as_str,
    ));
    lines.extend(each(
        "dead_letter_replays",
        "result",
        labels::ReplayResult::ALL,
        labels::ReplayResult::as_str,
    ));
    lines.extend(each(
        "config_reloads",
        "result",
        ReloadResult::ALL,
        ReloadResult::as_str,
    ));
    lines.extend(
        ["delivered", "superseded", "dead_letter"]
            .map(|how| format!("shipbell_settled_total{{how=\"{how}\"}} 0")),
    );
    lines.extend(ListenerName::ALL.iter().flat_map(|listener| {
        let ends = ConnectionEnd::ALL.iter().map(|end| end.as_str());
        ends.map(move |end| {
            format!(
                "shipbell_connections_ended_total{{listener=\"{}\",end=\"{end}\"}} 0",
                listener.as_str()
            )
        })
    }));
    assert!(lines.len() > 40);
    for line in lines {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
    }
}

#[test]
fn the_text_is_openmetrics_with_base_units() {
    let metrics = metrics();
    metrics.connection_opened(ListenerName::Ingest);
    metrics.event(EventVerdict::Ignored, "pull", 1);
    metrics.attempt(AttemptResult::Status2xx, Duration::from_millis(12));
    metrics.settled(Settlement::DeadLetter);
    metrics.acknowledged(Duration::from_micros(300));
    let text = metrics.encode();
    for line in [
        "process_start_time_seconds 1795424918.473",
        concat!(
            "shipbell_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
        "shipbell_connections{listener=\"ingest\"} 1",
        "shipbell_events_total{verdict=\"ignored\",reason=\"pull\"} 1",
        "shipbell_attempts_total{result=\"2xx\"} 1",
        "shipbell_settled_total{how=\"dead_letter\"} 1",
        "# UNIT shipbell_ack_seconds seconds",
        "shipbell_ack_seconds_count 1",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
