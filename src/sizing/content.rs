//! What a manifest holds, as sizes see it, and the sums over it. Pure.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    image::{BlobType, Digest, MediaType},
    push::Reference,
    registry::{Child, DESCRIPTOR_SIZE_MAX, Descriptor},
    webhook::Layer,
};

/// A manifest or an index, reduced to what sizes need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Its own bytes, as stored.
    pub(super) bytes: u64,
    pub(super) parts: Parts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    Image {
        /// Schema 1 has none.
        config: Option<Blob>,
        /// Base first.
        layers: Vec<Blob>,
    },
    Index(Vec<Entry>),
}

/// What an index lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Manifest {
        digest: Digest,
        is_attestation: bool,
    },
    /// A blob listed by itself, as build caches do.
    Blob(Blob),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    /// `None` when the manifest doesn't say and the registry doesn't have it.
    pub(super) size: Option<u64>,
    pub(super) media_type: BlobType,
    /// Foreign or non-distributable: counts in no size.
    pub(super) is_foreign: bool,
}

impl Blob {
    pub(super) fn new(digest: Digest, size: Option<u64>, media_type: BlobType, has_urls: bool) -> Self {
        Self {
            is_foreign: has_urls
                || media_type.contains(".foreign.")
                || media_type.contains("nondistributable"),
            media_type,
            digest,
            size,
        }
    }
}

impl From<Descriptor> for Blob {
    fn from(descriptor: Descriptor) -> Self {
        Self::new(
            descriptor.digest,
            Some(descriptor.size),
            descriptor.media_type.into(),
            descriptor.has_urls,
        )
    }
}

impl From<Child> for Entry {
    fn from(child: Child) -> Self {
        let media_type = &child.descriptor.media_type;
        if media_type.is_empty() || MediaType::parse(media_type).is_some() {
            Self::Manifest {
                digest: child.descriptor.digest,
                is_attestation: child.is_attestation,
            }
        } else {
            Self::Blob(child.descriptor.into())
        }
    }
}

impl Parts {
    /// An image. A layer that is listed again says nothing more, and is left out: a manifest may list one tens of thousands
    /// of times.
    pub(super) fn image(config: Option<Blob>, layers: impl IntoIterator<Item = Blob>) -> Self {
        let mut seen = HashSet::new();
        let once = layers
            .into_iter()
            .filter(|layer| seen.insert(layer.digest.clone()));
        Self::Image {
            config,
            layers: once.collect(),
        }
    }

    /// An index, likewise.
    pub(super) fn index(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut seen = HashSet::new();
        let once = entries.into_iter().filter(|entry| {
            seen.insert(match entry {
                Entry::Manifest {
                    digest,
                    is_attestation,
                } => (digest.clone(), *is_attestation),
                Entry::Blob(blob) => (blob.digest.clone(), false),
            })
        });
        Self::Index(once.collect())
    }
}

impl Content {
    /// What an event's `references` say of an image: its config, then its layers. `None` for anything that
    /// is not a single image of known sizes, such as an index, whose references leave out the platforms.
    pub(super) fn from_event(media_type: MediaType, bytes: u64, references: &[Reference]) -> Option<Self> {
        if !matches!(media_type, MediaType::DockerManifest | MediaType::OciManifest) {
            return None;
        }
        // A size left out reads as 0: ask the registry rather than believe it.
        if references
            .iter()
            .any(|reference| reference.size == 0 || reference.size > DESCRIPTOR_SIZE_MAX)
        {
            return None;
        }
        let blob = |reference: &Reference| {
            Blob::new(
                reference.digest.clone(),
                Some(reference.size),
                reference.media_type.clone(),
                reference.has_urls,
            )
        };
        let (config, layers) = references.split_first()?;
        if is_layer(&config.media_type) {
            return None;
        }
        Some(Self {
            bytes,
            parts: Parts::image(Some(blob(config)), layers.iter().map(blob)),
        })
    }

    /// The manifests that it lists.
    pub(super) fn children(&self) -> impl Iterator<Item = &Digest> {
        let entries = match &self.parts {
            Parts::Index(entries) => entries.as_slice(),
            Parts::Image { .. } => &[],
        };
        entries.iter().filter_map(|entry| match entry {
            Entry::Manifest { digest, .. } => Some(digest),
            Entry::Blob(_) => None,
        })
    }

    /// The blobs that it names itself.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        let (config, layers, entries) = match &self.parts {
            Parts::Image { config, layers } => (config.as_ref(), layers.as_slice(), [].as_slice()),
            Parts::Index(entries) => (None, [].as_slice(), entries.as_slice()),
        };
        let listed = entries.iter().filter_map(|entry| match entry {
            Entry::Blob(blob) => Some(blob),
            Entry::Manifest { .. } => None,
        });
        config.into_iter().chain(layers).chain(listed)
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn weight(&self) -> u64 {
        let parts = match &self.parts {
            Parts::Image { layers, .. } => layers.len() + 1,
            Parts::Index(entries) => entries.len(),
        };
        let texts: usize = self.blobs().map(|blob| blob.media_type.len()).sum();
        (size_of::<Self>() + parts * (size_of::<Entry>() + 16) + texts) as u64
    }
}

fn is_layer(media_type: &str) -> bool {
    media_type.contains(".layer.") || media_type.contains(".rootfs.")
}

/// The manifests below an image, itself included. `None` is one that the registry surely does not have; one that is not here
/// can't be had.
pub(super) type Tree = HashMap<Digest, Option<Arc<Content>>>;

/// `image_size` and `layers` of the image `root`, each if it can be had: nothing is invented. What the registry does not have
/// counts nothing.
pub(super) fn image_sizes(root: &Digest, tree: &Tree) -> (Option<u64>, Option<Vec<Layer>>) {
    let mut sum = ImageSum::default();
    sum.add(root, tree, Shown::Yes);
    (sum.bytes, sum.layers)
}

/// `image_size` and `layers` of an image that is no index.
pub(super) fn single_image_sizes(content: &Content) -> (Option<u64>, Option<Vec<Layer>>) {
    let mut sum = ImageSum::default();
    sum.add_content(content, &Tree::new(), Shown::Yes);
    (sum.bytes, sum.layers)
}

/// Whether layers are shown: an attestation's are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shown {
    Yes,
    No,
}

struct ImageSum {
    visited: HashSet<(Digest, Shown)>,
    counted: HashSet<Digest>,
    shown: HashSet<Digest>,
    /// Until something is missing.
    bytes: Option<u64>,
    /// Until something that is shown is missing.
    layers: Option<Vec<Layer>>,
}

impl Default for ImageSum {
    fn default() -> Self {
        Self {
            visited: HashSet::new(),
            counted: HashSet::new(),
            shown: HashSet::new(),
            bytes: Some(0),
            layers: Some(Vec::new()),
        }
    }
}

impl ImageSum {
    fn add(&mut self, digest: &Digest, tree: &Tree, shown: Shown) {
        if !self.visited.insert((digest.clone(), shown)) {
            return;
        }
        match tree.get(digest) {
            Some(Some(content)) => self.add_content(content, tree, shown),
            Some(None) => {}
            None => {
                self.bytes = None;
                if shown == Shown::Yes {
                    self.layers = None;
                }
            }
        }
    }

    fn add_content(&mut self, content: &Content, tree: &Tree, shown: Shown) {
        match &content.parts {
            Parts::Image { config, layers } => {
                if let Some(config) = config {
                    self.count(config);
                }
                for layer in layers {
                    self.count(layer);
                    self.show(layer, shown);
                }
            }
            Parts::Index(entries) => {
                for entry in entries {
                    match entry {
                        Entry::Manifest {
                            digest,
                            is_attestation,
                        } => {
                            let shown = if *is_attestation { Shown::No } else { shown };
                            self.add(digest, tree, shown);
                        }
                        Entry::Blob(blob) => {
                            self.count(blob);
                            if is_layer(&blob.media_type) {
                                self.show(blob, shown);
                            }
                        }
                    }
                }
            }
        }
    }

    fn count(&mut self, blob: &Blob) {
        if !blob.is_foreign && self.counted.insert(blob.digest.clone()) {
            let sum = self.bytes.zip(blob.size);
            self.bytes = sum.and_then(|(sum, size)| sum.checked_add(size));
        }
    }

    fn show(&mut self, blob: &Blob, shown: Shown) {
        if shown == Shown::No || !self.shown.insert(blob.digest.clone()) {
            return;
        }
        match (blob.size, &mut self.layers) {
            (Some(size), Some(layers)) => layers.push(Layer {
                digest: blob.digest.clone(),
                size,
                media_type: blob.media_type.clone(),
            }),
            _ => self.layers = None,
        }
    }
}

/// What was reached from some manifests: each digest once, with its bytes.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Something that should be there is not, so that the bytes are too few.
    pub(super) is_partial: bool,
    /// The manifests looked at, those that the registry does not have included.
    visited: HashSet<Digest>,
    bytes: HashMap<Digest, u64>,
}

impl Reached {
    /// Whether this manifest is looked at for the first time.
    pub(super) fn visit(&mut self, digest: &Digest) -> bool {
        self.visited.insert(digest.clone())
    }

    pub(super) fn has_visited(&self, digest: &Digest) -> bool {
        self.visited.contains(digest)
    }

    pub(super) fn add(&mut self, digest: &Digest, content: &Content) {
        self.bytes.insert(digest.clone(), content.bytes);
        for blob in content.blobs().filter(|blob| !blob.is_foreign) {
            // A blob that the registry does not have takes no room in it.
            if let Some(size) = blob.size
                && !self.bytes.contains_key(&blob.digest)
            {
                self.bytes.insert(blob.digest.clone(), size);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn total(&self) -> Option<u64> {
        self.bytes
            .values()
            .try_fold(0, |sum: u64, bytes| sum.checked_add(*bytes))
    }

    /// The bytes of what is reached here and not in `other`.
    pub(super) fn beyond(&self, other: &Self) -> Option<u64> {
        let beyond = self
            .bytes
            .iter()
            .filter(|(digest, _)| !other.bytes.contains_key(digest));
        beyond.map(|(_, bytes)| *bytes).try_fold(0, u64::checked_add)
    }
}
