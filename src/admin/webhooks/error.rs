//! Why a webhook was not changed.

use std::{fmt, io};

use super::super::draft::FieldError;
use crate::settings::AccessError;

/// Why a change was not made.
#[derive(Debug)]
pub enum ChangeError {
    /// What was asked for can't be.
    Invalid(Vec<FieldError>),
    /// There is one already, and it was not said which one is to be changed.
    Unconditional,
    /// It is not as it was expected: somebody was faster.
    Changed,
    /// There is none.
    Absent,
    /// There are too many, or they take too much: a sentence.
    Full(String),
    /// It could not be saved; nothing was changed.
    Unsaved(String),
    /// The webhook is saved and in effect. How its endpoint is, healed, enabled or disabled, is so from now on too, but
    /// could not be written yet; that is tried again.
    Unwritten(String),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(errors) => {
                let details: Vec<&str> = errors.iter().map(|error| error.detail.as_str()).collect();
                f.write_str(&details.join("; "))
            }
            Self::Unconditional => f.write_str("the repository has a webhook already"),
            Self::Changed => f.write_str("somebody changed it meanwhile"),
            Self::Full(sentence) => f.write_str(sentence),
            Self::Absent => f.write_str("the repository has no webhook of its own"),
            Self::Unsaved(error) => write!(f, "it could not be saved, and nothing was changed: {error}"),
            Self::Unwritten(error) => write!(
                f,
                "the webhook is saved and in effect; whether it is sent to could not be written yet, which is tried \
                 again by itself: {error}"
            ),
        }
    }
}

impl From<AccessError> for ChangeError {
    fn from(error: AccessError) -> Self {
        Self::Unsaved(error.to_string())
    }
}

impl From<io::Error> for ChangeError {
    fn from(error: io::Error) -> Self {
        Self::Unsaved(error.to_string())
    }
}
