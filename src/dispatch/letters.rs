//! Dead letters for people: listed, counted, discarded, and marked to be sent again.
//!
//! # Never past a newer push
//! A letter is passed over if a newer push of the same tag for the same endpoint is known, unless that is forced: so
//! nobody is told of an old image after a new one. Known are the pushes that wait in the queue or are in flight, other
//! dead letters, and what stands in the history. It is looked for when a replay is asked for, and again right before
//! each letter is sent. A history that has gaps, or that is switched off or was begun anew, may not know of a newer
//! push that was delivered.

use std::{collections::HashMap, io};

use tracing::info;

use super::{Dispatcher, authority::Authority, health::State, newer::Newer};
use crate::{
    push::EndpointId,
    settings::{
        AccessError, KeptLetter, LetterCount, LetterFilter, LetterPage, LetterState, LetterStats, Mark,
        Order, Settings,
    },
};

/// Letters that are looked at in one go.
const LOOKED_AT_ONCE: usize = 1_000;

/// The most letters of one page.
pub const PAGE_MAX: usize = 1_000;

/// Dead letters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeadLetters(Dispatcher);

/// What a replay comes to, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Letters that are meant. Those that are being replayed already don't count.
    pub matched: u64,
    /// Those of them that are sent again from now on.
    pub replayed: u64,
    /// Those that stay, because there is a newer push of their tag.
    pub passed_over: u64,
    /// Those that stay, because nothing can be sent to their endpoints.
    pub refused: Vec<Refused>,
}

/// Letters of an endpoint that nothing can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whose they are.
    pub endpoint: EndpointId,
    /// How many.
    pub letters: u64,
    /// Why, as a sentence.
    pub reason: String,
}

/// Whether something is done, or only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Run {
    /// It is done.
    Real,
    /// It is counted what would be.
    Dry,
}

/// Why dead letters can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// The file can't be read or written.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The process is about to end.
    #[error("shipbell is stopping")]
    Stopping,
}

impl Dispatcher {
    /// The dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters(self.clone())
    }

    /// Does something with the settings on a thread that may block; a few such at a time.
    ///
    /// # Errors
    /// What it comes to, or that the process ends.
    pub(super) async fn with_settings<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Settings) -> Result<T, AccessError> + Send + 'static,
    ) -> Result<T, LettersError> {
        let stopping = |_| LettersError::Stopping;
        let permit = self
            .0
            .replays
            .access()
            .acquire_owned()
            .await
            .map_err(|_| LettersError::Stopping)?;
        let settings = self.0.parts.settings.clone();
        let work = move || {
            let _permit = permit;
            work(&settings)
        };
        let done = tokio::task::spawn_blocking(work).await;
        Ok(done.map_err(io::Error::other).map_err(stopping)??)
    }

    /// Why nothing can be sent to an endpoint, as a sentence; `None` if something can.
    pub(super) fn refusal(&self, endpoint: &EndpointId) -> Option<String> {
        if self.0.parts.endpoints.get(endpoint).is_none() {
            return Some(format!(
                "There is no endpoint {endpoint} any more; add it again, or discard its dead letters."
            ));
        }
        match self.0.parts.states.state(endpoint) {
            State::Held => Some(format!("The endpoint {endpoint} is on hold; enable it first.")),
            State::Disabled => Some(format!("The endpoint {endpoint} is disabled; enable it first.")),
            State::Healthy | State::Failing | State::Paused | State::Ignored => None,
        }
    }
}

impl DeadLetters {
    /// Those that are meant, newest first, at most `limit` and [`PAGE_MAX`] of them, behind the one of the number
    /// `after`.
    ///
    /// # Errors
    /// See [`LettersError`].
    pub async fn list(
        &self,
        filter: LetterFilter,
        after: Option<i64>,
        limit: usize,
    ) -> Result<LetterPage, LettersError> {
        let limit = limit.min(PAGE_MAX);
        self.0
            .with_settings(move |settings| settings.letters(&filter, after, limit))
            .await
    }

    /// The one of that number.
    ///
    /// # Errors
    /// See [`LettersError`].
    pub async fn get(&self, id: i64) -> Result<Option<KeptLetter>, LettersError> {
        self.0.with_settings(move |settings| settings.letter(id)).await
    }

    /// How many are meant.
    ///
    /// # Errors
    /// See [`LettersError`].
    pub async fn count(&self, filter: LetterFilter) -> Result<LetterCount, LettersError> {
        self.0
            .with_settings(move |settings| settings.count_letters(&filter))
            .await
    }

    /// How many there are. Waits for nobody.
    #[must_use]
    pub fn stats(&self) -> LetterStats {
        self.0.0.parts.settings.letter_stats()
    }

    /// How many were given up and have no letter yet.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.0.0.dying.len() as u64
    }

    /// Has those that are meant sent again, or tells what that would come to: in the order of their pushes, one after
    /// another for each endpoint, at its pace, also after a restart. For an endpoint that is failing, paused or
    /// ignored, the first is sent at once, and the others once the endpoint is healthy.
    ///
    /// Without the `authority` over an endpoint it is waited for, as for all that it is owed: a letter that is sent again
    /// is owed once more, and how its attempts end counts.
    ///
    /// Of several letters of one tag for one endpoint only the newest goes, unless forced.
    ///
    /// # Errors
    /// See [`LettersError`]. Then nothing is sent again that was not before.
    pub async fn replay(
        &self,
        filter: LetterFilter,
        order: Order,
        run: Run,
        authority: Authority,
    ) -> Result<Replayed, LettersError> {
        let (mut replayed, mut marks, mut after) = (Replayed::default(), Vec::new(), None);
        let mut refused: HashMap<EndpointId, (u64, String)> = HashMap::new();
        loop {
            let page = self.page(&filter, after).await?;
            let dead = page
                .letters
                .into_iter()
                .filter(|kept| kept.state == LetterState::Dead);
            let mut asked = Vec::new();
            for kept in dead {
                replayed.matched += 1;
                let endpoint = &kept.letter.endpoint;
                if let Some((letters, _)) = refused.get_mut(endpoint) {
                    *letters += 1;
                } else if let Some(reason) = self.0.refusal(endpoint) {
                    refused.insert(endpoint.clone(), (1, reason));
                } else {
                    asked.push(kept);
                }
            }
            for (kept, newer) in self.0.newer(asked, order).await? {
                match newer {
                    Newer::Known => replayed.passed_over += 1,
                    Newer::Unknown => {
                        marks.push(Mark::of(kept.id, &kept.letter, self.0.0.parts.journal.id()));
                    }
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        replayed.refused = refused
            .into_iter()
            .map(|(endpoint, (letters, reason))| Refused {
                endpoint,
                letters,
                reason,
            })
            .collect();
        replayed.refused.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        if run == Run::Dry || marks.is_empty() {
            replayed.replayed = marks.len() as u64;
            return Ok(replayed);
        }
        let mut endpoints: Vec<_> = marks.iter().map(|mark| mark.endpoint.clone()).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        replayed.replayed = self
            .0
            .with_settings(move |settings| settings.mark_letters(&marks, order))
            .await?;
        info!(letters = replayed.replayed, "dead letters are sent again");
        endpoints.retain(|endpoint| authority.over(endpoint) == Authority::Endpoint);
        self.0.0.replays.asked(endpoints);
        Ok(replayed)
    }

    /// Lets go of those that are meant, also of those that are to be sent again; for how many it was.
    ///
    /// # Errors
    /// See [`LettersError`]. Some may be gone then.
    pub async fn discard(&self, filter: LetterFilter) -> Result<u64, LettersError> {
        let mut discarded = 0;
        let mut after = None;
        loop {
            let page = self.page(&filter, after).await?;
            let ids: Vec<_> = page.letters.iter().map(|kept| kept.id).collect();
            discarded += self
                .0
                .with_settings(move |settings| settings.remove_letters(&ids))
                .await?;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        info!(letters = discarded, "dead letters were discarded");
        Ok(discarded)
    }

    async fn page(&self, filter: &LetterFilter, after: Option<i64>) -> Result<LetterPage, LettersError> {
        let filter = filter.clone();
        self.0
            .with_settings(move |settings| settings.letters(&filter, after, LOOKED_AT_ONCE))
            .await
    }
}
