//! Which letters a filter means, found without looking at all of them.
//!
//! What is asked for exactly, an endpoint, a tag, a repository or a few of them, has an index that ends with the letter's
//! number. Each says which is the newest letter up to some number that it means; the least of these numbers is where they
//! are asked again, until they agree. So as many are looked at as the rarest of what is asked for has, at most, and mostly
//! no more than are wanted.
//!
//! When letters were given up on stands in `letter_spans` for every [`BLOCK`] numbers: the clock may have been set back, so
//! numbers are not in the order of that, but nearly; a block in which there can be none is passed by.

use rusqlite::{Connection, OptionalExtension, params};

use super::letter::LetterFilter;
use crate::{clock::Timestamp, image::Tag};

/// Numbers that one row of `letter_spans` is about: `1 << 10`, as its trigger has it.
pub(super) const BLOCK: i64 = 1 << 10;

/// Repositories that a pattern may mean to be looked for one by one, and how many names are looked at to find them. One that
/// means more is likely to mean many letters too.
const NAMES_MAX: usize = 32;
const LOOKED_AT_MAX: usize = 512;

/// Letters that are read in vain in one go: they have what there is an index for, but not all that is asked for.
pub(super) const IN_VAIN_MAX: u32 = 2_000;

/// How often an index is searched in one go.
const SEARCHES_MAX: u32 = 4_000;

/// Something that a letter has to be.
#[derive(Debug)]
enum Criterion {
    /// Has this in a column, by this statement.
    Equal(&'static str, String),
    /// Is of one of these repositories.
    Repositories(Vec<String>),
    /// Has one of these numbers, the largest first.
    Numbers(Vec<i64>),
}

const BY_ENDPOINT: &str = "SELECT id FROM dead_letters INDEXED BY dead_letters_by_endpoint WHERE endpoint = ?1 AND id <= ?2 \
                           ORDER BY id DESC LIMIT 1";
const BY_TAG: &str = "SELECT id FROM dead_letters INDEXED BY dead_letters_by_tag WHERE tag = ?1 AND id <= ?2 \
                      ORDER BY id DESC LIMIT 1";
const BY_REPOSITORY: &str = "SELECT id FROM dead_letters INDEXED BY dead_letters_by_repository WHERE repository = ?1 AND \
                             id <= ?2 ORDER BY id DESC LIMIT 1";

fn newest_of(connection: &Connection, sql: &str, value: &str, up_to: i64) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_row(params![value, up_to], |row| row.get(0))
        .optional()
}

impl Criterion {
    /// The newest letter up to that number which fulfils it.
    fn newest(&self, connection: &Connection, up_to: i64) -> rusqlite::Result<Option<i64>> {
        match self {
            Self::Equal(sql, value) => newest_of(connection, sql, value, up_to),
            Self::Repositories(names) => {
                let mut newest = None;
                for name in names {
                    newest = newest.max(newest_of(connection, BY_REPOSITORY, name, up_to)?);
                }
                Ok(newest)
            }
            Self::Numbers(numbers) => Ok(numbers.iter().copied().find(|number| *number <= up_to)),
        }
    }

    fn searches(&self) -> u32 {
        match self {
            Self::Equal(..) => 1,
            Self::Repositories(names) => u32::try_from(names.len()).unwrap_or(u32::MAX),
            Self::Numbers(_) => 0,
        }
    }
}

/// What is looked for.
#[derive(Debug)]
pub(super) struct Search {
    criteria: Vec<Criterion>,
    /// The blocks in which there can be some, the newest first; `None` if there can be in any.
    blocks: Option<Vec<i64>>,
}

/// How far a search came.
pub(super) enum Found {
    /// This is the newest.
    Letter(i64),
    /// There is none any more.
    End,
    /// From this number on it is still to be looked.
    SoFar(i64),
}

impl Search {
    pub(super) fn of(connection: &Connection, filter: &LetterFilter) -> rusqlite::Result<Self> {
        let mut criteria = Vec::new();
        if !filter.ids.is_empty() {
            let mut numbers = filter.ids.clone();
            numbers.sort_unstable_by(|a, b| b.cmp(a));
            criteria.push(Criterion::Numbers(numbers));
        }
        if let Some(glob) = &filter.repository
            && let Some(names) = names(connection, glob)?
        {
            criteria.push(Criterion::Repositories(names));
        }
        let endpoint = filter.endpoint.as_ref().map(ToString::to_string);
        criteria.extend(endpoint.map(|endpoint| Criterion::Equal(BY_ENDPOINT, endpoint)));
        let tag = filter.tag.as_ref().map(Tag::as_str);
        criteria.extend(tag.map(|tag| Criterion::Equal(BY_TAG, tag.to_owned())));
        let is_timed = filter.since.is_some() || filter.until.is_some();
        let blocks = is_timed.then(|| blocks(connection, filter)).transpose()?;
        Ok(Self { criteria, blocks })
    }

    /// Whether there is an index for anything that is asked for.
    pub(super) fn is_exact(&self) -> bool {
        !self.criteria.is_empty()
    }

    /// The newest number up to this one where there can be some, by when they were given up on.
    fn newest_in_time(&self, up_to: i64) -> Option<i64> {
        let Some(blocks) = &self.blocks else {
            return Some(up_to);
        };
        let behind = blocks.partition_point(|block| block * BLOCK > up_to);
        let block = *blocks.get(behind)?;
        Some(up_to.min((block + 1) * BLOCK - 1))
    }

    /// The numbers below that one, the newest and the oldest, between which there can be some, without gaps.
    pub(super) fn stretch(&self, before: i64) -> Option<(i64, i64)> {
        let newest = self.newest_in_time(before.saturating_sub(1))?;
        let Some(blocks) = &self.blocks else {
            return Some((newest, i64::MIN));
        };
        let begin = blocks.partition_point(|block| block * BLOCK > newest);
        let mut oldest = *blocks.get(begin)?;
        for block in blocks.iter().skip(begin + 1) {
            if *block != oldest - 1 {
                break;
            }
            oldest = *block;
        }
        Some((newest, oldest * BLOCK))
    }

    /// The newest letter up to that number on which all that is asked for agrees; `searches` is how often one may search.
    pub(super) fn newest(
        &self,
        connection: &Connection,
        up_to: i64,
        searches: &mut u32,
    ) -> rusqlite::Result<Found> {
        let mut at = up_to;
        loop {
            let begun = at;
            match self.newest_in_time(at) {
                Some(newest) => at = newest,
                None => return Ok(Found::End),
            }
            for criterion in &self.criteria {
                *searches = searches.saturating_add(criterion.searches());
                match criterion.newest(connection, at)? {
                    Some(newest) => at = newest,
                    None => return Ok(Found::End),
                }
            }
            if at == begun {
                return Ok(Found::Letter(at));
            }
            if *searches >= SEARCHES_MAX {
                return Ok(Found::SoFar(at));
            }
        }
    }
}

/// The blocks that have letters of the time that is asked for, the newest first.
fn blocks(connection: &Connection, filter: &LetterFilter) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT block FROM letter_spans WHERE last_ms >= ?1 AND first_ms < ?2 ORDER BY block DESC";
    let mut statement = connection.prepare_cached(sql)?;
    let since = filter.since.map_or(i64::MIN, Timestamp::unix_millis);
    let until = filter.until.map_or(i64::MAX, Timestamp::unix_millis);
    let blocks = statement.query_map(params![since, until], |row| row.get(0))?;
    blocks.collect()
}

/// The repositories that a pattern means, of those that have letters; `None` if they are many, or were not found soon.
fn names(connection: &Connection, glob: &globset::GlobMatcher) -> rusqlite::Result<Option<Vec<String>>> {
    let pattern = glob.glob().glob();
    let Some(end) = pattern.find(['*', '?', '[', ']', '{', '}', '\\']) else {
        return Ok(Some(vec![pattern.to_owned()]));
    };
    let begin = pattern.get(..end).unwrap_or_default();
    let sql = "SELECT repository FROM dead_letters INDEXED BY dead_letters_by_repository WHERE repository >= ?1 \
               ORDER BY repository LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let (mut names, mut from) = (Vec::new(), begin.to_owned());
    for _ in 0..LOOKED_AT_MAX {
        let next = statement.query_row([&from], |row| {
            Ok(row.get_ref(0)?.as_str().ok().map(str::to_owned))
        });
        let next = match next.optional()? {
            // Not a text: whoever looks through all of them passes it over.
            Some(None) => return Ok(None),
            next => next.flatten(),
        };
        let Some(name) = next.filter(|name| name.starts_with(begin)) else {
            return Ok(Some(names));
        };
        // The least that is more.
        from = format!("{name}\0");
        if glob.is_match(&name) {
            names.push(name);
            if names.len() > NAMES_MAX {
                return Ok(None);
            }
        }
    }
    Ok(None)
}
