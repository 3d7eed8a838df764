//! Reading a body without holding more of it than is allowed.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::listener::{Body, BodyError};

/// A body up to this size is held at no account: one per connection, they are bounded by the
/// listener's cap. It is far above what a registry sends, one event at a time.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Of larger ones, as many as fit into this many bodies of the largest size are held at once.
const LARGE_AT_ONCE: usize = 16;

/// What is read of a body that nobody wants, before its connection is closed instead.
const DISCARD_BYTES_MAX: u64 = 256 * 1024;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(1);

/// Reads bodies; all that it reads share one account of memory.
#[derive(Debug)]
pub(super) struct Receiver {
    body_bytes_max: usize,
    wait_max: Duration,
    /// In units of [`SMALL_BYTES_MAX`].
    account: Arc<Semaphore>,
}

/// A body that was read.
#[derive(Debug)]
pub(super) struct Received {
    /// All of it, or as much of its beginning as is allowed.
    pub(super) body: Bytes,
    /// How long it was. More than `body` holds when it was too large.
    pub(super) total: u64,
    /// Whether its end was seen.
    pub(super) ended: bool,
    /// Held as long as the body is.
    _account: Option<OwnedSemaphorePermit>,
}

impl Received {
    /// One that came whole.
    #[cfg(test)]
    pub(super) fn whole(body: Bytes) -> Self {
        Self {
            total: body.len() as u64,
            body,
            ended: true,
            _account: None,
        }
    }

    /// Whether it is larger than allowed, so that a part of it is gone.
    pub(super) fn is_too_large(&self) -> bool {
        self.total > self.body.len() as u64
    }
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    /// It did not come whole.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Too many large ones are held already.
    #[error("too many large bodies at once")]
    NoMemory,
}

impl Receiver {
    pub(super) fn new(body_bytes_max: usize, wait_max: Duration) -> Self {
        let units = (body_bytes_max / SMALL_BYTES_MAX + 1).saturating_mul(LARGE_AT_ONCE);
        Self {
            body_bytes_max,
            wait_max,
            account: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Reads `body` to its end. Of one that is too large the beginning is kept, and the rest read
    /// and dropped for as long as the listener lets it come.
    pub(super) async fn receive(&self, body: &mut Body) -> Result<Received, ReceiveError> {
        let mut account = None;
        let mut kept = BytesMut::new();
        let mut total: u64 = 0;
        let mut ended = true;
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                // It is garbage whatever else would come, and must not be sent again.
                Err(BodyError::TimedOut) if total > self.body_bytes_max as u64 => {
                    ended = false;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let Ok(data) = frame.into_data() else { continue };
            total = total.saturating_add(data.len() as u64);
            if kept.is_empty() && body.is_end_stream() && data.len() <= self.body_bytes_max {
                // The usual case: one frame, taken as it is.
                return Ok(Received {
                    body: data,
                    total,
                    ended,
                    _account: account,
                });
            }
            let room = self.body_bytes_max.saturating_sub(kept.len());
            let fits = data.get(..room).unwrap_or(&data);
            if account.is_none() && kept.len() + fits.len() > SMALL_BYTES_MAX {
                account = Some(self.open_account(body).await?);
            }
            kept.extend_from_slice(fits);
        }
        Ok(Received {
            body: kept.freeze(),
            total,
            ended,
            _account: account,
        })
    }

    /// Once per body and for all of it, so that two never wait for each other.
    async fn open_account(&self, body: &Body) -> Result<OwnedSemaphorePermit, ReceiveError> {
        let rest = body
            .size_hint()
            .exact()
            .and_then(|rest| usize::try_from(rest).ok());
        let bytes = rest.map_or(self.body_bytes_max, |rest| {
            rest.saturating_add(2 * SMALL_BYTES_MAX).min(self.body_bytes_max)
        });
        let units = u32::try_from(bytes / SMALL_BYTES_MAX + 1).unwrap_or(u32::MAX);
        match timeout(self.wait_max, Arc::clone(&self.account).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ReceiveError::NoMemory),
        }
    }
}

/// Reads a small body that nobody wants, so that its client gets to read the answer. `false` when it
/// did not end in time: the connection is of no further use.
pub(super) async fn discard(mut body: Body) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if body.is_held_back() {
        // It was not sent yet, and will not be.
        return false;
    }
    let drained = async {
        let mut total: u64 = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            total += frame.data_ref().map_or(0, |data| data.len() as u64);
            if total > DISCARD_BYTES_MAX {
                return false;
            }
        }
        true
    };
    timeout(DISCARD_TIME_MAX, drained).await.unwrap_or(false)
}
