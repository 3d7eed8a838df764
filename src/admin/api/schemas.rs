//! What the description says of texts that are not any text: names, states, formats. Taken from what checks them, so
//! that it can't drift.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use crate::dispatch::health::State;

/// How an endpoint is.
pub(super) enum EndpointState {}

impl PartialSchema for EndpointState {
    fn schema() -> RefOr<Schema> {
        one_of("How an endpoint is.", State::ALL.map(State::as_str))
    }
}

impl ToSchema for EndpointState {}

fn one_of(words: &str, values: impl IntoIterator<Item = &'static str>) -> RefOr<Schema> {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(words))
        .enum_values(Some(values));
    text.build().into()
}
