//! The command line in, the exit code out.

fn main() {}
