//! Start and stop: owned tasks, two-stage shutdown.
//!
//! The *soft* token asks everybody to finish what they hold and take nothing new; the *hard* token
//! cuts what is still running. A task that ends before the soft token was cancelled, by panic or by
//! returning, cancels it: a sidecar that lost a part of itself must not go on as if it had not.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error};

/// Owns every long-running task of the process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    soft: CancellationToken,
    hard: CancellationToken,
    lost: Arc<AtomicBool>,
}

impl Tasks {
    /// An owner of no tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the process should finish what it holds and stop.
    #[must_use]
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when what is still running should be cut.
    #[must_use]
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Runs a task that lives as long as the process: if it ends before the soft token is cancelled,
    /// the process is asked to stop and [`Tasks::lost_one`] tells so.
    pub fn spawn_lasting(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guard = LostTask {
            name,
            tasks: self.clone(),
        };
        self.tracker.spawn(
            async move {
                let _guard = guard;
                task.await;
            }
            .in_current_span(),
        );
    }

    /// Runs a task that ends by itself, such as one connection or one delivery. A panic in it is a
    /// lost task too.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guard = Panicked {
            name,
            tasks: self.clone(),
        };
        self.tracker.spawn(async move {
            let guard = guard;
            task.await;
            drop(guard);
        });
    }

    /// Reports that a part which is not a task of ours (the journal's thread) ended too early.
    pub fn lose(&self, name: &str) {
        error!(task = name, "a part of the process ended unexpectedly; stopping");
        self.lost.store(true, Ordering::Release);
        self.soft.cancel();
    }

    /// Whether a task ended that should not have.
    #[must_use]
    pub fn lost_one(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Waits until every task has ended.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

struct LostTask {
    name: &'static str,
    tasks: Tasks,
}

impl Drop for LostTask {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.tasks.soft.is_cancelled() {
            self.tasks.lose(self.name);
        }
    }
}

struct Panicked {
    name: &'static str,
    tasks: Tasks,
}

impl Drop for Panicked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tasks.lose(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_stops_the_process() {
        let tasks = Tasks::new();
        tasks.spawn_lasting("short", async {});
        tasks.soft().cancelled().await;
        assert!(tasks.lost_one());
    }

    #[tokio::test]
    async fn a_task_that_ends_after_the_soft_token_is_no_loss() {
        let tasks = Tasks::new();
        let soft = tasks.soft().clone();
        tasks.spawn_lasting("patient", async move { soft.cancelled().await });
        tasks.soft().cancel();
        tasks.ended().await;
        assert!(!tasks.lost_one());
    }

    #[tokio::test]
    async fn a_panic_in_a_passing_task_stops_the_process() {
        let tasks = Tasks::new();
        tasks.spawn("fine", async {});
        tasks.spawn("broken", async { panic!("on purpose") });
        tasks.soft().cancelled().await;
        assert!(tasks.lost_one());
    }
}
