//! Whether a repository has one manifest, by all that was told of it. Pure.
//!
//! Events tell that it was pushed and that it was deleted, and the registry, when it is asked, whether it has it. What
//! events tell holds. The registry's "no" is believed for a while only: a mirror, or a storage that is copied, lags behind
//! its own events, and may lack for a moment what nobody spoke of. While it lacks what was pushed, and that is not long
//! ago, sizes would be too small; after many times it is taken to be gone. So it is with what nobody spoke of, for as long as a
//! push of it may have been before we listened.

use std::time::Duration;

use tokio::time::Instant;

/// How long the registry's "no" is believed of what was pushed, at first; each time it is twice as long.
pub(super) const BELIEVED_FIRST: Duration = Duration::from_secs(10);

/// How long it is believed at most, and of what nobody spoke of.
pub(super) const BELIEVED_MAX: Duration = Duration::from_hours(1);

/// What it was believed of for so long is taken to be gone, though no event told.
pub(super) const GONE_AFTER: Duration = Duration::from_mins(10);

/// Whether a repository has a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Held,
    Gone,
    /// It should be there, and the registry doesn't have it.
    Missing,
    Unknown,
}

/// Versions at which a manifest was last known to be there and to be gone, as events told; 0 is never.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    held_at: u64,
    gone_at: u64,
    /// Of few, and there are as many as manifests.
    missed: Option<Box<Missed>>,
}

/// The registry didn't have it when it was asked.
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
        self.missed = self.missed.take().filter(|missed| missed.at > version);
    }

    /// It was deleted.
    pub(super) fn delete(&mut self, version: u64) {
        self.gone_at = version;
        self.missed = None;
    }

    /// Whether it was pushed, as far as events tell, and not deleted since.
    pub(super) fn is_pushed(&self) -> bool {
        self.held_at > 0 && self.gone_at <= self.held_at
    }

    /// Whether it was pushed and nobody ever found it missing.
    pub(super) fn is_expected(&self) -> bool {
        self.is_pushed() && self.missed.is_none()
    }

    /// The registry does not have it: asked at `version`, and answered at `now`. Whether a push of it would be known.
    pub(super) fn miss(&mut self, version: u64, now: Instant, would_be_heard: bool) {
        let is_known = self.held_at > version || self.gone_at > self.held_at;
        let missed = self.missed.as_ref();
        if is_known || missed.is_some_and(|missed| now < missed.until) {
            return;
        }
        let pause = match missed {
            _ if !self.is_pushed() && would_be_heard => BELIEVED_MAX,
            None => BELIEVED_FIRST,
            Some(missed) => (missed.pause * 2).min(BELIEVED_MAX),
        };
        self.missed = Some(Box::new(Missed {
            at: version,
            pause,
            until: now + pause,
        }));
    }

    /// Whether the registry doesn't have it, although it was pushed and no event told that it was deleted.
    pub(super) fn is_missed(&self) -> bool {
        self.is_pushed() && self.missed.is_some()
    }

    /// The version at which it was deleted; 0 if it never was.
    pub(super) fn gone_at(&self) -> u64 {
        self.gone_at
    }

    /// The version of the last that is known of it.
    pub(super) fn newest(&self) -> u64 {
        let missed_at = self.missed.as_ref().map_or(0, |missed| missed.at);
        self.held_at.max(self.gone_at).max(missed_at)
    }

    /// Whether it was there at the version `as_of`, as far as is known at `now`.
    pub(super) fn presence(&self, as_of: u64, now: Instant) -> Presence {
        if self.gone_at > self.held_at && self.gone_at <= as_of {
            return Presence::Gone;
        }
        match self.tagged_presence(now) {
            Presence::Held if self.held_at == 0 => Presence::Unknown,
            presence => presence,
        }
    }

    /// The same of one that a tag names, which says that it is there.
    pub(super) fn tagged_presence(&self, now: Instant) -> Presence {
        match &self.missed {
            None => Presence::Held,
            Some(missed) if missed.until <= now => Presence::Unknown,
            Some(missed) if missed.pause >= GONE_AFTER => Presence::Gone,
            Some(_) => Presence::Missing,
        }
    }
}
