//! One connection, from accept to close.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Body, Hangup, Options,
    body::{Answer, RequestInProgress},
    connections::{Connections, Phase, State},
    tls,
};
use crate::{
    lifecycle::Tasks,
    telemetry::{
        Metrics,
        labels::{ConnectionEnd, ListenerName},
        log::Throttle,
    },
};

/// Bytes that a request's head may have, and that are read of a body at a time: what one connection
/// costs at most before its handler keeps anything.
const BUFFER_BYTES_MAX: usize = 32 * 1024;

/// How long a client may take nothing of what is written to it. What was written stays in this process until then, and whoever
/// writes it is not asked whether it is still wanted.
const STALLED_MAX: Duration = Duration::from_secs(30);

/// What all connections of a listener share.
pub(super) struct Serving<H> {
    pub(super) name: ListenerName,
    pub(super) options: Options,
    pub(super) tls: Option<tls::Acceptor>,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    pub(super) stop: CancellationToken,
    pub(super) connections: Arc<Connections>,
    /// Of heads.
    pub(super) refusals: Throttle,
    pub(super) handler: H,
}

impl<H, F, B> Serving<H>
where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Hangup>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Has a task of its own serve this connection.
    pub(super) fn start(
        serving: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        let this = Arc::clone(serving);
        let open = this.connections.open();
        this.metrics.connection_opened(this.name);
        serving.tasks.spawn("connection", async move {
            let cut = this.tasks.hard().clone();
            let end = tokio::select! {
                biased;
                end = this.shake_hands_and_run(stream, peer, &open.state) => end,
                () = open.state.evicted() => ConnectionEnd::Evicted,
                () = cut.cancelled() => ConnectionEnd::Stopped,
            };
            this.metrics.connection_ended(this.name, end);
            // Only now: the socket is closed, so the next one may be let in.
            drop(open);
            drop(permit);
        });
    }

    async fn shake_hands_and_run(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        state: &Arc<State>,
    ) -> ConnectionEnd {
        let Some(tls) = &self.tls else {
            return self.run(stream, peer, state).await;
        };
        match timeout(self.options.header_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.run(stream, peer, state).await,
            Ok(Err(error)) => {
                debug!(listener = self.name.as_str(), %peer, %error, "tls handshake failed");
                ConnectionEnd::Error
            }
            Err(_) => ConnectionEnd::TimedOut,
        }
    }

    async fn run<IO>(&self, stream: IO, peer: SocketAddr, state: &Arc<State>) -> ConnectionEnd
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let io = TokioIo::new(Watched {
            stream,
            state: Arc::clone(state),
        });
        let service = service_fn(|request| self.answer(request, peer, state));
        let mut http = http1::Builder::new();
        // The deadline for heads is kept below, apart from the one for idle connections. A client that
        // has sent its request and shut down its side still gets its answer.
        http.header_read_timeout(None)
            .half_close(true)
            .max_buf_size(BUFFER_BYTES_MAX);
        let mut connection = pin!(http.serve_connection(io, service));
        let mut stop = pin!(self.stop.cancelled());
        let mut stopping = false;
        let mut timer = pin!(sleep_until(self.deadline(state).unwrap_or_else(Instant::now)));
        poll_fn(|cx| {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(self.end_of(&result, peer));
            }
            if !stopping && stop.as_mut().poll(cx).is_ready() {
                stopping = true;
                if state.enter(Phase::Evicted, &[Phase::Idle, Phase::Head]) {
                    return Poll::Ready(ConnectionEnd::Stopped);
                }
                // It has a request in progress: let it finish, and take no other.
                connection.as_mut().graceful_shutdown();
                if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                    return Poll::Ready(self.end_of(&result, peer));
                }
            }
            let Some(deadline) = self.deadline(state) else {
                return Poll::Pending;
            };
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            timer.as_mut().poll(cx).map(|()| ConnectionEnd::TimedOut)
        })
        .await
    }

    /// What became of it. A head that was refused before anybody could see it, and answered 400 or 431, is told.
    fn end_of(&self, result: &Result<(), hyper::Error>, peer: SocketAddr) -> ConnectionEnd {
        let Err(error) = result else {
            return ConnectionEnd::Done;
        };
        let listener = self.name.as_str();
        if !error.is_parse() || error.is_parse_version_h2() {
            debug!(listener, %peer, %error, "a connection broke");
        } else if let Some(requests) = self.refusals.due() {
            warn!(listener, %peer, requests, %error, "refused: the head of a request is none, or too large");
        }
        ConnectionEnd::Error
    }

    /// When the client is too late with a head, or to take what is written to it; bodies have a deadline of their own.
    fn deadline(&self, state: &State) -> Option<Instant> {
        let head = match state.phase() {
            (Phase::Idle, since) => Some(since + self.options.idle_timeout),
            (Phase::Head, since) => Some(since + self.options.header_timeout),
            (Phase::Body | Phase::Working | Phase::Evicted, _) => None,
        };
        let write = state.stalled_since().map(|since| since + STALLED_MAX);
        [head, write].into_iter().flatten().min()
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        state: &Arc<State>,
    ) -> Result<Response<Answer<B>>, Hangup> {
        let progress = RequestInProgress::begin(state).ok_or(Hangup)?;
        let deadline = Instant::now() + self.options.body_timeout;
        let held_back = request.headers().contains_key(header::EXPECT);
        let request = request.map(|body| Body::new(body, state, peer, deadline, held_back));
        let response = (self.handler)(request).await?;
        Ok(response.map(|body| Answer::new(body, progress)))
    }
}

/// A stream that tells its connection's state when a head begins, and whether what is written is taken.
struct Watched<IO> {
    stream: IO,
    state: Arc<State>,
}

impl<IO> Watched<IO> {
    fn wrote<T>(&self, written: Poll<T>) -> Poll<T> {
        self.state.wrote(written.is_ready());
        written
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.state.enter(Phase::Head, &[Phase::Idle]);
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wrote(shut_down)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(written)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream::unfold;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::sleep,
    };

    use super::*;
    use crate::clock::{Clock, Timestamp};

    /// What becomes of a connection whose answer has no end, and begins after an hour of work, and when.
    async fn end_of(client: impl AsyncFnOnce(DuplexStream)) -> (ConnectionEnd, Duration) {
        let handler = |_: Request<Body>| async {
            sleep(Duration::from_hours(1)).await;
            let pieces = unfold((), |()| async {
                sleep(Duration::from_secs(1)).await;
                let piece = Frame::data(Bytes::from_static(&[b'x'; 1024]));
                Some((Ok::<_, Infallible>(piece), ()))
            });
            Ok(Response::new(StreamBody::new(pieces)))
        };
        let connections = Arc::new(Connections::new());
        let serving = Serving {
            name: ListenerName::Admin,
            options: Options::plain(([127, 0, 0, 1], 0).into()),
            tls: None,
            metrics: Metrics::new(&Clock::from_fn(|| Timestamp::from_unix_millis(0))),
            tasks: Tasks::new(),
            stop: CancellationToken::new(),
            connections: Arc::clone(&connections),
            refusals: Throttle::new(),
            handler,
        };
        let (mut ours, theirs) = duplex(256);
        let (open, begin) = (connections.open(), Instant::now());
        let client = async {
            ours.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            client(ours).await;
            sleep(Duration::from_hours(1)).await;
        };
        let peer = ([127, 0, 0, 1], 1).into();
        tokio::select! {
            end = serving.run(theirs, peer, &open.state) => (end, begin.elapsed()),
            () = client => panic!("it is held for ever"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_its_answer_is_let_go_of_whatever_is_still_worked_on() {
        let (end, after) = end_of(async |_kept| sleep(Duration::from_hours(24)).await).await;
        assert_eq!(end, ConnectionEnd::TimedOut);
        let expected = Duration::from_hours(1) + Duration::from_secs(1) + STALLED_MAX;
        assert!(after.abs_diff(expected) < Duration::from_millis(5), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_some_now_and_then_is_served_until_it_leaves() {
        let (end, after) = end_of(async |mut ours| {
            for _ in 0..100 {
                sleep(STALLED_MAX.mul_f64(0.9)).await;
                ours.read_exact(&mut [0; 64]).await.unwrap();
            }
        })
        .await;
        assert_eq!(end, ConnectionEnd::Error, "it left in the middle");
        assert!(after > STALLED_MAX * 80, "{after:?}");
    }
}
