//! `shipbell serve`.

use super::Failure;
use crate::config::Config;

/// Runs until it is told to stop.
///
/// # Errors
/// A part could not be built, or one was lost.
pub fn run(config: Config) -> Result<(), Failure> {
    drop(config);
    Err(anyhow::anyhow!("serve is not part of this build").into())
}
