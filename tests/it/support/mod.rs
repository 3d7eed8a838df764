//! The real parts that the tests are made of, and how to wait for them.

use std::time::Duration;

use tempfile::TempDir;

pub(crate) mod api;
pub(crate) mod browser;
pub(crate) mod envelope;
pub(crate) mod faulty;
pub(crate) mod files;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod load;
pub(crate) mod ports;
pub(crate) mod privilege;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod receiver;
pub(crate) mod registry;
pub(crate) mod shipbell;
pub(crate) mod stage;
pub(crate) mod storage;
pub(crate) mod story;
pub(crate) mod strace;
pub(crate) mod tls;
pub(crate) mod tokens;
pub(crate) mod volume;
pub(crate) mod wait;

/// Long enough for anything that should happen soon, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What `look` finds, waited for; panics when it finds nothing before the deadline. This is the only wait
/// that the tests have besides the receiver's: nobody sleeps and hopes.
pub(crate) fn eventually<T>(what: &str, deadline: Duration, look: impl FnMut() -> Option<T>) -> T {
    wait::poll(deadline, look).unwrap_or_else(|| panic!("not within {deadline:?}: {what}"))
}

/// A folder of its own, gone with the handle. It lies beside what the build made and not in the system's
/// folder for temporary files: that one may be held in memory, where fsync costs nothing.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
