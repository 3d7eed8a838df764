//! Manifests, each fetched once: from memory, else from the registry.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use quick_cache::{Weighter, sync::Cache};
use tokio::time::{Instant, timeout};

use super::{
    content::{Blob, Content, Parts, Reached},
    health::{Health, PROBE_TIMEOUT},
    ledger::Snapshot,
    repositories::Repository,
    seen::Presence,
};
use crate::{
    image::{Digest, RepositoryName},
    registry::{Client, Disposition, Manifest, RawManifest, RegistryError, SCHEMA1_LAYER},
};

/// How deep indexes may be nested.
const DEPTH_MAX: usize = 8;

/// How many manifests one image may have.
const IMAGE_MANIFESTS_MAX: usize = 10_000;

/// How many blobs and manifests a repository may have.
const REACHED_MAX: usize = 10_000_000;

/// After how many manifests a long sum lets others run.
const SUM_STEP: usize = 1024;

/// The first pause between two tries; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);

/// The longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How long a manifest is waited for that is being fetched for somebody else: it may be for a repository for which the
/// registry hangs.
const FETCHED_WITHIN: Duration = Duration::from_secs(3);

/// Why a number can't be had. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Unavailable {
    #[error("the registry is known to be down")]
    Down,
    #[error("the deadline has passed")]
    Late,
    #[error("a manifest of the image is not in the registry")]
    Incomplete,
    #[error("the repository was deleted meanwhile")]
    Deleted,
    #[error("{0}")]
    Limit(&'static str),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// One batch being sized: which repository, as of when, and until when.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) name: RepositoryName,
    pub(super) repository: Arc<Repository>,
    pub(super) snapshot: Snapshot,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    /// Whether a request was sent for it.
    pub(super) has_asked: AtomicBool,
    /// Whether nobody was there to answer one.
    pub(super) has_met_silence: AtomicBool,
    /// The first failure that cost it a number.
    pub(super) failure: Mutex<Option<Unavailable>>,
}

impl Call {
    pub(super) fn fail(&self, error: Unavailable) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }
}

/// What is known already of a manifest's being in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A tag names it: it is there.
    Tagged,
    /// An index lists it, or it was pushed once: it may be gone.
    Listed,
    /// It does not matter: only what it says is wanted.
    Any,
}

/// What is known of a manifest without a request.
enum AtHand {
    Content(Arc<Content>),
    /// The registry does not have it.
    Gone,
    Unknown,
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Digest, Arc<Content>> for Bytes {
    fn weight(&self, _: &Digest, content: &Arc<Content>) -> u64 {
        content.weight() + 128
    }
}

/// Manifests by digest, whichever repository they are in: they never change.
pub(super) struct Manifests {
    pub(super) client: Client,
    cache: Cache<Digest, Arc<Content>, Bytes>,
    pub(super) health: Health,
}

impl fmt::Debug for Manifests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifests")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Manifests {
    pub(super) fn new(client: Client, cache_bytes_max: u64) -> Self {
        let items = usize::try_from(cache_bytes_max / 1024)
            .unwrap_or(usize::MAX)
            .max(1);
        Self {
            client,
            cache: Cache::with_weighter(items, cache_bytes_max, Bytes),
            health: Health::default(),
        }
    }

    pub(super) fn insert(&self, digest: Digest, content: Content) {
        self.cache.insert(digest, Arc::new(content));
    }

    pub(super) fn knows(&self, digest: &Digest) -> bool {
        self.cache.contains_key(digest)
    }

    /// Asks the registry until it answers or won't; `None` when it does not have it. Goes on until it is
    /// dropped, unless the registry asks for a pause that ends after the deadline.
    pub(super) async fn ask<T, F>(
        &self,
        call: &Call,
        request: impl Fn() -> F,
    ) -> Result<Option<T>, Unavailable>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let mut backoff = BACKOFF_FIRST;
        loop {
            let probe = self.client.probe(&call.name, PROBE_TIMEOUT);
            if !self.health.admits(probe).await {
                return Err(Unavailable::Down);
            }
            call.has_asked.store(true, Ordering::Relaxed);
            let answer = request().await;
            self.health.note(&answer);
            let error = match answer {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => error,
            };
            if error.is_silence() {
                call.has_met_silence.store(true, Ordering::Relaxed);
                // Whether that goes for others too: an answer to this says that it doesn't.
                if !self.health.was_answered_since(call.since) {
                    let probe = self.client.probe(&call.name, PROBE_TIMEOUT);
                    self.health.note(&probe.await);
                }
            }
            match error.disposition() {
                Disposition::Gone => return Ok(None),
                Disposition::GiveUp => return Err(error.into()),
                Disposition::Retry { after } => {
                    let after = after.unwrap_or_default();
                    if call.deadline.saturating_duration_since(Instant::now()) < after {
                        return Err(error.into());
                    }
                    tokio::time::sleep(after.max(backoff)).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// What is known of the manifest without a request.
    fn at_hand(&self, call: &Call, digest: &Digest, standing: Standing) -> AtHand {
        if standing == Standing::Listed {
            let presence = call.repository.ledger().presence(digest, &call.snapshot);
            match presence {
                Presence::Gone => return AtHand::Gone,
                Presence::Unknown => return AtHand::Unknown,
                Presence::Held => {}
            }
        }
        self.cache.get(digest).map_or(AtHand::Unknown, AtHand::Content)
    }

    /// What the manifest says; `None` when the registry does not have it. Fetched by one and awaited by
    /// all who want it at the same time, unless that takes long.
    async fn look_up(
        &self,
        call: &Call,
        digest: &Digest,
        standing: Standing,
    ) -> Result<Option<Arc<Content>>, Unavailable> {
        match self.at_hand(call, digest, standing) {
            AtHand::Content(content) => return Ok(Some(content)),
            AtHand::Gone => return Ok(None),
            AtHand::Unknown => {}
        }
        let asked_at = call.repository.ledger().version();
        let fetched = timeout(FETCHED_WITHIN, self.cache.get_value_or_guard_async(digest)).await;
        let known = match fetched.map_or_else(|_| Err(None), |fetched| fetched.map_err(Some)) {
            Ok(known) => known,
            Err(guard) => {
                let request = || self.client.manifest(&call.name, digest);
                let Some(raw) = self.ask(call, request).await? else {
                    call.repository.ledger().miss(digest, asked_at, Instant::now());
                    return Ok(None);
                };
                let content = Arc::new(self.content(call, raw).await?);
                let mut ledger = call.repository.ledger();
                if standing != Standing::Tagged || ledger.is_missed(digest) {
                    ledger.hold(digest, asked_at);
                }
                drop(ledger);
                match guard {
                    // Refused only when it was removed meanwhile, which nobody does.
                    Some(guard) => drop(guard.insert(Arc::clone(&content))),
                    None => self.cache.insert(digest.clone(), Arc::clone(&content)),
                }
                return Ok(Some(content));
            }
        };
        if standing != Standing::Listed {
            return Ok(Some(known));
        }
        // Known from elsewhere, or fetched by another a moment ago: is it in this repository?
        let presence = call.repository.ledger().presence(digest, &call.snapshot);
        match presence {
            Presence::Held => return Ok(Some(known)),
            Presence::Gone => return Ok(None),
            Presence::Unknown => {}
        }
        let is_there = self
            .ask(call, || self.client.has_manifest(&call.name, digest))
            .await?;
        if is_there == Some(true) {
            call.repository.ledger().hold(digest, asked_at);
            Ok(Some(known))
        } else {
            call.repository.ledger().miss(digest, asked_at, Instant::now());
            Ok(None)
        }
    }

    /// What a fetched manifest says; for schema 1, with its blobs' sizes.
    pub(super) async fn content(&self, call: &Call, raw: RawManifest) -> Result<Content, Unavailable> {
        let parts = match raw.parse()? {
            Manifest::Image { config, layers } => Parts::Image {
                config: Some(config.into()),
                layers: layers.into_iter().map(Into::into).collect(),
            },
            Manifest::Index { children } => Parts::Index(children.into_iter().map(Into::into).collect()),
            Manifest::Schema1 { layers } => Parts::Image {
                config: None,
                layers: self.schema1_layers(call, layers).await?,
            },
        };
        Ok(Content {
            bytes: raw.content.len() as u64,
            parts,
        })
    }

    /// Schema 1 lists the newest layer first, which is the manifest's order and so stays, and states no size:
    /// each is asked for, once.
    async fn schema1_layers(&self, call: &Call, layers: Vec<Digest>) -> Result<Vec<Blob>, Unavailable> {
        let mut seen = HashSet::new();
        let once = layers.into_iter().filter(|layer| seen.insert(layer.clone()));
        stream::iter(once.collect::<Vec<_>>())
            .map(async |digest| {
                let size = self
                    .ask(call, || self.client.blob_size(&call.name, &digest))
                    .await?;
                Ok(Blob::new(digest, size, SCHEMA1_LAYER.into(), false))
            })
            .buffered(self.client.concurrency())
            .try_collect()
            .await
    }

    /// All manifests below `root`, itself included.
    pub(super) async fn tree(
        &self,
        call: &Call,
        root: &Digest,
    ) -> Result<HashMap<Digest, Arc<Content>>, Unavailable> {
        let mut tree = HashMap::new();
        let mut level = vec![root.clone()];
        for _ in 0..DEPTH_MAX {
            if level.is_empty() {
                return Ok(tree);
            }
            if tree.len() + level.len() > IMAGE_MANIFESTS_MAX {
                return Err(Unavailable::Limit("the image has too many manifests"));
            }
            let mut found = stream::iter(level)
                .map(async |digest| {
                    let content = self.look_up(call, &digest, Standing::Any).await?;
                    Ok::<_, Unavailable>((digest, content.ok_or(Unavailable::Incomplete)?))
                })
                .buffer_unordered(self.client.concurrency());
            let mut next = HashSet::new();
            while let Some((digest, content)) = found.try_next().await? {
                next.extend(content.children().cloned());
                tree.insert(digest, content);
            }
            level = next
                .into_iter()
                .filter(|digest| !tree.contains_key(digest))
                .collect();
        }
        Err(Unavailable::Limit("the image's indexes are nested too deep"))
    }

    /// Whether the registry lacks a manifest of the image `root`, which no event told to be deleted.
    pub(super) fn lacks(&self, call: &Call, root: &Digest) -> bool {
        let mut level = HashSet::from([root.clone()]);
        for _ in 0..DEPTH_MAX {
            let ledger = call.repository.ledger();
            if level.iter().any(|digest| ledger.is_missed(digest)) {
                return true;
            }
            drop(ledger);
            let known = level.iter().filter_map(|digest| self.cache.peek(digest));
            level = known
                .flat_map(|content| content.children().cloned().collect::<Vec<_>>())
                .collect();
        }
        false
    }

    /// Everything reachable from `roots`. What the registry does not have counts nothing.
    pub(super) async fn reach(
        &self,
        call: &Call,
        roots: Vec<Digest>,
        standing: Standing,
    ) -> Result<Reached, Unavailable> {
        let mut reached = Reached::default();
        let (mut level, mut level_standing) = (roots, standing);
        for _ in 0..DEPTH_MAX {
            let standing = level_standing;
            let mut next = Vec::new();
            let mut unknown = Vec::new();
            for (count, digest) in level.into_iter().enumerate() {
                if !reached.visit(&digest) {
                    continue;
                }
                match self.at_hand(call, &digest, standing) {
                    AtHand::Content(content) => {
                        next.extend(content.children().cloned());
                        reached.add(&digest, &content);
                    }
                    AtHand::Gone => {}
                    AtHand::Unknown => unknown.push(digest),
                }
                if count % SUM_STEP == SUM_STEP - 1 {
                    tokio::task::yield_now().await;
                }
            }
            let mut answers = stream::iter(unknown)
                .map(async |digest| {
                    Ok::<_, Unavailable>((self.look_up(call, &digest, standing).await?, digest))
                })
                .buffer_unordered(self.client.concurrency());
            while let Some((content, digest)) = answers.try_next().await? {
                if let Some(content) = content {
                    next.extend(content.children().cloned());
                    reached.add(&digest, &content);
                }
            }
            if reached.len() > REACHED_MAX {
                return Err(Unavailable::Limit("the repository has too many blobs"));
            }
            if next.is_empty() {
                return Ok(reached);
            }
            (level, level_standing) = (next, Standing::Listed);
        }
        Err(Unavailable::Limit(
            "indexes in the repository are nested too deep",
        ))
    }
}
