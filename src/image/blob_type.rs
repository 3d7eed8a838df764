//! What a blob is.

use std::{borrow::Cow, fmt, ops::Deref};

/// A blob's media type, in the manifest's words: it can be anything. Those that images have take no memory of their own.
#[derive(Clone, PartialEq, Eq)]
pub struct BlobType(Cow<'static, str>);

/// Of the OCI image spec, of Docker's image manifest version 2, schema 2, and of what is signed, attested and charted.
const USUAL: [&str; 13] = [
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.empty.v1+json",
    "application/vnd.in-toto+json",
    "application/vnd.dev.cosign.simplesigning.v1+json",
    "application/vnd.cncf.helm.config.v1+json",
    "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
];

impl From<Cow<'_, str>> for BlobType {
    fn from(text: Cow<'_, str>) -> Self {
        let usual = USUAL.iter().find(|usual| **usual == text);
        Self(match usual {
            Some(usual) => Cow::Borrowed(usual),
            None => Cow::Owned(text.into_owned()),
        })
    }
}

impl From<&str> for BlobType {
    fn from(text: &str) -> Self {
        Self::from(Cow::Borrowed(text))
    }
}

impl From<String> for BlobType {
    fn from(text: String) -> Self {
        Self::from(Cow::<str>::Owned(text))
    }
}

impl Deref for BlobType {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BlobType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for BlobType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_kept_as_it_is_and_a_usual_one_takes_no_memory() {
        for text in USUAL
            .into_iter()
            .chain(["", "odd \"one\"", "application/vnd.oci.image.layer.v1.tar+gzi"])
        {
            for blob_type in [BlobType::from(text), BlobType::from(text.to_owned())] {
                assert_eq!(&*blob_type, text);
                assert_eq!(blob_type.to_string(), text);
                assert_eq!(matches!(blob_type.0, Cow::Borrowed(_)), USUAL.contains(&text));
            }
        }
    }
}
