//! Sends a whole set of past deliveries again, delivered ones and dead letters alike: in the order of their pushes, one
//! at a time for each endpoint, at its pace, in turns with what its lanes send.
//!
//! Nothing of it is owed, so it waits in memory, at most [`WAITING_MAX`] of all endpoints together and as many more that
//! others than administrators asked for. Each is sent once,
//! whatever comes of it, and exactly as one that is sent again by hand: a dead letter that is taken goes, one that is
//! not taken stays. While an endpoint is not healthy, the first goes all the same and the others wait. A restart
//! forgets what was not sent yet, and says so.
//!
//! For whoever has no [`Authority`] over an endpoint, the first waits as well, and failures don't count against it. So that
//! it is left in peace all the same, after some of them in a row what such people asked for is given up, and told; so it
//! is when the endpoint was not healthy for a day, for nothing may be owed that would heal it. They have room of their own.
//!
//! # Never past a newer push
//! One of which a newer push of the same tag is known for the endpoint is passed over, unless that is forced. It is
//! looked for when the set is counted, and again right before each is sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    Dispatcher,
    authority::{Authority, By},
    letters::{LettersError, Refused, Run},
    newer::Newer,
    redeliver::{Redelivered, SendAgainError, letter_of},
    replay::{Gate, Leave},
};
use crate::{
    catalog::Reader,
    journal::JournalId,
    locked::Locked as _,
    push::{EndpointId, Sequence},
    settings::{KeptLetter, LetterState, Order},
    webhook::Outcome,
};

/// Deliveries that wait to be sent again, of all endpoints together, for each authority by which that was asked. So many
/// may be asked for at once, too.
pub const WAITING_MAX: usize = 10_000;

/// Deliveries that are looked at in one go.
const LOOKED_AT_ONCE: usize = 1_000;

/// The wait while somebody else sends to the endpoint by hand, or files can't be read.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// So often in a row what is to be sent can't be read before it is let go of, and so is the rest if the next can't either.
const READS_MAX: u32 = 60;

/// After so many failures of the endpoint in a row, what doesn't count against it is not sent again.
const IN_VAIN_MAX: u32 = 3;

/// For so long what doesn't count against an endpoint waits until that is healthy.
const UNHEALTHY_MAX: Duration = Duration::from_hours(24);

/// A delivery that was made, or given up on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Which journal took its push; `None` for this one.
    pub journal: Option<JournalId>,
    /// The push.
    pub sequence: Sequence,
    /// For whom.
    pub endpoint: EndpointId,
}

/// What sending a set again comes to, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Deliveries that were asked for.
    pub matched: u64,
    /// Those of them that are sent again.
    pub again: u64,
    /// Those that are not, because there is a newer push of their tag.
    pub passed_over: u64,
    /// Those that are sent without that: they are not over yet, or are being sent again already.
    pub under_way: u64,
    /// Those of which it is not known any more what to send.
    pub unknown: u64,
    /// Those that nothing can be sent for, because of their endpoints.
    pub refused: Vec<Refused>,
}

/// The place of a delivery in its endpoint's line: what another journal took goes first.
type Place = (bool, Sequence, [u8; 16]);

/// What waits for an endpoint, how it is to go, and by which authority that was asked.
type Line = BTreeMap<Place, (Order, Authority)>;

/// What waits to be sent again. An endpoint that has a line has a task.
#[derive(Debug)]
pub(super) struct Again {
    lines: Mutex<HashMap<EndpointId, Line>>,
    counting: Semaphore,
}

impl Default for Again {
    fn default() -> Self {
        Self {
            lines: Mutex::default(),
            counting: Semaphore::new(1),
        }
    }
}

impl Again {
    fn lines(&self) -> MutexGuard<'_, HashMap<EndpointId, Line>> {
        self.lines.locked()
    }

    fn has(&self, endpoint: &EndpointId, place: &Place) -> bool {
        self.lines()
            .get(endpoint)
            .is_some_and(|line| line.contains_key(place))
    }

    /// All of these, or none; the endpoints that had no line before.
    fn add(
        &self,
        items: Vec<(EndpointId, Place)>,
        order: Order,
        authority: Authority,
    ) -> Result<Vec<EndpointId>, SendAgainError> {
        let mut lines = self.lines();
        let waiting = lines.values().flat_map(BTreeMap::values);
        let waiting = waiting.filter(|(_, asked)| *asked == authority).count();
        if waiting + items.len() > WAITING_MAX {
            return Err(SendAgainError::Full { waiting });
        }
        let mut begun = Vec::new();
        for (endpoint, place) in items {
            let line = lines.entry(endpoint.clone()).or_insert_with(|| {
                begun.push(endpoint.clone());
                BTreeMap::new()
            });
            line.insert(place, (order, authority));
        }
        Ok(begun)
    }

    /// The first of an endpoint's line, which stays in it. Without one, the line has ended.
    fn first(&self, endpoint: &EndpointId) -> Option<(Place, (Order, Authority))> {
        let mut lines = self.lines();
        let first = lines.get(endpoint)?.first_key_value();
        let first = first.map(|(place, how)| (*place, *how));
        if first.is_none() {
            lines.remove(endpoint);
        }
        first
    }

    /// Whether something of it was asked for by somebody who decides over the endpoint.
    fn is_decided(&self, endpoint: &EndpointId) -> bool {
        let lines = self.lines();
        let line = lines.get(endpoint);
        line.is_some_and(|line| {
            line.values()
                .any(|(_, authority)| authority.over(endpoint) == Authority::Endpoint)
        })
    }

    /// What goes next by that leave: an endpoint that is tried for once is tried for those who decide over it.
    fn next(&self, endpoint: &EndpointId, leave: Leave) -> Option<(Place, (Order, Authority))> {
        let lines = self.lines();
        let mut line = lines.get(endpoint)?.iter();
        let next = line.find(|(_, (_, authority))| {
            leave == Leave::Healthy || authority.over(endpoint) == Authority::Endpoint
        });
        next.map(|(place, (order, authority))| (*place, (*order, authority.over(endpoint))))
    }

    fn done(&self, endpoint: &EndpointId, place: &Place) {
        if let Some(line) = self.lines().get_mut(endpoint) {
            line.remove(place);
        }
    }

    /// Lets go of what those asked for who have no authority over the endpoint; how many it was.
    fn give_up(&self, endpoint: &EndpointId) -> usize {
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(endpoint) else {
            return 0;
        };
        let before = line.len();
        line.retain(|_, (_, authority)| authority.over(endpoint) == Authority::Endpoint);
        before - line.len()
    }

    /// Ends an endpoint's line; how many were left in it.
    fn end(&self, endpoint: &EndpointId) -> usize {
        self.lines().remove(endpoint).map_or(0, |line| line.len())
    }
}

/// What came of an endpoint's line.
#[derive(Debug, Default)]
struct Tally {
    delivered: u64,
    failed: u64,
    passed_over: u64,
    not_possible: u64,
}

impl Dispatcher {
    /// Has these sent again, or tells what that would come to. When it returns, nothing may have been sent yet.
    ///
    /// # Errors
    /// There are too many, another set is being counted, or what is known of them can't be read. Then nothing is sent.
    pub async fn redeliver_all(
        &self,
        wanted: Vec<Past>,
        order: Order,
        run: Run,
        authority: Authority,
    ) -> Result<Counted, SendAgainError> {
        if wanted.len() > WAITING_MAX {
            return Err(SendAgainError::TooMany);
        }
        let again = &self.0.again;
        let Ok(_one_at_a_time) = again.counting.try_acquire() else {
            return Err(SendAgainError::Busy);
        };
        let mut counted = Counted {
            matched: wanted.len() as u64,
            ..Counted::default()
        };
        let (mut items, mut refused) = (Vec::new(), BTreeMap::new());
        for some in wanted.chunks(LOOKED_AT_ONCE) {
            let possible = self.possible(some, &mut refused);
            let known = self.known(possible, &mut counted).await?;
            for (kept, newer) in self.newer(known, order).await? {
                match newer {
                    Newer::Known => counted.passed_over += 1,
                    Newer::Unknown => items.push((kept.letter.endpoint.clone(), self.place(&kept))),
                }
            }
        }
        counted.refused = refused.into_values().collect();
        counted.again = items.len() as u64;
        if run == Run::Dry || items.is_empty() {
            return Ok(counted);
        }
        let decided = items.iter().map(|(endpoint, _)| endpoint);
        let decided = decided.filter(|endpoint| authority.over(endpoint) == Authority::Endpoint);
        let decided: BTreeSet<EndpointId> = decided.cloned().collect();
        let begun = again.add(items, order, authority)?;
        // Also for lines that are there, which may wait.
        self.0.replays.asked(decided.into_iter().collect());
        for endpoint in begun {
            let line = self.clone().run_line(endpoint);
            self.0.parts.tasks.spawn("redelivery", line);
        }
        Ok(counted)
    }

    /// Whether a delivery of a push that `journal` took, or this one if `None`, is being sent again: it waits for that
    /// in a set, or is a dead letter that is replayed. Blocks on the disk.
    #[must_use]
    pub fn is_sent_again(
        &self,
        journal: Option<JournalId>,
        sequence: Sequence,
        endpoint: &EndpointId,
    ) -> bool {
        let (current, settings) = (self.0.parts.journal.id(), &self.0.parts.settings);
        let journal = journal.unwrap_or(current);
        if self
            .0
            .again
            .has(endpoint, &(journal == current, sequence, journal.0))
        {
            return true;
        }
        if settings.letter_stats().replaying == 0 {
            return false;
        }
        // What can't be looked up is not said.
        let letter = settings.letter_of(journal, sequence, endpoint).ok().flatten();
        letter.is_some_and(|letter| letter.state == LetterState::Replaying)
    }

    /// Those whose endpoints can be sent to.
    fn possible(&self, wanted: &[Past], refused: &mut BTreeMap<EndpointId, Refused>) -> Vec<Past> {
        let mut possible = Vec::with_capacity(wanted.len());
        for past in wanted {
            if let Some(refused) = refused.get_mut(&past.endpoint) {
                refused.letters += 1;
            } else if let Some(reason) = self.refusal(&past.endpoint) {
                let endpoint = past.endpoint.clone();
                refused.insert(
                    endpoint.clone(),
                    Refused {
                        endpoint,
                        letters: 1,
                        reason,
                    },
                );
            } else {
                possible.push(past.clone());
            }
        }
        possible
    }

    /// What is known of those that are over, as letters have it.
    async fn known(
        &self,
        wanted: Vec<Past>,
        counted: &mut Counted,
    ) -> Result<Vec<KeptLetter>, SendAgainError> {
        let current = self.0.parts.journal.id();
        let letters = self.with_settings(move |settings| {
            let look = |past: Past| {
                let journal = past.journal.unwrap_or(current);
                let letter = settings.letter_of(journal, past.sequence, &past.endpoint)?;
                Ok((journal, past, letter))
            };
            wanted.into_iter().map(look).collect::<Result<Vec<_>, _>>()
        });
        let (letters, path) = (letters.await?, self.0.parts.history_file.clone());
        let look = move || -> Result<Vec<Option<KeptLetter>>, SendAgainError> {
            let history = match path {
                Some(path) if letters.iter().any(|(.., letter)| letter.is_none()) => {
                    Some(Reader::open(&path)?)
                }
                _ => None,
            };
            let look = |(journal, past, letter): (JournalId, Past, Option<KeptLetter>)| {
                let (None, Some(history)) = (&letter, &history) else {
                    return Ok(letter);
                };
                let found = history.delivery(journal, past.sequence, &past.endpoint)?;
                let letter =
                    found.and_then(|found| letter_of(journal, past.sequence, &past.endpoint, &found));
                // No letter has this number, and nothing is done by it.
                let (id, state) = (0, LetterState::Dead);
                Ok(letter.map(|letter| KeptLetter { id, state, letter }))
            };
            letters.into_iter().map(look).collect()
        };
        let looked = tokio::task::spawn_blocking(look).await;
        let looked = looked.map_err(|_| LettersError::Stopping)??;
        let mut known = Vec::with_capacity(looked.len());
        let found = looked.iter().flatten().map(|kept| kept.letter.sequence);
        let dying = self.0.dying.of(&found.collect());
        for kept in looked {
            match kept {
                None => counted.unknown += 1,
                Some(kept) if self.is_under_way(&kept, &dying) => counted.under_way += 1,
                Some(kept) => known.push(kept),
            }
        }
        Ok(known)
    }

    /// Whether it is not over; `dying` are those that wait for their letters.
    fn is_under_way(&self, kept: &KeptLetter, dying: &HashSet<(Sequence, EndpointId)>) -> bool {
        let (letter, queue) = (&kept.letter, &self.0.parts.queue);
        let is_owed = || {
            queue.owes(&letter.repository, &letter.endpoint, letter.sequence)
                || dying.contains(&(letter.sequence, letter.endpoint.clone()))
        };
        kept.state == LetterState::Replaying
            || self.0.again.has(&letter.endpoint, &self.place(kept))
            || letter.journal == self.0.parts.journal.id() && is_owed()
    }

    fn place(&self, kept: &KeptLetter) -> Place {
        let (letter, current) = (&kept.letter, self.0.parts.journal.id());
        (letter.journal == current, letter.sequence, letter.journal.0)
    }

    /// Sends what stands in an endpoint's line, one after another, until there is nothing.
    async fn run_line(self, endpoint: EndpointId) {
        let (tasks, again) = (&self.0.parts.tasks, &self.0.again);
        let (mut tally, mut unread, mut in_vain) = (Tally::default(), 0, 0);
        let mut give_up_at = Instant::now() + UNHEALTHY_MAX;
        let why = loop {
            if again.first(&endpoint).is_none() {
                break None;
            }
            let gate = tokio::select! {
                biased;
                () = tasks.hard().cancelled() => Gate::Stopping,
                gate = self.wait_for_endpoint(&endpoint, || again.is_decided(&endpoint)) => gate,
                () = sleep_until(give_up_at) => {
                    self.give_up_sets(&endpoint, "the endpoint was not healthy for a day");
                    give_up_at += UNHEALTHY_MAX;
                    continue;
                }
            };
            let leave = match gate {
                Gate::Open(leave) => leave,
                Gate::Closed => break Some("the endpoint is gone, or disabled"),
                Gate::Stopping => break Some("shipbell stops"),
            };
            if leave == Leave::Healthy {
                give_up_at = Instant::now() + UNHEALTHY_MAX;
            }
            let Some((place, (order, authority))) = again.next(&endpoint, leave) else {
                continue;
            };
            let sent = tokio::select! {
                biased;
                () = tasks.hard().cancelled() => break Some("shipbell stops"),
                sent = self.send_again(JournalId(place.2), place.1, &endpoint, order, By::Set(authority, leave)) => sent,
            };
            let wait = match &sent {
                Err(SendAgainError::Letters(LettersError::Stopping)) => break Some("shipbell stops"),
                // That is not the delivery's fault.
                Err(error @ (SendAgainError::Letters(_) | SendAgainError::History(_)))
                    if unread < READS_MAX =>
                {
                    unread += 1;
                    self.complain(error);
                    Some(BUSY_WAIT)
                }
                // Perhaps it is this one that can't, and none else.
                Err(SendAgainError::Letters(_) | SendAgainError::History(_)) if unread == READS_MAX => None,
                Err(SendAgainError::Letters(_) | SendAgainError::History(_)) => {
                    break Some("they can't be read");
                }
                Err(SendAgainError::Busy) => Some(BUSY_WAIT),
                Ok(Redelivered::Sent(sent)) if sent.outcome.is_ours() => {
                    Some(self.0.shortage.wait(Instant::now()))
                }
                _ => None,
            };
            if let Some(wait) = wait {
                let _ = tasks.soft().run_until_cancelled(sleep(wait)).await;
                continue;
            }
            let is_unread = matches!(sent, Err(SendAgainError::Letters(_) | SendAgainError::History(_)));
            unread = if is_unread { unread + 1 } else { 0 };
            again.done(&endpoint, &place);
            tally.add(&sent);
            in_vain = match &sent {
                // Of those alone that are given up for it.
                Ok(Redelivered::Sent(sent)) if sent.outcome.is_of_endpoint() => {
                    in_vain + u32::from(authority == Authority::Repositories)
                }
                Ok(Redelivered::Sent(_)) => 0,
                _ => in_vain,
            };
            if in_vain >= IN_VAIN_MAX && authority == Authority::Repositories {
                self.give_up_sets(&endpoint, "the endpoint fails");
                in_vain = 0;
            }
        };
        let Tally {
            delivered,
            failed,
            passed_over,
            not_possible,
        } = tally;
        info!(%endpoint, delivered, failed, passed_over, not_possible, "deliveries were sent again");
        if let Some(why) = why {
            left_out(&endpoint, again.end(&endpoint), why);
        }
    }

    /// Gives up what those asked for who have no authority over the endpoint.
    fn give_up_sets(&self, endpoint: &EndpointId, why: &str) {
        let left = self.0.again.give_up(endpoint);
        if left > 0 {
            left_out(endpoint, left, why);
        }
    }
}

fn left_out(endpoint: &EndpointId, left: usize, why: &str) {
    warn!(%endpoint, left, why, "deliveries are not sent again that were asked for");
}

impl Tally {
    fn add(&mut self, sent: &Result<Redelivered, SendAgainError>) {
        let number = match sent {
            Ok(Redelivered::Sent(sent)) if matches!(sent.outcome, Outcome::Delivered { .. }) => {
                &mut self.delivered
            }
            Ok(Redelivered::Sent(_)) => &mut self.failed,
            Err(SendAgainError::Newer) => &mut self.passed_over,
            Ok(Redelivered::Due) | Err(_) => &mut self.not_possible,
        };
        *number += 1;
    }
}

#[cfg(test)]
mod tests;
