//! From a URL to a connection: names resolved, TCP, a proxy's tunnel, TLS, all within one time limit.

use std::{
    error::Error as StdError,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use rustls::ClientConfig;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, sleep, timeout, timeout_at},
};
use tower_service::Service;

use super::{
    guard::{Author, Guard, Refusal},
    proxy::{Kind, Proxy},
    target::port,
    tls::tls_words,
    tunnel::{self, ProxyFailure, Step},
};

mod stream;
mod words;

pub(super) use stream::{Answered, Open, Stream};
pub(super) use words::io_words;
use words::ours;
pub(crate) use words::resolver_words;

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Names and a proxy's steps have all the time there is but for this part of it.
const STEPS_LESS: u32 = 50;

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
    /// This process has nothing left to connect with: what the system said.
    #[error("this machine can open no connection: {0}")]
    Ours(String),
    /// The proxy, before the endpoint was reached.
    #[error("the proxy {proxy} {failure}")]
    Proxy {
        /// Scheme, host and port.
        proxy: String,
        /// What it fell short of.
        failure: ProxyFailure,
    },
    /// TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// Not in time.
    #[error("no connection within {0:?}")]
    Late(Duration),
}

/// Opens connections for one pool.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    https: HttpsConnector<Tcp>,
    within: Duration,
}

impl Connector {
    /// A connector that takes at most `within` for names, TCP, tunnels and TLS together, goes where `gate` allows,
    /// and through `proxy` if there is one. Its connections are counted among those that are `open`.
    pub(super) fn new(
        within: Duration,
        tls: ClientConfig,
        gate: Gate,
        proxy: Option<Proxy>,
        open: Open,
    ) -> Self {
        let tcp = Tcp {
            gate,
            proxy,
            within,
            open,
        };
        Self {
            https: HttpsConnector::from((tcp, tls)),
            within,
        }
    }
}

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, ConnectError>> + Send>>;

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Stream>;
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

/// The most names that are looked up at once. Each takes a thread until the machine's resolver gives up, however soon
/// its attempt does; and some of those that may block are to be left for the disk.
pub const LOOKUPS_MAX: usize = 1_024;

static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// The address that a host is itself; in a URL, one of version 6 has brackets.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

/// Asks the machine's resolver.
pub(crate) fn lookup(
    host: String,
    port: u16,
) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
    Box::pin(async move {
        if let Some(ip) = literal(&host) {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
        let look_up = move || {
            let found = (host.as_str(), port).to_socket_addrs();
            // Not before: when the attempt's time is up, the thread goes on.
            drop(permit);
            Ok(found?.take(ADDRESSES_MAX).collect())
        };
        spawn_blocking(look_up).await.map_err(io::Error::other)?
    })
}

/// Resolves the host and opens a TCP connection to it, or has a proxy do so.
#[derive(Clone, Debug)]
struct Tcp {
    gate: Gate,
    proxy: Option<Proxy>,
    /// How long each of a proxy's steps may last, all of them together.
    within: Duration,
    open: Open,
}

impl Service<Uri> for Tcp {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self {
            gate,
            proxy,
            within,
            open,
        } = self.clone();
        // A little less than there is in all: who is cut off at the end of that can't tell which step hung.
        let deadline = Instant::now() + within - within / STEPS_LESS;
        Box::pin(async move {
            let (tcp, is_forwarded) = match proxy {
                None => (gate.connect(&uri, gate.author, deadline).await?, false),
                Some(proxy) => gate.connect_through(&proxy, &uri, deadline).await?,
            };
            Ok(Stream::new(tcp, is_forwarded, &open))
        })
    }
}

impl Gate {
    /// A TCP connection to the host itself. Names have until `deadline`, so that it is said what hangs.
    async fn connect(&self, uri: &Uri, author: Author, deadline: Instant) -> Result<TcpStream, ConnectError> {
        let addresses = self.addresses(uri, author, deadline).await?;
        let tcp = |error: io::Error| ours(&error).unwrap_or_else(|| ConnectError::Tcp(io_words(&error)));
        let stream = first_to_connect(addresses).await.map_err(tcp)?;
        let (local, peer) = (
            stream.local_addr().map_err(tcp)?,
            stream.peer_addr().map_err(tcp)?,
        );
        self.guard
            .check_connection(local, peer)
            .map_err(ConnectError::Refused)?;
        // A request is one write; waiting for more to come would only delay it.
        stream.set_nodelay(true).map_err(tcp)?;
        Ok(stream)
    }

    /// A connection by way of a proxy. An address in the URL is judged as ever; a name is the proxy's to resolve,
    /// and so to guard. The proxy itself is the operator's, wherever the URL is from.
    async fn connect_through(
        &self,
        proxy: &Proxy,
        uri: &Uri,
        deadline: Instant,
    ) -> Result<(TcpStream, bool), ConnectError> {
        let target = (uri.host().unwrap_or_default(), port(uri));
        self.guard
            .check_host(target.0, target.1, self.author)
            .map_err(ConnectError::Refused)?;
        let failed = |failure| ConnectError::Proxy {
            proxy: proxy.to_string(),
            failure,
        };
        let late = |step| move |_| failed(ProxyFailure::Late(step));
        let mut stream = timeout_at(deadline, self.connect(proxy.uri(), Author::Operator, deadline))
            .await
            .map_err(late(Step::Connecting))?
            .map_err(|error| match error {
                ours @ ConnectError::Ours(_) => ours,
                error => failed(ProxyFailure::Unreachable(error.to_string())),
            })?;
        let is_forwarded = proxy.forwards(uri);
        match proxy.kind() {
            Kind::Http if is_forwarded => {}
            Kind::Http => timeout_at(deadline, tunnel::connect(&mut stream, proxy, target))
                .await
                .map_err(late(Step::Connect))?
                .map_err(failed)?,
            Kind::Socks5 => {
                timeout_at(deadline, tunnel::socks_greet(&mut stream, proxy))
                    .await
                    .map_err(late(Step::Greeting))?
                    .map_err(failed)?;
                timeout_at(deadline, tunnel::socks_request(&mut stream, target))
                    .await
                    .map_err(late(Step::Request))?
                    .map_err(failed)?;
            }
        }
        Ok((stream, is_forwarded))
    }

    /// The host's addresses, all of which may be connected to.
    async fn addresses(
        &self,
        uri: &Uri,
        author: Author,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, ConnectError> {
        let (host, port) = (uri.host().unwrap_or_default(), port(uri));
        let found = match literal(host) {
            Some(ip) => vec![SocketAddr::new(ip, port)],
            None => timeout_at(deadline, self.resolve(host, port))
                .await
                .map_err(|_| unresolved(host, "no answer came in time"))??,
        };
        self.guard
            .check_addresses(host, &found, author)
            .map_err(ConnectError::Refused)?;
        Ok(found)
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let found = (self.lookup)(host.to_owned(), port).await;
        if let Some(ours) = found.as_ref().err().and_then(ours) {
            return Err(ours);
        }
        match resolver_words(&found) {
            Some(reason) => Err(unresolved(host, &reason)),
            None => Ok(found.unwrap_or_default()),
        }
    }
}

fn unresolved(host: &str, reason: &str) -> ConnectError {
    ConnectError::Resolve {
        host: host.to_owned(),
        reason: reason.to_owned(),
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

    #[tokio::test]
    async fn an_address_is_its_own_name_as_a_url_writes_it_too() {
        for host in ["2606:4700::1111", "[2606:4700::1111]"] {
            let found = lookup(host.to_owned(), 443).await.unwrap();
            assert_eq!(found, ["[2606:4700::1111]:443".parse().unwrap()], "{host}");
        }
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
        let soon = Instant::now() + Duration::from_secs(5);
        assert!(gate.addresses(&uri, Author::User, soon).await.is_ok());
        let refused = gate.addresses(&uri, Author::User, soon).await.unwrap_err();
        assert!(matches!(&refused, ConnectError::Refused(_)), "{refused}");
        assert!(
            refused
                .to_string()
                .starts_with("refused: rebinding.example resolves to 127.0.0.1")
        );
    }

    #[tokio::test]
    async fn a_name_that_could_not_be_looked_up_for_want_of_open_files_is_not_the_endpoints_fault() {
        let gate = gate(Author::User, |_, _| {
            Box::pin(async { Err(io::Error::from(rustix::io::Errno::MFILE)) })
        });
        let uri = Uri::from_static("http://ci.example/");
        let soon = Instant::now() + Duration::from_secs(5);
        let error = gate.addresses(&uri, Author::User, soon).await.unwrap_err();
        assert!(matches!(error, ConnectError::Ours(_)), "{error}");
    }

    #[tokio::test]
    async fn users_urls_reach_no_socket_of_this_machine_and_the_operators_do() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let uri: Uri = format!("http://{address}/").parse().unwrap();
        let tcp = |gate| Tcp {
            gate,
            proxy: None,
            within: Duration::from_secs(5),
            open: Open::default(),
        };
        let mut users = tcp(gate(Author::User, lookup));
        let refused = users.call(uri.clone()).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Refused(_)), "{refused}");
        let mut operators = tcp(gate(Author::Operator, lookup));
        assert!(operators.call(uri.clone()).await.is_ok());
        let mut own = tcp(Gate {
            guard: Guard::new(Vec::new(), vec![address]),
            ..gate(Author::Operator, lookup)
        });
        let refused = own.call(uri).await.unwrap_err();
        assert!(
            refused.to_string().contains("shipbell's own listener"),
            "{refused}"
        );
    }
}
