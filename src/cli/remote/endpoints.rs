//! `shipbell endpoints …`: where webhooks go, and how that is.

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use http::Method;

use super::{
    Client, Listing, Query, Server,
    exchange::{self, ExportArgs, ImportArgs},
    path_of, text,
};
use crate::{
    cli::{Failure, Output, print},
    config::{Config, Problems},
    dispatch::health::State,
};

/// Subcommands of `shipbell endpoints`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the endpoints with their states.
    #[command(after_help = "\
Examples:
  shipbell endpoints ls
  shipbell endpoints ls --state ignored --output json")]
    Ls {
        /// Only those in this state
        #[arg(long, value_parser = PossibleValuesParser::new(State::ALL.map(State::as_str)))]
        state: Option<String>,
        #[command(flatten)]
        /// How much, and how.
        listing: Listing,
        #[command(flatten)]
        /// Whom to ask.
        server: Server,
    },
    /// Show how an endpoint came to be as it is: each change of its state, the newest first.
    #[command(after_help = "\
Examples:
  shipbell endpoints history ci
  shipbell endpoints history acme/app --output json")]
    History {
        /// Its name in the configuration, or a repository that has a webhook of its own, such as acme/app
        #[arg(value_name = "ENDPOINT")]
        id: String,
        #[command(flatten)]
        /// How much, and how.
        listing: Listing,
        #[command(flatten)]
        /// Whom to ask.
        server: Server,
    },
    /// Heal an endpoint: it is sent to again, at once.
    #[command(after_help = "\
Examples:
  shipbell endpoints enable ci
  shipbell endpoints enable acme/app")]
    Enable(One),
    /// Switch an endpoint off: it owes nothing, and what it owed becomes dead letters.
    #[command(after_help = "\
Examples:
  shipbell endpoints disable ci")]
    Disable(One),
    /// Hold an endpoint: it owes, and is sent nothing until it is enabled.
    #[command(after_help = "\
Examples:
  shipbell endpoints hold ci")]
    Hold(One),
    /// Write the repositories' own webhooks as JSON. Reads `settings.db`, beside a running server or without one.
    ///
    /// Without --with-secrets, queries of URLs and values of headers are masked, and secrets are left out: enough to
    /// look at, to compare, and to bring back to where they came from. Endpoints of the configuration stand there.
    #[command(after_help = "\
Examples:
  shipbell endpoints export > webhooks.json
  shipbell endpoints export --with-secrets --out webhooks.secret.json    to move to another server")]
    Export(ExportArgs),
    /// Set the repositories' own webhooks from what `export` wrote. Asks the running server.
    ///
    /// Each is checked by the server before any is changed; if one can't be used, none is. What is masked or left out
    /// stays as it is on the server. Webhooks that are not in the file stay too.
    #[command(after_help = "\
Examples:
  shipbell endpoints import webhooks.json --dry-run
  shipbell endpoints import webhooks.secret.json
  shipbell endpoints export --data-dir /old | shipbell endpoints import - --dry-run")]
    Import(ImportArgs),
}

/// One endpoint.
#[derive(Debug, Args)]
pub struct One {
    /// Its name in the configuration, or a repository that has a webhook of its own, such as acme/app
    ///
    /// A name without a slash means the endpoint of the configuration, if there is one of that name; write
    /// `repository:NAME` for the repository's.
    #[arg(value_name = "ENDPOINT")]
    id: String,
    /// How to print what it is then
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    /// Whom to ask.
    server: Server,
}

/// Runs the command.
///
/// # Errors
/// The server can't be asked, or refuses.
pub fn run(command: &Command, load: impl FnOnce() -> Result<Config, Problems>) -> Result<(), Failure> {
    let (one, verb) = match command {
        Command::Ls {
            state,
            listing,
            server,
        } => {
            let query = Query::default().with("state", state.as_ref());
            return Client::of(server, load)?.print_list(
                "/api/v1/endpoints",
                &query,
                listing,
                &[
                    ("ENDPOINT", |item| text(item, "id")),
                    ("STATE", |item| text(item, "state")),
                    ("SINCE", |item| text(item, "since")),
                    ("FAILURES", |item| text(item, "failures")),
                    ("NEXT ATTEMPT", |item| text(item, "next_attempt")),
                    ("URL", |item| text(item, "url")),
                    ("REASON", |item| text(item, "reason")),
                ],
            );
        }
        Command::History { id, listing, server } => {
            let client = Client::of(server, load)?;
            return client.print_list(
                &path_of("/api/v1/endpoints/", &client.identity(id)?, "/states"),
                &Query::default(),
                listing,
                &[
                    ("AT", |item| text(item, "at")),
                    ("FROM", |item| text(item, "from")),
                    ("TO", |item| text(item, "to")),
                    ("FAILURES", |item| text(item, "failures")),
                    ("REASON", |item| text(item, "reason")),
                ],
            );
        }
        Command::Enable(one) => (one, "/enable"),
        Command::Disable(one) => (one, "/disable"),
        Command::Hold(one) => (one, "/hold"),
        Command::Export(arguments) => return exchange::export(arguments, load),
        Command::Import(arguments) => return exchange::import(arguments, load),
    };
    let client = Client::of(&one.server, load)?;
    let id = client.identity(&one.id)?;
    let set = client.ask(Method::POST, &path_of("/api/v1/endpoints/", &id, verb))?;
    match one.output {
        Output::Json => print(&format!("{set:#}\n"))?,
        Output::Text => print(&format!("{id} is {}\n", text(&set, "state")))?,
    }
    Ok(())
}
