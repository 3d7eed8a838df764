//! The registry's API, read only: manifests by digest and by tag, tags, blob sizes.
//!
//! Every answer has a bound in bytes and in time, every manifest is verified against its digest, and at
//! most [`Options::concurrency`] requests are under way at once, with a [share](shares) for each repository.
//! Redirects are not followed, but for one: a blob's `HEAD` may lead to the storage behind the registry, once and
//! without credentials. Proxies are never taken from the environment.
//!
//! Sources: the OCI distribution spec, and CNCF Distribution 2.8 to 3.1 where it differs.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use url::Url;

use crate::{
    image::{Digest, RepositoryName, Tag},
    secret::Secret,
    telemetry::{Metrics, labels::RegistryResult},
};

mod absent;
mod auth;
mod challenge;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod manifest;
mod shares;
mod tags;
#[cfg(test)]
mod tests;

use shares::Shares;

pub use error::{Disposition, RegistryError};
pub use manifest::{Child, DESCRIPTOR_SIZE_MAX, Descriptor, Manifest, RawManifest, SCHEMA1_LAYER};

/// The largest manifest that Distribution takes, and so the largest we read, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How much of an answer that only tells an error is read, in bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// What a manifest may be. Without all of these a registry turns an index into one platform's manifest, or
/// answers 404.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v1+prettyjws, \
                      application/vnd.docker.distribution.manifest.v1+json";

/// Which registry, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it is: scheme, host, port and, where it doesn't live at the root, a path.
    pub url: Url,
    /// The user; empty for an anonymous one.
    pub username: String,
    /// The user's password.
    pub password: Option<Secret>,
    /// Certificates (PEM) that are trusted besides the public ones.
    pub ca_pem: Option<Vec<u8>>,
    /// How long one request may take, its answer's last byte included.
    pub timeout: Duration,
    /// How many requests may be under way at once; at least 1.
    pub concurrency: usize,
    /// Where requests are counted.
    pub metrics: Option<Metrics>,
}

/// Why a client can't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The URL is not one a registry can have.
    #[error("the registry's URL {0}")]
    Url(&'static str),
    /// The certificates can't be used.
    #[error("the registry's CA certificates can't be used: {0}")]
    Certificates(String),
    /// TLS or the HTTP client can't be set up.
    #[error("the registry's HTTP client can't be set up: {0}")]
    Http(String),
}

/// Talks to one registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    /// Ends with a slash.
    base: Url,
    auth: auth::Auth,
    timeout: Duration,
    concurrency: usize,
    shares: Shares,
    /// Whether it said that pages of tags as large as ours are too large.
    refuses_page_size: AtomicBool,
    metrics: Option<Metrics>,
}

impl Client {
    /// A client for the registry that `options` names. Nothing is sent yet.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn new(options: Options) -> Result<Self, BuildError> {
        let base = base_url(options.url)?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("shipbell/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls(options.ca_pem.as_deref())?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .timeout(options.timeout)
            .connect_timeout(options.timeout)
            .pool_max_idle_per_host(options.concurrency)
            .build()
            .map_err(|error| BuildError::Http(error.to_string()))?;
        let concurrency = options.concurrency.max(1);
        Ok(Self(Arc::new(Inner {
            auth: auth::Auth::new(http.clone(), options.timeout, options.username, options.password),
            http,
            base,
            timeout: options.timeout,
            concurrency,
            shares: Shares::new(concurrency, options.timeout),
            refuses_page_size: AtomicBool::new(false),
            metrics: options.metrics,
        })))
    }

    /// How many requests may be under way at once.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.0.concurrency
    }

    /// The manifest `digest` of `repository`, verified.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<RawManifest, RegistryError> {
        self.get_manifest(repository, &digest.to_string(), Some(digest))
            .await
    }

    /// The manifest that `tag` names now, and so the tag's digest. One `GET`: asking with `HEAD` first
    /// would save the body of a manifest already known, and double the requests for all others.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn manifest_by_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<RawManifest, RegistryError> {
        self.get_manifest(repository, tag.as_str(), None).await
    }

    /// Whether `repository` has the manifest `digest`.
    ///
    /// # Errors
    /// See [`RegistryError`]; that it doesn't is none.
    pub async fn has_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let url = self.url(repository, &format!("manifests/{digest}"))?;
        let asked = self.send(Method::HEAD, url, repository);
        let response = self.0.shares.have(repository, asked).await?;
        let answer = match response.status() {
            // It has no words to tell whose it is.
            StatusCode::NOT_FOUND => self.manifest(repository, digest).await.map(drop),
            _ => self.successful(response).await.map(drop),
        };
        match answer {
            Ok(()) => Ok(true),
            Err(RegistryError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How many bytes the blob `digest` of `repository` has, as stored.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob_size(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, RegistryError> {
        let asked = Box::pin(async {
            let url = self.url(repository, &format!("blobs/{digest}"))?;
            let mut response = self.send(Method::HEAD, url.clone(), repository).await?;
            if response.status().is_redirection() {
                let storage = header_text(response.headers(), header::LOCATION)
                    .and_then(|location| url.join(location).ok())
                    .filter(|location| matches!(location.scheme(), "http" | "https"))
                    .ok_or_else(|| RegistryError::Malformed("a redirect leads nowhere".to_owned()))?;
                response = Box::pin(self.send_once(Method::HEAD, storage, None)).await?;
                if response.status() == StatusCode::NOT_FOUND {
                    // The registry does have it: what its storage says of a signed URL is another matter.
                    return Err(RegistryError::Malformed("a redirect leads to nothing".to_owned()));
                }
            }
            if response.status() == StatusCode::NOT_FOUND {
                // It has no words to tell whose it is; of what is there after all, no more than the head is read.
                response = self.send(Method::GET, url, repository).await?;
            }
            let response = self.successful(response).await?;
            header_text(response.headers(), header::CONTENT_LENGTH)
                .and_then(|length| length.parse().ok())
                .filter(|length| *length <= DESCRIPTOR_SIZE_MAX)
                .ok_or_else(|| RegistryError::Malformed("a blob's answer has no Content-Length".to_owned()))
        });
        self.0.shares.have(repository, asked).await
    }

    /// Asks whether the registry is there and lets us read `repository`; fails after `timeout`.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn probe(&self, repository: &RepositoryName, timeout: Duration) -> Result<(), RegistryError> {
        let asked = async {
            let url = self.join("v2/")?;
            let response = self.send(Method::GET, url, repository).await?;
            self.successful(response).await.map(drop)
        };
        tokio::time::timeout(timeout, asked)
            .await
            .unwrap_or(Err(RegistryError::Timeout(timeout)))
    }

    async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &str,
        expected: Option<&Digest>,
    ) -> Result<RawManifest, RegistryError> {
        let asked = Box::pin(async {
            let url = self.url(repository, &format!("manifests/{reference}"))?;
            let response = self.send(Method::GET, url, repository).await?;
            let response = self.successful(response).await?;
            let content_type = header_text(response.headers(), header::CONTENT_TYPE).map(str::to_owned);
            let stated =
                header_text(response.headers(), "docker-content-digest").and_then(|text| text.parse().ok());
            let body = read_capped(response, MANIFEST_BYTES_MAX, self.0.timeout).await?;
            RawManifest::verified(body, content_type.as_deref(), expected.or(stated.as_ref()))
        });
        self.0.shares.have(repository, asked).await
    }

    fn join(&self, path: &str) -> Result<Url, RegistryError> {
        self.0
            .base
            .join(path)
            .map_err(|error| RegistryError::Malformed(error.to_string()))
    }

    /// Neither names nor digests hold anything that a path would have to escape.
    fn url(&self, repository: &RepositoryName, rest: &str) -> Result<Url, RegistryError> {
        self.join(&format!("v2/{repository}/{rest}"))
    }

    /// Sends a request to the registry, with what it asks for to let us in. A 401 is answered once.
    ///
    /// Boxed, since a request under way is large, and thousands may wait for a place at once.
    fn send<'a>(
        &'a self,
        method: Method,
        url: Url,
        repository: &'a RepositoryName,
    ) -> BoxFuture<'a, Result<reqwest::Response, RegistryError>> {
        Box::pin(async move {
            let auth = &self.0.auth;
            let auth::Known {
                authorization: first,
                doubt,
            } = auth.known(repository).await?;
            let response = self.send_once(method.clone(), url.clone(), first.clone()).await?;
            let scheme = match doubt {
                _ if response.status() == StatusCode::UNAUTHORIZED => auth.challenged(response.headers())?,
                None => return Ok(response),
                Some((realm, _)) if response.status().is_success() => {
                    auth.let_in(&realm);
                    return Ok(response);
                }
                // What a stranger is told says nothing of what is there.
                Some((_, Some(error))) => return Err(error),
                Some((realm, None)) => auth::Scheme::Bearer(realm),
            };
            let second = auth.wanted(scheme, repository, first.as_ref()).await?;
            if first.as_ref() == Some(&second) {
                return Err(RegistryError::Unauthorized(
                    "it refuses the credentials".to_owned(),
                ));
            }
            let response = self.send_once(method, url, Some(second)).await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                return Err(RegistryError::Unauthorized(
                    "it refuses the credentials".to_owned(),
                ));
            }
            Ok(response)
        })
    }

    async fn send_once(
        &self,
        method: Method,
        url: Url,
        authorization: Option<http::HeaderValue>,
    ) -> Result<reqwest::Response, RegistryError> {
        let mut request = self.0.http.request(method, url).header(header::ACCEPT, ACCEPT);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answer = request.send().await;
        if let Some(metrics) = &self.0.metrics {
            metrics.registry_request(result_of(&answer));
        }
        answer.map_err(|error| RegistryError::from_transport(error, self.0.timeout))
    }

    async fn successful(&self, response: reqwest::Response) -> Result<reqwest::Response, RegistryError> {
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => {
                absent::said(response, self.0.timeout).await?;
                Err(RegistryError::NotFound)
            }
            status => Err(RegistryError::from_status(
                status,
                retry_after(response.headers()),
            )),
        }
    }
}

/// What metrics call it.
fn result_of(answer: &Result<reqwest::Response, reqwest::Error>) -> RegistryResult {
    match answer {
        Ok(response) => match response.status() {
            status if status.is_success() || status.is_redirection() => RegistryResult::Ok,
            StatusCode::NOT_FOUND => RegistryResult::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryResult::Denied,
            StatusCode::TOO_MANY_REQUESTS => RegistryResult::Limited,
            _ => RegistryResult::Status,
        },
        Err(error) if error.is_timeout() => RegistryResult::Timeout,
        Err(_) => RegistryResult::Connect,
    }
}

/// Reads an answer's body, and no more of it than `bytes_max`.
async fn read_capped(
    mut response: reqwest::Response,
    bytes_max: usize,
    timeout: Duration,
) -> Result<Bytes, RegistryError> {
    let too_large = RegistryError::TooLarge { bytes_max };
    let stated = response.content_length().unwrap_or(0);
    let stated = usize::try_from(stated).unwrap_or(usize::MAX);
    if stated > bytes_max {
        return Err(too_large);
    }
    let mut body = BytesMut::with_capacity(stated);
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| RegistryError::from_transport(error, timeout))?
    {
        if body.len() + chunk.len() > bytes_max {
            return Err(too_large);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn header_text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `Retry-After` in seconds; registries don't send the form with a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = header_text(headers, header::RETRY_AFTER)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn base_url(mut url: Url) -> Result<Url, BuildError> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(BuildError::Url("is neither http nor https with a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BuildError::Url(
            "has user information: a user name and a password are settings of their own",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(BuildError::Url("has a query or a fragment"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn tls(ca_pem: Option<&[u8]>) -> Result<rustls::ClientConfig, BuildError> {
    let mut listed = Vec::new();
    if let Some(pem) = ca_pem {
        listed = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| BuildError::Certificates(error.to_string()))?;
        if listed.is_empty() {
            return Err(BuildError::Certificates("there are none in the file".to_owned()));
        }
    }
    let config = crate::trust::client(listed).map_err(|error| BuildError::Certificates(error.to_string()))?;
    Ok(config.with_no_client_auth())
}
