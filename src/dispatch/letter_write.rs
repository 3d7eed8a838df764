//! From pushes that were given up to their letters in the file. Blocks on the disk.

use std::io;

use super::dying::Waiting;
use crate::{
    journal::{Journal, will_pass},
    push::{Pair, Push},
    settings::{AccessError, Letter, Settings},
};

/// Pushes that are read back at once.
const READ_AT_ONCE: usize = 64;

/// No more is read for one transaction once there is so much, bytes.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Whose letters are durable.
    pub(super) letters: Vec<(Pair, Letter)>,
    /// Those that wait still, in their order.
    pub(super) rest: Vec<Waiting>,
    /// Those that can't be read back now.
    pub(super) unreadable: Vec<Waiting>,
    /// How many need no letter any more.
    pub(super) ended: usize,
    /// Why those that wait still were not written.
    pub(super) error: Option<String>,
}

/// Reads pushes back and writes their letters, as many as fit into one transaction. `make_room` is called before that,
/// with the bytes that come.
pub(super) fn write(
    journal: &Journal,
    settings: &Settings,
    mut batch: Vec<Waiting>,
    make_room: impl FnOnce(u64) -> Result<(), AccessError>,
) -> Written {
    let mut written = Written::default();
    let (mut letters, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
    let (mut buried, mut later) = (Vec::new(), Vec::new());
    for chunk in batch.chunks(READ_AT_ONCE) {
        if bytes >= BYTES_MAX || written.error.is_some() {
            break;
        }
        let sequences: Vec<_> = chunk.iter().map(|waiting| waiting.pair.sequence).collect();
        for (waiting, push) in chunk.iter().zip(journal.read(&sequences)) {
            match push {
                Ok(push) => {
                    let letter = letter(journal, waiting, push);
                    bytes += letter.bytes();
                    letters.push(letter);
                    buried.push(waiting.clone());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => written.ended += 1,
                // It says nothing of this push, and the next would fare no better.
                Err(error) if will_pass(&error) => {
                    written.error = Some(format!("the journal can't be read: {error}"));
                    later.push(waiting.clone());
                }
                Err(_) => written.unreadable.push(waiting.clone()),
            }
        }
        looked_at += chunk.len();
    }
    let rest = batch.split_off(looked_at);
    let rest = later.into_iter().chain(rest);
    // Old letters go in their time, whether or not there are new ones.
    let put = make_room(bytes).and_then(|()| {
        if letters.is_empty() {
            Ok(())
        } else {
            settings.put_letters(&letters)
        }
    });
    match put {
        Ok(()) => {
            let pairs = buried.iter().map(|waiting| waiting.pair);
            written.letters = pairs.zip(letters).collect();
            written.rest = rest.collect();
        }
        Err(error) => {
            written.error = Some(error.to_string());
            written.rest = buried;
            written.rest.extend(rest);
        }
    }
    written
}

fn letter(journal: &Journal, waiting: &Waiting, push: Push) -> Letter {
    Letter::of(
        journal.id(),
        waiting.pair.sequence,
        waiting.endpoint.as_ref().clone(),
        push,
        (waiting.at, waiting.reason.as_str(), waiting.attempts),
    )
}
