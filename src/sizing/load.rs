//! Reading a repository's list of tags, once.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use tokio::time::{Instant, sleep};

use super::manifests::{Call, Manifests, Unavailable};
use crate::image::{Digest, Tag};

/// How far the reading has come. It belongs to whoever reads; when its deadline cuts it, the next one
/// goes on from here, so that even a repository too large for one deadline is known in the end.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The list, and how often the repository had been deleted when it was read.
    list: Option<(u64, Vec<Tag>)>,
    /// What each tag names; `None` when the registry no longer has it.
    named: HashMap<Tag, Option<Digest>>,
}

/// So many tags are asked for without waiting whether events name them.
const OPEN_AT_ONCE_MAX: usize = 64;

/// A repository of which nothing was told for so long is quiet.
const QUIET: Duration = Duration::from_millis(200);

/// How long a repository is waited for to become quiet, and which part of the time there is.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(10);
const QUIET_WAIT_PART: u32 = 3;

/// Waits while events of the repository keep coming: a registry that works off a backlog tells for nothing
/// what its tags name, and would be slowed down by thousands of questions just then.
async fn quiet(call: &Call) {
    let wait = call.deadline.saturating_duration_since(Instant::now()) / QUIET_WAIT_PART;
    let end = Instant::now() + wait.min(QUIET_WAIT_MAX);
    while Instant::now() + QUIET <= end {
        let version = call.repository.ledger().version();
        sleep(QUIET).await;
        if call.repository.ledger().version() == version {
            return;
        }
    }
}

impl Manifests {
    /// Reads the list of the call's repository unless that was done. One reads, the others wait.
    pub(super) async fn load(&self, call: &Call) -> Result<(), Unavailable> {
        let repository = &call.repository;
        if repository.ledger().is_complete() {
            return Ok(());
        }
        let mut progress = repository.load.lock().await;
        if repository.ledger().is_complete() {
            return Ok(());
        }
        let emptied = repository.ledger().emptied();
        let list = match progress.list.take() {
            Some((read_at, list)) if read_at == emptied => list,
            _ => {
                progress.named.clear();
                self.has_listed.store(true, Ordering::Relaxed);
                let request = || self.client.tags(&call.name);
                // A registry whose tags can't be listed at all: not a repository without tags.
                let tags = self.ask(call, request).await?;
                tags.ok_or(crate::registry::RegistryError::NotFound)?
            }
        };
        let open = |progress: &Progress| -> Vec<Tag> {
            let ledger = repository.ledger();
            let is_open = |tag: &&Tag| !progress.named.contains_key(*tag) && !ledger.is_told(tag);
            list.iter().filter(is_open).cloned().collect()
        };
        if open(&progress).len() > OPEN_AT_ONCE_MAX {
            quiet(call).await;
        }
        let open = open(&progress);
        progress.list = Some((emptied, list));
        let mut answers = stream::iter(open)
            .map(async |tag| {
                let is_told = repository.ledger().is_told(&tag);
                let digest = if is_told {
                    None
                } else {
                    self.resolve(call, &tag).await?
                };
                Ok::<_, Unavailable>((tag, digest))
            })
            .buffer_unordered(self.client.concurrency());
        while let Some((tag, digest)) = answers.try_next().await? {
            progress.named.insert(tag, digest);
        }
        let Progress { named, .. } = std::mem::take(&mut *progress);
        let named = named.into_iter().filter_map(|(tag, digest)| Some((tag, digest?)));
        repository.ledger().complete(emptied, named);
        Ok(())
    }

    /// What the tag names. Its manifest comes with the answer and is kept.
    async fn resolve(&self, call: &Call, tag: &Tag) -> Result<Option<Digest>, Unavailable> {
        let request = || self.client.manifest_by_tag(&call.name, tag);
        let Some(raw) = self.ask(call, request).await? else {
            return Ok(None);
        };
        let digest = raw.digest.clone();
        if !self.knows(&digest) {
            let content = self.content(call, raw).await?;
            self.insert(digest.clone(), content);
        }
        Ok(Some(digest))
    }
}
