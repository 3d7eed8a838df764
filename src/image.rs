//! The names of the OCI distribution spec, parsed once: a value that exists is valid.
//!
//! Grammars: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md> and, for
//! repository names, CNCF Distribution's `reference` package.

use std::{fmt, str::FromStr, sync::Arc};

use data_encoding::HEXLOWER;

mod blob_type;

pub use blob_type::BlobType;

/// Why a text is not the name it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is not valid: {reason}")]
pub struct InvalidName {
    kind: &'static str,
    text: String,
    reason: &'static str,
}

impl InvalidName {
    fn new(kind: &'static str, text: &str, reason: &'static str) -> Self {
        Self {
            kind,
            text: text.chars().take(300).collect(),
            reason,
        }
    }
}

/// The longest repository name that Distribution takes, in bytes.
pub const REPOSITORY_NAME_BYTES_MAX: usize = 255;

/// A repository's name, such as `acme/app`: lower-case path parts separated by `/`, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |reason| InvalidName::new("repository name", text, reason);
        if text.is_empty() || text.len() > REPOSITORY_NAME_BYTES_MAX {
            return Err(invalid("it has between 1 and 255 characters"));
        }
        if !text.split('/').all(is_path_part) {
            return Err(invalid(
                "each part between slashes is of a-z and 0-9, joined by one '.', one or two '_', or any number of '-'",
            ));
        }
        Ok(Self(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_part(part: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut rest = part;
    loop {
        let word = rest.trim_start_matches(is_alphanumeric);
        if word.len() == rest.len() {
            return false;
        }
        if word.is_empty() {
            return true;
        }
        let next = word.trim_start_matches(['.', '_', '-']);
        let Some(separator) = word.strip_suffix(next) else {
            return false;
        };
        let is_separator = matches!(separator, "." | "_" | "__")
            || (!separator.is_empty() && separator.bytes().all(|byte| byte == b'-'));
        if !is_separator {
            return false;
        }
        rest = next;
    }
}

/// A tag, such as `1.4`: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text is a tag.
    #[must_use]
    pub fn is_valid(text: &[u8]) -> bool {
        Self::check(text).is_ok()
    }

    fn check(text: &[u8]) -> Result<(), &'static str> {
        if text.is_empty() || text.len() > 128 {
            return Err("it has between 1 and 128 characters");
        }
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !text
            .iter()
            .all(|&byte| is_word(byte) || byte == b'.' || byte == b'-')
        {
            return Err("it is of A-Z, a-z, 0-9, '_', '.' and '-'");
        }
        if !text.iter().copied().next().is_some_and(is_word) {
            return Err("it does not begin with '.' or '-'");
        }
        Ok(())
    }

    /// Whether this is a tag of the referrers fallback scheme: `sha256-<64 hex>`, with or without a
    /// suffix such as `.sig`, `.att` or `.sbom`. Signatures and attestations hang on such tags.
    #[must_use]
    pub fn is_referrer(&self) -> bool {
        let Some(rest) = self.0.strip_prefix("sha256-") else {
            return false;
        };
        let (hex, suffix) = match rest.split_once('.') {
            Some((hex, suffix)) => (hex, Some(suffix)),
            None => (rest, None),
        };
        hex.len() == 64 && hex.bytes().all(is_hex) && suffix != Some("")
    }
}

impl FromStr for Tag {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::check(text.as_bytes()).map_err(|reason| InvalidName::new("tag", text, reason))?;
        Ok(Self(text.into()))
    }
}

/// A content digest, `<algorithm>:<hex>`; the algorithms are the three that Distribution knows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// `sha256:` and 64 hex digits.
    Sha256([u8; 32]),
    /// `sha384:` and 96 hex digits.
    Sha384(Box<[u8; 48]>),
    /// `sha512:` and 128 hex digits.
    Sha512(Box<[u8; 64]>),
}

impl Digest {
    /// The algorithm's name.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha384(_) => "sha384",
            Self::Sha512(_) => "sha512",
        }
    }

    /// The hash itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha384(bytes) => bytes.as_slice(),
            Self::Sha512(bytes) => bytes.as_slice(),
        }
    }

    /// The digest of `content` by the same algorithm as this one: equal when `content` is what this names.
    #[must_use]
    pub fn matches(&self, content: &[u8]) -> bool {
        use sha2::Digest as _;
        match self {
            Self::Sha256(bytes) => sha2::Sha256::digest(content).as_slice() == bytes,
            Self::Sha384(bytes) => sha2::Sha384::digest(content).as_slice() == bytes.as_slice(),
            Self::Sha512(bytes) => sha2::Sha512::digest(content).as_slice() == bytes.as_slice(),
        }
    }

    /// The digest whose hash is `bytes`, its algorithm told by the length: 32, 48 or 64 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            32 => bytes.try_into().ok().map(Self::Sha256),
            48 => bytes.try_into().ok().map(|bytes| Self::Sha384(Box::new(bytes))),
            64 => bytes.try_into().ok().map(|bytes| Self::Sha512(Box::new(bytes))),
            _ => None,
        }
    }

    /// The SHA-256 digest of `content`.
    #[must_use]
    pub fn sha256(content: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::Sha256(sha2::Sha256::digest(content).into())
    }
}

impl FromStr for Digest {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |reason| InvalidName::new("digest", text, reason);
        let (algorithm, hex) = text
            .split_once(':')
            .ok_or_else(|| invalid("it is an algorithm, a colon and hex digits"))?;
        let decoded = match algorithm {
            "sha256" => decode_hex(hex).map(Self::Sha256),
            "sha384" => decode_hex(hex).map(|bytes| Self::Sha384(Box::new(bytes))),
            "sha512" => decode_hex(hex).map(|bytes| Self::Sha512(Box::new(bytes))),
            _ => return Err(invalid("its algorithm is sha256, sha384 or sha512")),
        };
        decoded.ok_or_else(|| {
            invalid(
                if HEXLOWER.decode_len(hex.len()).is_ok() && hex.bytes().all(is_hex) {
                    "its hash has 64 hex digits for sha256, 96 for sha384, 128 for sha512"
                } else {
                    "its hash is written in lower-case hex digits"
                },
            )
        })
    }
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

fn decode_hex<const BYTES: usize>(hex: &str) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    // It panics on another length.
    let has_its_length = HEXLOWER.decode_len(hex.len()) == Ok(BYTES);
    (has_its_length && HEXLOWER.decode_mut(hex.as_bytes(), &mut bytes).is_ok()).then_some(bytes)
}

/// The media types that name a manifest or an index; whatever else a registry stores is a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerList,
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.docker.distribution.manifest.v1+json`
    DockerSchema1,
    /// `application/vnd.docker.distribution.manifest.v1+prettyjws`
    DockerSchema1Signed,
}

impl MediaType {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::DockerManifest,
        Self::DockerList,
        Self::OciManifest,
        Self::OciIndex,
        Self::DockerSchema1,
        Self::DockerSchema1Signed,
    ];

    /// The manifest media type that `text` is, if any. Parameters (`; charset=…`) are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        Self::ALL
            .into_iter()
            .find(|media_type| media_type.as_str().eq_ignore_ascii_case(essence))
    }

    /// The media type as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::DockerSchema1 => "application/vnd.docker.distribution.manifest.v1+json",
            Self::DockerSchema1Signed => "application/vnd.docker.distribution.manifest.v1+prettyjws",
        }
    }

    /// Whether it names a list of manifests: a Docker list or an OCI index.
    #[must_use]
    pub fn is_index(self) -> bool {
        matches!(self, Self::DockerList | Self::OciIndex)
    }

    /// Whether it is Docker schema 1, which states no sizes.
    #[must_use]
    pub fn is_schema1(self) -> bool {
        matches!(self, Self::DockerSchema1 | Self::DockerSchema1Signed)
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())?;
        f.write_str(":")?;
        HEXLOWER.encode_display(self.bytes()).fmt(f)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_follow_the_reference_grammar() {
        for good in [
            "a",
            "acme/app",
            "a.b/c_d/e__f/g-h",
            "a---b",
            "0/1/2",
            &"a".repeat(255),
        ] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a..b",
            "a___b",
            "a._b",
            "-a",
            "a-",
            "a b",
            "é",
            &"a".repeat(256),
            "../x",
            "a\n",
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_follow_the_spec() {
        for good in ["latest", "1.4", "_x", "V1-rc.1", &"t".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a b", "a/b", "a:b", &"t".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn referrer_tags_are_known_with_and_without_suffix() {
        let hex = "0123456789abcdef".repeat(4);
        for yes in [
            format!("sha256-{hex}"),
            format!("sha256-{hex}.sig"),
            format!("sha256-{hex}.sbom"),
        ] {
            assert!(yes.parse::<Tag>().unwrap().is_referrer(), "{yes}");
        }
        for no in [
            format!("sha256-{}", "0".repeat(63)),
            format!("sha256-{hex}0"),
            format!("sha256-{hex}."),
            format!("sha256-{}", hex.to_uppercase()),
            "sha256-rollout".into(),
        ] {
            assert!(!no.parse::<Tag>().unwrap().is_referrer(), "{no}");
        }
    }

    #[test]
    fn digests_round_trip_and_verify() {
        let digest = Digest::sha256(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        assert!(digest.matches(b"") && !digest.matches(b"x"));
        assert_eq!(Digest::from_bytes(digest.bytes()), Some(digest));
        for bad in [
            "",
            "sha256",
            "sha256:",
            "md5:00",
            "sha256:zz",
            &text.to_uppercase(),
            "sha256:00",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(format!("sha512:{}", "ab".repeat(64)).parse::<Digest>().is_ok());
    }

    #[test]
    fn manifest_media_types_are_told_from_blobs() {
        for media_type in MediaType::ALL {
            assert_eq!(MediaType::parse(media_type.as_str()), Some(media_type));
        }
        assert_eq!(
            MediaType::parse("application/vnd.oci.image.index.v1+json; charset=utf-8"),
            Some(MediaType::OciIndex)
        );
        assert_eq!(MediaType::parse("application/octet-stream"), None);
        assert_eq!(MediaType::parse(""), None);
    }
}
