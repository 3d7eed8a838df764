//! How endpoints are, as it is kept.

use std::{collections::HashSet, time::Duration};

use rusqlite::{Connection, Row, named_params};

use super::kept::odd;
use crate::{clock::Timestamp, push::EndpointId};

/// One endpoint's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// Whose it is.
    pub endpoint: EndpointId,
    /// Its name.
    pub state: String,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why, in words, without any secret.
    pub reason: String,
    /// The SHA-256 of the URL that it is about; empty when it is not known.
    pub url_sha256: Vec<u8>,
    /// The failures that made it so, if any did.
    pub streak: Option<SavedStreak>,
    /// When the endpoint was last known to exist.
    pub known_at: Timestamp,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedStreak {
    /// How many count.
    pub failures: u32,
    /// When the first of them ended.
    pub began: Timestamp,
    /// When the last of them ended.
    pub last: Timestamp,
    /// From when on it is waited.
    pub waits_since: Timestamp,
    /// How long; `None` for ever.
    pub wait: Option<Duration>,
}

impl SavedState {
    /// When the next attempt may be made; `None` if any time, or never.
    #[must_use]
    pub fn next_attempt(&self) -> Option<Timestamp> {
        let streak = self.streak?;
        Some(streak.waits_since.after(streak.wait?))
    }
}

pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<SavedState>> {
    let mut statement = connection.prepare("SELECT * FROM endpoint_states")?;
    let rows = statement.query_map((), read)?;
    rows.collect()
}

pub(super) fn put(
    connection: &Connection,
    endpoint: &EndpointId,
    state: Option<&SavedState>,
) -> rusqlite::Result<()> {
    let name = endpoint.to_string();
    let Some(state) = state else {
        connection.execute("DELETE FROM endpoint_states WHERE endpoint = ?1", [name])?;
        return Ok(());
    };
    let streak = state.streak;
    connection.execute(
        "INSERT OR REPLACE INTO endpoint_states VALUES (:endpoint, :state, :since, :reason, :url, :failures,
            :began, :last, :waits_since, :wait, :known_at)",
        named_params! {
            ":endpoint": name,
            ":state": state.state,
            ":since": state.since.unix_millis(),
            ":reason": state.reason,
            ":url": state.url_sha256,
            ":failures": streak.map(|streak| streak.failures),
            ":began": streak.map(|streak| streak.began.unix_millis()),
            ":last": streak.map(|streak| streak.last.unix_millis()),
            ":waits_since": streak.map(|streak| streak.waits_since.unix_millis()),
            ":wait": streak.and_then(|streak| streak.wait).map(millis),
            ":known_at": state.known_at.unix_millis(),
        },
    )?;
    Ok(())
}

pub(super) fn prune(
    connection: &Connection,
    known: &HashSet<EndpointId>,
    now: Timestamp,
    kept: Duration,
    unknown_max: usize,
) -> rusqlite::Result<()> {
    let mut gone = Vec::new();
    for state in all(connection)? {
        if known.contains(&state.endpoint) {
            connection.execute(
                "UPDATE endpoint_states SET known_at_ms = ?1 WHERE endpoint = ?2",
                (now.unix_millis(), state.endpoint.to_string()),
            )?;
        } else {
            gone.push(state);
        }
    }
    gone.sort_by_key(|state| std::cmp::Reverse(state.known_at));
    let is_over =
        |(place, state): &(usize, SavedState)| *place >= unknown_max || now.since(state.known_at) > kept;
    for (_, state) in gone.into_iter().enumerate().filter(is_over) {
        put(connection, &state.endpoint, None)?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<SavedState> {
    let moment = |name: &str| row.get(name).map(Timestamp::from_unix_millis);
    let streak = match row.get::<_, Option<u32>>("failures")? {
        None => None,
        Some(failures) => Some(SavedStreak {
            failures,
            began: moment("began_ms")?,
            last: moment("last_ms")?,
            waits_since: moment("waits_since_ms")?,
            wait: row.get::<_, Option<i64>>("wait_ms")?.map(duration),
        }),
    };
    Ok(SavedState {
        endpoint: endpoint(&row.get::<_, String>("endpoint")?)?,
        state: row.get("state")?,
        since: moment("since_ms")?,
        reason: row.get("reason")?,
        url_sha256: row.get("url_sha256")?,
        streak,
        known_at: moment("known_at_ms")?,
    })
}

/// An endpoint as its `Display` writes it.
pub(super) fn endpoint(text: &str) -> rusqlite::Result<EndpointId> {
    text.parse().map_err(odd)
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// What can't be is nothing.
pub(super) fn duration(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}
