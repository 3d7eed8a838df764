//! How what changes in memory comes into `settings.db`: by one task, all that waits in one transaction, on a thread
//! that may block.

use std::{io, time::Duration};

use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::settings::AccessError;

/// The wait before it is written again what could not be.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long the last write may take, at the end.
const LAST_TIMEOUT: Duration = Duration::from_secs(5);

/// When something is written.
#[derive(Debug)]
pub(super) struct Keeper<'a> {
    /// Tells that something is to be.
    unsaved: &'a Notify,
    /// How long after a write the next comes, at the earliest.
    every: Duration,
    next: Instant,
    has_failed: bool,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(unsaved: &'a Notify, every: Duration) -> Self {
        Self {
            unsaved,
            every,
            next: Instant::now(),
            has_failed: false,
        }
    }

    /// Waits until something is to be written; whether it is, or the token was cancelled before.
    pub(super) async fn is_due(&self, soft: &CancellationToken) -> bool {
        let due = async {
            sleep_until(self.next).await;
            self.unsaved.notified().await;
        };
        soft.run_until_cancelled(due).await.is_some()
    }

    /// It was written, or could not be: then it will be again. What is to be told of it: of failures in a row the first.
    pub(super) fn wrote(&mut self, written: io::Result<()>) -> Option<io::Error> {
        let had_failed = std::mem::replace(&mut self.has_failed, written.is_err());
        self.next = Instant::now() + if self.has_failed { AGAIN_AFTER } else { self.every };
        let error = written.err()?;
        self.unsaved.notify_one();
        (!had_failed).then_some(error)
    }
}

/// The last write, which is not waited for for ever.
pub(super) async fn last(save: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let saved = timeout(LAST_TIMEOUT, save).await;
    saved.map_err(io::Error::other).flatten()
}

/// Writes on a thread that may block.
pub(super) async fn write(
    write: impl FnOnce() -> Result<(), AccessError> + Send + 'static,
) -> io::Result<()> {
    let written = spawn_blocking(write).await;
    written.map_err(io::Error::other)?.map_err(io::Error::other)
}
