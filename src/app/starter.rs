//! The thread on which a start does what takes much memory for a while.
//!
//! What one thread takes and another lets go of stays with the first: its allocator has it back once that thread takes
//! something again. On the runtime's threads for blocking work, of which another one may come each time and then stays
//! idle, up to 20 MiB of a million pushes' notes were not given back. This thread takes and lets go, and ends with the
//! start.

use std::{
    io,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use tokio::sync::oneshot;

use super::RunError;

type Step = Box<dyn FnOnce() + Send>;

/// The thread; it ends with this.
pub(super) struct Starter(SyncSender<Step>);

impl Starter {
    /// Begins it.
    pub(super) fn begin() -> Result<Self, RunError> {
        // One is taken after the other.
        let (sender, steps) = sync_channel::<Step>(1);
        let run = move || steps.into_iter().for_each(|step| step());
        let thread = thread::Builder::new().name("start".to_owned());
        thread.spawn(run).map_err(RunError::System)?;
        Ok(Self(sender))
    }

    /// Takes a step there. One that panics ends the thread, and fails.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RunError> {
        let (done, is_done) = oneshot::channel();
        let step: Step = Box::new(move || drop(done.send(step())));
        // Without the thread nothing is done either.
        let _ = self.0.send(step);
        is_done
            .await
            .map_err(|error| RunError::System(io::Error::other(error)))
    }
}
