//! Sizes that no webhook tells: a push that no endpoint owes, and what is deleted, only update sizes (CONTRACT 2).

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use crate::support::{
    SOON,
    api::Api,
    envelope, eventually, http,
    image::Image,
    ports, raw,
    raw::RawReceiver,
    registry::{Options, Registry},
    shipbell::{Config, Shipbell, TOKEN},
};

/// Waits until the API tells that size and so many tags of the repository.
fn wait_for(shipbell: &Shipbell, repository: &str, size: u64, tags: u64) {
    let mut last = Value::Null;
    let found = crate::support::wait::poll(SOON, || {
        let path = format!("/api/v1/repositories?q={repository}");
        last = Api::at(shipbell.admin_port()).get(&path).json()["items"][0].clone();
        (last["size"] == size && last["tags"] == tags).then_some(())
    });
    assert!(found.is_some(), "{size} bytes and {tags} tags are wanted: {last}");
}

#[test]
fn a_repository_that_nobody_owes_shows_its_size_as_it_is_pushed_to_and_deleted_from() {
    let port = ports::free();
    let config = Config::new(&format!("http://127.0.0.1:{port}"));
    let options = Options {
        notify: vec![(config.ingest(), TOKEN)],
        ..Options::default()
    };
    let registry = Registry::start_on(port, &options);
    let shipbell = Shipbell::start(config);
    let (first, second) = (Image::oci("first", &[30_000]), Image::oci("second", &[70_000]));
    let stored = |image: &Image| {
        registry
            .storage()
            .repository("acme/app", &image.manifest.digest())
    };

    registry.push(&first, "acme/app:1", &[]);
    let alone = stored(&first);
    wait_for(&shipbell, "acme/app", alone, 1);
    registry.push(&second, "acme/app:2", &[]);
    let both = stored(&second);
    assert!(both > alone + 70_000);
    wait_for(&shipbell, "acme/app", both, 2);

    let path = format!("/v2/acme/app/manifests/{}", second.manifest.digest());
    let deleted = http::request(registry.port(), "DELETE", &path, &[], &[]).unwrap();
    assert_eq!(deleted.status, 202);
    wait_for(&shipbell, "acme/app", alone, 1);
}

#[test]
fn the_registry_is_not_asked_for_what_is_shown_to_nobody() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noting = Arc::clone(&asked);
    let registry = RawReceiver::start(move |stream| {
        let head = raw::read_head(stream)?;
        noting
            .lock()
            .unwrap()
            .push(head.lines().next().unwrap_or_default().to_owned());
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    let config = Config::new(&registry.url("")).with("filter.exclude_repositories = ['hidden/**']");
    let shipbell = Shipbell::start(config);
    // One after another, in this order.
    for repository in ["hidden/app", "shown/app"] {
        shipbell.take(envelope::of(&[envelope::push(repository, "1", repository)]));
    }
    eventually("it asks for the one that is shown", SOON, || {
        let asked = asked.lock().unwrap();
        asked
            .iter()
            .any(|line| line.contains("/v2/shown/app/"))
            .then_some(())
    });
    let asked = asked.lock().unwrap();
    assert!(!asked.iter().any(|line| line.contains("hidden")), "{asked:?}");
}
