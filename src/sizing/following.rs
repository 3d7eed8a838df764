//! Keeps the size up to date of repositories that change without a webhook: nobody owed the push, or something was deleted.
//!
//! Whoever applies a change notes its repository, which costs a short lock; one after another they are sized a moment later.
//! So at most one of them asks the registry, where repositories take turns: webhooks' sizes wait for no more than one turn.
//!
//! What is noted is in memory alone: what changed right before the process ended is found with the next change, or webhook.

use std::{
    collections::{BTreeSet, HashMap},
    future::{Future, pending},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::Sizing;
use crate::{image::RepositoryName, locked::Locked as _, push::Change};

/// So long a repository waits for what else may change. A push is told before its tag can be seen, too.
pub(super) const WAIT: Duration = Duration::from_secs(2);

/// One whose size can't be had is tried again after this, and after twice as long each time; so often in all.
const AGAIN_FIRST: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_mins(10);
const TRIES_MAX: u32 = 10;

/// So many repositories wait at most. The next change of one that finds no room notes it again.
const NAMES_MAX: usize = 10_000;

/// Which repositories are to be sized. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Following(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    agenda: Mutex<Agenda>,
    news: Notify,
}

impl Following {
    /// Takes note of a change that no webhook tells of.
    pub fn note(&self, change: &Change) {
        let moves_tags = !matches!(change, Change::Held { .. } | Change::Doubted { .. });
        if moves_tags && self.0.agenda.locked().note(change.repository(), Instant::now()) {
            self.0.news.notify_one();
        }
    }

    /// Sizes what was noted, each within `deadline`, until `soft` is cancelled. Only what `is_shown` to somebody is asked
    /// for, and what it comes to is told.
    pub async fn run<S>(
        self,
        sizing: Sizing,
        deadline: Duration,
        is_shown: impl Fn(RepositoryName) -> S + Send,
        tell: impl Fn(&RepositoryName, u64) + Send,
        soft: CancellationToken,
    ) where
        S: Future<Output = bool> + Send,
    {
        let work = async {
            loop {
                let next = self.next().await;
                let size = if is_shown(next.repository.clone()).await {
                    let until = Instant::now() + deadline;
                    sizing.repository_size(&next.repository, until).await
                } else {
                    // It may not have been written down yet that there is such a repository.
                    None
                };
                match size {
                    Some(size) => tell(&next.repository, size),
                    None => self.0.agenda.locked().again(next, Instant::now()),
                }
            }
        };
        soft.run_until_cancelled(work).await;
    }

    /// Waits for the next one's time.
    async fn next(&self) -> Due {
        loop {
            let (due, at) = self.0.agenda.locked().take(Instant::now());
            if let Some(due) = due {
                return due;
            }
            let time = async {
                match at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = time => {}
                () = self.0.news.notified() => {}
            }
        }
    }
}

/// A repository whose time has come.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    repository: RepositoryName,
    /// How often it was tried in vain.
    tries: u32,
}

/// Who is to be sized when. Pure.
#[derive(Debug, Default)]
struct Agenda {
    waiting: HashMap<RepositoryName, (Instant, u32)>,
    in_order: BTreeSet<(Instant, RepositoryName)>,
}

impl Agenda {
    /// The repository changed; whether somebody who waits for the next one has to look again.
    fn note(&mut self, repository: &RepositoryName, now: Instant) -> bool {
        let at = now + WAIT;
        if let Some((before, tries)) = self.waiting.get_mut(repository) {
            // Many changes in a row are one, and don't put it off.
            if *before <= at {
                *tries = 0;
                return false;
            }
            let key = (std::mem::replace(before, at), repository.clone());
            *tries = 0;
            self.in_order.remove(&key);
            self.in_order.insert((at, key.1));
            return true;
        }
        self.add(repository.clone(), at, 0)
    }

    /// One could not be sized. It has another turn, unless it had enough of them or changed meanwhile.
    fn again(&mut self, due: Due, now: Instant) {
        let tries = due.tries + 1;
        if tries < TRIES_MAX && !self.waiting.contains_key(&due.repository) {
            let pause = AGAIN_FIRST.saturating_mul(1 << due.tries).min(AGAIN_MAX);
            self.add(due.repository, now + pause, tries);
        }
    }

    fn add(&mut self, repository: RepositoryName, at: Instant, tries: u32) -> bool {
        let has_room = self.waiting.len() < NAMES_MAX;
        if has_room {
            self.in_order.insert((at, repository.clone()));
            self.waiting.insert(repository, (at, tries));
        }
        has_room
    }

    /// The first whose time has come, or when that of the first is.
    fn take(&mut self, now: Instant) -> (Option<Due>, Option<Instant>) {
        let Some((at, repository)) = self.in_order.pop_first() else {
            return (None, None);
        };
        if at > now {
            self.in_order.insert((at, repository));
            return (None, Some(at));
        }
        let tries = self.waiting.remove(&repository).map_or(0, |(_, tries)| tries);
        (Some(Due { repository, tries }), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> RepositoryName {
        format!("acme/app{number}").parse().unwrap()
    }

    fn taken(agenda: &mut Agenda, now: Instant) -> Vec<(RepositoryName, u32)> {
        let next = || agenda.take(now).0.map(|due| (due.repository, due.tries));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn many_changes_are_one_and_do_not_put_it_off() {
        let (mut agenda, began) = (Agenda::default(), Instant::now());
        assert!(agenda.note(&name(1), began));
        assert!(agenda.note(&name(2), began + Duration::from_millis(1)));
        assert!(!agenda.note(&name(1), began + WAIT / 2));
        assert_eq!(
            agenda.take(began + WAIT / 2),
            (None, Some(began + WAIT)),
            "it waits for what else may change"
        );
        let later = began + WAIT + Duration::from_millis(1);
        assert_eq!(taken(&mut agenda, later), [(name(1), 0), (name(2), 0)]);
        assert_eq!(agenda.take(later), (None, None));
    }

    #[test]
    fn one_without_a_size_is_tried_again_ever_later_and_not_for_ever() {
        let (mut agenda, mut now) = (Agenda::default(), Instant::now());
        let mut pauses = Vec::new();
        agenda.note(&name(1), now);
        let mut at = now + WAIT;
        loop {
            pauses.push(at - now);
            now = at;
            let (due, _) = agenda.take(now);
            agenda.again(due.unwrap(), now);
            match agenda.take(now) {
                (None, Some(next)) => at = next,
                (None, None) => break,
                (Some(due), _) => panic!("{due:?} at once"),
            }
        }
        let seconds: Vec<u64> = pauses.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [2, 5, 10, 20, 40, 80, 160, 320, 600, 600]);
    }

    #[test]
    fn a_change_brings_forward_what_waits_to_be_tried_again() {
        let (mut agenda, began) = (Agenda::default(), Instant::now());
        agenda.again(
            Due {
                repository: name(1),
                tries: 5,
            },
            began,
        );
        assert!(agenda.note(&name(1), began));
        assert_eq!(taken(&mut agenda, began + WAIT), [(name(1), 0)]);
        assert!(agenda.waiting.is_empty() && agenda.in_order.is_empty());
    }

    #[test]
    fn one_that_changed_while_it_was_sized_has_its_turn_for_that() {
        let (mut agenda, began) = (Agenda::default(), Instant::now());
        agenda.note(&name(1), began);
        let now = began + WAIT;
        let (due, _) = agenda.take(now);
        agenda.note(&name(1), now);
        agenda.again(due.unwrap(), now);
        assert_eq!(taken(&mut agenda, now + WAIT), [(name(1), 0)]);
        assert_eq!(agenda.take(now + AGAIN_MAX), (None, None));
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let (mut agenda, began) = (Agenda::default(), Instant::now());
        for number in 0..=NAMES_MAX {
            assert_eq!(agenda.note(&name(number), began), number < NAMES_MAX);
        }
        assert_eq!(taken(&mut agenda, began + WAIT).len(), NAMES_MAX);
        assert!(agenda.note(&name(NAMES_MAX), began));
    }

    #[test]
    fn what_moves_no_tag_is_not_noted() {
        let (following, repository) = (Following::default(), name(1));
        let digest = crate::image::Digest::sha256(b"");
        following.note(&Change::Held {
            repository: repository.clone(),
            digest: digest.clone(),
        });
        following.note(&Change::Doubted {
            repository: repository.clone(),
        });
        assert!(following.0.agenda.locked().waiting.is_empty());
        following.note(&Change::Deleted { repository, digest });
        assert_eq!(following.0.agenda.locked().waiting.len(), 1);
    }
}
