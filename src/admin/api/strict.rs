//! What a call's description does not name is refused: a filter that is mistyped, or stands in the body, would be none,
//! and the call would be about everything.

use std::{collections::HashMap, sync::Arc};

use axum::{
    body::{Body, HttpBody as _},
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode};
use utoipa::openapi::{
    OpenApi, RefOr,
    path::{Operation, ParameterIn},
};

use super::super::problem::Problem;

/// A body of so many bytes says nothing: some clients send `{}` or `null` with every request, and a line's end.
const EMPTY_BYTES_MAX: u64 = 6;

/// A parameter's name is repeated in a refusal if it is no longer.
const NAME_BYTES_MAX: usize = 32;

/// What each call takes, by its method and path.
pub(super) type Calls = Arc<HashMap<(Method, String), Call>>;

/// What a call takes.
#[derive(Debug)]
pub(super) struct Call {
    /// The parameters of its query.
    query: Vec<String>,
    has_body: bool,
}

impl Call {
    fn of(operation: &Operation) -> Self {
        let all = operation.parameters.iter().flatten();
        let query = all.filter_map(|parameter| match parameter {
            RefOr::T(parameter) if matches!(parameter.parameter_in, ParameterIn::Query) => Some(parameter),
            _ => None,
        });
        Self {
            query: query.map(|parameter| parameter.name.clone()).collect(),
            has_body: operation.request_body.is_some(),
        }
    }

    /// What is wrong with a request.
    fn fault(&self, request: &Request<Body>) -> Option<String> {
        let query = request.uri().query().unwrap_or_default();
        let mut names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
        if let Some(name) = names.find(|name| !self.query.iter().any(|known| known == name)) {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            let shown = if name.len() <= NAME_BYTES_MAX && name.bytes().all(is_name) {
                format!("\"{name}\" is no parameter of this call")
            } else {
                "the query has a parameter that this call does not".to_owned()
            };
            return Some(if self.query.is_empty() {
                format!("{shown}, which has none")
            } else {
                format!("{shown}; it has {}", self.query.join(", "))
            });
        }
        let bytes = request.body().size_hint();
        if !self.has_body && bytes.upper().is_none_or(|bytes| bytes > EMPTY_BYTES_MAX) {
            let instead = if self.query.is_empty() {
                ""
            } else {
                ": what is meant is said in the query"
            };
            return Some(format!("this call takes no body{instead}"));
        }
        None
    }
}

/// The calls that are described.
pub(super) fn calls(description: &OpenApi) -> Calls {
    let mut calls = HashMap::new();
    for (path, item) in &description.paths.paths {
        for (method, operation) in [
            (Method::GET, &item.get),
            (Method::PUT, &item.put),
            (Method::POST, &item.post),
            (Method::DELETE, &item.delete),
        ] {
            if let Some(operation) = operation {
                calls.insert((method, path.clone()), Call::of(operation));
            }
        }
    }
    Arc::new(calls)
}

/// Refuses what the call's description does not name.
pub(super) async fn check(State(calls): State<Calls>, request: Request, next: Next) -> Response {
    let method = match request.method() {
        &Method::HEAD => Method::GET,
        method => method.clone(),
    };
    let path = request.extensions().get::<MatchedPath>();
    let call = path.and_then(|path| calls.get(&(method, path.as_str().to_owned())));
    match call.and_then(|call| call.fault(&request)) {
        Some(detail) => Problem::new(StatusCode::BAD_REQUEST, detail).into_response(),
        None => next.run(request).await,
    }
}
