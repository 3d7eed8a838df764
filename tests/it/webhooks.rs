//! Which pushes ring, how often, and with which sizes (CONTRACT 2 and 3), on the real registry.

use serde_json::json;

use crate::support::{
    SOON, http,
    image::{Blob, Image, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST},
    receiver::Request,
    registry::{Options, Registry},
    stage::Stage,
};

/// Every kind of image and of push, one after another.
fn every_kind_of_push(references: bool) {
    let stage = Stage::new(
        Options {
            references,
            ..Options::default()
        },
        "",
    );
    let registry = &stage.registry;
    let mut images = Vec::new();
    let mut rang = |image: &'static str, push: &dyn Fn(&Registry)| {
        push(registry);
        images.push(image);
        let webhooks = stage.webhooks(&images);
        let (repository, tag) = image.split_once(':').unwrap();
        stage.assert_body(webhooks.last().unwrap(), repository, tag);
    };

    let first = Image::oci("first", &[30_000, 50_000]);
    rang("acme/app:1.4", &|registry| {
        registry.push(&first, "acme/app:1.4", &[]);
    });
    rang("acme/app:docker", &|registry| {
        let image = Image::oci("docker", &[10_000]);
        registry.push(&image, "acme/app:docker", &["--format", "v2s2"]);
    });
    rang("acme/app:multi", &|registry| {
        let image = Image::two_platforms_with_attestation("multi");
        registry.push(&image, "acme/app:multi", &["--all"]);
    });
    rang("acme/app:stable", &|registry| {
        registry.retag("acme/app:1.4", "acme/app:stable");
    });
    rang("acme/app:1.4", &|registry| {
        registry.push(&first, "acme/app:1.4", &[]);
    });
    // Neither of these rings: were there a webhook for it, it would come before the next one's.
    let unnamed = Image::oci("unnamed", &[5_000]);
    registry.put(&unnamed, "acme/app", &unnamed.manifest.digest(), &[]);
    let signature = Image::oci("signature", &[700]);
    let signed = first.manifest.digest().replace(':', "-");
    registry.put(&signature, "acme/app", &format!("{signed}.sig"), &[]);
    registry.put(&signature, "acme/app", &signed, &[]);
    rang("acme/app:last", &|registry| {
        registry.push(&first, "acme/app:last", &[]);
    });
    rang("elsewhere:1.4", &|registry| {
        registry.push(&first, "elsewhere:1.4", &[]);
    });

    let webhooks = stage.receiver.requests();
    let mut ids: Vec<&str> = webhooks.iter().map(Request::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), webhooks.len(), "each push has an id of its own");
    registry.wait_until_drained(SOON);
}

#[test]
fn every_kind_of_push_rings_once_a_tag_with_the_registrys_own_sizes() {
    every_kind_of_push(true);
}

#[test]
fn sizes_are_the_same_when_the_registry_sends_no_references() {
    every_kind_of_push(false);
}

#[test]
fn foreign_layers_are_shown_and_not_counted() {
    let stage = Stage::new(Options::default(), "");
    let (image, absent) = Image::with_foreign_layer();
    stage.registry.put(&image, "acme/windows", "1", &absent);
    let webhooks = stage.webhooks(&["acme/windows:1"]);
    stage.assert_body(&webhooks[0], "acme/windows", "1");
    let body = webhooks[0].json();
    assert_eq!(body["layers"].as_array().unwrap().len(), 2);
    assert_eq!(body["image_size"], image.blobs[0].size() + image.blobs[2].size());
}

#[test]
fn a_blob_counts_once_however_often_it_is_named() {
    let stage = Stage::new(Options::default(), "");
    let shared = Blob::new(OCI_LAYER, vec![1; 4_000]);
    let other = Blob::new(OCI_LAYER, vec![2; 2_000]);
    let config = |name: &str| Blob::json(OCI_CONFIG, &json!({ "name": name }));
    let twice = vec![shared.clone(), other.clone(), shared.clone()];
    let twice = Image::of(OCI_MANIFEST, config("twice"), twice);
    stage.registry.put(&twice, "acme/app", "1", &[]);
    let again = Image::of(OCI_MANIFEST, config("again"), vec![shared, other]);
    stage.registry.put(&again, "acme/app", "2", &[]);
    let webhooks = stage.webhooks(&["acme/app:1", "acme/app:2"]);
    assert_eq!(webhooks[0].json()["layers"].as_array().unwrap().len(), 2);
    assert_eq!(webhooks[0].json()["image_size"], config("twice").size() + 6_000);
    stage.assert_body(&webhooks[1], "acme/app", "2");
}

#[test]
fn a_tag_that_moved_takes_its_old_image_out_of_the_repositorys_size() {
    // No window: the event comes before the registry has written the tag.
    let stage = Stage::new(Options::default(), "batch.window = '0s'");
    let mut images = Vec::new();
    for round in 0..8 {
        let image = Image::oci(&format!("round {round}"), &[1_000 + round]);
        stage.registry.put(&image, "acme/app", "latest", &[]);
        images.push("acme/app:latest");
        let webhooks = stage.webhooks(&images);
        stage.assert_body(webhooks.last().unwrap(), "acme/app", "latest");
    }
}

#[test]
fn what_was_deleted_no_longer_counts() {
    let stage = Stage::new(Options::default(), "");
    let gone = Image::oci("gone", &[9_000]);
    stage.registry.put(&gone, "acme/app", "gone", &[]);
    stage.webhooks(&["acme/app:gone"]);
    let path = format!("/v2/acme/app/manifests/{}", gone.manifest.digest());
    let response = http::request(stage.registry.port(), "DELETE", &path, &[], &[]).unwrap();
    assert_eq!(response.status, 202);
    stage
        .registry
        .put(&Image::oci("stays", &[1_000]), "acme/app", "stays", &[]);
    let webhooks = stage.webhooks(&["acme/app:gone", "acme/app:stays"]);
    stage.assert_body(&webhooks[1], "acme/app", "stays");
}

#[test]
fn an_image_of_schema_1_has_the_sizes_of_its_blobs() {
    let stage = Stage::new(
        Options {
            schema1: true,
            ..Options::default()
        },
        "",
    );
    let image = Image::oci("old", &[10_000, 20_000]);
    stage.registry.push(&image, "acme/old:1", &["--format", "v2s1"]);
    let webhooks = stage.webhooks(&["acme/old:1"]);
    let storage = stage.registry.storage();
    let digest = storage.tagged("acme/old", "1");
    let (image_size, layers) = storage.image(&digest);
    let body = webhooks[0].json();
    assert_eq!(body["image_size"], image_size);
    assert_eq!(body["repository_size"], storage.repository("acme/old", &digest));
    // Schema 1 gives layers no media type, so what stands there is not looked at.
    let shown = body["layers"].as_array().unwrap();
    let told = |layer: &serde_json::Value| (layer["digest"].clone(), layer["size"].clone());
    assert!(shown.iter().map(told).eq(layers.iter().map(told)), "{body}");
}
