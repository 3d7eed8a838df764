//! Manifests and indexes: only the fields that sizes need, read tolerantly.
//!
//! Formats: OCI image-spec `manifest.md` and `image-index.md`, Docker's image manifest v2 schema 2, and
//! schema 1 with its JWS signatures (`docs/spec/manifest-v2-1.md` of CNCF Distribution).

use bytes::Bytes;

use super::RegistryError;
use crate::image::{Digest, MediaType};

/// The largest size that a descriptor may state, in bytes (1 PiB): far above any blob, and so low that no
/// manifest's sum overflows.
pub const DESCRIPTOR_SIZE_MAX: u64 = 1 << 50;

/// What schema 1 layers are, in Distribution's words; the manifest itself doesn't say.
pub const SCHEMA1_LAYER: &str = "application/vnd.docker.container.image.rootfs.diff+x-gtar";

/// A manifest's bytes, verified against the digest.
#[derive(Clone, Debug)]
pub struct RawManifest {
    /// Its digest.
    pub digest: Digest,
    /// What it is.
    pub media_type: MediaType,
    /// The bytes that the digest is over: for a signed schema 1 manifest, those without the signatures.
    pub content: Bytes,
}

/// A blob, as a manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is, in the manifest's words.
    pub media_type: String,
    /// Bytes, as stored.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
    /// Whether it names `urls` to fetch it from.
    pub has_urls: bool,
}

/// A manifest that an index lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// What it is.
    pub descriptor: Descriptor,
    /// Whether its platform's `os` is `unknown`: an attestation, not something to run.
    pub is_attestation: bool,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// One image: Docker schema 2 or OCI.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// Its layers, base first.
        layers: Vec<Descriptor>,
    },
    /// A Docker list or an OCI index.
    Index {
        /// What it lists, in its order.
        children: Vec<Child>,
    },
    /// Docker schema 1, which states no sizes.
    Schema1 {
        /// Its layers, newest first, repeated as the manifest repeats them.
        layers: Vec<Digest>,
    },
}

impl RawManifest {
    /// The manifest that `body` is, if it is what `expected` names; without `expected`, the digest is
    /// computed. `content_type` is the answer's.
    ///
    /// # Errors
    /// The digest is another, or the body is no manifest.
    pub fn verified(
        body: Bytes,
        content_type: Option<&str>,
        expected: Option<&Digest>,
    ) -> Result<Self, RegistryError> {
        let media_type = match content_type.and_then(MediaType::parse) {
            Some(media_type) => media_type,
            None => wire::media_type(&body)?,
        };
        // A registry may sign a schema 1 manifest anew for each answer: its digest is over the payload.
        let content = if media_type.is_schema1() && !expected.is_some_and(|digest| digest.matches(&body)) {
            wire::schema1_payload(&body)?.unwrap_or(body)
        } else {
            body
        };
        let digest = match expected {
            Some(expected) if expected.matches(&content) => expected.clone(),
            Some(expected) => {
                return Err(RegistryError::DigestMismatch {
                    expected: expected.clone(),
                });
            }
            None => Digest::sha256(&content),
        };
        Ok(Self {
            digest,
            media_type,
            content,
        })
    }

    /// What the manifest says.
    ///
    /// # Errors
    /// [`RegistryError::Malformed`] when a needed field is missing or makes no sense.
    pub fn parse(&self) -> Result<Manifest, RegistryError> {
        match self.media_type {
            MediaType::DockerManifest | MediaType::OciManifest => wire::image(&self.content),
            MediaType::DockerList | MediaType::OciIndex => wire::index(&self.content),
            MediaType::DockerSchema1 | MediaType::DockerSchema1Signed => wire::schema1(&self.content),
        }
    }
}

/// The JSON as it stands in the bytes.
mod wire {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde::Deserialize;

    use super::{Bytes, Child, DESCRIPTOR_SIZE_MAX, Manifest, MediaType, RegistryError};

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Descriptor {
        #[serde(default)]
        media_type: Option<String>,
        size: u64,
        digest: String,
        #[serde(default)]
        urls: Option<Vec<String>>,
        #[serde(default)]
        platform: Option<Platform>,
    }

    #[derive(Deserialize)]
    struct Platform {
        #[serde(default)]
        os: Option<String>,
    }

    #[derive(Deserialize)]
    struct Image {
        config: Descriptor,
        #[serde(default)]
        layers: Option<Vec<Descriptor>>,
    }

    #[derive(Deserialize)]
    struct Index {
        #[serde(default)]
        manifests: Option<Vec<Descriptor>>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Schema1 {
        fs_layers: Vec<FsLayer>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct FsLayer {
        blob_sum: String,
    }

    #[derive(Deserialize)]
    struct Signed {
        #[serde(default)]
        signatures: Vec<Signature>,
    }

    #[derive(Deserialize)]
    struct Signature {
        protected: String,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Protected {
        format_length: usize,
        format_tail: String,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        schema_version: u64,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        layers: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        signatures: Option<serde::de::IgnoredAny>,
    }

    fn malformed(error: impl std::fmt::Display) -> RegistryError {
        RegistryError::Malformed(error.to_string())
    }

    fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, RegistryError> {
        serde_json::from_slice(body).map_err(malformed)
    }

    impl Descriptor {
        fn checked(self) -> Result<super::Descriptor, RegistryError> {
            if self.size > DESCRIPTOR_SIZE_MAX {
                return Err(malformed(format_args!(
                    "a descriptor states {} bytes, more than {DESCRIPTOR_SIZE_MAX}",
                    self.size
                )));
            }
            Ok(super::Descriptor {
                media_type: self.media_type.unwrap_or_default(),
                size: self.size,
                digest: self.digest.parse().map_err(malformed)?,
                has_urls: self.urls.is_some_and(|urls| !urls.is_empty()),
            })
        }
    }

    pub(super) fn image(body: &[u8]) -> Result<Manifest, RegistryError> {
        let image: Image = parse(body)?;
        let layers = image.layers.unwrap_or_default().into_iter();
        Ok(Manifest::Image {
            config: image.config.checked()?,
            layers: layers.map(Descriptor::checked).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn index(body: &[u8]) -> Result<Manifest, RegistryError> {
        let index: Index = parse(body)?;
        let children = index.manifests.unwrap_or_default().into_iter().map(|child| {
            let os = child
                .platform
                .as_ref()
                .and_then(|platform| platform.os.as_deref());
            Ok(Child {
                is_attestation: os == Some("unknown"),
                descriptor: child.checked()?,
            })
        });
        Ok(Manifest::Index {
            children: children.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn schema1(body: &[u8]) -> Result<Manifest, RegistryError> {
        let schema1: Schema1 = parse(body)?;
        let layers = schema1.fs_layers.iter();
        Ok(Manifest::Schema1 {
            layers: layers
                .map(|layer| layer.blob_sum.parse().map_err(malformed))
                .collect::<Result<_, _>>()?,
        })
    }

    /// What was signed: the body up to where the signatures were put in, and the tail after them, both told
    /// by a signature's protected header. `None` when there is no signature.
    pub(super) fn schema1_payload(body: &Bytes) -> Result<Option<Bytes>, RegistryError> {
        let signed: Signed = parse(body)?;
        let Some(signature) = signed.signatures.first() else {
            return Ok(None);
        };
        let protected: Protected = parse(&decode(&signature.protected)?)?;
        let head = body
            .get(..protected.format_length)
            .ok_or_else(|| malformed("a signature covers more bytes than there are"))?;
        let mut payload = head.to_vec();
        payload.extend(decode(&protected.format_tail)?);
        Ok(Some(payload.into()))
    }

    fn decode(text: &str) -> Result<Vec<u8>, RegistryError> {
        URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(malformed)
    }

    /// The media type by what the body says or, when it doesn't say, by its shape.
    pub(super) fn media_type(body: &[u8]) -> Result<MediaType, RegistryError> {
        let shape: Shape = parse(body)?;
        if let Some(text) = shape.media_type.as_deref().filter(|text| !text.is_empty()) {
            return MediaType::parse(text)
                .ok_or_else(|| malformed(format_args!("{text:?} is no manifest's media type")));
        }
        match shape {
            Shape {
                schema_version: 1,
                signatures,
                ..
            } => Ok(match signatures {
                Some(_) => MediaType::DockerSchema1Signed,
                None => MediaType::DockerSchema1,
            }),
            Shape {
                manifests: Some(_),
                layers: None,
                ..
            } => Ok(MediaType::OciIndex),
            Shape {
                manifests: None,
                layers: Some(_),
                ..
            } => Ok(MediaType::OciManifest),
            _ => Err(malformed("it has the shape of no manifest")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake::signed, *};

    fn body(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn hex(character: char) -> String {
        format!("sha256:{}", character.to_string().repeat(64))
    }

    fn parse(text: &str, media_type: MediaType) -> Result<Manifest, RegistryError> {
        RawManifest::verified(body(text), Some(media_type.as_str()), None)?.parse()
    }

    #[test]
    fn an_image_has_its_config_and_its_layers_in_order() {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","size":2,"digest":"{}"}},"layers":[
                {{"mediaType":"l","size":3,"digest":"{}","annotations":{{}}}},
                {{"mediaType":"f","size":4,"digest":"{}","urls":["https://x"]}}]}}"#,
            hex('a'),
            hex('b'),
            hex('c')
        );
        let Manifest::Image { config, layers } = parse(&text, MediaType::OciManifest).unwrap() else {
            panic!("not an image");
        };
        assert_eq!((config.size, config.media_type.as_str()), (2, "c"));
        let seen: Vec<_> = layers.iter().map(|layer| (layer.size, layer.has_urls)).collect();
        assert_eq!(seen, [(3, false), (4, true)]);
    }

    #[test]
    fn an_index_tells_attestations() {
        let text = format!(
            r#"{{"manifests":[{{"mediaType":"m","size":1,"digest":"{}","platform":{{"os":"linux"}}}},
                {{"mediaType":"m","size":1,"digest":"{}","platform":{{"os":"unknown"}}}}]}}"#,
            hex('a'),
            hex('b')
        );
        let Manifest::Index { children } = parse(&text, MediaType::DockerList).unwrap() else {
            panic!("not an index");
        };
        let seen: Vec<_> = children.iter().map(|child| child.is_attestation).collect();
        assert_eq!(seen, [false, true]);
    }

    #[test]
    fn sizes_that_make_no_sense_are_malformed() {
        for size in ["-1", "1.5", "\"7\"", "1125899906842625", "99999999999999999999"] {
            let text = format!(
                r#"{{"config":{{"size":{size},"digest":"{}"}},"layers":[]}}"#,
                hex('a')
            );
            let error = parse(&text, MediaType::OciManifest).unwrap_err();
            assert!(matches!(error, RegistryError::Malformed(_)), "{size}: {error}");
        }
    }

    #[test]
    fn without_a_known_content_type_the_body_tells_what_it_is() {
        for (text, expected) in [
            (
                r#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#,
                Some(MediaType::OciIndex),
            ),
            (r#"{"schemaVersion":2,"manifests":[]}"#, Some(MediaType::OciIndex)),
            (r#"{"schemaVersion":2,"layers":[]}"#, Some(MediaType::OciManifest)),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#,
                Some(MediaType::DockerSchema1),
            ),
            (r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#, None),
            (r#"{"mediaType":"text/plain"}"#, None),
            ("[]", None),
        ] {
            let seen = RawManifest::verified(body(text), Some("application/json"), None);
            assert_eq!(seen.ok().map(|raw| raw.media_type), expected, "{text}");
        }
    }

    #[test]
    fn a_signed_schema_1_manifest_is_verified_by_its_payload() {
        let payload = format!(
            "{{\n   \"schemaVersion\": 1,\n   \"fsLayers\": [{{\"blobSum\": \"{}\"}}, {{\"blobSum\": \"{}\"}}]\n}}",
            hex('b'),
            hex('a')
        );
        let digest = Digest::sha256(payload.as_bytes());
        let content_type = Some(MediaType::DockerSchema1Signed.as_str());
        let raw = RawManifest::verified(body(&signed(&payload)), content_type, Some(&digest)).unwrap();
        assert_eq!(raw.content, payload);
        assert_eq!(
            raw.parse().unwrap(),
            Manifest::Schema1 {
                layers: vec![hex('b').parse().unwrap(), hex('a').parse().unwrap()]
            }
        );
        let by_tag = RawManifest::verified(body(&signed(&payload)), content_type, None).unwrap();
        assert_eq!(by_tag.digest, digest);

        let forged = signed(&payload).replacen(&hex('a'), &hex('c'), 1);
        let error = RawManifest::verified(body(&forged), content_type, Some(&digest)).unwrap_err();
        assert_eq!(error, RegistryError::DigestMismatch { expected: digest });
    }

    #[test]
    fn an_unsigned_schema_1_manifest_is_verified_as_it_is() {
        let text = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        let digest = Digest::sha256(text.as_bytes());
        let raw = RawManifest::verified(body(text), Some(MediaType::DockerSchema1.as_str()), Some(&digest));
        assert_eq!(
            raw.unwrap().parse().unwrap(),
            Manifest::Schema1 { layers: vec![] }
        );
    }
}
