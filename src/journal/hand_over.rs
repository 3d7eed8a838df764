//! Handing over what is owed at a start, grouped as the queues take it.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use super::{
    Journal, Notes, Unreadable,
    live::LivePush,
    notes::{Names, Note},
    reader::Reader,
    record::PushHead,
    scan::CHUNK_BYTES,
    unsettled::Unsettled,
};
use crate::{
    image::RepositoryName,
    push::{EndpointId, Sequence},
};

/// Pushes that are grouped at once: enough for several of each repository, and some 5 MiB.
const BATCH: usize = 64 * 1024;

/// Why what is owed could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// One push could not.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The system denies a thread.
    #[error("the system gives no thread: {0}")]
    Thread(#[source] io::Error),
}

/// Pushes to one repository that the same endpoints owe, in order.
#[derive(Clone, Copy, Debug)]
pub struct OwedRun<'a> {
    /// Where they were pushed.
    pub repository: &'a RepositoryName,
    /// Who owes them, each with its place among those who owed them at first. Runs that come one after the other
    /// share the list where it is the same.
    pub owed: &'a OwedBy,
    /// What is owed.
    pub pushes: &'a [OwedPush<'a>],
}

/// Who owes some pushes, each with its place among those who owed them at first.
pub type OwedBy = Arc<[(u16, EndpointId)]>;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwedPush<'a> {
    /// Its place in the order of all pushes.
    pub sequence: Sequence,
    /// What it takes on disk, bytes.
    pub bytes: u32,
    /// By which tag it was pushed, a valid one; empty for none.
    pub tag: &'a str,
}

/// A push in a batch.
#[derive(Debug)]
struct Item {
    sequence: Sequence,
    bytes: u32,
    repository: u32,
    /// Who owes it, by number in the batch.
    owing: u32,
    /// Where in the batch's tags its own begins, and its length.
    tag_at: u32,
    tag_bytes: u8,
}

/// Who owed a push at first, as a list's number, and who of them still does.
type Owing = (u32, Unsettled);

/// A batch in the making.
#[derive(Debug, Default)]
struct Gathering {
    items: Vec<Item>,
    tags: String,
    owing: Vec<Owing>,
    by_owing: HashMap<Owing, u32>,
    /// The one that was met last.
    last_owing: u32,
}

/// Pushes that were grouped.
#[derive(Debug)]
struct Batch {
    runs: Vec<Run>,
    items: Vec<Item>,
    tags: String,
}

/// What an [`OwedRun`] is made of.
#[derive(Debug)]
struct Run {
    repository: RepositoryName,
    owed: OwedBy,
    /// How many of the items are its pushes.
    items: usize,
}

impl Notes {
    /// Hands over all that `journal` owes, each repository's pushes in the order of their sequence numbers. For a
    /// start, before the writer runs. Blocks on the disk for pushes without a note, which are few.
    ///
    /// If it is much, one thread groups what this one takes.
    ///
    /// # Errors
    /// See [`HandOverError`]. Something may have been handed over before.
    pub fn hand_over(
        mut self,
        journal: &Journal,
        mut take: impl FnMut(OwedRun<'_>),
    ) -> Result<(), HandOverError> {
        if journal.shared.live().pushes() <= BATCH as u64 {
            // For so few, another thread would take longer to begin.
            let (mut reader, mut after) = (journal.reader(CHUNK_BYTES), None);
            while let Some(batch) = self.group(journal, &mut reader, &mut after)? {
                batch.hand_over(&mut take);
            }
            return Ok(());
        }
        let (sender, batches) = sync_channel(0);
        thread::scope(|scope| {
            let grouping = thread::Builder::new().name("journal-owed".to_owned());
            let grouping = grouping
                .spawn_scoped(scope, move || self.group_all(journal, &sender))
                .map_err(HandOverError::Thread)?;
            for batch in batches {
                batch.hand_over(&mut take);
            }
            match grouping.join() {
                Ok(grouped) => Ok(grouped?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn group_all(&mut self, journal: &Journal, batches: &SyncSender<Batch>) -> Result<(), Unreadable> {
        let (mut reader, mut after) = (journal.reader(CHUNK_BYTES), None);
        while let Some(batch) = self.group(journal, &mut reader, &mut after)? {
            if batches.send(batch).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The pushes that come behind `after`, which is set to the last of them.
    fn group(
        &mut self,
        journal: &Journal,
        reader: &mut Reader,
        after: &mut Option<Sequence>,
    ) -> Result<Option<Batch>, Unreadable> {
        let before = *after;
        let (mut gathering, mut without_note) = (Gathering::default(), Vec::new());
        for push in journal.shared.live().owed_after(before).take(BATCH) {
            *after = Some(push.sequence);
            let push = journal.less_told(push);
            match self.take(push.sequence) {
                Some(note) => gathering.add(push, note),
                None => without_note.push(push),
            }
        }
        for push in without_note {
            let note = |head: &PushHead<'_>| {
                gathering.add(push.clone(), self.names.note(head.addresses()?)?);
                Ok(())
            };
            journal
                .read_one(reader, &mut push.clone(), note)
                .map_err(|error| journal.unreadable(&push, error))?;
        }
        Ok((*after != before).then(|| gathering.finish(&self.names)))
    }
}

impl Gathering {
    /// Adds a push, unless nobody owes it any more.
    fn add(&mut self, push: LivePush, note: Note<'_>) {
        if push.unsettled.count() == 0 {
            return;
        }
        let owing = self.owing((note.owing, push.unsettled));
        // A tag has at most 128 bytes, so all of a batch have far less than 4 GiB.
        let tag_at = u32::try_from(self.tags.len()).unwrap_or(u32::MAX);
        // It was found to be valid, so it is ASCII.
        let tag = std::str::from_utf8(note.tag).unwrap_or_default();
        self.tags.push_str(tag);
        self.items.push(Item {
            sequence: push.sequence,
            bytes: push.standing.bytes,
            repository: note.repository,
            owing,
            tag_at,
            tag_bytes: u8::try_from(tag.len()).unwrap_or_default(),
        });
    }

    fn owing(&mut self, owing: Owing) -> u32 {
        if self.owing.get(self.last_owing as usize) == Some(&owing) {
            return self.last_owing;
        }
        // There are no more of them than items.
        let next = u32::try_from(self.owing.len()).unwrap_or(u32::MAX);
        self.last_owing = *self.by_owing.entry(owing.clone()).or_insert(next);
        if self.last_owing == next {
            self.owing.push(owing);
        }
        self.last_owing
    }

    fn finish(mut self, names: &Names) -> Batch {
        self.items
            // As one number: two of them are compared without a branch.
            .sort_unstable_by_key(|item| u128::from(item.repository) << 64 | u128::from(item.sequence.get()));
        let runs = self
            .items
            .chunk_by(|one, next| (one.repository, one.owing) == (next.repository, next.owing));
        let mut shared = None;
        let runs = runs.filter_map(|run| self.run(run, names, &mut shared)).collect();
        Batch {
            runs,
            items: self.items,
            tags: self.tags,
        }
    }

    /// A run of these items. `shared` is the list that was made last, by number, if it is the same for every
    /// repository.
    fn run(&self, items: &[Item], names: &Names, shared: &mut Option<(u32, OwedBy)>) -> Option<Run> {
        let first = items.first()?;
        let repository = names.name(first.repository)?;
        let owed = match shared {
            Some((number, owed)) if *number == first.owing => Arc::clone(owed),
            _ => {
                let (list, unsettled) = self.owing.get(first.owing as usize)?;
                let all = (0..).zip(names.endpoints(*list, repository));
                let owed: OwedBy = all.filter(|(place, _)| unsettled.contains(*place)).collect();
                let is_same = |(_, id): &(u16, EndpointId)| matches!(id, EndpointId::Named(_));
                *shared = (owed.iter().all(is_same)).then(|| (first.owing, Arc::clone(&owed)));
                owed
            }
        };
        Some(Run {
            owed,
            repository: repository.clone(),
            items: items.len(),
        })
    }
}

impl Batch {
    fn hand_over(&self, take: &mut impl FnMut(OwedRun<'_>)) {
        let (mut rest, mut pushes) = (self.items.as_slice(), Vec::new());
        for run in &self.runs {
            let Some((items, behind)) = rest.split_at_checked(run.items) else {
                return;
            };
            rest = behind;
            pushes.clear();
            pushes.extend(items.iter().map(|item| self.push(item)));
            take(OwedRun {
                repository: &run.repository,
                owed: &run.owed,
                pushes: &pushes,
            });
        }
    }

    fn push(&self, item: &Item) -> OwedPush<'_> {
        let tag_at = item.tag_at as usize;
        OwedPush {
            sequence: item.sequence,
            bytes: item.bytes,
            tag: self
                .tags
                .get(tag_at..tag_at + usize::from(item.tag_bytes))
                .unwrap_or_default(),
        }
    }
}
