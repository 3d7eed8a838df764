//! Where webhooks go: bare receivers on one runtime, of which some answer at once and some never; and a registry
//! that knows of nothing, so that sizing takes one request for each repository and waits for nobody.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinSet,
};

const NAME_UNKNOWN: &str = r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#;

/// What a sink does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Answers 200 at once.
    Answers,
    /// Takes connections, reads, and says nothing.
    Hangs,
    /// Answers as a registry does that has no such repository.
    KnowsNothing,
}

/// Is told the image of each webhook that came, before it is answered.
pub(crate) type Told = Arc<dyn Fn(&str) + Send + Sync>;

/// Sinks that are up, each at a port of its own. Dropping them closes the ports.
pub(crate) struct Sinks {
    /// Theirs, in order.
    pub(crate) ports: Vec<u16>,
    runtime: Option<Runtime>,
}

impl Sinks {
    /// One for each of these manners.
    pub(crate) fn start(manners: &[Manner], told: &Told) -> anyhow::Result<Self> {
        raise_open_files()?;
        let runtime = Runtime::new()?;
        let (mut ports, mut tasks) = (Vec::new(), JoinSet::new());
        for manner in manners {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let listener = runtime.block_on(TcpListener::bind(address))?;
            ports.push(listener.local_addr()?.port());
            tasks.spawn_on(accept(listener, *manner, Arc::clone(told)), runtime.handle());
        }
        tasks.detach_all();
        Ok(Self {
            ports,
            runtime: Some(runtime),
        })
    }

    /// One that answers, with its URL, and a registry that knows nothing, with its.
    pub(crate) fn one(told: &Told) -> anyhow::Result<(Self, String, String)> {
        let sinks = Self::start(&[Manner::Answers, Manner::KnowsNothing], told)?;
        let [hook, registry] = sinks.ports[..] else {
            bail!("two ports");
        };
        let url = |port, path| format!("http://127.0.0.1:{port}{path}");
        Ok((sinks, url(hook, "/hook"), url(registry, "")))
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// Both ends of some connections are of this process.
fn raise_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

async fn accept(listener: TcpListener, manner: Manner, told: Told) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let told = Arc::clone(&told);
        connections.spawn(async move {
            match manner {
                Manner::Answers => answer(stream, &told, StatusCode::OK, "").await,
                Manner::KnowsNothing => answer(stream, &told, StatusCode::NOT_FOUND, NAME_UNKNOWN).await,
                Manner::Hangs => hang(stream).await,
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(stream: TcpStream, told: &Told, status: StatusCode, body: &'static str) {
    let service = service_fn(|request: Request<Incoming>| async {
        let image = request.headers().get("x-alin-webhook").cloned();
        // A body that breaks off is told too: shipbell takes its time for that, not the sink.
        let _ = request.into_body().collect().await;
        if let Some(image) = image.as_ref().and_then(|image| image.to_str().ok()) {
            told(image);
        }
        let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    });
    // A client that goes away is nobody's business here.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn hang(mut stream: TcpStream) {
    // Until the other side has had enough.
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}
