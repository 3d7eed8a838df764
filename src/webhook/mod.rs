//! Endpoints and what is sent to them.

use std::{
    collections::{BinaryHeap, HashMap},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use http::{HeaderName, HeaderValue};

use crate::{
    glob::{Patterns, saved::Saved},
    image::{BlobType, Digest, RepositoryName, Tag},
    push::EndpointId,
    secret::Secret,
};

pub mod answer;
pub mod client;
pub mod connect;
mod fingerprint;
pub mod format;
pub mod guard;
pub mod judge;
pub mod masked;
mod pools;
pub mod proxy;
pub mod request;
pub mod sign;
pub mod target;
pub mod tls;
pub mod tunnel;
pub mod way;

/// Which pushes of the same tag survive a batch and a backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Coalesce {
    /// The newest of each tag.
    #[default]
    Tag,
    /// All of them.
    None,
}

/// When a repository's window closes, and what it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batching {
    /// How long the window stays open after its first push; zero seals at once.
    pub window: Duration,
    /// How many pushes seal it early; at least 1.
    pub pushes_max: usize,
    /// Which pushes survive.
    pub coalesce: Coalesce,
}

/// How fast one endpoint may be sent to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second; `None` is as fast as they come.
    pub per_second: Option<f64>,
}

/// How a delivery's body is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// One image a request, the seven keys of the native webhook.
    #[default]
    Native,
}

/// One webhook URL with its settings.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Who it is: this is what owes.
    pub id: EndpointId,
    /// Whose URL it is: where it may point.
    pub author: guard::Author,
    /// Where it is. A secret, because of its query.
    pub url: Secret,
    /// The secret its webhooks are signed with, if any: `whsec_`, or the private key `whsk_`.
    pub secret: Option<Secret>,
    /// The secret before that, of either kind, still valid while it is rotated.
    pub previous_secret: Option<Secret>,
    /// How bodies are written.
    pub format: Format,
    /// Headers added to each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Which repositories it wants. Of a repository's own endpoint, that repository alone.
    pub repositories: Arc<Patterns>,
    /// Which tags it wants.
    pub tags: Tags,
    /// Which of those it doesn't.
    pub exclude_tags: Arc<Patterns>,
    /// Its batching, the general one overridden where it says so.
    pub batching: Arc<Batching>,
    /// Its pace.
    pub rate: Rate,
    /// What it takes to get there, where that is more than for others.
    pub way: Option<Arc<way::Way>>,
}

/// Patterns of tags.
#[derive(Clone, Debug)]
pub enum Tags {
    /// An operator's, which the configuration holds, or those that many have in common.
    Set(Arc<Patterns>),
    /// Those that somebody saved for a repository.
    Saved(Saved),
}

impl Tags {
    fn is_match(&self, tag: &str) -> bool {
        match self {
            Self::Set(set) => set.is_match(tag),
            Self::Saved(saved) => saved.is_match(tag),
        }
    }
}

impl From<Arc<Patterns>> for Tags {
    fn from(set: Arc<Patterns>) -> Self {
        Self::Set(set)
    }
}

impl Endpoint {
    /// Whether it wants a push of `tag` in `repository`. A push without a tag counts as the empty tag,
    /// which `*` and `**` match.
    #[must_use]
    pub fn wants(&self, repository: &RepositoryName, tag: Option<&Tag>) -> bool {
        let tag = tag.map_or("", Tag::as_str);
        let is_its = match &self.id {
            EndpointId::Named(_) => self.repositories.is_match(repository.as_str()),
            EndpointId::Repository(own) => own == repository,
        };
        is_its && self.tags.is_match(tag) && !self.exclude_tags.is_match(tag)
    }
}

/// The least so many, in order.
fn first<T: Ord>(most: usize, all: impl Iterator<Item = T>) -> Vec<T> {
    let mut least = BinaryHeap::with_capacity(most + 1);
    for one in all {
        if least.len() < most || least.peek().is_some_and(|last| one < *last) {
            least.push(one);
        }
        if least.len() > most {
            least.pop();
        }
    }
    least.into_sorted_vec()
}

/// All endpoints, as they stand at each moment. Cheap to clone: clones see the same.
///
/// The operator's come from the configuration, the repositories' from the settings; each changes while the process
/// runs. Whoever has one holds it as it was.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Arc<RwLock<Set>>);

#[derive(Debug, Default)]
struct Set {
    by_id: HashMap<EndpointId, Arc<Endpoint>>,
    /// The operator's, in the configuration's order.
    named: Arc<[Arc<Endpoint>]>,
}

impl Endpoints {
    /// The operator's `endpoints`, each identity once.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        let set = Self::default();
        set.replace_named(endpoints.into_iter().map(Arc::new).collect());
        set
    }

    /// The endpoint of that identity, if there still is one.
    #[must_use]
    pub fn get(&self, id: &EndpointId) -> Option<Arc<Endpoint>> {
        self.read().by_id.get(id).map(Arc::clone)
    }

    /// The operator's, in the configuration's order.
    #[must_use]
    pub fn named(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.read().named)
    }

    /// The identities of all there are, in no order.
    #[must_use]
    pub fn ids(&self) -> Vec<EndpointId> {
        self.read().by_id.keys().cloned().collect()
    }

    /// Of the repositories' own that are meant, the first so many, in the order of their names. `is_meant` may not ask for
    /// endpoints: nobody can change any meanwhile.
    #[must_use]
    pub fn first_own(&self, most: usize, is_meant: impl Fn(&EndpointId) -> bool) -> Vec<EndpointId> {
        let set = self.read();
        let is_own = |id: &EndpointId| matches!(id, EndpointId::Repository(_));
        let own = set.by_id.keys().filter(|id| is_own(id) && is_meant(id));
        let first = first(most, own);
        first.into_iter().cloned().collect()
    }

    /// The repositories that have one of their own, in no order.
    #[must_use]
    pub fn repositories(&self) -> Vec<RepositoryName> {
        let set = self.read();
        let own = set.by_id.keys().filter_map(|id| match id {
            EndpointId::Named(_) => None,
            EndpointId::Repository(name) => Some(name.clone()),
        });
        own.collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().by_id.len()
    }

    /// Who owes a push of `tag` in `repository`: the operator's that want it, then the repository's own.
    #[must_use]
    pub fn owing(&self, repository: &RepositoryName, tag: Option<&Tag>) -> Vec<EndpointId> {
        let wants = |endpoint: &&Arc<Endpoint>| endpoint.wants(repository, tag);
        let (mut owing, own) = {
            let set = self.read();
            let own = set.by_id.get(&EndpointId::Repository(repository.clone()));
            let named = set.named.iter().filter(wants).map(|endpoint| endpoint.id.clone());
            (named.collect::<Vec<_>>(), own.cloned())
        };
        // Its patterns may have to be compiled first: nobody waits for that.
        owing.extend(own.iter().filter(wants).map(|endpoint| endpoint.id.clone()));
        owing
    }

    /// The endpoints that want pushes of `repository`, whatever the tag.
    #[must_use]
    pub fn concerned(&self, repository: &RepositoryName) -> Vec<EndpointId> {
        let set = self.read();
        let own = set.by_id.get(&EndpointId::Repository(repository.clone()));
        let named = set
            .named
            .iter()
            .filter(|endpoint| endpoint.repositories.is_match(repository.as_str()));
        named.chain(own).map(|endpoint| endpoint.id.clone()).collect()
    }

    /// Adds an endpoint, or puts it in the place of the one of its identity. Of the operator's, none is new.
    pub fn put(&self, endpoint: Endpoint) {
        self.write().by_id.insert(endpoint.id.clone(), Arc::new(endpoint));
    }

    /// Takes an endpoint out.
    pub fn remove(&self, id: &EndpointId) {
        self.write().by_id.remove(id);
    }

    /// Puts these in the place of all of the operator's.
    pub fn replace_named(&self, endpoints: Vec<Arc<Endpoint>>) {
        let named: Arc<[_]> = endpoints.into();
        let mut set = self.write();
        set.by_id.retain(|id, _| matches!(id, EndpointId::Repository(_)));
        set.by_id.extend(
            named
                .iter()
                .map(|endpoint| (endpoint.id.clone(), Arc::clone(endpoint))),
        );
        set.named = named;
    }

    /// Every change is whole before anything can panic.
    fn read(&self) -> RwLockReadGuard<'_, Set> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Set> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One layer of an image, as a webhook tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its digest.
    pub digest: Digest,
    /// Compressed bytes, as the registry stores them.
    pub size: u64,
    /// What it is, in the manifest's words.
    pub media_type: BlobType,
}

/// What a webhook says of an image's sizes; what could not be had in time is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Config and layers, each digest once; for an index, over all its children. Bytes.
    pub image_size: Option<u64>,
    /// In manifest order, each digest once. Empty when unknown.
    pub layers: Arc<[Layer]>,
    /// Everything reachable from the repository's tags and from this image. Bytes.
    pub repository_size: Option<u64>,
}

/// Whose fault a failed attempt was, and so what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The endpoint's: it can't be reached or is in trouble (connection, TLS, DNS, timeout, 5xx, 408, 429).
    Endpoint,
    /// The push's: the endpoint answered, and did not want it.
    Push,
    /// The endpoint's, for good: it says that it is gone (410).
    Gone,
    /// Neither's: this process had nothing left to connect with, such as open files.
    Ours,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with 2xx.
    Delivered {
        /// The status.
        status: u16,
    },
    /// Anything else.
    Failed {
        /// Whose fault it was.
        fault: Fault,
        /// The status, when there was an answer.
        status: Option<u16>,
        /// What happened, in words, without any secret.
        reason: String,
        /// How long the endpoint asked us to wait, clamped to 24 h.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// Whether it is the endpoint that failed, for a while or for good.
    #[must_use]
    pub fn is_of_endpoint(&self) -> bool {
        matches!(
            self,
            Self::Failed {
                fault: Fault::Endpoint | Fault::Gone,
                ..
            }
        )
    }

    /// Whether it failed for what this machine had nothing left for.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Failed {
                fault: Fault::Ours,
                ..
            }
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Endpoint => "endpoint",
            Self::Push => "push",
            Self::Gone => "gone",
            Self::Ours => "shipbell",
        })
    }
}

#[cfg(test)]
impl Endpoint {
    /// The operator's, that wants everything at once, for tests.
    pub(crate) fn plain(name: &str, url: &str) -> Self {
        let all = Arc::new(Patterns::everything());
        Self {
            id: EndpointId::Named(name.into()),
            author: guard::Author::Operator,
            url: Secret::inline(url),
            secret: None,
            previous_secret: None,
            format: Format::Native,
            headers: Vec::new(),
            repositories: Arc::clone(&all),
            tags: all.into(),
            exclude_tags: Arc::default(),
            batching: Arc::new(Batching {
                window: Duration::ZERO,
                pushes_max: 1,
                coalesce: Coalesce::None,
            }),
            rate: Rate { per_second: None },
            way: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn the_first_are_those_that_stand_first_when_all_are_sorted() {
        let mut rng = StdRng::seed_from_u64(7);
        for count in [0, 1, 2, 50, 700] {
            let all: Vec<u32> = (0..count).map(|_| rng.random_range(0..900)).collect();
            let mut sorted = all.clone();
            sorted.sort_unstable();
            for most in [0, 1, 2, 49, 50, 51, 900] {
                let wanted = sorted.get(..most).unwrap_or(&sorted);
                assert_eq!(first(most, all.iter().copied()), wanted, "{most} of {count}");
            }
        }
    }
}
