//! Images that the tests make themselves: real blobs with real digests, no download.

use std::{fs, io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use shipbell::image::Digest;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// Some bytes with their digest and media type.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, bytes }
    }

    pub(crate) fn json(media_type: &'static str, value: &Value) -> Self {
        Self::new(media_type, serde_json::to_vec(value).unwrap())
    }

    pub(crate) fn digest(&self) -> String {
        Digest::sha256(&self.bytes).to_string()
    }

    pub(crate) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The descriptor that manifests name it by.
    pub(crate) fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.size() })
    }
}

/// A manifest or an index with everything below it.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The manifest or index itself.
    pub(crate) manifest: Blob,
    /// The configs and layers, its own and its children's.
    pub(crate) blobs: Vec<Blob>,
    /// An index's children.
    pub(crate) children: Vec<Blob>,
}

impl Image {
    /// A single-architecture OCI image with as many layers as `layer_bytes` has numbers, each of about so
    /// many compressed bytes. The same `seed` gives the same image.
    pub(crate) fn oci(seed: &str, layer_bytes: &[usize]) -> Self {
        Self::for_platform(seed, "amd64", layer_bytes)
    }

    fn for_platform(seed: &str, architecture: &str, layer_bytes: &[usize]) -> Self {
        let contents: Vec<Vec<u8>> = layer_bytes
            .iter()
            .enumerate()
            .map(|(number, &size)| noise(&format!("{seed}/{architecture}/{number}"), size))
            .collect();
        let layers: Vec<Blob> = contents
            .iter()
            .map(|content| Blob::new(OCI_LAYER, gzip(content)))
            .collect();
        let diff_ids: Vec<String> = contents
            .iter()
            .map(|content| Digest::sha256(content).to_string())
            .collect();
        let history: Vec<Value> = (0..layers.len())
            .map(
                |number| json!({ "created": "2026-01-01T00:00:00Z", "created_by": format!("step {number}") }),
            )
            .collect();
        let config = Blob::json(
            OCI_CONFIG,
            &json!({
                "created": "2026-01-01T00:00:00Z",
                "architecture": architecture,
                "os": "linux",
                "config": { "Labels": { "seed": seed } },
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
                "history": history,
            }),
        );
        Self::of(OCI_MANIFEST, config, layers)
    }

    /// The image of this config and these layers.
    pub(crate) fn of(media_type: &'static str, config: Blob, layers: Vec<Blob>) -> Self {
        let descriptors: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
        let manifest = Blob::json(
            media_type,
            &json!({
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": config.descriptor(),
                "layers": descriptors,
            }),
        );
        let mut blobs = vec![config];
        blobs.extend(layers);
        Self {
            manifest,
            blobs,
            children: Vec::new(),
        }
    }

    /// A Docker image whose first layer is foreign, and the digests of what the registry need not hold.
    pub(crate) fn with_foreign_layer() -> (Self, [String; 1]) {
        let config = Blob::json(
            DOCKER_CONFIG,
            &json!({ "os": "windows", "architecture": "amd64" }),
        );
        let base = Blob::new(DOCKER_FOREIGN_LAYER, vec![7; 5_000]);
        let own = Blob::new(DOCKER_LAYER, vec![8; 3_000]);
        let mut foreign = base.descriptor();
        foreign["urls"] = json!(["https://example.com/base"]);
        let manifest = Blob::json(
            DOCKER_MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": config.descriptor(),
                "layers": [foreign, own.descriptor()],
            }),
        );
        let absent = [base.digest()];
        let image = Self {
            manifest,
            blobs: vec![config, base, own],
            children: Vec::new(),
        };
        (image, absent)
    }

    /// An OCI index of two platforms, with the attestation of one of them as `docker buildx` pushes it.
    pub(crate) fn two_platforms_with_attestation(seed: &str) -> Self {
        let platforms = ["amd64", "arm64"].map(|architecture| {
            let image = Self::for_platform(seed, architecture, &[20_000, 40_000]);
            let mut descriptor = image.manifest.descriptor();
            descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
            (image, descriptor)
        });
        let attestation = {
            let config = Blob::json(
                OCI_CONFIG,
                &json!({
                    "architecture": "unknown", "os": "unknown",
                    "rootfs": { "type": "layers", "diff_ids": [] }, "seed": seed,
                }),
            );
            let statement = json!({ "_type": "https://in-toto.io/Statement/v0.1", "seed": seed });
            let statement = Blob::json("application/vnd.in-toto+json", &statement);
            Self::of(OCI_MANIFEST, config, vec![statement])
        };
        let mut attested = attestation.manifest.descriptor();
        attested["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        attested["annotations"] = json!({
            "vnd.docker.reference.digest": platforms[0].0.manifest.digest(),
            "vnd.docker.reference.type": "attestation-manifest",
        });
        let index = Blob::json(
            OCI_INDEX,
            &json!({
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [platforms[0].1, platforms[1].1, attested],
            }),
        );
        let children: Vec<Self> = platforms
            .into_iter()
            .map(|(image, _)| image)
            .chain([attestation])
            .collect();
        Self {
            manifest: index,
            blobs: children.iter().flat_map(|child| child.blobs.clone()).collect(),
            children: children.into_iter().map(|child| child.manifest).collect(),
        }
    }

    /// Writes it as an OCI image layout whose only entry is this image.
    pub(crate) fn write_layout(&self, folder: &Path) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for blob in self.blobs.iter().chain(&self.children).chain([&self.manifest]) {
            let digest = blob.digest();
            let (_, hex) = digest.split_once(':').unwrap();
            fs::write(blobs.join(hex), &blob.bytes).unwrap();
        }
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = json!({ "schemaVersion": 2, "manifests": [self.manifest.descriptor()] });
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
    }
}

/// `size` bytes that don't compress, the same for the same seed.
fn noise(seed: &str, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 32);
    let mut block = 0_u64;
    while bytes.len() < size {
        let digest = Digest::sha256(format!("{seed}#{block}").as_bytes());
        bytes.extend_from_slice(digest.bytes());
        block += 1;
    }
    bytes.truncate(size);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
