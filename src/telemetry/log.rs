//! Log lines: to stderr, one line an event, as text for people or JSON for machines.

use std::{
    fmt,
    io::{self, IsTerminal},
    os::fd::AsFd,
    sync::Mutex,
    time::Duration,
};

use tokio::time::Instant;
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
    util::SubscriberInitExt,
};

use super::lines::Lines;
pub use super::lines::left_out;
use crate::{clock::Clock, locked::Locked as _};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, the event's fields at its top level.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is none.
    #[error("the log level {level:?} is not valid: {reason}")]
    Level {
        /// As given.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice,
    /// The system has no file or no thread for it.
    #[error("there is no way to stderr: {0}")]
    System(#[from] io::Error),
}

/// What lines about who changed what are told under.
const AUDIT: &str = "shipbell::audit";

/// Sends this process's log lines of `level` (`info`, or directives such as
/// `info,shipbell::journal=debug`) and above to stderr, and those of the audit at any level but `off`. On a terminal
/// they have colours, unless `no_color`. Whoever does not read them holds nobody up ([`left_out`]).
///
/// # Errors
/// See [`LoggingError`].
pub fn init_logging(format: LogFormat, level: &str, no_color: bool) -> Result<Log, LoggingError> {
    let ansi = io::stderr().is_terminal() && !no_color;
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let lines = stderr.and_then(|stderr| Lines::new(stderr.into()))?;
    subscriber(format, level, ansi, Clock::system(), lines.clone())?
        .try_init()
        .map_err(|_| LoggingError::Twice)?;
    Ok(Log(lines))
}

/// How long the last lines may take at the end.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The log. When it is dropped, at the end of the process, the last lines are waited for a while.
#[derive(Debug)]
pub struct Log(Lines);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(FLUSH_WITHIN);
    }
}

fn subscriber(
    format: LogFormat,
    level: &str,
    ansi: bool,
    clock: Clock,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LoggingError> {
    // Who changed what is told at any level but none, unless it is spoken of.
    let directives = if level.trim() == "off" || level.contains(AUDIT) {
        level.to_owned()
    } else {
        format!("{level},{AUDIT}=info")
    };
    let filter = EnvFilter::builder()
        .parse(directives)
        .map_err(|error| LoggingError::Level {
            level: level.to_owned(),
            reason: error.to_string(),
        })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(WallTime(clock))
        .with_ansi(ansi)
        // They would go to stderr in another way, and end the process if they can't.
        .log_internal_errors(false)
        .with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(lines.finish()),
        LogFormat::Json => Box::new(
            lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .finish(),
        ),
    })
}

struct WallTime(Clock);

impl FormatTime for WallTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", self.0.now())
    }
}

/// How often a [`Throttle`] lets a line through.
const THROTTLE_EVERY: Duration = Duration::from_secs(10);

/// Keeps a line that anybody can provoke from filling the log: the first goes through at once, after
/// it at most one per 10 s, with the number of those it speaks for.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Throttled>);

#[derive(Debug, Default)]
struct Throttled {
    quiet_until: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// A throttle that lets its first line through.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to log this time; if so, how many times it happened since the last line, this one included.
    pub fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.0.locked();
        state.held_back += 1;
        if state.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        state.quiet_until = Some(now + THROTTLE_EVERY);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Timestamp;

    fn logged(format: LogFormat, level: &str) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let clock = Clock::from_fn(|| Timestamp::from_unix_millis(1_795_424_918_473));
        let subscriber = subscriber(format, level, false, clock, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(repository = "acme/app", "push taken");
            tracing::debug!("too much");
            tracing::info!(target: "shipbell::audit", by = "ann", "webhook saved");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_lines_begin_with_the_time_in_utc_and_have_no_escapes() {
        let text = logged(LogFormat::Text, "info");
        assert!(text.starts_with("2026-11-23T09:08:38.473Z  INFO "), "{text}");
        assert!(text.contains("push taken repository=\"acme/app\"\n"), "{text}");
        assert!(!text.contains('\x1b') && !text.contains("too much"));
    }

    #[test]
    fn json_lines_have_their_fields_at_the_top() {
        let text = logged(LogFormat::Json, "info");
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["timestamp"], "2026-11-23T09:08:38.473Z");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "push taken");
        assert_eq!(line["repository"], "acme/app");
    }

    #[test]
    fn who_changed_what_is_told_at_any_level_but_none_unless_it_is_spoken_of() {
        for (level, lines) in [
            ("warn", 1),
            ("error", 1),
            ("off", 0),
            ("info,shipbell::audit=off", 1),
            ("info", 2),
        ] {
            let text = logged(LogFormat::Text, level);
            assert_eq!(text.lines().count(), lines, "{level}: {text}");
            let is_told = text.contains("by=\"ann\"");
            assert_eq!(is_told, !level.contains("off"), "{level}: {text}");
        }
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        let result = subscriber(LogFormat::Text, "loud=very", false, Clock::system(), io::stderr);
        assert!(matches!(result.err(), Some(LoggingError::Level { level, .. }) if level == "loud=very"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_lets_the_first_through_and_then_one_in_ten_seconds() {
        let throttle = Throttle::new();
        assert_eq!(throttle.due(), Some(1));
        assert_eq!(throttle.due(), None);
        assert_eq!(throttle.due(), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(throttle.due(), Some(3));
        assert_eq!(throttle.due(), None);
    }
}
