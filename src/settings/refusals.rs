//! Pushes that their endpoints refused and that wait for their next attempt, so that a restart goes on waiting.

use std::time::Duration;

use rusqlite::{Connection, Row, named_params};

use super::{AccessError, Settings, kept, letters::number, states};
use crate::{
    clock::Timestamp,
    image::RepositoryName,
    journal::JournalId,
    push::{EndpointId, Sequence},
};

/// One such push, of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRefusal {
    /// Its number.
    pub sequence: Sequence,
    /// Who refused it.
    pub endpoint: EndpointId,
    /// Whose push it is.
    pub repository: RepositoryName,
    /// How often it was refused.
    pub failures: u32,
    /// When it was refused last.
    pub at: Timestamp,
    /// How long it waits since then.
    pub wait: Duration,
    /// How the endpoint was set then; `None` when that could not be read.
    pub fingerprint: Option<u16>,
}

/// Whose wait it is.
pub type RefusalKey = (Sequence, EndpointId);

impl Settings {
    /// The refused pushes of this journal, by their numbers. What another journal left is let go of, and so is what
    /// can't be read: that push is sent sooner.
    ///
    /// # Errors
    /// The file can't be read, or written.
    pub fn refusals(&self, journal: JournalId) -> Result<Vec<SavedRefusal>, AccessError> {
        self.write(|connection| {
            let mut odd: Vec<(i64, String)> = Vec::new();
            connection.execute("DELETE FROM refusals WHERE journal <> ?1", [journal.to_string()])?;
            let mut statement = connection.prepare("SELECT * FROM refusals ORDER BY sequence")?;
            let mut rows = statement.query(())?;
            let mut refusals = Vec::new();
            while let Some(row) = rows.next()? {
                match read(row) {
                    Ok(refusal) => refusals.push(refusal),
                    Err(_) => odd.push((row.get("sequence")?, row.get("endpoint")?)),
                }
            }
            for key in odd {
                connection.execute("DELETE FROM refusals WHERE sequence = ?1 AND endpoint = ?2", key)?;
            }
            Ok(refusals)
        })
    }

    /// Saves refused pushes of this journal, or that one waits no longer: all of it, or nothing.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save_refusals(
        &self,
        journal: JournalId,
        refusals: &[(RefusalKey, Option<SavedRefusal>)],
    ) -> Result<(), AccessError> {
        self.write(|connection| {
            for (key, refusal) in refusals {
                put(connection, journal, key, refusal.as_ref())?;
            }
            Ok(())
        })
    }
}

fn put(
    connection: &Connection,
    journal: JournalId,
    (sequence, endpoint): &RefusalKey,
    refusal: Option<&SavedRefusal>,
) -> rusqlite::Result<()> {
    let (sequence, endpoint) = (number(sequence.get()), endpoint.to_string());
    let Some(refusal) = refusal else {
        let delete = "DELETE FROM refusals WHERE sequence = ?1 AND endpoint = ?2";
        connection.prepare_cached(delete)?.execute((sequence, endpoint))?;
        return Ok(());
    };
    let insert = "INSERT OR REPLACE INTO refusals VALUES (:sequence, :endpoint, :journal, :repository, :failures, :at, \
                  :wait, :fingerprint)";
    connection.prepare_cached(insert)?.execute(named_params! {
        ":sequence": sequence,
        ":endpoint": endpoint,
        ":journal": journal.to_string(),
        ":repository": refusal.repository.as_str(),
        ":failures": refusal.failures,
        ":at": refusal.at.unix_millis(),
        ":wait": states::millis(refusal.wait),
        ":fingerprint": refusal.fingerprint,
    })?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<SavedRefusal> {
    let repository = row.get::<_, String>("repository")?;
    Ok(SavedRefusal {
        sequence: kept::sequence(row, "sequence")?,
        endpoint: states::endpoint(&row.get::<_, String>("endpoint")?)?,
        repository: repository.parse().map_err(|_| rusqlite::Error::InvalidQuery)?,
        failures: row.get("failures")?,
        at: Timestamp::from_unix_millis(row.get("at_ms")?),
        wait: states::duration(row.get("wait_ms")?),
        fingerprint: row.get("fingerprint")?,
    })
}
