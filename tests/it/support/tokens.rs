//! A token server as the registry's documentation describes it: it takes Basic credentials and gives
//! signed tokens for the scopes asked for.
//!
//! <https://distribution.github.io/distribution/spec/auth/jwt/>

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use rcgen::{CertificateParams, KeyPair, SigningKey};
use serde_json::{Value, json};
use shipbell::clock::Clock;

use super::ports;

/// The service that its tokens are for.
pub(crate) const SERVICE: &str = "the registry";
/// Who signs them.
pub(crate) const ISSUER: &str = "the tests";
const USERS: [(&str, &str); 2] = [("pusher", "pushes"), ("shipbell", "reads")];

/// One request for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) user: String,
    pub(crate) service: String,
    pub(crate) scopes: Vec<String>,
}

/// A running token server.
pub(crate) struct TokenServer {
    port: u16,
    certificate: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    stopped: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

struct Issuer {
    key: KeyPair,
    certificate: Vec<u8>,
}

impl TokenServer {
    /// Starts one with a key of its own.
    pub(crate) fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["tokens.test".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let port = ports::free();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let server = thread::spawn({
            let (asked, stopped) = (Arc::clone(&asked), Arc::clone(&stopped));
            let issuer = Issuer {
                key,
                certificate: certificate.der().to_vec(),
            };
            move || {
                for stream in listener.incoming() {
                    if stopped.load(Ordering::Acquire) {
                        return;
                    }
                    // A client that went away gets no token.
                    let _ = stream.and_then(|stream| answer(stream, &issuer, &asked));
                }
            }
        });
        Self {
            port,
            certificate: certificate.pem(),
            asked,
            stopped,
            server: Some(server),
        }
    }

    /// Where tokens are to be had.
    pub(crate) fn realm(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    /// The certificate that its tokens are to be verified with, PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Credentials to push with.
    pub(crate) fn pusher() -> String {
        let [(user, password), _] = USERS;
        format!("{user}:{password}")
    }

    /// User and password for shipbell.
    pub(crate) fn reader() -> (&'static str, &'static str) {
        let [_, reader] = USERS;
        reader
    }

    /// What tokens were asked for.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn answer(stream: TcpStream, issuer: &Issuer, asked: &Mutex<Vec<Asked>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let (status, body) = match user(&lines) {
        Some(user) => {
            let path = lines[0].split(' ').nth(1).unwrap();
            let url = url::Url::parse(&format!("http://tokens.test{path}")).unwrap();
            let all = |key: &str| -> Vec<String> {
                url.query_pairs()
                    .filter(|(name, _)| name == key)
                    .map(|(_, value)| value.into_owned())
                    .collect()
            };
            let request = Asked {
                user,
                service: all("service").concat(),
                scopes: all("scope"),
            };
            let token = issuer.token(&request);
            asked.lock().unwrap().push(request);
            ("200 OK", json!({ "token": token, "expires_in": 300 }))
        }
        None => ("401 Unauthorized", json!({ "errors": [] })),
    };
    let body = body.to_string();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn user(lines: &[String]) -> Option<String> {
    let basic = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then_some(value)
    })?;
    let decoded = BASE64_STANDARD.decode(basic.strip_prefix("Basic ")?).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = decoded.split_once(':')?;
    USERS.contains(&(user, password)).then(|| user.to_owned())
}

impl Issuer {
    /// A JSON Web Token, ES256, with the certificate in its header.
    fn token(&self, asked: &Asked) -> String {
        let now = Clock::system().now().unix_seconds();
        let access: Vec<Value> = asked
            .scopes
            .iter()
            .flat_map(|scopes| scopes.split(' '))
            .map(|scope| {
                let mut parts = scope.splitn(3, ':');
                let (kind, name, actions) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
                // The reader may not push, whatever it asks for.
                let actions: Vec<&str> = actions
                    .split(',')
                    .filter(|&action| action == "pull" || asked.user == "pusher")
                    .collect();
                json!({ "type": kind, "name": name, "actions": actions })
            })
            .collect();
        let header = json!({
            "typ": "JWT", "alg": "ES256", "x5c": [BASE64_STANDARD.encode(&self.certificate)],
        });
        let claims = json!({
            "iss": ISSUER, "sub": asked.user, "aud": asked.service, "jti": format!("{now}-{access:?}"),
            "iat": now, "nbf": now - 10, "exp": now + 300, "access": access,
        });
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = fixed_width(&self.key.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The two 32-byte numbers of a P-256 signature, from their ASN.1 form: `SEQUENCE { r INTEGER, s INTEGER }`,
/// in which a number has no leading zeros but for the one that keeps it positive.
fn fixed_width(asn1: &[u8]) -> [u8; 64] {
    let mut fixed = [0; 64];
    let mut rest = &asn1[2..];
    for number in fixed.as_chunks_mut::<32>().0 {
        let (bytes, after) = rest[2..].split_at(usize::from(rest[1]));
        let bytes = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        number[32 - bytes.len()..].copy_from_slice(bytes);
        rest = after;
    }
    fixed
}
