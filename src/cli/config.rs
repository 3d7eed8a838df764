//! `shipbell config …`: check and print the configuration.

use std::fmt::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Exit, Failure, Output, print};
use crate::config::{self, Config, Problems, Warning};

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell every mistake in the configuration; exit code 78 if there is one.
    #[command(after_help = "\
Examples:
  shipbell config check
  shipbell config check --config new.toml && systemctl restart shipbell")]
    Check(How),
    /// Print the configuration as it comes out of all layers, with where each value is from.
    ///
    /// Secrets and the queries of URLs are masked.
    #[command(after_help = "\
Examples:
  shipbell config show
  shipbell config show | grep -v built-in
  shipbell config show --output json")]
    Show(How),
    /// Print the built-in defaults, with comments: a start for a file of one's own.
    #[command(after_help = "\
Examples:
  shipbell config default > shipbell.toml")]
    Default,
}

/// How the result is printed.
#[derive(Debug, Args)]
pub struct How {
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Runs `command` on what `load` reads.
///
/// # Errors
/// The configuration has problems, or stdout can't be written to.
pub fn run(command: &Command, load: impl FnOnce() -> Result<Config, Problems>) -> Result<(), Failure> {
    match command {
        Command::Default => print(config::default_toml())?,
        Command::Show(How { output }) => {
            let config = load()?;
            print(&match output {
                Output::Text => shown(&config),
                Output::Json => format!("{:#}\n", config.show_json()),
            })?;
        }
        Command::Check(How { output }) => match (output, load()) {
            (Output::Text, config) => print(&summary(&config?))?,
            (Output::Json, Ok(config)) => print(&format!("{:#}\n", verdict(&config)))?,
            (Output::Json, Err(problems)) => {
                print(&format!("{:#}\n", problems_json(&problems)))?;
                return Err(Failure::new(Exit::Configuration, problems));
            }
        },
    }
    Ok(())
}

fn shown(config: &Config) -> String {
    let mut text = config.show_toml();
    if config.endpoints.is_empty() {
        text.push_str("\n# no endpoints: nobody gets webhooks\n");
    }
    text
}

fn summary(config: &Config) -> String {
    let file = config.file.as_ref().map_or_else(
        || "built-in defaults, no file".to_owned(),
        |path| path.display().to_string(),
    );
    let mut text = format!("ok: {file}\n");
    let mut line = |line: String| {
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{line}");
    };
    let names: Vec<&str> = config.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
    match names.len() {
        0 => line("endpoints: none, nobody gets webhooks".to_owned()),
        count => line(format!("endpoints: {count} ({})", names.join(", "))),
    }
    for warning in config.warnings() {
        line(format!("warning: {warning}"));
    }
    text
}

fn verdict(config: &Config) -> serde_json::Value {
    let warning = |warning: &Warning| json!({ "key": warning.key, "message": warning.message });
    json!({
        "ok": true,
        "file": config.file,
        "endpoints": config.endpoints.iter().map(|endpoint| &*endpoint.name).collect::<Vec<_>>(),
        "warnings": config.warnings().iter().map(warning).collect::<Vec<_>>(),
        "problems": [],
    })
}

fn problems_json(problems: &Problems) -> serde_json::Value {
    let problems = problems.iter().map(|problem| {
        json!({
            "key": problem.key,
            "source": problem.source.to_string(),
            "message": problem.message,
        })
    });
    json!({ "ok": false, "problems": problems.collect::<Vec<_>>() })
}
