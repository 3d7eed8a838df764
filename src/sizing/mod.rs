//! How large images and repositories are: `image_size`, `layers` and `repository_size` of the webhook.
//!
//! All sizes are compressed bytes, as the registry stores them.
//!
//! - `image_size`: config and layers, each digest once; for an index, over all that it lists.
//! - `layers`: in the manifest's order, each digest once; for an index, in its children's order. That is base
//!   first, but for schema 1, which lists the newest first.
//! - `repository_size`: configs and layers reachable from every tag and from the image itself, each digest
//!   once, and the bytes of those manifests and indexes.
//! - Foreign and non-distributable layers count in no size and stay in `layers`; attestations
//!   (`platform.os` is `unknown`) count in sizes and are not in `layers`.
//!
//! All of it is what the registry has: what an index lists that surely isn't there, since the registry says so and nobody
//! pushed it, or it was deleted, counts nothing in any of them, and has no layers to show. That nobody pushed it is known once
//! the repository's events were heard for 10 minutes; until then the numbers are left out.
//!
//! A number that can't be had is left out. Nothing is estimated. One tag or manifest that the registry fails at while it
//! answers otherwise costs the numbers that need it, and nobody's time: it is left alone for minutes.
//!
//! # What it costs
//! An event that lists its references costs no request. A manifest is fetched once, by whoever needs it
//! first. A repository's tags are listed and looked at once, when its size is first wanted; from then on
//! events alone move them, and its size is a sum over what is in memory. Unless it is [doubted](Change::Doubted): then all
//! tags are looked at again, once in some seconds at most; a reading under way is not cut short by it.
//!
//! # Invariants
//! - [`Sizing::apply`] is called in the order in which events came, and waits for nothing but a short lock.
//! - [`Sizing::size`] looks at the repository when it is called, not when its future is first polled: all
//!   images of a batch see the same moment.
//! - No lock is held across an await, but for the ones that make one of many fetch for all.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::{join, join_all};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};
use tracing::{debug, info, warn};

use crate::{
    image::{Digest, MediaType, RepositoryName},
    locked::Locked as _,
    push::{Change, Reference},
    registry::Client,
    webhook::{Layer, Sizes},
};

mod applied;
mod asking;
mod content;
mod following;
mod health;
mod instances;
mod ledger;
mod load;
mod manifests;
mod repositories;
mod roots;
mod seen;
mod sums;
#[cfg(test)]
mod tests;
mod unreadable;

use applied::Applied;
use asking::{Call, Unavailable};
use content::{Content, Reached};
pub use following::Following;
use health::PROBE_TIMEOUT;
pub use health::Reach;
use instances::{Instances, Speaker};
use manifests::{Manifests, Standing};
use repositories::Repositories;

/// How much is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Repositories whose tags are known; the ones not used for longest are forgotten.
    pub repositories_max: usize,
    /// Tags and manifests' whereabouts, over all repositories. One takes about 150 bytes.
    pub entries_max: usize,
    /// Manifests' contents, in bytes.
    pub manifest_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            repositories_max: 12_000,
            entries_max: 1_000_000,
            manifest_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// An image whose sizes are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageToSize {
    /// What was pushed.
    pub digest: Digest,
    /// What it is.
    pub media_type: MediaType,
    /// Its own bytes; 0 when the event did not say.
    pub manifest_size: u64,
    /// Config and layers, where the event listed them.
    pub references: Vec<Reference>,
}

/// Knows sizes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sizing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    manifests: Manifests,
    repositories: Repositories,
    instances: Instances,
    applied: Applied,
}

impl Sizing {
    /// Sizes of what `registry` has. Nothing is asked yet.
    #[must_use]
    pub fn new(registry: Client, options: Options) -> Self {
        Self(Arc::new(Inner {
            manifests: Manifests::new(registry, options.manifest_bytes_max),
            repositories: Repositories::new(options.repositories_max, options.entries_max),
            instances: Instances::default(),
            applied: Applied::default(),
        }))
    }

    /// Applies a change, in its turn among all that the registry told; a push is [`Change::Tagged`], or [`Change::Held`]
    /// without a tag.
    pub fn apply(&self, change: &Change) {
        if let Change::Doubted { repository } = change {
            if let Some(known) = self.0.repositories.peek(repository) {
                known.doubt(Instant::now());
            }
            return;
        }
        let known = self.0.repositories.get(change.repository());
        known.ledger().apply(change);
        self.0.repositories.weigh(&known);
    }

    /// The same of an event of that id, unless it was applied a while ago. The registry sends one again when the answer
    /// came late; to delete a tag once more that was pushed meanwhile would be wrong.
    pub fn apply_once(&self, event_id: &str, change: &Change) {
        if self.0.applied.is_news(event_id) {
            self.apply(change);
        }
    }

    /// Takes what an event tells of what a manifest holds, where `references` tell, so that it need not be asked for. That
    /// is so in any repository and at any time; that this one has it now is [`Change::Held`].
    pub fn learn(
        &self,
        digest: &Digest,
        media_type: MediaType,
        manifest_size: u64,
        references: &[Reference],
    ) {
        self.0.learn(digest, media_type, manifest_size, references);
    }

    /// Takes note of which process of the registry speaks, before what it says is applied.
    pub fn heard_from(&self, instance: &str) {
        let may_have_missed = match self.0.instances.hear(instance) {
            Speaker::Known => return,
            // Lists that were read for pushes from before this start may have been another's, which nobody heard since.
            Speaker::First => self.0.manifests.has_listed.load(Ordering::Relaxed),
            Speaker::Another => true,
        };
        self.0.manifests.health.heard();
        if may_have_missed {
            info!(
                instance,
                "a process of the registry speaks that was not heard before: what tags name is asked for anew"
            );
            self.start_over();
        }
    }

    /// Forgets what is known of all repositories: things may have happened that no event told. What is being sized goes on.
    fn start_over(&self) {
        self.0.repositories.clear();
    }

    /// How many tags a repository has, if that is in memory. The registry is not asked.
    #[must_use]
    pub fn tags(&self, repository: &RepositoryName) -> Option<u64> {
        let known = self.0.repositories.peek(repository)?;
        let count = known.ledger().tag_count()?;
        Some(count as u64)
    }

    /// Whether the registry answered last. It is not asked.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.0.manifests.health.reach()
    }

    /// The sizes of `images`, one for one, with the repository as it is at this call. Done as soon as all
    /// numbers are had, and at `deadline` at the latest: what is not had by then is left out.
    pub fn size(
        &self,
        repository: &RepositoryName,
        images: Vec<ImageToSize>,
        deadline: Instant,
    ) -> impl Future<Output = Vec<Sizes>> + Send + 'static + use<> {
        let inner = Arc::clone(&self.0);
        for image in &images {
            inner.learn(
                &image.digest,
                image.media_type,
                image.manifest_size,
                &image.references,
            );
        }
        let call = inner.call(repository, deadline);
        async move { inner.size(&call, &images).await }
    }

    /// The size of a repository as it is at this call: what its tags name. `None` if it is not had by `deadline`.
    pub fn repository_size(
        &self,
        repository: &RepositoryName,
        deadline: Instant,
    ) -> impl Future<Output = Option<u64>> + Send + 'static + use<> {
        let inner = Arc::clone(&self.0);
        let call = inner.call(repository, deadline);
        async move {
            let size = by_deadline(&call, async {
                let (_place, tagged) = inner.tagged(&call).await?;
                let whole = tagged.total().filter(|_| !tagged.is_partial);
                whole.ok_or(Unavailable::Incomplete)
            });
            let size = size.await;
            inner.repositories.weigh(&call.repository);
            inner.report(&call, Whose::Lists);
            size
        }
    }
}

impl Inner {
    fn learn(&self, digest: &Digest, media_type: MediaType, manifest_size: u64, references: &[Reference]) {
        if manifest_size == 0 || self.manifests.knows(digest) {
            return;
        }
        if let Some(content) = Content::from_event(media_type, manifest_size, references) {
            self.manifests.insert(digest.clone(), content);
        }
    }

    /// To size what is in a repository, as it is now.
    fn call(&self, repository: &RepositoryName, deadline: Instant) -> Call {
        let known = self.repositories.get(repository);
        let snapshot = {
            let (mut ledger, now) = (known.ledger(), Instant::now());
            ledger.reopen_if_doubted(now);
            ledger.snapshot(now)
        };
        Call {
            name: repository.clone(),
            repository: known,
            snapshot,
            since: Instant::now(),
            deadline,
            has_asked: AtomicBool::new(false),
            has_met_silence: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    async fn size(&self, call: &Call, images: &[ImageToSize]) -> Vec<Sizes> {
        if images.is_empty() {
            return Vec::new();
        }
        let of_images = join_all(images.iter().map(|image| self.image(call, image)));
        let of_repository = self.repository(call, images);
        let (of_images, of_repository) = join(of_images, of_repository).await;
        self.repositories.weigh(&call.repository);
        self.report(call, Whose::Webhooks);
        of_images
            .into_iter()
            .zip(of_repository)
            .map(|((image_size, layers), repository_size)| Sizes {
                image_size,
                layers: layers.unwrap_or_default().into(),
                repository_size,
            })
            .collect()
    }

    /// The image's size and its layers, each if it is had by the call's deadline.
    async fn image(&self, call: &Call, image: &ImageToSize) -> (Option<u64>, Option<Vec<Layer>>) {
        let told = Content::from_event(image.media_type, image.manifest_size, &image.references);
        let (sizes, failure) = if let Some(content) = told {
            (content::single_image_sizes(&content), None)
        } else {
            let (tree, failure) = self.manifests.tree(call, &image.digest).await;
            (content::image_sizes(&image.digest, &tree), failure)
        };
        if sizes.0.is_none() || sizes.1.is_none() {
            call.fail(failure.unwrap_or(Unavailable::Incomplete));
        }
        sizes
    }

    /// What was tagged at the call's moment, and a place for the sum over it.
    async fn roots<'a>(
        &self,
        call: &'a Call,
    ) -> Result<(Option<SemaphorePermit<'a>>, Vec<Digest>), Unavailable> {
        let sums = &call.repository.asking().sums;
        if let Some(roots) = call.snapshot.roots() {
            let place = sums.place(roots.len()).await;
            return Ok((place, roots.iter().cloned().collect()));
        }
        loop {
            self.manifests.load(call).await?;
            let count = call.repository.ledger().tag_count();
            let place = sums.place(count.unwrap_or_default()).await;
            let ledger = call.repository.ledger();
            if let Some(roots) = ledger.roots(&call.snapshot) {
                return Ok((place, roots));
            }
            if ledger.is_complete() {
                return Err(Unavailable::Deleted);
            }
            // It was doubted meanwhile: its list is to be read anew.
        }
    }

    /// What the repository's tags reach, and the place of the sum over it, which is had until that is let go.
    async fn tagged<'a>(
        &self,
        call: &'a Call,
    ) -> Result<(Option<SemaphorePermit<'a>>, Reached), Unavailable> {
        let (place, roots) = self.roots(call).await?;
        let tagged = self.manifests.reach(call, roots, Standing::Tagged).await?;
        Ok((place, tagged))
    }

    /// The repository's size with each of the images.
    async fn repository(&self, call: &Call, images: &[ImageToSize]) -> Vec<Option<u64>> {
        let Some((_place, tagged)) = by_deadline(call, self.tagged(call)).await else {
            return vec![None; images.len()];
        };
        let tagged_size = tagged.total();
        let with_image = |image: &ImageToSize| {
            let (tagged, digest) = (&tagged, image.digest.clone());
            by_deadline(call, async move {
                // Of a mirror that lags behind: the size would be one without what was pushed.
                let mut is_partial = tagged.is_partial;
                let mut size = tagged_size;
                if !tagged.has_visited(&digest) {
                    let own = vec![digest.clone()];
                    let own = self.manifests.reach(call, own, Standing::Listed).await?;
                    is_partial |= own.is_partial;
                    size = own
                        .beyond(tagged)
                        .zip(tagged_size)
                        .and_then(|(more, size)| size.checked_add(more));
                }
                if is_partial || call.repository.ledger().is_missed(&digest) {
                    return Err(Unavailable::Incomplete);
                }
                Ok(size)
            })
        };
        let sizes = join_all(images.iter().map(with_image)).await;
        sizes.into_iter().map(Option::flatten).collect()
    }

    /// Logs once for a batch that lacks a number, and takes note of a registry that never answered it.
    fn report(&self, call: &Call, whose: Whose) {
        let failure = call.failure.locked().take();
        let Some(error) = failure else {
            return;
        };
        // A deadline too short for any answer says nothing about the registry.
        let has_waited = call.has_met_silence.load(Ordering::Relaxed)
            || call.has_asked.load(Ordering::Relaxed) && call.since.elapsed() >= PROBE_TIMEOUT;
        if has_waited && call.deadline <= Instant::now() {
            self.manifests.health.waited_in_vain(call.since);
        }
        let repository = &call.name;
        let elapsed_ms = call.since.elapsed().as_millis();
        // That it is down was told when it became known, and what lists lack is found another time.
        if matches!(error, Unavailable::Down) || whose == Whose::Lists {
            debug!(%repository, elapsed_ms, %error, "sizes are left out");
        } else {
            warn!(%repository, elapsed_ms, %error, "sizes are left out");
        }
    }
}

/// Who goes without a number that can't be had.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Webhooks,
    Lists,
}

/// What `number` comes to, if it does before the call's deadline.
async fn by_deadline<T>(call: &Call, number: impl Future<Output = Result<T, Unavailable>>) -> Option<T> {
    let outcome = timeout_at(call.deadline, number).await;
    match outcome.unwrap_or(Err(Unavailable::Late)) {
        Ok(number) => Some(number),
        Err(error) => {
            call.fail(error);
            None
        }
    }
}
