//! Whether a newer push of a dead letter's tag is known: then the older one is not sent behind it.

use std::path::Path;

use super::{Dispatcher, letters::LettersError};
use crate::{
    catalog::Reader,
    settings::{KeptLetter, Letter, Order},
};

/// Whether a newer push of a letter's tag is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newer {
    Known,
    Unknown,
}

impl Dispatcher {
    /// Whether newer pushes of their tags are known, for each of the letters, in their order.
    pub(super) async fn newer(
        &self,
        letters: Vec<KeptLetter>,
        order: Order,
    ) -> Result<Vec<(KeptLetter, Newer)>, LettersError> {
        if order == Order::Force {
            let unknown = letters.into_iter().map(|kept| (kept, Newer::Unknown));
            return Ok(unknown.collect());
        }
        let dispatcher = self.clone();
        self.with_settings(move |settings| {
            let history = dispatcher.0.parts.history_file.as_deref().and_then(open_history);
            let look = |kept: KeptLetter| {
                let letter = &kept.letter;
                let is_known = dispatcher.has_newer_here(letter)
                    || settings.has_newer_letter(letter)?
                    || history.as_ref().is_some_and(|history| has_newer(history, letter));
                Ok((kept, if is_known { Newer::Known } else { Newer::Unknown }))
            };
            letters.into_iter().map(look).collect()
        })
        .await
    }

    /// Whether a newer push of the letter's tag waits in the queue, is in flight, or was delivered lately.
    fn has_newer_here(&self, letter: &Letter) -> bool {
        let parts = &self.0.parts;
        // All that the queue has is newer than what another journal took.
        let than = (letter.journal == parts.journal.id()).then_some(letter.sequence);
        // In this order: what leaves the one is in the other by then.
        letter.tag.as_ref().is_some_and(|tag| {
            let queue = &parts.queue;
            queue.owes_newer(&letter.repository, &letter.endpoint, tag, than)
                || self.0.replays.delivered_newer(letter, tag, than)
        })
    }
}

/// A history that can't be read knows nothing.
fn open_history(path: &Path) -> Option<Reader> {
    Reader::open(path).ok()
}

fn has_newer(history: &Reader, letter: &Letter) -> bool {
    let Some(tag) = &letter.tag else { return false };
    let push = (letter.journal, letter.sequence, letter.taken_at);
    let newer = history.has_newer(push, (&letter.repository, tag), &letter.endpoint);
    newer.unwrap_or(false)
}
