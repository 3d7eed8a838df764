//! The accept loop under every listener: HTTP/1.1, with a bound and a deadline on everything.
//!
//! What a client can hold on to, and for how long:
//!
//! | it | is bounded by |
//! |---|---|
//! | sends nothing | [`Options::idle_timeout`], and eviction |
//! | sends its head, or shakes hands, slowly | [`Options::header_timeout`], and eviction |
//! | sends its body slowly | [`Options::body_timeout`], and eviction after [`BODY_GRACE`] |
//! | takes nothing of what it is answered | half a minute, once the buffers of the system and of TLS are full |
//! | opens many connections | [`Options::connections_max`] |
//!
//! **Eviction.** At the cap, a new connection is let in by closing another: of those with no request
//! in progress the one that has been so for longest, else the one whose body has been arriving for
//! longest and for more than [`BODY_GRACE`]. A request that is being worked on is never cut. So idle
//! clients, however many, can't keep a registry out; when all connections are at work, new ones wait.
//!
//! A registry opens a connection for each event, so accepting is kept cheap: `TCP_NODELAY` is
//! inherited from the listening socket, and a connection is one task with one timer.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    lifecycle::Tasks,
    telemetry::{Metrics, labels::ListenerName, log::Throttle},
};

mod body;
mod connection;
mod connections;
mod tls;

pub use body::{Body, BodyError};
use connection::Serving;
use connections::Connections;
pub use tls::TlsError;

/// How long a body may take to arrive before its connection can be evicted. A registry gives up on
/// us after a second, so a slower one is not a registry in need.
pub const BODY_GRACE: Duration = Duration::from_secs(1);

/// Connections that the kernel holds for us until we accept them; it may lower this.
const BACKLOG: i32 = 4096;

/// How long to wait for a connection to end before another is evicted, and after an accept that
/// failed for want of something.
const PAUSE: Duration = Duration::from_millis(50);

/// What a listener is built of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// TLS, if wanted.
    pub tls: Option<TlsFiles>,
    /// Open connections at most; at least 1.
    pub connections_max: usize,
    /// For a request's head, from its first byte; and for the TLS handshake.
    pub header_timeout: Duration,
    /// For a request's whole body, from its head.
    pub body_timeout: Duration,
    /// How long a connection may stay without a request.
    pub idle_timeout: Duration,
}

impl Options {
    /// Plain HTTP at `listen` with the limits that ingest has by default: 1,024 connections, 5 s for
    /// a head, 10 s for a body, 60 s idle.
    #[must_use]
    pub fn plain(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            connections_max: 1024,
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(1),
        }
    }
}

/// PEM files, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address can't be listened on.
    #[error("can't listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate or its key can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Returned by a handler to close the connection without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub struct Hangup;

/// A socket that listens. Connections wait in its backlog until [`Listener::serve`] takes them.
#[derive(Debug)]
pub struct Listener {
    name: ListenerName,
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<tls::Acceptor>,
    options: Options,
    metrics: Metrics,
}

impl Listener {
    /// Listens. Must be called on the runtime that will serve.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(name: ListenerName, options: Options, metrics: Metrics) -> Result<Self, BindError> {
        let tls = options.tls.clone().map(tls::Acceptor::load).transpose()?;
        let listen = options.listen;
        let (socket, address) = listen_on(listen).map_err(|source| BindError::Listen { listen, source })?;
        Ok(Self {
            name,
            socket,
            address,
            tls,
            options,
            metrics,
        })
    }

    /// The address it listens on, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Answers requests with `handler` until `stop` is cancelled; then closes the socket and the idle
    /// connections, lets those with a request finish it, and returns when the last has ended.
    /// [`Tasks::hard`] cuts them. A handler that panics is a lost task.
    pub async fn serve<H, F, B>(self, tasks: Tasks, stop: CancellationToken, handler: H)
    where
        H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Response<B>, Hangup>> + Send + 'static,
        B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        info!(listener = self.name.as_str(), address = %self.address, tls = self.tls.is_some(), "listening");
        let cap = u32::try_from(self.options.connections_max)
            .unwrap_or(u32::MAX)
            .clamp(1, 1 << 20);
        let room = Arc::new(Semaphore::new(cap as usize));
        let connections = Arc::new(Connections::new());
        let serving = Arc::new(Serving {
            name: self.name,
            options: self.options,
            tls: self.tls,
            metrics: self.metrics,
            tasks,
            stop,
            connections: Arc::clone(&connections),
            refusals: Throttle::new(),
            handler,
        });
        let troubles = Throttle::new();
        loop {
            let next = async {
                let (stream, peer) = accept(&self.socket, &connections, self.name, &troubles).await;
                (stream, peer, admit(&room, &connections).await)
            };
            let (stream, peer, permit) = tokio::select! {
                biased;
                () = serving.stop.cancelled() => break,
                next = next => next,
            };
            Serving::start(&serving, stream, peer, permit);
        }
        drop(self.socket);
        // All permits are back once every connection has ended.
        let _ended = room.acquire_many(cap).await;
        info!(listener = self.name.as_str(), "stopped listening");
    }
}

fn listen_on(listen: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the process before it.
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit this, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    let socket = TcpListener::from_std(StdListener::from(socket))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// The next connection, however long it takes: no error ends the loop, and none makes it spin.
async fn accept(
    socket: &TcpListener,
    connections: &Connections,
    name: ListenerName,
    troubles: &Throttle,
) -> (TcpStream, SocketAddr) {
    loop {
        let error = match socket.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => error,
        };
        if is_about_one_connection(&error) {
            continue;
        }
        if let Some(times) = troubles.due() {
            warn!(listener = name.as_str(), %error, times, "connections can't be accepted");
        }
        // Out of descriptors or memory, most likely: give one back.
        connections.evict_one();
        sleep(PAUSE).await;
    }
}

/// Whether accept(2) told of a connection that was gone before we took it.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// A place for one more connection, made by eviction when there is none.
async fn admit(room: &Arc<Semaphore>, connections: &Connections) -> OwnedSemaphorePermit {
    loop {
        if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
            return permit;
        }
        connections.evict_one();
        if let Ok(Ok(permit)) = timeout(PAUSE, Arc::clone(room).acquire_owned()).await {
            return permit;
        }
    }
}

#[cfg(test)]
mod tests;
