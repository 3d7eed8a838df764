//! To come.

pub mod webhook;
