//! Waiting for a state: look, and look again, until it holds or the deadline has passed.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What `look` finds, or `None` when it found nothing before the deadline.
pub(crate) fn poll<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(LOOK_EVERY);
    }
}
