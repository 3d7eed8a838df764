//! What the registry fails at while it answers otherwise, such as a tag whose file is empty after a full disk, or a
//! schema 1 manifest that its version does not read any more. Pure.
//!
//! It is left alone for a while, each time for twice as long, and the numbers that need it are left out at once: asked for
//! with every batch, it would hold up every webhook of its repository.

use std::{collections::HashMap, fmt, time::Duration};

use tokio::time::Instant;

use crate::{
    image::{Digest, Tag},
    registry::RegistryError,
};

/// How long it is left alone, at first.
pub(super) const LEFT_ALONE_FIRST: Duration = Duration::from_mins(1);

/// How long it is left alone at most.
pub(super) const LEFT_ALONE_MAX: Duration = Duration::from_hours(1);

/// What of a repository is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// Its list of tags.
    Tags,
    /// What a tag names.
    Tag(Tag),
    /// A manifest and, where it states no sizes, its blobs.
    Manifest(Digest),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tags => f.write_str("the list of tags"),
            Self::Tag(tag) => write!(f, "the tag {}", tag.as_str()),
            Self::Manifest(digest) => write!(f, "the manifest {digest}"),
        }
    }
}

/// What one repository has of it.
#[derive(Debug, Default)]
pub(super) struct Unreadable(HashMap<Part, Failed>);

#[derive(Debug)]
struct Failed {
    error: RegistryError,
    pause: Duration,
    until: Instant,
}

impl Unreadable {
    /// The registry failed at it once more.
    pub(super) fn note(&mut self, part: Part, error: RegistryError, now: Instant) {
        let pause = match self.0.get(&part) {
            None => LEFT_ALONE_FIRST,
            // Whoever asked at the same time is told the same.
            Some(failed) if now < failed.until => return,
            Some(failed) => (failed.pause * 2).min(LEFT_ALONE_MAX),
        };
        let until = now + pause;
        self.0.insert(part, Failed { error, pause, until });
    }

    /// It was read, or written anew.
    pub(super) fn forget(&mut self, part: &Part) {
        self.0.remove(part);
    }

    /// The same, at each event, when hardly ever any failed: the part is made only if one did.
    pub(super) fn forget_any(&mut self, part: impl FnOnce() -> Part) {
        if !self.0.is_empty() {
            self.forget(&part());
        }
    }

    /// The same of all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What the registry answered, if it is to be left alone at `now`.
    pub(super) fn error(&self, part: &Part, now: Instant) -> Option<RegistryError> {
        let failed = self.0.get(part).filter(|failed| now < failed.until)?;
        Some(failed.error.clone())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_left_alone_for_longer_each_time_until_it_is_read() {
        let (mut unreadable, mut now) = (Unreadable::default(), Instant::now());
        let part = Part::Tag("v1".parse().unwrap());
        let error = RegistryError::Status {
            status: 500,
            retry_after: None,
        };
        assert_eq!(unreadable.error(&part, now), None);
        let mut pause = LEFT_ALONE_FIRST;
        for _ in 0..9 {
            unreadable.note(part.clone(), error.clone(), now);
            unreadable.note(part.clone(), error.clone(), now + pause / 2);
            assert_eq!(
                unreadable.error(&part, now + pause.mul_f64(0.999)),
                Some(error.clone())
            );
            now += pause;
            assert_eq!(unreadable.error(&part, now), None, "{pause:?}");
            pause = (pause * 2).min(LEFT_ALONE_MAX);
        }
        assert_eq!(pause, LEFT_ALONE_MAX);
        assert_eq!(unreadable.error(&Part::Tags, now), None);
        unreadable.forget(&part);
        assert_eq!(unreadable.len(), 0);
        unreadable.note(part.clone(), error, now);
        assert_eq!(unreadable.error(&part, now + LEFT_ALONE_FIRST), None);
    }
}
