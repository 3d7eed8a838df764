//! What the API says of itself.

use std::{fs, path::Path};

use utoipa::openapi::RefOr;

use super::*;

/// The description is committed, so that a change of the API shows in a review: `UPDATE=1 cargo test` writes it.
#[test]
fn the_committed_description_is_the_codes_own() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let written = description().to_pretty_json().unwrap() + "\n";
    if std::option_env!("UPDATE").is_some() {
        fs::write(&file, &written).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == written,
        "docs/openapi.json is not what the code says: touch src/admin/tests.rs && UPDATE=1 cargo test --lib admin::tests"
    );
}

#[test]
fn every_call_has_a_name_words_and_refusals() {
    let description = description();
    let mut calls = 0;
    for (path, item) in &description.paths.paths {
        let operations = [&item.get, &item.put, &item.post, &item.delete];
        for operation in operations.into_iter().flatten() {
            calls += 1;
            assert!(operation.operation_id.is_some(), "{path}");
            assert!(operation.summary.is_some(), "{path}");
            assert!(operation.responses.responses.contains_key("401"), "{path}");
            for (status, response) in &operation.responses.responses {
                // A response has to have one: OpenAPI 3.1, "Response Object".
                let is_described = matches!(response, RefOr::T(response) if !response.description.is_empty());
                assert!(
                    is_described || matches!(response, RefOr::Ref(_)),
                    "{path} {status}"
                );
            }
        }
    }
    assert!(calls >= 19, "{calls}");
}
