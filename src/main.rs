//! The command line in, the exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    shipbell::cli::run(std::env::args_os()).into()
}
