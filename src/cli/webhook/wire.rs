//! A receiver's side of HTTP/1.1, small and literal: headers come out in the order and the case in
//! which they came in, which no HTTP library hands on.

use std::io;

use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, IDLE_MAX, REQUEST_MAX};

/// A request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    /// Names and values; bytes that are not UTF-8 are replaced.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether the sender may send another on this connection.
    pub(super) keep_alive: bool,
}

impl Request {
    /// The value of the first header of that name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The sender is done with this connection.
    #[error("closed")]
    Closed,
    /// The connection broke in the middle of a request.
    #[error("the connection broke in the middle of a request: {0}")]
    Broken(#[from] io::Error),
    /// It took too long.
    #[error("the request did not come to its end in time")]
    Late,
    /// It is not one we take.
    #[error("the request is refused: {1}")]
    Refused(StatusCode, &'static str),
}

const fn bad(why: &'static str) -> ReadError {
    ReadError::Refused(StatusCode::BAD_REQUEST, why)
}

/// How a request's body is framed.
enum Framing {
    Length(usize),
    Chunked,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    /// Read, and not yet understood.
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Waits for the next request's first byte. Can be dropped at any time without losing one.
    pub(super) async fn wait(&mut self) -> Result<(), ReadError> {
        if !self.buffer.is_empty() {
            return Ok(());
        }
        match timeout(IDLE_MAX, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0) | Err(_)) | Err(_) => Err(ReadError::Closed),
        }
    }

    /// Reads the request whose first byte is there.
    pub(super) async fn request(&mut self) -> Result<Request, ReadError> {
        timeout(REQUEST_MAX, async {
            let (mut request, framing) = self.head().await?;
            if request.has_token("expect", "100-continue") {
                self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            request.body = match framing {
                Framing::Length(length) => self.take(length).await?,
                Framing::Chunked => self.chunks().await?,
            };
            Ok(request)
        })
        .await
        .unwrap_or(Err(ReadError::Late))
    }

    async fn head(&mut self) -> Result<(Request, Framing), ReadError> {
        loop {
            if let Some((length, parsed)) = parse_head(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(parsed);
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(ReadError::Refused(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    "its headers are larger than 64 KiB",
                ));
            }
            self.fill().await?;
        }
    }

    /// Takes `length` bytes of a body off the stream.
    async fn take(&mut self, length: usize) -> Result<Vec<u8>, ReadError> {
        check_length(length)?;
        while self.buffer.len() < length {
            self.fill().await?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let size = self.chunk_size().await?;
            if size == 0 {
                break;
            }
            // The sum counts: many small chunks are no way around the cap.
            check_length(size.saturating_add(body.len()))?;
            body.extend(self.take(size).await?);
            if self.take(2).await? != b"\r\n" {
                return Err(bad("a chunk doesn't end where it should"));
            }
        }
        // Trailers say nothing that is shown.
        while !self.line().await?.is_empty() {}
        Ok(body)
    }

    async fn chunk_size(&mut self) -> Result<usize, ReadError> {
        loop {
            match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete((length, size))) => {
                    self.buffer.drain(..length);
                    return Ok(usize::try_from(size).unwrap_or(usize::MAX));
                }
                Ok(httparse::Status::Partial) if self.buffer.len() <= HEAD_BYTES_MAX => self.fill().await?,
                Ok(httparse::Status::Partial) | Err(_) => return Err(bad("a chunk's size can't be read")),
            }
        }
    }

    async fn line(&mut self) -> Result<Vec<u8>, ReadError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end).await?;
                self.take(2).await?;
                return Ok(line);
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(bad("its trailers have no end"));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    /// Answers with an empty body.
    pub(super) async fn answer(&mut self, status: StatusCode, keep_alive: bool) -> io::Result<()> {
        let reason = status.canonical_reason().unwrap_or_default();
        let code = status.as_u16();
        // These two never have a body, and so no length either (RFC 9110, section 8.6).
        let length = if matches!(code, 204 | 304) {
            ""
        } else {
            "Content-Length: 0\r\n"
        };
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let head = format!("HTTP/1.1 {code} {reason}\r\n{length}Connection: {connection}\r\n\r\n");
        timeout(REQUEST_MAX, async {
            self.stream.write_all(head.as_bytes()).await?;
            self.stream.flush().await
        })
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }
}

fn check_length(body_bytes: usize) -> Result<(), ReadError> {
    if body_bytes > BODY_BYTES_MAX {
        return Err(ReadError::Refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "its body is larger than 4 MiB",
        ));
    }
    Ok(())
}

type Head = (usize, (Request, Framing));

/// The head's length in bytes and what it says; `None` when it is not all there.
fn parse_head(buffer: &[u8]) -> Result<Option<Head>, ReadError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(ReadError::Refused(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "it has more than 100 headers",
            ));
        }
        Err(_) => return Err(bad("it is not HTTP/1.1")),
    };
    let mut request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        target: head.path.unwrap_or_default().to_owned(),
        headers: head
            .headers
            .iter()
            .map(|header| {
                (
                    header.name.to_owned(),
                    String::from_utf8_lossy(header.value).into_owned(),
                )
            })
            .collect(),
        ..Request::default()
    };
    let is_http_1_1 = head.version == Some(1);
    request.keep_alive = is_http_1_1 && !request.has_token("connection", "close");
    let framing = framing(&request)?;
    Ok(Some((length, (request, framing))))
}

fn framing(request: &Request) -> Result<Framing, ReadError> {
    let lengths: Vec<_> = request.all("content-length").collect();
    let codings: Vec<_> = request.all("transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Framing::Length(length.parse().unwrap_or(usize::MAX)))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        _ => Err(bad("the length of its body is not clear")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read off a connection that carries `bytes` and then ends, and what is written back.
    async fn read(bytes: &[u8]) -> (Vec<Result<Request, ReadError>>, String) {
        let (mut sender, receiver) = tokio::io::duplex(10 * 1024 * 1024);
        sender.write_all(bytes).await.unwrap();
        sender.shutdown().await.unwrap();
        let mut connection = Connection::new(receiver);
        let mut results = Vec::new();
        while connection.wait().await.is_ok() {
            let result = connection.request().await;
            let failed = result.is_err();
            results.push(result);
            if failed {
                break;
            }
        }
        drop(connection);
        let mut answers = String::new();
        sender.read_to_string(&mut answers).await.unwrap();
        (results, answers)
    }

    fn refusal(result: &Result<Request, ReadError>) -> u16 {
        match result {
            Err(ReadError::Refused(status, _)) => status.as_u16(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[tokio::test]
    async fn headers_keep_their_order_and_case() {
        let (results, _) = read(b"POST /a?b HTTP/1.1\r\nhOst: x\r\nX-B: 1\r\nX-a: 2\r\nx-b: 3\r\n\r\n").await;
        let request = results[0].as_ref().unwrap();
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(headers, ["hOst=x", "X-B=1", "X-a=2", "x-b=3"]);
        assert_eq!(
            (&*request.method, &*request.target, request.keep_alive),
            ("POST", "/a?b", true)
        );
        assert_eq!(request.header("x-B"), Some("1"));
    }

    #[tokio::test]
    async fn requests_one_behind_the_other_are_told_apart() {
        let (results, answers) = read(
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nonePOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\
              Expect: 100-continue\r\n\r\n2\r\ntw\r\n1;x=y\r\no\r\n0\r\nX-Trailer: a\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        )
        .await;
        let bodies: Vec<_> = results
            .iter()
            .map(|result| result.as_ref().unwrap().body.as_slice())
            .collect();
        assert_eq!(bodies, [&b"one"[..], b"two", b""]);
        assert!(!results[2].as_ref().unwrap().keep_alive);
        assert_eq!(answers, "HTTP/1.1 100 Continue\r\n\r\n");
    }

    #[tokio::test]
    async fn what_is_too_large_or_unclear_is_refused() {
        let large = format!("POST / HTTP/1.1\r\nX: {}", "x".repeat(70_000));
        let many = format!("POST / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101));
        let chunks = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            format!("100000\r\n{}\r\n", "x".repeat(0x10_0000)).repeat(5)
        );
        for (bytes, status) in [
            (&*large, 431),
            (&*many, 431),
            (
                "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                413,
            ),
            (&*chunks, 413),
            (
                "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                400,
            ),
            ("POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
            ("SSH-2.0-OpenSSH_9.2\r\n", 400),
        ] {
            let (results, _) = read(bytes.as_bytes()).await;
            assert_eq!(refusal(&results[0]), status);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_end_is_given_up_on() {
        let (mut sender, receiver) = tokio::io::duplex(1024);
        sender
            .write_all(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\no")
            .await
            .unwrap();
        let mut connection = Connection::new(receiver);
        connection.wait().await.unwrap();
        assert!(matches!(connection.request().await, Err(ReadError::Late)));
        let (_sender, receiver) = tokio::io::duplex(1024);
        assert!(matches!(
            Connection::new(receiver).wait().await,
            Err(ReadError::Closed)
        ));
    }
}
