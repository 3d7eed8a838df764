//! The whole of it: a registry that notifies a shipbell that tells one receiver.

use serde_json::Value;

use super::{
    SOON, ports,
    receiver::{Receiver, Request},
    registry::{Options, Registry},
    shipbell::{Config, Shipbell, TOKEN},
};

/// The parts, in the order in which they end: shipbell before those it talks to.
pub(crate) struct Stage {
    pub(crate) shipbell: Shipbell,
    pub(crate) registry: Registry,
    pub(crate) receiver: Receiver,
}

impl Stage {
    /// A registry with these options, a shipbell with these settings besides, and the endpoint `hook` for
    /// everything.
    pub(crate) fn new(options: Options<'_>, settings: &str) -> Self {
        let receiver = Receiver::start();
        let port = ports::free();
        let config = Config::new(&format!("http://127.0.0.1:{port}"))
            .endpoint("hook", &receiver.url("/hook"))
            .with(settings);
        let options = Options {
            notify: vec![(config.ingest(), TOKEN)],
            ..options
        };
        // The registry only notifies when something is pushed, so shipbell may come second.
        let registry = Registry::start_on(port, &options);
        Self {
            shipbell: Shipbell::start(config),
            registry,
            receiver,
        }
    }

    /// Waits for the webhook of `image`, and asserts that there came webhooks for exactly `images`, in
    /// this order, the last of which is the newest.
    pub(crate) fn webhooks(&self, images: &[&str]) -> Vec<Request> {
        self.receiver.wait_for(images.len(), SOON);
        let requests = self.receiver.wait_for_image(images.last().unwrap(), SOON);
        let came: Vec<String> = requests.iter().map(Request::image).collect();
        assert_eq!(came, images);
        requests
    }

    /// Asserts that the webhook's body is, to the byte, the one that the registry's own storage gives for
    /// `repository:tag` as it stands now.
    pub(crate) fn assert_body(&self, webhook: &Request, repository: &str, tag: &str) {
        let storage = self.registry.storage();
        let digest = storage.tagged(repository, tag);
        let (image_size, layers) = storage.image(&digest);
        let body = native_body(
            &format!("{repository}:{tag}"),
            Some(image_size),
            &layers,
            repository,
            Some(storage.repository(repository, &digest)),
            webhook,
        );
        assert_eq!(webhook.text(), body);
    }
}

/// The native body with these values and the webhook's own timestamp, written out by hand: seven keys in
/// their order, no white space.
pub(crate) fn native_body(
    image: &str,
    image_size: Option<u64>,
    layers: &[Value],
    repository: &str,
    repository_size: Option<u64>,
    webhook: &Request,
) -> String {
    let number = |size: Option<u64>| size.map_or("null".to_owned(), |size| size.to_string());
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| {
            let (digest, size, media_type) = (&layer["digest"], &layer["size"], &layer["media_type"]);
            format!(r#"{{"digest":{digest},"size":{size},"media_type":{media_type}}}"#)
        })
        .collect();
    format!(
        r#"{{"image":"{image}","image_size":{},"layers":[{}],"repository":"{repository}","repository_size":{},"event":"push","timestamp":{}}}"#,
        number(image_size),
        layers.join(","),
        number(repository_size),
        webhook.json()["timestamp"],
    )
}
