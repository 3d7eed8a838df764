//! What a webhook says: the `native` body and the header that names its image.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::{Layer, Sizes};
use crate::{
    clock::Timestamp,
    image::{Digest, RepositoryName, Tag},
};

/// Why a webhook is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// An image was pushed.
    Push,
    /// Somebody wants to see whether the endpoint works.
    Test,
}

impl EventKind {
    /// The event as a body tells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Test => "test",
        }
    }
}

/// All that a body is written from.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where the image was pushed.
    pub repository: &'a RepositoryName,
    /// By which tag; `None` when it was pushed by digest.
    pub tag: Option<&'a Tag>,
    /// What was pushed.
    pub digest: &'a Digest,
    /// Stands before the repository and a slash in `image` and `repository`; empty for none.
    pub public_host: &'a str,
    /// What is known of its sizes.
    pub sizes: &'a Sizes,
    /// Why it is sent.
    pub event: EventKind,
    /// The time of the request: of this attempt, not of the push.
    pub at: Timestamp,
}

/// The image, with the public host when there is one: `registry.example.com/acme/app:1.4`.
struct Image<'a> {
    message: &'a Message<'a>,
    public_host: &'a str,
}

impl fmt::Display for Image<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message {
            repository,
            tag,
            digest,
            ..
        } = self.message;
        write!(f, "{}", Repository(self.public_host, repository))?;
        match tag {
            Some(tag) => write!(f, ":{tag}"),
            None => write!(f, "@{digest}"),
        }
    }
}

/// A repository behind a public host, which may be empty.
struct Repository<'a>(&'a str, &'a RepositoryName);

impl fmt::Display for Repository<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(public_host, name) = self;
        if public_host.is_empty() {
            write!(f, "{name}")
        } else {
            write!(f, "{public_host}/{name}")
        }
    }
}

/// The `native` body on the wire. The order of its fields is the order of its keys, and part of the
/// contract with receivers.
#[derive(Serialize)]
struct Native<'a> {
    #[serde(serialize_with = "as_text")]
    image: Image<'a>,
    image_size: Option<u64>,
    #[serde(serialize_with = "as_layers")]
    layers: &'a [Layer],
    #[serde(serialize_with = "as_text")]
    repository: Repository<'a>,
    repository_size: Option<u64>,
    event: &'static str,
    #[serde(serialize_with = "as_text")]
    timestamp: Timestamp,
}

#[derive(Serialize)]
struct NativeLayer<'a> {
    #[serde(serialize_with = "as_text")]
    digest: &'a Digest,
    size: u64,
    media_type: &'a str,
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_layers<S: Serializer>(layers: &&[Layer], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(layers.iter().map(|layer| NativeLayer {
        digest: &layer.digest,
        size: layer.size,
        media_type: &layer.media_type,
    }))
}

/// The body of a `native` webhook: seven keys, always in the same order, without blanks; an unknown
/// size is `null`, unknown layers are `[]`.
#[must_use]
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "serde_json fails only on maps with odd keys and on failing writers; here is neither"
)]
pub fn native(message: &Message<'_>) -> Bytes {
    let body = Native {
        image: Image {
            message,
            public_host: message.public_host,
        },
        image_size: message.sizes.image_size,
        layers: &message.sizes.layers,
        repository: Repository(message.public_host, message.repository),
        repository_size: message.sizes.repository_size,
        event: message.event.as_str(),
        timestamp: message.at,
    };
    let json = serde_json::to_vec(&body).expect("texts, numbers and nulls serialize");
    json.into()
}

/// The value of the header `x-alin-webhook`: `acme/app:1.4`, without a tag `acme/app@sha256:…`. Never
/// with the public host.
#[must_use]
pub fn header_value(message: &Message<'_>) -> String {
    Image {
        message,
        public_host: "",
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Given {
        repository: RepositoryName,
        tag: Option<Tag>,
        digest: Digest,
        sizes: Sizes,
    }

    impl Given {
        fn new() -> Self {
            let digest = Digest::sha256(b"layer");
            Self {
                repository: "acme/app".parse().unwrap(),
                tag: Some("1.4".parse().unwrap()),
                digest: Digest::sha256(b"manifest"),
                sizes: Sizes {
                    image_size: Some(80_796),
                    layers: [Layer {
                        digest,
                        size: 30_221,
                        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
                    }]
                    .into(),
                    repository_size: Some(2_311_754),
                },
            }
        }

        fn message(&self) -> Message<'_> {
            Message {
                repository: &self.repository,
                tag: self.tag.as_ref(),
                digest: &self.digest,
                public_host: "",
                sizes: &self.sizes,
                event: EventKind::Push,
                at: Timestamp::from_unix_millis(1_795_424_918_473),
            }
        }
    }

    fn text(message: &Message<'_>) -> String {
        String::from_utf8(native(message).to_vec()).unwrap()
    }

    #[test]
    fn the_body_is_seven_keys_in_their_order_to_the_byte() {
        let given = Given::new();
        assert_eq!(
            text(&given.message()),
            format!(
                concat!(
                    r#"{{"image":"acme/app:1.4","image_size":80796,"layers":[{{"digest":"{}","size":30221,"#,
                    r#""media_type":"application/vnd.oci.image.layer.v1.tar+gzip"}}],"repository":"acme/app","#,
                    r#""repository_size":2311754,"event":"push","timestamp":"2026-11-23T09:08:38.473Z"}}"#
                ),
                Digest::sha256(b"layer")
            )
        );
        assert_eq!(header_value(&given.message()), "acme/app:1.4");
    }

    #[test]
    fn what_is_unknown_is_null_and_an_empty_list() {
        let given = Given {
            sizes: Sizes::default(),
            ..Given::new()
        };
        let message = Message {
            event: EventKind::Test,
            ..given.message()
        };
        assert_eq!(
            text(&message),
            concat!(
                r#"{"image":"acme/app:1.4","image_size":null,"layers":[],"repository":"acme/app","#,
                r#""repository_size":null,"event":"test","timestamp":"2026-11-23T09:08:38.473Z"}"#
            )
        );
    }

    #[test]
    fn the_public_host_stands_in_the_body_and_never_in_the_header() {
        let given = Given::new();
        let message = Message {
            public_host: "registry.example.com:5000",
            ..given.message()
        };
        let body: serde_json::Value = serde_json::from_slice(&native(&message)).unwrap();
        assert_eq!(body["image"], "registry.example.com:5000/acme/app:1.4");
        assert_eq!(body["repository"], "registry.example.com:5000/acme/app");
        assert_eq!(header_value(&message), "acme/app:1.4");
    }

    #[test]
    fn without_a_tag_the_digest_names_the_image() {
        let given = Given {
            tag: None,
            ..Given::new()
        };
        let expected = format!("acme/app@{}", given.digest);
        let body: serde_json::Value = serde_json::from_slice(&native(&given.message())).unwrap();
        assert_eq!(body["image"], *expected);
        assert_eq!(header_value(&given.message()), expected);
    }

    #[test]
    fn a_layers_odd_media_type_is_escaped() {
        let mut given = Given::new();
        given.sizes.layers = [Layer {
            digest: Digest::sha256(b""),
            size: 0,
            media_type: "a\"b\n".into(),
        }]
        .into();
        let body: serde_json::Value = serde_json::from_slice(&native(&given.message())).unwrap();
        assert_eq!(body["layers"][0]["media_type"], "a\"b\n");
    }
}
