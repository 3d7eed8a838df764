//! `admin.sock` in the data directory: the API for the operator's own command line.
//!
//! Only the owner of the data directory may open it (mode 0600), and whoever may is an admin: they could read and
//! write every file beside it as well. A socket that a process before this one left behind is replaced; the journal's
//! lock, which is held by then, says that this process is the only one.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Admin, Asked, access::Who, guarded, route};
use crate::lifecycle::Tasks;

/// The socket's name in the data directory.
pub const FILE: &str = "admin.sock";

/// Connections at once.
const CONNECTIONS_MAX: usize = 32;

/// How long a head may take to come, and a connection to last.
const HEAD_MAX: Duration = Duration::from_secs(5);
const CONNECTION_MAX: Duration = Duration::from_mins(10);

/// The wait after a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(50);

/// The socket, listened on. Its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens on `admin.sock` in `data_dir`.
    ///
    /// # Errors
    /// It can't be made: the path is too long for a socket (108 bytes), or the disk refuses.
    pub fn bind(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        match fs::symlink_metadata(&path) {
            Ok(there) if there.file_type().is_socket() => fs::remove_file(&path)?,
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file of that name",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Nobody else can come in between: the directory is its owner's alone.
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until `stop` is cancelled.
    pub async fn serve(self, admin: Admin, tasks: Tasks, stop: CancellationToken) {
        info!(socket = %self.path.display(), "listening");
        let router = admin.router();
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let next = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (self.listener.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = next => next,
            };
            let (Ok((stream, _)), Ok(permit)) = (accepted, permit) else {
                sleep(PAUSE).await;
                continue;
            };
            let (router, stop, hard) = (router.clone(), stop.clone(), tasks.hard().clone());
            tasks.spawn("admin connection", async move {
                let _permit = permit;
                hard.run_until_cancelled(connection(router, stream, stop)).await;
            });
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(socket = %self.path.display(), %error, "the socket's file stays behind; the next start replaces it");
        }
    }
}

/// Serves a connection until it ends. From `stop` on it takes no further request; one that it has is seen through.
async fn connection(router: axum::Router, stream: UnixStream, stop: CancellationToken) {
    let name = match stream.peer_cred() {
        Ok(peer) => format!("uid:{}", peer.uid()),
        Err(_) => "local".to_owned(),
    };
    let who = Who::admin(&name);
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let router = router.clone();
        let asked = Asked {
            login: false,
            who: Some(who.clone()),
            path: request.uri().path().to_owned(),
            pass: None,
        };
        async move { Ok::<_, std::convert::Infallible>(guarded(route(router, asked, request).await)) }
    });
    let mut http = http1::Builder::new();
    // Who goes away may have asked for a change: that is seen through, so that what is saved is in effect.
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .half_close(true);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    let serving = async {
        tokio::select! {
            served = serving.as_mut() => return served,
            () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        serving.await
    };
    let served = timeout(CONNECTION_MAX, serving).await;
    if let Ok(Err(error)) = served {
        debug!(%error, "a connection to the socket ended early");
    }
}
