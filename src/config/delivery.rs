//! `[batch]`, `[delivery]` and `[alerts]`: how webhooks go out.

use std::{path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, header};
use ipnet::IpNet;

use super::{endpoint::sets_itself, reader::Section, units};
use crate::{
    secret::Secret,
    webhook::{Batching, Coalesce, Rate, guard::Guard},
};

/// The longest wait before an attempt, as for `Retry-After`.
const WAIT_MAX: Duration = Duration::from_hours(24);
/// More steps than these nobody waits for.
const STEPS_MAX: usize = 100;
/// Below this, what SQLite writes ahead of the file would be larger than the file.
const HISTORY_MIN: u64 = 8 << 20;
pub(super) const WINDOW_MAX: Duration = Duration::from_hours(1);
pub(super) const PUSHES_MAX: usize = 10_000;
pub(super) const COALESCE: [(&str, Coalesce); 2] = [("tag", Coalesce::Tag), ("none", Coalesce::None)];

pub(super) fn batching(section: &mut Section<'_>) -> Batching {
    Batching {
        window: section
            .duration("window", Duration::ZERO..=WINDOW_MAX)
            .unwrap_or_default(),
        pushes_max: section.integer("max_pushes", 1..=PUSHES_MAX).unwrap_or(1),
        coalesce: section.choice("coalesce", &COALESCE).unwrap_or_default(),
    }
}

/// `[delivery]`: how webhooks are sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// One attempt, from connect to the answer's end.
    pub timeout: Duration,
    /// Requests at once, at least 1.
    pub concurrency: usize,
    /// Requests at once to one host, at least 1.
    pub per_host: usize,
    /// Each endpoint's pace, unless it has its own.
    pub rate: Rate,
    /// The wait before each further attempt; at least one step.
    pub retry_schedule: Vec<Duration>,
    /// How much each wait varies, as a part of it, 0 to less than 1.
    pub jitter: f64,
    /// Failures in a row that pause an endpoint.
    pub pause_after: u32,
    /// The wait before the first probe.
    pub probe_first: Duration,
    /// The longest wait between probes, at least `probe_first`.
    pub probe_max: Duration,
    /// How old a streak of failures has to be to have the endpoint ignored.
    pub ignore_after: Duration,
    /// And how many failures it has to have.
    pub ignore_after_failures: u32,
    /// What one endpoint may leave waiting, bytes.
    pub max_backlog: u64,
    /// The `User-Agent` header.
    pub user_agent: HeaderValue,
    /// The header that names the image.
    pub header_name: HeaderName,
    /// Private networks that URLs from the settings page may point into.
    pub allow_networks: Vec<IpNet>,
    /// The proxy for all webhooks, HTTP or SOCKS 5. A secret, because of its user-info.
    pub proxy: Option<Secret>,
    /// PEM certificates to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// How long deliveries are remembered.
    pub history: Duration,
    /// How much of them, bytes.
    pub history_max: u64,
    /// How long dead letters are kept.
    pub dead_letters: Duration,
    /// How much of them, bytes.
    pub dead_letters_max: u64,
}

/// `[alerts]`: who is told about endpoints in trouble.
#[derive(Clone, Debug)]
pub struct Alerts {
    /// Where to.
    pub url: Option<Secret>,
}

impl Delivery {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let waits = Duration::from_millis(1)..=WAIT_MAX;
        let kept = Duration::from_secs(1)..=Duration::from_hours(24 * 3_660);
        let much = 1 << 20..=16 << 40;
        let delivery = Self {
            timeout: section
                .duration("timeout", Duration::from_millis(100)..=Duration::from_mins(10))
                .unwrap_or_default(),
            concurrency: section.integer("concurrency", 1..=65_536).unwrap_or_default(),
            per_host: section.integer("per_host", 1..=65_536).unwrap_or_default(),
            rate: section.rate("rate").unwrap_or(Rate { per_second: None }),
            retry_schedule: section.durations("retry_schedule", &waits).unwrap_or_default(),
            jitter: section.fraction("jitter").unwrap_or_default(),
            pause_after: section.integer("pause_after", 1..=1_000).unwrap_or_default(),
            probe_first: section.duration("probe_first", waits.clone()).unwrap_or_default(),
            probe_max: section.duration("probe_max", waits).unwrap_or_default(),
            ignore_after: section
                .duration(
                    "ignore_after",
                    Duration::from_secs(1)..=Duration::from_hours(24 * 366),
                )
                .unwrap_or_default(),
            ignore_after_failures: section
                .integer("ignore_after_failures", 1..=1_000_000)
                .unwrap_or_default(),
            max_backlog: section.size("max_backlog", much.clone()).unwrap_or_default(),
            user_agent: section
                .string("user_agent", user_agent)
                .unwrap_or(HeaderValue::from_static("")),
            header_name: section
                .header_name("header_name")
                // No endpoint can have that one in any case.
                .unwrap_or(HeaderName::from_static("x-alin-webhook")),
            allow_networks: section.networks("allow_networks").unwrap_or_default(),
            proxy: section.secret_url("proxy", units::proxy_url),
            ca_file: section.authorities("ca_file"),
            history: section.duration("history", kept.clone()).unwrap_or_default(),
            history_max: section
                .size("history_max", HISTORY_MIN..=16 << 40)
                .unwrap_or_default(),
            dead_letters: section.duration("dead_letters", kept).unwrap_or_default(),
            dead_letters_max: section.size("dead_letters_max", much).unwrap_or_default(),
        };
        delivery.check(section);
        delivery
    }

    fn check(&self, section: &mut Section<'_>) {
        if section.clean(&["retry_schedule"]) && !(1..=STEPS_MAX).contains(&self.retry_schedule.len()) {
            section.report(
                "retry_schedule",
                format!("from 1 to {STEPS_MAX} waits, such as [\"5s\", \"1m\"]"),
            );
        }
        if section.clean(&["probe_first", "probe_max"]) && self.probe_first > self.probe_max {
            section.report_together(
                &["probe_max", "probe_first"],
                "delivery.probe_max must be at least delivery.probe_first",
            );
        }
        if section.clean(&["header_name"]) && has_a_meaning(&self.header_name) {
            section.report(
                "header_name",
                "this header already has a meaning; choose another name",
            );
        }
    }
}

/// Whether a header can't name the image: it is set otherwise, by shipbell or by an endpoint's credentials, or says what
/// the body is.
fn has_a_meaning(name: &HeaderName) -> bool {
    const MORE: [HeaderName; 4] = [
        header::AUTHORIZATION,
        header::COOKIE,
        header::CONTENT_ENCODING,
        header::DATE,
    ];
    sets_itself(name) || MORE.contains(name)
}

impl Alerts {
    pub(super) fn read(section: &mut Section<'_>, guard: &Guard) -> Self {
        Self {
            url: section.webhook_url("url", guard),
        }
    }
}

fn user_agent(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::try_from(text)
        .ok()
        .filter(|_| !text.trim().is_empty())
        .ok_or_else(|| "write one line of printable characters, such as \"WebHook Handler\"".to_owned())
}
