//! The sizes that are shown of repositories, where no webhook tells them.

use std::{path::PathBuf, time::Duration};

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{
    catalog::{History, Reader},
    clock::Clock,
    image::RepositoryName,
    sizing::{Following, Sizing},
};

/// What keeps the sizes up to date that are shown of repositories.
pub(super) struct Sizes {
    pub(super) sizing: Sizing,
    pub(super) deadline: Duration,
    pub(super) history: History,
    /// That of the history.
    pub(super) file: PathBuf,
    pub(super) clock: Clock,
}

impl Sizes {
    /// Tells the history the sizes that no webhook tells, until `soft` is cancelled. A repository that stands in no list is
    /// passed over.
    pub(super) async fn keep(self, following: Following, soft: CancellationToken) {
        let file = &self.file;
        let is_shown = |repository: RepositoryName| {
            let file = file.clone();
            async move {
                let look = move || Reader::open(&file)?.repository(repository.as_str());
                // A history that can't be read shows none, and says so itself.
                matches!(spawn_blocking(look).await, Ok(Ok(Some(_))))
            }
        };
        let tell = |repository: &RepositoryName, size| self.history.sized(repository, size, self.clock.now());
        following
            .run(self.sizing.clone(), self.deadline, is_shown, tell, soft)
            .await;
    }
}
