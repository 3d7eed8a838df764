//! Webhook ids, and signatures as Standard Webhooks 1.0 defines them.
//!
//! Specification: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
//! What is signed is `{webhook-id}.{webhook-timestamp}.{body}`; that is why an id has no dot.

use std::{fmt, str::FromStr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::{
    clock::Timestamp,
    journal::JournalId,
    push::{EndpointId, Sequence},
};

pub mod ed25519;

use ed25519::{InvalidKey, PrivateKey, PublicKey};

/// How far a webhook's timestamp may lie from the receiver's clock, in either direction: what the
/// libraries of Standard Webhooks allow.
pub const TIMESTAMP_TOLERANCE: Duration = Duration::from_mins(5);

/// The fewest and the most bytes that a secret has, by Standard Webhooks 1.0.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The most signatures of one header that are looked at; a rotation needs two.
const SIGNATURES_MAX: usize = 16;

/// A symmetric signing secret, written `whsec_` and 24 to 64 bytes in base64.
#[derive(Clone)]
pub struct WebhookSecret {
    /// HMAC-SHA256 with its key already in.
    keyed: Hmac<Sha256>,
}

/// Why a text is no signing secret. Never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// The prefix is missing.
    #[error("a webhook secret begins with whsec_, followed by 24 to 64 random bytes in base64")]
    Prefix,
    /// What follows the prefix is not base64.
    #[error("what follows whsec_ is not base64 (A-Z a-z 0-9 + /, padded with =)")]
    Base64,
    /// Too short or too long.
    #[error("the secret has {0} bytes behind whsec_, and should have 24 to 64 (before base64)")]
    Length(usize),
}

/// Why a webhook's signature is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The timestamp is no whole number of seconds.
    #[error("webhook-timestamp is not a number of seconds since 1970")]
    Timestamp,
    /// Too far in the past: perhaps a replay.
    #[error("webhook-timestamp is more than 5 minutes in the past")]
    TooOld,
    /// Too far in the future: some clock is wrong.
    #[error("webhook-timestamp is more than 5 minutes in the future")]
    TooNew,
    /// No signature of the header fits.
    #[error("no v1 signature in webhook-signature matches this secret and body")]
    NoMatch,
    /// The same of a public key.
    #[error("no v1a signature in webhook-signature matches this public key and body")]
    NoPublicMatch,
}

/// What an endpoint's webhooks are signed with.
#[derive(Clone, Debug)]
pub enum SigningKey {
    /// `whsec_`: the receiver has the same.
    Shared(WebhookSecret),
    /// `whsk_`: the receiver has the public key that belongs to it.
    Private(PrivateKey),
}

/// Why a text can't sign. Never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSigningKey {
    /// It has neither prefix.
    #[error(
        "it begins with neither whsec_, followed by 24 to 64 random bytes in base64, nor whsk_, followed by an Ed25519 \
         private key in base64"
    )]
    Prefix,
    /// It begins with `whsec_`.
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
    /// It begins with `whsk_`, or `whpk_`.
    #[error(transparent)]
    Key(#[from] InvalidKey),
}

impl SigningKey {
    /// The signature of one request: `v1,` or `v1a,` and the signature in base64.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        match self {
            Self::Shared(secret) => secret.sign(id, timestamp_s, body),
            Self::Private(key) => key.sign(id, timestamp_s, body),
        }
    }
}

impl FromStr for SigningKey {
    type Err = InvalidSigningKey;

    fn from_str(text: &str) -> Result<Self, InvalidSigningKey> {
        if text.starts_with("whsec_") {
            Ok(Self::Shared(text.parse()?))
        } else if ed25519::is_meant(text) {
            Ok(Self::Private(text.parse()?))
        } else {
            Err(InvalidSigningKey::Prefix)
        }
    }
}

impl WebhookSecret {
    /// The signature of one request: `v1,` and the HMAC-SHA256 in base64.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let mac = self.mac(id, &timestamp_s.to_string(), body);
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }

    fn mac(&self, id: &str, timestamp_s: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        for part in [id.as_bytes(), b".", timestamp_s.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }

    /// Whether `signature`, `v1,` and base64, was made of this request with this secret. Compares in constant time.
    fn has_signed(&self, signature: &str, id: &str, timestamp_s: &str, body: &[u8]) -> bool {
        let signature = signature
            .strip_prefix("v1,")
            .and_then(|base64| BASE64_STANDARD.decode(base64).ok());
        let mac = self.mac(id, timestamp_s, body);
        signature.is_some_and(|signature| mac.verify_slice(&signature).is_ok())
    }
}

/// What a receiver checks webhooks with.
#[derive(Clone, Debug)]
pub enum VerifyingKey {
    /// `whsec_`: the sender has the same.
    Shared(WebhookSecret),
    /// `whpk_`: the sender has the private key that belongs to it.
    Public(PublicKey),
}

impl VerifyingKey {
    /// Checks a received request: its headers `webhook-id`, `webhook-timestamp` and `webhook-signature`, and its body.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub fn verify(
        &self,
        id: &str,
        timestamp_s: &str,
        signatures: &str,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        check_time(timestamp_s, now)?;
        let has_signed = |signature: &str| match self {
            Self::Shared(secret) => secret.has_signed(signature, id, timestamp_s, body),
            Self::Public(key) => key.has_signed(signature, id, timestamp_s, body),
        };
        if signatures.split(' ').take(SIGNATURES_MAX).any(has_signed) {
            return Ok(());
        }
        Err(match self {
            Self::Shared(_) => VerifyError::NoMatch,
            Self::Public(_) => VerifyError::NoPublicMatch,
        })
    }
}

impl FromStr for VerifyingKey {
    type Err = InvalidSigningKey;

    fn from_str(text: &str) -> Result<Self, InvalidSigningKey> {
        if ed25519::is_meant(text) {
            Ok(Self::Public(text.parse()?))
        } else {
            Ok(Self::Shared(text.parse()?))
        }
    }
}

/// Whether a webhook's timestamp is near enough to `now`.
fn check_time(timestamp_s: &str, now: Timestamp) -> Result<(), VerifyError> {
    let sent_s: i64 = timestamp_s.parse().map_err(|_| VerifyError::Timestamp)?;
    let tolerance_s = i64::try_from(TIMESTAMP_TOLERANCE.as_secs()).unwrap_or(i64::MAX);
    let age_s = now.unix_seconds().saturating_sub(sent_s);
    if age_s > tolerance_s {
        return Err(VerifyError::TooOld);
    }
    if age_s < -tolerance_s {
        return Err(VerifyError::TooNew);
    }
    Ok(())
}

impl FromStr for WebhookSecret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let base64 = text.strip_prefix("whsec_").ok_or(InvalidSecret::Prefix)?;
        let key = BASE64_STANDARD
            .decode(base64)
            .map_err(|_| InvalidSecret::Base64)?;
        if !SECRET_BYTES.contains(&key.len()) {
            return Err(InvalidSecret::Length(key.len()));
        }
        let keyed = Hmac::new_from_slice(&key).map_err(|_| InvalidSecret::Length(key.len()))?;
        Ok(Self { keyed })
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[webhook secret]")
    }
}

/// The value of `webhook-signature`: one signature by each key, separated by spaces, so that a
/// receiver that knows either the new or the old one takes the webhook.
#[must_use]
pub fn signatures(keys: &[SigningKey], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let signed: Vec<String> = keys.iter().map(|key| key.sign(id, timestamp_s, body)).collect();
    signed.join(" ")
}

/// The `webhook-id` of one push's delivery to one endpoint: `msg_` and 32 hex digits.
///
/// It is the same on every attempt, after a crash and on redelivery, for as long as the journal lives,
/// so this encoding never changes. The digits are the first 16 bytes of the SHA-256 over five fields,
/// each preceded by its length in bytes as a 4-byte big-endian number:
///
/// 1. the text `shipbell webhook-id 1`
/// 2. the journal's identity, 16 bytes
/// 3. the sequence number, 8 bytes, big-endian
/// 4. what kind of endpoint: the text `named` or `repository`
/// 5. the endpoint's name, or the repository's
#[must_use]
pub fn webhook_id(journal: JournalId, sequence: Sequence, endpoint: &EndpointId) -> String {
    let (kind, name) = match endpoint {
        EndpointId::Named(name) => ("named", &**name),
        EndpointId::Repository(name) => ("repository", name.as_str()),
    };
    let mut hash = Sha256::new();
    for field in [
        b"shipbell webhook-id 1".as_slice(),
        &journal.0,
        &sequence.get().to_be_bytes(),
        kind.as_bytes(),
        name.as_bytes(),
    ] {
        // No field is near 4 GiB: names come from a configuration file or have at most 255 bytes.
        hash.update(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(field);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let (digits, _) = hash.split_at(16);
    let mut id = String::with_capacity(36);
    id.push_str("msg_");
    HEXLOWER.encode_append(digits, &mut id);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that Standard Webhooks' own libraries test themselves with.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SENT_S: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret(text: &str) -> WebhookSecret {
        text.parse().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    fn key() -> VerifyingKey {
        SECRET.parse().unwrap()
    }

    fn verify(signatures: &str, body: &[u8], now_s: i64) -> Result<(), VerifyError> {
        key().verify(ID, &SENT_S.to_string(), signatures, body, at(now_s))
    }

    #[test]
    fn the_official_example_gives_the_official_signature() {
        assert_eq!(secret(SECRET).sign(ID, SENT_S, BODY), SIGNATURE);
        assert_eq!(verify(SIGNATURE, BODY, SENT_S), Ok(()));
    }

    #[test]
    fn while_rotated_either_secret_verifies() {
        let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let keys = [other, SECRET].map(|text| text.parse().unwrap());
        let header = signatures(&keys, ID, SENT_S, BODY);
        assert_eq!(header.split(' ').count(), 2);
        assert_eq!(verify(&header, BODY, SENT_S), Ok(()));
        assert_eq!(verify(&format!("v1a,zzzz {header} "), BODY, SENT_S), Ok(()));
    }

    #[test]
    fn a_changed_body_id_or_time_does_not_verify() {
        assert_eq!(verify(SIGNATURE, b"{}", SENT_S), Err(VerifyError::NoMatch));
        assert_eq!(verify("", BODY, SENT_S), Err(VerifyError::NoMatch));
        assert_eq!(verify("v1,AAAA v2,AAAA", BODY, SENT_S), Err(VerifyError::NoMatch));
        assert_eq!(verify(SIGNATURE, BODY, SENT_S + 300), Ok(()));
        assert_eq!(verify(SIGNATURE, BODY, SENT_S + 301), Err(VerifyError::TooOld));
        assert_eq!(verify(SIGNATURE, BODY, SENT_S - 300), Ok(()));
        assert_eq!(verify(SIGNATURE, BODY, SENT_S - 301), Err(VerifyError::TooNew));
        let odd = key().verify(ID, "yesterday", SIGNATURE, BODY, at(SENT_S));
        assert_eq!(odd, Err(VerifyError::Timestamp));
        let extreme = key().verify(ID, &i64::MIN.to_string(), SIGNATURE, BODY, at(SENT_S));
        assert_eq!(extreme, Err(VerifyError::TooOld));
    }

    #[test]
    fn a_secret_is_whsec_and_24_to_64_bytes() {
        let of = |bytes: usize| format!("whsec_{}", BASE64_STANDARD.encode(vec![7; bytes]));
        assert!(of(24).parse::<WebhookSecret>().is_ok());
        assert!(of(64).parse::<WebhookSecret>().is_ok());
        let error = |text: &str| text.parse::<WebhookSecret>().unwrap_err();
        assert_eq!(error(&of(23)), InvalidSecret::Length(23));
        assert_eq!(error(&of(65)), InvalidSecret::Length(65));
        assert_eq!(error("hunter2"), InvalidSecret::Prefix);
        assert_eq!(error("whsec_hunter2!"), InvalidSecret::Base64);
        assert_eq!(format!("{:?}", secret(SECRET)), "[webhook secret]");
    }

    /// Receivers drop repeats by these ids, across upgrades: if this test fails, put the code right, not it.
    #[test]
    fn webhook_ids_never_change() {
        let journal = JournalId(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        let named = EndpointId::Named("ci".into());
        let own = EndpointId::Repository("acme/app".parse().unwrap());
        let id = |sequence, endpoint| webhook_id(journal, Sequence::new(sequence).unwrap(), endpoint);
        assert_eq!(id(1, &named), "msg_60a6dc2c0e06bdf0b4b15860943f3b18");
        assert_eq!(id(1, &own), "msg_6dad463da5db939ca449787bbeccaa84");
        assert_eq!(id(u64::MAX, &named), "msg_f9d9d5a02a7fd7caa3a8596d0041b161");
    }

    #[test]
    fn webhook_ids_differ_by_journal_push_and_endpoint() {
        let name = |name: &str| EndpointId::Named(name.into());
        let id = |journal, sequence, endpoint: &EndpointId| {
            webhook_id(
                JournalId([journal; 16]),
                Sequence::new(sequence).unwrap(),
                endpoint,
            )
        };
        let all = [
            id(0, 1, &name("ci")),
            id(1, 1, &name("ci")),
            id(0, 2, &name("ci")),
            id(0, 1, &name("cd")),
            id(0, 1, &EndpointId::Repository("ci".parse().unwrap())),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|id| id.len() == 36 && !id.contains('.')));
    }
}
