//! Windows, coalescing and who is told of what (CONTRACT 2 and 4).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    SOON, envelope,
    image::Image,
    receiver::{Receiver, images},
    registry::Options,
    shipbell::{Config, Shipbell},
    stage::Stage,
};

#[test]
fn pushes_of_one_tag_within_a_window_ring_once_for_the_newest() {
    // Full before it closes, however slow the registry is today.
    let stage = Stage::new(Options::default(), "batch.window = '10m'\nbatch.max_pushes = 4");
    for round in 1..=3 {
        let image = Image::oci("coalesced", &[round * 1_000]);
        stage.registry.put(&image, "acme/app", "latest", &[]);
    }
    stage
        .registry
        .put(&Image::oci("end", &[1_000]), "acme/app", "end", &[]);
    let webhooks = stage.webhooks(&["acme/app:latest", "acme/app:end"]);
    stage.assert_body(&webhooks[0], "acme/app", "latest");
}

#[test]
fn without_coalescing_every_push_rings_in_order() {
    let stage = Stage::new(Options::default(), "batch.window = '2s'\nbatch.coalesce = 'none'");
    let images: Vec<Image> = (1..=3)
        .map(|round| Image::oci("kept", &[round * 1_000]))
        .collect();
    for image in &images {
        stage.registry.put(image, "acme/app", "latest", &[]);
    }
    let webhooks = stage.webhooks(&["acme/app:latest"; 3]);
    for (webhook, image) in webhooks.iter().zip(&images) {
        let layer = &webhook.json()["layers"][0];
        assert_eq!(layer["digest"], image.blobs[1].digest());
    }
}

#[test]
fn a_full_batch_does_not_wait_for_its_window() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .with("batch.window = '1h'\nbatch.max_pushes = 3")
        .endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    for tag in ["1", "2", "3"] {
        shipbell.take(envelope::one("acme/app", tag));
    }
    let requests = receiver.wait_for(3, SOON);
    assert_eq!(images(&requests), ["acme/app:1", "acme/app:2", "acme/app:3"]);
}

#[test]
fn a_window_holds_its_pushes_back() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .with("batch.window = '1s'")
        .endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    let begun = Instant::now();
    shipbell.take(envelope::one("acme/app", "1"));
    let requests = receiver.wait_for(1, SOON);
    let waited = requests[0].at - begun;
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
}

#[test]
fn window_and_coalescing_can_be_set_for_one_endpoint() {
    let (general, own) = (Receiver::start(), Receiver::start());
    let config = Config::without_registry()
        .with("batch.window = '1s'")
        .endpoint("general", &general.url("/"))
        .with(&format!(
            "[[endpoints]]\nname = 'own'\nrepositories = ['**']\nurl = '{}'\nwindow = '0s'\ncoalesce = 'none'",
            own.url("/")
        ));
    let shipbell = Shipbell::start(config);
    let push = |content: &str| envelope::push("acme/app", "latest", content);
    shipbell.take(envelope::of(&[push("1"), push("2"), push("3")]));
    shipbell.take(envelope::of(&[envelope::push("acme/app", "end", "4")]));
    let all = own.wait_for(4, SOON);
    assert_eq!(
        images(&all),
        [
            "acme/app:latest",
            "acme/app:latest",
            "acme/app:latest",
            "acme/app:end"
        ]
    );
    let newest = general.wait_for_image("acme/app:end", SOON);
    assert_eq!(images(&newest), ["acme/app:latest", "acme/app:end"]);
    assert!(all[0].at < newest[0].at);
}

#[test]
fn an_endpoint_hears_of_the_repositories_and_tags_it_named() {
    let receiver = Receiver::start();
    let config = Config::without_registry().with(&format!(
        r"
        [batch]
        window = '0s'
        [[endpoints]]
        name = 'releases'
        repositories = ['acme/*', 'deep/**']
        tags = ['v*', 'last']
        exclude_tags = ['*-rc*']
        url = '{}'
        ",
        receiver.url("/")
    ));
    let shipbell = Shipbell::start(config);
    let pushed = [
        ("acme/app", "v1"),
        ("acme/app", "v2-rc1"),
        ("acme/app", "latest"),
        ("acme/app/part", "v1"),
        ("other", "v1"),
        ("deep/a/b/c", "v1"),
    ];
    for (repository, tag) in pushed {
        shipbell.take(envelope::one(repository, tag));
    }
    for repository in ["acme/app", "deep/a/b/c"] {
        shipbell.take(envelope::one(repository, "last"));
        receiver.wait_for_image(&format!("{repository}:last"), SOON);
    }
    let mut came = images(&receiver.requests());
    came.sort_unstable();
    assert_eq!(
        came,
        ["acme/app:last", "acme/app:v1", "deep/a/b/c:last", "deep/a/b/c:v1"]
    );
}

#[test]
fn filters_keep_pushes_from_everyone() {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .with(
            r"
            [batch]
            window = '0s'
            [registry]
            accept_hosts = ['registry.test']
            [filter]
            repositories = ['acme/**']
            exclude_repositories = ['acme/scratch/**']
            exclude_tags = ['*-dev']
            exclude_actors = ['mirror']
            ",
        )
        .endpoint("hook", &receiver.url("/"));
    let shipbell = Shipbell::start(config);
    let with = |pointer: &str, value: Value| {
        let mut event = envelope::push("acme/app", "filtered", "filtered");
        *event.pointer_mut(pointer).unwrap() = value;
        event
    };
    shipbell.take(envelope::of(&[
        with("/request/host", json!("another.test")),
        with("/actor", json!({ "name": "mirror" })),
        with("/target/tag", json!("1-dev")),
        with("/target/repository", json!("acme/scratch/app")),
        with("/target/repository", json!("other/app")),
        with("/action", json!("pull")),
        with("/target/mediaType", json!("application/octet-stream")),
    ]));
    for repository in ["acme/app", "acme/scratches"] {
        shipbell.take(envelope::one(repository, "last"));
        receiver.wait_for_image(&format!("{repository}:last"), SOON);
    }
    let mut came = images(&receiver.requests());
    came.sort_unstable();
    assert_eq!(came, ["acme/app:last", "acme/scratches:last"]);
}
