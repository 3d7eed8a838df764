//! A receiver of webhooks on a raw socket: it keeps each request to the byte and answers as told.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;
use shipbell::clock::{Clock, Timestamp};

use super::ports;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Everything before the body, the empty line included.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// When the last byte was read.
    pub(crate) at: Instant,
    /// The same moment by the wall clock.
    pub(crate) wall: Timestamp,
}

impl Request {
    /// The request line.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// Its headers in the order they came, names as they were written.
    pub(crate) fn headers(&self) -> Vec<(&str, &str)> {
        self.head
            .lines()
            .skip(1)
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_once(": ").unwrap_or((line, "")))
            .collect()
    }

    /// The value of the header `name`, whatever its case; panics when there isn't exactly one.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.find_header(name)
            .unwrap_or_else(|| panic!("no header {name} in\n{}", self.head))
    }

    /// The value of the header `name`, if there is one; panics when there are several.
    pub(crate) fn find_header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers()
            .into_iter()
            .filter(|(header, _)| header.eq_ignore_ascii_case(name));
        let (_, value) = values.next()?;
        assert!(values.next().is_none(), "{name} twice in\n{}", self.head);
        Some(value)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The image that the webhook names.
    pub(crate) fn image(&self) -> String {
        self.json()["image"].as_str().unwrap().to_owned()
    }

    /// The `webhook-id`.
    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }
}

/// The images that these webhooks name.
pub(crate) fn images(requests: &[Request]) -> Vec<String> {
    requests.iter().map(Request::image).collect()
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Answer with this status and no body.
    Status(u16),
    /// Answer with this status and these headers, each a whole line without its end.
    With(u16, Vec<String>),
    /// Answer with this status and body.
    Text(u16, String),
    /// Answer 200 after this long.
    After(Duration),
    /// Answer nothing until [`Receiver::release`], then 200.
    Hold,
    /// Close the connection without an answer.
    Close,
}

type Script = Box<dyn FnMut(&Request) -> Answer + Send>;

struct State {
    requests: Vec<Request>,
    script: Script,
    /// Those that are open, by a number of their own.
    connections: HashMap<u64, TcpStream>,
    released: bool,
    stopped: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The receiver. Dropping it closes the port and every connection.
pub(crate) struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Answers 200 to everything, on a port of its own.
    pub(crate) fn start() -> Self {
        Self::scripted(|_| Answer::Status(200))
    }

    /// Answers as `script` says, on a port of its own.
    pub(crate) fn scripted(script: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        Self::on(ports::free(), script)
    }

    /// Answers as `script` says, on this port.
    pub(crate) fn on(port: u16, script: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                requests: Vec::new(),
                script: Box::new(script),
                connections: HashMap::new(),
                released: false,
                stopped: false,
            }),
            changed: Condvar::new(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self {
            port,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of `path` on it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What it has been sent.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// Answers as `script` says from the next request on.
    pub(crate) fn answer(&self, script: impl FnMut(&Request) -> Answer + Send + 'static) {
        self.shared.state.lock().unwrap().script = Box::new(script);
    }

    /// Answers those requests that are held.
    pub(crate) fn release(&self) {
        self.shared.state.lock().unwrap().released = true;
        self.shared.changed.notify_all();
    }

    /// The first `count` requests, waited for; panics when they don't come within `deadline`.
    pub(crate) fn wait_for(&self, count: usize, deadline: Duration) -> Vec<Request> {
        self.wait_until(deadline, &format!("{count} requests"), |requests| {
            requests.len() >= count
        })
    }

    /// All requests so far, once one for `image` is among them. What a lane sends comes in order: who
    /// waits for the image pushed last has seen everything that was to come before it.
    pub(crate) fn wait_for_image(&self, image: &str, deadline: Duration) -> Vec<Request> {
        self.wait_until(deadline, image, |requests| {
            requests.iter().any(|request| request.image() == image)
        })
    }

    fn wait_until(
        &self,
        deadline: Duration,
        what: &str,
        mut enough: impl FnMut(&[Request]) -> bool,
    ) -> Vec<Request> {
        let state = self.shared.state.lock().unwrap();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, deadline, |state| !enough(&state.requests))
            .unwrap();
        let requests = state.requests.clone();
        drop(state);
        assert!(
            !timeout.timed_out(),
            "waited {deadline:?} for {what}; there came {} requests: {:#?}",
            requests.len(),
            requests.iter().map(Request::image).collect::<Vec<_>>(),
        );
        requests
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.stopped = true;
            state.released = true;
            for connection in state.connections.values() {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
        // Wakes the acceptor.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (number, stream) in (0..).zip(listener.incoming()) {
        let Ok(stream) = stream else { return };
        let mut state = shared.state.lock().unwrap();
        if state.stopped {
            return;
        }
        state.connections.insert(number, stream.try_clone().unwrap());
        drop(state);
        let shared = Arc::clone(shared);
        // Ends when its connection does, at the latest when the receiver is dropped.
        thread::spawn(move || {
            // A connection cut off in mid-request is the client's affair.
            let _ = serve(stream, &shared);
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.connections.remove(&number);
        });
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_request(&mut reader)? {
        let answer = {
            let mut state = shared.state.lock().unwrap();
            let answer = (state.script)(&request);
            state.requests.push(request);
            answer
        };
        shared.changed.notify_all();
        let (status, lines, body) = match answer {
            Answer::Status(status) => (status, Vec::new(), String::new()),
            Answer::With(status, lines) => (status, lines, String::new()),
            Answer::Text(status, body) => (status, Vec::new(), body),
            Answer::After(delay) => {
                thread::sleep(delay);
                (200, Vec::new(), String::new())
            }
            Answer::Hold => {
                let state = shared.state.lock().unwrap();
                let _released = shared.changed.wait_while(state, |state| !state.released).unwrap();
                (200, Vec::new(), String::new())
            }
            Answer::Close => return stream.shutdown(Shutdown::Both),
        };
        let mut head = format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\n", body.len());
        for line in lines {
            head.push_str(&line);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        stream.write_all((head + &body).as_bytes())?;
    }
    Ok(())
}

fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let mut request = Request {
        head,
        body: Vec::new(),
        at: Instant::now(),
        wall: Timestamp::default(),
    };
    let length = request.header("content-length").parse().unwrap();
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    request.at = Instant::now();
    request.wall = Clock::system().now();
    Ok(Some(request))
}
