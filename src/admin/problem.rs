//! What went wrong with a request, as a problem document (RFC 9457).

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::{draft::FieldError, webhooks::ChangeError};
use crate::catalog::ReadError;

/// What problem documents are.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A request that was not answered as it was meant.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// What kind of problem it is: there are no kinds beyond the status.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What went wrong, and what would be right.
    pub detail: String,
    /// What is wrong with single fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// In how many seconds it may go better.
    #[serde(skip)]
    retry_after_s: Option<u64>,
}

impl Problem {
    /// A problem of this status.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
        }
    }

    /// What was asked for isn't there.
    #[must_use]
    pub fn absent(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// A parameter is not right.
    #[must_use]
    pub fn parameter(name: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("{name}: {}", detail.into()))
    }

    /// It may go better after so many seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after_s: Some(seconds),
            ..self
        }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status(), self.retry_after_s);
        let mut response = (status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"shipbell\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        // For whoever would rather write it as a page.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Invalid(errors) => Self {
                errors: errors.clone(),
                ..Self::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    ChangeError::Invalid(errors).to_string(),
                )
            },
            ChangeError::Unconditional => Self::new(
                StatusCode::PRECONDITION_REQUIRED,
                "the repository has a webhook already: send its ETag as If-Match, so that nobody else's change is lost",
            ),
            ChangeError::Changed => Self::new(
                StatusCode::PRECONDITION_FAILED,
                "it is not as you saw it: somebody changed it meanwhile; read it again",
            ),
            ChangeError::Full(sentence) => Self::new(StatusCode::CONFLICT, sentence),
            ChangeError::Absent => Self::absent("the repository has no webhook of its own"),
            ChangeError::Unsaved(_) | ChangeError::Unwritten(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).retry_after(5)
            }
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the history can't be read: {error}"),
        )
        .retry_after(5)
    }
}
