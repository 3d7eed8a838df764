//! Who may send envelopes.

use http::{HeaderMap, header};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tracing::warn;

use crate::{secret::Secret, telemetry::log::Throttle};

/// The bearer tokens of which a request must carry one; none at all lets everybody in.
#[derive(Debug)]
pub(super) struct Tokens {
    tokens: Vec<Secret>,
    unreadable: Throttle,
}

impl Tokens {
    pub(super) fn new(tokens: Vec<Secret>) -> Self {
        Self {
            tokens,
            unreadable: Throttle::new(),
        }
    }

    /// Whether `headers` carry one of the tokens, as they stand in their files now. The time it takes
    /// tells neither which nor how much of one was right, nor how long they are.
    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        if self.tokens.is_empty() {
            return true;
        }
        let Some(given) = bearer(headers) else {
            return false;
        };
        let given = Sha256::digest(given);
        let mut admitted = Choice::from(0);
        for token in &self.tokens {
            match token.get() {
                // An empty one, from a file that is being written, is nobody's.
                Ok(token) if !token.expose_secret().is_empty() => {
                    admitted |= Sha256::digest(token.expose_secret()).ct_eq(&given);
                }
                Ok(_) => self.complain(token, "it is empty"),
                Err(error) => self.complain(token, &error.to_string()),
            }
        }
        admitted.into()
    }

    fn complain(&self, token: &Secret, error: &str) {
        if let Some(times) = self.unreadable.due() {
            warn!(?token, error, times, "an ingest token can't be used");
        }
    }
}

/// What stands after `Bearer` (RFC 6750; the scheme's case does not matter).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        headers
    }

    #[test]
    fn any_of_the_tokens_is_let_in_and_nothing_else() {
        let tokens = Tokens::new(vec![Secret::inline("one"), Secret::inline("two")]);
        for (authorization, admitted) in [
            ("Bearer one", true),
            ("bearer two", true),
            ("Bearer  two ", true),
            ("Bearer three", false),
            ("Bearer on", false),
            ("Bearer onee", false),
            ("Bearer", false),
            ("Bearer ", false),
            ("Basic one", false),
            ("one", false),
        ] {
            assert_eq!(
                tokens.admit(&headers(authorization)),
                admitted,
                "{authorization:?}"
            );
        }
        assert!(!tokens.admit(&HeaderMap::new()));
        assert!(Tokens::new(Vec::new()).admit(&HeaderMap::new()));
    }

    #[test]
    fn a_rotated_file_counts_at_once_and_an_empty_or_missing_one_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let tokens = Tokens::new(vec![Secret::file(&path)]);
        assert!(!tokens.admit(&headers("Bearer old")));
        fs::write(&path, "").unwrap();
        assert!(!tokens.admit(&headers("Bearer ")));
        fs::write(&path, "old\n").unwrap();
        assert!(tokens.admit(&headers("Bearer old")));
        fs::write(&path, "newer\n").unwrap();
        assert!(tokens.admit(&headers("Bearer newer")) && !tokens.admit(&headers("Bearer old")));
    }
}
