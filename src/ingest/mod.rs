//! t
pub mod envelope;
pub mod filter;
pub mod quarantine;
