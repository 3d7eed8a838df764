//! How many sums may be under way: each keeps in memory all that it reached.

use tokio::sync::{Semaphore, SemaphorePermit};

/// A repository in which tags name no more than this is small.
const SMALL_ROOTS_MAX: u32 = 1_000;

/// Sums over small ones may come to so many in all, and those over others.
const SMALL_ROOTS: u32 = 100_000;
const LARGE_ROOTS: u32 = 200_000;

/// A larger one counts as so many: two at least are under way at once.
const LARGE_ROOTS_MAX: u32 = LARGE_ROOTS / 2;

/// The places. Small ones have their own, so that large ones, which may wait long for the registry, are not in their way.
#[derive(Debug)]
pub(super) struct Sums {
    small: Semaphore,
    large: Semaphore,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            small: Semaphore::new(SMALL_ROOTS as usize),
            large: Semaphore::new(LARGE_ROOTS as usize),
        }
    }
}

impl Sums {
    /// Waits for a place for a sum over so many roots. It is had until it is dropped.
    pub(super) async fn place(&self, roots: usize) -> Option<SemaphorePermit<'_>> {
        let roots = u32::try_from(roots).unwrap_or(u32::MAX).clamp(1, LARGE_ROOTS_MAX);
        let places = if roots <= SMALL_ROOTS_MAX {
            &self.small
        } else {
            &self.large
        };
        // Nobody closes them.
        places.acquire_many(roots).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn sums_wait_for_those_of_their_size_and_small_ones_not_for_large_ones() {
        let sums = Sums::default();
        let now = |roots| sums.place(roots).now_or_never().flatten();
        let large = [now(usize::MAX), now(150_000)];
        assert!(large.iter().all(Option::is_some));
        assert!(now(1_001).is_none());
        let small: Vec<_> = (0..100).map(|_| now(1_000)).collect();
        assert!(small.iter().all(Option::is_some));
        assert!(now(0).is_none());
        drop(large);
        assert!(now(1_001).is_some());
        drop(small);
        assert!(now(0).is_some());
    }
}
