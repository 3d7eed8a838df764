//! What the environment may say about a run.

use std::path::PathBuf;

use anyhow::Context;

/// A run's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `ROUNDS`: how often each contestant of a row has its turn; each row has a number of its own.
    rounds: Option<usize>,
    /// `ONLY`: the rows whose names begin with it.
    only: String,
    /// `QUICK=1`: a tenth of the work, for seeing that all of it runs.
    pub(crate) is_quick: bool,
    /// `EVENTS`: the registry's backlog in the row `drain`.
    pub(crate) events: u32,
    /// `PEERS`: the peers' program, built by `scripts/bench`; without it there are no peers.
    pub(crate) peers: Option<PathBuf>,
}

impl Settings {
    /// Those of this process.
    pub(crate) fn from_environment() -> anyhow::Result<Self> {
        Ok(Self {
            rounds: number("ROUNDS")?,
            only: text("ONLY").unwrap_or_default(),
            is_quick: text("QUICK").is_some_and(|quick| quick != "0"),
            events: number("EVENTS")?.unwrap_or(4_000),
            peers: text("PEERS").map(PathBuf::from),
        })
    }

    /// Whether any of these rows is wanted.
    pub(crate) fn wants(&self, rows: &[&str]) -> bool {
        rows.iter().any(|row| row.starts_with(&self.only))
    }

    /// How many rounds a row has that would have `usual`.
    pub(crate) fn rounds(&self, usual: usize) -> usize {
        self.rounds
            .unwrap_or(if self.is_quick { 1 } else { usual })
            .max(1)
    }

    /// How much work a row does that would do `usual`.
    pub(crate) fn scaled(&self, usual: u64) -> u64 {
        if self.is_quick { usual / 10 } else { usual }
    }
}

fn number<N: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    name: &str,
) -> anyhow::Result<Option<N>> {
    text(name)
        .map(|text| {
            text.parse()
                .with_context(|| format!("{name} is a number, not {text:?}"))
        })
        .transpose()
}

#[expect(clippy::disallowed_methods, reason = "the benchmark's own settings")]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}
