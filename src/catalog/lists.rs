//! Lists of what is known, page by page, newest or first name first.

use std::{cmp::Reverse, ops::ControlFlow};

use rusqlite::{Connection, OptionalExtension, Row, ToSql};

use super::{
    DeliveryStory, PushStory,
    reader::{ReadError, Reader, TEXTS_MAX, deliveries, moment, natural},
    walk::Walk,
};
use crate::{
    clock::Timestamp,
    glob::{Beginning, Seen},
    journal::JournalId,
};

/// Names that are looked at to find those of the repositories that may be seen.
const NAMES_LOOKED_AT_MAX: usize = 200_000;

/// The states of deliveries; `unknown` when it was not written down how one ended.
pub const DELIVERY_STATES: [&str; 5] = ["pending", "delivered", "superseded", "dead_letter", "unknown"];

/// Which deliveries are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Of this repository.
    pub repository: Option<String>,
    /// Of one of these repositories, if it is not asked for one alone: see [`Reader::names`].
    pub among: Option<Vec<String>>,
    /// For this endpoint.
    pub endpoint: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// Of pushes that were taken then or later.
    pub since: Option<Timestamp>,
    /// Of pushes that were taken before.
    pub until: Option<Timestamp>,
}

/// Of pushes that were taken then or later, and before: milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Between {
    pub(super) since: i64,
    pub(super) until: i64,
}

impl Between {
    /// What a filter says of the time; `None` if nothing.
    pub(super) fn of(filter: &DeliveryFilter) -> Option<Self> {
        let is_any = filter.since.is_none() && filter.until.is_none();
        (!is_any).then_some(Self {
            since: filter.since.map_or(i64::MIN, Timestamp::unix_millis),
            until: filter.until.map_or(i64::MAX, Timestamp::unix_millis),
        })
    }
}

/// A place in the list of deliveries: of the push before, and of the endpoint behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryPlace {
    /// The push.
    pub push: i64,
    /// The endpoint.
    pub endpoint: String,
}

/// A delivery in a list: without its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDelivery {
    /// Where it stands.
    pub place: DeliveryPlace,
    /// Where it was pushed.
    pub repository: String,
    /// By which tag; empty when by digest.
    pub tag: String,
    /// What was pushed, if that was written down.
    pub digest: Option<String>,
    /// When, if that was written down.
    pub taken_at: Option<Timestamp>,
    /// Its `webhook-id`.
    pub webhook_id: String,
    /// `pending`, `delivered`, `superseded`, `dead_letter`, or `unknown`.
    pub state: String,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The earliest moment of the next attempt.
    pub next_at: Option<Timestamp>,
    /// How many attempts there were.
    pub attempts: u64,
    /// What was answered to the last attempt, if anything was.
    pub status: Option<u16>,
    /// Why it was given up, or else what went wrong with the last attempt, if anything did.
    pub reason: Option<String>,
}

/// In which order repositories are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepositoryOrder {
    /// By name.
    #[default]
    Name,
    /// Those that were pushed to last, first.
    LastPush,
    /// The largest first.
    Size,
}

/// A repository that was pushed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedRepository {
    /// Its name.
    pub name: String,
    /// When it was last pushed to.
    pub last_push_at: Option<Timestamp>,
    /// By which tag; empty when by digest.
    pub last_tag: String,
    /// How many pushes were taken.
    pub pushes: u64,
    /// Bytes, as was last found: for a webhook, or after a change that none tells of; `None` while it is not known.
    pub size: Option<u64>,
    /// When that was.
    pub sized_at: Option<Timestamp>,
}

/// What a list begins behind: the value it is ordered by, and the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryPlace {
    /// The value; 0 in the order of names.
    pub value: i64,
    /// The name.
    pub name: String,
}

impl ListedRepository {
    /// Where it stands in this order.
    #[must_use]
    pub fn place(&self, order: RepositoryOrder) -> RepositoryPlace {
        let number = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        RepositoryPlace {
            value: match order {
                RepositoryOrder::Name => 0,
                RepositoryOrder::LastPush => self.last_push_at.map_or(-1, Timestamp::unix_millis),
                RepositoryOrder::Size => self.size.map_or(-1, number),
            },
            name: self.name.clone(),
        }
    }
}

impl Reader {
    /// Deliveries that the filter lets through, the newest push first: at most `limit`, behind `after`.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<&DeliveryPlace>,
        limit: usize,
    ) -> Result<Vec<ListedDelivery>, ReadError> {
        let read = || {
            // One state of the file throughout.
            let begun = self.connection().unchecked_transaction()?;
            Walk::new(&begun, self.reason(), self.is_indexed(), filter)?.read(after, limit)
        };
        read().map_err(|error| self.explain(&error))
    }

    /// The repositories that may be seen, of those that are known; `None` if they are more than `most`, are not found
    /// soon, or the file has no indexes for lists of their deliveries.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn names(&self, seen: &Seen, most: usize) -> Result<Option<Vec<String>>, ReadError> {
        if !self.is_indexed() {
            return Ok(None);
        }
        let read = || names(self.connection(), seen, most);
        read().map_err(|error| self.explain(&error))
    }

    /// The delivery of that `webhook-id` with the push it is about, which has no other.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn delivery_of(&self, webhook_id: &str) -> Result<Option<(PushStory, DeliveryStory)>, ReadError> {
        let read = || -> rusqlite::Result<_> {
            let Some(mut push) = super::reader::push_of(self.connection(), webhook_id)? else {
                return Ok(None);
            };
            let is_meant = |delivery: &DeliveryStory| delivery.webhook_id == webhook_id;
            let (reason, mut room) = (self.reason(), TEXTS_MAX);
            let found = deliveries(self.connection(), push.id, reason, &mut room, is_meant)?;
            push.deliveries.clear();
            Ok(found.into_iter().next().map(|delivery| (push, delivery)))
        };
        read().map_err(|error| self.explain(&error))
    }

    /// The sequence number of a push, by the push's number here.
    #[must_use]
    pub fn sequence(push: i64) -> u64 {
        super::rows::Origin::sequence(push)
    }

    /// Which of the journals here took a push, by the push's number.
    #[must_use]
    pub fn journal_number(push: i64) -> i64 {
        super::rows::Origin::journal_of(push)
    }

    /// The journal that took a push, by the push's number here.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn journal_of(&self, push: i64) -> Result<Option<JournalId>, ReadError> {
        let sql = "SELECT identity FROM journals WHERE number = ?1";
        let number = super::rows::Origin::journal_of(push);
        let identity = self
            .connection()
            .query_row(sql, [number], |row| row.get::<_, String>(0));
        let identity = identity.optional().map_err(|error| self.explain(&error))?;
        Ok(identity.as_deref().and_then(JournalId::parse))
    }

    /// Hands over repositories that were pushed to and have `part` in their names: at most `limit`, behind `after`, until
    /// `take` has enough.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn repositories(
        &self,
        part: &str,
        order: RepositoryOrder,
        after: Option<&RepositoryPlace>,
        limit: usize,
        mut take: impl FnMut(ListedRepository) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        // What is looked for is found by going through the names, and sorted. Going through the index of the order reads
        // as many entries, which lie anywhere in the file. A `+` keeps SQLite from that.
        let way = if part.is_empty() { "" } else { "+" };
        let by_value = |value: &str| {
            let value = format!("{way}ifnull({value}, -1)");
            (
                format!("({value} < ?3 OR ({value} = ?3 AND name > ?2))"),
                format!("{value} DESC, name"),
            )
        };
        let (behind, by) = match order {
            RepositoryOrder::Name => ("name > ?2 AND ?3 IS NOT NULL".to_owned(), "name".to_owned()),
            RepositoryOrder::LastPush => by_value("last_push_at"),
            RepositoryOrder::Size => by_value("size"),
        };
        let sql = format!(
            "SELECT name, last_push_at, last_tag, pushes, size, sized_at FROM repositories \
             WHERE instr(name, ?1) AND {behind} ORDER BY {by} LIMIT ?4"
        );
        let first = RepositoryPlace {
            value: i64::MAX,
            name: String::new(),
        };
        let after = after.unwrap_or(&first);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection().prepare(&sql)?;
            let values: [&dyn ToSql; 4] = [&part, &after.name, &after.value, &limit];
            for repository in statement.query_map(values, repository)? {
                if take(repository?).is_break() {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|error| self.explain(&error))
    }

    /// Those of the named repositories that were pushed to and have `part` in their names, behind `after`, in this order.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn repositories_among(
        &self,
        names: &[String],
        part: &str,
        order: RepositoryOrder,
        after: Option<&RepositoryPlace>,
    ) -> Result<Vec<ListedRepository>, ReadError> {
        let rank = |place: RepositoryPlace| (Reverse(place.value), place.name);
        let after = after.map(|after| rank(after.clone()));
        let mut among = Vec::new();
        for name in names.iter().filter(|name| name.contains(part)) {
            among.extend(self.repository(name)?);
        }
        among.retain(|listed| {
            after
                .as_ref()
                .is_none_or(|after| rank(listed.place(order)) > *after)
        });
        among.sort_by_cached_key(|listed| rank(listed.place(order)));
        Ok(among)
    }

    /// One repository, if it was pushed to.
    ///
    /// # Errors
    /// The file is damaged or can't be read.
    pub fn repository(&self, name: &str) -> Result<Option<ListedRepository>, ReadError> {
        let sql =
            "SELECT name, last_push_at, last_tag, pushes, size, sized_at FROM repositories WHERE name = ?1";
        let read = || {
            let mut statement = self.connection().prepare_cached(sql)?;
            statement.query_row([name], repository).optional()
        };
        read().map_err(|error| self.explain(&error))
    }
}

/// What [`Reader::names`] finds.
fn names(connection: &Connection, seen: &Seen, most: usize) -> rusqlite::Result<Option<Vec<String>>> {
    let sql = "SELECT name FROM repositories WHERE name >= ?1 ORDER BY name";
    let mut statement = connection.prepare_cached(sql)?;
    let (mut names, mut left) = (Vec::new(), NAMES_LOOKED_AT_MAX);
    for Beginning { text, is_whole } in seen.beginnings() {
        if is_whole {
            names.push(text);
        } else {
            let mut rows = statement.query([&text])?;
            while let Some(row) = rows.next()? {
                let name = row.get_ref(0)?.as_str()?;
                if !name.starts_with(&text) {
                    break;
                }
                if left == 0 {
                    return Ok(None);
                }
                left -= 1;
                if seen.is_match(name) {
                    names.push(name.to_owned());
                }
                if names.len() > most {
                    return Ok(None);
                }
            }
        }
    }
    Ok((names.len() <= most).then_some(names))
}

fn repository(row: &Row<'_>) -> rusqlite::Result<ListedRepository> {
    Ok(ListedRepository {
        name: row.get(0)?,
        last_push_at: moment(row, 1)?,
        last_tag: row.get(2)?,
        pushes: natural(row, 3)?.unwrap_or_default(),
        size: natural(row, 4)?,
        sized_at: moment(row, 5)?,
    })
}
