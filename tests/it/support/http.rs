//! A client for the few plain HTTP/1.1 requests that tests make themselves, to ports of this machine.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The longest that one read or write may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// Its status.
    pub(crate) status: u16,
    /// Its headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Its body, whole.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first header named `name` (in lower case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        Some(value)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that stays open between requests.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    port: u16,
}

impl Connection {
    /// Connects to `port` on loopback.
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
            port,
        })
    }

    /// Sends one request and reads its answer.
    ///
    /// A server may answer before it has read the whole body and close: the answer counts then.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut bytes = Vec::new();
        write!(
            bytes,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n",
            self.port
        )?;
        for (name, value) in headers {
            write!(bytes, "{name}: {value}\r\n")?;
        }
        write!(bytes, "Content-Length: {}\r\n\r\n", body.len())?;
        bytes.extend_from_slice(body);
        let sent = self.stream.get_mut().write_all(&bytes);
        let answer = self.answer(method == "HEAD");
        match (sent, answer) {
            (_, Ok(answer)) => Ok(answer),
            (Err(error), Err(_)) | (Ok(()), Err(error)) => Err(error),
        }
    }

    fn answer(&mut self, is_head: bool) -> io::Result<Response> {
        let status = loop {
            let line = self.line()?;
            let status = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
            let status = status.ok_or_else(|| bad(&format!("a status line, not {line:?}")))?;
            if status >= 200 {
                break status;
            }
            while !self.line()?.is_empty() {}
        };
        let mut response = Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("a header"))?;
            response
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if is_head || matches!(status, 204 | 304) {
            return Ok(response);
        }
        let length = response.header("content-length").map(str::parse::<u64>);
        if response.header("transfer-encoding") == Some("chunked") {
            self.chunks(&mut response.body)?;
        } else if let Some(length) = length {
            let length = length.map_err(|_| bad("a Content-Length"))?;
            let read = (&mut self.stream).take(length).read_to_end(&mut response.body)?;
            if (read as u64) < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        } else {
            self.stream.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size.trim(), 16).map_err(|_| bad("a chunk size"))?;
            (&mut self.stream).take(size).read_to_end(body)?;
            self.line()?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}

/// One request on a connection of its own.
pub(crate) fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let mut headers = headers.to_vec();
    headers.push(("Connection", "close"));
    Connection::open(port)?.request(method, path, &headers, body)
}

/// `GET path`.
pub(crate) fn get(port: u16, path: &str) -> io::Result<Response> {
    request(port, "GET", path, &[], &[])
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("expected {what}"))
}
