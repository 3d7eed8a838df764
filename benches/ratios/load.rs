//! The load: envelopes as a registry posts them, over raw sockets, from a thread of this process. Requests are
//! prepared; of each only the numbers in it change.

use std::{
    cell::{Cell, RefCell},
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::LocalSet,
};

use super::support::shipbell::TOKEN;

/// A notification as a 3.1 registry sent it, with the references of the image.
const CAPTURED: &str = include_str!("../../tests/envelopes/3.1/0001-01-oci-push-push-v1_json.json");

/// What is not measured, at the beginning.
const WARM_UP: Duration = Duration::from_millis(500);

/// How many requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// As many as come, for this long.
    Passed(Duration),
    /// So many.
    Sent(u64),
}

/// What a load is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Connections that stay open, each with one request at a time.
    pub(crate) connections: usize,
    /// Repositories that the pushes are spread over.
    pub(crate) repositories: u64,
    /// When it ends.
    pub(crate) until: Until,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Of each request that was measured, microseconds to its answer, sorted.
    micros: Vec<u32>,
    /// Seconds over which they were counted.
    seconds: f64,
    /// All requests, those before the measuring too.
    pub(crate) sent: u64,
}

impl Measured {
    fn new(mut micros: Vec<u32>, seconds: f64, sent: u64) -> Self {
        micros.sort_unstable();
        Self {
            micros,
            seconds,
            sent,
        }
    }

    /// Requests per second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.micros.len()).unwrap_or(u32::MAX)) / self.seconds
    }

    /// Microseconds within which `per_mille` of a thousand requests were answered.
    pub(crate) fn micros(&self, per_mille: usize) -> f64 {
        let index = self.micros.len() * per_mille / 1000;
        let last = self.micros.len().saturating_sub(1);
        self.micros
            .get(index.min(last))
            .copied()
            .map_or(f64::NAN, f64::from)
    }
}

/// A request with places to write numbers into.
#[derive(Clone, Debug)]
struct Request {
    bytes: Vec<u8>,
    /// Where a number stands, how many digits it has, and what it is made of the request's number.
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: usize,
    digits: usize,
    number: Number,
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Request,
    Repository,
    Tag,
}

impl Request {
    /// The captured notification, its numbers blanked; `close` says that the connection ends with it.
    fn new(port: u16) -> anyhow::Result<Self> {
        let captured: serde_json::Value = serde_json::from_str(CAPTURED)?;
        let mut body = Vec::new();
        // As Go's json.MarshalIndent with three blanks, which is what the registry calls.
        let format = serde_json::ser::PrettyFormatter::with_indent(b"   ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut body, format);
        serde::Serialize::serialize(
            captured.get("body").context("a capture without body")?,
            &mut serializer,
        )?;
        let body = String::from_utf8(body)?
            .replace("-7313-b223-233b40040726", "-7313-b223-EEEEEEEEEEEE")
            .replace("sha256:0348b383990d", "sha256:EEEEEEEEEEEE")
            .replace("sha256:dd9ecfd4059a", "sha256:EEEEEEEEEEEE")
            .replace("sha256:827d3df7f035", "sha256:EEEEEEEEEEEE")
            .replace("team/app", "team/service-RRRRRR")
            .replace("\"tag\": \"v1\"", "\"tag\": \"v1.TTTTTT\"");
        let head = format!(
            "POST /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: Go-http-client/1.1\r\n\
             Content-Length: {}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/vnd.docker.distribution.events.v2+json\r\nAccept-Encoding: gzip\r\n\r\n",
            body.len()
        );
        let text = head + &body;
        let mut places = Vec::new();
        for (blank, number) in [
            ("EEEEEEEEEEEE", Number::Request),
            ("RRRRRR", Number::Repository),
            ("TTTTTT", Number::Tag),
        ] {
            places.extend(text.match_indices(blank).map(|(at, _)| Place {
                at,
                digits: blank.len(),
                number,
            }));
        }
        ensure!(places.len() == 8, "the capture is not what it was: {places:?}");
        Ok(Self {
            bytes: text.into_bytes(),
            places,
        })
    }

    /// The request of number `request`.
    fn number(&mut self, request: u64, repositories: u64) -> &[u8] {
        for place in &self.places {
            let mut rest = match place.number {
                Number::Request => request,
                Number::Repository => request % repositories,
                Number::Tag => request / repositories,
            };
            let digits = self.bytes.get_mut(place.at..place.at + place.digits);
            for digit in digits.into_iter().flatten().rev() {
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
                rest /= 10;
            }
        }
        &self.bytes
    }
}

/// Puts the load on the server at `port`.
pub(crate) fn run(port: u16, load: Load) -> anyhow::Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shared = Rc::new(Shared {
        load,
        next: Cell::new(0),
        measure_from: Instant::now() + WARM_UP,
        micros: RefCell::default(),
    });
    let local = LocalSet::new();
    let senders: Vec<_> = (0..load.connections)
        .map(|_| {
            let shared = Rc::clone(&shared);
            local.spawn_local(async move { shared.send(port).await })
        })
        .collect();
    runtime.block_on(local.run_until(async {
        for sender in senders {
            sender.await??;
        }
        anyhow::Ok(())
    }))?;
    let seconds = shared.measure_from.elapsed().as_secs_f64();
    Ok(Measured::new(shared.micros.take(), seconds, shared.next.get()))
}

struct Shared {
    load: Load,
    next: Cell<u64>,
    measure_from: Instant,
    micros: RefCell<Vec<u32>>,
}

impl Shared {
    fn take_number(&self) -> Option<u64> {
        let number = self.next.get();
        let is_over = match self.load.until {
            Until::Passed(duration) => self.measure_from.elapsed() >= duration,
            Until::Sent(count) => number >= count,
        };
        if is_over {
            return None;
        }
        self.next.set(number + 1);
        Some(number)
    }

    async fn send(&self, port: u16) -> anyhow::Result<()> {
        let mut poster = Poster::open(port, self.load.repositories).await?;
        while let Some(number) = self.take_number() {
            let began = Instant::now();
            poster.post(number).await?;
            if began >= self.measure_from {
                self.micros.borrow_mut().push(micros(began.elapsed()));
            }
        }
        Ok(())
    }
}

/// One connection that posts what it is told to.
pub(crate) struct Poster {
    stream: tokio::net::TcpStream,
    request: Request,
    repositories: u64,
}

impl Poster {
    /// Connects to the server at `port`.
    pub(crate) async fn open(port: u16, repositories: u64) -> anyhow::Result<Self> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: Request::new(port)?,
            repositories,
        })
    }

    /// The image that request `number` tells of.
    pub(crate) fn image(&self, number: u64) -> String {
        let (repository, tag) = (number % self.repositories, number / self.repositories);
        format!("team/service-{repository:06}:v1.{tag:06}")
    }

    /// Posts request `number`, and waits until it was taken.
    pub(crate) async fn post(&mut self, number: u64) -> anyhow::Result<()> {
        let request = self.request.number(number, self.repositories);
        self.stream.write_all(request).await?;
        let mut answer = [0; 1024];
        let mut read = 0;
        while !is_whole(answer.get(..read).unwrap_or_default()) {
            let free = answer.get_mut(read..).unwrap_or_default();
            let more = self.stream.read(free).await?;
            ensure!(more > 0, "the connection was closed before the answer");
            read += more;
        }
        ensure!(
            is_taken(&answer),
            "not taken: {}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    }
}

/// Sends `count` requests, each on a connection of its own and when the one before is answered, as a registry
/// does.
pub(crate) fn run_serially(port: u16, count: u64) -> anyhow::Result<Measured> {
    let mut request = Request::new(port)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut all = Vec::new();
    let start = Instant::now();
    for number in 0..count {
        let began = Instant::now();
        send_on_its_own(address, request.number(number, 1))?;
        all.push(micros(began.elapsed()));
    }
    Ok(Measured::new(all, start.elapsed().as_secs_f64(), count))
}

fn send_on_its_own(address: SocketAddr, request: &[u8]) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(request)?;
    let mut answer = [0; 1024];
    let mut read = 0;
    while !is_whole(answer.get(..read).unwrap_or_default()) {
        match stream.read(answer.get_mut(read..).unwrap_or_default())? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            more => read += more,
        }
    }
    ensure!(
        is_taken(&answer),
        "not taken: {}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// Whether the head is there: a 202 has no body.
fn is_whole(answer: &[u8]) -> bool {
    answer.ends_with(b"\r\n\r\n")
}

fn is_taken(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 202")
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
