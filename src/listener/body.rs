//! Bodies that tell their connection's phase: a request's as it arrives, an answer's as it ends.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::connections::{Phase, State};

/// A request's body, with a deadline.
#[derive(Debug)]
pub struct Body {
    inner: Incoming,
    state: Arc<State>,
    peer: SocketAddr,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    expects_continue: bool,
}

/// Why a body did not come whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It took longer than the listener allows.
    #[error("the body took too long")]
    TimedOut,
    /// The client went away, or broke the rules of HTTP.
    #[error("the body was cut off: {0}")]
    Cut(#[source] hyper::Error),
    /// Its connection was closed for another's sake.
    #[error("the connection was closed to let another in")]
    Evicted,
}

impl Body {
    pub(super) fn new(
        inner: Incoming,
        state: &Arc<State>,
        peer: SocketAddr,
        deadline: Instant,
        expects_continue: bool,
    ) -> Self {
        let body = Self {
            inner,
            state: Arc::clone(state),
            peer,
            deadline,
            timer: None,
            expects_continue,
        };
        if body.inner.is_end_stream() {
            // It can't be evicted here: a request that has just begun is within its grace.
            body.arrived();
        }
        body
    }

    /// Whose request it is.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the client waits to be asked for it (`Expect: 100-continue`): the first poll asks.
    #[must_use]
    pub fn is_held_back(&self) -> bool {
        self.expects_continue
    }

    fn arrived(&self) -> bool {
        self.state.enter(Phase::Working, &[Phase::Body, Phase::Working])
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let deadline = this.deadline;
                let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                ready!(timer.as_mut().poll(cx));
                return Poll::Ready(Some(Err(BodyError::TimedOut)));
            }
        };
        if let Some(Err(error)) = frame {
            return Poll::Ready(Some(Err(BodyError::Cut(error))));
        }
        if (frame.is_none() || this.inner.is_end_stream()) && !this.arrived() {
            return Poll::Ready(Some(Err(BodyError::Evicted)));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Cut)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body; when it is dropped, sent or not, the request is over.
pub(super) struct Answer<B> {
    inner: Pin<Box<B>>,
    _request: RequestInProgress,
}

impl<B> Answer<B> {
    pub(super) fn new(inner: B, request: RequestInProgress) -> Self {
        Self {
            inner: Box::pin(inner),
            _request: request,
        }
    }
}

impl<B: hyper::body::Body> hyper::body::Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.inner.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Held from a request's head to the end of its answer.
pub(super) struct RequestInProgress(Arc<State>);

impl RequestInProgress {
    /// Begins a request; `None` when the connection is to be closed.
    pub(super) fn begin(state: &Arc<State>) -> Option<Self> {
        state
            .enter(Phase::Body, &[Phase::Idle, Phase::Head])
            .then(|| Self(Arc::clone(state)))
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle, &[Phase::Body, Phase::Working]);
    }
}
