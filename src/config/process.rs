//! `[journal]`, `[shutdown]`, `[log]` and `[telemetry]`: the process itself.

use std::time::Duration;

use tracing_subscriber::EnvFilter;
use url::Url;

use super::{reader::Section, units};

/// `[journal]`: the files that hold every push until it is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// One file, bytes.
    pub segment_size: u64,
    /// All files, bytes; at least four segments.
    pub max_size: u64,
}

/// `[shutdown]`: the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// How long deliveries under way may take to finish.
    pub deadline: Duration,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, one object a line.
    Json,
}

/// `[log]`: what is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// Directives that [`EnvFilter`] takes, such as `info` or `info,shipbell::registry=debug`.
    pub level: String,
}

/// `[telemetry]`: traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// The collector's base, OTLP over HTTP.
    pub otlp: Option<Url>,
}

impl Journal {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let journal = Self {
            segment_size: section
                .size("segment_size", 1 << 20..=1 << 30)
                .unwrap_or_default(),
            max_size: section.size("max_size", 4 << 20..=16 << 40).unwrap_or_default(),
        };
        let least = journal.segment_size.saturating_mul(4);
        if section.clean(&["segment_size", "max_size"]) && journal.max_size < least {
            let least = units::size_text(least);
            section.report_together(
                &["max_size", "segment_size"],
                format!("journal.max_size must be at least four times journal.segment_size, \"{least}\""),
            );
        }
        journal
    }
}

impl Shutdown {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            deadline: section
                .duration("deadline", Duration::ZERO..=Duration::from_hours(1))
                .unwrap_or_default(),
        }
    }
}

impl Log {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Self {
            format: section.choice("format", &formats).unwrap_or_default(),
            level: section.string("level", level).unwrap_or_default(),
        }
    }
}

impl Telemetry {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            otlp: section.url("otlp", units::base_url),
        }
    }
}

fn level(text: &str) -> Result<String, String> {
    const RIGHT: &str = "write error, warn, info, debug, trace or off, alone or by part, such as \"info,shipbell::registry=debug\"";
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    // A word alone that is no level would be taken for a part's name, and mean everything of it.
    let sound = text.split(',').map(str::trim).all(|directive| {
        directive.contains(['=', '[']) || levels.contains(&directive.to_ascii_lowercase().as_str())
    });
    if sound && EnvFilter::try_new(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err(RIGHT.to_owned())
    }
}
