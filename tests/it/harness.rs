//! The harness itself, on the real registry: what the other tests rest on.

use serde_json::json;

use crate::support::{
    SOON,
    image::{Blob, Image, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST},
    receiver::Receiver,
    registry::{Access, Options, Registry},
    tokens::TokenServer,
};

#[test]
fn the_registry_notifies_of_a_push_and_stores_what_was_pushed() {
    let receiver = Receiver::start();
    let registry = Registry::start(&Options {
        notify: vec![(receiver.port(), "a-token")],
        ..Options::default()
    });
    let image = Image::oci("harness", &[1_000, 2_000]);
    registry.push(&image, "acme/app:1", &[]);
    registry.wait_until_drained(SOON);
    assert_eq!(
        registry.taken_events(receiver.port()),
        receiver.requests().len() as u64
    );
    let pushed: Vec<_> = receiver
        .requests()
        .into_iter()
        .filter(|request| request.json()["events"][0]["target"]["tag"] == "1")
        .collect();
    assert_eq!(pushed.len(), 1);
    assert_eq!(pushed[0].header("authorization"), "Bearer a-token");

    let storage = registry.storage();
    assert_eq!(storage.tagged("acme/app", "1"), image.manifest.digest());
    let blobs: u64 = image.blobs.iter().map(Blob::size).sum();
    let (size, layers) = storage.image(&image.manifest.digest());
    assert_eq!(size, blobs);
    assert_eq!(layers.len(), 2);
    assert_eq!(
        storage.repository("acme/app", &image.manifest.digest()),
        blobs + image.manifest.size()
    );
}

#[test]
fn an_index_is_stored_with_its_children() {
    let registry = Registry::start(&Options::default());
    let image = Image::two_platforms_with_attestation("harness");
    registry.push(&image, "acme/multi:1", &["--all"]);
    registry.put(&image, "acme/raw", "1", &[]);
    for repository in ["acme/multi", "acme/raw"] {
        let digest = registry.storage().tagged(repository, "1");
        assert_eq!(digest, image.manifest.digest());
        let (size, layers) = registry.storage().image(&digest);
        assert_eq!(size, image.blobs.iter().map(Blob::size).sum::<u64>());
        assert_eq!(layers.len(), 4, "the attestation's layer is not shown");
    }
}

#[test]
fn the_registry_takes_passwords_and_tokens() {
    let image = Image::oci("harness", &[1_000]);
    let registry = Registry::start(&Options {
        access: Access::Htpasswd {
            user: "alice",
            password: "wonder land",
        },
        ..Options::default()
    });
    registry.push(&image, "acme/app:1", &[]);
    assert_eq!(
        registry.storage().tagged("acme/app", "1"),
        image.manifest.digest()
    );

    let tokens = TokenServer::start();
    let registry = Registry::start(&Options {
        access: Access::Tokens(&tokens),
        ..Options::default()
    });
    registry.push(&image, "acme/app:1", &[]);
    assert_eq!(
        registry.storage().tagged("acme/app", "1"),
        image.manifest.digest()
    );
    let scopes = json!(tokens.asked().last().unwrap().scopes).to_string();
    assert!(scopes.contains("acme/app:pull,push"), "{scopes}");
}

#[test]
fn the_registry_takes_every_kind_of_image() {
    let registry = Registry::start(&Options {
        schema1: true,
        ..Options::default()
    });
    let image = Image::oci("kinds", &[1_000, 2_000]);
    let layers_of = |repository: &str| {
        let storage = registry.storage();
        let (size, layers) = storage.image(&storage.tagged(repository, "1"));
        assert!(size > 3_000, "{repository}: {size}");
        layers.len()
    };
    registry.push(&image, "docker:1", &["--format", "v2s2"]);
    registry.push(&image, "old:1", &["--format", "v2s1"]);
    registry.retag("docker:1", "copy:1");
    assert_eq!(["docker", "old", "copy"].map(layers_of), [2, 2, 2]);

    let (foreign, absent) = Image::with_foreign_layer();
    registry.put(&foreign, "foreign", "1", &absent);
    assert_eq!(layers_of("foreign"), 2);
    let shared = Blob::new(OCI_LAYER, vec![1; 4_000]);
    let config = Blob::json(OCI_CONFIG, &json!({}));
    let twice = Image::of(OCI_MANIFEST, config, vec![shared.clone(), shared]);
    registry.put(&twice, "twice", "1", &[]);
    assert_eq!(layers_of("twice"), 1);
}
