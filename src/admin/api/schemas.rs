//! What the description says of texts that are not any text: names, patterns, states, moments. It is said in one place,
//! by the names of parameters and fields, and what checks them takes exactly that.

use http::Method;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        OpenApi, RefOr,
        path::ParameterIn,
        schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type},
    },
};

use super::{LIMIT_MAX, deliveries, letters, repositories};
use crate::dispatch::health::State;

/// How an endpoint is.
pub(super) enum EndpointState {}

impl PartialSchema for EndpointState {
    fn schema() -> RefOr<Schema> {
        let words = text().description(Some("How an endpoint is."));
        let states = words.enum_values(Some(State::ALL.map(State::as_str)));
        states.build().into()
    }
}

impl ToSchema for EndpointState {}

/// A repository's name, as the distribution specification has it.
const REPOSITORY: &str = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*";
const REPOSITORY_MAX: usize = 255;

/// A tag, as the distribution specification has it.
const TAG: &str = "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}";

/// What an `ETag` is, as RFC 9110 has it.
const ENTITY_TAG: &str = r#"(W/)?"[!#-~]{0,64}""#;

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// A text that is all of this.
fn like(pattern: &str) -> ObjectBuilder {
    text().pattern(Some(format!("^({pattern})$")))
}

fn repository() -> ObjectBuilder {
    like(REPOSITORY).max_length(Some(REPOSITORY_MAX))
}

fn moment() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

/// The endpoint's identity.
fn endpoint() -> ObjectBuilder {
    let longest = "repository:".len() + REPOSITORY_MAX;
    like(&format!("[A-Za-z0-9._-]{{1,64}}|repository:{REPOSITORY}")).max_length(Some(longest))
}

/// What a parameter of this name may be, in a call at this path.
fn parameter(method: &Method, path: &str, place: &ParameterIn, name: &str) -> Option<ObjectBuilder> {
    let of_letters = path.ends_with("/dead-letters") || path.ends_with("/dead-letters/replay");
    Some(match (name, place) {
        ("repository", _) if of_letters => like(letters::PATTERN).max_length(Some(letters::PATTERN_MAX)),
        ("repository", _) | ("name", ParameterIn::Path) => repository(),
        ("endpoint", _) => endpoint(),
        ("id", ParameterIn::Path) if path.starts_with("/api/v1/endpoints/") => endpoint(),
        ("id", ParameterIn::Path) => like("[A-Za-z0-9_-]{1,128}"),
        ("id", _) => like("[0-9]{1,18}(,[0-9]{1,18}){0,999}"),
        ("tag", _) => like(TAG),
        ("since" | "until", _) => moment(),
        ("cursor", _) => like("[A-Za-z0-9_-]{0,4096}"),
        ("q", _) => text().max_length(Some(repositories::PART_MAX)),
        ("sort", _) => text().enum_values(Some(repositories::ORDERS)),
        ("state", _) if path.ends_with("/endpoints") => {
            text().enum_values(Some(State::ALL.map(State::as_str)))
        }
        ("state", _) => text().enum_values(Some(deliveries::STATES)),
        ("If-None-Match", _) if method != Method::GET => text().enum_values(Some(["*"])),
        ("If-Match" | "If-None-Match", _) => like(&format!("{ENTITY_TAG}(, ?{ENTITY_TAG}){{0,99}}|\\*")),
        ("image", _) => like(&format!("{REPOSITORY}(:{TAG}|@sha256:[0-9a-f]{{64}})?")),
        ("event", _) => like("[A-Za-z0-9._:-]{1,255}"),
        ("limit", _) => ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
            .minimum(Some(1))
            .maximum(Some(LIMIT_MAX)),
        _ => return None,
    })
}

/// Says of each parameter what it may be, and of each field that is a moment that it is one.
pub(super) fn sharpen(description: &mut OpenApi) {
    for (path, item) in &mut description.paths.paths {
        let operations = [
            (Method::GET, &mut item.get),
            (Method::PUT, &mut item.put),
            (Method::POST, &mut item.post),
            (Method::DELETE, &mut item.delete),
        ];
        let parameters = operations.into_iter().flat_map(|(method, operation)| {
            let parameters = operation.as_mut().and_then(|one| one.parameters.as_mut());
            parameters
                .into_iter()
                .flatten()
                .map(move |one| (method.clone(), one))
        });
        for (method, one) in parameters {
            if let RefOr::T(one) = one
                && let Some(known) = parameter(&method, path, &one.parameter_in, &one.name)
            {
                one.schema = Some(known.build().into());
            }
        }
    }
    let schemas = description.components.iter_mut();
    for schema in schemas.flat_map(|components| components.schemas.values_mut()) {
        if let RefOr::T(Schema::Object(object)) = schema {
            for (name, field) in &mut object.properties {
                if let RefOr::T(Schema::Object(field)) = field
                    && is_moment(name)
                {
                    field.format = Some(SchemaFormat::KnownFormat(KnownFormat::DateTime));
                }
            }
        }
    }
}

fn is_moment(name: &str) -> bool {
    matches!(name, "at" | "since" | "next_attempt" | "previous_secret_until") || name.ends_with("_at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_that_is_asked_for_says_what_it_may_be() {
        let mut texts = 0;
        for (path, item) in &super::super::router().1.paths.paths {
            let operations = [&item.get, &item.put, &item.post, &item.delete];
            for parameter in operations
                .into_iter()
                .flatten()
                .filter_map(|operation| operation.parameters.as_ref())
                .flatten()
            {
                let RefOr::T(parameter) = parameter else {
                    panic!("{path}")
                };
                let Some(RefOr::T(Schema::Object(schema))) = &parameter.schema else {
                    panic!("{path}: {}", parameter.name);
                };
                let is_any = schema.pattern.is_none()
                    && schema.format.is_none()
                    && schema.enum_values.is_none()
                    && schema.max_length.is_none();
                let is_text = matches!(
                    &schema.schema_type,
                    utoipa::openapi::schema::SchemaType::Type(Type::String)
                );
                texts += usize::from(is_text);
                assert!(!(is_text && is_any), "{path}: {}", parameter.name);
            }
        }
        assert!(texts > 40, "{texts}");
    }
}
