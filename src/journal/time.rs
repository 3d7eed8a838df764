//! Now, for waiting. A test moves it forward instead of waiting itself.

/// The moment that waits are counted from.
#[cfg(not(test))]
pub(super) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(test)]
pub(super) use moved::{now, pass};

#[cfg(test)]
mod moved {
    use std::{
        cell::Cell,
        time::{Duration, Instant},
    };

    thread_local! {
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(in crate::journal) fn now() -> Instant {
        Instant::now() + PASSED.get()
    }

    /// Lets time pass on this thread.
    pub(in crate::journal) fn pass(time: Duration) {
        PASSED.set(PASSED.get() + time);
    }
}
