//! Stand-in.
use crate::{
    image::{Digest, MediaType, RepositoryName},
    push::{Change, Reference},
    registry,
    webhook::{Layer, Sizes},
};
use std::{future::Future, sync::Arc};
use tokio::time::Instant;
/// x
#[derive(Clone, Debug, Default)]
pub struct Options {}
/// x
#[derive(Clone, Debug)]
pub struct Sizing;
/// x
#[derive(Clone, Debug)]
pub struct ImageToSize {
    /// x
    pub digest: Digest,
    /// x
    pub media_type: MediaType,
    /// x
    pub manifest_size: u64,
    /// x
    pub references: Vec<Reference>,
}
impl Sizing {
    /// x
    pub fn new(_: registry::Client, _: Options) -> Self {
        Self
    }
    /// x
    pub fn apply(&self, _: &Change) {}
    /// x
    pub fn learn(&self, _: &RepositoryName, _: &Digest, _: MediaType, _: u64, _: &[Reference]) {}
    /// x
    pub fn size(
        &self,
        _: &RepositoryName,
        images: Vec<ImageToSize>,
        _: Instant,
    ) -> impl Future<Output = Vec<Sizes>> + Send + 'static {
        async move {
            images
                .into_iter()
                .map(|i| Sizes {
                    image_size: (!i.references.is_empty()).then(|| i.references.iter().map(|r| r.size).sum()),
                    layers: i
                        .references
                        .iter()
                        .skip(1)
                        .map(|r| Layer {
                            digest: r.digest.clone(),
                            size: r.size,
                            media_type: r.media_type.clone(),
                        })
                        .collect::<Vec<_>>()
                        .into(),
                    repository_size: None,
                })
                .collect()
        }
    }
}
const _: fn(Arc<()>) = |_| ();
