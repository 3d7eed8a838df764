//! Entry points for a fuzzer: each takes any bytes, and panics if something that has to hold does not.
//!
//! `fuzz/` has libFuzzer call them, and the tests below run them over the corpora in `fuzz/corpus`, and over what
//! a few cheap mutations make of these.

/// The bytes are the body of a notification, and are read and judged.
///
/// # Panics
/// What is accepted is not valid, or an event comes to something else alone than among others.
pub fn envelope(bytes: &[u8]) {
    crate::ingest::fuzzing::envelope(bytes);
}

/// The bytes are a record of the journal.
///
/// # Panics
/// What is read from it, written again, reads differently; or it is larger than the bytes are.
pub fn record(bytes: &[u8]) {
    crate::journal::fuzzing::record(bytes);
}

/// The bytes tell what became of a journal's directory, and a start finds it.
///
/// # Panics
/// The start panics, or refuses what it has changed, or opens what is no sound journal; or a tool panics, changes what
/// it looks at, or repairs it to something that is none.
pub fn directory(bytes: &[u8]) {
    crate::journal::fuzzing::directory(bytes);
}

#[cfg(test)]
mod tests;
