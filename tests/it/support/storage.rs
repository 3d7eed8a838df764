//! Sizes computed a second time, from the files of the registry's own storage, along CONTRACT 3's
//! words and with nothing of shipbell's code.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

/// A registry's storage folder.
pub(crate) struct Storage {
    root: PathBuf,
}

/// What an image amounts to.
#[derive(Default)]
struct Contents {
    /// Config and layer blobs by digest, foreign ones left out; with their size on disk.
    blobs: BTreeMap<String, u64>,
    /// Manifests and indexes by digest, with their size on disk.
    manifests: BTreeMap<String, u64>,
    /// The layers to show, in order.
    layers: Vec<Value>,
}

impl Storage {
    /// The storage below `rootdirectory`.
    pub(crate) fn new(rootdirectory: &Path) -> Self {
        Self {
            root: rootdirectory.join("docker/registry/v2"),
        }
    }

    /// The digest that `tag` names.
    pub(crate) fn tagged(&self, repository: &str, tag: &str) -> String {
        let link = self.tags(repository).join(tag).join("current/link");
        fs::read_to_string(link).unwrap()
    }

    /// `image_size` and `layers` of the image with this digest.
    pub(crate) fn image(&self, digest: &str) -> (u64, Vec<Value>) {
        let mut contents = Contents::default();
        self.read(digest, true, &mut contents);
        (contents.blobs.values().sum(), contents.layers)
    }

    /// `repository_size` of the repository, the image with this digest included.
    pub(crate) fn repository(&self, repository: &str, digest: &str) -> u64 {
        let mut contents = Contents::default();
        self.read(digest, true, &mut contents);
        for tag in fs::read_dir(self.tags(repository)).unwrap() {
            let tag = tag.unwrap().file_name().into_string().unwrap();
            self.read(&self.tagged(repository, &tag), true, &mut contents);
        }
        contents.blobs.values().sum::<u64>() + contents.manifests.values().sum::<u64>()
    }

    fn read(&self, digest: &str, show_layers: bool, contents: &mut Contents) {
        let bytes = fs::read(self.data(digest)).unwrap();
        contents.manifests.insert(digest.to_owned(), bytes.len() as u64);
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        if let Some(children) = manifest["manifests"].as_array() {
            for child in children {
                let is_attestation = child["platform"]["os"] == "unknown";
                self.read(text(&child["digest"]), show_layers && !is_attestation, contents);
            }
        } else if manifest["schemaVersion"] == 1 {
            for layer in manifest["fsLayers"].as_array().unwrap() {
                let digest = text(&layer["blobSum"]);
                contents.count(digest, self.size(digest));
                contents.show(digest, self.size(digest), &Value::Null);
            }
        } else {
            contents.count(
                text(&manifest["config"]["digest"]),
                self.size(text(&manifest["config"]["digest"])),
            );
            for layer in manifest["layers"].as_array().unwrap() {
                let digest = text(&layer["digest"]);
                if layer.get("urls").is_none() && !is_foreign(text(&layer["mediaType"])) {
                    contents.count(digest, self.size(digest));
                }
                if show_layers {
                    contents.show(digest, layer["size"].as_u64().unwrap(), &layer["mediaType"]);
                }
            }
        }
    }

    fn size(&self, digest: &str) -> u64 {
        fs::metadata(self.data(digest)).unwrap().len()
    }

    fn data(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').unwrap();
        self.root
            .join("blobs")
            .join(algorithm)
            .join(hex.get(..2).unwrap())
            .join(hex)
            .join("data")
    }

    fn tags(&self, repository: &str) -> PathBuf {
        self.root
            .join("repositories")
            .join(repository)
            .join("_manifests/tags")
    }
}

impl Contents {
    fn count(&mut self, digest: &str, size: u64) {
        self.blobs.insert(digest.to_owned(), size);
    }

    fn show(&mut self, digest: &str, size: u64, media_type: &Value) {
        if !self.layers.iter().any(|layer| layer["digest"] == digest) {
            self.layers
                .push(json!({ "digest": digest, "size": size, "media_type": media_type }));
        }
    }
}

fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
