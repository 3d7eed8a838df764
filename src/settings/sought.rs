//! Which letters a filter means, found without looking at all of them.
//!
//! What is asked for exactly, an endpoint, a tag, a repository or a few of them, has an index that ends with the letter's
//! number. Each says which is the newest letter up to some number that it means; the least of these numbers is where they
//! are asked again, until they agree. So as many are looked at as the rarest of what is asked for has, at most, and mostly
//! no more than are wanted.
//!
//! When letters were given up on stands in `letter_spans` for every [`BLOCK`] numbers: the clock may have been set back, so
//! numbers are not in the order of that, but nearly; a block in which there can be none is passed by.

use std::collections::{BinaryHeap, binary_heap::PeekMut};

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{
    AccessError, Settings,
    kept::{ID, REPOSITORY, SELECT, read},
    letter::{KeptLetter, LetterFilter},
};
use crate::{clock::Timestamp, glob::Beginning, image::Tag};

/// Numbers that one row of `letter_spans` is about: `1 << 10`, as its trigger has it.
pub(super) const BLOCK: i64 = 1 << 10;

/// Repositories that a pattern may mean to be looked for by their names. One that means more is likely to mean many letters
/// too.
pub(super) const NAMES_MAX: usize = 1_024;

/// Letters whose repositories' names are looked at to find these, in their index, which has nothing else.
const NAMES_LOOKED_AT_MAX: usize = 300_000;

/// After so many letters of one repository the next name is searched for.
const SAME_MAX: usize = 16;

/// Letters that are read in vain in one go: they have what there is an index for, but not all that is asked for.
pub(super) const IN_VAIN_MAX: u32 = 2_000;

/// How often an index is searched in one go.
const SEARCHES_MAX: u32 = 4_000;

/// Ids that are looked through in one go.
const WINDOW: i64 = 20_000;

/// Ids that are looked through for one page: one for which that is not enough is shorter than it might be. What is in the
/// file may be many times more than can be looked through while somebody waits. A letter that an index leads to takes as
/// long as some of those that are looked at one after the other, and so does a search in an index.
pub(super) const LOOKED_THROUGH_MAX: i64 = 4 * WINDOW;
const LOOKED_UP: i64 = 20;
const SEARCHED: i64 = 5;

/// Something that a letter has to be.
#[derive(Debug)]
enum Criterion {
    /// Has this in a column, by this statement.
    Equal(&'static str, String),
    /// Is of one of these repositories. With each the newest letter of it that is known, or a number that is not below.
    Repositories(BinaryHeap<(i64, String)>),
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
    fn repositories(names: Vec<String>) -> Self {
        Self::Repositories(names.into_iter().map(|name| (i64::MAX, name)).collect())
    }

    /// The newest letter up to that number which fulfils it. None was asked for below that number before. Counts the
    /// searches.
    fn newest(
        &mut self,
        connection: &Connection,
        up_to: i64,
        searches: &mut u32,
    ) -> rusqlite::Result<Option<i64>> {
        match self {
            Self::Equal(sql, value) => {
                *searches += 1;
                newest_of(connection, sql, value, up_to)
            }
            Self::Repositories(newest) => {
                while let Some(mut first) = newest.peek_mut().filter(|first| first.0 > up_to) {
                    *searches += 1;
                    match newest_of(connection, BY_REPOSITORY, &first.1, up_to)? {
                        Some(id) => first.0 = id,
                        None => _ = PeekMut::pop(first),
                    }
                }
                Ok(newest.peek().map(|(id, _)| *id))
            }
            Self::Numbers(numbers) => Ok(numbers.iter().copied().find(|number| *number <= up_to)),
        }
    }
}

/// What is looked for.
#[derive(Debug)]
pub(super) struct Search<'a> {
    filter: &'a LetterFilter,
    criteria: Vec<Criterion>,
    /// The blocks in which there can be some, the newest first; `None` if there can be in any.
    blocks: Option<Vec<i64>>,
}

/// How far a search came.
enum Found {
    /// This is the newest.
    Letter(i64),
    /// There is none any more.
    End,
    /// From this number on it is still to be looked.
    SoFar(i64),
}

impl<'a> Search<'a> {
    pub(super) fn of(connection: &Connection, filter: &'a LetterFilter) -> rusqlite::Result<Self> {
        let mut criteria = Vec::new();
        if !filter.ids.is_empty() {
            let mut numbers = filter.ids.clone();
            numbers.sort_unstable_by(|a, b| b.cmp(a));
            criteria.push(Criterion::Numbers(numbers));
        }
        if let Some(names) = names(connection, filter)? {
            criteria.push(Criterion::repositories(names));
        }
        let endpoint = filter.endpoint.as_ref().map(ToString::to_string);
        criteria.extend(endpoint.map(|endpoint| Criterion::Equal(BY_ENDPOINT, endpoint)));
        let tag = filter.tag.as_ref().map(Tag::as_str);
        criteria.extend(tag.map(|tag| Criterion::Equal(BY_TAG, tag.to_owned())));
        let is_timed = filter.since.is_some() || filter.until.is_some();
        let blocks = is_timed.then(|| blocks(connection, filter)).transpose()?;
        Ok(Self {
            filter,
            criteria,
            blocks,
        })
    }

    /// Whether there is an index for anything that is asked for.
    fn is_exact(&self) -> bool {
        !self.criteria.is_empty()
    }

    /// The numbers below that one, the newest and the oldest, between which there can be some, without gaps.
    fn stretch(&self, before: i64) -> Option<(i64, i64)> {
        let newest = newest_in_time(self.blocks.as_deref(), before.saturating_sub(1))?;
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
    fn newest(&mut self, connection: &Connection, up_to: i64, searches: &mut u32) -> rusqlite::Result<Found> {
        let (mut at, mut agreeing) = (up_to, 0);
        let in_time = |number| newest_in_time(self.blocks.as_deref(), number);
        let all = self.criteria.len();
        for index in (0..all).cycle() {
            let Some(criterion) = self.criteria.get_mut(index).filter(|_| agreeing < all) else {
                break;
            };
            if *searches >= SEARCHES_MAX {
                return Ok(Found::SoFar(at));
            }
            let Some(up_to) = in_time(at) else {
                return Ok(Found::End);
            };
            let Some(newest) = criterion.newest(connection, up_to, searches)? else {
                return Ok(Found::End);
            };
            agreeing = if in_time(newest) != Some(newest) {
                0
            } else if newest == at {
                agreeing + 1
            } else {
                1
            };
            at = newest;
        }
        Ok(Found::Letter(at))
    }
}

/// The newest number up to this one where there can be some, by when they were given up on.
fn newest_in_time(blocks: Option<&[i64]>, up_to: i64) -> Option<i64> {
    let Some(blocks) = blocks else {
        return Some(up_to);
    };
    let behind = blocks.partition_point(|block| block * BLOCK > up_to);
    let block = *blocks.get(behind)?;
    Some(up_to.min((block + 1) * BLOCK - 1))
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

/// The repositories that are meant, of those that have letters; `None` if that is not asked for, they are many, or were not
/// found soon.
fn names(connection: &Connection, filter: &LetterFilter) -> rusqlite::Result<Option<Vec<String>>> {
    let Some(beginnings) = filter.beginnings() else {
        return Ok(None);
    };
    let (mut names, mut left) = (Vec::new(), NAMES_LOOKED_AT_MAX);
    for Beginning { text, is_whole } in beginnings {
        if !is_whole {
            if !add_names(connection, filter, &text, &mut names, &mut left)? {
                return Ok(None);
            }
        } else if filter.is_repository_meant(&text) {
            names.push(text);
        }
        if names.len() > NAMES_MAX {
            return Ok(None);
        }
    }
    Ok(Some(names))
}

/// Adds the names that are meant and begin with that; whether these are all of them. `left` is how many letters may still be
/// looked at.
fn add_names(
    connection: &Connection,
    filter: &LetterFilter,
    beginning: &str,
    names: &mut Vec<String>,
    left: &mut usize,
) -> rusqlite::Result<bool> {
    let sql = "SELECT repository FROM dead_letters INDEXED BY dead_letters_by_repository WHERE repository >= ?1 \
               ORDER BY repository";
    let mut statement = connection.prepare_cached(sql)?;
    let (mut last, mut from) = (String::new(), beginning.to_owned());
    loop {
        let (mut rows, mut same) = (statement.query([&from])?, 0);
        loop {
            let Some(row) = rows.next()? else {
                return Ok(true);
            };
            if *left == 0 {
                return Ok(false);
            }
            *left -= 1;
            // Not a text: whoever looks through all of them passes it over.
            let Ok(name) = row.get_ref(0)?.as_str() else {
                return Ok(false);
            };
            if !name.starts_with(beginning) {
                return Ok(true);
            }
            if name != last {
                same = 0;
                name.clone_into(&mut last);
                if filter.is_repository_meant(name) {
                    names.push(name.to_owned());
                    if names.len() > NAMES_MAX {
                        return Ok(false);
                    }
                }
            } else if same == SAME_MAX {
                break;
            } else {
                same += 1;
            }
        }
        // The least that is more.
        from = format!("{last}\0");
    }
}

impl Settings {
    /// Letters that are meant, newest first, of those before that number: at most `limit`, as far as that comes in one go.
    pub(super) fn look_for(
        &self,
        search: &mut Search<'_>,
        before: i64,
        limit: usize,
    ) -> Result<Go, AccessError> {
        if search.is_exact() {
            self.searched(search, before, limit)
        } else {
            self.window(search, before, limit)
        }
    }

    /// Those found one by one.
    fn searched(&self, search: &mut Search<'_>, before: i64, limit: usize) -> Result<Go, AccessError> {
        let connection = self.connection();
        let begun = connection.unchecked_transaction()?;
        let mut statement = begun.prepare_cached(&format!("{SELECT} WHERE l.id = ?1"))?;
        let (mut found, mut reached, mut searches, mut in_vain) = (Vec::new(), before, 0, 0);
        while found.len() < limit && in_vain < IN_VAIN_MAX {
            match search.newest(&begun, reached.saturating_sub(1), &mut searches)? {
                Found::End => {
                    reached = i64::MIN;
                    break;
                }
                Found::SoFar(at) => {
                    reached = at.saturating_add(1);
                    break;
                }
                Found::Letter(id) => reached = id,
            }
            let read_if_meant = |row: &Row<'_>| {
                if search.filter.is_repository_meant(repository(row)?) {
                    read(row).map(Some)
                } else {
                    Ok(None)
                }
            };
            // One of a number that was asked for may be gone.
            let kept = statement.query_row([reached], read_if_meant).optional();
            let kept = self.0.odd.pass_over(reached, kept)?.flatten().flatten();
            match kept.filter(|kept| is_meant(search.filter, kept)) {
                Some(kept) => found.push(kept),
                None => in_vain += 1,
            }
        }
        let looked = i64::from(in_vain) * LOOKED_UP + i64::from(searches) * SEARCHED;
        Ok(Go {
            found,
            reached,
            looked,
        })
    }

    /// Those within one window.
    fn window(&self, search: &Search<'_>, before: i64, limit: usize) -> Result<Go, AccessError> {
        let connection = self.connection();
        let Some((newest, oldest)) = search.stretch(before) else {
            return Ok(Go::END);
        };
        let newest: Option<i64> = connection
            .prepare_cached("SELECT max(id) FROM dead_letters WHERE id <= ?1")?
            .query_row([newest], |row| row.get(0))?;
        let Some(newest) = newest else {
            return Ok(Go::END);
        };
        let lowest = newest.saturating_sub(WINDOW).max(oldest.saturating_sub(1));
        let sql = format!(
            "{SELECT} WHERE l.id <= :newest AND l.id > :lowest \
             AND l.died_ms >= :since AND l.died_ms < :until ORDER BY l.id DESC"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(named_params! {
            ":newest": newest,
            ":lowest": lowest,
            ":since": search.filter.since.map_or(i64::MIN, Timestamp::unix_millis),
            ":until": search.filter.until.map_or(i64::MAX, Timestamp::unix_millis),
        })?;
        let (mut found, mut reached) = (Vec::new(), lowest.saturating_add(1));
        while let Some(row) = rows.next()? {
            if !search.filter.is_repository_meant(repository(row)?) {
                continue;
            }
            let id = row.get(ID)?;
            found.extend(self.0.odd.pass_over(id, read(row))?);
            if found.len() >= limit {
                reached = id;
                break;
            }
        }
        Ok(Go {
            found,
            reached,
            looked: newest.saturating_sub(reached),
        })
    }
}

/// What came of looking for letters in one go.
pub(super) struct Go {
    pub(super) found: Vec<KeptLetter>,
    /// Those of this number and above were looked at.
    pub(super) reached: i64,
    /// How much that was, in letters that are looked at one after the other.
    pub(super) looked: i64,
}

impl Go {
    /// There is nothing more.
    const END: Self = Self {
        found: Vec::new(),
        reached: i64::MIN,
        looked: 0,
    };
}

/// Whether a letter is all of what no index was asked for.
fn is_meant(filter: &LetterFilter, kept: &KeptLetter) -> bool {
    let letter = &kept.letter;
    filter.is_repository_meant(letter.repository.as_str())
        && filter.since.is_none_or(|since| letter.died_at >= since)
        && filter.until.is_none_or(|until| letter.died_at < until)
        && filter
            .endpoint
            .as_ref()
            .is_none_or(|endpoint| *endpoint == letter.endpoint)
        && filter
            .tag
            .as_ref()
            .is_none_or(|tag| Some(tag) == letter.tag.as_ref())
}

/// The repository of a row; empty if it is no text, which whoever reads the whole letter is told.
fn repository<'a>(row: &'a Row<'_>) -> rusqlite::Result<&'a str> {
    Ok(row.get_ref(REPOSITORY)?.as_str().unwrap_or_default())
}
