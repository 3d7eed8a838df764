//! The floor under the ingest: a bare hyper server, a process of its own, that parses the same envelopes and
//! commits them in groups. It asks for no token, filters nothing, knows no event twice, keeps no queue, and
//! lets clients do what they like.

use std::{
    convert::Infallible,
    mem,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use anyhow::bail;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinSet};

use super::framed::Framed;

/// What is kept of an envelope: the fields that shipbell keeps.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    events: Vec<Event<'a>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    id: &'a str,
    action: &'a str,
    #[serde(borrow)]
    target: Target<'a>,
    #[serde(borrow)]
    request: Host<'a>,
    #[serde(borrow, default)]
    actor: Actor<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: u64,
    repository: &'a str,
    #[serde(default)]
    tag: &'a str,
    #[serde(borrow, default)]
    references: Vec<Reference<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: u64,
}

#[derive(Deserialize)]
struct Host<'a> {
    host: &'a str,
}

#[derive(Default, Deserialize)]
struct Actor<'a> {
    #[serde(default)]
    name: &'a str,
}

/// The records that wait, and who waits for them.
#[derive(Default)]
struct Group {
    waiting: Mutex<Vec<(Vec<u8>, oneshot::Sender<()>)>>,
    wake: Condvar,
}

impl Group {
    fn append(&self, record: Vec<u8>) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push((record, reply));
        drop(waiting);
        self.wake.notify_one();
        answer
    }

    /// Takes all that waits, makes it durable, wakes everybody; and again. An error ends it, and all answers.
    fn write(&self, framed: &mut Framed) {
        let mut taken = Vec::new();
        loop {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            while waiting.is_empty() {
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            mem::swap(&mut *waiting, &mut taken);
            drop(waiting);
            if framed.commit(taken.iter().map(|(record, _)| record)).is_err() {
                return;
            }
            for (_, reply) in taken.drain(..) {
                // A client may have gone.
                let _ = reply.send(());
            }
        }
    }
}

/// Serves until it is killed.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let [port, folder] = arguments else {
        bail!("usage: floor-server PORT FOLDER");
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port.parse()?));
    let mut framed = Framed::create(Path::new(folder))?;
    let group = Arc::new(Group::default());
    let writer = Arc::clone(&group);
    thread::spawn(move || writer.write(&mut framed));
    Runtime::new()?.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let group = Arc::clone(&group);
            connections.spawn(async move {
                let service = service_fn(|request| take(request, &group));
                // A client that goes away is nobody's business here.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn take(request: Request<Incoming>, group: &Group) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = match request.into_body().collect().await {
        Ok(body) => match record(&body.to_bytes()) {
            Some(record) => match group.append(record).await {
                Ok(()) => StatusCode::ACCEPTED,
                Err(_) => StatusCode::SERVICE_UNAVAILABLE,
            },
            None => StatusCode::UNPROCESSABLE_ENTITY,
        },
        Err(_) => StatusCode::BAD_REQUEST,
    };
    Ok(response)
}

/// The pushes of an envelope, as they are written.
fn record(body: &[u8]) -> Option<Vec<u8>> {
    let envelope: Envelope<'_> = serde_json::from_slice(body).ok()?;
    let mut record = Vec::with_capacity(512);
    for event in envelope.events {
        if event.action != "push" {
            continue;
        }
        let target = event.target;
        for text in [event.id, target.repository, target.tag, target.media_type] {
            put(&mut record, text.as_bytes())?;
        }
        for text in [event.request.host, event.actor.name] {
            put(&mut record, text.as_bytes())?;
        }
        put_digest(&mut record, target.digest)?;
        record.extend_from_slice(&target.size.to_le_bytes());
        for reference in target.references {
            put(&mut record, reference.media_type.as_bytes())?;
            put_digest(&mut record, reference.digest)?;
            record.extend_from_slice(&reference.size.to_le_bytes());
        }
    }
    Some(record)
}

fn put(record: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    record.push(u8::try_from(bytes.len()).ok()?);
    record.extend_from_slice(bytes);
    Some(())
}

/// A digest in half the bytes of its text.
fn put_digest(record: &mut Vec<u8>, digest: &str) -> Option<()> {
    let (_, hex) = digest.split_once(':')?;
    let (pairs, _) = hex.as_bytes().as_chunks::<2>();
    for pair in pairs {
        let [high, low] = pair.map(|digit| {
            char::from(digit)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        });
        record.push(high? << 4 | low?);
    }
    Some(())
}
