//! Handing over what is owed at a start, as the queues take it: one repository after the other.

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    panic::resume_unwind,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    vec::IntoIter,
};

use super::{
    Journal, Notes, TOGETHER, Unreadable,
    delivered::Delivered,
    live::{Live, LivePush},
    notes::{self, Gathered, Group, Names, Note},
    reader::Reader,
    record::{PushHead, RecordError},
    scan::CHUNK_BYTES,
    unsettled::Unsettled,
};
use crate::{
    image::RepositoryName,
    locked::Locked as _,
    push::{EndpointId, Sequence},
};

/// Pushes that are handed over by one thread: another would take longer to begin.
const ALONE_MAX: u64 = 10_000;

/// Pushes that are handed over at once, at most.
const RUN_MAX: usize = 4_096;

/// Pushes without a note that are looked up at once.
const WITHOUT_NOTE: usize = 64 * 1024;

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
    /// Whether those who owe them were delivered newer ones of this repository: these had been given up before, and are
    /// not to be sent.
    pub is_overtaken: bool,
    /// Whether nothing more of this repository follows.
    pub is_last: bool,
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

/// The notes of some repositories.
struct Share {
    /// Which of the groups it is.
    place: u32,
    /// Of pushes that were carried forward, which are older than all others.
    carried: Group,
    new: Group,
}

/// What is left to be handed over, for several threads to take from.
struct Shares<'a> {
    journal: &'a Journal,
    live: &'a Live,
    names: &'a Names,
    delivered: &'a Delivered,
    left: Mutex<IntoIter<Share>>,
    /// What others handed over than the thread that made the notes, which lets go of them: else its allocator would keep
    /// their memory.
    done: Mutex<Vec<Share>>,
    /// How many pushes were met that are owed.
    met: AtomicU64,
}

/// Who owed a push at first, as a list's number, and who of them still does.
type Owing = (u32, Unsettled);

/// A list that was made for some pushes, for whom it holds.
struct Made {
    owing: Owing,
    is_overtaken: bool,
    /// `None` if it is the same for every repository.
    repository: Option<u32>,
    owed: OwedBy,
}

impl Notes {
    /// Hands over all that `journal` owes: each repository's pushes in the order of their sequence numbers, one
    /// repository after the other. For a start, before the writer runs. Blocks on the disk for pushes without a note,
    /// which are few.
    ///
    /// If it is much, there is a thread for each of `takers`, of whom there must be one, and what is of one repository goes
    /// to one of them. `take` must ask nothing of the journal, whose index is held meanwhile.
    ///
    /// # Errors
    /// A push that is owed can't be read. Nothing was handed over then.
    pub fn hand_over<T: Send>(
        mut self,
        journal: &Journal,
        takers: &mut [T],
        take: impl Fn(&mut T, OwedRun<'_>) + Sync,
    ) -> Result<(), Unreadable> {
        let carried = self.carried(journal)?.into_groups();
        let new = mem::take(&mut self.new).into_groups();
        let shares = (0..).zip(carried.zip(new));
        let shares = shares.map(|(place, (carried, new))| Share { place, carried, new });
        let shares: Vec<Share> = shares.collect();
        let live = journal.shared.live();
        let shares = Shares {
            journal,
            live: &live,
            names: &self.names,
            delivered: &self.delivered,
            left: Mutex::new(shares.into_iter()),
            done: Mutex::default(),
            met: AtomicU64::new(0),
        };
        let Some((first, others)) = takers.split_first_mut() else {
            return Ok(());
        };
        let others = if live.pushes() > ALONE_MAX {
            others
        } else {
            &mut []
        };
        thread::scope(|scope| {
            let spawn = |taker| {
                let thread = thread::Builder::new().name("journal-owed".to_owned());
                let (shares, take) = (&shares, &take);
                // Without it the others have more to do.
                thread
                    .spawn_scoped(scope, move || {
                        shares.hand_over(taker, take, |share| lock(&shares.done).push(share));
                    })
                    .ok()
            };
            let others: Vec<_> = others.iter_mut().filter_map(spawn).collect();
            shares.hand_over(first, &take, |_| lock(&shares.done).clear());
            for other in others {
                if let Err(panic) = other.join() {
                    resume_unwind(panic);
                }
            }
        });
        let (met, owed) = (shares.met.into_inner(), live.pushes());
        if met != owed {
            tracing::error!(
                met,
                owed,
                "not all that the journal owes was handed over; a restart reads it again"
            );
            debug_assert!(false, "every push has a note");
        }
        Ok(())
    }

    /// Notes of the pushes that have none: they are read where they stand.
    fn carried(&mut self, journal: &Journal) -> Result<Gathered, Unreadable> {
        let (mut reader, mut after) = (journal.reader(CHUNK_BYTES), None);
        let (mut carried, mut bytes) = (Gathered::default(), Vec::new());
        loop {
            let is_carried = |push: &LivePush| self.first.is_none_or(|first| push.sequence < first);
            let pushes: Vec<LivePush> = {
                let live = journal.shared.live();
                let pushes = live.owed_after(after).take_while(is_carried);
                pushes.take(WITHOUT_NOTE).collect()
            };
            let Some(last) = pushes.last() else { break };
            after = Some(last.sequence);
            for push in pushes {
                let note = |head: &PushHead<'_>| {
                    let (repository, note) = self.names.note(head.addresses()?)?;
                    carried.add(repository, push.sequence, note, &mut bytes);
                    Ok(())
                };
                self::read(journal, &mut reader, &push, note)?;
            }
        }
        // What is wrong with these comes out.
        for sequence in mem::take(&mut self.without) {
            let push = journal.shared.live().find(sequence);
            if let Some(push) = push {
                let note = |head: &PushHead<'_>| self.names.note(head.addresses()?).map(drop);
                self::read(journal, &mut reader, &push, note)?;
                return Err(journal.unreadable(&push, io::ErrorKind::InvalidData.into()));
            }
        }
        Ok(carried)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.locked()
}

/// Reads a push where it stands.
fn read(
    journal: &Journal,
    reader: &mut Reader,
    push: &LivePush,
    take: impl FnMut(&PushHead<'_>) -> Result<(), RecordError>,
) -> Result<(), Unreadable> {
    let read = journal.read_one(reader, &mut push.clone(), take);
    read.map_err(|error| journal.unreadable(push, error))
}

impl Shares<'_> {
    /// Hands over what others don't. `done` gets what is handed over.
    fn hand_over<T>(&self, taker: &mut T, take: &impl Fn(&mut T, OwedRun<'_>), mut done: impl FnMut(Share)) {
        let (mut made, mut carried, mut new) = (None, Vec::new(), Vec::new());
        let next = || lock(&self.left).next();
        while let Some(share) = next() {
            for (number, repository) in Group::numbers(share.place, [&share.carried, &share.new]) {
                share.carried.copy(number, &mut carried);
                share.new.copy(number, &mut new);
                let notes = notes::all(&carried).chain(notes::all(&new));
                self.hand_over_one(repository, &new, notes, &mut made, |run| take(taker, run));
            }
            done(share);
        }
    }

    /// Hands over what is owed of one repository's pushes, of which there are these notes; some are `new`. `made` is the
    /// list that was made last.
    fn hand_over_one<'a>(
        &self,
        number: u32,
        new: &[u8],
        notes: impl Iterator<Item = (Sequence, Note<'a>)>,
        made: &mut Option<Made>,
        mut take: impl FnMut(OwedRun<'_>),
    ) {
        let Some(repository) = self.names.name(number) else {
            return;
        };
        let newest = (self.delivered).newest(notes::all(new), self.names, repository);
        let last = newest.values().max().copied();
        let (mut pushes, mut met) = (Vec::new(), 0);
        let mut flush = |pushes: &mut Vec<OwedPush<'_>>, made: &Option<Made>, is_last| {
            if let Some(Made {
                owed, is_overtaken, ..
            }) = made.as_ref().filter(|_| !pushes.is_empty())
            {
                take(OwedRun {
                    repository,
                    owed,
                    pushes,
                    is_overtaken: *is_overtaken,
                    is_last,
                });
            }
            pushes.clear();
        };
        for (note, push) in found(notes, self.live) {
            let sequence = push.sequence;
            met += 1;
            let push = self.journal.less_told(push);
            let (overtaken, owed) = if last.is_none_or(|last| sequence > last) {
                (None, push.unsettled)
            } else {
                self.part(sequence, note, push.unsettled, &newest, repository)
            };
            let overtaken = overtaken.map(|overtaken| (overtaken, true));
            for (unsettled, is_overtaken) in overtaken.into_iter().chain([(owed, false)]) {
                if unsettled.count() == 0 {
                    continue;
                }
                let owing = (note.owing, unsettled);
                let holds = |made: &Made| {
                    let is_for = made.repository.is_none_or(|its| its == number);
                    is_for && made.owing == owing && made.is_overtaken == is_overtaken
                };
                let is_made = made.as_ref().is_some_and(holds);
                if !is_made || pushes.len() == RUN_MAX {
                    flush(&mut pushes, made, false);
                }
                if !is_made {
                    *made = Some(self.make(owing, is_overtaken, number, repository));
                }
                pushes.push(OwedPush {
                    sequence,
                    bytes: push.standing.bytes,
                    // It was found to be valid, so it is ASCII.
                    tag: std::str::from_utf8(note.tag).unwrap_or_default(),
                });
            }
        }
        flush(&mut pushes, made, true);
        self.met.fetch_add(met, Ordering::Relaxed);
    }

    /// Of those who owe a push: who was delivered a newer one, if anybody was, and who was not.
    fn part(
        &self,
        sequence: Sequence,
        note: Note<'_>,
        unsettled: Unsettled,
        newest: &HashMap<EndpointId, Sequence>,
        repository: &RepositoryName,
    ) -> (Option<Unsettled>, Unsettled) {
        let (mut overtaken, mut others) = (unsettled.clone(), unsettled);
        for (place, endpoint) in (0..).zip(self.names.endpoints(note.owing, repository)) {
            if newest.get(&endpoint).is_some_and(|newest| *newest > sequence) {
                others.settle(place);
            } else {
                overtaken.settle(place);
            }
        }
        (Some(overtaken).filter(|overtaken| overtaken.count() > 0), others)
    }

    fn make(&self, owing: Owing, is_overtaken: bool, number: u32, repository: &RepositoryName) -> Made {
        let (list, unsettled) = &owing;
        let all = (0..).zip(self.names.endpoints(*list, repository));
        let owed: OwedBy = all.filter(|(place, _)| unsettled.contains(*place)).collect();
        let is_own = |(_, id): &(u16, EndpointId)| matches!(id, EndpointId::Repository(_));
        Made {
            repository: owed.iter().any(is_own).then_some(number),
            owing,
            is_overtaken,
            owed,
        }
    }
}

/// Those of the noted pushes that are owed still.
fn found<'a>(
    mut notes: impl Iterator<Item = (Sequence, Note<'a>)>,
    live: &Live,
) -> impl Iterator<Item = (Note<'a>, LivePush)> {
    let (mut live, mut found) = (live.in_order(), VecDeque::with_capacity(TOGETHER));
    let mut next = Vec::with_capacity(TOGETHER);
    let looked_up = std::iter::from_fn(move || {
        if found.is_empty() {
            next.clear();
            next.extend(notes.by_ref().take(TOGETHER));
            let pushes = live.find_all(next.iter().map(|(sequence, _)| *sequence));
            found.extend(next.iter().map(|(_, note)| *note).zip(pushes));
        }
        found.pop_front()
    });
    looked_up.filter_map(|(note, push)| Some((note, push?)))
}
