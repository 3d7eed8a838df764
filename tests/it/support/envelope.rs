//! Envelopes as the registry writes them, for tests that have no registry or none that is up.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use shipbell::image::Digest;

use super::image::{Blob, Image, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};

static EVENTS: AtomicU64 = AtomicU64::new(1);

/// The event of a push of some OCI image under `tag`, with an id of its own. Which image it is follows
/// from `content`.
pub(crate) fn push(repository: &str, tag: &str, content: &str) -> Value {
    let digest = digest(content);
    event(&json!({
        "mediaType": OCI_MANIFEST,
        "size": 582,
        "digest": digest,
        "length": 582,
        "repository": repository,
        "url": format!("http://registry.test/v2/{repository}/manifests/{digest}"),
        "tag": tag,
    }))
}

/// An envelope with a push of an image that follows from its tag.
pub(crate) fn one(repository: &str, tag: &str) -> String {
    of(&[push(repository, tag, tag)])
}

/// The event of a push of `image`, with the references that the registry adds when told to.
pub(crate) fn push_with_references(repository: &str, tag: &str, image: &Image) -> Value {
    let digest = image.manifest.digest();
    let references: Vec<Value> = image.blobs.iter().map(Blob::descriptor).collect();
    event(&json!({
        "mediaType": image.manifest.media_type,
        "size": image.manifest.size(),
        "digest": digest,
        "length": image.manifest.size(),
        "repository": repository,
        "url": format!("http://registry.test/v2/{repository}/manifests/{digest}"),
        "tag": tag,
        "references": references,
    }))
}

/// The event of push `number` of `repository`: an image of one layer that is told with it, so that its
/// webhook shows which push it is of, see [`number_of`].
pub(crate) fn numbered(repository: &str, tag: &str, number: u64) -> Value {
    let content = format!("{repository} {number}");
    let mut event = push(repository, tag, &content);
    event["target"]["references"] = json!([
        { "mediaType": OCI_CONFIG, "digest": digest(&format!("{content} config")), "size": 7 },
        { "mediaType": OCI_LAYER, "digest": digest(&format!("{content} layer")), "size": number },
    ]);
    event
}

/// The number that [`numbered`] gave to the push of `repository` whose webhook has this body; `None` when
/// it isn't one that was numbered.
pub(crate) fn number_of(repository: &str, webhook: &Value) -> Option<u64> {
    let layer = webhook["layers"].get(0)?;
    let number = layer["size"].as_u64()?;
    (layer["digest"] == digest(&format!("{repository} {number} layer"))).then_some(number)
}

/// The event of a push that takes at least `bytes` in the journal and no more than others in a webhook.
pub(crate) fn heavy(repository: &str, tag: &str, bytes: usize) -> Value {
    let mut event = push(repository, tag, tag);
    // The type of a config is kept as it came, and in no webhook.
    event["target"]["references"] = json!([
        { "mediaType": "x".repeat(bytes), "digest": digest("config"), "size": 7 },
        { "mediaType": OCI_LAYER, "digest": digest(tag), "size": 8 },
    ]);
    event
}

/// The digest of the image that [`push`] tells of.
pub(crate) fn digest(content: &str) -> String {
    Digest::sha256(content.as_bytes()).to_string()
}

fn event(target: &Value) -> Value {
    let number = EVENTS.fetch_add(1, Ordering::Relaxed);
    json!({
        "id": format!("00000000-0000-4000-8000-{number:012}"),
        "timestamp": "2026-11-23T09:08:38.473353234Z",
        "action": "push",
        "target": target,
        "request": {
            "id": "46db3081-ba4d-416a-8fd1-f8fcad07dc93", "addr": "127.0.0.1:53348",
            "host": "registry.test", "method": "PUT", "useragent": "skopeo/1.9.3",
        },
        "actor": {},
        "source": { "addr": "registry.test:5000", "instanceID": "ec2da8e5-e978-465a-bb19-5c09e6647019" },
    })
}

/// The envelope of these events.
pub(crate) fn of(events: &[Value]) -> String {
    json!({ "events": events }).to_string()
}
