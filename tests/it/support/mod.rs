//! The real parts that the tests are made of, and how to wait for them.

use std::time::Duration;

pub(crate) mod envelope;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod receiver;
pub(crate) mod registry;
pub(crate) mod shipbell;
pub(crate) mod stage;
pub(crate) mod storage;
pub(crate) mod tokens;
pub(crate) mod wait;

/// Long enough for anything that should happen soon, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What `look` finds, waited for; panics when it finds nothing before the deadline. This is the only wait
/// that the tests have besides the receiver's: nobody sleeps and hopes.
pub(crate) fn eventually<T>(what: &str, deadline: Duration, look: impl FnMut() -> Option<T>) -> T {
    wait::poll(deadline, look).unwrap_or_else(|| panic!("not within {deadline:?}: {what}"))
}
