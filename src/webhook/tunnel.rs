//! How a proxy is asked for a way through: HTTP's `CONNECT` (RFC 9110, section 9.3.6) and SOCKS 5 (RFC 1928, with
//! names and passwords by RFC 1929).
//!
//! Our own, for the errors: who has to mend something wants to know whether it is the proxy's address, its
//! password or its rules. Each answer is read to its last byte and no further, so that what follows is the
//! endpoint's.

use std::{fmt::Write as _, io, net::IpAddr};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{connect::io_words, proxy::Proxy};

/// The most bytes of an answer to `CONNECT`.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// The most headers of one.
const HEADERS_MAX: usize = 64;

/// What a proxy fell short of. Says nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFailure {
    /// There is no connection to the proxy itself.
    #[error("can't be reached: {0}")]
    Unreachable(String),
    /// It was not done in time.
    #[error("did not finish {0} in time")]
    Late(Step),
    /// The connection broke.
    #[error("broke off during {0}: {1}")]
    Lost(Step, String),
    /// It wants credentials, and there are none.
    #[error("wants a user's name and a password")]
    NoLogin,
    /// It does not take those there are.
    #[error("refuses the user's name or the password")]
    WrongLogin,
    /// It answered `CONNECT` with another status than 2xx.
    #[error("refuses the tunnel (CONNECT): it answered {0}")]
    Status(StatusCode),
    /// It answered a SOCKS request with a failure.
    #[error("gives no connection (SOCKS): {0}")]
    Reply(&'static str),
    /// It speaks something else.
    #[error("does not speak {0}")]
    Protocol(&'static str),
    /// The target's name is too long for SOCKS.
    #[error("can't be given a host of more than 255 bytes (SOCKS)")]
    Host,
}

/// How far it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Being connected to.
    Connecting,
    /// HTTP's request for a tunnel.
    Connect,
    /// SOCKS: agreeing on a method, and credentials.
    Greeting,
    /// SOCKS: the request for a connection.
    Request,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connecting => "the connection to it",
            Self::Connect => "CONNECT",
            Self::Greeting => "the SOCKS greeting",
            Self::Request => "the SOCKS request",
        })
    }
}

/// Asks an HTTP proxy for a tunnel to `host` (an IPv6 address in brackets) and `port`.
///
/// # Errors
/// It gives none.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
    (host, port): (&str, u16),
) -> Result<(), ProxyFailure> {
    let lost = |error: io::Error| ProxyFailure::Lost(Step::Connect, io_words(&error));
    let mut head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(value) = proxy.authorization() {
        // Base64 is text, and writing to a String doesn't fail.
        let _ = write!(
            head,
            "Proxy-Authorization: {}\r\n",
            value.to_str().unwrap_or_default()
        );
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.map_err(lost)?;

    let mut answer = Vec::new();
    let status = loop {
        // Byte by byte: what comes behind the answer belongs to the tunnel, and the answer is short.
        answer.push(stream.read_u8().await.map_err(lost)?);
        if answer.ends_with(b"\n")
            && let Some(status) = status(&answer)?
        {
            break status;
        }
        if answer.len() >= ANSWER_BYTES_MAX {
            return Err(ProxyFailure::Protocol("HTTP"));
        }
    };
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(login_failure(proxy)),
        status => Err(ProxyFailure::Status(status)),
    }
}

/// The status of an answer whose head is complete.
fn status(answer: &[u8]) -> Result<Option<StatusCode>, ProxyFailure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let protocol = ProxyFailure::Protocol("HTTP");
    match response.parse(answer) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(_)) => {
            let code = response.code.unwrap_or_default();
            StatusCode::from_u16(code).map(Some).map_err(|_| protocol)
        }
        Err(_) => Err(protocol),
    }
}

/// What a demand for credentials means: that there are none, or that they are wrong.
pub(super) fn login_failure(proxy: &Proxy) -> ProxyFailure {
    match proxy.login() {
        None => ProxyFailure::NoLogin,
        Some(_) => ProxyFailure::WrongLogin,
    }
}

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const WITH_LOGIN: u8 = 2;
const NONE_OF_THESE: u8 = 0xff;

/// Greets a SOCKS proxy, and says who we are if it asks.
///
/// # Errors
/// It doesn't let us in.
pub(super) async fn socks_greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
) -> Result<(), ProxyFailure> {
    let lost = |error: io::Error| ProxyFailure::Lost(Step::Greeting, io_words(&error));
    let greeting: &[u8] = match proxy.login() {
        None => &[VERSION, 1, NO_LOGIN],
        Some(_) => &[VERSION, 2, NO_LOGIN, WITH_LOGIN],
    };
    stream.write_all(greeting).await.map_err(lost)?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await.map_err(lost)?;
    let login = match (answer, proxy.login()) {
        ([VERSION, NO_LOGIN], _) => return Ok(()),
        ([VERSION, WITH_LOGIN], Some(login)) => login,
        ([VERSION, NONE_OF_THESE], _) => return Err(login_failure(proxy)),
        _ => return Err(ProxyFailure::Protocol("SOCKS 5")),
    };
    let mut message = vec![1];
    for part in [&login.username, &login.password] {
        // At most 255 bytes: a proxy with more doesn't parse.
        message.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        message.extend_from_slice(part);
    }
    stream.write_all(&message).await.map_err(lost)?;
    stream.read_exact(&mut answer).await.map_err(lost)?;
    match answer {
        [_, 0] => Ok(()),
        _ => Err(ProxyFailure::WrongLogin),
    }
}

/// Asks a SOCKS proxy that let us in for a connection to `host` (an IPv6 address in brackets) and `port`. A name
/// goes to it as it is.
///
/// # Errors
/// It gives none.
pub(super) async fn socks_request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    (host, port): (&str, u16),
) -> Result<(), ProxyFailure> {
    let lost = |error: io::Error| ProxyFailure::Lost(Step::Request, io_words(&error));
    let mut message = vec![VERSION, 1, 0];
    match host.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(ip)) => {
            message.push(1);
            message.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            message.push(4);
            message.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            message.push(3);
            message.push(u8::try_from(host.len()).map_err(|_| ProxyFailure::Host)?);
            message.extend_from_slice(host.as_bytes());
        }
    }
    message.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&message).await.map_err(lost)?;

    let mut head = [0; 4];
    stream.read_exact(&mut head).await.map_err(lost)?;
    let [VERSION, reply, _, kind] = head else {
        return Err(ProxyFailure::Protocol("SOCKS 5"));
    };
    if reply != 0 {
        return Err(ProxyFailure::Reply(reply_words(reply)));
    }
    // The address that it is bound to, which tells us nothing, and a port.
    let length = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await.map_err(lost)?),
        _ => return Err(ProxyFailure::Protocol("SOCKS 5")),
    };
    let mut bound = vec![0; length + 2];
    stream.read_exact(&mut bound).await.map_err(lost)?;
    Ok(())
}

/// RFC 1928, section 6.
fn reply_words(reply: u8) -> &'static str {
    match reply {
        2 => "its rules don't allow it",
        3 => "no route to the network",
        4 => "the host can't be reached",
        5 => "the endpoint refused the connection",
        6 => "the way is too long (TTL)",
        7 => "it doesn't know how to connect",
        8 => "it doesn't take this kind of address",
        _ => "it failed",
    }
}

#[cfg(test)]
mod tests;
