//! Keeps secrets out of what is written down: of a request, and of an answer that repeats parts of it.

use std::fmt::Write as _;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};

use crate::webhook::request::Request;

/// What stands in a secret's place.
pub(super) const MASK: &str = "[masked]";

/// What is shorter is no secret worth the name, and stands in any text.
const SECRET_BYTES_MIN: usize = 4;

/// Headers that carry credentials, whoever set them.
const CREDENTIALS: [HeaderName; 3] = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE];

/// The headers, a line each in the order in which they are sent. Credentials are masked, and whatever an
/// endpoint's own headers hold. `webhook-signature` stays: it shows whether a receiver got what was signed,
/// tells nothing of the secret, and is good for no other body and only for some minutes.
pub(crate) fn headers(headers: &HeaderMap) -> String {
    let mut text = String::with_capacity(512);
    for (name, value) in headers {
        let shown = if value.is_sensitive() || CREDENTIALS.contains(name) {
            MASK.into()
        } else {
            String::from_utf8_lossy(value.as_bytes())
        };
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{name}: {shown}");
    }
    text
}

/// The secrets of one request, for answers that say them again.
#[derive(Default)]
pub(crate) struct Mask {
    /// Longest first, so that none leaves a part of a longer one behind.
    secrets: Vec<Vec<u8>>,
}

impl Mask {
    /// The mask for answers to `request`.
    pub(crate) fn of(request: &Request) -> Self {
        let mut secrets = Vec::new();
        if let Some(query) = request.target().uri().query() {
            secrets.push(query.as_bytes().to_vec());
            for (_, value) in url::form_urlencoded::parse(query.as_bytes()) {
                secrets.push(value.into_owned().into_bytes());
            }
            let typed = query
                .split('&')
                .map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
            secrets.extend(typed.map(|value| value.as_bytes().to_vec()));
        }
        let credentials = request
            .headers()
            .iter()
            .filter(|(name, value)| value.is_sensitive() || CREDENTIALS.contains(name))
            .map(|(_, value)| value);
        for value in credentials.chain(request.target().authorization()) {
            let value = value.as_bytes();
            secrets.push(value.to_vec());
            let mut words = value.splitn(2, |byte| *byte == b' ');
            if let (Some(scheme), Some(rest)) = (words.next(), words.next()) {
                secrets.push(rest.to_vec());
                if scheme.eq_ignore_ascii_case(b"basic") {
                    let plain = BASE64_STANDARD.decode(rest).unwrap_or_default();
                    secrets.extend(plain.splitn(2, |byte| *byte == b':').map(<[u8]>::to_vec));
                }
            }
        }
        secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { secrets }
    }

    /// `text` without the secrets.
    pub(crate) fn apply(&self, text: &Bytes) -> Bytes {
        let holds = |secret: &Vec<u8>| text.windows(secret.len()).any(|window| window == secret);
        if !self.secrets.iter().any(holds) {
            return text.clone();
        }
        let mut masked = Vec::with_capacity(text.len());
        let mut rest: &[u8] = text;
        while let Some((first, after)) = rest.split_first() {
            let secret = self.secrets.iter().find(|secret| rest.starts_with(secret));
            if let Some(behind) = secret.and_then(|secret| rest.get(secret.len()..)) {
                masked.extend_from_slice(MASK.as_bytes());
                rest = behind;
            } else {
                masked.push(*first);
                rest = after;
            }
        }
        masked.into()
    }
}
