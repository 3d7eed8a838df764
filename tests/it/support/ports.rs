//! Ports for the programs that tests start.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below the range that the kernel takes ports of outgoing connections from (32768 and up), so that
/// nobody's connection can sit on a port between its choice and its use.
const LOWEST: u32 = 10_240;
const COUNT: u32 = 20_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of loopback that nobody listens on, and that no other test of this process is given.
pub(crate) fn free() -> u16 {
    // Another run of these tests at the same time begins elsewhere.
    let start = std::process::id().wrapping_mul(97);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(step < COUNT, "every port has been tried");
        let port = u16::try_from(LOWEST + start.wrapping_add(step) % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
