//! What the registry listed of an image, as a column has it.

use serde::{Deserialize, Serialize};

use super::kept::odd;
use crate::push::Reference;

/// One blob as the column `listed` has it.
#[derive(Serialize, Deserialize)]
struct Listed<'a> {
    #[serde(rename = "mediaType", borrow)]
    media_type: std::borrow::Cow<'a, str>,
    size: u64,
    digest: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    urls: bool,
}

pub(super) fn listed(references: &[Reference]) -> String {
    if references.is_empty() {
        return String::new();
    }
    let listed: Vec<_> = references
        .iter()
        .map(|reference| Listed {
            media_type: (*reference.media_type).into(),
            size: reference.size,
            digest: reference.digest.to_string(),
            urls: reference.has_urls,
        })
        .collect();
    // Without it the registry is asked.
    serde_json::to_string(&listed).unwrap_or_default()
}

pub(super) fn references(text: &str) -> rusqlite::Result<Vec<Reference>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let listed: Vec<Listed<'_>> = serde_json::from_str(text).map_err(odd)?;
    let references = listed.into_iter().map(|listed| {
        Ok(Reference {
            media_type: listed.media_type.into(),
            size: listed.size,
            digest: listed.digest.parse().map_err(odd)?,
            has_urls: listed.urls,
        })
    });
    references.collect()
}
