//! The API as a client sees it.

use serde_json::Value;

use super::http::{self, Response};

/// Who asks, where.
#[derive(Clone)]
pub(crate) struct Api {
    port: u16,
    headers: Vec<(String, String)>,
}

impl Api {
    /// Whoever can connect to `port`.
    pub(crate) fn at(port: u16) -> Self {
        Self {
            port,
            headers: Vec::new(),
        }
    }

    /// The same with a header more.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut api = self.clone();
        api.headers.push((name.to_owned(), value.to_owned()));
        api
    }

    /// The same who shows a token.
    pub(crate) fn bearer(&self, token: &str) -> Self {
        self.with("Authorization", &format!("Bearer {token}"))
    }

    /// Any request.
    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Response {
        let headers: Vec<(&str, &str)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        http::request(self.port, method, path, &headers, body).unwrap()
    }

    /// `GET path`.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[])
    }

    /// `PUT path` with this body.
    pub(crate) fn put(&self, path: &str, body: &Value) -> Response {
        self.send("PUT", path, body.to_string().as_bytes())
    }

    /// `POST path` without a body.
    pub(crate) fn post(&self, path: &str) -> Response {
        self.send("POST", path, &[])
    }

    /// What `GET path` answers with 200.
    pub(crate) fn json(&self, path: &str) -> Value {
        let response = self.get(path);
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()
    }

    /// Sets the webhook of a repository that has none.
    pub(crate) fn set(&self, repository: &str, body: &Value) -> Response {
        self.put(&webhook_of(repository), body)
    }
}

impl Response {
    /// The body, which is JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// Where a repository's webhook is.
pub(crate) fn webhook_of(repository: &str) -> String {
    format!("/api/v1/repositories/{}/webhook", repository.replace('/', "%2F"))
}
