//! Mutexes, taken whether or not somebody who had one panicked.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a mutex.
pub(crate) trait Locked<T: ?Sized> {
    /// What it guards, once nobody else has it. That a holder panicked is for whoever owns that task or thread to tell, and
    /// to end the process for; until then everybody else goes on.
    fn locked(&self) -> MutexGuard<'_, T>;
}

impl<T: ?Sized> Locked<T> for Mutex<T> {
    fn locked(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
