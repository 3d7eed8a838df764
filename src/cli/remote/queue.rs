//! `shipbell queue …`: what is owed.

use clap::Subcommand;

use super::{Client, Listing, Query, Server, age, text};
use crate::{
    cli::Failure,
    config::{Config, Problems},
};

/// Subcommands of `shipbell queue`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List what is owed now, by repository and endpoint, and what it waits for.
    #[command(after_help = "\
Examples:
  shipbell queue ls
  shipbell queue ls --endpoint ci
  shipbell queue ls --repository acme/app --output json")]
    Ls {
        /// Of this repository alone
        #[arg(long)]
        repository: Option<String>,
        /// For this endpoint alone
        #[arg(long)]
        endpoint: Option<String>,
        #[command(flatten)]
        /// How much, and how.
        listing: Listing,
        #[command(flatten)]
        /// Whom to ask.
        server: Server,
    },
}

/// Runs the command.
///
/// # Errors
/// The server can't be asked, or refuses.
pub fn run(command: &Command, load: impl FnOnce() -> Result<Config, Problems>) -> Result<(), Failure> {
    let Command::Ls {
        repository,
        endpoint,
        listing,
        server,
    } = command;
    let query = Query::default()
        .with("repository", repository.as_ref())
        .with("endpoint", endpoint.as_ref());
    Client::of(server, load)?.print_list(
        "/api/v1/queue",
        &query,
        listing,
        &[
            ("REPOSITORY", |item| text(item, "repository")),
            ("ENDPOINT", |item| text(item, "endpoint")),
            ("PUSHES", |item| text(item, "pushes")),
            ("OLDEST", |item| age(item, "oldest_age_s")),
            ("STATE", |item| text(item, "state")),
            ("NEXT ATTEMPT", |item| text(item, "next_attempt")),
            ("REASON", |item| text(item, "reason")),
        ],
    )
}
