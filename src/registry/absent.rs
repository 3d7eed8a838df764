//! Whose word a 404 is: the registry's, of what it does not have, or that of something in front of it.
//!
//! A proxy that is being reloaded, or has lost its backend, answers 404 for everything, and a wrong path does too. Taken
//! for the registry's word, that would say of every image that it was deleted. The registry's own has an error code in
//! its body; an answer to `HEAD` has no body, and says nothing: proxies add the registry's headers to their own answers.
//!
//! Sources: the OCI distribution spec's error codes, which CNCF Distribution sends with each 404.

use std::time::Duration;

use serde::Deserialize;

use super::{ERROR_BYTES_MAX, RegistryError, read_capped};

#[derive(Deserialize)]
struct Errors {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    code: String,
}

/// What the registry says with a 404 to `GET`, by its code, such as `NAME_UNKNOWN`.
///
/// # Errors
/// [`RegistryError::Stranger`] when it was not the registry who said it; or the answer can't be read.
pub(super) async fn said(response: reqwest::Response, timeout: Duration) -> Result<String, RegistryError> {
    let body = read_capped(response, ERROR_BYTES_MAX, timeout).await?;
    let errors = serde_json::from_slice::<Errors>(&body).map(|told| told.errors);
    let code = errors
        .ok()
        .and_then(|errors| errors.into_iter().next())
        .map(|error| error.code);
    code.filter(|code| !code.is_empty())
        .ok_or(RegistryError::Stranger)
}
