//! `shipbell webhook listen`: a small receiver for trying things out.

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Output, colour::Colour};
use crate::{
    clock::{Clock, Timestamp},
    lifecycle::Tasks,
    secret::Secret,
    webhook::sign::VerifyingKey,
};

mod show;
mod wire;

use show::{Signature, Webhook};
use wire::{Connection, ReadError, Request};

/// What a sender may cost us.
mod limits {
    use std::time::Duration;

    pub(super) const CONNECTIONS_MAX: usize = 256;
    pub(super) const HEADERS_MAX: usize = 100;
    pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
    pub(super) const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
    /// Between two requests of a connection.
    pub(super) const IDLE_MAX: Duration = Duration::from_mins(1);
    /// From a request's first byte to its last.
    pub(super) const REQUEST_MAX: Duration = Duration::from_secs(15);
    /// How many of the newest ids are remembered.
    pub(super) const IDS_MAX: usize = 100_000;
    /// For answers under way when it stops.
    pub(super) const DRAIN_MAX: Duration = Duration::from_secs(2);
}

/// Arguments of `shipbell webhook listen`.
#[derive(Debug, clap::Args)]
#[command(
    about = "Receive webhooks and print them, to see what shipbell sends",
    after_help = "Examples:
  shipbell webhook listen
      print every webhook sent to http://127.0.0.1:8583/, until Ctrl-C
  shipbell webhook listen --secret-file ./secret
      also check each signature
  shipbell webhook listen --fail-first 2
      answer 503 twice, then 200: watch the retries
  shipbell webhook listen --listen 127.0.0.1:0 --output json --count 1 --timeout 30s
      in a script: take one webhook from a free port (named on stderr), print it as a line of JSON;
      exit code 75 if none came in time

Queries and credentials are masked."
)]
pub struct ListenArgs {
    /// Where to listen; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8583")]
    pub listen: SocketAddr,

    /// Check signatures with this secret (whsec_…) or public key (whpk_…); other users of this machine can see it: prefer
    /// --secret-file
    #[arg(long, value_name = "SECRET", value_parser = secret_text, conflicts_with = "secret_file")]
    pub secret: Option<SecretString>,

    /// Check signatures with the secret, or the public key, in this file
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// Answer with this status
    #[arg(long, value_name = "CODE", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    pub status: u16,

    /// Answer 503 to the first N webhooks
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub fail_first: u64,

    /// Stop after N webhooks, whatever they were answered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Stop after this long, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    /// How to print webhooks
    #[arg(long, value_name = "FORM", value_enum, default_value_t)]
    pub output: Output,
}

#[expect(clippy::unnecessary_wraps, reason = "clap wants a Result of its parsers")]
fn secret_text(text: &str) -> Result<SecretString, Infallible> {
    Ok(text.into())
}

/// Why listening ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As many webhooks came as were waited for.
    Counted,
    /// By Ctrl-C or SIGTERM, because nobody reads the output any more, or at `--timeout` without `--count`.
    Stopped,
    /// At `--timeout`, before as many came as were waited for.
    TooFew,
}

/// Receives webhooks and prints them to `out`, each before it is answered, until told to stop.
///
/// # Errors
/// The secret can't be used, the address can't be listened on, or `out` can't be written.
pub async fn listen(
    args: ListenArgs,
    clock: Clock,
    colour: Colour,
    out: &mut impl Write,
) -> anyhow::Result<Ended> {
    let secret = secret(&args)?;
    let mut terminate = signal(SignalKind::terminate()).context("can't watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't watch for Ctrl-C")?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("can't listen on {}", args.listen))?;
    let address = listener
        .local_addr()
        .context("can't tell the address listened on")?;
    match args.output {
        Output::Text => {
            writeln!(out, "listening on http://{address}/ (Ctrl-C stops)\n")?;
            out.flush()?;
        }
        // On stdout every line is a webhook.
        Output::Json => tell(&format!("listening on http://{address}/")),
    }

    let tasks = Tasks::new();
    let (arrivals, mut arrived) = mpsc::channel(16);
    let mut accepting = pin!(accept(listener, tasks.clone(), arrivals));
    let deadline = args
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let mut desk = Desk {
        args,
        secret,
        clock,
        colour,
        ids: Ids::default(),
        number: 0,
    };
    let ended = loop {
        tokio::select! {
            never = &mut accepting => match never {},
            () = tasks.soft().cancelled() => bail!("a connection's task was lost"),
            Some(arrival) = arrived.recv() => match desk.take(arrival, out) {
                Ok(true) => break Ended::Counted,
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break Ended::Stopped,
                Err(error) => return Err(error).context("can't write"),
            },
            _ = terminate.recv() => break Ended::Stopped,
            _ = interrupt.recv() => break Ended::Stopped,
            () = until(deadline) => {
                break if desk.args.count.is_some() { Ended::TooFew } else { Ended::Stopped };
            }
        }
    };
    tasks.soft().cancel();
    // Connections whose webhook was not looked at any more close without an answer.
    drop(arrived);
    let _ = timeout(limits::DRAIN_MAX, tasks.ended()).await;
    Ok(ended)
}

fn secret(args: &ListenArgs) -> anyhow::Result<Option<VerifyingKey>> {
    let text = match (&args.secret, &args.secret_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => Secret::file(path)
            .get()
            .with_context(|| format!("can't read the secret in {}", path.display()))?,
        (None, None) => return Ok(None),
    };
    Ok(Some(
        text.expose_secret().parse().context("can't use the secret")?,
    ))
}

/// Tells something that is no webhook, on stderr, so that it mixes with none.
fn tell(line: &str) {
    // With nobody reading stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A request, and the way back for the status to answer with.
struct Arrival {
    peer: SocketAddr,
    request: Request,
    reply: oneshot::Sender<StatusCode>,
}

/// Takes connections, at most [`limits::CONNECTIONS_MAX`] at once; never ends.
async fn accept(listener: TcpListener, tasks: Tasks, arrivals: mpsc::Sender<Arrival>) -> Infallible {
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            // The semaphore is never closed.
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let serving = serve(stream, peer, arrivals.clone(), tasks.soft().clone(), place);
                tasks.spawn("webhook listen connection", serving);
            }
            Err(error) => {
                tell(&format!("can't take a connection: {error}"));
                // Out of file descriptors, most likely: trying again at once would only spin.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection until it ends or `stop`; a request under way is still answered then.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    arrivals: mpsc::Sender<Arrival>,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    let mut connection = Connection::new(stream);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            waited = connection.wait() => if waited.is_err() { return },
        }
        let request = match connection.request().await {
            Ok(request) => request,
            Err(error) => {
                tell(&format!("from {peer}: {error}"));
                if let ReadError::Refused(status, _) = error {
                    // Whether the sender still hears it is its own affair.
                    let _ = connection.answer(status, false).await;
                }
                return;
            }
        };
        let (reply, replied) = oneshot::channel();
        let keep_alive = request.keep_alive;
        let arrival = Arrival { peer, request, reply };
        if arrivals.send(arrival).await.is_err() {
            return;
        }
        let Ok(status) = replied.await else {
            return;
        };
        let keep_alive = keep_alive && !stop.is_cancelled();
        if connection.answer(status, keep_alive).await.is_err() || !keep_alive {
            return;
        }
    }
}

/// Where all webhooks meet, one after the other: decides on each, prints it, then has it answered.
struct Desk {
    args: ListenArgs,
    secret: Option<VerifyingKey>,
    clock: Clock,
    colour: Colour,
    ids: Ids,
    number: u64,
}

impl Desk {
    /// Takes one webhook; whether it was the last that is waited for.
    fn take(&mut self, arrival: Arrival, out: &mut impl Write) -> io::Result<bool> {
        let Arrival { peer, request, reply } = arrival;
        let at = self.clock.now();
        self.number += 1;
        let status = if self.number <= self.args.fail_first {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::from_u16(self.args.status).unwrap_or(StatusCode::OK)
        };
        Webhook {
            number: self.number,
            at,
            peer,
            request: &request,
            signature: signature(self.secret.as_ref(), &request, at),
            seen_before: request
                .header("webhook-id")
                .is_some_and(|id| !self.ids.insert(id)),
            status: status.as_u16(),
        }
        .print(self.args.output, self.colour, out)?;
        // The sender may have gone; what it sent was printed all the same.
        let _ = reply.send(status);
        Ok(self.args.count == Some(self.number))
    }
}

fn signature(secret: Option<&VerifyingKey>, request: &Request, now: Timestamp) -> Signature {
    let Some(secret) = secret else {
        return Signature::Unchecked;
    };
    let Some(signatures) = request.header("webhook-signature") else {
        return Signature::Absent;
    };
    let id = request.header("webhook-id").unwrap_or_default();
    let timestamp_s = request.header("webhook-timestamp").unwrap_or_default();
    match secret.verify(id, timestamp_s, signatures, &request.body, now) {
        Ok(()) => Signature::Good,
        Err(error) => Signature::Bad(error),
    }
}

/// The newest ids, at most [`limits::IDS_MAX`].
#[derive(Default)]
struct Ids {
    known: HashSet<Arc<str>>,
    oldest_first: VecDeque<Arc<str>>,
}

impl Ids {
    /// Remembers `id`; whether it is new.
    fn insert(&mut self, id: &str) -> bool {
        let id: Arc<str> = id.into();
        if !self.known.insert(Arc::clone(&id)) {
            return false;
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > limits::IDS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests;
