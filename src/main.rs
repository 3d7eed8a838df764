//! The command line in, the exit code out.

use std::process::ExitCode;

/// What a delivery allocates is mostly freed on another thread, which costs the system's allocator a fifth of all time:
/// see "Dependencies" in `ARCHITECTURE.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    shipbell::cli::run(std::env::args_os()).into()
}
