//! To come.

pub mod pace;
pub mod retry;
