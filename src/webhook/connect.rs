//! From a URL to a connection: names resolved, TCP, TLS, all within one time limit.

use std::{
    error::Error as StdError,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Uri, uri::Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{sleep, timeout},
};
use tower_service::Service;

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// How long one address may take before the next is tried beside it: RFC 8305, section 5.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Why there is no connection. Cheap to clone; says nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// DNS.
    #[error("the name {host} can't be resolved: {reason}")]
    Resolve {
        /// The URL's host.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// TCP.
    #[error("{0}")]
    Tcp(String),
    /// TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// Not in time.
    #[error("no connection within {0:?}")]
    Late(Duration),
}

/// Why the roots of trust can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoots {
    /// Not PEM, or a certificate in it is broken.
    #[error("the CA file is not a list of PEM certificates: {0}")]
    Pem(String),
    /// PEM, but without any certificate.
    #[error("the CA file holds no certificate (-----BEGIN CERTIFICATE-----)")]
    Empty,
    /// The TLS library refused.
    #[error("TLS can't be set up: {0}")]
    Tls(String),
}

/// TLS by rustls with ring; trusts the web's authorities, and those of `extra_ca_pem`.
fn tls_config(extra_ca_pem: Option<&[u8]>) -> Result<ClientConfig, InvalidRoots> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(pem) = extra_ca_pem {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| InvalidRoots::Pem(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| InvalidRoots::Pem(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(InvalidRoots::Empty);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| InvalidRoots::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Opens connections for the client's pool.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    https: HttpsConnector<Tcp>,
    within: Duration,
}

impl Connector {
    /// A connector that takes at most `within` for names, TCP and TLS together.
    pub(super) fn new(within: Duration, extra_ca_pem: Option<&[u8]>) -> Result<Self, InvalidRoots> {
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(extra_ca_pem)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Tcp);
        Ok(Self { https, within })
    }
}

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, ConnectError>> + Send>>;

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = ConnectError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let within = self.within;
        let connecting = self.https.call(uri);
        Box::pin(async move {
            match timeout(within, connecting).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(match error.downcast::<ConnectError>() {
                    Ok(error) => *error,
                    Err(error) => ConnectError::Tls(tls_words(&*error)),
                }),
                Err(_) => Err(ConnectError::Late(within)),
            }
        })
    }
}

/// Resolves the host and opens a TCP connection.
#[derive(Clone, Copy, Debug)]
struct Tcp;

impl Service<Uri> for Tcp {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let addresses = addresses(&uri).await?;
            let tcp = |error: io::Error| ConnectError::Tcp(io_words(&error));
            let stream = first_to_connect(addresses).await.map_err(tcp)?;
            // A request is one write; waiting for more to come would only delay it.
            stream.set_nodelay(true).map_err(tcp)?;
            Ok(TokioIo::new(stream))
        })
    }
}

async fn addresses(uri: &Uri) -> Result<Vec<SocketAddr>, ConnectError> {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    });
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(ip) = literal.unwrap_or(host).parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let unresolved = |reason: &str| ConnectError::Resolve {
        host: host.to_owned(),
        reason: reason.to_owned(),
    };
    let found = lookup_host((host, port)).await.map_err(|error| {
        let text = error.to_string();
        unresolved(
            text.strip_prefix("failed to lookup address information: ")
                .unwrap_or(&text),
        )
    })?;
    let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
    if found.is_empty() {
        return Err(unresolved("it has no address"));
    }
    Ok(found)
}

/// Tries the addresses in the resolver's order; the next one begins when the last failed, or beside it
/// when it takes long. The first connection wins; when there is none, the first error tells why.
async fn first_to_connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut first_error = None;
    loop {
        running.extend(waiting.next().map(TcpStream::connect));
        tokio::select! {
            ended = running.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => _ = first_error.get_or_insert(error),
                None => return Err(first_error.unwrap_or_else(|| io::ErrorKind::NotFound.into())),
            },
            () = sleep(NEXT_ADDRESS_AFTER), if waiting.len() > 0 => {}
        }
    }
}

/// What an I/O error means to a person.
pub(super) fn io_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset by the receiver".into(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => "connection lost".into(),
        io::ErrorKind::UnexpectedEof => "the receiver closed the connection".into(),
        io::ErrorKind::HostUnreachable => "no route to the host".into(),
        io::ErrorKind::NetworkUnreachable => "no route to the network".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => error.to_string(),
    }
}

/// An error and what caused it, outermost first. An [`io::Error`] hides what it wraps from
/// [`StdError::source`], so that is unwrapped here.
pub(super) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}

fn tls_words(error: &(dyn StdError + 'static)) -> String {
    if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        return rustls_words(error);
    }
    match causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .last()
    {
        Some(error) => format!("{} during the handshake", io_words(error)),
        None => error.to_string(),
    }
}

fn rustls_words(error: &rustls::Error) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, PeerIncompatible};
    match error {
        InvalidCertificate(error) => certificate_words(error),
        InvalidMessage(_) => "the receiver doesn't speak TLS on this port".into(),
        AlertReceived(alert) => format!("the receiver refused the handshake ({alert:?})"),
        PeerIncompatible(_) => "the receiver offers no TLS 1.2 or 1.3 with a cipher known here".into(),
        other => other.to_string(),
    }
}

fn certificate_words(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => "certificate expired".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => "certificate not valid yet".into(),
        E::NotValidForName | E::NotValidForNameContext { .. } => "certificate is for another name".into(),
        E::UnknownIssuer => "certificate signed by an unknown authority".into(),
        E::Revoked => "certificate revoked".into(),
        other => format!("certificate not accepted: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_living_one() {
        let living = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = {
            let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        };
        let stream = first_to_connect(vec![dead, living.local_addr().unwrap()])
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), living.local_addr().unwrap());
        let error = first_to_connect(vec![dead, dead]).await.unwrap_err();
        assert_eq!(io_words(&error), "connection refused");
        assert!(first_to_connect(Vec::new()).await.is_err());
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        assert!(matches!(tls_config(Some(b"")), Err(InvalidRoots::Empty)));
        let broken = b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(tls_config(Some(broken)), Err(InvalidRoots::Pem(_))));
    }
}
