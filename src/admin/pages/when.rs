//! Times as people read them, with the exact moment beside.

use std::{fmt, time::Duration};

use askama::filters::HtmlSafe;
use chrono::{DateTime, NaiveDateTime};

use crate::clock::Timestamp;

const MINUTE: Duration = Duration::from_mins(1);

/// A moment, written as a `<time>` element: "3 minutes ago", and what that is exactly.
///
/// Seconds are not counted: a page that is kept up to date would change every few of them though nothing happens, and
/// what is exact stands beside.
#[derive(Clone, Copy, Debug)]
pub(super) struct When {
    at: Timestamp,
    now: Timestamp,
}

impl When {
    /// A moment, as it is seen now.
    pub(super) fn at(at: Timestamp, now: Timestamp) -> Self {
        Self { at, now }
    }

    /// Whether it is still to come.
    pub(super) fn is_ahead(&self) -> bool {
        self.at > self.now
    }

    /// A moment as the API writes it.
    pub(super) fn read(text: Option<&str>, now: Timestamp) -> Option<Self> {
        let at = DateTime::parse_from_rfc3339(text?).ok()?;
        let at = Timestamp::from_unix_millis(at.timestamp_millis());
        Some(Self { at, now })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, now) = (self.at, self.now);
        write!(f, "<time datetime=\"{at}\" title=\"{at}\">")?;
        match (now.since(at), at.since(now)) {
            (past, Duration::ZERO) if past < MINUTE => f.write_str("just now")?,
            (past, Duration::ZERO) => write!(f, "{} ago", span(past))?,
            (_, ahead) if ahead < MINUTE => f.write_str("within a minute")?,
            (_, ahead) => write!(f, "in {}", span(ahead))?,
        }
        f.write_str("</time>")
    }
}

/// It writes its own markup, of digits and words.
impl HtmlSafe for When {}

/// How long something lasts, in the largest unit that tells it.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// A moment that was chosen in a field for dates, which knows of no zones: it is UTC.
pub(super) fn moment(field: &mut Option<String>) {
    let Some(text) = field else { return };
    for format in ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"] {
        if let Ok(at) = NaiveDateTime::parse_from_str(text, format) {
            *text = format!("{}Z", at.format("%Y-%m-%dT%H:%M:%S"));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_a_field_is_utc_and_what_is_none_stays() {
        for (typed, read) in [
            ("2026-11-24T09:05", "2026-11-24T09:05:00Z"),
            ("2026-11-24T09:05:06", "2026-11-24T09:05:06Z"),
            ("2026-11-24T09:05:06+01:00", "2026-11-24T09:05:06+01:00"),
            ("yesterday", "yesterday"),
        ] {
            let mut field = Some(typed.to_owned());
            moment(&mut field);
            assert_eq!(field.as_deref(), Some(read));
        }
    }

    #[test]
    fn a_moment_is_told_in_words_and_exactly() {
        let now = Timestamp::from_unix_millis(1_763_888_918_473);
        let told = |at: Timestamp| When::at(at, now).to_string();
        assert_eq!(
            told(now.before(Duration::from_secs(200))),
            "<time datetime=\"2025-11-23T09:05:18.473Z\" title=\"2025-11-23T09:05:18.473Z\">3 minutes ago</time>"
        );
        for (at, words) in [
            (now, ">just now<"),
            (now.before(Duration::from_secs(59)), ">just now<"),
            (now.before(Duration::from_mins(1)), ">1 minute ago<"),
            (now.after(Duration::from_secs(59)), ">within a minute<"),
            (now.before(Duration::from_hours(1)), ">1 hour ago<"),
            (now.before(Duration::from_hours(47)), ">47 hours ago<"),
            (now.before(Duration::from_hours(72)), ">3 days ago<"),
            (now.after(Duration::from_secs(90)), ">in 1 minute<"),
        ] {
            assert!(told(at).contains(words), "{}", told(at));
        }
        assert!(When::read(Some("yesterday"), now).is_none());
        let read = When::read(Some("2025-11-23T10:05:18.473+01:00"), now).unwrap();
        assert!(read.to_string().contains("3 minutes ago"));
    }
}
