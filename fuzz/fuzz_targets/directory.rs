//! What became of a journal's directory.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| shipbell::fuzzing::directory(bytes));
