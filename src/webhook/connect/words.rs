//! What the system says of names and connections: what it means, in words for people.

use std::{io, net::SocketAddr};

use rustix::io::Errno;

use super::ConnectError;

/// Why a name has no address; `None` when it has.
pub(crate) fn resolver_words(found: &io::Result<Vec<SocketAddr>>) -> Option<String> {
    match found {
        Ok(addresses) if addresses.is_empty() => Some("it has no address".to_owned()),
        Ok(_) => None,
        Err(error) => {
            let text = error.to_string();
            let words = text.strip_prefix("failed to lookup address information: ");
            Some(words.unwrap_or(&text).to_owned())
        }
    }
}

/// What an I/O error means to a person.
pub(in crate::webhook) fn io_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset by the receiver".into(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => "connection lost".into(),
        io::ErrorKind::UnexpectedEof => "the receiver closed the connection".into(),
        io::ErrorKind::HostUnreachable => "no route to the host".into(),
        io::ErrorKind::NetworkUnreachable => "no route to the network".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => error.to_string(),
    }
}

/// That this process has nothing left to connect with, if the error is of that kind. The resolver doesn't always say
/// so.
pub(super) fn ours(error: &io::Error) -> Option<ConnectError> {
    match Errno::from_io_error(error)? {
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => {
            Some(ConnectError::Ours(error.to_string()))
        }
        _ => None,
    }
}
