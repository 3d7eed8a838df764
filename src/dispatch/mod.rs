//! The dispatcher: takes what is due from the queue, has it sized, sends it, settles it.
//!
//! One task waits for the queue's agenda. Each lane that is lent from has a task of its own, for a batch or
//! until something fails: it prepares the batch, waits for its turn, makes one attempt, gives the lease
//! back, and goes on with the lane's next push. So nothing that one endpoint does, or leaves undone,
//! is ever waited for by another.
//!
//! What an attempt says of its endpoint is told to `states` before the lease goes back, and `states` sets the
//! endpoint's line in the queue: so nobody is lent what may not be sent. What was lent before is asked for again
//! right before its attempt.
//!
//! # Bounds
//! Attempts under way are bounded overall and per host (`delivery.concurrency`, `delivery.per_host`), and those that
//! drag have places of their own: see `places`. Starts per endpoint are bounded by its rate; lane tasks by how many
//! lanes of an endpoint, and how many endpoints in trouble, the queue lends from at once
//! ([`Bounds`](crate::queue::Bounds)), and overall by `lanes`; the images sized ahead of their turn by
//! [`SIZED_AHEAD_MAX`](crate::queue::SIZED_AHEAD_MAX). What is owed is bounded by `backlog`.
//!
//! # Giving up
//! What is given up is settled only once its dead letter is durable: see `dying`. `letters` finds them again,
//! `replay` sends them again, and `redeliver` sends single deliveries because somebody asked for it.
//!
//! # Stopping
//! When the soft token is cancelled nothing new is begun; attempts under way finish and are settled.
//! When the hard token is cancelled they are cut, and repeated after the next start.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::{sync::Semaphore, time::Instant};
use tracing::{debug, error, warn};

use crate::{
    catalog::{History, Which},
    clock::Clock,
    image::{RepositoryName, Tag},
    journal::{DeliveredPush, Journal},
    lifecycle::Tasks,
    push::{EndpointId, Pair, Sequence, Settlement},
    queue::{Effects, Orphans, Queue},
    settings::{Letter, LetterBounds, Settings},
    sizing::Sizing,
    telemetry::{Metrics, log::Throttle},
    webhook::{Endpoint, Endpoints, client::Client, target::Target},
};

pub mod again;
pub mod alerts;
pub mod authority;
mod backlog;
mod delivery;
mod dying;
pub mod health;
mod keeper;
mod lanes;
mod lately;
mod letter_write;
pub mod letters;
mod newer;
pub mod pace;
mod places;
mod prepare;
pub mod redeliver;
pub mod refusals;
mod replay;
mod resent;
pub mod retry;
mod shortage;
pub mod states;
mod turn;

pub use places::UnderWay;

use again::Again;
use dying::{Dying, Reason, Waiting};
use lanes::Lanes;
use redeliver::ByHand;
use refusals::Refusals;
use replay::Replays;
use resent::Resent;
use shortage::Shortage;
use states::States;
use turn::{Turn, Turns, Waits};

/// Batches that are read back from the journal at once. Each takes a thread that may block, for some
/// microseconds: more would only be more threads.
const READS_AT_ONCE: usize = 4;

/// Why a push is a dead letter that had been given up before the start, for what is not known any more.
const OVERTAKEN: &str =
    "it was given up before shipbell was started again, and newer pushes were delivered since";

/// The dispatcher's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Stands before names in bodies (`registry.public_host`); empty for none.
    pub public_host: String,
    /// Attempts under way at once that don't drag; four times as many with those that do.
    pub concurrency: usize,
    /// Attempts under way at once to one host and port.
    pub per_host: usize,
    /// How long an attempt takes at most.
    pub timeout: std::time::Duration,
    /// When failed attempts are repeated.
    pub schedule: retry::RetrySchedule,
    /// How long after a batch's sealing its sizes may take.
    pub size_deadline: std::time::Duration,
    /// How large a segment of the journal is, bytes: what is given up at once when the journal is full.
    pub segment_bytes: u64,
    /// How much is kept of dead letters.
    pub letters: LetterBounds,
}

/// What the dispatcher works with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where the pushes wait.
    pub queue: Arc<Queue>,
    /// Where they are kept, and settled.
    pub journal: Journal,
    /// Who is to be told.
    pub endpoints: Endpoints,
    /// Who knows sizes.
    pub sizing: Sizing,
    /// Who sends.
    pub client: Client,
    /// How endpoints are.
    pub states: States,
    /// Until when refused pushes wait.
    pub refusals: Refusals,
    /// The wall clock.
    pub clock: Clock,
    /// A clock that doesn't jump: the states' own.
    pub steady: Clock,
    /// Who owns the tasks.
    pub tasks: Tasks,
    /// What is counted.
    pub metrics: Metrics,
    /// What is written down.
    pub history: History,
    /// The file it is written into, if it is.
    pub history_file: Option<PathBuf>,
    /// Where dead letters are kept.
    pub settings: Settings,
}

/// Sends what is owed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dispatcher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    parts: Parts,
    turns: Turns,
    lanes: Arc<Lanes>,
    /// Batches that are read back at once.
    reads: Semaphore,
    /// Pushes of which was said that they can't be read.
    unreadable: Mutex<HashSet<Sequence>>,
    /// What was given up, and has no letter yet.
    dying: Dying,
    /// By what letters are too old.
    ages: Clock,
    /// What waits because this machine had nothing left to connect with.
    shortage: Shortage,
    /// That letters were let go of.
    removed: Throttle,
    /// What is sent again.
    replays: Replays,
    resent: Resent,
    /// To whom somebody sends by hand.
    by_hand: ByHand,
    /// What of it waits.
    again: Again,
}

/// How the push ended whose lease went back, if it did.
#[derive(Debug, Default)]
struct Ended {
    /// The journal knows of it already.
    told: Option<Pair>,
    /// Why it was given up on.
    reason: Option<Reason>,
}

impl Dispatcher {
    /// A dispatcher that has not begun.
    #[must_use]
    pub fn new(options: Options, parts: Parts) -> Self {
        let turns = Turns::new(options.concurrency, options.per_host);
        let ages = parts.clock.for_ages(options.letters.age_max);
        Self(Arc::new(Shared {
            resent: Resent::new(options.timeout),
            options,
            parts,
            turns,
            lanes: Arc::default(),
            reads: Semaphore::new(READS_AT_ONCE),
            unreadable: Mutex::default(),
            dying: Dying::default(),
            ages,
            shortage: Shortage::new(),
            removed: Throttle::new(),
            replays: Replays::default(),
            by_hand: ByHand::default(),
            again: Again::default(),
        }))
    }

    /// Works until the soft token is cancelled.
    pub async fn run(self) {
        let Parts { queue, tasks, .. } = &self.0.parts;
        let due = async || {
            self.0.lanes.room().await;
            queue.due().await
        };
        loop {
            let repository = tokio::select! {
                biased;
                () = tasks.soft().cancelled() => return,
                repository = due() => repository,
            };
            let effects = queue.advance(&repository, Instant::now());
            self.follow(&repository, effects, Ended::default());
        }
    }

    /// Gives up what is owed by endpoints that the configuration no longer has, after so many attempts each, if that is
    /// known.
    pub fn bury(&self, orphans: Orphans, attempts: Option<u32>) {
        let mut lost: HashMap<&EndpointId, u64> = HashMap::new();
        for (_, endpoint) in &orphans {
            *lost.entry(endpoint).or_default() += 1;
        }
        for (endpoint, pushes) in lost {
            warn!(
                %endpoint, pushes,
                "dead letters: this endpoint owed pushes and is no longer in the configuration"
            );
        }
        self.lay_out_orphans(orphans, attempts, Reason::gone);
    }

    /// How many of the pushes that were delivered before a start are worth knowing: the history may not.
    pub const LATELY_MAX: u64 = lately::LATELY_MAX as u64;

    /// Pushes that were delivered before the start, oldest first: no older one of their tags is sent again.
    pub fn delivered_before(&self, delivered: Vec<DeliveredPush>) {
        for DeliveredPush {
            sequence,
            repository,
            tag,
            endpoint,
        } in delivered
        {
            self.0
                .replays
                .delivered(&which(&repository, sequence, &endpoint, Some(&tag)));
        }
    }

    /// Gives up what had been given up before the start: newer pushes of its lane were delivered since. What of it has a
    /// letter is only settled.
    pub fn bury_overtaken(&self, overtaken: Orphans, lettered: Vec<Pair>) {
        let lettered = lettered.into_iter().map(|pair| (pair, Settlement::DeadLetter));
        drop(self.0.parts.journal.settle(lettered));
        if !overtaken.is_empty() {
            warn!(
                pushes = overtaken.len(),
                "dead letters: these pushes were given up before the start, and newer ones were delivered since"
            );
        }
        self.lay_out_orphans(overtaken, None, |_| Reason::Fixed(OVERTAKEN));
    }

    /// Does what follows from a step of the queue.
    fn follow(&self, repository: &RepositoryName, effects: Effects, ended: Ended) {
        self.settle(repository, &effects, ended);
        if self.0.parts.tasks.soft().is_cancelled() {
            return;
        }
        for batch in effects.sealed {
            self.prepare_ahead(repository, batch);
        }
        for lease in effects.leases {
            let lane = self.clone().run_lane(repository.clone(), lease);
            let at_work = self.0.lanes.begin();
            self.0.parts.tasks.spawn("delivery", async move {
                lane.await;
                drop(at_work);
            });
        }
    }

    fn settle(&self, repository: &RepositoryName, effects: &Effects, Ended { told, mut reason }: Ended) {
        for ended in effects.ended() {
            self.0.parts.refusals.ended(ended.sequence, &ended.endpoint);
        }
        let (dead, settled): (Vec<_>, Vec<_>) =
            (effects.settled.iter()).partition(|settled| settled.how == Settlement::DeadLetter);
        let untold = settled.iter().filter(|settled| Some(settled.pair()) != told);
        // Nobody waits until it is written: that is before anything that is settled later.
        drop(
            self.0
                .parts
                .journal
                .settle(untold.map(|settled| (settled.pair(), settled.how))),
        );
        for settled in settled {
            let (sequence, endpoint) = (settled.sequence, &settled.endpoint);
            self.0.parts.metrics.settled(settled.how);
            let which = which(repository, sequence, endpoint, settled.tag.as_ref());
            self.0
                .parts
                .history
                .ended(&which, settled.how, self.0.parts.clock.now());
            if settled.how == Settlement::Superseded {
                let tag = settled.tag.as_ref().map(tracing::field::display);
                debug!(%repository, tag, %endpoint, %sequence, "superseded by a newer push");
            }
        }
        let now = self.0.parts.clock.now();
        let mut given_up = Vec::with_capacity(dead.len() + effects.given_up.len());
        for settled in dead {
            let (sequence, endpoint) = (settled.sequence, &settled.endpoint);
            // Only a lease that goes back ends so.
            let reason = reason.take().unwrap_or_else(|| self.why_given_up(endpoint));
            let tag = settled.tag.as_ref().map(tracing::field::display);
            error!(
                %repository, tag, %endpoint, %sequence, reason = reason.as_str(),
                delivery_id = self.webhook_id(sequence, endpoint), "given up: a dead letter"
            );
            given_up.push(Waiting::new(settled, now, reason));
        }
        let mut reason: Option<(&EndpointId, Reason)> = None;
        for settled in &effects.given_up {
            let endpoint = &*settled.endpoint;
            let reason = match &reason {
                Some((known, reason)) if *known == endpoint => reason.clone(),
                _ => reason.insert((endpoint, self.why_given_up(endpoint))).1.clone(),
            };
            let tag = settled.tag.as_ref().map(tracing::field::display);
            debug!(
                %repository, tag, %endpoint, sequence = %settled.sequence,
                "given up because its endpoint is ignored or disabled: a dead letter"
            );
            given_up.push(Waiting::new(settled, now, reason));
        }
        self.lay_out(given_up);
    }

    /// Writes down that something was delivered that was sent again.
    fn write_delivered(&self, which: &Which) {
        let parts = &self.0.parts;
        self.0.replays.delivered(which);
        parts
            .history
            .ended(which, Settlement::Delivered, parts.clock.now());
    }

    /// Attempts under way, in each pool.
    #[must_use]
    pub fn under_way(&self) -> UnderWay {
        self.0.turns.under_way()
    }

    /// Waits for the endpoint's turn to be sent to at `target`; `None` if it is not wanted any more before it comes,
    /// or the endpoint is set otherwise by then.
    async fn turn(
        &self,
        endpoint: &Arc<Endpoint>,
        target: &Target,
        is_wanted: impl Fn() -> bool + Send + Sync,
    ) -> Option<Turn> {
        let (id, states) = (&endpoint.id, &self.0.parts.states);
        let host = host_of(target);
        let is_failing = || states.is_failing(id);
        let is_wanted = || is_wanted() && self.stands(endpoint);
        self.0
            .turns
            .take(id, endpoint.rate, &host, is_failing, is_wanted)
            .await
    }

    /// Joins those that are going to be sent to a host; `None` if they are too many.
    fn join(&self, endpoint: &EndpointId, target: &Target) -> Option<Waits> {
        let is_failing = self.0.parts.states.is_failing(endpoint);
        let free = self.0.lanes.free();
        self.0.turns.join(&host_of(target), is_failing, free)
    }

    /// Whether the endpoint is still set as it is here.
    fn stands(&self, endpoint: &Arc<Endpoint>) -> bool {
        let now = self.0.parts.endpoints.get(&endpoint.id);
        now.is_some_and(|now| Arc::ptr_eq(&now, endpoint))
    }

    fn webhook_id(&self, sequence: Sequence, endpoint: &EndpointId) -> String {
        crate::webhook::sign::webhook_id(self.0.parts.journal.id(), sequence, endpoint)
    }
}

/// What the cap per host counts by.
fn host_of(target: &Target) -> String {
    format!("{}:{}", target.host(), target.port())
}

/// A delivery, as the history is told of it.
fn which(repository: &RepositoryName, sequence: Sequence, endpoint: &EndpointId, tag: Option<&Tag>) -> Which {
    Which {
        sequence,
        endpoint: endpoint.clone(),
        repository: repository.clone(),
        tag: tag.cloned(),
    }
}

/// The delivery that a letter tells of.
fn of_letter(letter: &Letter) -> Which {
    which(
        &letter.repository,
        letter.sequence,
        &letter.endpoint,
        letter.tag.as_ref(),
    )
}

#[cfg(test)]
mod tests;
