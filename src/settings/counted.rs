//! How many letters a filter means, told by the indexes: no letter is read for it.
//!
//! What is asked for is asked of one index after another, and what each says is narrowed down by the next. One that can't be
//! read counts as well, as far as the indexes have it.

use rusqlite::{OptionalExtension, params};

use super::{AccessError, Settings, letter::LetterFilter};
use crate::{clock::Timestamp, glob::Beginning, image::Tag};

/// Entries of an index that are looked at in one go: others have the file in between.
const LOOKED_AT_ONCE: usize = 50_000;

/// How many letters are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetterCount {
    /// All of them.
    pub letters: u64,
    /// Those that are not to be sent again.
    pub dead: u64,
}

/// The numbers of the letters that are meant, as far as that was asked for; in order. `None` means all.
type Meant = Option<Vec<i64>>;

impl Settings {
    /// How many letters are meant.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn count_letters(&self, filter: &LetterFilter) -> Result<LetterCount, AccessError> {
        let mut meant: Meant = None;
        if !filter.ids.is_empty() {
            meant = narrowed(meant.as_deref(), |take| self.each_numbered(&filter.ids, take))?;
        }
        if let Some(beginnings) = filter.beginnings() {
            meant = narrowed(meant.as_deref(), |take| {
                let mut each = beginnings.iter();
                each.try_for_each(|beginning| self.each_that_begins(beginning, filter, take))
            })?;
        } else {
            let endpoint = filter.endpoint.as_ref().map(ToString::to_string);
            let tag = filter.tag.as_ref().map(Tag::as_str);
            for (sql, value) in [(BY_ENDPOINT, endpoint.as_deref()), (BY_TAG, tag)] {
                if let Some(value) = value {
                    meant = narrowed(meant.as_deref(), |take| self.each_equal(sql, value, take))?;
                }
            }
        }
        if filter.since.is_some() || filter.until.is_some() {
            meant = narrowed(meant.as_deref(), |take| self.each_of_time(filter, take))?;
        }
        let Some(meant) = meant else {
            let stats = self.letter_stats();
            return Ok(LetterCount {
                letters: stats.letters,
                dead: stats.letters.saturating_sub(stats.replaying),
            });
        };
        let mut replaying = 0;
        self.each_replaying(&mut |id| replaying += u64::from(meant.binary_search(&id).is_ok()))?;
        let letters = meant.len() as u64;
        Ok(LetterCount {
            letters,
            dead: letters.saturating_sub(replaying),
        })
    }

    /// Those of these numbers that there are.
    fn each_numbered(&self, ids: &[i64], take: &mut dyn FnMut(i64)) -> Result<(), AccessError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached("SELECT id FROM dead_letters WHERE id = ?1")?;
        for id in ids {
            let there: Option<i64> = statement.query_row([id], |row| row.get(0)).optional()?;
            there.into_iter().for_each(&mut *take);
        }
        Ok(())
    }

    /// Those that have this in a column, by this statement.
    fn each_equal(&self, sql: &str, value: &str, take: &mut dyn FnMut(i64)) -> Result<(), AccessError> {
        let mut last = i64::MIN;
        loop {
            let connection = self.connection();
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![value, last, at_once()])?;
            let mut looked = 0;
            while let Some(row) = rows.next()? {
                last = row.get(0)?;
                looked += 1;
                take(last);
            }
            if looked < LOOKED_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Those of the repositories that are meant and begin so, of the tag and for the endpoint, too, if these are asked for.
    fn each_that_begins(
        &self,
        beginning: &Beginning,
        filter: &LetterFilter,
        take: &mut dyn FnMut(i64),
    ) -> Result<(), AccessError> {
        let sql = "SELECT repository, id FROM dead_letters INDEXED BY dead_letters_by_image \
                   WHERE repository >= ?1 AND repository < ?2 AND (?3 IS NULL OR endpoint = ?3) AND (?4 IS NULL OR tag = ?4) \
                   ORDER BY repository";
        let endpoint = filter.endpoint.as_ref().map(ToString::to_string);
        let tag = filter.tag.as_ref().map(Tag::as_str);
        let text = &beginning.text;
        // The least that is more, or what is more than all that begin so: names have but ASCII.
        let end = format!("{text}{}", if beginning.is_whole { '\0' } else { char::MAX });
        let (mut name, mut is_its, mut from) = (String::new(), filter.is_repository_meant(""), text.clone());
        loop {
            let connection = self.connection();
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![from, end, endpoint, tag])?;
            let mut looked = 0;
            loop {
                let Some(row) = rows.next()? else {
                    return Ok(());
                };
                let next = row.get_ref(0)?.as_str().unwrap_or_default();
                if next != name {
                    if looked >= LOOKED_AT_ONCE {
                        break;
                    }
                    next.clone_into(&mut name);
                    is_its = filter.is_repository_meant(next);
                }
                looked += 1;
                if is_its {
                    take(row.get(1)?);
                }
            }
            from = format!("{name}\0");
        }
    }

    /// Those that were given up on within the time that is meant.
    fn each_of_time(&self, filter: &LetterFilter, take: &mut dyn FnMut(i64)) -> Result<(), AccessError> {
        let sql = "SELECT died_ms, id FROM dead_letters INDEXED BY dead_letters_by_time \
                   WHERE died_ms >= ?1 AND (died_ms, id) > (?1, ?2) AND died_ms < ?3 ORDER BY died_ms, id LIMIT ?4";
        let mut at = filter.since.map_or(i64::MIN, Timestamp::unix_millis);
        let until = filter.until.map_or(i64::MAX, Timestamp::unix_millis);
        let mut last = i64::MIN;
        loop {
            let connection = self.connection();
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![at, last, until, at_once()])?;
            let mut looked = 0;
            while let Some(row) = rows.next()? {
                (at, last) = (row.get(0)?, row.get(1)?);
                looked += 1;
                take(last);
            }
            if looked < LOOKED_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Those that are to be sent again.
    fn each_replaying(&self, take: &mut dyn FnMut(i64)) -> Result<(), AccessError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached("SELECT letter FROM replays")?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            take(row.get(0)?);
        }
        Ok(())
    }
}

const BY_ENDPOINT: &str = "SELECT id FROM dead_letters INDEXED BY dead_letters_by_endpoint WHERE endpoint = ?1 AND id > ?2 \
                           ORDER BY id LIMIT ?3";
const BY_TAG: &str = "SELECT id FROM dead_letters INDEXED BY dead_letters_by_tag WHERE tag = ?1 AND id > ?2 \
                      ORDER BY id LIMIT ?3";

fn at_once() -> i64 {
    super::letters::count(LOOKED_AT_ONCE)
}

/// Of those that are meant so far, the ones that are taken now, each once.
fn narrowed(
    meant: Option<&[i64]>,
    walk: impl FnOnce(&mut dyn FnMut(i64)) -> Result<(), AccessError>,
) -> Result<Meant, AccessError> {
    let mut taken = Vec::new();
    walk(&mut |id| taken.push(id))?;
    taken.sort_unstable();
    taken.dedup();
    if let Some(meant) = meant {
        let mut meant = meant.iter().peekable();
        taken.retain(|id| {
            while meant.next_if(|next| *next < id).is_some() {}
            meant.peek() == Some(&id)
        });
    }
    Ok(Some(taken))
}
