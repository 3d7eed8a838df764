//! `shipbell repositories …`: what was pushed to.

use clap::Subcommand;
use serde_json::Value;

use super::{Client, Listing, Query, Server, age, text};
use crate::{
    cli::Failure,
    config::{Config, Problems},
};

/// Subcommands of `shipbell repositories`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the repositories that were pushed to, or have a webhook of their own.
    #[command(after_help = "\
Examples:
  shipbell repositories ls
  shipbell repositories ls --search acme/ --sort size
  shipbell repositories ls --output json | jq -r '.items[] | select(.queued_pushes > 0).name'")]
    Ls {
        /// Only those with this in their names
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// By what: the newest, the largest first
        #[arg(long, default_value = "name", value_parser = ["name", "last_push", "size"])]
        sort: String,
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
        search,
        sort,
        listing,
        server,
    } = command;
    let query = Query::default()
        .with("q", search.as_ref())
        .with("sort", Some(sort));
    Client::of(server, load)?.print_list(
        "/api/v1/repositories",
        &query,
        listing,
        &[
            ("REPOSITORY", |item| text(item, "name")),
            ("SIZE", |item| size(item)),
            ("TAGS", |item| text(item, "tags")),
            ("LAST PUSH", |item| text(&item["last_push"], "at")),
            ("TAG", |item| text(&item["last_push"], "tag")),
            ("QUEUED", |item| text(item, "queued_pushes")),
            ("OLDEST", |item| age(item, "oldest_age_s")),
            ("ENDPOINTS", |item| text(item, "endpoint_state")),
        ],
    )
}

fn size(item: &Value) -> String {
    let bytes = item["size"].as_u64();
    bytes.map_or_else(
        || "-".to_owned(),
        |bytes| bytesize::ByteSize::b(bytes).to_string(),
    )
}
