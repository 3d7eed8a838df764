//! `shipbell journal …`: look at the journal, check it, repair it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, Failure};
use crate::{
    clock::Clock,
    config::{Config, Problems},
    journal::{self, Holder, ToolError},
};

mod inspect;
mod repair;
mod verify;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what the journal holds: its identity, each segment, what is owed.
    ///
    /// Works without a server and beside one; it locks and changes nothing, and reading rights are enough.
    /// Exit code 1 if there is no journal. Of a damaged one it shows what can be read; `verify` says what is wrong.
    #[command(after_help = "\
Examples:
  shipbell journal inspect
  shipbell journal inspect --data-dir /var/lib/shipbell --output json
  shipbell journal inspect --records --repository acme/app
  shipbell journal inspect --records --sequence 3051
  shipbell journal inspect --records --output json | jq 'select(.kind == \"push\") | .image'")]
    Inspect(inspect::InspectArgs),
    /// Check every byte of the journal; exit code 65 if there is damage, with each finding.
    ///
    /// Works without a server and beside one; it locks and changes nothing. A last commit that a crash tore, or
    /// that is being written, is no damage: the next start cuts it off and saves it.
    #[command(after_help = "\
Examples:
  shipbell journal verify
  shipbell journal verify --data-dir /var/lib/shipbell
  shipbell journal verify --output json | jq '.findings[]'")]
    Verify(verify::VerifyArgs),
    /// Make a journal that opens out of what can still be read of a damaged one.
    ///
    /// Every push in an intact commit that is still owed stays owed, before and behind the damage, with its
    /// sequence number and order. What was lost is told: the bytes, the commits, the sequence numbers. The old
    /// files are kept whole beside the new ones, as `repair-<UTC time>-<name>`. Needs the journal for itself:
    /// exit code 75 beside a server. If it is interrupted, run it again.
    #[command(after_help = "\
Examples:
  shipbell journal repair --dry-run
  shipbell journal repair
  shipbell journal repair --yes --data-dir /var/lib/shipbell
  shipbell journal repair --yes --output json > repair.json")]
    Repair(repair::RepairArgs),
}

/// Where the journal is.
#[derive(Debug, Args)]
struct Place {
    /// The data directory, in which `journal` is; no configuration is read then
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    data_dir: Option<PathBuf>,
}

impl Place {
    /// The journal's directory.
    fn directory(&self, load: impl FnOnce() -> Result<Config, Problems>) -> Result<PathBuf, Failure> {
        let data_dir = match &self.data_dir {
            Some(path) => path.clone(),
            None => load()?.data_dir,
        };
        Ok(data_dir.join(journal::DIRECTORY))
    }
}

/// Runs `command`; `load` reads the configuration if it takes that.
///
/// # Errors
/// There is no journal, it is damaged or in use, the disk fails, or the configuration has problems.
pub fn run(command: &Command, load: impl FnOnce() -> Result<Config, Problems>) -> Result<(), Failure> {
    match command {
        Command::Inspect(arguments) => inspect::run(arguments, load, &Clock::system()),
        Command::Verify(arguments) => verify::run(arguments, load),
        Command::Repair(arguments) => repair::run(arguments, load, Clock::system()),
    }
}

impl From<ToolError> for Failure {
    fn from(error: ToolError) -> Self {
        let exit = match &error {
            ToolError::Absent { .. } | ToolError::NotRepaired { .. } => Exit::Failure,
            ToolError::Open(error) => error.into(),
            ToolError::NoIdentity { .. } => Exit::Damaged,
        };
        Self::new(exit, error)
    }
}

/// Who has the journal open, as JSON: null for nobody.
fn holder_json(holder: Holder) -> serde_json::Value {
    match holder {
        Holder::Nobody => serde_json::Value::Null,
        Holder::Process(process) => serde_json::json!({ "process": process }),
        Holder::Unknown => serde_json::json!("unknown"),
    }
}

/// `1 push`, `2 pushes`.
fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
