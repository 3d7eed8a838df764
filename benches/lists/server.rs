//! The process whose lists are asked for.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

/// The status that a path is answered with, once all of the answer is there.
pub(crate) fn get(port: u16, token: &str, path: &str) -> anyhow::Result<u16> {
    Ok(ask(port, token, "GET", path, "")?.0)
}

/// The status that somebody with this token is answered with, and the body.
pub(crate) fn ask(
    port: u16,
    token: &str,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    let authorization = if token.is_empty() {
        String::new()
    } else {
        format!("Authorization: Bearer {token}\r\n")
    };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/html, application/json\r\n\
         {authorization}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.context("no answer")? + 4);
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).context("no status")?;
    Ok((status.parse()?, body))
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The real process.
pub(crate) struct Server(Child);

impl Server {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(file: &Path, ops: u16) -> anyhow::Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_shipbell"))
            .args(["serve", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .spawn()?;
        let server = Self(child);
        let deadline = Instant::now() + Duration::from_mins(2);
        while !get(ops, "", "/readyz").is_ok_and(|status| status == 200) {
            if Instant::now() > deadline {
                bail!("it is not ready within two minutes");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Ends it, as a system would.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, unless something went wrong before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
