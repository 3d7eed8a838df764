//! Any bytes as a record, and as what became of a journal's directory: [`crate::fuzzing`].

mod directory;
mod hand;
mod input;
mod journals;
mod record;
mod script;
mod tools;

pub(crate) use directory::directory;
#[cfg(test)]
pub(crate) use record::seeds;
pub(crate) use record::{keeps, record};
