//! Who is kept up to date, and for how long: until they leave, or the process drains.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    access::{self, Access, Who},
    problem::Problem,
};

use crate::locked::Locked as _;

/// Streams at once, of all pages of all people.
pub const STREAMS_MAX: usize = 64;

/// For so long a stream lasts by what a proxy said at its beginning: it is not asked again meanwhile, so that somebody whose
/// session ended there, or who left a group, would look on for ever. The browser asks again by itself.
const BY_PROXY_MAX: Duration = Duration::from_mins(10);

/// In how many seconds there may be room for another.
const TRY_AGAIN_S: u64 = 30;

/// Of one person so many, so that nobody takes the room of all others.
pub const STREAMS_OF_ONE_MAX: usize = 48;

/// Pages that are written at once for streams: one change has all of them written anew, and others wait for the threads
/// that read for it.
const TURNS: usize = 4;

/// The room for streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Streams {
    taken: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    turns: Arc<Semaphore>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            taken: Arc::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }
}

/// Room for a stream, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    streams: Streams,
    whose: Arc<str>,
}

impl Streams {
    /// Room for one more of this person.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn room(&self, whose: &Arc<str>) -> Result<Room, Problem> {
        let mut taken = self.taken();
        let (all, own) = (
            taken.values().sum::<usize>(),
            taken.get(whose).copied().unwrap_or(0),
        );
        let full = if all >= STREAMS_MAX {
            Some((STREAMS_MAX, "pages are"))
        } else {
            (own >= STREAMS_OF_ONE_MAX).then_some((STREAMS_OF_ONE_MAX, "of your pages are"))
        };
        if let Some((most, pages)) = full {
            let detail = format!("{most} {pages} kept up to date already: this one is not, reload it");
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(TRY_AGAIN_S));
        }
        taken.insert(Arc::clone(whose), own + 1);
        Ok(Room {
            streams: self.clone(),
            whose: Arc::clone(whose),
        })
    }

    /// Waits until a page may be written, which is until what is given is dropped. They come in the order in which they
    /// asked.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.taken.locked()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.streams.taken();
        if let Some(own) = taken.get_mut(&self.whose) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.whose);
            }
        }
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

    /// When a stream that begins now ends, if it has an end.
    pub(super) fn until(&self) -> Option<Instant> {
        self.access.is_by_proxy().then(|| Instant::now() + BY_PROXY_MAX)
    }

    /// Cancelled when the process drains.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_proxy_said_holds_for_ten_minutes_and_a_token_as_long_as_it_is_one() {
        let pass = |door| {
            let (peer, stop) = (SocketAddr::from(([127, 0, 0, 1], 1)), CancellationToken::new());
            Pass::new(&Access::new(door), &HeaderMap::new(), peer, &stop)
        };
        let proxy = access::Proxy {
            networks: Vec::new(),
            user_header: http::HeaderName::from_static("x-forwarded-user"),
            groups_header: http::HeaderName::from_static("x-forwarded-groups"),
            groups: Vec::new(),
            secret: None,
        };
        let now = Instant::now();
        assert_eq!(
            pass(access::Door::Proxy(proxy)).until(),
            Some(now + Duration::from_mins(10))
        );
        assert_eq!(pass(access::Door::Tokens(Vec::new())).until(), None);
    }

    #[tokio::test]
    async fn few_pages_are_written_at_once_and_the_next_one_when_one_is_done() {
        let streams = Streams::default();
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(streams.turn().now_or_never().flatten().unwrap());
        }
        assert!(streams.turn().now_or_never().is_none());
        turns.pop();
        assert!(streams.turn().now_or_never().flatten().is_some());
    }

    #[test]
    fn nobody_takes_the_room_of_all_others() {
        let streams = Streams::default();
        let [ann, eve] = ["ann", "eve"].map(Arc::<str>::from);
        let anns: Vec<_> = (0..STREAMS_OF_ONE_MAX)
            .map(|_| streams.room(&ann).unwrap())
            .collect();
        let refused = streams.room(&ann).unwrap_err().detail;
        assert!(
            refused.starts_with("48 of your pages are kept up to date already"),
            "{refused}"
        );
        let mut eves: Vec<_> = (anns.len()..STREAMS_MAX)
            .map(|_| streams.room(&eve).unwrap())
            .collect();
        let refused = streams.room(&eve).unwrap_err().detail;
        assert!(
            refused.starts_with("64 pages are kept up to date already"),
            "{refused}"
        );
        drop(anns);
        eves.push(streams.room(&eve).unwrap());
        drop(eves);
        assert!(streams.taken().is_empty());
    }
}
