//! A registry in memory, for tests: it keeps what it is given, counts what it is asked, and can be told to
//! misbehave.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{Client, Options};
use crate::image::{Digest, MediaType, RepositoryName};

pub(crate) type Answer = Response<Full<Bytes>>;
type Hook = Box<dyn Fn(&Asked) -> Option<Answer> + Send>;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
}

impl Asked {
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.headers.get(header::AUTHORIZATION)?.to_str().ok()
    }

    pub(crate) fn line(&self) -> String {
        match self.query.as_str() {
            "" => format!("{} {}", self.method, self.path),
            query => format!("{} {}?{query}", self.method, self.path),
        }
    }
}

/// How the next page of tags is named.
#[derive(Clone, Debug, Default)]
pub(crate) enum Links {
    #[default]
    Relative,
    Absolute,
    At(String),
}

#[derive(Default)]
struct Contents {
    manifests: HashMap<(String, String), (String, Bytes)>,
    tags: BTreeMap<(String, String), String>,
    blobs: HashMap<(String, String), usize>,
    asked: Vec<Asked>,
    page_tags: Option<usize>,
    links: Links,
    hook: Option<Hook>,
    silent: bool,
    hanging: Option<String>,
    path: String,
}

/// The registry; it goes when this does.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    contents: Arc<Mutex<Contents>>,
    _tasks: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let contents = Arc::<Mutex<Contents>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, address, Arc::clone(&contents)));
        Self {
            address,
            contents,
            _tasks: tasks,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            url: self.url().parse().unwrap(),
            username: String::new(),
            password: None,
            ca_pem: None,
            timeout: Duration::from_secs(10),
            concurrency: 8,
            metrics: None,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.options()).unwrap()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap()
    }

    /// Every request goes by `hook` first, which may answer it.
    pub(crate) fn hook(&self, hook: impl Fn(&Asked) -> Option<Answer> + Send + 'static) {
        self.contents().hook = Some(Box::new(hook));
    }

    /// From now on requests for that repository are taken and never answered.
    pub(crate) fn hang_for(&self, repository: &RepositoryName) {
        self.contents().hanging = Some(format!("/v2/{repository}/"));
    }

    /// The same for what begins with that path; nothing hangs any more when it is empty.
    pub(crate) fn hang_at(&self, path: &str) {
        self.contents().hanging = Some(path.to_owned()).filter(|path| !path.is_empty());
    }

    /// From now on requests are taken and never answered, or answered again.
    pub(crate) fn silent(&self, silent: bool) {
        self.contents().silent = silent;
    }

    /// From now on it is at that path, and doesn't know it.
    pub(crate) fn is_at(&self, path: &str) {
        self.contents().path = path.to_owned();
    }

    pub(crate) fn pages(&self, page_tags: usize, links: Links) {
        let mut contents = self.contents();
        contents.page_tags = Some(page_tags);
        contents.links = links;
    }

    pub(crate) fn put_raw(
        &self,
        repository: &RepositoryName,
        content_type: &str,
        digest: &Digest,
        body: Bytes,
    ) {
        self.contents().manifests.insert(
            (repository.to_string(), digest.to_string()),
            (content_type.to_owned(), body),
        );
    }

    pub(crate) fn put(&self, repository: &RepositoryName, manifest: &Made) {
        let body = Bytes::from(manifest.body.clone());
        self.put_raw(repository, manifest.media_type.as_str(), &manifest.digest, body);
    }

    pub(crate) fn tag(&self, repository: &RepositoryName, tag: &str, digest: &Digest) {
        self.contents()
            .tags
            .insert((repository.to_string(), tag.to_owned()), digest.to_string());
    }

    pub(crate) fn untag(&self, repository: &RepositoryName, tag: &str) {
        self.contents()
            .tags
            .remove(&(repository.to_string(), tag.to_owned()));
    }

    pub(crate) fn remove(&self, repository: &RepositoryName, digest: &Digest) {
        self.contents()
            .manifests
            .remove(&(repository.to_string(), digest.to_string()));
    }

    pub(crate) fn blob(&self, repository: &RepositoryName, digest: &Digest, size: usize) {
        self.contents()
            .blobs
            .insert((repository.to_string(), digest.to_string()), size);
    }

    /// What was asked so far, and forgets it.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.contents().asked)
    }

    pub(crate) fn calls(&self) -> usize {
        self.contents().asked.len()
    }
}

async fn accept(listener: TcpListener, address: SocketAddr, contents: Arc<Mutex<Contents>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let contents = Arc::clone(&contents);
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let contents = Arc::clone(&contents);
                async move {
                    let answer = answer(address, &contents, &request);
                    match answer {
                        Some(answer) => Ok::<_, Infallible>(answer),
                        None => std::future::pending().await,
                    }
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(address: SocketAddr, contents: &Mutex<Contents>, request: &Request<Incoming>) -> Option<Answer> {
    let mut contents = contents.lock().unwrap();
    let asked = Asked {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        headers: request.headers().clone(),
    };
    contents.asked.push(asked.clone());
    let hanging = contents.hanging.as_deref();
    if contents.silent || hanging.is_some_and(|hanging| asked.path.starts_with(hanging)) {
        return None;
    }
    let hooked = contents.hook.as_ref().and_then(|hook| hook(&asked));
    Some(hooked.unwrap_or_else(|| contents.serve(address, &asked)))
}

pub(crate) fn respond(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        let name: header::HeaderName = name.parse().unwrap();
        answer.headers_mut().append(name, value.parse().unwrap());
    }
    answer
}

fn unknown(code: &str) -> Answer {
    respond(404, &[], json!({"errors": [{"code": code}]}).to_string())
}

impl Contents {
    fn serve(&self, address: SocketAddr, asked: &Asked) -> Answer {
        let inside = asked.path.strip_prefix(&self.path);
        let Some(path) = inside.and_then(|path| path.strip_prefix("/v2/")) else {
            return respond(404, &[], "");
        };
        if path.is_empty() {
            return respond(200, &[], "{}");
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            return self.tag_page(address, repository, &asked.query);
        }
        if let Some((repository, reference)) = path.split_once("/manifests/") {
            let digest = match self.tags.get(&(repository.to_owned(), reference.to_owned())) {
                Some(digest) => digest.clone(),
                None => reference.to_owned(),
            };
            return match self.manifests.get(&(repository.to_owned(), digest.clone())) {
                Some((content_type, body)) => respond(
                    200,
                    &[("content-type", content_type), ("docker-content-digest", &digest)],
                    body.clone(),
                ),
                None => unknown("MANIFEST_UNKNOWN"),
            };
        }
        if let Some((repository, digest)) = path.split_once("/blobs/") {
            return match self.blobs.get(&(repository.to_owned(), digest.to_owned())) {
                Some(size) => respond(200, &[], vec![b'x'; *size]),
                None => unknown("BLOB_UNKNOWN"),
            };
        }
        respond(404, &[], "")
    }

    fn tag_page(&self, address: SocketAddr, repository: &str, query: &str) -> Answer {
        let mut tags: Vec<&str> = self
            .tags
            .keys()
            .filter(|(name, _)| name == repository)
            .map(|(_, tag)| tag.as_str())
            .collect();
        if tags.is_empty() {
            return unknown("NAME_UNKNOWN");
        }
        if let Some(last) = query.split('&').find_map(|pair| pair.strip_prefix("last=")) {
            tags.retain(|tag| *tag > last);
        }
        let mut headers = Vec::new();
        if let Some(page_tags) = self.page_tags
            && tags.len() > page_tags
        {
            tags.truncate(page_tags);
            let path = format!("/v2/{repository}/tags/list?last={}", tags.last().unwrap());
            let url = match &self.links {
                Links::Relative => path,
                Links::Absolute => format!("http://{address}{path}"),
                Links::At(origin) => format!("{origin}{path}"),
            };
            headers.push(("link", format!("<{url}>; rel=\"next\"")));
        }
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        respond(
            200,
            &headers,
            json!({"name": repository, "tags": tags}).to_string(),
        )
    }
}

/// A manifest made for a test.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) media_type: MediaType,
    pub(crate) digest: Digest,
    pub(crate) body: String,
}

impl Made {
    pub(crate) fn new(media_type: MediaType, body: String) -> Self {
        Self {
            media_type,
            digest: Digest::sha256(body.as_bytes()),
            body,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.body.len() as u64
    }

    /// An OCI image of a config and gzipped layers, each given as its name and its size.
    pub(crate) fn image(config: (&str, u64), layers: &[(&str, u64)]) -> Self {
        let layers: Vec<_> = layers
            .iter()
            .map(|(name, size)| blob("application/vnd.oci.image.layer.v1.tar+gzip", name, *size))
            .collect();
        Self::image_of(config, &layers)
    }

    pub(crate) fn image_of(config: (&str, u64), layers: &[Value]) -> Self {
        let config = blob("application/vnd.oci.image.config.v1+json", config.0, config.1);
        let body = json!({"schemaVersion": 2, "config": config, "layers": layers});
        Self::new(MediaType::OciManifest, body.to_string())
    }

    /// An OCI index of `children`, each with its platform's operating system.
    pub(crate) fn index(children: &[(&Self, &str)]) -> Self {
        let manifests: Vec<_> = children
            .iter()
            .map(|(child, os)| {
                json!({
                    "mediaType": child.media_type.as_str(), "digest": child.digest.to_string(),
                    "size": child.bytes(), "platform": {"os": os, "architecture": os},
                })
            })
            .collect();
        let body = json!({"schemaVersion": 2, "manifests": manifests});
        Self::new(MediaType::OciIndex, body.to_string())
    }
}

/// The digest of the blob that a test calls `name`.
pub(crate) fn digest_of(name: &str) -> Digest {
    Digest::sha256(name.as_bytes())
}

pub(crate) fn blob(media_type: &str, name: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest_of(name).to_string(), "size": size})
}

/// The JWS form of a schema 1 manifest, as Distribution's libtrust writes it, its signature made up.
pub(crate) fn signed(payload: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let head = payload.trim_end().strip_suffix('}').unwrap().trim_end();
    let tail = URL_SAFE_NO_PAD.encode(payload.strip_prefix(head).unwrap());
    let protected = json!({"formatLength": head.len(), "formatTail": tail, "time": "2026-01-01T00:00:00Z"});
    let signature = json!([{
        "header": {"alg": "ES256"}, "signature": "eA",
        "protected": URL_SAFE_NO_PAD.encode(protected.to_string()),
    }]);
    format!("{head},\"signatures\":{signature}}}")
}
