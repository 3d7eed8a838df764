//! Going through a whole journal once: what stands in each segment, what is owed, and what is not as it should
//! be. [`super::inspect`], [`super::verify`] and [`super::repair`] each show or use a part of it.

use std::{collections::HashMap, ops::ControlFlow, path::PathBuf};

use super::{
    OpenError,
    chain::{HeaderFault, link},
    frame::{FRAME_HEADER_BYTES, Seed},
    ledger::{Kind, Ledger},
    record::{RawRecord, RecordError},
    scan::Commit,
    segment::{self, FIRST_COMMIT_AT},
    settling::{self, SETTLING},
    survey::{BadKind, Seen, SegmentFile, Survey},
};
use crate::{
    clock::Timestamp,
    push::{Pair, Sequence, Settlement},
};

/// What one segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentFigures {
    /// Its number.
    pub number: u64,
    /// The name of its file.
    pub file: String,
    /// The file's size, bytes.
    pub bytes: u64,
    /// The offset behind its last valid commit.
    pub valid_end: u64,
    /// Valid commits.
    pub commits: u64,
    /// The sequence numbers of the first and the last new push in it.
    pub sequences: Option<(Sequence, Sequence)>,
    /// Records of new pushes.
    pub pushes: u64,
    /// Records of pushes carried forward.
    pub carried: u64,
    /// Records of settlements.
    pub settlements: u64,
    /// Event ids written again, outside of pushes.
    pub event_ids: u64,
    /// Pushes that somebody still owes and whose newest copy stands here.
    pub live: u64,
    /// Event ids that only this segment remembers, of those within the bounds for remembering.
    pub remembered: u64,
    /// When it was begun; not known if its header is not intact.
    pub created_at: Option<Timestamp>,
    /// Bytes within its valid end that can't be read.
    pub bad_bytes: u64,
}

impl SegmentFigures {
    /// Pushes in it that are settled, or carried on to a later segment.
    #[must_use]
    pub fn dead(&self) -> u64 {
        (self.pushes + self.carried).saturating_sub(self.live)
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// How many bytes can't be read for it; 0 if it is not about bytes.
    pub bytes: u64,
    /// What is wrong.
    pub problem: String,
}

/// The newest segment's last commit, if it is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// In which file.
    pub file: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// Its bytes, up to the last one that is not zero.
    pub bytes: u64,
}

/// All that reading tells.
#[derive(Debug, Default)]
pub(super) struct Examined {
    pub(super) segments: Vec<SegmentFigures>,
    pub(super) findings: Vec<Finding>,
    pub(super) torn: Option<Torn>,
    pub(super) ledger: Ledger,
    pub(super) records: u64,
    /// The number of the last commit seen.
    pub(super) last_commit: u64,
    /// Commits that are missing between those seen.
    pub(super) commits_lost: Vec<(u64, u64)>,
    /// Bytes that can't be read behind the last thing that tells what the next sequence number is.
    pub(super) unanchored_bytes: u64,
    /// The settlements in the file of those not yet committed.
    pub(super) settling: Vec<(Pair, Settlement)>,
}

/// How far the reading is: bytes done, and bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Reads everything. Without an identity there is nothing but headers to look at.
///
/// # Errors
/// A file can't be read, or holds records that only a newer version writes.
pub(super) fn examine(survey: &Survey, progress: Progress<'_>) -> Result<Examined, OpenError> {
    let mut examiner = Examiner {
        survey,
        seed: survey.seed,
        found: Examined::default(),
        next_commit: None,
    };
    let oldest = survey.files.iter().find(|file| !survey.is_foreign(file));
    examiner.found.ledger.floor = oldest
        .and_then(|file| file.header)
        .map(|header| header.first_sequence);
    let (mut done, all) = (0, survey.bytes());
    for (index, file) in survey.files.iter().enumerate() {
        examiner.segment(index, file, &mut |bytes| progress(done + bytes, all))?;
        done += file.size;
        progress(done, all);
    }
    if let Some(seed) = survey.seed {
        let read = settling::told(&*survey.storage, seed);
        (examiner.found.settling, _) = read.map_err(|error| survey.directory().failed(SETTLING, error))?;
    }
    examiner.found.count_live(survey);
    Ok(examiner.found)
}

impl Examined {
    fn count_live(&mut self, survey: &Survey) {
        let mut live: HashMap<u64, u64> = HashMap::new();
        for entry in self.ledger.owed.values() {
            *live.entry(entry.standing.segment).or_default() += 1;
        }
        for (figures, file) in self.segments.iter_mut().zip(&survey.files) {
            figures.live = live.get(&file.named).copied().unwrap_or_default();
        }
    }
}

struct Examiner<'a> {
    survey: &'a Survey,
    seed: Option<Seed>,
    found: Examined,
    /// The number that the next commit must have, once that is known.
    next_commit: Option<u64>,
}

impl Examiner<'_> {
    fn finding(&mut self, name: &str, offset: u64, bytes: u64, problem: impl Into<String>) {
        self.found.findings.push(Finding {
            file: self.survey.storage.path(name),
            offset,
            bytes,
            problem: problem.into(),
        });
    }

    fn segment(
        &mut self,
        index: usize,
        file: &SegmentFile,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), OpenError> {
        self.header(index, file);
        let mut figures = SegmentFigures {
            number: file.number,
            file: file.name.clone(),
            bytes: file.size,
            valid_end: FIRST_COMMIT_AT.min(file.size),
            created_at: file.header.map(|header| header.created_at),
            ..SegmentFigures::default()
        };
        let Some(seed) = self.seed.filter(|_| !self.survey.is_foreign(file)) else {
            self.found.unanchored_bytes = self.found.unanchored_bytes.saturating_add(file.size);
            self.found.segments.push(figures);
            return Ok(());
        };
        let mut newer = None;
        let survey = self.survey;
        let end = survey.read(index, seed, &mut |seen| {
            let taken = match seen {
                Seen::Commit(commit) => {
                    progress(commit.end());
                    self.commit(file, seed, &commit, &mut figures)
                }
                Seen::Bad(bad) => {
                    progress(bad.end);
                    let bytes = bad.end - bad.offset;
                    self.found.unanchored_bytes = self.found.unanchored_bytes.saturating_add(bytes);
                    if bad.kind != BadKind::Last {
                        figures.bad_bytes += bytes;
                    }
                    self.bad(file, bad.offset, bad.end, bad.kind);
                    Ok(())
                }
            };
            newer = taken.err();
            if newer.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        figures.valid_end = end.min(file.size);
        self.found.segments.push(figures);
        newer.map_or(Ok(()), Err)
    }

    fn header(&mut self, index: usize, file: &SegmentFile) {
        if let Some(HeaderFault::Damaged { offset, reason }) = file.fault {
            self.finding(&file.name, offset, 0, reason);
        }
        let before = index
            .checked_sub(1)
            .and_then(|index| self.survey.files.get(index));
        let missing = before.map_or(file.number, |before| before.number + 1);
        let Some(header) = file.header else {
            if missing < file.number {
                self.missing(missing);
                let largest = self.survey.files.iter().map(|file| file.size).max();
                let segments = file.number - missing;
                let bytes = segments.saturating_mul(largest.unwrap_or_default());
                self.found.unanchored_bytes = self.found.unanchored_bytes.saturating_add(bytes);
            }
            // What follows is taken as it comes.
            self.next_commit = None;
            self.found.ledger.next = None;
            return;
        };
        if self.survey.is_foreign(file) {
            self.finding(&file.name, 24, 0, "it belongs to another journal");
            return;
        }
        let before = index
            .checked_sub(1)
            .and_then(|index| self.survey.files.get(index));
        let linked = before.and_then(|before| {
            let known = before.header.filter(|_| !self.survey.is_foreign(before))?;
            Some(link(&known, before.size, &header))
        });
        match linked {
            Some(Err(fault)) => self.finding(&fault.file, fault.offset, 0, fault.reason),
            Some(Ok(())) => {
                let first = header.first_sequence.get() - header.passed_over;
                let begins = self.next_commit.is_none_or(|next| next == header.first_commit)
                    && self.found.ledger.next.is_none_or(|next| next.get() == first);
                if !begins {
                    self.finding(
                        &file.name,
                        48,
                        0,
                        "it does not begin where the one before it ends",
                    );
                }
            }
            None if missing < file.number => self.missing(missing),
            None => {}
        }
        self.lose_commits(header.first_commit);
        self.next_commit = Some(header.first_commit);
        self.found.unanchored_bytes = 0;
        self.found.ledger.next = Some(header.first_sequence);
        let first = header.first_sequence.get();
        let passed_over = first - header.passed_over..first;
        self.found.ledger.pass_over(passed_over);
    }

    fn missing(&mut self, number: u64) {
        let name = segment::file_name(number);
        self.finding(&name, 0, 0, "the segment is missing, and there is one after it");
    }

    fn bad(&mut self, file: &SegmentFile, offset: u64, end: u64, kind: BadKind) {
        let problem = match kind {
            BadKind::Followed => {
                format!("this commit is not intact, and there is a valid one after it, at {end}")
            }
            BadKind::Rest => "this commit is not intact".to_owned(),
            BadKind::Last => {
                self.found.torn = Some(Torn {
                    file: self.survey.storage.path(&file.name),
                    offset,
                    bytes: end - offset,
                });
                return;
            }
        };
        self.finding(&file.name, offset, end - offset, problem);
        self.next_commit = None;
        self.found.ledger.next = None;
    }

    /// Takes note of commits that are missing before `next`.
    fn lose_commits(&mut self, next: u64) {
        let last = self.found.last_commit;
        let expected = last.saturating_add(1);
        if last > 0 && next > expected {
            self.found.commits_lost.push((expected, next - 1));
        }
        self.found.last_commit = last.max(next.saturating_sub(1));
    }

    fn commit(
        &mut self,
        file: &SegmentFile,
        seed: Seed,
        commit: &Commit<'_>,
        figures: &mut SegmentFigures,
    ) -> Result<(), OpenError> {
        let offset = commit.payload_at - FRAME_HEADER_BYTES as u64;
        if self.next_commit.is_some_and(|next| next != commit.number) {
            self.finding(&file.name, offset, 0, "commits are missing before this one");
            self.found.ledger.next = None;
        }
        self.lose_commits(commit.number);
        self.next_commit = Some(commit.number.saturating_add(1));
        self.found.last_commit = commit.number;
        figures.commits += 1;
        let mut rest = commit.payload;
        while !rest.is_empty() {
            let offset = commit.end() - rest.len() as u64;
            let taken = RawRecord::split(rest).and_then(|(raw, behind)| {
                rest = behind;
                self.found.ledger.take(seed, file.named, offset, &raw)
            });
            match taken {
                Ok((kind, fault)) => {
                    self.found.records += 1;
                    figures.count(kind);
                    if matches!(kind, Kind::Push(_)) {
                        self.found.unanchored_bytes = 0;
                    }
                    if let Some(fault) = fault {
                        self.finding(&file.name, offset, 0, fault);
                    }
                }
                Err(RecordError::Malformed(reason)) => {
                    self.finding(&file.name, offset, 0, reason);
                    // Where the next one begins is not known if this one has no end.
                    if commit.end() - rest.len() as u64 == offset {
                        break;
                    }
                }
                Err(newer @ RecordError::Newer(_)) => {
                    return Err(self.survey.directory().bad_record(&file.name, (offset, newer)));
                }
            }
        }
        Ok(())
    }
}

impl SegmentFigures {
    fn count(&mut self, kind: Kind) {
        match kind {
            Kind::Push(sequence) => {
                let first = self.sequences.map_or(sequence, |(first, _)| first);
                self.sequences = Some((first, sequence));
                self.pushes += 1;
            }
            Kind::Carried(_) => self.carried += 1,
            Kind::Settled(_) => self.settlements += 1,
            Kind::EventIds(count) => self.event_ids += count,
        }
    }
}
