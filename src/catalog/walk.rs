//! Lists deliveries without a walk through those that are not meant, whatever the filter.
//!
//! The order is that of the pushes' numbers, the newest first. A filter becomes streams: each a search of one index that
//! finds, in that order, nothing but what is meant. Together they are the list, merged.
//!
//! | filtered by | streams |
//! |---|---|
//! | nothing, or a state | one |
//! | an endpoint | one for each state |
//! | one of some repositories | those of each |
//! | a repository | one, of its pushes |
//! | a repository and a state | one for each endpoint that got some |
//! | a repository and an endpoint | one for each state |
//! | two of these and a state | one |
//!
//! A time narrows them to the numbers in which its pushes stand ([`spans`]); at the edges some are looked at that are
//! not of it, at most 1,024 for each time the clock went there or back.

use std::{cmp::Reverse, ops::RangeInclusive};

use rusqlite::{Connection, Row, params, params_from_iter, types::Value};

use super::{
    lists::{Between, DELIVERY_STATES, DeliveryFilter, DeliveryPlace, ListedDelivery},
    reader::{moment, natural},
    spans,
};

/// What is searched, and the condition that has the values of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Push,
    State,
    Endpoint,
    Pushes,
    Repository,
    /// All of it, in a file that has no indexes for it yet: it is brought up to date just now.
    Nothing,
}

impl By {
    fn tables(self) -> &'static str {
        match self {
            Self::Push => "deliveries CROSS JOIN pushes p ON p.id = deliveries.push",
            Self::State => {
                "deliveries INDEXED BY deliveries_by_state CROSS JOIN pushes p ON p.id = deliveries.push"
            }
            Self::Endpoint => {
                "deliveries INDEXED BY deliveries_by_endpoint CROSS JOIN pushes p ON p.id = deliveries.push"
            }
            Self::Pushes => {
                "pushes p INDEXED BY pushes_by_repository CROSS JOIN deliveries ON deliveries.push = p.id"
            }
            Self::Repository => {
                "deliveries INDEXED BY deliveries_by_repository CROSS JOIN pushes p ON p.id = deliveries.push"
            }
            Self::Nothing => "deliveries JOIN pushes p ON p.id = deliveries.push",
        }
    }

    /// With a `?` for each value.
    fn condition(self) -> &'static str {
        match self {
            Self::Push => "",
            Self::State => "deliveries.state = ? AND",
            Self::Endpoint => "deliveries.endpoint = ? AND deliveries.state = ? AND",
            Self::Pushes => "p.repository = ? AND",
            Self::Repository => {
                "deliveries.repository = ? AND deliveries.state = ? AND deliveries.endpoint = ? AND"
            }
            Self::Nothing => {
                "p.repository = ifnull(?, p.repository) AND deliveries.endpoint = ifnull(?, deliveries.endpoint) AND \
                 deliveries.state = ifnull(?, deliveries.state) AND"
            }
        }
    }

    /// The push's number in the table that is read in order.
    fn number(self) -> &'static str {
        match self {
            Self::Pushes => "p.id",
            _ => "deliveries.push",
        }
    }
}

/// A search, by these values.
#[derive(Clone, Debug, PartialEq)]
struct Stream(By, Vec<Value>);

impl Stream {
    fn new<const N: usize>(by: By, values: [&str; N]) -> Self {
        Self(
            by,
            values.into_iter().map(|value| value.to_owned().into()).collect(),
        )
    }
}

/// How a list is read: which streams, of which numbers. What reads them stays the same file throughout.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    connection: &'a Connection,
    /// What [`super::Reader::reason`] says.
    reason: &'static str,
    streams: Vec<Stream>,
    ranges: Vec<RangeInclusive<i64>>,
    /// Of which repositories alone, where no stream sees to that.
    among: Option<Vec<String>>,
    between: Option<Between>,
}

impl<'a> Walk<'a> {
    /// Through what the filter means; `is_indexed` says whether the file has the indexes for it.
    pub(super) fn new(
        connection: &'a Connection,
        reason: &'static str,
        is_indexed: bool,
        filter: &DeliveryFilter,
    ) -> rusqlite::Result<Self> {
        let between = Between::of(filter);
        let all = || vec![0..=i64::MAX];
        let (streams, ranges) = if is_indexed {
            let ranges = between.map_or_else(|| Ok(all()), |between| spans::ranges(connection, between));
            (streams(connection, filter)?, ranges?)
        } else {
            let given = [&filter.repository, &filter.endpoint, &filter.state];
            let values = given.map(|value| value.clone().map_or(Value::Null, Value::Text));
            (vec![Stream(By::Nothing, values.into())], all())
        };
        Ok(Self {
            connection,
            reason,
            streams,
            ranges,
            among: (filter.among.clone()).filter(|_| !is_indexed && filter.repository.is_none()),
            between,
        })
    }

    /// At most `limit` deliveries behind `after`.
    pub(super) fn read(
        &self,
        after: Option<&DeliveryPlace>,
        limit: usize,
    ) -> rusqlite::Result<Vec<ListedDelivery>> {
        let first = DeliveryPlace {
            push: i64::MAX,
            endpoint: String::new(),
        };
        let after = after.unwrap_or(&first);
        let mut found = Vec::new();
        for range in &self.ranges {
            if found.len() == limit {
                break;
            }
            let range = *range.start()..=after.push.min(*range.end());
            if !range.is_empty() {
                self.merge(&range, after, limit, &mut found)?;
            }
        }
        Ok(found)
    }

    /// Adds what all streams have of a range until `limit` are found.
    fn merge(
        &self,
        range: &RangeInclusive<i64>,
        after: &DeliveryPlace,
        limit: usize,
        found: &mut Vec<ListedDelivery>,
    ) -> rusqlite::Result<()> {
        let prepare = |stream: &Stream| self.connection.prepare(&self.sql(stream.0));
        let statements: rusqlite::Result<Vec<_>> = self.streams.iter().map(prepare).collect();
        let mut statements = statements?;
        let mut heads = Vec::with_capacity(statements.len());
        for (statement, stream) in statements.iter_mut().zip(&self.streams) {
            let mut rest =
                statement.query_map(params_from_iter(self.values(stream, range, after)), delivery)?;
            heads.push((rest.next().transpose()?, rest));
        }
        while found.len() < limit {
            // There are few, so they are looked through each time.
            let newest = heads
                .iter_mut()
                .filter_map(|(next, rest)| next.is_some().then_some((next, rest)))
                .min_by(|(a, _), (b, _)| order(a.as_ref()).cmp(&order(b.as_ref())));
            let Some((next, rest)) = newest else {
                break;
            };
            let next = std::mem::replace(next, rest.next().transpose()?);
            let is_meant = |one: &ListedDelivery| {
                let among = self.among.as_ref();
                among.is_none_or(|among| among.contains(&one.repository))
            };
            found.extend(next.filter(is_meant));
        }
        Ok(())
    }

    fn sql(&self, by: By) -> String {
        let (tables, condition, number, reason) = (by.tables(), by.condition(), by.number(), self.reason);
        let time = self
            .between
            .map_or("", |_| "AND p.taken_at >= ? AND p.taken_at < ?");
        // Not `BETWEEN`: SQLite 3.54 looks for no more than its lower bound in an index that it is told to use.
        format!(
            "SELECT deliveries.push, deliveries.endpoint, p.repository, p.tag, p.digest, p.taken_at, \
             deliveries.webhook_id, deliveries.state, deliveries.ended_at, deliveries.next_at, deliveries.attempts, \
             a.status, ifnull({reason}, a.reason) \
             FROM {tables} LEFT JOIN attempts a \
             ON a.push = deliveries.push AND a.endpoint = deliveries.endpoint AND a.number = deliveries.attempts \
             WHERE {condition} {number} >= ? AND {number} <= ? AND ({number} < ? OR deliveries.endpoint > ?) {time} \
             ORDER BY {number} DESC, deliveries.endpoint"
        )
    }

    /// What stands for each `?` of the SQL.
    fn values(&self, stream: &Stream, range: &RangeInclusive<i64>, after: &DeliveryPlace) -> Vec<Value> {
        let mut values = stream.1.clone();
        values.extend([*range.start(), *range.end(), after.push].map(Value::Integer));
        values.push(after.endpoint.clone().into());
        values.extend(
            self.between
                .into_iter()
                .flat_map(|between| [between.since.into(), between.until.into()]),
        );
        values
    }

    /// How SQLite means to find it all: for each search how many values it has, and the steps it takes.
    #[cfg(test)]
    pub(super) fn plans(&self, after: &DeliveryPlace) -> Vec<(usize, Vec<String>)> {
        let plan = |stream: &Stream| -> rusqlite::Result<_> {
            let sql = format!("EXPLAIN QUERY PLAN {}", self.sql(stream.0));
            let values = self.values(stream, &(0..=i64::MAX), after);
            let mut statement = self.connection.prepare(&sql)?;
            let steps = statement.query_map(params_from_iter(values), |row| row.get("detail"))?;
            Ok((stream.1.len(), steps.collect::<Result<_, _>>()?))
        };
        self.streams.iter().map(|stream| plan(stream).unwrap()).collect()
    }
}

/// The searches that together find what is meant, and nothing else, but for the time.
fn streams(connection: &Connection, filter: &DeliveryFilter) -> rusqlite::Result<Vec<Stream>> {
    let state = filter.state.as_deref();
    let states = match &state {
        Some(state) => std::slice::from_ref(state),
        None => &DELIVERY_STATES[..],
    };
    let repositories = match (&filter.repository, &filter.among) {
        (Some(repository), _) => std::slice::from_ref(repository),
        (None, Some(among)) => among,
        (None, None) => {
            return Ok(match filter.endpoint.as_deref() {
                Some(endpoint) => {
                    let stream = |state: &&str| Stream::new(By::Endpoint, [endpoint, state]);
                    states.iter().map(stream).collect()
                }
                None => vec![match state {
                    Some(state) => Stream::new(By::State, [state]),
                    None => Stream::new(By::Push, []),
                }],
            });
        }
    };
    let mut streams = Vec::new();
    for repository in repositories {
        match (filter.endpoint.as_deref(), state) {
            (Some(endpoint), _) => {
                let stream = |state: &&str| Stream::new(By::Repository, [repository, state, endpoint]);
                streams.extend(states.iter().map(stream));
            }
            (None, Some(state)) => {
                let stream = |endpoint: String| Stream::new(By::Repository, [repository, state, &endpoint]);
                streams.extend(endpoints(connection, repository, state)?.into_iter().map(stream));
            }
            (None, None) => streams.push(Stream::new(By::Pushes, [repository])),
        }
    }
    Ok(streams)
}

/// Whose deliveries of a repository are in a state: found by a search for each, of which there are few. An operator
/// has tens of endpoints, and a repository one of its own.
fn endpoints(connection: &Connection, repository: &str, state: &str) -> rusqlite::Result<Vec<String>> {
    let sql = "WITH RECURSIVE found (endpoint) AS ( \
               SELECT min(endpoint) FROM deliveries INDEXED BY deliveries_by_repository \
               WHERE repository = ?1 AND state = ?2 \
               UNION ALL SELECT (SELECT min(d.endpoint) FROM deliveries d INDEXED BY deliveries_by_repository \
               WHERE d.repository = ?1 AND d.state = ?2 AND d.endpoint > found.endpoint) FROM found \
               WHERE found.endpoint IS NOT NULL) \
               SELECT endpoint FROM found WHERE endpoint IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_map(params![repository, state], |row| row.get(0))?
        .collect()
}

/// What a list is ordered by.
fn order(next: Option<&ListedDelivery>) -> Option<(Reverse<i64>, &str)> {
    next.map(|next| (Reverse(next.place.push), &*next.place.endpoint))
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<ListedDelivery> {
    Ok(ListedDelivery {
        place: DeliveryPlace {
            push: row.get(0)?,
            endpoint: row.get(1)?,
        },
        repository: row.get(2)?,
        tag: row.get(3)?,
        digest: row.get(4)?,
        taken_at: moment(row, 5)?,
        webhook_id: row.get(6)?,
        state: row.get(7)?,
        ended_at: moment(row, 8)?,
        next_at: moment(row, 9)?,
        attempts: natural(row, 10)?.unwrap_or_default(),
        status: row.get(11)?,
        reason: row.get(12)?,
    })
}
