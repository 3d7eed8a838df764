//! Proxies: HTTP and SOCKS 5, as small as they can be. Whatever name they are asked for, they resolve to this
//! machine, so that a test sees who resolved it.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
};

use super::raw::{RawReceiver, join, read_head};

/// A proxy that notes what it was asked for.
pub(crate) struct TestProxy {
    raw: RawReceiver,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TestProxy {
    /// An HTTP proxy: tunnels and whole URLs.
    pub(crate) fn http() -> Self {
        Self::start(serve_http)
    }

    /// A SOCKS 5 proxy that wants the name `user` and the password `hunter2`.
    pub(crate) fn socks() -> Self {
        Self::start(serve_socks)
    }

    fn start(serve: fn(&mut TcpStream, &Mutex<Vec<String>>) -> io::Result<()>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        Self {
            raw: RawReceiver::start(move |stream| serve(stream, &noted)),
            asked,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.raw.port()
    }

    /// What it was asked for: heads of requests, or hosts and ports.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", port))
}

fn port_of(authority: &str) -> u16 {
    authority.rsplit(':').next().unwrap().parse().unwrap()
}

fn serve_http(client: &mut TcpStream, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let head = read_head(client)?;
    asked.lock().unwrap().push(head.clone());
    let target = head.split(' ').nth(1).unwrap();
    if head.starts_with("CONNECT ") {
        let upstream = connect(port_of(target))?;
        client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")?;
        return join(client, &upstream);
    }
    let (_, rest) = target.split_once("://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap();
    let mut upstream = connect(port_of(authority))?;
    let own = head.replacen(target, &format!("/{path}"), 1);
    let lines = own.split_inclusive("\r\n");
    let kept = lines.filter(|line| !line.to_ascii_lowercase().starts_with("proxy-"));
    upstream.write_all(kept.collect::<String>().as_bytes())?;
    join(client, &upstream)
}

fn take(client: &mut TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn serve_socks(client: &mut TcpStream, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let methods = take(client, 2)?[1];
    assert!(
        take(client, usize::from(methods))?.contains(&2),
        "no login is offered"
    );
    client.write_all(&[5, 2])?;
    let length = take(client, 2)?[1];
    let user = take(client, usize::from(length))?;
    let length = take(client, 1)?[0];
    let password = take(client, usize::from(length))?;
    let is_right = user == b"user" && password == b"hunter2";
    client.write_all(&[1, u8::from(!is_right)])?;
    let kind = take(client, 4)?[3];
    assert_eq!(kind, 3, "names go to the proxy as they are");
    let length = take(client, 1)?[0];
    let host = String::from_utf8(take(client, usize::from(length))?).unwrap();
    let port = take(client, 2)?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    asked.lock().unwrap().push(format!("{host}:{port}"));
    let upstream = connect(port)?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    join(client, &upstream)
}
