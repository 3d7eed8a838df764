//! Whose word a 404 is: the registry's, of what it does not have, or that of something in front of it.
//!
//! A proxy that is being reloaded, or has lost its backend, answers 404 for everything, and a wrong path does too. Taken
//! for the registry's word, that would say of every image that it was deleted.
//!
//! Sources: the OCI distribution spec's error codes; CNCF Distribution sends them with each 404, and its API's version
//! with every answer (`registry/handlers/app.go`), which is what there is of an answer to `HEAD`.

use std::time::Duration;

use serde::Deserialize;

use super::{ERROR_BYTES_MAX, RegistryError, header_text, read_capped};

/// Which API it is, in Distribution's answers.
const API_VERSION: &str = "docker-distribution-api-version";

/// Of an API that is Distribution's.
const REGISTRY: &str = "registry/";

#[derive(Deserialize)]
struct Errors {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    code: String,
}

/// What the registry says with a 404, by its code, such as `NAME_UNKNOWN`; nothing when the answer is one to `HEAD`.
///
/// # Errors
/// [`RegistryError::Stranger`] when it was not the registry who said it; or the answer can't be read.
pub(super) async fn said(
    response: reqwest::Response,
    timeout: Duration,
) -> Result<Option<String>, RegistryError> {
    let version = header_text(response.headers(), API_VERSION);
    let is_own = version.is_some_and(|version| version.starts_with(REGISTRY));
    let body = read_capped(response, ERROR_BYTES_MAX, timeout).await?;
    if body.is_empty() && is_own {
        return Ok(None);
    }
    let errors = serde_json::from_slice::<Errors>(&body).map(|told| told.errors);
    let code = errors
        .ok()
        .and_then(|errors| errors.into_iter().next())
        .map(|error| error.code);
    code.filter(|code| !code.is_empty())
        .map(Some)
        .ok_or(RegistryError::Stranger)
}
