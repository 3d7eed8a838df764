//! Manifests, each fetched once: from memory, else from the registry.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use quick_cache::{Weighter, sync::Cache};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    asking::{Call, Unavailable},
    content::{Blob, Content, Parts, Reached, Tree},
    health::Health,
    seen::Presence,
    unreadable::Part,
};
use crate::{
    image::Digest,
    registry::{Client, Manifest, RawManifest, RegistryError, SCHEMA1_LAYER},
};

/// How deep indexes may be nested.
const DEPTH_MAX: usize = 8;

/// How many manifests one image may have.
const IMAGE_MANIFESTS_MAX: usize = 10_000;

/// How many bytes all that is known of one image's manifests may take.
const IMAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How many blobs and manifests a repository may have: some 100 bytes each while they are summed up.
const REACHED_MAX: usize = 2_000_000;

/// After how many manifests a long sum lets others run.
const SUM_STEP: usize = 1024;

/// How long a manifest is waited for that is being fetched for somebody else: it may be for a repository for which the
/// registry hangs.
const FETCHED_WITHIN: Duration = Duration::from_secs(3);

impl Call {
    /// Whether the repository has the manifest, as far as is known.
    fn presence(&self, digest: &Digest, standing: Standing) -> Presence {
        match standing {
            Standing::Any => Presence::Held,
            Standing::Tagged => self.repository.ledger().tagged_presence(digest, &self.snapshot),
            Standing::Listed => self.repository.ledger().presence(digest, &self.snapshot),
        }
    }

    /// The registry, asked at that version of the repository, does not have the manifest.
    fn miss(&self, digest: &Digest, asked_at: u64) -> Found {
        self.repository.ledger().miss(digest, asked_at, Instant::now());
        match self.presence(digest, Standing::Listed) {
            Presence::Gone => Found::Gone,
            // It was pushed a moment ago, or deleted after the moment that counts, or there is some doubt.
            Presence::Missing | Presence::Held | Presence::Unknown => Found::Missing,
        }
    }
}

/// What is known already of a manifest's being in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A tag names it: it is there.
    Tagged,
    /// An index lists it, or it was pushed once: it may be gone.
    Listed,
    /// It does not matter: only what it says is wanted, of what was pushed.
    Any,
}

/// A manifest that was looked for.
enum Found {
    Content(Arc<Content>),
    /// It is not there, and counts nothing.
    Gone,
    /// It is not there and should be.
    Missing,
}

impl Found {
    fn content(self) -> Option<Arc<Content>> {
        match self {
            Self::Content(content) => Some(content),
            Self::Gone | Self::Missing => None,
        }
    }
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
    /// Whether any repository's list of tags was asked for.
    pub(super) has_listed: AtomicBool,
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
            has_listed: AtomicBool::new(false),
        }
    }

    pub(super) fn insert(&self, digest: Digest, content: Content) {
        self.cache.insert(digest, Arc::new(content));
    }

    pub(super) fn knows(&self, digest: &Digest) -> bool {
        self.cache.contains_key(digest)
    }

    /// Bytes that what is known of a manifest takes.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self, digest: &Digest) -> u64 {
        self.cache.peek(digest).map_or(0, |content| content.weight())
    }

    /// What is known of the manifest without a request; `None` if that is too little.
    fn at_hand(&self, call: &Call, digest: &Digest, standing: Standing) -> Option<Found> {
        match call.presence(digest, standing) {
            Presence::Gone => Some(Found::Gone),
            Presence::Missing => Some(Found::Missing),
            Presence::Unknown => None,
            Presence::Held => self.cache.get(digest).map(Found::Content),
        }
    }

    /// What the manifest says. Fetched by one and awaited by all who want it at the same time, unless that takes long.
    async fn look_up(&self, call: &Call, digest: &Digest, standing: Standing) -> Result<Found, Unavailable> {
        if let Some(found) = self.at_hand(call, digest, standing) {
            return Ok(found);
        }
        let asked_at = call.repository.ledger().version();
        let fetched = timeout(FETCHED_WITHIN, self.cache.get_value_or_guard_async(digest)).await;
        let known = match fetched.map_or_else(|_| Err(None), |fetched| fetched.map_err(Some)) {
            Ok(known) => known,
            Err(guard) => {
                // Whoever had the turn before may have found that it is not there.
                if let Some(found) = self.at_hand(call, digest, standing) {
                    return Ok(found);
                }
                let request = || self.client.manifest(&call.name, digest);
                let Some(raw) = self.ask_for(call, digest, request).await? else {
                    return Ok(call.miss(digest, asked_at));
                };
                let part = Part::Manifest(digest.clone());
                let content = Arc::new(self.content(call, &part, raw).await?);
                let mut ledger = call.repository.ledger();
                ledger.unreadable.forget(&part);
                if standing != Standing::Tagged || ledger.is_missed(digest) {
                    ledger.hold(digest, asked_at);
                }
                drop(ledger);
                match guard {
                    // Refused only when it was removed meanwhile, which nobody does.
                    Some(guard) => drop(guard.insert(Arc::clone(&content))),
                    None => self.cache.insert(digest.clone(), Arc::clone(&content)),
                }
                return Ok(Found::Content(content));
            }
        };
        // Known from elsewhere, or fetched by another a moment ago: is it in this repository?
        match call.presence(digest, standing) {
            Presence::Held => return Ok(Found::Content(known)),
            Presence::Gone => return Ok(Found::Gone),
            Presence::Missing => return Ok(Found::Missing),
            Presence::Unknown => {}
        }
        let request = async || match self.client.has_manifest(&call.name, digest).await {
            Ok(false) => Err(RegistryError::NotFound),
            answer => answer,
        };
        if self.ask_for(call, digest, request).await?.is_some() {
            call.repository.ledger().hold(digest, asked_at);
            Ok(Found::Content(known))
        } else {
            Ok(call.miss(digest, asked_at))
        }
    }

    /// What a fetched manifest says; for schema 1, with its blobs' sizes.
    pub(super) async fn content(
        &self,
        call: &Call,
        part: &Part,
        raw: RawManifest,
    ) -> Result<Content, Unavailable> {
        let parts = match raw.parse()? {
            Manifest::Image { config, layers } => {
                Parts::image(Some(config.into()), layers.into_iter().map(Into::into))
            }
            Manifest::Index { children } => Parts::index(children.into_iter().map(Into::into)),
            Manifest::Schema1 { layers } => {
                Parts::image(None, self.schema1_layers(call, part, layers).await?)
            }
        };
        Ok(Content {
            bytes: raw.content.len() as u64,
            parts,
        })
    }

    /// Schema 1 lists the newest layer first, which is the manifest's order and so stays, and states no size:
    /// each is asked for, once.
    async fn schema1_layers(
        &self,
        call: &Call,
        part: &Part,
        layers: Vec<Digest>,
    ) -> Result<Vec<Blob>, Unavailable> {
        let mut seen = HashSet::new();
        let once = layers.into_iter().filter(|layer| seen.insert(layer.clone()));
        stream::iter(once.collect::<Vec<_>>())
            .map(async |digest| {
                let size = self
                    .ask(call, part, || self.client.blob_size(&call.name, &digest))
                    .await?;
                Ok(Blob::new(digest, size, SCHEMA1_LAYER.into(), false))
            })
            .buffered(self.client.concurrency())
            .try_collect()
            .await
    }

    /// All manifests below `root`, itself included, as far as they are had by the call's deadline; and why one is not.
    pub(super) async fn tree(&self, call: &Call, root: &Digest) -> (Tree, Option<Unavailable>) {
        let (mut tree, mut bytes, mut failure) = (Tree::new(), 0, None);
        let limit = |what| (Tree::new(), Some(Unavailable::Limit(what)));
        let (mut level, mut level_standing) = (vec![root.clone()], Standing::Any);
        for _ in 0..DEPTH_MAX {
            if level.is_empty() {
                return (tree, failure);
            }
            let standing = level_standing;
            if tree.len() + level.len() > IMAGE_MANIFESTS_MAX {
                return limit("the image has too many manifests");
            }
            let mut found = stream::iter(level)
                .map(async |digest| {
                    let found = timeout_at(call.deadline, self.look_up(call, &digest, standing)).await;
                    (digest, found.unwrap_or(Err(Unavailable::Late)))
                })
                .buffer_unordered(self.client.concurrency());
            let mut next = HashSet::new();
            while let Some((digest, found)) = found.next().await {
                let error = match found {
                    Ok(Found::Content(content)) => {
                        bytes += content.weight();
                        if bytes > IMAGE_BYTES_MAX {
                            return limit("the image's manifests are too large");
                        }
                        next.extend(content.children().cloned());
                        tree.insert(digest, Some(content));
                        continue;
                    }
                    Ok(Found::Gone) if standing == Standing::Listed => {
                        tree.insert(digest, None);
                        continue;
                    }
                    Ok(Found::Gone | Found::Missing) => Unavailable::Incomplete,
                    Err(error) => error,
                };
                failure.get_or_insert(error);
            }
            let is_new = |digest: &Digest| !tree.contains_key(digest);
            level = next.into_iter().filter(is_new).collect();
            level_standing = Standing::Listed;
        }
        limit("the image's indexes are nested too deep")
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
                    Some(found) => next.extend(reached.take(&digest, found)),
                    None => unknown.push(digest),
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
            while let Some((found, digest)) = answers.try_next().await? {
                next.extend(reached.take(&digest, found));
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

impl Reached {
    /// Takes what was found, and says what it lists.
    fn take(&mut self, digest: &Digest, found: Found) -> Vec<Digest> {
        self.is_partial |= matches!(found, Found::Missing);
        found.content().map_or_else(Vec::new, |content| {
            self.add(digest, &content);
            content.children().cloned().collect()
        })
    }
}
