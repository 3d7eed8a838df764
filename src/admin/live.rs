//! Who is kept up to date, and for how long: until they leave, or the process drains.

use std::{fmt, net::SocketAddr, sync::Arc};

use http::{HeaderMap, Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{
    access::{self, Access, Who},
    problem::Problem,
};

/// Streams at once, of all pages of all people.
pub const STREAMS_MAX: usize = 64;

/// In how many seconds there may be room for another.
const TRY_AGAIN_S: u64 = 30;

/// The room for streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}

impl Streams {
    /// Room for one more, until it is dropped.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn room(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let detail =
                format!("{STREAMS_MAX} pages are kept up to date already: this one is not, reload it");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(TRY_AGAIN_S)
        })
    }
}

/// What somebody showed at the door, to be looked at again while a stream lasts. Never shown: it holds credentials.
#[derive(Clone)]
pub(super) struct Pass {
    access: Access,
    headers: HeaderMap,
    peer: SocketAddr,
    stop: CancellationToken,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Pass {
    pub(super) fn new(
        access: &Access,
        headers: &HeaderMap,
        peer: SocketAddr,
        stop: &CancellationToken,
    ) -> Self {
        Self {
            access: access.clone(),
            headers: headers.clone(),
            peer,
            stop: stop.clone(),
        }
    }

    /// Who it is now.
    ///
    /// # Errors
    /// Nobody any more who may come in.
    pub(super) fn who(&self) -> Result<Who, Problem> {
        self.access.who(&Method::GET, &self.headers, self.peer)
    }

    /// That it is one of our own pages that asks: another site's must not take the room.
    ///
    /// # Errors
    /// It is another's.
    pub(super) fn is_ours(&self) -> Result<(), Problem> {
        access::same_origin(&Method::POST, &self.headers)
    }

    /// Tells that somebody left.
    pub(super) fn departures(&self) -> watch::Receiver<()> {
        self.access.departures()
    }

    /// Cancelled when the process drains.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}
