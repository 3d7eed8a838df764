//! A connection as hyper uses it, counted while it is open.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::Extensions;
use hyper::rt::ReadBufCursor;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::net::TcpStream;

/// How many connections are open. Clones count together.
#[derive(Clone, Debug, Default)]
pub(in crate::webhook) struct Open(Arc<AtomicUsize>);

impl Open {
    /// How many there are now.
    pub(in crate::webhook) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn one(&self) -> One {
        self.0.fetch_add(1, Ordering::Relaxed);
        One(self.clone())
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct One(Open);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a connection has carried an answer yet. Clones are of the same connection; each tells it as
/// an extra of its [`Connected`].
#[derive(Clone, Debug, Default)]
pub(in crate::webhook) struct Answered(Arc<AtomicBool>);

impl Answered {
    /// What the connection says of itself.
    pub(in crate::webhook) fn of(connected: &Connected) -> Self {
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        extras.remove().unwrap_or_default()
    }

    /// It has now.
    pub(in crate::webhook) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub(in crate::webhook) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection to an endpoint, or to a proxy that sends requests on.
#[derive(Debug)]
pub(in crate::webhook) struct Stream {
    io: TokioIo<TcpStream>,
    is_forwarded: bool,
    answered: Answered,
    _open: One,
}

impl Stream {
    /// `is_forwarded` is whether it leads to a proxy that sends requests on.
    pub(super) fn new(tcp: TcpStream, is_forwarded: bool, open: &Open) -> Self {
        Self {
            io: TokioIo::new(tcp),
            is_forwarded,
            answered: Answered::default(),
            _open: open.one(),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        // What is said to be proxied gets whole URLs in its request lines.
        Connected::new()
            .proxy(self.is_forwarded)
            .extra(self.answered.clone())
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}
