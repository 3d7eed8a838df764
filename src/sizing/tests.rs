//! Sizes against a registry in memory.

use std::{sync::atomic::AtomicUsize, time::Duration};

use serde_json::{Value, json};

use super::{
    health::PROBE_PAUSE,
    seen::{BELIEVED_FIRST, GONE_AFTER},
    *,
};
use crate::{
    image::Tag,
    registry::{
        self, SCHEMA1_LAYER,
        fake::{Fake, Links, Made, blob, digest_of, respond, signed},
    },
};

mod changes;
mod following;
mod missing;
mod trouble;

fn repository() -> RepositoryName {
    "acme/app".parse().unwrap()
}

fn other() -> RepositoryName {
    "acme/other".parse().unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn pushed(manifest: &Made) -> ImageToSize {
    ImageToSize {
        digest: manifest.digest.clone(),
        media_type: manifest.media_type,
        manifest_size: manifest.bytes(),
        references: Vec::new(),
    }
}

/// As an event with references tells an image.
fn pushed_with_references(manifest: &Made) -> ImageToSize {
    let body: Value = serde_json::from_str(&manifest.body).unwrap();
    let layers = body["layers"].as_array().unwrap().iter();
    let references = std::iter::once(&body["config"]).chain(layers);
    ImageToSize {
        references: references
            .map(|reference| Reference {
                media_type: reference["mediaType"].as_str().unwrap().into(),
                size: reference["size"].as_u64().unwrap(),
                digest: reference["digest"].as_str().unwrap().parse().unwrap(),
                has_urls: reference.get("urls").is_some(),
            })
            .collect(),
        ..pushed(manifest)
    }
}

fn tagged(tag: &str, digest: &Digest) -> Change {
    Change::Tagged {
        repository: repository(),
        tag: tag.parse().unwrap(),
        digest: digest.clone(),
    }
}

fn untagged(tag: &str) -> Change {
    Change::Untagged {
        repository: repository(),
        tag: tag.parse::<Tag>().unwrap(),
    }
}

fn held(digest: &Digest) -> Change {
    Change::Held {
        repository: repository(),
        digest: digest.clone(),
    }
}

fn deleted(digest: &Digest) -> Change {
    Change::Deleted {
        repository: repository(),
        digest: digest.clone(),
    }
}

fn names(sizes: &Sizes) -> Vec<(Digest, u64)> {
    sizes
        .layers
        .iter()
        .map(|layer| (layer.digest.clone(), layer.size))
        .collect()
}

fn layers(layers: &[(&str, u64)]) -> Vec<(Digest, u64)> {
    layers
        .iter()
        .map(|(name, size)| (digest_of(name), *size))
        .collect()
}

/// So much time goes by for whoever looks at the clock.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

struct Bench {
    fake: Fake,
    sizing: Sizing,
}

impl Bench {
    async fn start() -> Self {
        let fake = Fake::start().await;
        let sizing = Sizing::new(fake.client(), Options::default());
        Self { fake, sizing }
    }

    /// Waits until so many requests came.
    async fn asked(&self, requests: usize) {
        let until = soon();
        while self.fake.calls() < requests {
            assert!(Instant::now() < until, "{:?}", self.fake.take_asked());
            tokio::task::yield_now().await;
        }
    }

    /// A push of `manifest`, as the registry makes it and tells it.
    fn push(&self, tag: &str, manifest: &Made) {
        self.fake.put(&repository(), manifest);
        self.fake.tag(&repository(), tag, &manifest.digest);
        self.sizing.apply(&tagged(tag, &manifest.digest));
    }

    async fn size(&self, image: ImageToSize) -> Sizes {
        self.sizing
            .size(&repository(), vec![image], soon())
            .await
            .remove(0)
    }

    async fn size_by(&self, image: ImageToSize, milliseconds: u64) -> Sizes {
        let deadline = Instant::now() + Duration::from_millis(milliseconds);
        self.sizing
            .size(&repository(), vec![image], deadline)
            .await
            .remove(0)
    }
}

#[tokio::test]
async fn an_image_counts_each_digest_once_and_keeps_its_layers_in_order() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 10), &[("z", 300), ("a", 20), ("z", 300), ("c", 10)]);
    bench.push("v1", &image);
    let sizes = bench.size(pushed(&image)).await;
    assert_eq!(sizes.image_size, Some(330));
    assert_eq!(names(&sizes), layers(&[("z", 300), ("a", 20), ("c", 10)]));
    assert_eq!(sizes.repository_size, Some(330 + image.bytes()));
    assert_eq!(
        &*sizes.layers[0].media_type,
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
}

#[tokio::test]
async fn layers_shared_between_tags_count_once_in_the_repository() {
    let bench = Bench::start().await;
    let one = Made::image(("c1", 1), &[("base", 1000), ("one", 10)]);
    let two = Made::image(("c2", 2), &[("base", 1000), ("two", 20)]);
    bench.fake.put(&repository(), &one);
    for tag in ["old", "same"] {
        bench.fake.tag(&repository(), tag, &one.digest);
    }
    bench.push("v2", &two);
    let sizes = bench.size(pushed(&two)).await;
    assert_eq!(sizes.image_size, Some(1022));
    assert_eq!(
        sizes.repository_size,
        Some(1000 + 10 + 20 + 1 + 2 + one.bytes() + two.bytes())
    );
}

#[tokio::test]
async fn an_index_is_the_union_of_its_children_without_the_layers_of_attestations() {
    let bench = Bench::start().await;
    let amd64 = Made::image(("c1", 1), &[("shared", 100), ("amd64", 10)]);
    let arm64 = Made::image(("c2", 2), &[("shared", 100), ("arm64", 20)]);
    let attestation = Made::image(("c3", 4), &[("intoto", 5000)]);
    let index = Made::index(&[(&attestation, "unknown"), (&arm64, "linux"), (&amd64, "linux")]);
    for child in [&amd64, &arm64, &attestation] {
        bench.fake.put(&repository(), child);
    }
    bench.push("v1", &index);
    let sizes = bench.size(pushed(&index)).await;
    assert_eq!(sizes.image_size, Some(100 + 10 + 20 + 1 + 2 + 4 + 5000));
    assert_eq!(
        names(&sizes),
        layers(&[("shared", 100), ("arm64", 20), ("amd64", 10)])
    );
    let manifests = amd64.bytes() + arm64.bytes() + attestation.bytes() + index.bytes();
    assert_eq!(sizes.repository_size, Some(5137 + manifests));
    // The list, the index and three children, each once.
    assert_eq!(bench.fake.take_asked().len(), 5);
}

#[tokio::test]
async fn an_index_whose_children_were_told_needs_one_request() {
    let bench = Bench::start().await;
    bench.sizing.apply(&Change::RepositoryDeleted {
        repository: repository(),
    });
    let child = Made::image(("c1", 1), &[("l1", 100)]);
    let index = Made::index(&[(&child, "linux")]);
    bench.fake.put(&repository(), &child);
    let told = pushed_with_references(&child);
    bench.sizing.learn(
        &told.digest,
        told.media_type,
        told.manifest_size,
        &told.references,
    );
    bench.sizing.apply(&held(&told.digest));
    bench.push("v1", &index);
    let sizes = bench.size(pushed(&index)).await;
    assert_eq!(sizes.image_size, Some(101));
    assert_eq!(sizes.repository_size, Some(101 + child.bytes() + index.bytes()));
    let asked = bench.fake.take_asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].path.ends_with(&index.digest.to_string()));
}

#[tokio::test]
async fn nested_indexes_are_followed_to_a_depth_and_no_further() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[("l", 10)]);
    bench.fake.put(&repository(), &image);
    let mut top = image.clone();
    for depth in 1..=9 {
        top = Made::index(&[(&top, "linux"), (&image, "linux")]);
        bench.fake.put(&repository(), &top);
        let sizes = bench.size(pushed(&top)).await;
        let expected = (depth < 8).then_some(11);
        assert_eq!(sizes.image_size, expected, "depth {depth}");
        assert_eq!(sizes.repository_size.is_some(), depth < 8, "depth {depth}");
    }
}

#[tokio::test]
async fn foreign_layers_count_in_no_size_and_stay_in_the_layers() {
    let bench = Bench::start().await;
    let mut by_urls = blob("application/vnd.oci.image.layer.v1.tar+gzip", "urls", 4000);
    by_urls["urls"] = json!(["https://elsewhere.example/blob"]);
    let foreign = [
        blob(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "docker",
            1000,
        ),
        blob(
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "oci",
            2000,
        ),
        by_urls,
        blob("application/vnd.oci.image.layer.v1.tar+gzip", "own", 7),
    ];
    let image = Made::image_of(("c", 1), &foreign);
    bench.push("v1", &image);
    for image_to_size in [pushed_with_references(&image), pushed(&image)] {
        let sizes = bench.size(image_to_size).await;
        assert_eq!(sizes.image_size, Some(8));
        let expected = [("docker", 1000), ("oci", 2000), ("urls", 4000), ("own", 7)];
        assert_eq!(names(&sizes), layers(&expected));
        assert_eq!(sizes.repository_size, Some(8 + image.bytes()));
    }
}

#[tokio::test]
async fn a_child_known_from_another_repository_is_looked_for_in_this_one() {
    let bench = Bench::start().await;
    let child = Made::image(("c1", 1), &[("l1", 10)]);
    let index = Made::index(&[(&child, "linux")]);
    let told = pushed_with_references(&child);
    bench.sizing.learn(
        &told.digest,
        told.media_type,
        told.manifest_size,
        &told.references,
    );
    bench.push("v1", &index);
    pass(GONE_AFTER).await;
    let sizes = bench.size(pushed(&index)).await;
    let numbers = (sizes.image_size, sizes.repository_size);
    assert_eq!(numbers, (Some(0), Some(index.bytes())), "it isn't here");

    bench.fake.put(&repository(), &child);
    bench.sizing.apply(&held(&told.digest));
    let sizes = bench.size(pushed(&index)).await;
    let numbers = (sizes.image_size, sizes.repository_size);
    assert_eq!(numbers, (Some(11), Some(11 + child.bytes() + index.bytes())));
}

#[tokio::test]
async fn a_deleted_child_no_longer_counts_until_it_is_pushed_again() {
    let bench = Bench::start().await;
    let child = Made::image(("c1", 1), &[("l1", 10)]);
    let index = Made::index(&[(&child, "linux")]);
    bench.fake.put(&repository(), &child);
    bench.push("v1", &index);
    let whole = Some(11 + child.bytes() + index.bytes());
    assert_eq!(bench.size(pushed(&index)).await.repository_size, whole);
    bench.sizing.apply(&deleted(&child.digest));
    assert_eq!(
        bench.size(pushed(&index)).await.repository_size,
        Some(index.bytes())
    );
    bench.sizing.apply(&held(&child.digest));
    assert_eq!(bench.size(pushed(&index)).await.repository_size, whole);
}

#[tokio::test]
async fn schema_1_is_sized_by_its_blobs_signed_or_not() {
    let fs_layers: Vec<_> = ["top", "empty", "empty", "base"]
        .iter()
        .map(|name| json!({"blobSum": digest_of(name).to_string()}))
        .collect();
    let payload = serde_json::to_string_pretty(&json!({"schemaVersion": 1, "fsLayers": fs_layers})).unwrap();
    let digest = Digest::sha256(payload.as_bytes());
    for (media_type, body) in [
        (MediaType::DockerSchema1, payload.clone()),
        (MediaType::DockerSchema1Signed, signed(&payload)),
    ] {
        let bench = Bench::start().await;
        bench
            .fake
            .put_raw(&repository(), media_type.as_str(), &digest, body.into());
        bench.fake.tag(&repository(), "v1", &digest);
        for (name, size) in [("top", 30), ("empty", 5), ("base", 700)] {
            bench.fake.blob(&repository(), &digest_of(name), size);
        }
        let image = ImageToSize {
            digest: digest.clone(),
            media_type,
            manifest_size: 1,
            references: Vec::new(),
        };
        let sizes = bench.size(image.clone()).await;
        assert_eq!(sizes.image_size, Some(735));
        assert_eq!(names(&sizes), layers(&[("top", 30), ("empty", 5), ("base", 700)]));
        assert_eq!(&*sizes.layers[0].media_type, SCHEMA1_LAYER);
        assert_eq!(sizes.repository_size, Some(735 + payload.len() as u64));
        bench.fake.take_asked();
        bench.size(image).await;
        assert_eq!(bench.fake.calls(), 0);
    }
}

#[tokio::test]
async fn a_build_caches_index_of_blobs_is_sized_by_what_it_says() {
    let bench = Bench::start().await;
    let cache = json!({"schemaVersion": 2, "manifests": [
        blob("application/vnd.oci.image.layer.v1.tar+gzip", "layer", 50),
        blob("application/vnd.buildkit.cacheconfig.v0", "config", 6),
    ]});
    let cache = Made::new(MediaType::OciIndex, cache.to_string());
    bench.push("cache", &cache);
    let sizes = bench.size(pushed(&cache)).await;
    assert_eq!(sizes.image_size, Some(56));
    assert_eq!(names(&sizes), layers(&[("layer", 50)]));
    assert_eq!(sizes.repository_size, Some(56 + cache.bytes()));
}

#[tokio::test]
async fn an_event_with_references_needs_no_request_for_the_image() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[("l", 10)]);
    bench.fake.silent(true);
    bench.sizing.apply(&tagged("v1", &image.digest));
    let sizes = bench.size_by(pushed_with_references(&image), 200).await;
    assert_eq!(sizes.image_size, Some(11));
    assert_eq!(names(&sizes), layers(&[("l", 10)]));
    assert_eq!(sizes.repository_size, None, "the tags are not known");
    let asked: Vec<_> = bench
        .fake
        .take_asked()
        .iter()
        .map(registry::fake::Asked::line)
        .collect();
    assert_eq!(asked, ["GET /v2/acme/app/tags/list?n=1000"]);
}

#[tokio::test]
async fn references_without_sizes_are_not_believed() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[("l", 10)]);
    bench.push("v1", &image);
    let mut doubtful = pushed_with_references(&image);
    doubtful.references[1].size = 0;
    assert_eq!(bench.size(doubtful).await.image_size, Some(11));
}

#[tokio::test]
async fn no_images_need_nothing() {
    let bench = Bench::start().await;
    assert!(bench.sizing.size(&repository(), vec![], soon()).await.is_empty());
    assert_eq!(bench.fake.calls(), 0);
}

#[tokio::test]
async fn a_layer_that_is_listed_tens_of_thousands_of_times_is_kept_once() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &vec![("l", 10); 20_000]);
    bench.push("v1", &image);
    let sizes = bench.size(pushed(&image)).await;
    assert_eq!(
        (sizes.image_size, names(&sizes)),
        (Some(11), layers(&[("l", 10)]))
    );
    assert_eq!(sizes.repository_size, Some(11 + image.bytes()));
    let kept = bench.sizing.0.manifests.kept_bytes(&image.digest);
    assert!(kept < 2_000, "{kept}");
}

#[tokio::test]
async fn an_image_whose_manifests_are_too_large_has_no_size() {
    let bench = Bench::start().await;
    let names: Vec<String> = (0..120_000).map(|number| format!("l{number}")).collect();
    let children: Vec<_> = names
        .chunks(10_000)
        .map(|names| {
            let layers: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
            Made::image(("c", 1), &layers)
        })
        .collect();
    for child in &children {
        bench.fake.put(&repository(), child);
    }
    let children: Vec<_> = children.iter().map(|child| (child, "linux")).collect();
    let (whole, small) = (Made::index(&children), Made::index(&children[..1]));
    bench.push("small", &small);
    assert_eq!(bench.size(pushed(&small)).await.image_size, Some(10_001));
    bench.push("whole", &whole);
    assert_eq!(bench.size(pushed(&whole)).await.image_size, None);
}
