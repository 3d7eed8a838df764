//! Asymmetric signatures (`v1a`) of Standard Webhooks 1.0: whoever checks them can't make any.
//!
//! The private key is written `whsk_` and base64: of its 32 bytes (the seed of RFC 8032), or of these and the 32
//! bytes of the public key, which is how Svix, Go and libsodium have it. Receivers get the public
//! key: `whpk_` and the base64 of its 32 bytes.

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

const SEED_BYTES: usize = 32;
const PUBLIC_BYTES: usize = 32;

/// An Ed25519 private key. Cheap to clone; never prints.
#[derive(Clone)]
pub struct PrivateKey(Arc<Ed25519KeyPair>);

/// Why a text is no private key. Never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It is a public one.
    #[error("whpk_ is a public key, for receivers: what signs is the private one that belongs to it, whsk_")]
    Public,
    /// It is a private one.
    #[error(
        "whsk_ is a private key, for the sender: webhooks are checked with the public one that belongs to it, whpk_"
    )]
    Private,
    /// What follows `whpk_` is no key.
    #[error("what follows whpk_ is not the base64 of 32 bytes")]
    NoPublic,
    /// What follows the prefix is not base64.
    #[error("what follows whsk_ is not base64 (A-Z a-z 0-9 + /, padded with =)")]
    Base64,
    /// Too short or too long.
    #[error(
        "the key has {0} bytes behind whsk_, and should have 32, or 64 with its public key (before base64)"
    )]
    Length(usize),
    /// Its halves contradict each other.
    #[error("the second half of what follows whsk_ is not the public key of the first")]
    Mismatch,
}

/// Whether a text is meant as one of these keys.
pub(super) fn is_meant(text: &str) -> bool {
    text.starts_with("whsk_") || text.starts_with("whpk_")
}

impl PrivateKey {
    /// The signature of one request: `v1a,` and the Ed25519 signature in base64.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let message = [format!("{id}.{timestamp_s}.").as_bytes(), body].concat();
        format!("v1a,{}", BASE64_STANDARD.encode(self.0.sign(&message)))
    }

    /// The public key that belongs to it, as receivers want it: `whpk_…`.
    #[must_use]
    pub fn public(&self) -> String {
        format!("whpk_{}", BASE64_STANDARD.encode(self.0.public_key()))
    }
}

impl FromStr for PrivateKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let base64 = text.strip_prefix("whsk_").ok_or(InvalidKey::Public)?;
        let bytes = BASE64_STANDARD.decode(base64).map_err(|_| InvalidKey::Base64)?;
        let pair = match bytes.split_at_checked(SEED_BYTES) {
            Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
            Some((seed, public)) if public.len() == SEED_BYTES => {
                Ed25519KeyPair::from_seed_and_public_key(seed, public)
            }
            _ => return Err(InvalidKey::Length(bytes.len())),
        };
        pair.map(Arc::new).map(Self).map_err(|_| InvalidKey::Mismatch)
    }
}

/// An Ed25519 public key.
#[derive(Clone, Debug)]
pub struct PublicKey(UnparsedPublicKey<[u8; PUBLIC_BYTES]>);

impl PublicKey {
    /// Whether `signature`, `v1a,` and base64, was made of this request with the private key that belongs to it.
    #[must_use]
    pub fn has_signed(&self, signature: &str, id: &str, timestamp_s: &str, body: &[u8]) -> bool {
        let signature = signature
            .strip_prefix("v1a,")
            .and_then(|base64| BASE64_STANDARD.decode(base64).ok());
        let message = [format!("{id}.{timestamp_s}.").as_bytes(), body].concat();
        signature.is_some_and(|signature| self.0.verify(&message, &signature).is_ok())
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let base64 = text.strip_prefix("whpk_").ok_or(InvalidKey::Private)?;
        let bytes = BASE64_STANDARD.decode(base64).map_err(|_| InvalidKey::NoPublic)?;
        let bytes = bytes.try_into().map_err(|_| InvalidKey::NoPublic)?;
        Ok(Self(UnparsedPublicKey::new(&ED25519, bytes)))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[private key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that Svix's server, where this scheme comes from, tests itself with.
    const KEY: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const SEED: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const SIGNATURE: &str =
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    #[test]
    fn svix_example_gives_svix_signature_with_and_without_the_public_half() {
        for text in [KEY, SEED] {
            let key: PrivateKey = text.parse().unwrap();
            let body = br#"{"test": 2432232314}"#;
            assert_eq!(
                key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
                SIGNATURE
            );
            assert_eq!(key.public(), PUBLIC);
        }
    }

    /// Test 1 of RFC 8032, section 7.1: an empty message.
    #[test]
    fn keys_are_those_of_rfc_8032() {
        let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
        let bytes = |hex: &str| -> Vec<u8> {
            let pairs = hex.as_bytes().chunks(2);
            pairs.map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
        };
        let seed = bytes("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = bytes("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let signature = bytes(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        );
        let key: PrivateKey = format!("whsk_{}", BASE64_STANDARD.encode(seed)).parse().unwrap();
        assert_eq!(key.public(), format!("whpk_{}", BASE64_STANDARD.encode(&public)));
        assert_eq!(key.0.sign(b"").as_ref(), signature);
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else_does() {
        let key: PrivateKey = KEY.parse().unwrap();
        let signature = key.sign("msg_1", 1, b"{}");
        let public: PublicKey = key.public().parse().unwrap();
        assert!(public.has_signed(&signature, "msg_1", "1", b"{}"));
        assert!(!public.has_signed(&signature, "msg_1", "1", b"{ }"));
        assert!(!public.has_signed(&signature, "msg_2", "1", b"{}"));
        assert!(!public.has_signed(&signature.replace("v1a,", "v1,"), "msg_1", "1", b"{}"));
    }

    #[test]
    fn other_keys_are_refused_and_never_printed() {
        let error = |text: &str| text.parse::<PrivateKey>().unwrap_err();
        assert_eq!(error(PUBLIC), InvalidKey::Public);
        let unfit = |text: &str| text.parse::<PublicKey>().unwrap_err();
        assert_eq!(unfit(KEY), InvalidKey::Private);
        assert_eq!(unfit("whpk_AAAA"), InvalidKey::NoPublic);
        assert_eq!(unfit("whpk_!"), InvalidKey::NoPublic);
        assert_eq!(error("whsk_hunter2!"), InvalidKey::Base64);
        assert_eq!(error("whsk_AAAA"), InvalidKey::Length(3));
        let mixed = [[1; 32], [2; 32]].concat();
        assert_eq!(
            error(&format!("whsk_{}", BASE64_STANDARD.encode(mixed))),
            InvalidKey::Mismatch
        );
        assert_eq!(
            format!("{:?}", KEY.parse::<PrivateKey>().unwrap()),
            "[private key]"
        );
    }
}
