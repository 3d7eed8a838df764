//! `shipbell webhook …`.

use clap::Args;

/// What `webhook listen` takes.
#[derive(Debug, Args)]
pub struct ListenArgs {}

/// Receives and prints webhooks.
///
/// # Errors
/// It can't listen.
#[expect(clippy::unused_async, reason = "the receiver takes its place")]
pub async fn listen(args: ListenArgs) -> anyhow::Result<()> {
    let ListenArgs {} = args;
    anyhow::bail!("the receiver is not part of this build")
}
