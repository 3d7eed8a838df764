//! What ingest may come to count, told to the metrics before it happens.

use super::filter::{Ignored, Quiet};
use crate::{
    push::NOBODY_OWES,
    telemetry::{
        Metrics,
        labels::{EnvelopeAnswer, EventVerdict},
    },
};

/// Why an envelope is not taken.
const UNAVAILABLE: [&str; 9] = [
    "full",
    "journal_full",
    "journal_damaged",
    "journal_busy",
    "journal_io",
    "journal_closed",
    "deadline",
    "memory",
    "stopping",
];

/// Why a body does not come whole.
const CUT: [&str; 3] = ["timeout", "client", "evicted"];

/// What is wrong with an event.
const QUARANTINED: [&str; 4] = [
    "unreadable",
    "invalid_repository",
    "invalid_tag",
    "invalid_digest",
];

/// Has each of them be there, with a count of 0.
pub(super) fn announce(metrics: &Metrics) {
    for &answer in EnvelopeAnswer::ALL {
        let reasons = match answer {
            EnvelopeAnswer::Unavailable => &UNAVAILABLE[..],
            EnvelopeAnswer::Cut => &CUT[..],
            _ => &[""],
        };
        for reason in reasons {
            metrics.may_answer(answer, reason);
        }
    }
    for verdict in [
        EventVerdict::Accepted,
        EventVerdict::Duplicate,
        EventVerdict::Change,
    ] {
        metrics.event(verdict, "", 0);
    }
    for reason in Quiet::ALL.map(Quiet::as_str).into_iter().chain([NOBODY_OWES]) {
        metrics.event(EventVerdict::SizesOnly, reason, 0);
    }
    for reason in Ignored::ALL.map(Ignored::as_str) {
        metrics.event(EventVerdict::Ignored, reason, 0);
    }
    for reason in QUARANTINED {
        metrics.event(EventVerdict::Quarantined, reason, 0);
    }
}
