//! What moves a repository's size besides pushes that ring, told by hand beside a registry that tells nothing itself.

use serde_json::{Value, json};

use crate::support::{
    SOON, envelope,
    image::{Blob, Image},
    receiver::{Receiver, Request},
    registry::{Options, Registry},
    shipbell::{Config, Shipbell},
};

const REPOSITORY: &str = "acme/app";

/// The parts, in the order in which they end.
struct Stage {
    shipbell: Shipbell,
    registry: Registry,
    receiver: Receiver,
}

impl Stage {
    fn new(settings: &str) -> Self {
        let registry = Registry::start(&Options::default());
        let receiver = Receiver::start();
        let config = Config::new(&format!("http://127.0.0.1:{}", registry.port()))
            .endpoint("hook", &receiver.url("/hook"))
            .with(settings);
        Self {
            shipbell: Shipbell::start(config),
            registry,
            receiver,
        }
    }

    /// Pushes the image under that tag, tells of it, and asserts that its webhook has the size that the registry's own
    /// storage comes to.
    fn assert_size_with(&self, image: &Image, tag: &str) {
        self.registry.put(image, REPOSITORY, tag, &[]);
        self.shipbell.take(envelope::of(&[push(&image.manifest, tag)]));
        self.assert_size(image, tag);
    }

    fn assert_size(&self, image: &Image, tag: &str) {
        let name = format!("{REPOSITORY}:{tag}");
        let webhooks = self.receiver.wait_for_image(&name, SOON);
        let size = webhooks.last().map(Request::json).unwrap()["repository_size"].clone();
        let stored = self
            .registry
            .storage()
            .repository(REPOSITORY, &image.manifest.digest());
        assert_eq!(size, stored, "{name}");
    }
}

/// The event of a push of that manifest; an empty tag is none.
fn push(manifest: &Blob, tag: &str) -> Value {
    let mut event = envelope::push(REPOSITORY, tag, tag);
    event["target"]["mediaType"] = json!(manifest.media_type);
    event["target"]["digest"] = json!(manifest.digest());
    for key in ["size", "length"] {
        event["target"][key] = json!(manifest.size());
    }
    event
}

/// An event of its own of something deleted: a tag or a digest.
fn delete(key: &str, value: &str) -> Value {
    let mut event = envelope::push(REPOSITORY, "", "");
    event["action"] = json!("delete");
    event["target"] = json!({ "repository": REPOSITORY, key: value });
    event
}

#[test]
fn what_is_deleted_and_pushed_again_in_one_envelope_counts() {
    let stage = Stage::new("");
    let image = Image::two_platforms_with_attestation("again");
    stage.registry.put(&image, REPOSITORY, "multi", &[]);
    let child = &image.children[0];
    stage.shipbell.take(envelope::of(&[
        delete("digest", &child.digest()),
        push(child, ""),
        push(&image.manifest, "multi"),
        push(&image.manifest, "multi"),
    ]));
    stage.assert_size(&image, "multi");
}

#[test]
fn a_delete_that_is_sent_again_removes_no_newer_push() {
    let stage = Stage::new("");
    let [kept, moved] = ["kept", "moved"].map(|seed| Image::oci(seed, &[3_000]));
    stage.assert_size_with(&kept, "kept");
    stage.assert_size_with(&kept, "v1");
    let deleted = envelope::of(&[delete("tag", "v1")]);
    stage.shipbell.take(&deleted);
    stage.registry.put(&moved, REPOSITORY, "v1", &[]);
    let pushed = envelope::of(&[push(&moved.manifest, "v1")]);
    stage.shipbell.take(pushed);
    stage.shipbell.take(&deleted);
    stage.assert_size_with(&kept, "last");
}

#[test]
fn what_is_pushed_by_another_name_of_the_store_rings_nobody_and_counts() {
    let stage = Stage::new("registry.accept_hosts = ['registry.test']");
    let [kept, other] = ["kept", "other"].map(|seed| Image::oci(seed, &[3_000]));
    stage.assert_size_with(&kept, "kept");
    stage.registry.put(&other, REPOSITORY, "other", &[]);
    let mut event = push(&other.manifest, "other");
    event["request"]["host"] = json!("registry.internal:5000");
    stage.shipbell.take(envelope::of(&[event]));
    stage.assert_size_with(&kept, "last");
    let rang: Vec<_> = stage.receiver.requests().iter().map(Request::image).collect();
    assert_eq!(rang, ["acme/app:kept", "acme/app:last"]);
}
