//! A registry that can't be asked: the webhook goes out with what is known (CONTRACT 3, Sizes).

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    SOON, envelope, eventually,
    image::{Blob, Image, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST},
    receiver::{Receiver, Request},
    registry::Options,
    shipbell::{Config, Shipbell},
    stage::{Stage, native_body},
};

fn webhook(registry_url: &str, event: &Value, deadline: &str) -> (Request, Duration) {
    let receiver = Receiver::start();
    let config = Config::new(registry_url)
        .with(&format!("size.deadline = '{deadline}'"))
        .endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    let begun = Instant::now();
    shipbell.take(envelope::of(std::slice::from_ref(event)));
    let request = receiver.wait_for(1, SOON).remove(0);
    let elapsed = request.at - begun;
    (request, elapsed)
}

#[test]
fn with_a_registry_that_is_down_the_webhook_goes_out_without_sizes() {
    let mut stage = Stage::new(Options::default(), "size.deadline = '2s'");
    stage
        .registry
        .push(&Image::oci("first", &[1_000]), "acme/app:1", &[]);
    stage.webhooks(&["acme/app:1"]);
    stage.registry.stop();
    let begun = Instant::now();
    stage
        .shipbell
        .take(envelope::of(&[envelope::push("acme/app", "2", "unknown")]));
    let webhooks = stage.webhooks(&["acme/app:1", "acme/app:2"]);
    let elapsed = webhooks[1].at - begun;
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    let expected = native_body("acme/app:2", None, &[], "acme/app", None, &webhooks[1]);
    assert_eq!(webhooks[1].text(), expected);

    stage.registry.start_again();
    stage
        .registry
        .push(&Image::oci("third", &[1_000]), "acme/app:3", &[]);
    let webhooks = stage.webhooks(&["acme/app:1", "acme/app:2", "acme/app:3"]);
    stage.assert_body(&webhooks[2], "acme/app", "3");
}

#[test]
fn with_a_registry_that_never_answers_the_webhook_waits_for_the_deadline_and_no_longer() {
    // It accepts, as a listener does, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let event = envelope::push("acme/app", "1", "unknown");
    let (request, elapsed) = webhook(&url, &event, "1s");
    let expected = native_body("acme/app:1", None, &[], "acme/app", None, &request);
    assert_eq!(request.text(), expected);
    assert!(elapsed >= Duration::from_secs(1), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(4), "{elapsed:?}");
}

#[test]
fn why_the_registry_can_not_be_asked_stands_in_the_log() {
    let receiver = Receiver::start();
    let config = Config::without_registry().endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);
    shipbell.take(envelope::of(&[envelope::push("acme/app", "1", "unknown")]));
    receiver.wait_for(1, SOON);
    eventually("it is said", SOON, || {
        let log = shipbell.log();
        let line = log
            .lines()
            .find(|line| line.contains("the registry does not answer"))?;
        (line.contains("the registry can't be reached: ") && line.contains("refused")).then_some(())
    });
}

#[test]
fn references_in_the_event_give_the_images_size_without_the_registry() {
    let image = Image::oci("references", &[3_000, 4_000]);
    let event = envelope::push_with_references("acme/app", "1", &image);
    let (request, _) = webhook("http://127.0.0.1:9", &event, "1s");
    let size = image.blobs.iter().map(Blob::size).sum();
    let layers: Vec<Value> = image.blobs[1..]
        .iter()
        .map(
            |layer| json!({ "digest": layer.digest(), "size": layer.size(), "media_type": layer.media_type }),
        )
        .collect();
    let expected = native_body("acme/app:1", Some(size), &layers, "acme/app", None, &request);
    assert_eq!(request.text(), expected);
}

#[test]
fn foreign_layers_in_references_count_in_no_size() {
    let config = Blob::json(OCI_CONFIG, &json!({ "os": "windows" }));
    let own = Blob::new(OCI_LAYER, vec![1; 1_000]);
    let by_type = Blob::new(
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        vec![2; 2_000],
    );
    let by_urls = Blob::new(OCI_LAYER, vec![3; 4_000]);
    let image = Image::of(OCI_MANIFEST, config, vec![own, by_type, by_urls]);
    let mut event = envelope::push_with_references("acme/app", "1", &image);
    event["target"]["references"][3]["urls"] = json!(["https://example.com/base"]);
    let (request, _) = webhook("http://127.0.0.1:9", &event, "1s");
    let body = request.json();
    assert_eq!(body["image_size"], image.blobs[0].size() + 1_000, "{body}");
    assert_eq!(body["layers"].as_array().unwrap().len(), 3, "{body}");
}

#[test]
fn the_children_of_an_index_cannot_be_told_without_the_registry() {
    let image = Image::two_platforms_with_attestation("down");
    let mut event = envelope::push("acme/app", "1", "index");
    event["target"]["mediaType"] = json!(image.manifest.media_type);
    event["target"]["references"] = image.children.iter().map(Blob::descriptor).collect();
    let (request, _) = webhook("http://127.0.0.1:9", &event, "1s");
    let expected = native_body("acme/app:1", None, &[], "acme/app", None, &request);
    assert_eq!(request.text(), expected);
}
