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
use http::Uri;
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

use super::{
    guard::{Author, Guard, Refusal},
    target::port,
};

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
    /// The URL points where webhooks may not go.
    #[error("refused: {0}")]
    Refused(Refusal),
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
    /// A connector that takes at most `within` for names, TCP and TLS together, and goes where `gate` allows.
    pub(super) fn new(
        within: Duration,
        extra_ca_pem: Option<&[u8]>,
        gate: Gate,
    ) -> Result<Self, InvalidRoots> {
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(extra_ca_pem)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Tcp(gate));
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

/// What a connection has to pass.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    pub(super) guard: Guard,
    /// Whose URLs are connected to.
    pub(super) author: Author,
    pub(super) lookup: Lookup,
}

/// Resolves a name: the machine's resolver, unless a test has its own.
pub(super) type Lookup = fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Asks the machine's resolver.
pub(crate) fn lookup(
    host: String,
    port: u16,
) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
    Box::pin(async move { Ok(lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect()) })
}

/// Resolves the host and opens a TCP connection.
#[derive(Clone, Debug)]
struct Tcp(Gate);

impl Service<Uri> for Tcp {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let gate = self.0.clone();
        Box::pin(async move {
            let addresses = gate.addresses(&uri).await?;
            let tcp = |error: io::Error| ConnectError::Tcp(io_words(&error));
            let stream = first_to_connect(addresses).await.map_err(tcp)?;
            let (local, peer) = (
                stream.local_addr().map_err(tcp)?,
                stream.peer_addr().map_err(tcp)?,
            );
            gate.guard
                .check_connection(local, peer)
                .map_err(ConnectError::Refused)?;
            // A request is one write; waiting for more to come would only delay it.
            stream.set_nodelay(true).map_err(tcp)?;
            Ok(TokioIo::new(stream))
        })
    }
}

impl Gate {
    /// The host's addresses, all of which may be connected to.
    async fn addresses(&self, uri: &Uri) -> Result<Vec<SocketAddr>, ConnectError> {
        let (host, port) = (uri.host().unwrap_or_default(), port(uri));
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let found = match literal.unwrap_or(host).parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => self.resolve(host, port).await?,
        };
        self.guard
            .check_addresses(host, &found, self.author)
            .map_err(ConnectError::Refused)?;
        Ok(found)
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let unresolved = |reason: &str| ConnectError::Resolve {
            host: host.to_owned(),
            reason: reason.to_owned(),
        };
        let found = (self.lookup)(host.to_owned(), port).await.map_err(|error| {
            let text = error.to_string();
            unresolved(
                text.strip_prefix("failed to lookup address information: ")
                    .unwrap_or(&text),
            )
        })?;
        if found.is_empty() {
            return Err(unresolved("it has no address"));
        }
        Ok(found)
    }
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
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering},
    };

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

    fn gate(author: Author, lookup: Lookup) -> Gate {
        Gate {
            guard: Guard::default(),
            author,
            lookup,
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_at_every_connect_by_what_it_means_then() {
        /// First a public address, then this machine: what rebinding does.
        fn rebinding(
            _: String,
            port: u16,
        ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
            static ASKED: AtomicUsize = AtomicUsize::new(0);
            let ip = match ASKED.fetch_add(1, Ordering::Relaxed) {
                0 => Ipv4Addr::new(93, 184, 216, 34),
                _ => Ipv4Addr::LOCALHOST,
            };
            Box::pin(async move { Ok(vec![SocketAddr::new(ip.into(), port)]) })
        }
        let uri = Uri::from_static("http://rebinding.example/");
        let gate = gate(Author::User, rebinding);
        assert!(gate.addresses(&uri).await.is_ok());
        let refused = gate.addresses(&uri).await.unwrap_err();
        assert!(matches!(&refused, ConnectError::Refused(_)), "{refused}");
        assert!(
            refused
                .to_string()
                .starts_with("refused: rebinding.example resolves to 127.0.0.1")
        );
    }

    #[tokio::test]
    async fn users_urls_reach_no_socket_of_this_machine_and_the_operators_do() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let uri: Uri = format!("http://{address}/").parse().unwrap();
        let refused = Tcp(gate(Author::User, lookup))
            .call(uri.clone())
            .await
            .unwrap_err();
        assert!(matches!(refused, ConnectError::Refused(_)), "{refused}");
        assert!(
            Tcp(gate(Author::Operator, lookup))
                .call(uri.clone())
                .await
                .is_ok()
        );
        let own = Gate {
            guard: Guard::new(Vec::new(), vec![address]),
            ..gate(Author::Operator, lookup)
        };
        let refused = Tcp(own).call(uri).await.unwrap_err();
        assert!(
            refused.to_string().contains("shipbell's own listener"),
            "{refused}"
        );
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        assert!(matches!(tls_config(Some(b"")), Err(InvalidRoots::Empty)));
        let broken = b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(tls_config(Some(broken)), Err(InvalidRoots::Pem(_))));
    }
}
