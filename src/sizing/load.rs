//! Reading a repository's list of tags, once.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use futures_util::{StreamExt as _, stream};

use tokio::time::{Instant, sleep};

use super::{
    asking::{Call, Unavailable},
    manifests::Manifests,
    repositories::Repository,
    unreadable::Part,
};
use crate::image::{Digest, Tag};

/// How far the reading has come. It belongs to whoever reads; when its deadline cuts it, the next one
/// goes on from here, so that even a repository too large for one deadline is known in the end.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The list, when it was read, and how often the repository had been deleted then.
    list: Option<(u64, Instant, Vec<Tag>)>,
    /// What each tag names; `None` when the registry no longer has it.
    named: HashMap<Tag, Option<Digest>>,
}

impl Progress {
    /// Whether a list was read that is still of use.
    pub(super) fn has_list(&self) -> bool {
        self.list.is_some()
    }

    /// The tags of the list that are still to be asked for. No other is kept: what was told or answered stays so.
    fn narrow(&mut self, repository: &Repository) -> Vec<Tag> {
        let Some((.., list)) = &mut self.list else {
            return Vec::new();
        };
        // The lock is had for each, so that nobody waits for all.
        list.retain(|tag| !self.named.contains_key(tag) && !repository.ledger().is_told(tag));
        let kept = list.len() + self.named.len();
        repository.asking().loading.store(kept, Ordering::Relaxed);
        list.clone()
    }
}

/// How often a tag that the registry fails at is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tries {
    One,
    Some,
}

/// So many tags are asked for without waiting whether events name them.
const OPEN_AT_ONCE_MAX: usize = 64;

/// A repository in which no tag was told to move for so long is quiet.
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
        let moves = call.repository.ledger().moves();
        sleep(QUIET).await;
        if call.repository.ledger().moves() == moves {
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
        let asking = repository.asking();
        let mut progress = asking.load.lock().await;
        if repository.ledger().is_complete() {
            return Ok(());
        }
        let emptied = repository.ledger().emptied();
        if !matches!(progress.list, Some((deleted, ..)) if deleted == emptied) {
            *progress = Progress::default();
            repository.ledger().forget_doubted();
            let read_at = Instant::now();
            progress.list = Some((emptied, read_at, self.list(call).await?));
        }
        // While one is left alone the number can't be had, whatever the others name.
        for tag in progress.narrow(repository) {
            call.readable(&Part::Tag(tag))?;
        }
        if progress.narrow(repository).len() > OPEN_AT_ONCE_MAX {
            quiet(call).await;
        }
        let open = progress.narrow(repository);
        self.resolve_all(call, open, &mut progress.named).await?;
        let Progress { list, named } = std::mem::take(&mut *progress);
        let named = named.into_iter().filter_map(|(tag, digest)| Some((tag, digest?)));
        let read_at = list.map_or_else(Instant::now, |(_, read_at, _)| read_at);
        repository.ledger().complete(emptied, read_at, named);
        asking.loading.store(0, Ordering::Relaxed);
        Ok(())
    }

    async fn list(&self, call: &Call) -> Result<Vec<Tag>, Unavailable> {
        self.has_listed.store(true, Ordering::Relaxed);
        let request = || self.client.tags(&call.name);
        // A registry whose tags can't be listed at all: not a repository without tags.
        let tags = self.ask(call, &Part::Tags, request).await?;
        let tags = tags.ok_or(crate::registry::RegistryError::NotFound)?;
        call.repository.ledger().unreadable.forget(&Part::Tags);
        Ok(tags)
    }

    /// Asks for what the tags name. Those that the registry fails at come last: what is known of the others stays.
    async fn resolve_all(
        &self,
        call: &Call,
        open: Vec<Tag>,
        named: &mut HashMap<Tag, Option<Digest>>,
    ) -> Result<(), Unavailable> {
        let mut failed = Vec::new();
        let mut answers = stream::iter(open)
            .map(async |tag| {
                let answer = self.resolve(call, &tag, Tries::One).await;
                (tag, answer)
            })
            .buffer_unordered(self.client.concurrency());
        while let Some((tag, answer)) = answers.next().await {
            match answer {
                Ok(digest) => drop(named.insert(tag, digest)),
                Err(Unavailable::Unreadable { .. }) => failed.push(tag),
                Err(error) => return Err(error),
            }
        }
        for tag in failed {
            let digest = self.resolve(call, &tag, Tries::Some).await?;
            named.insert(tag, digest);
        }
        Ok(())
    }

    /// What the tag names, unless an event told that meanwhile. Its manifest comes with the answer and is kept.
    async fn resolve(&self, call: &Call, tag: &Tag, tries: Tries) -> Result<Option<Digest>, Unavailable> {
        if call.repository.ledger().is_told(tag) {
            return Ok(None);
        }
        let part = Part::Tag(tag.clone());
        let request = || self.client.manifest_by_tag(&call.name, tag);
        let answer = match tries {
            Tries::One => self.ask_times(call, &part, 1, request).await?,
            Tries::Some => self.ask(call, &part, request).await?,
        };
        let Some(raw) = answer else {
            return Ok(None);
        };
        let digest = raw.digest.clone();
        if !self.knows(&digest) {
            let content = self.content(call, &part, raw).await?;
            self.insert(digest.clone(), content);
        }
        call.repository.ledger().unreadable.forget(&part);
        Ok(Some(digest))
    }
}
