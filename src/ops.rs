//! The ops listener: is it alive, is it ready, how is it doing.

use std::{
    fmt,
    fmt::Write as _,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;

use crate::{
    lifecycle::Tasks,
    listener::{Body, Hangup, Listener},
    telemetry::{self, Metrics},
};

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Whether pushes would be taken: named checks, asked on each probe. Cheap to clone.
///
/// No check may depend on the registry or on an endpoint: that one of them is down is no reason to be
/// restarted, or to be sent nothing.
#[derive(Clone, Default)]
pub struct Readiness(Arc<RwLock<Vec<(&'static str, Check)>>>);

impl Readiness {
    /// Ready until a check says otherwise.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, which says why not in words that hold no secret. It must not wait.
    pub fn add(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        let mut checks = self.0.write().unwrap_or_else(PoisonError::into_inner);
        checks.push((name, Box::new(check)));
    }

    /// Every check by name, in the order they were added, and what it says now.
    #[must_use]
    pub fn ask(&self) -> Vec<(&'static str, Result<(), String>)> {
        let checks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        checks.iter().map(|(name, check)| (*name, check())).collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.ask()).finish()
    }
}

/// Answers `/livez`, `/readyz` and `/metrics` on `listener` until `stop` is cancelled.
pub async fn serve(
    listener: Listener,
    readiness: Readiness,
    metrics: Metrics,
    tasks: Tasks,
    stop: CancellationToken,
) {
    let handler = move |request: Request<Body>| {
        let answer = answer(&request, &readiness, &metrics);
        async move { Ok::<_, Hangup>(answer) }
    };
    listener.serve(tasks, stop, handler).await;
}

const TEXT: &str = "text/plain; charset=utf-8";

fn answer<B>(request: &Request<B>, readiness: &Readiness, metrics: &Metrics) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/livez" | "/readyz" | "/metrics") {
        return response(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = response(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "method not allowed\n".to_owned(),
        );
        let allowed = HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(header::ALLOW, allowed);
        return refusal;
    }
    match path {
        "/livez" => response(StatusCode::OK, TEXT, "ok".to_owned()),
        "/readyz" => ready(readiness, is_verbose(request.uri().query())),
        _ => response(StatusCode::OK, telemetry::CONTENT_TYPE, metrics.encode()),
    }
}

fn is_verbose(query: Option<&str>) -> Detail {
    let parameters = query.unwrap_or_default().split('&');
    let mut names = parameters.map(|parameter| parameter.split('=').next().unwrap_or_default());
    if names.any(|name| name == "verbose") {
        Detail::EachCheck
    } else {
        Detail::Brief
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Brief,
    EachCheck,
}

/// In the words of the Kubernetes API server's health endpoints: a failure always lists each check.
fn ready(readiness: &Readiness, detail: Detail) -> Response<Full<Bytes>> {
    let checks = readiness.ask();
    let is_ready = checks.iter().all(|(_, result)| result.is_ok());
    if is_ready && detail == Detail::Brief {
        return response(StatusCode::OK, TEXT, "ok".to_owned());
    }
    let mut text = String::new();
    for (name, result) in checks {
        // Writing to a String does not fail.
        let _ = match result {
            Ok(()) => writeln!(text, "[+]{name} ok"),
            Err(why) => writeln!(text, "[-]{name} failed: {why}"),
        };
    }
    if is_ready {
        text.push_str("readyz check passed\n");
        response(StatusCode::OK, TEXT, text)
    } else {
        text.push_str("readyz check failed\n");
        response(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
    }
}

fn response(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt;

    use super::*;
    use crate::clock::{Clock, Timestamp};

    async fn ask(method: &str, target: &str, readiness: &Readiness) -> (u16, http::HeaderMap, String) {
        let metrics = Metrics::new(&Clock::from_fn(|| Timestamp::from_unix_millis(0)));
        let request = Request::builder().method(method).uri(target).body(()).unwrap();
        let (head, body) = answer(&request, readiness, &metrics).into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            head.status.as_u16(),
            head.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn readiness_follows_its_checks_and_says_which_failed() {
        let readiness = Readiness::new();
        let full = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&full);
        readiness.add("journal", || Ok(()));
        readiness.add("queue", move || {
            let full = shared.load(Ordering::Relaxed);
            if full {
                Err("2000000 pushes are pending".to_owned())
            } else {
                Ok(())
            }
        });
        let (status, _, text) = ask("GET", "/readyz", &readiness).await;
        assert_eq!((status, &*text), (200, "ok"));
        let (status, _, text) = ask("GET", "/readyz?verbose", &readiness).await;
        assert_eq!(
            (status, &*text),
            (200, "[+]journal ok\n[+]queue ok\nreadyz check passed\n")
        );
        full.store(true, Ordering::Relaxed);
        let (status, _, text) = ask("GET", "/readyz?verbose=1", &readiness).await;
        let expected = "[+]journal ok\n[-]queue failed: 2000000 pushes are pending\nreadyz check failed\n";
        assert_eq!((status, &*text), (503, expected));
        let (status, _, _) = ask("HEAD", "/livez", &readiness).await;
        assert_eq!(status, 200, "alive, ready or not");
    }

    #[tokio::test]
    async fn metrics_are_openmetrics() {
        let (status, headers, text) = ask("GET", "/metrics", &Readiness::new()).await;
        assert_eq!(status, 200);
        assert_eq!(
            headers[header::CONTENT_TYPE],
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn other_methods_and_paths_are_refused() {
        let (status, headers, _) = ask("POST", "/livez", &Readiness::new()).await;
        assert_eq!(
            (status, &headers[header::ALLOW]),
            (405, &HeaderValue::from_static("GET, HEAD"))
        );
        assert_eq!(ask("GET", "/", &Readiness::new()).await.0, 404);
        assert_eq!(ask("POST", "/livez/", &Readiness::new()).await.0, 404);
    }
}
