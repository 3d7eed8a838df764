//! Every notification captured from real registries, replayed.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{
    SOON, envelope, http,
    receiver::{Receiver, Request},
    shipbell::{Config, Shipbell, TOKEN},
};

/// The steps of the capture that ring, each with its image and the beginning of its digest: a push of a
/// manifest or an index by a tag. Everything else (pulls, deletes, pushes by digest) does not.
const RING: [(&str, &str, &str); 9] = [
    ("01-oci-push-push", "team/app:v1", "sha256:0348b383"),
    ("02-oci-push-again-push", "team/app:v1", "sha256:0348b383"),
    ("03-retag-same-digest-push", "team/app:stable", "sha256:0348b383"),
    ("04-tag-moves-push", "team/app:stable", "sha256:529adf3f"),
    ("05-multiarch-all-push", "team/multi:1.0", "sha256:042ab7b0"),
    ("06-schema2-push", "team/dockerfmt:v1", "sha256:c96d81dd"),
    ("07-manifest-list-push", "team/dockerlist:1.0", "sha256:a9ac9d5c"),
    ("09-cross-mount-push", "other/copy:v1", "sha256:0348b383"),
    (
        "17-tag-128-and-underscore-push",
        "a/b/c/d-e.f__g:A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_A_",
        "sha256:0348b383",
    ),
];

fn replay(version: &str) {
    let receiver = Receiver::start();
    let config = Config::without_registry()
        .with("[batch]\nwindow = '0s'\ncoalesce = 'none'")
        .endpoint("hook", &receiver.url("/hook"));
    let shipbell = Shipbell::start(config);

    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/envelopes")
        .join(version);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort_unstable();
    assert!(files.len() >= 28);
    for file in &files {
        let captured: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let authorization = format!("Bearer {TOKEN}");
        let mut headers = vec![("Authorization", authorization.as_str())];
        for header in captured["headers"].as_array().unwrap() {
            let (name, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
            if !["Host", "Content-Length", "Authorization"].contains(&name) {
                headers.push((name, value));
            }
        }
        let body = captured["body"].to_string();
        let response =
            http::request(shipbell.ingest(), "POST", "/events", &headers, body.as_bytes()).unwrap();
        assert_eq!(response.status, 202, "{}", file.display());
        assert!(response.body.is_empty());
    }

    // Each repository has a lane of its own: a last push in each shows that nothing more was to come.
    let repositories = [
        "team/app",
        "team/multi",
        "team/dockerfmt",
        "team/dockerlist",
        "other/copy",
        "a/b/c/d-e.f__g",
    ];
    for repository in repositories {
        shipbell.take(envelope::of(&[envelope::push(repository, "the-last", "last")]));
    }
    let mut requests = Vec::new();
    for repository in repositories {
        requests = receiver.wait_for_image(&format!("{repository}:the-last"), SOON);
    }
    for repository in repositories {
        let lane = |image: &&str| image.split(':').next() == Some(repository);
        let came: Vec<String> = requests.iter().map(Request::image).collect();
        let came: Vec<&str> = came.iter().map(String::as_str).filter(lane).collect();
        let mut expected: Vec<&str> = RING.iter().map(|(_, image, _)| *image).filter(lane).collect();
        let last = format!("{repository}:the-last");
        expected.push(&last);
        assert_eq!(came, expected, "in {repository}");
    }
    // The table above is the capture's: each of its steps is there, with its digest.
    for (step, image, digest) in RING {
        let file = files
            .iter()
            .rfind(|file| file.to_string_lossy().contains(step))
            .unwrap();
        let captured: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let target = &captured["body"]["events"][0]["target"];
        let (repository, tag) = image.split_once(':').unwrap();
        assert_eq!(target["repository"], repository, "{step}");
        assert_eq!(target["tag"], tag, "{step}");
        assert!(target["digest"].as_str().unwrap().starts_with(digest), "{step}");
    }
    let quarantined = fs::read_dir(shipbell.data().join("quarantine")).map_or(0, Iterator::count);
    assert_eq!(quarantined, 0, "a real notification is never garbage");
}

#[test]
fn every_captured_notification_of_2_8_gets_its_verdict() {
    replay("2.8");
}

#[test]
fn every_captured_notification_of_3_1_gets_its_verdict() {
    replay("3.1");
}
