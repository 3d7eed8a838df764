//! How many sums over one large repository may be under way: each keeps in memory all that it reached.

use tokio::sync::{Semaphore, SemaphorePermit};

/// A repository in which tags name no more than this is small: its sums are not counted.
const SMALL_ROOTS_MAX: usize = 1_000;

/// Sums over a larger one at a time.
const LARGE_SUMS: usize = 2;

/// A repository's own places: no other waits for them, however long the registry takes for this one.
#[derive(Debug)]
pub(super) struct Sums(Semaphore);

impl Default for Sums {
    fn default() -> Self {
        Self(Semaphore::new(LARGE_SUMS))
    }
}

impl Sums {
    /// Waits for a place for a sum over so many roots, if it takes one. It is had until it is dropped.
    pub(super) async fn place(&self, roots: usize) -> Option<SemaphorePermit<'_>> {
        if roots <= SMALL_ROOTS_MAX {
            return None;
        }
        // Nobody closes them.
        self.0.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn large_sums_wait_for_each_other_and_small_ones_for_none() {
        let sums = Sums::default();
        let large = [1_001, usize::MAX].map(|roots| sums.place(roots).now_or_never().flatten());
        assert!(large.iter().all(Option::is_some));
        assert!(sums.place(1_001).now_or_never().is_none());
        assert!(sums.place(1_000).now_or_never().is_some());
        drop(large);
        assert!(sums.place(1_001).now_or_never().is_some());
    }
}
