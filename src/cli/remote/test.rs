//! `shipbell webhook test`: a test, sent by the running server.

use anyhow::anyhow;
use clap::Args;
use http::Method;
use serde_json::Value;

use super::{Client, Server, path_of, text};
use crate::{
    cli::{Exit, Failure, Output, print},
    config::{Config, Problems},
};

/// Arguments of `shipbell webhook test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// An endpoint's name in the configuration, or a repository that has a webhook of its own, such as acme/app
    #[arg(value_name = "ENDPOINT|REPOSITORY")]
    whose: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    /// Whom to ask.
    server: Server,
}

/// Runs the command.
///
/// # Errors
/// The server can't be asked or refuses, or the test was not answered with 2xx.
pub fn run(arguments: &TestArgs, load: impl FnOnce() -> Result<Config, Problems>) -> Result<(), Failure> {
    let whose = arguments.whose.as_str();
    // A name in the configuration has no slash. A repository without one is `repository:NAME`.
    let path = if whose.contains('/') && !whose.starts_with("repository:") {
        path_of("/api/v1/repositories/", whose, "/webhook/test")
    } else {
        path_of("/api/v1/endpoints/", whose, "/test")
    };
    let sent = Client::of(&arguments.server, load)?.ask(Method::POST, &path)?;
    let is_delivered = sent.get("delivered").and_then(Value::as_bool) == Some(true);
    match arguments.output {
        Output::Json => print(&format!("{sent:#}\n"))?,
        Output::Text => {
            let seconds = sent.get("elapsed_s").and_then(Value::as_f64).unwrap_or_default();
            let came = if is_delivered {
                format!("answered {}", text(&sent, "status"))
            } else {
                text(&sent, "reason")
            };
            print(&format!(
                "{}: {came}, after {seconds:.3} s ({})\n",
                text(&sent, "url"),
                text(&sent, "id")
            ))?;
        }
    }
    if is_delivered {
        return Ok(());
    }
    let exit = if sent.get("status").is_none_or(Value::is_null) {
        Exit::Unreachable
    } else {
        Exit::Failure
    };
    Err(Failure::new(
        exit,
        anyhow!("the test was not taken: {}", text(&sent, "reason")),
    ))
}
