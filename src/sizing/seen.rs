//! Whether a repository has one manifest, by all that was told of it. Pure.
//!
//! Events tell that it was pushed and that it was deleted, and the registry, when it is asked, whether it has it. Of a
//! manifest whose push was told, and no deletion, the registry's "no" is believed for a while only: a mirror, or a
//! storage that is copied, lags behind its own events. Of any other the "no" stays.

use std::time::Duration;

use tokio::time::Instant;

/// How long a registry that lags is believed at first, and at most: it is twice as long each time.
pub(super) const BELIEVED_FIRST: Duration = Duration::from_secs(10);
pub(super) const BELIEVED_MAX: Duration = Duration::from_hours(1);

/// Whether a repository has a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Held,
    Gone,
    Unknown,
}

/// Versions at which a manifest was last known to be there and to be gone; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    held_at: u64,
    gone_at: u64,
    missed: Option<Missed>,
}

/// The registry didn't have it when it was asked, although no event told that it is gone.
#[derive(Clone, Copy, Debug)]
struct Missed {
    at: u64,
    /// How long that is believed, and until when.
    pause: Duration,
    until: Instant,
}

impl Seen {
    /// It is there, or was at `version`.
    pub(super) fn hold(&mut self, version: u64) {
        self.held_at = self.held_at.max(version);
        self.missed = self.missed.filter(|missed| missed.at > version);
    }

    /// It was deleted.
    pub(super) fn delete(&mut self, version: u64) {
        self.gone_at = version;
        self.missed = None;
    }

    /// Whether an answer to what was asked at `version` is newer than what is known.
    pub(super) fn is_news(&self, version: u64) -> bool {
        self.held_at <= version
    }

    /// The registry does not have it.
    pub(super) fn miss(&mut self, version: u64, now: Instant) {
        // Of what was deleted with its repository nothing is known any more.
        if self.held_at == 0 || self.gone_at > self.held_at {
            self.gone_at = version;
            return;
        }
        let pause = self.missed.map_or(BELIEVED_FIRST, |missed| missed.pause * 2);
        let pause = pause.min(BELIEVED_MAX);
        self.missed = Some(Missed {
            at: version,
            pause,
            until: now + pause,
        });
    }

    /// Whether the registry doesn't have it, although no event told that it was deleted.
    pub(super) fn is_missed(&self) -> bool {
        self.missed.is_some()
    }

    /// Whether it was gone at some time, for good.
    pub(super) fn was_gone(&self) -> bool {
        self.gone_at > 0
    }

    /// When it was last known to be gone, as far as that is believed `now`.
    pub(super) fn gone_at(&self, now: Instant) -> u64 {
        let missed = self.missed.filter(|missed| now < missed.until);
        self.gone_at.max(missed.map_or(0, |missed| missed.at))
    }

    /// Whether it was there at the version `as_of`, which was at the moment `now`.
    pub(super) fn presence(&self, as_of: u64, now: Instant) -> Presence {
        let gone_at = self.gone_at(now);
        if gone_at > self.held_at && gone_at <= as_of {
            Presence::Gone
        } else if self.held_at > 0 && self.missed.is_none_or(|missed| missed.at > as_of) {
            Presence::Held
        } else {
            Presence::Unknown
        }
    }
}
