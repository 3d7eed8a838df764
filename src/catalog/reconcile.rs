//! Finds deliveries that stand as pending and are owed no more: how they ended was told in a last second that was not
//! written down, or left out because more came than could be written.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    ops::Range,
};

use rusqlite::params;

use super::{
    rows::{Origin, number},
    store::{Store, StoreError},
};
use crate::{
    journal::{Journal, Owed},
    push::Sequence,
};

/// Deliveries that are looked at together, and pushes that are read together.
const AT_ONCE: usize = 1000;

/// Tells what is still owed behind a push, in order: at most so many.
pub(super) struct Ledger(Box<Tell>);

type Tell = dyn Fn(Option<Sequence>, usize) -> io::Result<Vec<Owed>> + Send;

impl Ledger {
    /// What the journal says.
    pub(super) fn of(journal: Journal) -> Self {
        Self(Box::new(move |after, count| {
            let owed = journal.owed(after, count).into_iter();
            owed.collect::<Result<_, _>>().map_err(io::Error::other)
        }))
    }

    #[cfg(test)]
    pub(super) fn new(
        tell: impl Fn(Option<Sequence>, usize) -> io::Result<Vec<Owed>> + Send + 'static,
    ) -> Self {
        Self(Box::new(tell))
    }

    /// Who owes these pushes, which are told in order. What lies between them is not looked at.
    fn owing(&self, pushes: impl Iterator<Item = u64>) -> io::Result<HashMap<u64, HashSet<String>>> {
        let mut owing = HashMap::new();
        let mut read: Vec<Owed> = Vec::new();
        for push in pushes {
            if read.last().is_none_or(|newest| newest.sequence.get() < push) {
                read = (self.0)(Sequence::new(push.saturating_sub(1)), AT_ONCE)?;
                if read.is_empty() {
                    break;
                }
            }
            if let Ok(place) = read.binary_search_by_key(&push, |owed| owed.sequence.get())
                && let Some(found) = read.get(place)
            {
                let names = found.owed.iter().map(|(_, endpoint)| endpoint.to_string());
                owing.insert(push, names.collect());
            }
        }
        Ok(owing)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ledger")
    }
}

/// Why nothing could be found.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file can't be used.
    Store(StoreError),
    /// The journal can't be read.
    Ledger(io::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Marks what is pending here and not owed there as `unknown`; how many that were. No journal but this one owes anything.
pub(super) fn reconcile(store: &mut Store, origin: Origin, ledger: &Ledger) -> Result<u64, Failure> {
    let own = origin.first()..origin.end();
    let mut found = forget(store, 0..own.start)? + forget(store, own.end..i64::MAX)?;
    let mut after = own.start;
    loop {
        let sql = "SELECT push, endpoint FROM deliveries \
                   WHERE state = 'pending' AND push > ?1 AND push < ?2 ORDER BY push LIMIT ?3";
        let pending: Vec<(i64, String)> = {
            let mut statement = store.connection.prepare_cached(sql)?;
            let values = params![after, own.end, number(AT_ONCE as u64)];
            let rows = statement.query_map(values, |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<_, _>>()?
        };
        // A push at the chunk's end may have more endpoints: all but that are looked at, and it comes again.
        let (Some((first, _)), Some((last, _))) = (pending.first().cloned(), pending.last().cloned()) else {
            return Ok(found);
        };
        let is_end = pending.len() < AT_ONCE || first == last;
        let until = if is_end { last } else { last - 1 };
        let looked_at = pending
            .iter()
            .map(|(push, _)| *push)
            .filter(|push| *push <= until);
        let owing = ledger
            .owing(looked_at.map(Origin::sequence))
            .map_err(Failure::Ledger)?;
        let begun = store.connection.transaction()?;
        for (push, endpoint) in pending.iter().filter(|(push, _)| *push <= until) {
            let is_owed = |names: &HashSet<String>| names.contains(endpoint);
            if !owing.get(&Origin::sequence(*push)).is_some_and(is_owed) {
                let sql = "UPDATE deliveries SET state = 'unknown', next_at = NULL WHERE push = ?1 AND endpoint = ?2";
                begun.prepare_cached(sql)?.execute(params![push, endpoint])?;
                found += 1;
            }
        }
        begun.commit()?;
        after = until;
    }
}

/// Marks what is pending among these pushes, which nobody owes; how many that were.
fn forget(store: &mut Store, pushes: Range<i64>) -> Result<u64, Failure> {
    let sql = "UPDATE deliveries SET state = 'unknown', next_at = NULL WHERE (push, endpoint) IN (\
               SELECT push, endpoint FROM deliveries WHERE state = 'pending' AND push >= ?1 AND push < ?2 LIMIT ?3)";
    let mut forgotten = 0;
    loop {
        let values = params![pushes.start, pushes.end, number(AT_ONCE as u64)];
        match store.connection.prepare_cached(sql)?.execute(values)? {
            0 => return Ok(forgotten),
            some => forgotten += some as u64,
        }
    }
}
