//! What can go wrong between us and the registry, and what follows from it.

use std::{error::Error, fmt::Write as _, time::Duration};

use http::StatusCode;

use crate::image::Digest;

/// Why the registry's answer could not be had or used. Cheap to clone: one failure may have many waiters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or one that broke before the answer was whole.
    #[error("the registry can't be reached: {0}")]
    Unreachable(String),
    /// No whole answer within the request's time.
    #[error("the registry did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The registry or its token service does not let us in.
    #[error("the registry refuses access: {0}")]
    Unauthorized(String),
    /// The registry does not have it.
    #[error("the registry does not have it")]
    NotFound,
    /// Something that is not the registry has nothing there: a proxy without its backend, or a wrong path.
    #[error(
        "what answered with status 404 is not a registry: is `registry.url` right, and what is behind it up?"
    )]
    Stranger,
    /// The answer is longer than we read.
    #[error("the registry's answer is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// The content is not what its digest says.
    #[error("the registry's answer for {expected} has another digest")]
    DigestMismatch {
        /// What was asked for.
        expected: Digest,
    },
    /// An answer with a status that is none of the above.
    #[error("the registry answered with status {status}")]
    Status {
        /// The status.
        status: u16,
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
    /// The same of the token service that the registry sends us to: it says nothing of what was asked for.
    #[error("the registry's token service answered with status {status}")]
    TokenService {
        /// The status.
        status: u16,
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
    /// An answer that can't be understood.
    #[error("the registry's answer can't be understood: {0}")]
    Malformed(String),
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Ask again, not sooner than after this long where the registry said so.
    Retry {
        /// What the registry's `Retry-After` asked for.
        after: Option<Duration>,
    },
    /// It isn't there; asking again does not help.
    Gone,
    /// It won't get better by asking again.
    GiveUp,
}

impl RegistryError {
    /// What follows from this failure: the only place that decides it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) | Self::Stranger => Disposition::Retry { after: None },
            Self::NotFound => Disposition::Gone,
            Self::Status {
                status: 408 | 429 | 500..=599,
                retry_after,
            }
            | Self::TokenService {
                status: 408 | 429 | 500..=599,
                retry_after,
            } => Disposition::Retry { after: *retry_after },
            Self::Unauthorized(_)
            | Self::TooLarge { .. }
            | Self::DigestMismatch { .. }
            | Self::Status { .. }
            | Self::TokenService { .. }
            | Self::Malformed(_) => Disposition::GiveUp,
        }
    }

    /// Whether there was no answer of a registry that works: none at all, or one that tells of its own trouble, or
    /// of that of a gateway before it.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) | Self::Stranger => true,
            Self::Status { status, .. } | Self::TokenService { status, .. } => {
                matches!(status, 500..=599)
            }
            _ => false,
        }
    }

    /// Whether this may be how the registry fails at what it was asked for alone. One that asks us to wait has too much to do.
    #[must_use]
    pub fn may_be_of_one(&self) -> bool {
        matches!(
            self,
            Self::Status {
                status: 500..=599,
                retry_after: None,
            }
        )
    }

    /// Whether it was asked in a way that it does not take.
    pub(super) fn is_bad_request(&self) -> bool {
        matches!(self, Self::Status { status: 400, .. })
    }

    /// The error that a status other than success is.
    pub(super) fn from_status(status: StatusCode, retry_after: Option<Duration>) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Self::Unauthorized(format!("it answered with status {}", status.as_u16()))
            }
            _ => Self::Status {
                status: status.as_u16(),
                retry_after,
            },
        }
    }

    /// The error that a failed request is. The URL is left out: a realm's or a storage's may hold secrets.
    pub(super) fn from_transport(error: reqwest::Error, timeout: Duration) -> Self {
        let error = error.without_url();
        if error.is_timeout() && !error.is_connect() {
            return Self::Timeout(timeout);
        }
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        Self::Unreachable(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_each_failure() {
        let retry = Disposition::Retry { after: None };
        let status = |status| RegistryError::Status {
            status,
            retry_after: None,
        };
        let token_service = |status| RegistryError::TokenService {
            status,
            retry_after: None,
        };
        assert!(status(500).may_be_of_one() && !token_service(500).may_be_of_one());
        assert!(token_service(500).is_silence());
        for (error, expected) in [
            (RegistryError::Unreachable(String::new()), retry),
            (RegistryError::Timeout(Duration::ZERO), retry),
            (status(429), retry),
            (status(500), retry),
            (status(503), retry),
            (token_service(503), retry),
            (token_service(400), Disposition::GiveUp),
            (status(400), Disposition::GiveUp),
            (status(301), Disposition::GiveUp),
            (RegistryError::NotFound, Disposition::Gone),
            (RegistryError::Stranger, retry),
            (RegistryError::Unauthorized(String::new()), Disposition::GiveUp),
            (RegistryError::TooLarge { bytes_max: 1 }, Disposition::GiveUp),
            (RegistryError::Malformed(String::new()), Disposition::GiveUp),
        ] {
            assert_eq!(error.disposition(), expected, "{error}");
        }
    }
}
