//! What a page says once of what somebody has just done.
//!
//! A form that is sent is answered with the way to a page, which says what came of it. It must not believe the address
//! there, for anybody can write a link: what is said is kept here, under a number that nobody can guess, for whoever did
//! it, on that very page, once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::locked::Locked as _;

/// Notes that are kept; past that the oldest goes.
const NOTES_MAX: usize = 1_000;

/// How long one waits to be read.
const KEPT: Duration = Duration::from_mins(1);

/// The notes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<VecDeque<Note>>>);

#[derive(Debug)]
struct Note {
    number: u128,
    by: Arc<str>,
    path: String,
    words: String,
    at: Instant,
}

impl Notes {
    /// Keeps a note for somebody of this name, to be read on the page at `path`; what the page is to be asked with.
    pub(super) fn leave(&self, by: &Arc<str>, path: &str, words: impl Into<String>) -> String {
        let number = rand::random();
        let mut notes = self.0.locked();
        if notes.len() >= NOTES_MAX {
            notes.pop_front();
        }
        notes.push_back(Note {
            number,
            by: Arc::clone(by),
            path: path.to_owned(),
            words: words.into(),
            at: Instant::now(),
        });
        format!("{number:032x}")
    }

    /// The note of that number, if it is for them and for this page; it is read once.
    pub(super) fn read(&self, by: &str, path: &str, number: Option<&str>) -> String {
        let Some(number) = number.and_then(|number| u128::from_str_radix(number, 16).ok()) else {
            return String::new();
        };
        let mut notes = self.0.locked();
        notes.retain(|note| note.at.elapsed() < KEPT);
        let is_it = |note: &Note| note.number == number && &*note.by == by && note.path == path;
        let found = notes.iter().position(is_it).and_then(|index| notes.remove(index));
        found.map(|note| note.words).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_note_is_read_once_by_whoever_did_it_on_its_page_and_soon() {
        let (notes, ann): (_, Arc<str>) = (Notes::default(), "ann".into());
        let number = notes.leave(&ann, "/deliveries", "Done.");
        for (by, path, number) in [
            ("eve", "/deliveries", Some(number.as_str())),
            ("ann", "/overview", Some(&number)),
            ("ann", "/deliveries", None),
            ("ann", "/deliveries", Some("saved")),
            ("ann", "/deliveries", Some("0")),
        ] {
            assert_eq!(notes.read(by, path, number), "", "{by} {path} {number:?}");
        }
        assert_eq!(notes.read("ann", "/deliveries", Some(&number)), "Done.");
        assert_eq!(notes.read("ann", "/deliveries", Some(&number)), "", "once");
        let late = notes.leave(&ann, "/deliveries", "Done.");
        tokio::time::advance(KEPT).await;
        assert_eq!(notes.read("ann", "/deliveries", Some(&late)), "");
        let first = notes.leave(&ann, "/deliveries", "The first.");
        for _ in 0..NOTES_MAX {
            notes.leave(&ann, "/deliveries", "Another.");
        }
        assert_eq!(
            notes.read("ann", "/deliveries", Some(&first)),
            "",
            "there are too many"
        );
    }
}
