//! The repositories that are kept in memory, and the bound on them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::time::Instant;

use super::{ledger::Ledger, load::Progress, sums::Sums};
use crate::{image::RepositoryName, locked::Locked as _};

/// One repository.
#[derive(Debug, Default)]
pub(super) struct Repository {
    ledger: Mutex<Ledger>,
    /// Made with the first question: many have none.
    asking: OnceLock<Box<Asking>>,
    used_at: AtomicU64,
    weight: AtomicUsize,
}

/// What a repository has that the registry is asked about.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Held by whoever reads the list of tags.
    pub(super) load: tokio::sync::Mutex<Progress>,
    /// Tags that the reading keeps.
    pub(super) loading: AtomicUsize,
    /// When the registry last told what this one has, or that it doesn't have it: its storage was read for that.
    read_at: Mutex<Option<Instant>>,
    /// Places of the sums over it.
    pub(super) sums: Sums,
}

impl Repository {
    /// What is kept for asking the registry about it.
    pub(super) fn asking(&self) -> &Asking {
        self.asking.get_or_init(Box::default)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.locked()
    }

    /// The registry told what it has, or that it doesn't have it.
    pub(super) fn note_read(&self) {
        *self.asking().read_at.locked() = Some(Instant::now());
    }

    /// Whether it did so since.
    pub(super) fn was_read_since(&self, since: Instant) -> bool {
        let read_at = self.asking.get().and_then(|asking| *asking.read_at.locked());
        read_at.is_some_and(|read_at| read_at >= since)
    }

    /// Its tags may all name something else since `now`. What is being sized or read goes on.
    pub(super) fn doubt(&self, now: Instant) {
        let is_read = self.asking.get().is_some_and(|asking| {
            asking
                .load
                .try_lock()
                .map_or(true, |progress| progress.has_list())
        });
        let mut ledger = self.ledger();
        ledger.doubt(now);
        if !is_read {
            ledger.forget_doubted();
        }
    }
}

/// All of them, by name. When they outgrow the bounds, the ones not used for longest are forgotten: the
/// next one who asks reads their list of tags anew.
#[derive(Debug)]
pub(super) struct Repositories {
    by_name: Mutex<HashMap<RepositoryName, Arc<Repository>>>,
    /// Since when nothing was forgotten of what events told. Locked last.
    heard_since: Mutex<Instant>,
    names_max: usize,
    entries_max: usize,
    /// Counts uses: the newest has the highest.
    uses: AtomicU64,
    /// Tags and manifests kept, as counted from one forgetting to the next.
    entries: AtomicUsize,
}

impl Repositories {
    pub(super) fn new(names_max: usize, entries_max: usize) -> Self {
        Self {
            by_name: Mutex::default(),
            heard_since: Mutex::new(Instant::now()),
            names_max,
            entries_max,
            uses: AtomicU64::new(0),
            entries: AtomicUsize::new(0),
        }
    }

    /// The repository of that name.
    pub(super) fn get(&self, name: &RepositoryName) -> Arc<Repository> {
        let mut by_name = self.by_name();
        let repository = if let Some(known) = by_name.get(name) {
            Arc::clone(known)
        } else {
            let repository = Repository {
                ledger: Mutex::new(Ledger::heard_since(*self.heard_since())),
                ..Repository::default()
            };
            Arc::clone(
                by_name
                    .entry(name.clone())
                    .or_insert_with(|| Arc::new(repository)),
            )
        };
        let use_number = self.uses.fetch_add(1, Ordering::Relaxed);
        repository.used_at.store(use_number, Ordering::Relaxed);
        if by_name.len() > self.names_max {
            self.forget(&mut by_name);
        }
        repository
    }

    /// The repository of that name, if it is in memory. That is no use of it.
    pub(super) fn peek(&self, name: &RepositoryName) -> Option<Arc<Repository>> {
        self.by_name().get(name).map(Arc::clone)
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        let forgotten = {
            let mut by_name = self.by_name();
            *self.heard_since() = Instant::now();
            std::mem::take(&mut *by_name)
        };
        self.entries.store(0, Ordering::Relaxed);
        // Nobody waits for the lock while it is let go.
        drop(forgotten);
    }

    /// Takes note of how much the repository keeps now.
    pub(super) fn weigh(&self, repository: &Repository) {
        let asking = repository.asking.get();
        let loading = asking.map_or(0, |asking| asking.loading.load(Ordering::Relaxed));
        let weight = repository.ledger().len() + loading;
        let before = repository.weight.swap(weight, Ordering::Relaxed);
        if weight <= before {
            return;
        }
        let grown = weight - before;
        let entries = self.entries.fetch_add(grown, Ordering::Relaxed) + grown;
        if entries > self.entries_max {
            self.forget(&mut self.by_name());
        }
    }

    /// Counts anew, and forgets down to well below the bounds so that the next time is far off.
    fn forget(&self, by_name: &mut HashMap<RepositoryName, Arc<Repository>>) {
        let use_and_weight = |repository: &Arc<Repository>| {
            let weight = repository.weight.load(Ordering::Relaxed);
            (repository.used_at.load(Ordering::Relaxed), weight)
        };
        let mut by_use: Vec<_> = by_name.values().map(use_and_weight).collect();
        let mut names = by_use.len();
        let mut entries: usize = by_use.iter().map(|(_, weight)| weight).sum();
        if names > self.names_max || entries > self.entries_max {
            by_use.sort_unstable();
            let names_wanted = self.names_max - self.names_max / 4;
            let entries_wanted = self.entries_max - self.entries_max / 8;
            let mut last_forgotten = None;
            for (used_at, weight) in by_use {
                if names <= names_wanted && entries <= entries_wanted {
                    break;
                }
                last_forgotten = Some(used_at);
                names -= 1;
                entries -= weight;
            }
            *self.heard_since() = Instant::now();
            by_name.retain(|_, repository| Some(repository.used_at.load(Ordering::Relaxed)) > last_forgotten);
        }
        self.entries.store(entries, Ordering::Relaxed);
    }

    /// Tags and manifests that are counted.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    fn heard_since(&self) -> MutexGuard<'_, Instant> {
        self.heard_since.locked()
    }

    fn by_name(&self) -> MutexGuard<'_, HashMap<RepositoryName, Arc<Repository>>> {
        self.by_name.locked()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::seen::{GONE_AFTER, Presence},
        *,
    };
    use crate::{image::Digest, push::Change};

    fn name(number: usize) -> RepositoryName {
        format!("acme/app{number}").parse().unwrap()
    }

    fn tag(repositories: &Repositories, number: usize, tag: usize) {
        let repository = repositories.get(&name(number));
        repository.ledger().apply(&Change::Tagged {
            repository: name(number),
            tag: format!("v{tag}").parse().unwrap(),
            digest: Digest::sha256(&tag.to_le_bytes()),
        });
        repositories.weigh(&repository);
    }

    #[test]
    fn the_repositories_used_least_recently_are_forgotten_first() {
        let repositories = Repositories::new(16, 1_000_000);
        for number in 0..16 {
            tag(&repositories, number, 1);
        }
        repositories.get(&name(0));
        tag(&repositories, 16, 1);
        let kept = repositories.by_name();
        assert_eq!(kept.len(), 12);
        assert!(kept.contains_key(&name(0)) && kept.contains_key(&name(16)));
        assert!(!kept.contains_key(&name(1)) && !kept.contains_key(&name(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_repository_that_is_new_it_is_known_since_when_nothing_was_forgotten() {
        let (repositories, digest) = (Repositories::new(4, 1_000_000), Digest::sha256(b"child"));
        let is_gone = |number| {
            let (repository, now) = (repositories.get(&name(number)), Instant::now());
            let mut ledger = repository.ledger();
            ledger.miss(&digest, 1, now);
            let snapshot = ledger.snapshot(now);
            matches!(ledger.presence(&digest, &snapshot), Presence::Gone)
        };
        assert!(!is_gone(0), "it may have been pushed before");
        tokio::time::advance(GONE_AFTER).await;
        assert!(is_gone(1));
        for number in 2..6 {
            repositories.get(&name(number));
        }
        assert!(!is_gone(6), "some were forgotten");
        tokio::time::advance(GONE_AFTER).await;
        assert!(is_gone(7));
        repositories.clear();
        assert!(!is_gone(8));
    }

    #[test]
    fn tags_and_manifests_are_bounded_over_all_repositories() {
        let repositories = Repositories::new(1000, 160);
        for number in 0..1000 {
            for version in 0..10 {
                tag(&repositories, number, version);
            }
        }
        let kept: usize = repositories
            .by_name()
            .values()
            .map(|known| known.ledger().len())
            .sum();
        assert!((20..=180).contains(&kept), "{kept}");
        assert!(repositories.by_name().contains_key(&name(999)));
    }

    #[test]
    fn one_that_alone_is_too_large_is_forgotten_although_it_was_used_last() {
        let repositories = Repositories::new(1000, 16);
        tag(&repositories, 1, 1);
        for version in 0..40 {
            tag(&repositories, 2, version);
        }
        let kept: usize = repositories
            .by_name()
            .values()
            .map(|known| known.ledger().len())
            .sum();
        assert!(kept <= 2 * 16, "{kept}");
    }
}
