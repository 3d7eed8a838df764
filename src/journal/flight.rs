//! A commit on its way to the disk.
//!
//! A large one is given to a thread that does nothing else, and meanwhile the writer puts the next one together:
//! it looks up the event ids of what waits, numbers the records and sums them. One is under way at a time, for a
//! commit is written only when the one before it is durable. A small one, which is what most are, is written by
//! the writer itself: it would take longer to hand it over.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SendError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Shared,
    frame::{self, FRAME_HEADER_BYTES, Seed},
    storage::StorageFile,
    writer::Writer,
};

/// How much is put together at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// A group is committed once its records have so many bytes; a single append may have more.
    pub(super) commit_bytes_max: usize,
    /// A commit of so many bytes is handed over, and so much that waits is worth a look meanwhile.
    pub(super) handed_over_bytes: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            commit_bytes_max: 4 * 1024 * 1024,
            handed_over_bytes: 64 * 1024,
        }
    }
}

/// Whether what waits is looked at while a commit is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meanwhile {
    /// The next group is put together.
    Stage,
    /// Nothing is done.
    Wait,
}

/// A commit, and where it goes.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) file: Arc<dyn StorageFile>,
    /// Room for the frame's header, then the records.
    pub(super) frame: Vec<u8>,
    /// The offset of the frame's first byte.
    pub(super) at: u64,
    pub(super) seed: Seed,
    /// The segment's number.
    pub(super) segment: u64,
    /// The commit's number.
    pub(super) commit: u64,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Landed {
    /// Its buffer, to be used again.
    pub(super) frame: Vec<u8>,
    /// How long the sync took. A failure is final: no later success of the same file would say anything about
    /// these bytes.
    pub(super) synced: io::Result<Duration>,
}

impl Flight {
    /// Writes the commit and makes it durable.
    pub(super) fn fly(mut self) -> Landed {
        frame::seal(&mut self.frame, self.seed, self.segment, self.commit);
        let synced = self.file.write_all_at(&self.frame, self.at).and_then(|()| {
            let begun = Instant::now();
            self.file.sync_data()?;
            Ok(begun.elapsed())
        });
        Landed {
            frame: self.frame,
            synced,
        }
    }
}

/// The thread that large commits are given to.
#[derive(Debug)]
pub(super) struct Pilot {
    flights: SyncSender<Flight>,
    landed: Receiver<Landed>,
    thread: JoinHandle<()>,
}

impl Pilot {
    /// Starts the thread; `shared`'s inbox is told of each landing.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        /// However the thread ends, the writer does not wait for it in vain.
        struct End(Arc<Shared>);
        impl Drop for End {
            fn drop(&mut self) {
                self.0.inbox.land();
            }
        }
        let (flights, given) = sync_channel::<Flight>(1);
        let (landing, landed) = sync_channel(1);
        let end = End(Arc::clone(shared));
        let thread = thread::Builder::new()
            .name("journal-commit".to_owned())
            .spawn(move || {
                for flight in given {
                    let landed = flight.fly();
                    // First, or it might be taken for the landing of the next one.
                    end.0.inbox.land();
                    if landing.send(landed).is_err() {
                        break;
                    }
                }
                // The writer must find the channel closed when it is told of this end.
                drop(landing);
                drop(end);
            })?;
        Ok(Self {
            flights,
            landed,
            thread,
        })
    }

    /// The result of the flight that was sent last.
    fn land(&self) -> Landed {
        self.landed.recv().unwrap_or_else(|_| Landed {
            frame: vec![0; FRAME_HEADER_BYTES],
            synced: Err(io::Error::other("the thread that writes commits is gone")),
        })
    }

    /// Ends the thread.
    pub(super) fn end(self) {
        drop(self.flights);
        // It panicked: that was told by the flight that did not land.
        let _ = self.thread.join();
    }
}

impl Writer {
    /// Writes a commit and makes it durable; if it is large, the next group is put together meanwhile.
    pub(super) fn fly(&mut self, flight: Flight, meanwhile: Meanwhile) -> Landed {
        if meanwhile == Meanwhile::Wait || flight.frame.len() < self.pace.handed_over_bytes {
            return flight.fly();
        }
        let Some(pilot) = self.pilot.take() else {
            // Turned by hand: one order of events, the one in which most has to be taken back if it fails.
            self.stage_line(Meanwhile::Stage);
            return flight.fly();
        };
        self.shared.inbox.take_off();
        if let Err(SendError(flight)) = pilot.flights.send(flight) {
            // The thread panicked at the one before: from here on the writer does it alone.
            pilot.end();
            return flight.fly();
        }
        self.stage_line(Meanwhile::Stage);
        while self.line.is_empty()
            && self
                .shared
                .inbox
                .take_meanwhile(&mut self.line, self.pace.handed_over_bytes)
        {
            self.has_met_more = true;
            self.stage_line(Meanwhile::Stage);
        }
        let landed = pilot.land();
        self.pilot = Some(pilot);
        landed
    }
}
