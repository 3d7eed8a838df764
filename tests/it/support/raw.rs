//! A receiver that does with its connections whatever a test says, byte by byte.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::ports;

/// The longest that one of its reads may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listener on a port of its own. What it does with a connection is one function; the connection is closed when
/// that is over, or when the receiver is dropped.
pub(crate) struct RawReceiver {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<HashMap<usize, TcpStream>>,
    accepted: AtomicUsize,
    stopped: AtomicBool,
}

impl RawReceiver {
    /// Does `behave` with each connection, on a thread of its own. What it returns is of no account: that a
    /// connection breaks is what is tested.
    pub(crate) fn start(behave: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let port = ports::free();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let shared = Arc::new(Shared::default());
        let acceptor = thread::spawn({
            let (shared, behave) = (Arc::clone(&shared), Arc::new(behave));
            move || accept(&listener, &shared, &behave)
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

    /// How many connections it has had.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }
}

impl Drop for RawReceiver {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        for stream in self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the acceptor.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept<F: Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static>(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    behave: &Arc<F>,
) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        if shared.stopped.load(Ordering::Acquire) {
            return;
        }
        let number = shared.accepted.fetch_add(1, Ordering::AcqRel);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        shared
            .open
            .lock()
            .unwrap()
            .insert(number, stream.try_clone().unwrap());
        let (shared, behave) = (Arc::clone(shared), Arc::clone(behave));
        // Ends when its connection does, at the latest when the receiver is dropped.
        thread::spawn(move || {
            let _ = behave(&mut stream);
            let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.remove(&number);
        });
    }
}

/// Reads a head, to its empty line and no further.
pub(crate) fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Reads a whole request: its head, and its body by `Content-Length`.
pub(crate) fn read_request(stream: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    let head = read_head(stream)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or_default()];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

/// Waits until the other side closes.
pub(crate) fn wait_for_close(stream: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Writes `bytes` again and again, until the other side has had enough.
pub(crate) fn flood(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let many = bytes.repeat(64 * 1024 / bytes.len() + 1);
    loop {
        stream.write_all(&many)?;
    }
}

/// Copies both ways until both sides have closed.
pub(crate) fn join(one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (other.try_clone()?, one.try_clone()?);
    let back = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    io::copy(&mut &*one, &mut &*other)?;
    other.shutdown(Shutdown::Write)?;
    let _ = back.join();
    Ok(())
}
