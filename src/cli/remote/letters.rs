//! `shipbell dead-letters …`: pushes that were given up on.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::{Client, Listing, Query, Server, moment, text};
use crate::{
    cli::{Failure, Output, complain, print},
    config::{Config, Problems},
};

/// Subcommands of `shipbell dead-letters`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List dead letters by number, the newest first.
    #[command(after_help = "\
Examples:
  shipbell dead-letters ls
  shipbell dead-letters ls --endpoint ci --since 2026-11-24T00:00:00Z
  shipbell dead-letters ls --repository 'acme/**' --output json")]
    Ls {
        #[command(flatten)]
        /// Which are meant.
        which: Which,
        #[command(flatten)]
        /// How much, and how.
        listing: Listing,
        #[command(flatten)]
        /// Whom to ask.
        server: Server,
    },
    /// Send dead letters again: in the order of their pushes, at the pace of their endpoints, also after a restart.
    ///
    /// Of several of one tag the newest goes, and none past a newer push of its tag, unless forced.
    #[command(after_help = "\
Examples:
  shipbell dead-letters replay --endpoint ci --dry-run      count first
  shipbell dead-letters replay --endpoint ci
  shipbell dead-letters replay --id 17 --id 18 --force
  shipbell dead-letters replay --all")]
    Replay {
        #[command(flatten)]
        /// Which are meant.
        which: Which,
        /// All there are, when nothing else says which
        #[arg(long)]
        all: bool,
        /// Say what it would come to, and send nothing
        #[arg(long)]
        dry_run: bool,
        /// Also those of which a newer push of the same tag is known
        #[arg(long)]
        force: bool,
        /// How to print what it comes to
        #[arg(long, value_enum, default_value_t)]
        output: Output,
        #[command(flatten)]
        /// Whom to ask.
        server: Server,
    },
}

/// Which dead letters are meant: those that fulfil all of it.
#[derive(Debug, Args)]
pub struct Which {
    /// This one; again for more
    #[arg(long = "id", value_name = "NUMBER")]
    ids: Vec<u64>,
    /// Those for this endpoint
    #[arg(long)]
    endpoint: Option<String>,
    /// Those of this repository, or of those that match, such as 'acme/**'
    #[arg(long)]
    repository: Option<String>,
    /// Those of this tag
    #[arg(long)]
    tag: Option<String>,
    /// Those given up on then or later, such as 2026-11-24T09:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<String>,
    /// Those given up on before
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<String>,
}

impl Which {
    fn query(&self) -> Query {
        let ids: Vec<String> = self.ids.iter().map(ToString::to_string).collect();
        Query::default()
            .with("id", (!ids.is_empty()).then(|| ids.join(",")))
            .with("endpoint", self.endpoint.as_ref())
            .with("repository", self.repository.as_ref())
            .with("tag", self.tag.as_ref())
            .with("since", self.since.as_ref())
            .with("until", self.until.as_ref())
    }
}

/// Runs the command.
///
/// # Errors
/// The server can't be asked, or refuses.
pub fn run(command: &Command, load: impl FnOnce() -> Result<Config, Problems>) -> Result<(), Failure> {
    match command {
        Command::Ls {
            which,
            listing,
            server,
        } => Client::of(server, load)?.print_list(
            "/api/v1/dead-letters",
            &which.query(),
            listing,
            &[
                ("ID", |item| text(item, "id")),
                ("STATE", |item| text(item, "state")),
                ("GIVEN UP", |item| text(item, "died_at")),
                ("ENDPOINT", |item| text(item, "endpoint")),
                ("REPOSITORY", |item| text(item, "repository")),
                ("TAG", |item| text(item, "tag")),
                ("ATTEMPTS", |item| text(item, "attempts")),
                ("REASON", |item| text(item, "reason")),
            ],
        ),
        Command::Replay {
            which,
            all,
            dry_run,
            force,
            output,
            server,
        } => {
            let query = which.query();
            if query.0.is_empty() && !all {
                let error = anyhow::anyhow!(
                    "say which: by --id, --endpoint, --repository, --tag, --since, --until; or --all"
                );
                return Err(Failure::new(crate::cli::Exit::Usage, error));
            }
            let query = query
                .with("dry_run", dry_run.then_some(true))
                .with("force", force.then_some(true));
            let path = query.after("/api/v1/dead-letters/replay");
            let told = Client::of(server, load)?.ask(Method::POST, &path)?;
            if *output == Output::Json {
                return Ok(print(&format!("{told:#}\n"))?);
            }
            let verb = if *dry_run { "would be sent" } else { "are sent" };
            print(&format!(
                "{} meant: {} {verb} again, {} stay because of a newer push of their tag\n",
                text(&told, "matched"),
                text(&told, "replayed"),
                text(&told, "passed_over"),
            ))?;
            for refused in told
                .get("refused")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let (letters, reason) = (text(refused, "letters"), text(refused, "reason"));
                complain("note", &format!("{letters} stay: {reason}"));
            }
            Ok(())
        }
    }
}
