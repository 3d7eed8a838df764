//! Repairing a damaged journal: what can still be read of it becomes a new one, under the old identity.
//!
//! Everything that is owed in intact commits, before and behind the damage, is written again as pushes
//! carried forward, with sequence numbers and unsettled pairs as they are; so are the remembered event ids. The
//! old files are moved aside, whole, as `repair-<UTC time>-<name>` in the same directory.
//!
//! # Steps
//! 1. New segments are written whole under a temporary name, synced, and get numbers that follow the newest
//!    old one. They hold everything that the repaired journal is to hold. They are read back and compared with
//!    what was to be written.
//! 2. `settling` is moved aside; what it told is in the new segments.
//! 3. The old segments are moved aside, the oldest first, each durably before the next.
//!
//! The first new segment names no predecessor, so it follows none of the old ones: as long as any of these has
//! its name, a start refuses the journal as damaged. With the last one gone the new segments are the journal.
//!
//! # After a crash
//! The repair can be run again after a crash at any step, and comes to the same result; it knows nothing of the
//! one before. In step 1, all old files are there, and copies in new ones say nothing that the old ones don't.
//! In steps 2 and 3 the new segments are complete: a copy in them overrides older ones, settlements that stood
//! in `settling` are repeated in them, and as old files go from the oldest end, a push is never left without its
//! settlement. If the first step fails, what it made is removed.
//!
//! # Sequence numbers
//! The next push gets a number that no push can have had: behind every number seen anywhere, and, if bytes
//! can't be read after the last one, further by as many pushes as could have stood there. For a `webhook-id` is
//! made of it, and must never mean two images.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Finding, Holder, JournalId, OpenError, Progress, ToolError, Torn,
    examine::{Examined, examine},
    frame::Seed,
    holder, inspect,
    rebuild::{Content, Rebuild},
    recent::{EventKey, Recent},
    segment,
    settling::SETTLING,
    storage::{Disk, Storage},
    survey::Survey,
};
use crate::{
    clock::{Clock, Timestamp},
    push::Sequence,
};

/// Segments, commits and pushes that a repaired journal has room to count, at the least.
const COUNTED_MAX: u64 = 1 << 48;

/// Whether anything is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To repair it: the journal is locked.
    Repair,
    /// To say what a repair would do. Nothing is locked or changed.
    DryRun,
}

/// What becomes of the journal's identity if it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Without it nothing is repaired.
    Keep,
    /// It gets a new one.
    Renew,
}

/// What is wrong with a journal, and what a repair does about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The journal's directory.
    pub directory: PathBuf,
    /// What is damaged. If nothing is, there is nothing to do.
    pub findings: Vec<Finding>,
    /// A last commit that is not whole; by itself it needs no repair, the next start cuts it off.
    pub torn: Option<Torn>,
    /// Numbers of commits that can't be read, as ranges, both ends included.
    pub commits_lost: Vec<(u64, u64)>,
    /// Sequence numbers of pushes that can't be read, as ranges, both ends included. Who owed them, and
    /// whether anybody still did, is lost with them.
    pub pushes_lost: Vec<(u64, u64)>,
    /// How many of these were settled, for one endpoint at least.
    pub settled_of_lost: u64,
    /// How many sequence numbers are left out, because pushes that can't be read may have had them.
    pub skipped: u64,
    /// What the next push gets.
    pub next: Sequence,
    /// Pushes that are still owed and are kept.
    pub owed: u64,
    /// Pairs of such a push and an endpoint that owes it.
    pub pairs: u64,
    /// The first and the last of them.
    pub kept: Option<(Sequence, Sequence)>,
    /// Event ids that stay remembered.
    pub remembered: u64,
    /// Settlements that were told but not committed, and count.
    pub settling: u64,
    /// Whether the identity is lost and a new one is made.
    pub renews_identity: bool,
    /// The files that are moved aside, in this order, with their new names.
    pub moves: Vec<(String, String)>,
}

/// What a repair has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The journal's identity.
    pub identity: JournalId,
    /// The names of the segments written.
    pub segments: Vec<String>,
    /// Bytes of them.
    pub bytes: u64,
}

/// A journal that was looked at in order to repair it.
#[derive(Debug)]
pub struct Repair {
    survey: Survey,
    seed: Option<Seed>,
    identity: JournalId,
    content: Content,
    plan: Plan,
    segment_size: u32,
    clock: Clock,
}

impl Repair {
    /// Looks at the journal in `directory`, and holds its lock from here on if it is to be repaired. Blocks on
    /// the disk: all of it is read, and `progress` is told how far that is. New segments get `segment_size`
    /// bytes, more or less.
    ///
    /// # Errors
    /// See [`ToolError`].
    pub fn open(
        directory: &Path,
        (purpose, identity): (Purpose, Identity),
        segment_size: u32,
        clock: Clock,
        progress: Progress<'_>,
    ) -> Result<Self, ToolError> {
        let reading = inspect::open(directory)?;
        // A directory without a journal is left without a lock.
        inspect::survey(&reading, directory)?;
        let storage: Arc<dyn Storage> = match purpose {
            Purpose::DryRun => match holder::holder(directory) {
                Holder::Process(_) => {
                    let directory = directory.to_owned();
                    return Err(OpenError::Locked { directory }.into());
                }
                Holder::Nobody | Holder::Unknown => reading,
            },
            Purpose::Repair => Arc::new(Disk::open_existing(directory)?),
        };
        Self::of(&storage, directory, identity, segment_size, clock, progress)
    }

    pub(super) fn of(
        storage: &Arc<dyn Storage>,
        directory: &Path,
        identity: Identity,
        segment_size: u32,
        clock: Clock,
        progress: Progress<'_>,
    ) -> Result<Self, ToolError> {
        let survey = inspect::survey(storage, directory)?;
        let examined = examine(&survey, progress)?;
        let new_identity = match (survey.journal, identity) {
            (Some(known), _) => known,
            (None, Identity::Renew) => JournalId(rand::random()),
            (None, Identity::Keep) => {
                let directory = directory.to_owned();
                return Err(ToolError::NoIdentity { directory });
            }
        };
        let now = clock.now();
        let (plan, content) = plan(directory, &survey, examined, now);
        Ok(Self {
            seed: survey.seed,
            survey,
            identity: new_identity,
            content,
            plan,
            segment_size,
            clock,
        })
    }

    /// What is wrong, and what [`Repair::run`] does.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Repairs it, if anything is damaged. Durable when it returns `Ok`.
    ///
    /// # Errors
    /// See [`ToolError`]: the journal is as it was, or the repair can be run again.
    pub fn run(&self) -> Result<Option<Repaired>, ToolError> {
        if self.plan.findings.is_empty() {
            return Ok(None);
        }
        let header = self.header();
        let begun = [header.number, header.first_commit, header.first_sequence.get()];
        if begun
            .iter()
            .any(|count| *count > segment::COUNT_MAX - COUNTED_MAX)
        {
            let reason = "it holds numbers that no journal comes to, and there is none to go on from";
            return Err(ToolError::NotRepaired { reason });
        }
        let mut rebuild = Rebuild::new(&self.survey.storage, header, self.segment_size);
        let written = rebuild
            .write(&self.content, self.seed)
            .map_err(|error| ToolError::from(self.survey.directory().failed("", error)))
            .and_then(|()| rebuild.check(&self.content));
        if let Err(error) = written {
            rebuild.remove();
            return Err(error);
        }
        for (from, to) in &self.plan.moves {
            self.survey
                .storage
                .rename(from, to)
                .and_then(|()| self.survey.storage.sync_dir())
                .map_err(|error| self.survey.directory().failed(from, error))?;
        }
        Ok(Some(Repaired {
            identity: self.identity,
            segments: rebuild.names(),
            bytes: rebuild.bytes(),
        }))
    }

    /// That of the first new segment.
    fn header(&self) -> segment::SegmentHeader {
        segment::SegmentHeader {
            number: newest(&self.survey).saturating_add(1),
            journal: self.identity,
            created_at: self.clock.now(),
            first_sequence: self.plan.next,
            first_commit: self.content.last_commit.saturating_add(1),
            // It follows none of the old ones, and says nothing about where these end.
            predecessor: 0,
            predecessor_end: 0,
            passed_over: 0,
        }
    }
}

/// The highest number that any segment has, by its name or its header.
fn newest(survey: &Survey) -> u64 {
    let numbers = survey.files.iter().map(|file| file.number.max(file.named));
    numbers.max().unwrap_or(0)
}

fn plan(directory: &Path, survey: &Survey, mut examined: Examined, now: Timestamp) -> (Plan, Content) {
    let settling = std::mem::take(&mut examined.settling);
    for (pair, _) in &settling {
        examined.ledger.settle(*pair);
    }
    let ledger = &mut examined.ledger;
    let headers = survey.files.iter().filter(|file| !survey.is_foreign(file));
    let begun = headers
        .filter_map(|file| file.header)
        .map(|header| header.first_sequence.get());
    let known = begun.max().unwrap_or(1).max(ledger.highest.saturating_add(1));
    let skipped = segment::pushes_max(examined.unanchored_bytes);
    let next = Sequence::new(known.saturating_add(skipped)).unwrap_or(Sequence::FIRST);
    let from = ledger.floor.map(Sequence::get).or(ledger.seen.first());
    let pushes_lost = ledger.seen.missing(from.unwrap_or(known), known);
    let is_lost = |sequence: &&Sequence| {
        let number = sequence.get();
        pushes_lost
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&number))
    };
    let settled_of_lost = ledger.settled_unseen.iter().filter(is_lost).count() as u64;
    let recent = Recent::restore(std::mem::take(&mut ledger.ids), now);
    let ids = ids(&recent, survey);
    let plan = Plan {
        directory: directory.to_owned(),
        findings: examined.findings,
        torn: examined.torn,
        commits_lost: examined.commits_lost,
        pushes_lost,
        settled_of_lost,
        skipped,
        next,
        owed: ledger.owed.len() as u64,
        pairs: ledger.pairs(),
        kept: ledger
            .owed
            .keys()
            .next()
            .copied()
            .zip(ledger.owed.keys().next_back().copied()),
        remembered: ids.len() as u64,
        settling: settling.len() as u64,
        renews_identity: survey.journal.is_none(),
        moves: moves(survey, now),
    };
    let content = Content {
        owed: std::mem::take(&mut ledger.owed),
        ids,
        settled: settling,
        last_commit: examined.last_commit,
    };
    (plan, content)
}

/// The remembered ids, oldest first.
fn ids(recent: &Recent, survey: &Survey) -> Vec<(EventKey, Timestamp)> {
    let mut ids: Vec<_> = survey
        .files
        .iter()
        .flat_map(|file| recent.ids_in(file.named))
        .collect();
    ids.sort_by_key(|(_, taken_at)| *taken_at);
    ids
}

fn moves(survey: &Survey, now: Timestamp) -> Vec<(String, String)> {
    let is_taken = |prefix: &str| survey.names.iter().any(|name| name.starts_with(prefix));
    let time: String = now
        .to_string()
        .chars()
        .filter(|character| !matches!(character, '-' | ':'))
        .collect();
    let mut prefix = format!("repair-{time}-");
    let mut count = 1;
    while is_taken(&prefix) {
        count += 1;
        prefix = format!("repair-{time}.{count}-");
    }
    let has_settling = survey.names.iter().any(|name| name == SETTLING);
    let settling = has_settling.then(|| SETTLING.to_owned());
    let segments = survey.files.iter().map(|file| file.name.clone());
    settling
        .into_iter()
        .chain(segments)
        .map(|name| (name.clone(), format!("{prefix}{name}")))
        .collect()
}
