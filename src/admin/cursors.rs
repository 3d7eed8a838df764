//! Cursors: where the next page of a list begins, sealed.
//!
//! A walk stops at names that the one who asked may not see, and the next page begins behind them. So a cursor says
//! nothing to its bearer, nor can anybody make one: to ask what there is behind a name would tell whether it is there.
//!
//! # Specification
//! A cursor is base64url, without padding, of a nonce (12 bytes) and the place under ChaCha20-Poly1305 (RFC 8439). The
//! place is JSON, and spaces up to a multiple of [`BLOCK_BYTES`], so that its length tells little. The list that it is a
//! place in is authenticated with it. The nonce is an HMAC-SHA256 of the list and the place: the same place has the same
//! cursor, and a page that stands still does not look as if it changed; another place has the same nonce as good as never.
//!
//! Both keys are made of one in `settings.db`, so a cursor outlives a restart.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{catalog::RepositoryOrder, settings::CursorKey};

/// Places are as long as a multiple of this. Most names fit into one.
const BLOCK_BYTES: usize = 128;

/// A list that is told page by page. A cursor of one is good for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Repositories, in this order.
    Repositories(RepositoryOrder),
    /// Deliveries.
    Deliveries,
    /// Endpoints.
    Endpoints,
    /// The changes of an endpoint's state.
    EndpointStates,
    /// Dead letters.
    DeadLetters,
    /// What is owed.
    Queue,
}

impl List {
    fn name(self) -> &'static str {
        match self {
            Self::Repositories(RepositoryOrder::Name) => "repositories",
            Self::Repositories(RepositoryOrder::LastPush) => "repositories by last push",
            Self::Repositories(RepositoryOrder::Size) => "repositories by size",
            Self::Deliveries => "deliveries",
            Self::Endpoints => "endpoints",
            Self::EndpointStates => "endpoint states",
            Self::DeadLetters => "dead letters",
            Self::Queue => "queue",
        }
    }
}

/// What seals cursors and opens them. Cheap to clone; never prints.
#[derive(Clone)]
pub struct Cursors(Arc<Keys>);

struct Keys {
    seal: LessSafeKey,
    nonce: hmac::Key,
}

impl Cursors {
    /// With keys made of this one.
    ///
    /// # Panics
    /// Never: a SHA-256 is as long as the cipher's key.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "a SHA-256 has the 32 bytes that the cipher takes"
    )]
    pub fn new(key: &CursorKey) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, key.bytes());
        let seal = hmac::sign(&root, b"shipbell cursors: seal");
        let nonce = hmac::sign(&root, b"shipbell cursors: nonce");
        let seal = UnboundKey::new(&CHACHA20_POLY1305, seal.as_ref()).expect("a key of 32 bytes");
        Self(Arc::new(Keys {
            seal: LessSafeKey::new(seal),
            nonce: hmac::Key::new(hmac::HMAC_SHA256, nonce.as_ref()),
        }))
    }

    /// The cursor of a page that begins behind `place`.
    pub(super) fn seal(&self, list: List, place: &impl Serialize) -> Option<String> {
        let list = list.name();
        let mut sealed = serde_json::to_vec(place).ok()?;
        sealed.resize(sealed.len().next_multiple_of(BLOCK_BYTES), b' ');
        let nonce = self.nonce(list, &sealed)?;
        let (key, aad) = (&self.0.seal, Aad::from(list.as_bytes()));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .ok()?;
        Some(BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// The place that a cursor of this list stands for, unless it is none.
    pub(super) fn open<T: DeserializeOwned>(&self, list: List, cursor: &str) -> Option<T> {
        let mut sealed = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (nonce, sealed) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let list = list.name();
        let place = self
            .0
            .seal
            .open_in_place(nonce, Aad::from(list.as_bytes()), sealed);
        serde_json::from_slice(place.ok()?).ok()
    }

    fn nonce(&self, list: &str, place: &[u8]) -> Option<[u8; NONCE_LEN]> {
        let mut told = hmac::Context::with_key(&self.0.nonce);
        told.update(list.as_bytes());
        // No list's name has one.
        told.update(&[0]);
        told.update(place);
        told.sign().as_ref().first_chunk().copied()
    }
}

impl std::fmt::Debug for Cursors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cursors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const BY_NAME: List = List::Repositories(RepositoryOrder::Name);

    fn cursors(key: u8) -> Cursors {
        Cursors::new(&CursorKey::from([key; 32]))
    }

    fn place(name: &str) -> (i64, String) {
        (0, name.to_owned())
    }

    fn opened(cursors: &Cursors, list: List, cursor: &str) -> Option<(i64, String)> {
        cursors.open(list, cursor)
    }

    #[test]
    fn a_cursor_says_nothing_of_the_name_it_stands_behind_and_opens_again() {
        let cursors = cursors(1);
        let hidden = place("secret/project-of-others");
        let cursor = cursors.seal(BY_NAME, &hidden).unwrap();
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        for part in ["secret", "project", "others"] {
            let is_there = bytes.windows(part.len()).any(|window| window == part.as_bytes());
            assert!(!is_there, "{part}");
            assert!(!cursor.contains(part), "{part}");
        }
        assert_eq!(opened(&cursors, BY_NAME, &cursor), Some(hidden.clone()));
        assert_eq!(cursors.seal(BY_NAME, &hidden), Some(cursor), "the same each time");
    }

    #[test]
    fn names_of_any_usual_length_have_cursors_of_one_length() {
        let cursors = cursors(1);
        let length = |name: &str| cursors.seal(BY_NAME, &place(name)).unwrap().len();
        assert_eq!(length("a"), length(&"a".repeat(100)));
        let longest = cursors.seal(List::Queue, &("a".repeat(255), "a".repeat(266)));
        assert!(longest.unwrap().len() <= 4096, "as the description says");
    }

    #[test]
    fn what_was_changed_cut_or_made_up_opens_nothing() {
        let cursors = cursors(1);
        let cursor = cursors.seal(BY_NAME, &place("acme/app")).unwrap();
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flipped = BASE64_URL_SAFE_NO_PAD.encode(flipped);
            assert_eq!(opened(&cursors, BY_NAME, &flipped), None, "bit {bit}");
        }
        for end in 0..cursor.len() {
            let cut = cursor.get(..end).unwrap();
            assert_eq!(opened(&cursors, BY_NAME, cut), None, "{end}");
        }
        let by_hand = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&place("acme/app")).unwrap());
        for other in [by_hand, format!("{cursor}AAAA"), format!("{cursor}="), "%".into()] {
            assert_eq!(opened(&cursors, BY_NAME, &other), None, "{other}");
        }
    }

    #[test]
    fn a_cursor_is_good_for_its_own_list_alone_and_for_its_own_shipbell() {
        let (mine, other) = (cursors(1), cursors(2));
        let cursor = mine.seal(BY_NAME, &place("acme/app")).unwrap();
        for list in [
            List::Repositories(RepositoryOrder::Size),
            List::Deliveries,
            List::Endpoints,
        ] {
            assert_eq!(opened(&mine, list, &cursor), None, "{list:?}");
        }
        assert_eq!(opened(&other, BY_NAME, &cursor), None);
    }

    #[test]
    fn a_cursor_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.db");
        let begun = || Cursors::new(Settings::open(&file).unwrap().cursor_key());
        let cursor = begun().seal(List::DeadLetters, &7_i64).unwrap();
        assert_eq!(begun().open::<i64>(List::DeadLetters, &cursor), Some(7));
    }
}
